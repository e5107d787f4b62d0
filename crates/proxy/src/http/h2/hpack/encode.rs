//! Encoding header blocks.

use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;

use super::huffman;
use super::static_table::{FIELDS, index_of};
use super::table::Table;

/// Bytes of the table that are used, however many the peer allows.
const MAX_SIZE: usize = 4096;
/// A field of more than this is not put into the table: it would push out too many others.
const MAX_FIELD: usize = MAX_SIZE / 4;
/// Places for what is known of fields; a power of two.
const PLACES: usize = 128;

/// The encoding side of a connection.
///
/// A field goes into the table when it is sent for the second time. So what is different in each message (the
/// time, a request's id) pushes nothing out, whatever its name is, and what comes again and again takes a byte.
pub struct Encoder {
    table: Table,
    /// Made for the first field, so that a silent connection holds little.
    known: Option<Box<Known>>,
    /// Sizes of the table to be told: the smallest since the last block, and the last.
    resized: Option<(usize, usize)>,
}

/// What was sent before, by its hash; whatever comes later takes the place.
struct Known {
    /// Which entry of the table it is.
    entries: [u32; PLACES],
    /// The hash of what was sent once.
    seen: [u32; PLACES],
}

/// Whether the field goes into the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inserted,
    Plain,
    /// Nor into that of anyone who passes it on.
    Never,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// Nothing has been sent.
    pub fn new() -> Self {
        Self { table: Table::new(MAX_SIZE), known: None, resized: None }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE.
    pub fn set_max_size(&mut self, size: usize) {
        let size = size.min(MAX_SIZE);
        let (least, last) = self.resized.unwrap_or((self.table.max_size(), self.table.max_size()));
        if size != last || least < last {
            self.resized = Some((least.min(size), size));
        }
    }

    /// Begins a block.
    pub fn begin(&mut self, out: &mut BytesMut) {
        // RFC 7541 section 4.2.
        if let Some((least, last)) = self.resized.take() {
            for size in [least, last] {
                if size != self.table.max_size() {
                    self.table.resize(size);
                    integer(size, 5, 0x20, out);
                }
            }
        }
    }

    /// Encodes a field; its name in lower case, whatever case it has.
    pub fn field(&mut self, name: &[u8], value: &[u8], out: &mut BytesMut) {
        if !name.iter().any(u8::is_ascii_uppercase) {
            return self.lower(name, value, index_of(name), out);
        }
        let lower: SmallVec<[u8; 64]> = name.iter().map(u8::to_ascii_lowercase).collect();
        self.lower(&lower, value, index_of(&lower), out);
    }

    /// Encodes `:status`.
    pub fn status(&mut self, status: u16, out: &mut BytesMut) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digit = |by: u16| b'0' + (status / by % 10) as u8;
                return self.lower(b":status", &[digit(100), digit(10), digit(1)], Some(8), out);
            }
        };
        integer(index, 7, 0x80, out);
    }

    /// Encodes `:method`.
    pub fn method(&mut self, value: &[u8], out: &mut BytesMut) {
        match value {
            b"GET" => integer(2, 7, 0x80, out),
            b"POST" => integer(3, 7, 0x80, out),
            _ => self.lower(b":method", value, Some(2), out),
        }
    }

    /// Encodes `:scheme`.
    pub fn scheme(&mut self, value: &[u8], out: &mut BytesMut) {
        match value {
            b"http" => integer(6, 7, 0x80, out),
            b"https" => integer(7, 7, 0x80, out),
            _ => self.lower(b":scheme", value, Some(6), out),
        }
    }

    /// Encodes `:authority`.
    pub fn authority(&mut self, value: &[u8], out: &mut BytesMut) {
        self.lower(b":authority", value, Some(1), out);
    }

    /// Encodes `:path`.
    pub fn path(&mut self, value: &[u8], out: &mut BytesMut) {
        match value {
            b"/" => integer(4, 7, 0x80, out),
            _ => self.lower(b":path", value, Some(4), out),
        }
    }

    fn lower(&mut self, name: &[u8], value: &[u8], index: Option<usize>, out: &mut BytesMut) {
        // RFC 7541 section 7.1.3: what could be guessed byte by byte by those who see how long a block gets.
        let secret = matches!(name, b"authorization" | b"cookie" | b"proxy-authorization" | b"set-cookie");
        if secret {
            return literal(name, value, index, Kind::Never, out);
        }
        if name.len() + value.len() > MAX_FIELD.min(self.table.max_size() / 4) {
            return literal(name, value, index, Kind::Plain, out);
        }
        let hash = hash(name, value);
        let place = hash as usize % PLACES;
        let known =
            self.known.get_or_insert_with(|| Box::new(Known { entries: [0; PLACES], seen: [0; PLACES] }));
        if let Some(age) = self.table.age(known.entries[place])
            && self.table.get(age) == Some((name, value))
        {
            return integer(FIELDS.len() + 1 + age, 7, 0x80, out);
        }
        if std::mem::replace(&mut known.seen[place], hash) != hash {
            return literal(name, value, index, Kind::Plain, out);
        }
        literal(name, value, index, Kind::Inserted, out);
        known.entries[place] = self.table.insert(name, value);
    }
}

