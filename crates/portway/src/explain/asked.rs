//! The request that `portway explain` is asked about, as a client would send it.

use std::net::Ipv4Addr;

use http::{Method, Uri};
use portway_proxy::fault::FaultKind;
use portway_proxy::http::{Authority, Headers, RequestHead, Scheme, Version, path};

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
        (!address).then(|| host.to_ascii_lowercase())
    }

    /// The head that the gateway reads.
    pub(super) fn head(&self) -> Result<RequestHead, Answer> {
        let refuse = |why: String| Answer::fault(FaultKind::BadRequest, why);
        let scheme = match self.url.scheme_str() {
            Some("https") => Scheme::Https,
            _ => Scheme::Http,
        };
        let mut host =
            self.url.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        let mut headers = Headers::default();
        for (name, value) in &self.headers {
            if is_host(name) {
                host.clone_from(value);
            } else {
                headers.append(name.to_lowercase(), value.clone());
            }
        }
        let authority = Authority::parse(host.clone().into())
            .map_err(|_| refuse(format!("{host:?} is no host (RFC 3986 section 3.2)")))?;
        let target = self.url.path_and_query().map_or("/", |target| target.as_str());
        let target = path::normalise(&target.to_owned().into())
            .map_err(|_| refuse(format!("the path of {target:?} is malformed or leads out of the root")))?;
        Ok(RequestHead {
            method: self.method.clone(),
            scheme,
            authority,
            target,
            version: Version::Http11,
            headers,
        })
    }
}

fn is_host(header: &str) -> bool {
    header.eq_ignore_ascii_case("host")
}
