//! Requests and responses between an engine and the rest of the proxy.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Body, Headers, Taken};
use crate::observe::Exchange;

/// A request as an engine has read it.
pub struct Request {
    /// Everything before the body. Boxed, since it is handed on many times.
    pub head: Box<RequestHead>,
    /// The body. Reading it is what sends `100 Continue` to a client that waits for it.
    pub body: Body,
    /// The protocol that the client asks to switch to (`websocket`), if it may (RFC 9110 section 7.8).
    pub upgrade: Option<Bytes>,
    /// The client waits for `100 Continue` before it sends the body (RFC 9110 section 10.1.1).
    pub expects_continue: bool,
    /// Sends a 1xx response other than 100 and 101 ahead of the final one; `None` where the client's
    /// version of HTTP has none (RFC 9110 section 15.2).
    pub informational: Option<Informational>,
    /// The connection that it came on.
    pub connection: Rc<Connection>,
}

/// Sends an interim response.
pub type Informational = Rc<dyn Fn(ResponseHead)>;

/// What is known of a client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The client's address.
    pub peer: SocketAddr,
    /// The address that the client reached.
    pub local: SocketAddr,
    /// The listener's port as the plan has it; differs from `local` where ports are mapped.
    pub port: u16,
    /// TLS, if it ended here.
    pub tls: Option<TlsInfo>,
    /// What the client has taken of what was written, where that is not seen from above: below TLS.
    pub taken: Option<Taken>,
    /// The client's IP address as text: each of its requests needs it.
    client: Box<str>,
}

impl Connection {
    /// A connection without TLS.
    pub fn new(peer: SocketAddr, local: SocketAddr, port: u16) -> Self {
        let client = peer.ip().to_canonical().to_string().into();
        Self { peer, local, port, tls: None, taken: None, client }
    }

    /// The client's IP address: an IPv4 address also where the socket shows it as an IPv6 one.
    pub fn client(&self) -> &str {
        &self.client
    }
}

/// What the handshake said.
#[derive(Debug)]
pub struct TlsInfo {
    /// The server name that the client asked for, lower case.
    pub server_name: Option<Arc<str>>,
}

/// The part of a request before its body. `Host`, framing and hop-by-hop fields are not among its headers:
/// the engine has taken them in, and the engine of the other side writes its own (RFC 9110 section 7.6.1).
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// `http` or `https`.
    pub scheme: Scheme,
    /// The host asked for.
    pub authority: Authority,
    /// Path and query, normalised: what is matched is what is filtered and sent.
    pub target: Target,
    /// The version in which it came.
    pub version: Version,
    /// End-to-end fields. `TE` remains if it has `trailers`, reduced to that.
    pub headers: Headers,
}

/// The URI scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text; port 80 by default.
    Http,
    /// TLS; port 443 by default.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// 80 or 443.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The version of HTTP on the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// As access logs have it: `HTTP/1.1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
        }
    }
}

/// The authority of a request: `Host` or `:authority`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// As received, ASCII; empty when HTTP/1.0 named none.
    text: ByteString,
    /// The host as in the text, without port and trailing dot.
    host_len: usize,
    /// The host in lower case, where that is not how it came.
    lower: Option<Box<str>>,
    /// The port, if it was given.
    port: Option<u16>,
}

/// What a character is in the host of an authority that is not an IPv6 address.
#[derive(Clone, Copy)]
enum Class {
    Plain,
    Upper,
    /// Ends the host.
    Colon,
    Bad,
}

static HOST: [Class; 256] = {
    let mut table = [Class::Bad; 256];
    let mut byte = 0;
    while byte < 0x80 {
        table[byte as usize] = match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Class::Plain,
            b'A'..=b'Z' => Class::Upper,
            b':' => Class::Colon,
            _ => Class::Bad,
        };
        byte += 1;
    }
    table
};

/// An authority that is none: userinfo, a bad port, a character that no host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidAuthority;

