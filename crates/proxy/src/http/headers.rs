//! Header fields in wire order and spelling.

use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::h1::names::Own;

/// Header fields, in the order and spelling in which they came (RFC 9110 section 5.3: order matters within
/// a name, and some peers are picky about spelling).
///
/// A received head is kept as one buffer; fields point into it. What filters add is kept in one further
/// buffer, as lines, too: what goes out over HTTP/1.1 is mostly copied in a few long pieces. Names are
/// compared without case. Values are what the wire allows (RFC 9110 section 5.5): whoever puts one in has
/// checked it.
#[derive(Clone, Default)]
pub struct Headers {
    raw: Bytes,
    /// What was added.
    added: Vec<u8>,
    /// On the heap: heads are moved around more often than they are made.
    fields: Vec<Field>,
}

#[derive(Clone, Copy)]
struct Field {
    name: Text,
    value: Text,
    /// Where it is kept, it is a line as HTTP/1.1 has it: `name: value` and CRLF.
    is_line: bool,
    kind: Kind,
}

/// What a field is to the engines.
#[derive(Clone, Copy)]
enum Kind {
    /// Its name tells.
    Unknown,
    /// None of those that an engine reads and writes its own of.
    EndToEnd,
    /// One of those.
    Own(Own),
}

/// The lines of a received head that are kept: see [`Headers::received`].
pub(in crate::http) struct Places(Vec<Field>);

impl Places {
    /// Room for most heads, and for what the gateway adds to a message.
    pub(in crate::http) fn new() -> Self {
        Self(Vec::with_capacity(24))
    }

    pub(in crate::http) fn len(&self) -> usize {
        self.0.len()
    }

    /// Appends a field by the byte ranges of its name and value in the head. `is_line`: there is `: ` between
    /// them, and CRLF behind the value. `own`: what its name says that it is.
    #[inline]
    pub(in crate::http) fn push(
        &mut self,
        name: Range<usize>,
        value: Range<usize>,
        is_line: bool,
        own: Option<Own>,
    ) {
        let text = |range: Range<usize>| Text { start: range.start as u32, len: range.len() as u32 };
        let kind = own.map_or(Kind::EndToEnd, Kind::Own);
        self.0.push(Field { name: text(name), value: text(value), is_line, kind });
    }

    /// Asks for each field, by what it is to an engine and the same ranges, whether it is to be kept, or only for
    /// those that are an engine's own; the others are. Ends with the first error.
    #[inline]
    pub(in crate::http) fn judge<E>(
        &mut self,
        only_own: bool,
        mut judge: impl FnMut(Option<Own>, Range<usize>, Range<usize>) -> Result<bool, E>,
    ) -> Result<(), E> {
        let range = |text: Text| text.start as usize..(text.start + text.len) as usize;
        let mut failed = Ok(());
        self.0.retain_mut(|field| {
            let own = match field.kind {
                Kind::Own(own) => Some(own),
                _ if only_own => return true,
                _ => None,
            };
            if failed.is_err() {
                return false;
            }
            match judge(own, range(field.name), range(field.value)) {
                Ok(kept) => kept,
                Err(error) => {
                    failed = Err(error);
                    false
                }
            }
        });
        failed
    }
}

/// A piece of the received head, or of what was added.
#[derive(Clone, Copy)]
struct Text {
    /// With [`ADDED`], in what was added.
    start: u32,
    len: u32,
}

/// Marks the place of what was added.
const ADDED: u32 = 1 << 31;

impl Text {
    #[inline]
    fn of<'a>(self, raw: &'a [u8], added: &'a [u8]) -> &'a [u8] {
        let start = (self.start & !ADDED) as usize;
        let from = if self.start & ADDED == 0 { raw } else { added };
        &from[start..start + self.len as usize]
    }
}

impl Headers {
    /// A received head of at most 2 GiB, and where in it the fields are that are kept.
    pub(in crate::http) fn received(raw: Bytes, places: Places) -> Self {
        Self { raw, added: Vec::new(), fields: places.0 }
    }

