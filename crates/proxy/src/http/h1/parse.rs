//! Heads: bytes in, [`RequestHead`] or [`ResponseHead`] and the body's framing out.
//!
//! `lines` splits them; what RFC 9112 leaves to the recipient is refused here. Why a head is none, `httparse`
//! tells.

use std::ops::Range;

use bytes::{Buf, Bytes};
use http::{Method, StatusCode};
use httparse::Status;

use super::framing::{self, Decoder};
use super::lines;
use super::names::{self, ConnectionOptions, InvalidConnection, MAX_METHOD, Own};
use super::target;
use super::{Settings, Underscores};
use crate::fault::FaultKind;
use crate::http::headers::Places;
use crate::http::{Authority, Headers, RequestHead, ResponseHead, Scheme, Version};

/// Field lines for which there is room; `Settings::max_headers` cannot be more.
const MOST_HEADERS: usize = 256;

const TOO_LARGE: Malformed = Malformed("the head is too large");

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) kind: FaultKind,
    pub(super) detail: &'static str,
}

/// What breaks the protocol, in a word for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl From<Malformed> for Refusal {
    fn from(Malformed(detail): Malformed) -> Self {
        Self { kind: FaultKind::BadRequest, detail }
    }
}

impl From<InvalidConnection> for Malformed {
    fn from(_: InvalidConnection) -> Self {
        Self("Connection names a field that it may not")
    }
}

/// A request's head, and what it says about the rest of the connection.
#[derive(Debug)]
pub(super) struct ReceivedRequest {
    pub(super) head: Box<RequestHead>,
    pub(super) body: Decoder,
    pub(super) upgrade: Option<Bytes>,
    pub(super) expects_continue: bool,
    /// The client lets the connection be used again.
    pub(super) keep_alive: bool,
}

/// A response's head, and what it says about the rest of the connection.
#[derive(Debug)]
pub(super) struct ReceivedResponse {
    pub(super) head: ResponseHead,
    pub(super) body: Decoder,
    pub(super) keep_alive: bool,
}

/// Where in the input a head is looked for, so that one that comes byte by byte is not read again for each.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// An empty line ahead of the request line has been skipped.
    skipped: bool,
    /// The input's length up to which there is no end of a head.
    scanned: usize,
    /// The input's length at the last attempt.
    attempted: usize,
}

impl Progress {
    /// Whether it is worth reading: at first, so that nonsense is refused at its first bytes; when the head
    /// seems complete; and each time that it has doubled.
    fn is_due(&mut self, input: &[u8]) -> bool {
        if self.attempted == 0 {
            // Most heads come in one piece; the parser itself finds that their end is missing.
            (self.scanned, self.attempted) = (input.len(), input.len());
            return true;
        }
        let from = self.scanned.saturating_sub(3);
        self.scanned = input.len();
        let complete = memchr::memchr_iter(b'\n', &input[from..])
            .any(|at| matches!(input[from + at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]));
        let due = complete || input.len() >= 2 * self.attempted;
        if due {
            self.attempted = input.len();
        }
        due
    }
}

/// Takes the head off the input.
fn take_head(input: &mut Bytes, len: usize) -> Bytes {
    if input.len() == len {
        return std::mem::take(input);
    }
    // A copy, so that the head does not keep alive what was read with it.
    let head = Bytes::copy_from_slice(&input[..len]);
    input.advance(len);
    head
}

/// Reads field lines from a place on, to the empty line: where they are, and where that ends. `None`: they are
/// malformed, not whole, or too many.
#[inline]
fn field_lines(head: &[u8], mut at: usize, max_headers: usize) -> Option<(Places, usize)> {
    let mut places = Places::new();
    while !lines::is_end(head, at) {
        let (line, next) = lines::field_line(head, at)?;
        if places.len() == max_headers.min(MOST_HEADERS) {
            return None;
        }
        let own = names::own(&head[line.name.clone()]);
        places.push(line.name, line.value, line.is_plain, own);
        at = next;
    }
    Some((places, at + 2))
}

