//! The request that `portway explain` is asked about, as a client would send it.

use std::net::{Ipv4Addr, SocketAddr};

use http::uri::{Authority, PathAndQuery};
use http::{Method, Uri};
use portway_proxy::http::filters::ForwardingHeaders;
use portway_proxy::http::{Connection, RequestHead, Scheme, h1};

use super::story::Answer;

/// The request that is asked about.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) url: Uri,
    pub(super) headers: Vec<(String, String)>,
    /// The TLS server name, where it is not that of the URL.
    pub(super) server_name: Option<String>,
}

impl Asked {
    /// The request after a redirect: whose host is that of its URL.
    pub(super) fn redirected(&self, url: Uri) -> Self {
        let headers = self.headers.iter().filter(|(name, _)| !is_host(name)).cloned().collect();
        Self { method: self.method.clone(), url, headers, server_name: None }
    }

    /// The server name that a client sends: that of the URL, whatever `Host` it is told to send, and none for an
    /// address (RFC 6066 section 3).
    pub(super) fn server_name(&self) -> Option<String> {
        if self.server_name.is_some() {
            return self.server_name.clone();
        }
        let host = self.url.host()?;
        let address = host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
        // Clients leave out the dot that ends a name (RFC 6066 section 3).
        (!address).then(|| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
    }

    /// The head that the gateway reads: that of the request as a client writes it, read by the proxy's own
    /// parser, with the headers that the gateway sets before it matches.
    pub(super) fn head(&self, port: u16) -> Result<RequestHead, Answer> {
        let scheme = match self.url.scheme_str() {
            Some("https") => Scheme::Https,
            _ => Scheme::Http,
        };
        // What stands before an `@` is told in `Authorization`, if at all.
        let authority = self.url.authority().map(Authority::as_str).unwrap_or_default();
        let mut host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let mut lines = String::new();
        for (name, value) in &self.headers {
            match is_host(name) {
                true => host = value,
                false => lines += &format!("{name}: {value}\r\n"),
            }
        }
        let target = match self.url.path_and_query().map(PathAndQuery::as_str) {
            None | Some("") => "/",
            Some(target) => target,
        };
        let text = format!("{} {target} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n", self.method);
        let mut head = h1::read_head(text, scheme).map_err(|(kind, why)| Answer::fault(kind, why))?;
        // Of the client only its address is made up.
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        ForwardingHeaders::default().apply(&mut head, &Connection::new(peer, peer, port));
        Ok(head)
    }
}

fn is_host(header: &str) -> bool {
    header.eq_ignore_ascii_case("host")
}
