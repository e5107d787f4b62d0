//! Header fields in wire order and spelling.

use std::fmt;

use bytes::Bytes;

/// Header fields, in the order and spelling in which they came (RFC 9110 section 5.3: order matters within
/// a name, and some peers are picky about spelling).
///
/// A received head is kept as one buffer; fields point into it. Fields that filters add own their bytes.
/// Names are compared without case. Values are what the wire allows (RFC 9110 section 5.5): whoever puts
/// one in has checked it.
#[derive(Clone, Default)]
pub struct Headers {
    raw: Bytes,
    /// On the heap: heads are moved around more often than they are made.
    fields: Vec<Field>,
}

#[derive(Clone)]
struct Field {
    name: Text,
    value: Text,
}

/// A piece of the received head, or bytes of its own.
#[derive(Clone)]
enum Text {
    Raw { start: u32, len: u32 },
    Own(Bytes),
}

impl Text {
    #[inline]
    fn bytes<'a>(&'a self, raw: &'a Bytes) -> &'a [u8] {
        match self {
            Self::Raw { start, len } => &raw[*start as usize..(*start + *len) as usize],
            Self::Own(text) => text,
        }
    }
}

impl Headers {
    /// No fields, and the received head that [`Headers::push_raw`] will point into. At most 4 GiB.
    pub fn received(raw: Bytes) -> Self {
        Self { raw, fields: Vec::new() }
    }

    /// Makes room for that many more lines.
    pub fn reserve(&mut self, lines: usize) {
        self.fields.reserve(lines);
    }

    /// Appends a field of the received head by the byte ranges of its name and value in it.
    #[inline]
    pub fn push_raw(&mut self, name: std::ops::Range<usize>, value: std::ops::Range<usize>) {
        let text =
            |r: std::ops::Range<usize>| Text::Raw { start: r.start as u32, len: (r.end - r.start) as u32 };
        debug_assert!(name.end <= self.raw.len() && value.end <= self.raw.len());
        self.fields.push(Field { name: text(name), value: text(value) });
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
        self.fields.iter().map(|f| (f.name.bytes(&self.raw), f.value.bytes(&self.raw)))
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
    pub fn append(&mut self, name: impl Into<FieldBytes>, value: impl Into<FieldBytes>) {
        self.fields.push(Field { name: name.into().0, value: value.into().0 });
    }

    /// Sets the name to this one value: the first line of that name takes it, in place and with the
    /// spelling given here, further lines go; without one, it is appended.
    pub fn set(&mut self, name: impl Into<FieldBytes>, value: impl Into<FieldBytes>) {
        let field = Field { name: name.into().0, value: value.into().0 };
        let raw = &self.raw;
        let wanted = field.name.bytes(raw);
        let same = |f: &Field| f.name.bytes(raw).eq_ignore_ascii_case(wanted);
        match self.fields.iter().position(same) {
            Some(first) => {
                let mut index = 0;
                self.fields.retain(|f| {
                    index += 1;
                    index - 1 <= first || !f.name.bytes(raw).eq_ignore_ascii_case(wanted)
                });
                self.fields[first] = field;
            }
            None => self.fields.push(field),
        }
    }

    /// Removes all lines of that name; says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        self.remove_if(|n, _| n.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Removes the lines for which the predicate holds; says whether there was one.
    pub fn remove_if(&mut self, mut predicate: impl FnMut(&[u8], &[u8]) -> bool) -> bool {
        let before = self.fields.len();
        let raw = &self.raw;
        self.fields.retain(|f| !predicate(f.name.bytes(raw), f.value.bytes(raw)));
        self.fields.len() < before
    }

    /// The sum of the lengths of all names and values, with 4 bytes for each line's separators.
    pub fn wire_len(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len() + 4).sum()
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

/// Bytes for a field's name or value.
pub struct FieldBytes(Text);

impl From<&'static str> for FieldBytes {
    fn from(text: &'static str) -> Self {
        Self(Text::Own(Bytes::from_static(text.as_bytes())))
    }
}

impl From<Bytes> for FieldBytes {
    fn from(bytes: Bytes) -> Self {
        Self(Text::Own(bytes))
    }
}

impl From<String> for FieldBytes {
    fn from(text: String) -> Self {
        Self(Text::Own(text.into()))
    }
}

impl From<Vec<u8>> for FieldBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Text::Own(bytes.into()))
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Headers {
    fn from(lines: [(&str, &str); N]) -> Self {
        let mut headers = Self::default();
        for (name, value) in lines {
            headers.append(name.to_owned(), value.to_owned());
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
    fn raw_fields_read_from_the_received_head() {
        let mut headers = Headers::received(Bytes::from_static(b"Host: a\r\nConnection: close, X\r\n"));
        headers.push_raw(0..4, 6..7);
        headers.push_raw(9..19, 21..29);
        assert_eq!(headers.get("host"), Some(&b"a"[..]));
        assert!(headers.has_token("connection", "x") && !headers.has_token("connection", "clos"));
    }
}