/// Reads a request's head off the input; `None`: there is more to come.
pub(super) fn request(
    input: &mut Bytes,
    progress: &mut Progress,
    scheme: Scheme,
    settings: &Settings,
) -> Result<Option<ReceivedRequest>, Refusal> {
    if !progress.skipped && input.first() == Some(&b'\r') {
        // RFC 9112 section 2.2: an empty line ahead of the request line is ignored; one.
        match input.get(1) {
            None => return Ok(None),
            Some(b'\n') => input.advance(2),
            Some(_) => return Err(Malformed("a bare carriage return").into()),
        }
        progress.skipped = true;
    }
    match input.first() {
        None => return Ok(None),
        Some(b'\r' | b'\n') => return Err(Malformed("an empty line ahead of the request").into()),
        Some(_) => {}
    }
    if !progress.is_due(input) {
        return if input.len() > settings.max_head { Err(too_large(input, settings)) } else { Ok(None) };
    }

    let read = lines::request_line(input)
        .and_then(|line| field_lines(input, line.end, settings.max_headers).map(|fields| (line, fields)))
        .filter(|(_, (_, len))| *len <= settings.max_head);
    let Some((line, (mut places, len))) = read else { return incomplete_request(input, settings) };
    let head = &input[..len];
    if line.target.len() > settings.max_target {
        return Err(Refusal { kind: FaultKind::TargetTooLong, detail: "the target is too long" });
    }
    if !lines::is_ascii(&head[line.target.clone()]) {
        return Err(Malformed("a malformed request line").into());
    }
    let version = if line.version_1_1 { Version::Http11 } else { Version::Http10 };
    let method = &head[line.method];
    let method = match Method::from_bytes(method) {
        Ok(Method::CONNECT) => {
            return Err(Refusal { kind: FaultKind::NotImplemented, detail: "CONNECT" });
        }
        Ok(known) if method.len() <= MAX_METHOD => known,
        _ => return Err(Malformed("not a method").into()),
    };

    let mut fields = Fields::default();
    let mut host = None;
    // Most heads have neither, anywhere: which field it is in need not be asked.
    let obs_text = !settings.allow_obs_text && !lines::is_ascii(head);
    let underscore = memchr::memchr(b'_', head).is_some();
    places.judge(!obs_text && !underscore, |own, name, at| {
        let value = &head[at.clone()];
        if obs_text && !value.is_ascii() {
            return Err(Refusal::from(Malformed("a field value with bytes above 0x7F")));
        }
        match own {
            None if head[name.clone()].contains(&b'_') => return keep_underscore(&head[name], settings),
            None => return Ok(true),
            Some(Own::Host) => {
                if host.replace(at).is_some() {
                    return Err(Malformed("more than one Host").into());
                }
            }
            Some(Own::Expect) if version == Version::Http10 => {}
            Some(Own::Expect) => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal {
                        kind: FaultKind::ExpectationFailed,
                        detail: "an unknown expectation",
                    });
                }
                fields.expects_continue = true;
            }
            Some(own) => fields.read(own, value, at)?,
        }
        Ok(false)
    })?;
    let body = fields.framing(version == Version::Http11, settings.max_headers)?.unwrap_or(Decoder::Done);

    let raw = take_head(input, len);
    let slice = |range: Range<usize>| raw.slice(range);
    let host = match host {
        Some(host) => Some(Authority::parse(slice(host)).map_err(|_| Malformed("not a Host"))?),
        None if version == Version::Http11 => return Err(Malformed("no Host").into()),
        None => None,
    };
    let target = target::read(slice(line.target), &method, scheme, host.as_ref())?;
    let authority = match target.authority.or(host) {
        Some(authority) => authority,
        None => Authority::parse(Bytes::new()).map_err(|_| Malformed("no Host"))?,
    };
    if version == Version::Http11 && authority.host().is_empty() {
        return Err(Malformed("an empty Host").into());
    }

    let may_upgrade = version == Version::Http11 && fields.options.upgrade && body.is_done();
    let upgrade = fields.upgrade.filter(|_| may_upgrade).map(slice).filter(|p| is_foreign_protocol(p));
    let mut headers = Headers::received(raw.clone(), places);
    fields.options.strip(&mut headers);
    if fields.te_trailers {
        headers.append("TE", "trailers");
    }
    let keep_alive = !fields.options.close && (version == Version::Http11 || fields.options.keep_alive);
    let head = Box::new(RequestHead { method, scheme, authority, target: target.target, version, headers });
    let expects_continue = fields.expects_continue && !body.is_done();
    Ok(Some(ReceivedRequest { head, body, upgrade, expects_continue, keep_alive }))
}

