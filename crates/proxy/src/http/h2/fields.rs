//! Header fields between header blocks and [`Headers`]: what RFC 9113 section 8 asks of a head is checked
//! here, once, while it is decoded.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};

use super::hpack::{Encoder, Sink};
use crate::fault::{Fault, FaultKind};
use crate::http::Headers;
use crate::http::h1::names::{Own, is_forbidden_in_trailers, is_protected, is_status, own};
use crate::http::headers::Lines;

/// What a header block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// A request's head.
    Request,
    /// A response's head.
    Response,
    /// Trailers of either.
    Trailers,
}

/// What may be kept of a header block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of all fields, as SETTINGS_MAX_HEADER_LIST_SIZE counts them (RFC 9113 section 6.5.2).
    pub(super) bytes: usize,
    /// Field lines.
    pub(super) lines: usize,
}

/// `:scheme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SchemeField {
    Http,
    Https,
    Other,
}

/// `content-length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// There is none.
    Unknown,
    /// That many bytes.
    Known(u64),
    /// Not a number, or more than one.
    Malformed,
}

/// A header block, taken in.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) method: Option<Method>,
    pub(super) scheme: Option<SchemeField>,
    pub(super) authority: Option<Bytes>,
    pub(super) path: Option<Bytes>,
    pub(super) status: Option<StatusCode>,
    /// `host`; how often it came.
    pub(super) host: Option<Bytes>,
    pub(super) hosts: usize,
    /// `expect`; whether it is `100-continue`.
    pub(super) expect: Option<bool>,
    pub(super) length: Length,
    /// The end-to-end fields: those of the connection, and what stands above, are not among them, save
    /// `content-length` of a response. Crumbs of `cookie` are joined (RFC 9113 section 8.2.3).
    pub(super) headers: Headers,
    /// More fields than allowed: some are missing.
    pub(super) too_large: bool,
    /// What makes the message malformed (RFC 9113 section 8.1.1): a stream error.
    pub(super) malformed: Option<&'static str>,
    /// What a value has that is allowed, but that others could read otherwise.
    pub(super) doubtful: Option<&'static str>,
}

/// Takes a header block in, field by field.
pub(super) struct Taking {
    section: Section,
    bounds: Bounds,
    lines: Lines,
    size: usize,
    count: usize,
    regular: bool,
    cookies: usize,
    method: Option<Method>,
    scheme: Option<SchemeField>,
    authority: Option<Range<usize>>,
    path: Option<Range<usize>>,
    status: Option<StatusCode>,
    host: Option<Range<usize>>,
    hosts: usize,
    expect: Option<bool>,
    length: Length,
    too_large: bool,
    malformed: Option<&'static str>,
    doubtful: Option<&'static str>,
}

impl Taking {
    /// For a block of so many encoded bytes.
    pub(super) fn new(section: Section, bounds: Bounds, encoded: usize) -> Self {
        // A request's head is typically three times as long as its block, and gets a few fields on the way.
        let lines = Lines::with_capacity((encoded * 3 + 64).min(4096), 16);
        Self {
            section,
            bounds,
            lines,
            size: 0,
            count: 0,
            regular: false,
            cookies: 0,
            method: None,
            scheme: None,
            authority: None,
            path: None,
            status: None,
            host: None,
            hosts: 0,
            expect: None,
            length: Length::Unknown,
            too_large: false,
            malformed: None,
            doubtful: None,
        }
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) {
        let again = match (self.section, name) {
            _ if self.regular => return self.refuse("a pseudo-field after other fields"),
            (Section::Trailers, _) => return self.refuse("a pseudo-field among trailers"),
            (Section::Request, b":method") => match Method::from_bytes(value) {
                Ok(method) => self.method.replace(method).is_some(),
                Err(_) => return self.refuse("a malformed method"),
            },
            (Section::Request, b":scheme") => {
                let scheme = match value {
                    b"http" => SchemeField::Http,
                    b"https" => SchemeField::Https,
                    _ => SchemeField::Other,
                };
                self.scheme.replace(scheme).is_some()
            }
            (Section::Request, b":path") => {
                let kept = self.lines.keep(value);
                self.path.replace(kept).is_some()
            }
            (Section::Request, b":authority") => {
                let kept = self.lines.keep(value);
                self.authority.replace(kept).is_some()
            }
            (Section::Response, b":status") => match StatusCode::from_bytes(value).ok().filter(is_status) {
                Some(status) => self.status.replace(status).is_some(),
                None => return self.refuse("a malformed status"),
            },
            _ => return self.refuse("an unknown pseudo-field"),
        };
        if again {
            self.refuse("a pseudo-field twice");
        }
    }