    /// The number of field lines.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// All field lines in order: name and value.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let (raw, added) = (&self.raw[..], &self.added[..]);
        self.fields.iter().map(move |f| (f.name.of(raw, added), f.value.of(raw, added)))
    }

    /// The value of the first line of that name.
    #[inline]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The values of all lines of that name, in order.
    #[inline]
    pub fn get_all<'a, 'n: 'a>(&'a self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// Whether there is a line of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether a list-valued header (RFC 9110 section 5.6.1) of that name has the token, without case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.get_all(name)
            .flat_map(|value| value.split(|b| *b == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Appends a line.
    pub fn append(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let field = self.add(name.as_ref(), value.as_ref());
        self.fields.push(field);
    }

    /// Appends a line of a name that is known to be end to end.
    pub(in crate::http) fn append_end_to_end(&mut self, name: &'static [u8], value: &[u8]) {
        let field = Field { kind: Kind::EndToEnd, ..self.add(name, value) };
        self.fields.push(field);
    }

    /// Sets the name to this one value: the first line of that name takes it, in place and with the
    /// spelling given here, further lines go; without one, it is appended.
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let wanted = name.as_ref();
        let field = self.add(wanted, value.as_ref());
        let (raw, added) = (&self.raw[..], &self.added[..]);
        let same = |f: &Field| f.name.of(raw, added).eq_ignore_ascii_case(wanted);
        match self.fields.iter().position(same) {
            Some(first) => {
                let mut index = 0;
                self.fields.retain(|f| {
                    index += 1;
                    index - 1 <= first || !same(f)
                });
                self.fields[first] = field;
            }
            None => self.fields.push(field),
        }
    }

    /// Keeps the bytes of a field to be.
    fn add(&mut self, name: &[u8], value: &[u8]) -> Field {
        let start = self.added.len();
        // What the gateway tells backends of a client takes about 200 bytes.
        let room = if start == 0 { 256 } else { 0 };
        self.added.reserve(room.max(name.len() + value.len() + 4));
        self.added.extend_from_slice(name);
        self.added.extend_from_slice(b": ");
        self.added.extend_from_slice(value);
        self.added.extend_from_slice(b"\r\n");
        debug_assert!(self.added.len() < ADDED as usize);
        Field {
            name: Text { start: start as u32 | ADDED, len: name.len() as u32 },
            value: Text { start: (start + name.len() + 2) as u32 | ADDED, len: value.len() as u32 },
            is_line: true,
            kind: Kind::Unknown,
        }
    }

    /// Removes all lines of that name; says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        self.remove_if(|n, _| n.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Removes the lines for which the predicate holds; says whether there was one.
    pub fn remove_if(&mut self, mut predicate: impl FnMut(&[u8], &[u8]) -> bool) -> bool {
        let before = self.fields.len();
        let (raw, added) = (&self.raw[..], &self.added[..]);
        self.fields.retain(|f| !predicate(f.name.of(raw, added), f.value.of(raw, added)));
        self.fields.len() < before
    }

    /// Writes the field lines that are to be kept, as HTTP/1.1 has them. The predicate is told whether the
    /// field is known to be end to end, and its name.
    pub(in crate::http) fn write(&self, out: &mut BytesMut, mut keep: impl FnMut(bool, &[u8]) -> bool) {
        let (raw, added) = (&self.raw[..], &self.added[..]);
        out.reserve(raw.len() + added.len() + 64);
        // Lines that follow each other where they are kept are copied at once.
        let (mut run, mut of_added): (Range<usize>, u32) = (0..0, 0);
        let from = |of_added: u32| if of_added == 0 { raw } else { added };
        for field in &self.fields {
            let Field { name, value, is_line, kind } = field;
            if !keep(matches!(kind, Kind::EndToEnd), name.of(raw, added)) {
                continue;
            }
            let start = (name.start & !ADDED) as usize;
            if *is_line {
                let end = ((value.start & !ADDED) + value.len) as usize + 2;
                if start != run.end || name.start & ADDED != of_added {
                    out.extend_from_slice(&from(of_added)[run]);
                    (run, of_added) = (start..end, name.start & ADDED);
                }
                run.end = end;
            } else {
                out.extend_from_slice(&from(of_added)[run]);
                run = 0..0;
                for part in [name.of(raw, added), b": ", value.of(raw, added), b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
        out.extend_from_slice(&from(of_added)[run]);
    }

    /// The sum of the lengths of all names and values, with 4 bytes for each line's separators.
    pub fn wire_len(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len() + 4).sum()
    }
}

/// Field lines that are taken in one by one, as HTTP/1.1 has them, with room for other parts of the head.
#[derive(Default)]
pub(in crate::http) struct Lines {
    raw: BytesMut,
    fields: Vec<Field>,
}

impl Lines {
    /// Room for that many bytes and lines.
    pub(in crate::http) fn with_capacity(bytes: usize, lines: usize) -> Self {
        Self { raw: BytesMut::with_capacity(bytes), fields: Vec::with_capacity(lines) }
    }

    /// Appends a line.
    #[inline]
    pub(in crate::http) fn push(&mut self, name: &[u8], value: &[u8]) {
        let start = self.raw.len();
        self.raw.reserve(name.len() + value.len() + 4);
        self.raw.extend_from_slice(name);
        self.raw.extend_from_slice(b": ");
        self.raw.extend_from_slice(value);
        self.raw.extend_from_slice(b"\r\n");
        self.fields.push(Field {
            name: Text { start: start as u32, len: name.len() as u32 },
            value: Text { start: (start + name.len() + 2) as u32, len: value.len() as u32 },
            is_line: true,
            kind: Kind::Unknown,
        });
    }

    /// Keeps bytes that are no line: where they are in what [`Lines::finish`] gives.
    #[inline]
    pub(in crate::http) fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.raw.len();
        self.raw.extend_from_slice(bytes);
        start..self.raw.len()
    }

    /// The fields, and the bytes that they point into.
    pub(in crate::http) fn finish(self) -> (Headers, Bytes) {
        let raw = self.raw.freeze();
        (Headers { raw: raw.clone(), added: Vec::new(), fields: self.fields }, raw)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v))))
            .finish()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Headers {
    fn from(lines: [(&str, &str); N]) -> Self {
        let mut headers = Self::default();
        for (name, value) in lines {
            headers.append(name, value);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_in_place_and_drops_the_rest() {
        let mut headers = Headers::from([("A", "1"), ("x-b", "2"), ("B", "3"), ("X-B", "4")]);
        headers.set("X-b", "5");
        assert_eq!(headers, Headers::from([("A", "1"), ("X-b", "5"), ("B", "3")]));
        headers.set("c", "6");
        assert!(headers.remove("a") && !headers.remove("a"));
        assert_eq!(headers, Headers::from([("X-b", "5"), ("B", "3"), ("c", "6")]));
    }

    #[test]
    fn lines_are_written_as_they_are_in_order() {
        let head = b"GET / HTTP/1.1\r\nA: 1\r\nb:2\r\nHost: h\r\nC: 3 \r\nD:  4\r\nE: 5\r\nF: \r\n\r\n";
        let mut places = Places::new();
        let mut push = |name: Range<usize>, value: Range<usize>| {
            let is_line = head[name.end..value.start] == *b": " && head[value.end..].starts_with(b"\r\n");
            places.push(name, value, is_line, None);
        };
        let find = |text: &[u8]| head.windows(text.len()).position(|w| w == text).unwrap();
        for (name, value) in [("A", "1"), ("b", "2"), ("Host", "h"), ("C", "3"), ("D", "4"), ("E", "5")] {
            let (n, v) = (find(format!("\n{name}:").as_bytes()) + 1, find(value.as_bytes()));
            let v = if name == "A" { n + 3 } else { v };
            push(n..n + name.len(), v..v + value.len());
        }
        let empty = find(b"F: ");
        push(empty..empty + 1, empty + 3..empty + 3);
        let mut headers = Headers::received(Bytes::from_static(head), places);
        headers.append("x-g", "6");
        headers.set("e", "7");
        headers.append("x-h", "8");
        let written = |skip: &str| {
            let mut out = BytesMut::new();
            headers.write(&mut out, |_, name| !name.eq_ignore_ascii_case(skip.as_bytes()));
            String::from_utf8(out.to_vec()).unwrap()
        };
        let all = "A: 1\r\nb: 2\r\nHost: h\r\nC: 3\r\nD: 4\r\ne: 7\r\nF: \r\nx-g: 6\r\nx-h: 8\r\n";
        assert_eq!(written(""), all);
        assert_eq!(written("host"), all.replace("Host: h\r\n", ""));
        assert_eq!(written("A"), all.replace("A: 1\r\n", ""));
        assert_eq!(written("x-g"), all.replace("x-g: 6\r\n", ""));
        assert_eq!(written("x-h"), all.replace("x-h: 8\r\n", ""));
    }

    #[test]
    fn raw_fields_read_from_the_received_head() {
        let head = b"Host: a\r\nConnection: close, X\r\n";
        let mut places = Places::new();
        places.push(0..4, 6..7, true, Some(Own::Host));
        places.push(9..19, 21..29, true, Some(Own::Connection));
        let headers = Headers::received(Bytes::from_static(head), places);
        assert_eq!(headers.get("host"), Some(&b"a"[..]));
        assert!(headers.has_token("connection", "x") && !headers.has_token("connection", "clos"));
    }
}