/// What is wrong with a request's head that could not be read; `None`: there is more to come.
#[cold]
fn incomplete_request(input: &[u8], settings: &Settings) -> Result<Option<ReceivedRequest>, Refusal> {
    let mut space = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut space[..settings.max_headers.min(MOST_HEADERS)]);
    match parsed.parse(input) {
        // httparse takes a bare LF for a line's end; two parsers that differ on that are what smuggling needs.
        Ok(Status::Complete(len)) if len <= settings.max_head => Err(Malformed("a bare line feed").into()),
        _ if has_long_line(input, settings) => Err(too_large(input, settings)),
        Ok(Status::Partial) if input.len() < settings.max_head => Ok(None),
        Ok(_) => Err(too_large(input, settings)),
        // Which answer it gets must not depend on how much of the line has come.
        Err(httparse::Error::Version) if !input.contains(&b'\n') && input.len() < settings.max_head => {
            Ok(None)
        }
        Err(error) => Err(refusal(error, input)),
    }
}

/// Reads a response's head off the input; `None`: there is more to come. `to_head`: it answers a HEAD.
pub(super) fn response(
    input: &mut Bytes,
    progress: &mut Progress,
    to_head: bool,
    max_head: usize,
    max_headers: usize,
) -> Result<Option<ReceivedResponse>, Malformed> {
    match input.first() {
        None => return Ok(None),
        Some(b'H') => {}
        // httparse skips empty lines.
        Some(_) => return Err(Malformed("not HTTP/1")),
    }
    if !progress.is_due(input) {
        return if input.len() > max_head { Err(TOO_LARGE) } else { Ok(None) };
    }
    let read = lines::status_line(input)
        .and_then(|line| field_lines(input, line.end, max_headers).map(|fields| (line, fields)))
        .filter(|(_, (_, len))| *len <= max_head);
    let Some((line, (mut places, len))) = read else {
        return incomplete_response(input, max_head, max_headers);
    };
    let head = &input[..len];
    let version_1_1 = line.version_1_1;
    let status = StatusCode::from_u16(line.status).ok();
    let status = status.filter(names::is_status).ok_or(Malformed("not a status"))?;

    let mut fields = Fields::default();
    let without_body = to_head || status == StatusCode::NOT_MODIFIED;
    places.judge(true, |own, _, at| {
        Ok::<_, Malformed>(match own {
            None | Some(Own::Host | Own::Expect) => true,
            Some(Own::Upgrade) => status == StatusCode::SWITCHING_PROTOCOLS,
            Some(own) => {
                fields.read(own, &head[at.clone()], at)?;
                without_body && own == Own::ContentLength
            }
        })
    })?;
    // Also where no body can follow: what contradicts itself is not to be trusted.
    let framing = fields.framing(version_1_1, max_headers)?;
    let body = match status.as_u16() {
        _ if without_body => Decoder::Done,
        // HTTP/1.0 has none (RFC 9110 section 15.2), and its connection ends with a response.
        100..200 if !version_1_1 => return Err(Malformed("an interim response in HTTP/1.0")),
        101 if fields.has_framing() => return Err(Malformed("a 101 with a length")),
        100..200 | 204 => Decoder::Done,
        _ => framing.unwrap_or(Decoder::UntilClose),
    };
    // What says that a body follows where there can be none: whether the backend sends one cannot be known.
    let contradictory = match status {
        StatusCode::NO_CONTENT => fields.chunked || fields.length.is_some_and(|length| length > 0),
        StatusCode::NOT_MODIFIED => fields.chunked,
        _ => false,
    };
    let mut headers = Headers::received(take_head(input, len), places);
    fields.options.strip(&mut headers);
    let keep_alive = !fields.options.close
        && !contradictory
        && (version_1_1 || fields.options.keep_alive)
        && !matches!(body, Decoder::UntilClose);
    Ok(Some(ReceivedResponse { head: ResponseHead { status, headers }, body, keep_alive }))
}

/// What is wrong with a response's head that could not be read; `None`: there is more to come.
#[cold]
fn incomplete_response(
    input: &[u8],
    max_head: usize,
    max_headers: usize,
) -> Result<Option<ReceivedResponse>, Malformed> {
    let mut space = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Response::new(&mut space[..max_headers.min(MOST_HEADERS)]);
    Err(match parsed.parse(input) {
        Ok(Status::Complete(len)) if len <= max_head => Malformed("a bare line feed"),
        Ok(Status::Partial) if input.len() < max_head => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => TOO_LARGE,
        Err(httparse::Error::Version) => Malformed("not HTTP/1.0 or 1.1"),
        Err(_) => Malformed("a malformed head"),
    })
}