    fn refuse(&mut self, what: &'static str) {
        self.malformed = self.malformed.or(Some(what));
    }

    /// Takes in a field that means something here; says whether it is to go on as a line.
    fn known(&mut self, name: &[u8], value: &[u8]) -> bool {
        match own(name) {
            // `te: trailers` concerns the backend, too.
            Some(Own::Te) if value == b"trailers" => return true,
            Some(Own::Te) => self.refuse("te with more than trailers"),
            Some(Own::Host) => {
                self.hosts += 1;
                self.host = Some(self.lines.keep(value));
            }
            Some(Own::Expect) if self.section == Section::Response => return true,
            Some(Own::Expect) => {
                self.expect = Some(value.eq_ignore_ascii_case(b"100-continue") && self.expect != Some(false));
            }
            Some(Own::ContentLength) => {
                let number = std::str::from_utf8(value).ok().filter(|_| value.iter().all(u8::is_ascii_digit));
                self.length = match (self.length, number.and_then(|n| n.parse().ok())) {
                    (Length::Unknown, Some(length)) => Length::Known(length),
                    _ => Length::Malformed,
                };
                return self.section == Section::Response;
            }
            Some(Own::Dropped) if name == b"http2-settings" => {}
            Some(Own::Connection | Own::Dropped | Own::TransferEncoding | Own::Upgrade) => {
                self.refuse("a field of the connection");
            }
            None => {
                self.cookies += usize::from(name == b"cookie");
                return true;
            }
        }
        false
    }

    /// What has come.
    pub(super) fn finish(self) -> Fields {
        let (mut headers, raw) = self.lines.finish();
        if self.cookies > 1 {
            let mut joined = Vec::new();
            for (index, crumb) in headers.get_all("cookie").enumerate() {
                joined.extend_from_slice(if index > 0 { b"; " } else { b"" });
                joined.extend_from_slice(crumb);
            }
            headers.remove("cookie");
            headers.append("cookie", joined);
        }
        let kept = |range: Option<Range<usize>>| range.map(|range| raw.slice(range));
        Fields {
            method: self.method,
            scheme: self.scheme,
            authority: kept(self.authority),
            path: kept(self.path),
            status: self.status,
            host: kept(self.host),
            hosts: self.hosts,
            expect: self.expect,
            length: self.length,
            headers,
            too_large: self.too_large,
            malformed: self.malformed,
            doubtful: self.doubtful,
        }
    }
}

