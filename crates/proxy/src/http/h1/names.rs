//! Which header fields mean something to the engines, and what both hold methods and statuses to.

use bytes::Bytes;
use http::StatusCode;

use crate::http::Headers;

/// The longest method name. WebDAV's longest has 17.
pub(in crate::http) const MAX_METHOD: usize = 32;

/// Whether a backend may answer with that status: they end at 599 (RFC 9110 section 15).
pub(in crate::http) fn is_status(status: &StatusCode) -> bool {
    status.as_u16() < 600
}

/// A field that is between neighbours only, or frames the message: an engine reads it and writes its own
/// (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Own {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Te,
    Upgrade,
    Expect,
    /// `Keep-Alive`, `Proxy-Connection`, `HTTP2-Settings`: nothing is read from them.
    Dropped,
}

/// What the field is to an engine; `None`: it is not its concern.
#[inline]
pub(in crate::http) fn own(name: &[u8]) -> Option<Own> {
    let (candidate, own): (&[u8], Own) = match name.len() {
        2 => (b"te", Own::Te),
        4 => (b"host", Own::Host),
        6 => (b"expect", Own::Expect),
        7 => (b"upgrade", Own::Upgrade),
        10 if matches!(name[0], b'k' | b'K') => (b"keep-alive", Own::Dropped),
        10 => (b"connection", Own::Connection),
        14 if matches!(name[0], b'h' | b'H') => (b"http2-settings", Own::Dropped),
        14 => (b"content-length", Own::ContentLength),
        16 => (b"proxy-connection", Own::Dropped),
        17 => (b"transfer-encoding", Own::TransferEncoding),
        _ => return None,
    };
    // Most names of that length end here.
    (name[0] | 0x20 == candidate[0] && name.eq_ignore_ascii_case(candidate)).then_some(own)
}

/// Names that decide where a request goes, who it is from or how long it is, with `_` read as `-`.
/// `Connection` may not name them, and their twins with underscores are dropped.
pub(in crate::http) fn is_protected(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 2] = [b"x-forwarded-", b"x-envoy-"];
    const NAMES: [&[u8]; 20] = [
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"forwarded",
        b"host",
        b"origin",
        b"proxy-authorization",
        b"set-cookie",
        b"traceparent",
        b"tracestate",
        b"trailer",
        b"transfer-encoding",
        b"via",
        b"x-client-cert",
        b"x-real-ip",
        b"x-request-id",
    ];
    let same = |a: &[u8], b: &[u8]| {
        a.iter().zip(b).all(|(a, b)| if *a == b'_' { *b == b'-' } else { a.eq_ignore_ascii_case(b) })
    };
    NAMES.iter().any(|n| n.len() == name.len() && same(name, n))
        || PREFIXES.iter().any(|p| name.len() >= p.len() && same(&name[..p.len()], p))
}

/// Fields that have no business in a trailer section: framing, routing, authentication, and what had to be
/// known before the body (RFC 9110 section 6.5.1).
pub(in crate::http) fn is_forbidden_in_trailers(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 22] = [
        b"age",
        b"cache-control",
        b"date",
        b"expires",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"location",
        b"max-forwards",
        b"pragma",
        b"proxy-authenticate",
        b"range",
        b"retry-after",
        b"vary",
        b"warning",
        b"www-authenticate",
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-url",
    ];
    own(name).is_some() || is_protected(name) || NAMES.iter().any(|n| name.eq_ignore_ascii_case(n))
}

/// What the `Connection` fields of one head say (RFC 9110 section 7.6.1).
#[derive(Default)]
pub(super) struct ConnectionOptions {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// Fields that are for this hop only.
    named: Vec<Bytes>,
}

/// A `Connection` field that cannot be honoured.
pub(super) struct InvalidConnection;

impl ConnectionOptions {
    /// Names beyond this many in one head are an attack.
    const MAX_NAMED: usize = 32;

    pub(super) fn read(&mut self, value: &[u8]) -> Result<(), InvalidConnection> {
        for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if option.is_empty() || matches!(own(option), Some(Own::Te | Own::Dropped)) {
                // An empty element is allowed (RFC 9110 section 5.6.1.2); the fields are dropped anyway.
            } else if self.named.len() == Self::MAX_NAMED
                || is_protected(option)
                || own(option).is_some()
                || !option.iter().all(|b| is_token(*b))
            {
                return Err(InvalidConnection);
            } else {
                self.named.push(Bytes::copy_from_slice(option));
            }
        }
        Ok(())
    }

    /// Removes the fields that are for this hop only.
    pub(super) fn strip(&self, headers: &mut Headers) {
        if !self.named.is_empty() {
            headers.remove_if(|name, _| self.named.iter().any(|n| n.eq_ignore_ascii_case(name)));
        }
    }
}

/// A token character (RFC 9110 section 5.6.2).
#[inline]
pub(super) fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let others = b"!#$%&'*+-.^_`|~";
        let mut at = 0;
        while at < others.len() {
            table[others[at] as usize] = true;
            at += 1;
        }
        let mut byte = 0;
        while byte < 128 {
            table[byte] |= (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        table
    };
    TOKEN[byte as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_are_protected_too() {
        for name in ["Host", "X_Forwarded_For", "x-forwarded_proto", "Content_Length", "COOKIE"] {
            assert!(is_protected(name.as_bytes()), "{name}");
        }
        for name in ["X-Forwarded", "hosts", "api_key", "x-a"] {
            assert!(!is_protected(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn connection_names_what_goes() {
        let mut options = ConnectionOptions::default();
        assert!(options.read(b"close, X-Hop,, TE").is_ok() && options.close && !options.keep_alive);
        let mut headers = Headers::from([("x-hop", "1"), ("X-HOP", "2"), ("x-end", "3")]);
        options.strip(&mut headers);
        assert_eq!(headers, Headers::from([("x-end", "3")]));
        for bad in ["authorization", "x, Host", "x_forwarded_for", "a b", ":path", "content-length"] {
            assert!(ConnectionOptions::default().read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(ConnectionOptions::default().read("x,".repeat(33).as_bytes()).is_err());
    }
}