/// Reads a trailer section with its empty line.
pub(super) fn fields(raw: Bytes, max_headers: usize) -> Result<Headers, Malformed> {
    match field_lines(&raw, 0, max_headers) {
        Some((places, len)) if len == raw.len() => Ok(Headers::received(raw, places)),
        _ => Err(Malformed("a malformed trailer section")),
    }
}

/// What the fields that are the engine's own say.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    options: ConnectionOptions,
    upgrade: Option<Range<usize>>,
    upgrades: usize,
    expects_continue: bool,
    te_trailers: bool,
}

impl Fields {
    /// Takes one in, and where its value is.
    fn read(&mut self, own: Own, value: &[u8], at: Range<usize>) -> Result<(), Malformed> {
        match own {
            Own::ContentLength => {
                let length = framing::content_length(value).ok_or(Malformed("not a Content-Length"))?;
                if self.length.replace(length).is_some() {
                    return Err(Malformed("more than one Content-Length"));
                }
            }
            Own::TransferEncoding => {
                if std::mem::replace(&mut self.chunked, true) || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("a Transfer-Encoding other than chunked"));
                }
            }
            Own::Connection => self.options.read(value)?,
            Own::Te => {
                self.te_trailers |=
                    value.split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(b"trailers"));
            }
            Own::Upgrade => {
                self.upgrades += 1;
                self.upgrade = (self.upgrades == 1).then_some(at);
            }
            Own::Host | Own::Expect | Own::Dropped => {}
        }
        Ok(())
    }

    fn has_framing(&self) -> bool {
        self.chunked || self.length.is_some()
    }

    /// RFC 9112 section 6.3, with every case that it leaves to the recipient refused.
    fn framing(&self, version_1_1: bool, max_headers: usize) -> Result<Option<Decoder>, Malformed> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Malformed("both Transfer-Encoding and Content-Length")),
            (true, None) if !version_1_1 => Err(Malformed("Transfer-Encoding in HTTP/1.0")),
            (true, None) => Ok(Some(Decoder::chunked(max_headers))),
            (false, Some(0)) => Ok(Some(Decoder::Done)),
            (false, Some(length)) => Ok(Some(Decoder::Length(length))),
            (false, None) => Ok(None),
        }
    }
}

fn keep_underscore(name: &[u8], settings: &Settings) -> Result<bool, Refusal> {
    match settings.underscores {
        Underscores::DropTwins => Ok(!names::is_protected(name)),
        Underscores::Drop => Ok(false),
        Underscores::Reject => Err(Malformed("an underscore in a field name").into()),
    }
}

/// One protocol, and none under which the connection would carry further HTTP requests past the routes
/// (`h2c`, `HTTP/2.0`) or hide what it carries (`TLS/1.0`).
fn is_foreign_protocol(value: &[u8]) -> bool {
    let name = value.split(|b| *b == b'/').next().unwrap_or_default();
    !name.is_empty()
        && value.iter().all(|b| names::is_token(*b) || *b == b'/')
        && ![&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|n| name.eq_ignore_ascii_case(n))
}

/// Whether the request line is so long that its target is too long, whatever it is.
fn has_long_line(input: &[u8], settings: &Settings) -> bool {
    let line = memchr::memchr(b'\n', input).unwrap_or(input.len());
    line > settings.max_target + MAX_METHOD + " HTTP/1.1\r\n".len()
}

fn too_large(input: &[u8], settings: &Settings) -> Refusal {
    if has_long_line(input, settings) {
        Refusal { kind: FaultKind::TargetTooLong, detail: "the target is too long" }
    } else {
        Refusal { kind: FaultKind::HeadersTooLarge, detail: "the head is too large" }
    }
}

/// Whether the request line names a version in the form that versions have.
fn names_version(input: &[u8]) -> bool {
    let line = input.split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    let version = words.nth(2).unwrap_or_default();
    words.next().is_none()
        && matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
}

fn refusal(error: httparse::Error, input: &[u8]) -> Refusal {
    use httparse::Error as E;
    let (kind, detail) = match error {
        E::TooManyHeaders => (FaultKind::HeadersTooLarge, "too many header fields"),
        E::Version if names_version(input) => {
            (FaultKind::VersionNotSupported, "a version other than HTTP/1.0 and 1.1")
        }
        E::HeaderName => (FaultKind::BadRequest, "a malformed field name"),
        E::HeaderValue => (FaultKind::BadRequest, "a malformed field value"),
        E::NewLine => (FaultKind::BadRequest, "a malformed line end"),
        E::Token | E::Status | E::Version => (FaultKind::BadRequest, "a malformed request line"),
    };
    Refusal { kind, detail }
}