impl Sink for Taking {
    /// A field of three bytes can be one of four kilobytes in the table: what a block becomes has no bound of
    /// its own.
    fn is_full(&self) -> bool {
        self.size > 4 * self.bounds.bytes
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.size += name.len() + value.len() + 32;
        self.count += usize::from(name.first() != Some(&b':'));
        self.too_large |= self.size > self.bounds.bytes || self.count > self.bounds.lines;
        if self.too_large {
            return;
        }
        let seen = look(value);
        if seen & BAD != 0 {
            return self.refuse("a character in a value that no field has");
        }
        if name.first() == Some(&b':') {
            return self.pseudo(name, value);
        }
        self.regular = true;
        let Some(underscore) = token(name) else { return self.refuse("a malformed field name") };
        if seen & HIGH != 0 {
            self.doubtful = self.doubtful.or(Some("a header value outside ASCII"));
        }
        // RFC 9113 section 8.2.1: none has blanks around it. A request could be matched here with them, and read
        // without by an HTTP/1.1 backend. Some servers let their applications send them: those of answers, and
        // of trailers, are taken off, as they are when they come over HTTP/1.1.
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        let mut value = value;
        if blank(value.first()) || blank(value.last()) {
            match self.section {
                Section::Request => {
                    self.doubtful = self.doubtful.or(Some("a header value with blanks around it"));
                }
                // No other white space is left in a value.
                Section::Response | Section::Trailers => value = value.trim_ascii(),
            }
        }
        let goes_on = self.known(name, value)
            // Twins, such as `x_forwarded_for`: see `h1::Underscores`.
            && !(underscore && self.section == Section::Request && is_protected(name))
            && !(self.section == Section::Trailers && is_forbidden_in_trailers(name));
        if goes_on {
            self.lines.push(name, value);
        }
    }
}

const BAD: u8 = 1;
const HIGH: u8 = 0x80;

/// Looks at a value without branches, which the compiler makes a few wide instructions of: [`BAD`] if it has
/// a control character (RFC 9110 section 5.5), [`HIGH`] if it is not all ASCII.
#[inline]
fn look(value: &[u8]) -> u8 {
    value.iter().fold(0, |seen, b| {
        seen | u8::from(*b < 0x20) & u8::from(*b != b'\t') | u8::from(*b == 0x7f) | (*b & HIGH)
    })
}

/// Whether a field's name is a token without upper case (RFC 9113 section 8.2.1), and then whether it has an
/// underscore.
#[inline]
fn token(name: &[u8]) -> Option<bool> {
    let seen = name.iter().fold(0, |seen, b| seen | NAME[usize::from(*b)]);
    (seen & 1 == 0 && !name.is_empty()).then_some(seen & 2 != 0)
}

/// 1: not in names as they are sent; 2: an underscore.
static NAME: [u8; 256] = {
    let mut table = [1; 256];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        let special = matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.');
        if b.is_ascii_lowercase() || b.is_ascii_digit() || special || matches!(b, b'^' | b'`' | b'|' | b'~') {
            table[byte] = 0;
        }
        byte += 1;
    }
    table[b'_' as usize] = 2;
    table
};

/// Checks what [`encode`] will send. Before it, since an encoder that has begun a block has to end it.
///
/// # Errors
/// When a name or value is not what the wire allows.
pub(super) fn check(headers: &Headers) -> Result<(), Fault> {
    let valid = headers.iter().all(|(name, value)| {
        let name = name.iter().all(|b| NAME[usize::from(b.to_ascii_lowercase())] != 1) && !name.is_empty();
        name && memchr::memchr3(b'\r', b'\n', 0, value).is_none()
    });
    valid.then_some(()).ok_or_else(|| Fault::new(FaultKind::Internal, "a header that HTTP/2 cannot carry"))
}