/// A cache's hash: one who makes fields collide only has them sent longer.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    let part = |mut hash: u64, bytes: &[u8]| {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            hash = mix(hash, u64::from_le_bytes(*word));
        }
        let last = rest.iter().fold(rest.len() as u64, |word, byte| word << 8 | u64::from(*byte));
        mix(hash, last)
    };
    let hash = part(part(0, name), value);
    (hash >> 32) as u32
}

/// An integer behind a pattern, with a prefix of so many bits (RFC 7541 section 5.1).
#[inline]
fn integer(value: usize, prefix: u32, pattern: u8, out: &mut BytesMut) {
    let most = (1usize << prefix) - 1;
    if value < most {
        return out.put_u8(pattern | value as u8);
    }
    out.put_u8(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// A field that is not in the table. What is put there is coded short, which is paid once; what is not goes as
/// it is, since coding it would cost both sides more than the bytes that it saves.
fn literal(name: &[u8], value: &[u8], index: Option<usize>, kind: Kind, out: &mut BytesMut) {
    out.reserve(name.len() + value.len() + 16);
    let (prefix, pattern) = match kind {
        Kind::Inserted => (6, 0x40),
        Kind::Plain => (4, 0),
        Kind::Never => (4, 0x10),
    };
    integer(index.unwrap_or(0), prefix, pattern, out);
    if index.is_none() {
        string(name, kind, out);
    }
    string(value, kind, out);
}

fn string(text: &[u8], kind: Kind, out: &mut BytesMut) {
    if kind == Kind::Inserted {
        let length = huffman::encoded_len(text);
        if length < text.len() {
            integer(length, 7, 0x80, out);
            return huffman::encode(text, out);
        }
    }
    integer(text.len(), 7, 0, out);
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Decoder, Sink};
    use super::*;

    #[derive(Default, Debug, PartialEq)]
    struct Seen(Vec<(Vec<u8>, Vec<u8>)>);

    impl Sink for Seen {
        fn field(&mut self, name: &[u8], value: &[u8]) {
            self.0.push((name.to_vec(), value.to_vec()));
        }
    }

    fn block(encoder: &mut Encoder, fields: &[(&str, &str)]) -> BytesMut {
        let mut out = BytesMut::new();
        encoder.begin(&mut out);
        fields.iter().for_each(|(name, value)| encoder.field(name.as_bytes(), value.as_bytes(), &mut out));
        out
    }

    #[test]
    fn what_comes_again_takes_a_byte_and_what_does_not_pushes_nothing_out() {
        let mut encoder = Encoder::new();
        let fields = [("Content-Type", "text/plain"), ("server", "a"), ("x-powered-by", "b")];
        let lengths: Vec<usize> = (0..4).map(|_| block(&mut encoder, &fields).len()).collect();
        assert!(lengths[0] >= lengths[1] && lengths[1] > 3, "{lengths:?}");
        assert_eq!(lengths[2..], [3, 3]);
        for n in 0..10_000 {
            block(&mut encoder, &[("x-request-id", &n.to_string())]);
        }
        assert_eq!(block(&mut encoder, &fields).len(), 3);
    }

    #[test]
    fn secrets_are_in_no_table() {
        let mut encoder = Encoder::new();
        for _ in 0..3 {
            let block = block(&mut encoder, &[("Authorization", "Basic YTpi"), ("cookie", "a=b")]);
            assert_eq!(block[0] & 0xf0, 0x10);
            assert!(block.ends_with(b"a=b"));
        }
    }

    #[test]
    fn the_size_of_the_table_is_told() {
        let mut encoder = Encoder::new();
        let fields = [("a", "b")];
        (0..3).for_each(|_| drop(block(&mut encoder, &fields)));
        encoder.set_max_size(0);
        encoder.set_max_size(1 << 20);
        // Emptied, then as before; so the field is a literal again.
        let told = block(&mut encoder, &fields);
        assert_eq!(told[..4], [0x20, 0x3f, 0xe1, 0x1f]);
        assert!(told.len() > 5);
        encoder.set_max_size(4096);
        assert_eq!(block(&mut encoder, &fields).len(), 1);
        encoder.set_max_size(0);
        block(&mut encoder, &fields);
        assert_eq!(block(&mut encoder, &fields)[0], 0, "a literal without indexing");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            blocks in proptest::collection::vec(
                (proptest::collection::vec(("[a-e]{1,2}", "[ -~]{0,3}|[x]{0,1500}|[0-9a-f]{30}"), 0..12), 0usize..5000),
                1..20,
            ),
        ) {
            let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
            for (round, (fields, size)) in blocks.iter().enumerate() {
                if round % 3 == 2 {
                    encoder.set_max_size(*size);
                }
                let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                let mut out = BytesMut::new();
                encoder.begin(&mut out);
                encoder.status(200 + round as u16, &mut out);
                fields.iter().for_each(|(n, v)| encoder.field(n.as_bytes(), v.as_bytes(), &mut out));
                let mut seen = Seen::default();
                prop_assert_eq!(decoder.decode(&out, &mut seen), Ok(()));
                let status = (b":status".to_vec(), (200 + round).to_string().into_bytes());
                let want = std::iter::once(status)
                    .chain(fields.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())));
                prop_assert_eq!(seen, Seen(want.collect()));
            }
        }
    }
}
