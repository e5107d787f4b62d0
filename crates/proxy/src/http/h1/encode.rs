//! Heads and chunks onto the wire, in canonical framing.

use std::cell::Cell;
use std::time::SystemTime;

use bytes::BytesMut;
use http::{Method, StatusCode};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::names::{self, Own};
use crate::http::{Body, Headers, RequestHead, ResponseHead};

/// How a body is delimited on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// There is no body, and its headers may describe one that is not sent (HEAD, 304).
    None,
    Length(u64),
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// What a field is to the engine, if that is not known already.
#[inline]
fn own(end_to_end: bool, name: &[u8]) -> Option<Own> {
    if end_to_end { None } else { names::own(name) }
}

/// The head of a final response. `describes`: its own `Content-Length` is of a body that is not sent.
pub(super) fn response(
    out: &mut BytesMut,
    head: &ResponseHead,
    encoding: Encoding,
    describes: bool,
    connection: Option<&'static str>,
) {
    status_line(out, head.status);
    let mut dated = false;
    head.headers.write(out, |end_to_end, name| match own(end_to_end, name) {
        None => {
            dated |= name.len() == 4 && name.eq_ignore_ascii_case(b"date");
            true
        }
        Some(Own::Host | Own::Expect) => true,
        Some(Own::ContentLength) => describes,
        Some(_) => false,
    });
    if !dated {
        date(out);
    }
    framing(out, encoding);
    if let Some(connection) = connection {
        field(out, b"connection", connection.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// The head of a 101: `Upgrade` goes with it.
pub(super) fn switching(out: &mut BytesMut, head: &ResponseHead) {
    status_line(out, head.status);
    head.headers.write(out, |end_to_end, name| matches!(own(end_to_end, name), None | Some(Own::Upgrade)));
    out.extend_from_slice(b"connection: upgrade\r\n\r\n");
}

/// A 1xx response.
pub(super) fn interim(out: &mut BytesMut, head: &ResponseHead) {
    status_line(out, head.status);
    head.headers.write(out, |end_to_end, name| own(end_to_end, name).is_none());
    out.extend_from_slice(b"\r\n");
}

/// A request's head.
pub(super) fn request(
    out: &mut BytesMut,
    head: &RequestHead,
    body: &Body,
    upgrade: Option<&[u8]>,
    expects_continue: bool,
) -> Encoding {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(head.target.text());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    // First, so that it is easy to find (RFC 9110 section 7.2).
    field(out, b"Host", head.authority.text());
    let (mut te, mut says_length) = (false, false);
    head.headers.write(out, |end_to_end, name| match own(end_to_end, name) {
        None => true,
        Some(Own::Te) => {
            te = true;
            true
        }
        Some(own) => {
            says_length |= own == Own::ContentLength;
            false
        }
    });
    let encoding = match body.remaining() {
        // A method that has a body by its nature says that there is none (RFC 9110 section 8.6).
        Some(0) if says_length || matches!(head.method, Method::POST | Method::PUT | Method::PATCH) => {
            Encoding::Length(0)
        }
        Some(0) => Encoding::None,
        Some(length) => Encoding::Length(length),
        None => Encoding::Chunked,
    };
    framing(out, encoding);
    if expects_continue {
        field(out, b"Expect", b"100-continue");
    }
    match (upgrade, te) {
        (Some(protocol), te) => {
            field(out, b"Connection", if te { b"upgrade, TE" } else { b"upgrade" });
            field(out, b"Upgrade", protocol);
        }
        (None, true) => field(out, b"Connection", b"TE"),
        (None, false) => {}
    }
    out.extend_from_slice(b"\r\n");
    encoding
}

/// The size line ahead of a chunk.
pub(super) fn chunk_size(out: &mut BytesMut, size: usize) {
    let mut digits = [0; 18];
    let mut at = digits.len() - 2;
    digits[at..].copy_from_slice(b"\r\n");
    let mut left = size;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The last chunk, and the trailer section if there is one.
pub(super) fn last_chunk(out: &mut BytesMut, trailers: Option<&Headers>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        trailers.write(out, |_, name| !names::is_forbidden_in_trailers(name));
    }
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut BytesMut, status: StatusCode) {
    if status == StatusCode::OK {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn framing(out: &mut BytesMut, encoding: Encoding) {
    match encoding {
        Encoding::None | Encoding::UntilClose => {}
        Encoding::Length(length) => {
            field(out, b"content-length", itoa::Buffer::new().format(length).as_bytes());
        }
        Encoding::Chunked => field(out, b"transfer-encoding", b"chunked"),
    }
}

/// `Date`, for a response that came without one (RFC 9110 section 6.6.1).
fn date(out: &mut BytesMut) {
    const FORMAT: &[BorrowedFormatItem<'_>] = format_description!(
        "date: [weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT\r\n"
    );
    thread_local! {
        static LINE: Cell<(i64, [u8; 37])> = const { Cell::new((i64::MIN, [0; 37])) };
    }
    let now = OffsetDateTime::from(SystemTime::now());
    let (mut second, mut line) = LINE.get();
    if second != now.unix_timestamp() {
        second = now.unix_timestamp();
        if now.format_into(&mut &mut line[..], FORMAT).is_err() {
            return;
        }
        LINE.set((second, line));
    }
    out.extend_from_slice(&line);
}