/// Encodes fields: names in lower case, without those that have no place in HTTP/2 (RFC 9113 section 8.2.2) and
/// `Host`, which `:authority` replaces.
pub(super) fn encode(headers: &Headers, encoder: &mut Encoder, out: &mut BytesMut) {
    for (name, value) in headers.iter() {
        match own(name) {
            None | Some(Own::ContentLength | Own::Expect) => encoder.field(name, value, out),
            Some(Own::Te) if value.trim_ascii().eq_ignore_ascii_case(b"trailers") => {
                encoder.field(name, b"trailers", out);
            }
            // TE holds nothing else.
            Some(
                Own::Te | Own::Host | Own::TransferEncoding | Own::Connection | Own::Upgrade | Own::Dropped,
            ) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hpack::Decoder;
    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 1000, lines: 10 };

    fn take(section: Section, lines: &[(&str, &str)]) -> Fields {
        let mut taking = Taking::new(section, BOUNDS, 0);
        lines.iter().for_each(|(name, value)| taking.field(name.as_bytes(), value.as_bytes()));
        taking.finish()
    }

    #[test]
    fn cookie_crumbs_are_joined() {
        let lines = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("x", "z")];
        let headers = take(Section::Request, &lines).headers;
        assert_eq!(headers, Headers::from([("x", "y"), ("x", "z"), ("cookie", "a=1; b=2")]));
    }

    #[test]
    fn connection_fields_do_not_cross() {
        let headers = Headers::from([
            ("Connection", "close"),
            ("Host", "a"),
            ("TE", "gzip"),
            ("te", "Trailers"),
            ("X-Y", "z"),
            ("Upgrade", "h2c"),
        ]);
        let mut block = BytesMut::new();
        let mut encoder = Encoder::new();
        encoder.begin(&mut block);
        encode(&headers, &mut encoder, &mut block);
        let mut taking = Taking::new(Section::Request, BOUNDS, block.len());
        Decoder::new(4096).decode(&block, &mut taking).expect("valid");
        let fields = taking.finish();
        assert_eq!(fields.headers, Headers::from([("te", "trailers"), ("x-y", "z")]));
        assert_eq!((fields.malformed, fields.hosts), (None, 0));
    }

    #[test]
    fn trailers_carry_no_framing_nor_credentials() {
        let lines = [("content-length", "5"), ("authorization", "x"), ("host", "b"), ("grpc-status", "0")];
        assert_eq!(take(Section::Trailers, &lines).headers, Headers::from([("grpc-status", "0")]));
    }

    #[test]
    fn what_the_wire_forbids_is_an_error() {
        let mut headers = Headers::default();
        headers.append("x", b"a\r\nb");
        assert!(check(&headers).is_err());
        assert!(check(&Headers::from([("a b", "c")])).is_err());
        assert!(check(&Headers::from([("X-A_b", "c\td")])).is_ok());
    }

    #[test]
    fn a_malformed_head_is_told() {
        let get = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
        let with = |more: &[(&'static str, &'static str)]| {
            take(Section::Request, &[&get[..], more].concat()).malformed.is_some()
        };
        assert!(!with(&[("a", "b"), ("te", "trailers")]));
        for more in [
            &[("A", "b")][..],
            &[("", "b")],
            &[("a b", "c")],
            &[("a", "b\0")],
            &[("a", "b\nc")],
            &[("a", "b"), (":authority", "x")],
            &[(":path", "/other")],
            &[(":status", "200")],
            &[(":protocol", "websocket")],
            &[("connection", "close")],
            &[("transfer-encoding", "chunked")],
            &[("te", "gzip")],
        ] {
            assert!(with(more), "{more:?}");
        }
        assert!(take(Section::Trailers, &[(":status", "200")]).malformed.is_some());
        for status in ["", "20", "2000", "099", "2x0", "600", "999"] {
            assert!(take(Section::Response, &[(":status", status)]).malformed.is_some(), "{status}");
        }
    }

    #[test]
    fn blanks_around_a_value_do_not_cross() {
        let lines = [("x", "\t a b "), ("y", " \t")];
        let clean = Headers::from([("x", "a b"), ("y", "")]);
        let answer = [&[(":status", "200"), ("content-length", " 5 ")], &lines[..]].concat();
        let answer = take(Section::Response, &answer);
        assert_eq!((answer.length, answer.malformed), (Length::Known(5), None));
        let expected = [("content-length", "5"), ("x", "a b"), ("y", "")];
        assert_eq!(answer.headers, Headers::from(expected));
        assert_eq!(take(Section::Trailers, &lines).headers, clean);
        assert!(take(Section::Request, &lines).doubtful.is_some());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let long = "x".repeat(2000);
        assert!(take(Section::Request, &[("a", &long)]).too_large);
        let many = take(Section::Request, &[("a", "b"); 15]);
        assert!(many.too_large && many.headers.len() <= 10);
    }
}