impl Authority {
    /// Reads `host[:port]` (RFC 3986 section 3.2 without userinfo).
    ///
    /// # Errors
    /// On anything else.
    pub fn parse(text: Bytes) -> Result<Self, InvalidAuthority> {
        let bytes: &[u8] = &text;
        let mut upper = false;
        let (host_len, port) = if bytes.first() == Some(&b'[') {
            let end = bytes.iter().position(|b| *b == b']').ok_or(InvalidAuthority)?;
            let inside = std::str::from_utf8(&bytes[1..end]).map_err(|_| InvalidAuthority)?;
            inside.parse::<std::net::Ipv6Addr>().map_err(|_| InvalidAuthority)?;
            upper = inside.bytes().any(|b| b.is_ascii_uppercase());
            (end + 1, &bytes[end + 1..])
        } else {
            let mut end = 0;
            for byte in bytes {
                match HOST[usize::from(*byte)] {
                    Class::Plain => {}
                    Class::Upper => upper = true,
                    Class::Colon => break,
                    Class::Bad => return Err(InvalidAuthority),
                }
                end += 1;
            }
            if (end == 0 && !bytes.is_empty()) || end > 255 {
                return Err(InvalidAuthority);
            }
            (end, &bytes[end..])
        };
        let port = match port {
            [] => None,
            [b':'] => None,
            [b':', digits @ ..] if digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) => {
                let number = digits.iter().fold(0u32, |n, d| n * 10 + u32::from(d - b'0'));
                Some(u16::try_from(number).map_err(|_| InvalidAuthority)?)
            }
            _ => return Err(InvalidAuthority),
        };
        let host_len = if host_len > 1 && bytes[host_len - 1] == b'.' { host_len - 1 } else { host_len };
        let text = ByteString::try_from(text).map_err(|_| InvalidAuthority)?;
        let lower = upper.then(|| text[..host_len].to_ascii_lowercase().into());
        Ok(Self { text, host_len, lower, port })
    }

    /// As received, or as a filter has set it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As received, as bytes that can be kept.
    pub fn text(&self) -> &Bytes {
        self.text.as_bytes()
    }

    /// The host: lower case, no port, no trailing dot.
    #[inline]
    pub fn host(&self) -> &str {
        match &self.lower {
            Some(host) => host,
            None => &self.text[..self.host_len],
        }
    }

    /// The port, if it was given.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

/// Path and query of a request, in origin form (RFC 9112 section 3.2.1), or `*`. Valid ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: ByteString,
    path_len: usize,
}

impl Target {
    /// Splits at the first `?`. The caller has validated and normalised the text (see `http::path`).
    pub fn new(text: Bytes) -> Self {
        let path_len = memchr::memchr(b'?', &text).unwrap_or(text.len());
        Self { text: ByteString::try_from(text).unwrap_or_default(), path_len }
    }

    /// Path and query.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Path and query, as bytes that can be kept.
    pub fn text(&self) -> &Bytes {
        self.text.as_bytes()
    }

    /// The path.
    #[inline]
    pub fn path(&self) -> &str {
        self.text.get(..self.path_len).unwrap_or_default()
    }

    /// The query, without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_len + 1..)
    }
}

/// A response on its way to the client.
pub struct Response {
    /// Everything before the body.
    pub head: ResponseHead,
    /// The body.
    pub body: Body,
    /// With status 101: the backend's side of the tunnel. The engine copies both ways until one side ends.
    pub tunnel: Option<Box<dyn Tunnel>>,
    /// Where the engine reports how it went; dropped when the response has been sent or given up.
    pub exchange: Option<Box<Exchange>>,
}

/// The part of a response before its body. Framing and hop-by-hop fields are not among its headers, save
/// that `Content-Length` of a response to HEAD or of a 304 stays: it describes what is not sent
/// (RFC 9110 section 8.6).
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// End-to-end fields.
    pub headers: Headers,
}

impl ResponseHead {
    /// Whether no response of this status has a body (RFC 9110 section 6.4.1); those to HEAD have none either.
    pub fn is_bodiless(&self) -> bool {
        matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }
}

impl Response {
    /// A response of the gateway's own.
    pub fn new(status: StatusCode, body: Body) -> Self {
        Self {
            head: ResponseHead { status, headers: Headers::default() },
            body,
            tunnel: None,
            exchange: None,
        }
    }
}

/// A byte stream both ways.
pub trait Tunnel: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Tunnel for T {}

/// Answers requests; what the engines of the client's side call.
pub trait Handler {
    /// Answers one request. Dropping the future gives the request up (the client has gone away).
    fn handle(&self, request: Request) -> impl Future<Output = Response>;
}

impl<H: Handler> Handler for &H {
    fn handle(&self, request: Request) -> impl Future<Output = Response> {
        (**self).handle(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_is_strict() {
        let ok = |text: &'static str| Authority::parse(Bytes::from_static(text.as_bytes()));
        let a = ok("Shop.Example.com.:8080").unwrap();
        assert_eq!(
            (a.host(), a.port(), a.as_str()),
            ("shop.example.com", Some(8080), "Shop.Example.com.:8080")
        );
        assert_eq!(ok("[::1]:80").unwrap().host(), "[::1]");
        for bad in ["x@y", "a:b", "a:65536", "a/b", "a b", "[::1", "[x]", ":80", "a:80:80", "\u{e9}"] {
            assert!(ok(bad).is_err(), "{bad}");
        }
    }
}
