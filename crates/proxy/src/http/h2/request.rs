//! A received HTTP/2 head as a [`RequestHead`], strictly. The `h2` crate has already refused what breaks
//! RFC 9113 section 8: upper-case names, connection-specific fields, pseudo-fields that are missing, unknown,
//! repeated or late, and bodies that do not have their `content-length`.

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, request::Parts};

use super::fields;
use crate::fault::FaultKind;
use crate::http::h1::names::is_protected;
use crate::http::{Authority, RequestHead, Scheme, Target, Version, path};
use crate::limits::Limits;

/// A head, or the fault to answer with and what is wrong.
pub(super) type Outcome = Result<Received, (FaultKind, &'static str)>;

/// A request's head as it came.
pub(super) struct Received {
    pub(super) head: RequestHead,
    pub(super) expects_continue: bool,
    pub(super) content_length: Option<u64>,
}

/// Takes a head in.
pub(super) fn receive(parts: &Parts, secure: bool, limits: &Limits) -> Outcome {
    let bad = |what| Err((FaultKind::BadRequest, what));
    if parts.method == Method::CONNECT {
        return Err((FaultKind::NotImplemented, "CONNECT"));
    }
    if parts.headers.len() > limits.header_lines {
        return Err((FaultKind::HeadersTooLarge, "too many header lines"));
    }
    if !matches!(parts.uri.scheme_str(), None | Some("http" | "https")) {
        return bad("neither http nor https");
    }
    if parts.headers.values().any(|value| value.as_bytes().iter().any(|b| *b >= 0x80)) {
        return bad("a header value outside ASCII");
    }
    // RFC 9113 section 8.2.1. What is matched here with its blanks, HTTP/1.1 backends read without.
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if parts.headers.values().map(http::HeaderValue::as_bytes).any(|v| blank(v.first()) || blank(v.last())) {
        return bad("a header value with blanks around it");
    }
    let authority = authority(parts)?;
    let target = target(parts, limits)?;
    let content_length = content_length(&parts.headers)?;
    let expects_continue = match parts.headers.get("expect").map(http::HeaderValue::as_bytes) {
        None => false,
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => true,
        Some(_) => return Err((FaultKind::ExpectationFailed, "an unknown expectation")),
    };
    let mut headers = fields::received(&parts.headers);
    headers.remove_if(|name, _| {
        // Twins, such as `x_forwarded_for`: see `h1::Underscores`.
        (name.contains(&b'_') && is_protected(name)) || matches!(name, b"expect" | b"content-length")
    });
    let scheme = if secure { Scheme::Https } else { Scheme::Http };
    let method = parts.method.clone();
    let head = RequestHead { method, scheme, authority, target, version: Version::Http2, headers };
    Ok(Received { head, expects_continue, content_length })
}

/// `:authority`, or `Host` where that is all there is; they must not differ (RFC 9113 section 8.3.1).
fn authority(parts: &Parts) -> Result<Authority, (FaultKind, &'static str)> {
    let parse = |text: &[u8]| match Authority::parse(Bytes::copy_from_slice(text)) {
        Ok(authority) if !authority.host().is_empty() => Ok(authority),
        _ => Err((FaultKind::BadRequest, "a malformed authority")),
    };
    let mut hosts = parts.headers.get_all("host").iter();
    let host = hosts.next().map(|value| parse(value.as_bytes())).transpose()?;
    if hosts.next().is_some() {
        return Err((FaultKind::BadRequest, "more than one Host"));
    }
    let named = parts.uri.authority().map(|a| parse(a.as_str().as_bytes())).transpose()?;
    match (named, host) {
        (Some(a), Some(b)) if a.host() != b.host() || a.port() != b.port() => {
            Err((FaultKind::BadRequest, "Host differs from :authority"))
        }
        (Some(authority), _) | (None, Some(authority)) => Ok(authority),
        (None, None) => Err((FaultKind::BadRequest, "no authority")),
    }
}

fn target(parts: &Parts, limits: &Limits) -> Result<Target, (FaultKind, &'static str)> {
    let text = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    if text.len() > limits.target_bytes {
        return Err((FaultKind::TargetTooLong, "the path is too long"));
    }
    match text {
        "*" if parts.method == Method::OPTIONS => Ok(Target::new(Bytes::from_static(b"*"))),
        "*" => Err((FaultKind::BadRequest, "* is for OPTIONS")),
        text => path::normalise(&Bytes::copy_from_slice(text.as_bytes()))
            .map_err(|kind| (kind, "a malformed path")),
    }
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, (FaultKind, &'static str)> {
    let mut lines = headers.get_all("content-length").iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let digits = line.as_bytes();
    let number = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
    match (number.and_then(|n| n.parse().ok()), lines.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err((FaultKind::BadRequest, "a malformed content-length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive_from(method: &str, uri: &str, headers: &[(&str, &str)]) -> Outcome {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        receive(&request.body(()).unwrap().into_parts().0, true, &Limits::default())
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
        let refused = |method, uri, headers: &[(&str, &str)]| match receive_from(method, uri, headers) {
            Ok(_) => None,
            Err((kind, _)) => Some(kind.status().as_u16()),
        };
        let a = "https://a/";
        assert_eq!(refused("GET", a, &[("host", "b")]), Some(400));
        assert_eq!(refused("GET", a, &[("host", "A")]), None);
        assert_eq!(refused("GET", a, &[("host", "a"), ("host", "a")]), Some(400));
        assert_eq!(refused("GET", "/", &[]), Some(400));
        assert_eq!(refused("GET", "/", &[("host", "u@a")]), Some(400));
        assert_eq!(refused("GET", "*", &[("host", "a")]), Some(400));
        assert_eq!(refused("OPTIONS", "*", &[("host", "a")]), None);
        assert_eq!(refused("GET", "https://a/../../x", &[]), Some(400));
        assert_eq!(refused("GET", "ftp://a/", &[]), Some(400));
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
