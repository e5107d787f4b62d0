//! Header fields between our [`Headers`] and the `h2` crate's maps.

use bytes::BytesMut;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::fault::{Fault, FaultKind};
use crate::http::Headers;
use crate::http::h1::names::is_forbidden_in_trailers;

/// Fields that HTTP/2 has no place for (RFC 9113 section 8.2.2), and `Host`, which `:authority` replaces.
fn is_connection_specific(name: &[u8]) -> bool {
    let other: &[u8] = match name.len() {
        4 => b"host",
        7 => b"upgrade",
        10 if matches!(name[0], b'k' | b'K') => b"keep-alive",
        10 => b"connection",
        14 => b"http2-settings",
        16 => b"proxy-connection",
        17 => b"transfer-encoding",
        _ => return false,
    };
    name.eq_ignore_ascii_case(other)
}

/// The end-to-end fields of a received message: without those that have no place in HTTP/2, which `h2`
/// already refuses, and with the crumbs of `cookie` joined (RFC 9113 section 8.2.3). Kept as HTTP/1.1 writes
/// them, so that they can be copied to a backend at once.
pub fn received(map: &HeaderMap) -> Headers {
    let cookies = map.get_all("cookie").iter().nth(1).is_some();
    let len: usize = map.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let mut raw = BytesMut::with_capacity(len);
    let mut ranges: smallvec::SmallVec<[(usize, usize, usize); 24]> = smallvec::SmallVec::new();
    for (name, value) in map {
        if is_connection_specific(name.as_str().as_bytes()) || (cookies && name == "cookie") {
            continue;
        }
        let start = raw.len();
        raw.extend_from_slice(name.as_str().as_bytes());
        let middle = raw.len();
        raw.extend_from_slice(b": ");
        raw.extend_from_slice(value.as_bytes());
        ranges.push((start, middle, raw.len()));
        raw.extend_from_slice(b"\r\n");
    }
    if cookies {
        let start = raw.len();
        raw.extend_from_slice(b"cookie");
        let middle = raw.len();
        raw.extend_from_slice(b": ");
        for (index, crumb) in map.get_all("cookie").iter().enumerate() {
            raw.extend_from_slice(if index > 0 { b"; " } else { b"" });
            raw.extend_from_slice(crumb.as_bytes());
        }
        ranges.push((start, middle, raw.len()));
        raw.extend_from_slice(b"\r\n");
    }
    let mut headers = Headers::received(raw.freeze());
    // And a few that are added on the way.
    headers.reserve(ranges.len() + 6);
    for (start, middle, end) in ranges {
        headers.push_raw(start..middle, middle + 2..end);
    }
    headers
}

/// The trailer section of a received message, without fields that have no place in one.
pub fn received_trailers(map: &HeaderMap) -> Headers {
    let mut headers = received(map);
    headers.remove_if(|name, _| is_forbidden_in_trailers(name));
    headers
}

/// Fields to send: names in lower case, without those that have no place in HTTP/2.
///
/// # Errors
/// When a name or value is not what the wire allows, or there are more than the map can hold.
pub fn to_send(headers: &Headers) -> Result<HeaderMap, Fault> {
    let mut map = HeaderMap::with_capacity(headers.len() + 2);
    for (name, value) in headers.shared() {
        if is_connection_specific(name) {
            continue;
        }
        // RFC 9113 section 8.2.2: TE holds nothing but `trailers`.
        if name.eq_ignore_ascii_case(b"te") && !value.trim_ascii().eq_ignore_ascii_case(b"trailers") {
            continue;
        }
        let invalid = || Fault::new(FaultKind::Internal, "a header that HTTP/2 cannot carry");
        let name = HeaderName::from_bytes(name).map_err(|_| invalid())?;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| invalid())?;
        map.try_append(name, value).map_err(|_| invalid())?;
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn cookie_crumbs_are_joined() {
        let headers = received(&map(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("x", "z")]));
        assert_eq!(headers, Headers::from([("x", "y"), ("x", "z"), ("cookie", "a=1; b=2")]));
    }

    #[test]
    fn connection_fields_do_not_cross() {
        let headers = Headers::from([
            ("Connection", "close"),
            ("Host", "a"),
            ("TE", "gzip"),
            ("te", "trailers"),
            ("X-Y", "z"),
            ("Upgrade", "h2c"),
        ]);
        assert_eq!(to_send(&headers).expect("valid"), map(&[("te", "trailers"), ("x-y", "z")]));
    }

    #[test]
    fn trailers_carry_no_framing_nor_credentials() {
        let trailers = received_trailers(&map(&[
            ("content-length", "5"),
            ("authorization", "x"),
            ("host", "b"),
            ("grpc-status", "0"),
        ]));
        assert_eq!(trailers, Headers::from([("grpc-status", "0")]));
    }

    #[test]
    fn what_the_wire_forbids_is_an_error() {
        let mut headers = Headers::default();
        headers.append("x", b"a\r\nb");
        assert!(to_send(&headers).is_err());
    }
}
