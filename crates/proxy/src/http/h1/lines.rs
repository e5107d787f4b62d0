//! The lines of a head, read in one pass (RFC 9112 sections 2.2, 3, 4 and 5).
//!
//! What is read here is well formed and whole. What is not is `None`, whatever is wrong with it: `httparse` is
//! asked why, which is off the path of whoever behaves.

use std::ops::Range;

use super::names;

/// The first line of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestLine {
    pub(super) method: Range<usize>,
    pub(super) target: Range<usize>,
    /// HTTP/1.1; else 1.0.
    pub(super) version_1_1: bool,
    /// Where the field lines begin.
    pub(super) end: usize,
}

/// The first line of a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StatusLine {
    /// HTTP/1.1; else 1.0.
    pub(super) version_1_1: bool,
    /// Three digits.
    pub(super) status: u16,
    /// Where the field lines begin.
    pub(super) end: usize,
}

/// A field line, without what surrounds its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: Range<usize>,
    pub(super) value: Range<usize>,
    /// Nothing surrounds the value but one space before it.
    pub(super) is_plain: bool,
}

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Where, from a place on, the first byte is that is below `least` or DEL; the length if there is none. Eight
/// bytes at a time.
#[inline(always)]
fn end_of(text: &[u8], mut at: usize, least: u8) -> usize {
    let (words, rest) = text.get(at..).unwrap_or_default().as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word);
        let low = word.wrapping_sub(LOW * u64::from(least)) & !word;
        let delete = word ^ (LOW * 0x7f);
        let delete = delete.wrapping_sub(LOW) & !delete;
        // What is found above the first is not to be trusted: it may have borrowed from there.
        let found = (low | delete) & HIGH;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    for byte in rest {
        if *byte < least || *byte == 0x7f {
            break;
        }
        at += 1;
    }
    at
}

/// Where, from a place on, the first byte is that is no part of a token; the length if there is none.
#[inline(always)]
fn end_of_token(text: &[u8], mut at: usize) -> usize {
    for byte in text.get(at..).unwrap_or_default() {
        if !names::is_token(*byte) {
            break;
        }
        at += 1;
    }
    at
}

/// Whether no byte is above 0x7F. The standard library's own takes three times as many instructions for a head.
#[inline]
pub(super) fn is_ascii(text: &[u8]) -> bool {
    let (words, rest) = text.as_chunks::<8>();
    let words = words.iter().fold(0, |all, word| all | u64::from_le_bytes(*word));
    words & HIGH == 0 && rest.is_ascii()
}

#[inline]
fn starts_with(text: &[u8], at: usize, what: &[u8]) -> bool {
    text.get(at..at + what.len()) == Some(what)
}

/// The version at a place.
#[inline]
fn version(text: &[u8], at: usize) -> Option<bool> {
    match text.get(at..at + 8)? {
        b"HTTP/1.1" => Some(true),
        b"HTTP/1.0" => Some(false),
        _ => None,
    }
}

/// Reads a request line with its end: one space between its parts, and CRLF.
pub(super) fn request_line(head: &[u8]) -> Option<RequestLine> {
    let method = end_of_token(head, 0);
    if method == 0 || head.get(method) != Some(&b' ') {
        return None;
    }
    let target = method + 1;
    let end = end_of(head, target, b'!');
    if end == target || head.get(end) != Some(&b' ') {
        return None;
    }
    let version_1_1 = version(head, end + 1)?;
    let line = end + 1 + "HTTP/1.1".len();
    starts_with(head, line, b"\r\n").then_some(RequestLine {
        method: 0..method,
        target: target..end,
        version_1_1,
        end: line + 2,
    })
}

