//! A received HTTP/2 head as a [`RequestHead`], strictly. What is malformed by RFC 9113 section 8 has been
//! refused while it was decoded (see [`fields`](super::fields)); here is what is answered.

use bytes::Bytes;
use http::Method;

use super::fields::{Fields, Length, SchemeField};
use crate::fault::FaultKind;
use crate::http::h1::names::MAX_METHOD;
use crate::http::{Authority, RequestHead, Scheme, Target, Version, path};
use crate::limits::Limits;

/// A head, or the fault to answer with and what is wrong.
pub(super) type Outcome = Result<Received, (FaultKind, &'static str)>;

/// A request's head as it came.
pub(super) struct Received {
    pub(super) head: Box<RequestHead>,
    pub(super) expects_continue: bool,
    pub(super) content_length: Option<u64>,
}

/// Takes a head in.
pub(super) fn receive(fields: Fields, secure: bool, limits: &Limits) -> Outcome {
    let bad = |what| Err((FaultKind::BadRequest, what));
    if fields.too_large {
        return Err((FaultKind::HeadersTooLarge, "too many header fields"));
    }
    let Some(method) = fields.method else { return bad("no method") };
    if method.as_str().len() > MAX_METHOD {
        return bad("the method is too long");
    }
    if method == Method::CONNECT {
        return Err((FaultKind::NotImplemented, "CONNECT"));
    }
    if fields.scheme == Some(SchemeField::Other) {
        return bad("neither http nor https");
    }
    if let Some(doubtful) = fields.doubtful {
        return bad(doubtful);
    }
    if fields.hosts > 1 {
        return bad("more than one Host");
    }
    let authority = authority(fields.authority, fields.host)?;
    let target = target(&method, fields.path.unwrap_or_default(), limits)?;
    let content_length = match fields.length {
        Length::Unknown => None,
        Length::Known(length) => Some(length),
        Length::Malformed => return bad("a malformed content-length"),
    };
    if fields.expect == Some(false) {
        return Err((FaultKind::ExpectationFailed, "an unknown expectation"));
    }
    let scheme = if secure { Scheme::Https } else { Scheme::Http };
    let (version, headers) = (Version::Http2, fields.headers);
    let head = Box::new(RequestHead { method, scheme, authority, target, version, headers });
    Ok(Received { head, expects_continue: fields.expect.is_some(), content_length })
}

/// `:authority`, or `Host` where that is all there is; they must not differ (RFC 9113 section 8.3.1).
fn authority(named: Option<Bytes>, host: Option<Bytes>) -> Result<Authority, (FaultKind, &'static str)> {
    let parse = |text| match Authority::parse(text) {
        Ok(authority) if !authority.host().is_empty() => Ok(authority),
        _ => Err((FaultKind::BadRequest, "a malformed authority")),
    };
    match (named.map(parse).transpose()?, host.map(parse).transpose()?) {
        (Some(a), Some(b)) if a.host() != b.host() || a.port() != b.port() => {
            Err((FaultKind::BadRequest, "Host differs from :authority"))
        }
        (Some(authority), _) | (None, Some(authority)) => Ok(authority),
        (None, None) => Err((FaultKind::BadRequest, "no authority")),
    }
}

fn target(method: &Method, text: Bytes, limits: &Limits) -> Result<Target, (FaultKind, &'static str)> {
    if text.len() > limits.target_bytes {
        return Err((FaultKind::TargetTooLong, "the path is too long"));
    }
    match &text[..] {
        b"*" if *method == Method::OPTIONS => Ok(Target::new(text)),
        b"*" => Err((FaultKind::BadRequest, "* is for OPTIONS")),
        _ => path::normalise(&text).map_err(|kind| (kind, "a malformed path")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::{Bounds, Section, Taking};
    use super::super::hpack::Sink;
    use super::*;

    fn receive_from(method: &str, uri: &str, headers: &[(&str, &str)]) -> Outcome {
        let limits = Limits::default();
        let bounds = Bounds { bytes: limits.head_bytes, lines: limits.header_lines };
        let mut taking = Taking::new(Section::Request, bounds, 0);
        let (scheme, rest) = uri.split_once("://").unwrap_or(("https", uri));
        let (authority, path) = rest.split_at(rest.find(['/', '*', '#']).unwrap_or(rest.len()));
        let pseudo = [(":method", method), (":scheme", scheme), (":path", path), (":authority", authority)];
        let pseudo = pseudo.iter().filter(|(_, value)| !value.is_empty());
        pseudo.chain(headers).for_each(|(name, value)| taking.field(name.as_bytes(), value.as_bytes()));
        let fields = taking.finish();
        assert_eq!(fields.malformed, None);
        receive(fields, true, &limits)
    }

    #[test]
    fn a_head_is_taken_in_once_and_for_all() {
        let headers = [
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("content-length", "5"),
            ("te", "trailers"),
            ("x_forwarded_for", "192.0.2.1"),
            ("x_y", "z"),
        ];
        let received = receive_from("POST", "https://A.example:8443/x/../y?q", &headers).ok().unwrap();
        let head = received.head;
        assert_eq!((head.authority.host(), head.authority.port()), ("a.example", Some(8443)));
        assert_eq!(head.target.as_str(), "/y?q");
        assert_eq!(received.content_length, Some(5));
        assert_eq!(head.headers.get("cookie"), Some(&b"a=1; b=2"[..]));
        assert!(!head.headers.contains("content-length") && head.headers.contains("te"));
        assert!(!head.headers.contains("x_forwarded_for") && head.headers.contains("x_y"));
    }

    #[test]
    fn what_two_could_read_differently_is_refused() {
        let refused =
            |method: &str, uri: &str, headers: &[(&str, &str)]| match receive_from(method, uri, headers) {
                Ok(_) => None,
                Err((kind, _)) => Some(kind.status().as_u16()),
            };
        let a = "https://a/";
        assert_eq!(refused("GET", a, &[("host", "b")]), Some(400));
        assert_eq!(refused("GET", a, &[("host", "A")]), None);
        assert_eq!(refused("GET", a, &[("host", "a"), ("host", "a")]), Some(400));
        let long = "A".repeat(33);
        assert_eq!(refused(&long, a, &[]), Some(400));
        assert_eq!(refused(&long[1..], a, &[]), None);
        assert_eq!(refused("GET", "/", &[]), Some(400));
        assert_eq!(refused("GET", "/", &[("host", "u@a")]), Some(400));
        assert_eq!(refused("GET", "*", &[("host", "a")]), Some(400));
        assert_eq!(refused("OPTIONS", "*", &[("host", "a")]), None);
        assert_eq!(refused("GET", "https://a/../../x", &[]), Some(400));
        assert_eq!(refused("GET", "https://a/x#y", &[]), Some(400));
        assert_eq!(refused("GET", "ftp://a/", &[]), Some(400));
        assert_eq!(refused("GET", a, &[("x", "\u{e9}")]), Some(400));
        assert_eq!(refused("GET", a, &[("content-length", "+1")]), Some(400));
        assert_eq!(refused("GET", a, &[("content-length", "1"), ("content-length", "1")]), Some(400));
        assert_eq!(refused("GET", a, &[("expect", "tea")]), Some(417));
        assert_eq!(refused("GET", a, &[("x", " b")]), Some(400));
        assert_eq!(refused("GET", a, &[("x", "b\t")]), Some(400));
        assert_eq!(refused("GET", a, &[("x", "b c"), ("y", "")]), None);
        assert_eq!(refused("CONNECT", "a:443", &[]), Some(501));
        assert_eq!(refused("GET", &format!("https://a/{}", "x".repeat(20_000)), &[]), Some(414));
    }
}