/// Reads a status line with its end. A reason may be missing, with its space.
pub(super) fn status_line(head: &[u8]) -> Option<StatusLine> {
    let version_1_1 = version(head, 0)?;
    let digits = match head.get(8..12)? {
        [b' ', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return None,
    };
    let status = digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    let end = match head.get(12)? {
        b' ' => end_of_text(head, 13),
        _ => 12,
    };
    starts_with(head, end, b"\r\n").then_some(StatusLine { version_1_1, status, end: end + 2 })
}

/// Where, from a place on, the first byte is that is no part of a field value or a reason.
#[inline(always)]
fn end_of_text(head: &[u8], at: usize) -> usize {
    let mut end = end_of(head, at, b' ');
    while head.get(end) == Some(&b'\t') {
        end = end_of(head, end + 1, b' ');
    }
    end
}

/// Reads a field line at a place: the line, and where the next begins.
#[inline]
pub(super) fn field_line(head: &[u8], at: usize) -> Option<(Line, usize)> {
    let name = end_of_token(head, at);
    if name == at || head.get(name) != Some(&b':') {
        return None;
    }
    let mut start = name + 1;
    while let Some(b' ' | b'\t') = head.get(start) {
        start += 1;
    }
    let line = end_of_text(head, start);
    if !starts_with(head, line, b"\r\n") {
        return None;
    }
    let mut end = line;
    while end > start && matches!(head[end - 1], b' ' | b'\t') {
        end -= 1;
    }
    let is_plain = start == name + 2 && head[name + 1] == b' ' && end == line;
    Some((Line { name: at..name, value: start..end, is_plain }, line + 2))
}

/// Whether the empty line that ends the head is at that place.
#[inline]
pub(super) fn is_end(head: &[u8], at: usize) -> bool {
    starts_with(head, at, b"\r\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A head's lines, as text: the first line's parts, then names and values; and its length.
    type Parts = (Vec<Vec<u8>>, usize);

    fn part(head: &[u8], range: Range<usize>) -> Vec<u8> {
        head[range].to_vec()
    }

    fn fields(head: &[u8], mut at: usize, mut parts: Vec<Vec<u8>>) -> Option<Parts> {
        while !is_end(head, at) {
            let (line, next) = field_line(head, at)?;
            parts.extend([part(head, line.name), part(head, line.value)]);
            at = next;
        }
        Some((parts, at + 2))
    }

    fn request(head: &[u8]) -> Option<Parts> {
        let line = request_line(head)?;
        let version = vec![b'0' + u8::from(line.version_1_1)];
        fields(head, line.end, vec![part(head, line.method), part(head, line.target), version])
    }

    fn response(head: &[u8]) -> Option<Parts> {
        let line = status_line(head)?;
        fields(head, line.end, vec![line.status.to_string().into(), vec![b'0' + u8::from(line.version_1_1)]])
    }

    /// The same by httparse, with all lines ending in CRLF; an empty line ahead is not taken.
    fn by_httparse(head: &[u8], is_request: bool) -> Option<Parts> {
        let mut space = [httparse::EMPTY_HEADER; 64];
        let (mut parts, read, len): (Vec<Vec<u8>>, _, _) = if is_request {
            let mut read = httparse::Request::new(&mut space);
            let httparse::Status::Complete(len) = read.parse(head).ok()? else { return None };
            let version = vec![b'0' + read.version?];
            (vec![read.method?.into(), read.path?.into(), version], read.headers, len)
        } else {
            let mut read = httparse::Response::new(&mut space);
            let httparse::Status::Complete(len) = read.parse(head).ok()? else { return None };
            (vec![read.code?.to_string().into(), vec![b'0' + read.version?]], read.headers, len)
        };
        parts.extend(read.iter().flat_map(|field| [field.name.as_bytes().to_vec(), field.value.to_vec()]));
        let crlf = |at: usize| at > 0 && head[at - 1] == b'\r';
        let feeds = (0..len).filter(|at| head[*at] == b'\n');
        (!head.starts_with(b"\r") && feeds.into_iter().all(crlf)).then_some((parts, len))
    }

    /// Pieces of which heads are made, and of what heads must not have.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let known = prop::sample::select(vec![
            "GET",
            "PATCH",
            " ",
            "  ",
            "/",
            "/a?b",
            "http://a/",
            "HTTP/1.1",
            "HTTP/1.0",
            "HTTP/1.2",
            "\r\n",
            "\r\n",
            "\r\n\r\n",
            "\n",
            "\r",
            "Host",
            "x-y",
            "a_b",
            ":",
            ": ",
            ":\t ",
            "200",
            "99",
            "200 OK",
            "\t",
            "a b c d e",
            "0123456789abcdef",
            "\u{7f}",
            "\u{e9}",
            "\0",
            ",",
            "\"",
        ]);
        prop_oneof![
            8 => known.prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 1..12),
        ]
    }

    /// Something like a head: a good one, with a few pieces put in, or in the place of others.
    fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
        let first = prop::sample::select(vec![
            "GET /a/b?c=d HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.0\r\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.0 404\r\n",
            "HTTP/1.1 503 Service \tUnavailable\u{e9}\r\n",
            "",
        ]);
        let field = (
            prop::sample::select(vec!["Host", "a", "Accept-Encoding", "x_y", "!#$%&'*+-.^_`|~0"]),
            prop::sample::select(vec![":", ": ", ":  ", ":\t"]),
            prop::sample::select(vec![
                "",
                "a",
                "gzip, br",
                "1234567",
                "12345678",
                "123456789",
                "a\tb",
                "\u{e9}",
            ]),
            prop::sample::select(vec!["", " ", " \t"]),
        );
        let field = field.prop_map(|(name, colon, value, end)| format!("{name}{colon}{value}{end}\r\n"));
        let good = (first, prop::collection::vec(field, 0..5))
            .prop_map(|(first, fields)| format!("{first}{}\r\nbody", fields.concat()).into_bytes());
        let change = (any::<prop::sample::Index>(), 0usize..3, piece());
        (good, prop::collection::vec(change, 0..3)).prop_map(|(mut head, changes)| {
            for (at, len, with) in changes {
                let at = at.index(head.len());
                let end = (at + len).min(head.len());
                head.splice(at..end, with);
            }
            head
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn what_is_read_is_what_httparse_reads(head in prop_oneof![
            6 => nearly_a_head(),
            1 => prop::collection::vec(piece(), 0..12).prop_map(|pieces| pieces.concat()),
        ]) {
            let read = request(&head);
            // httparse wants such a target to be UTF-8; what becomes of it is not decided here.
            if head.split(|byte| *byte == b'\r').next().is_none_or(<[u8]>::is_ascii) {
                prop_assert_eq!(read, by_httparse(&head, true));
            }
            prop_assert_eq!(response(&head), by_httparse(&head, false));
        }
    }

    #[test]
    fn every_byte_in_every_place() {
        for at in 0..21 {
            for byte in 0..=u8::MAX {
                let mut text = *b"abcdefghijkLMN-0123xy";
                text[at] = byte;
                let want =
                    |least: u8| text.iter().position(|b| *b < least || *b == 0x7f).unwrap_or(text.len());
                for least in *b" !" {
                    assert_eq!(end_of(&text, 0, least), want(least), "{byte} at {at}");
                }
                assert_eq!(is_ascii(&text), text.is_ascii(), "{byte} at {at}");
            }
        }
    }
}
