//! Decoding header blocks.

use super::static_table::FIELDS;
use super::table::Table;
use super::{Malformed, huffman};

/// Takes decoded fields in.
pub trait Sink {
    /// One field, in order. Nothing about its characters has been checked.
    fn field(&mut self, name: &[u8], value: &[u8]);

    /// Whether that was far too much, so that the rest is not worth its time.
    fn is_full(&self) -> bool {
        false
    }
}

/// The decoding side of a connection.
pub struct Decoder {
    table: Table,
    /// What we have announced as SETTINGS_HEADER_TABLE_SIZE.
    max_size: usize,
    /// Strings that were decoded.
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Strings longer than this are not kept room for.
const KEEP: usize = 1024;

impl Decoder {
    /// `max_size` as announced by SETTINGS_HEADER_TABLE_SIZE; 4096 if nothing was.
    pub fn new(max_size: usize) -> Self {
        Self { table: Table::new(max_size), max_size, name: Vec::new(), value: Vec::new() }
    }

    /// Decodes one whole header block: all of its fragments, joined.
    ///
    /// # Errors
    /// When it breaks RFC 7541, or is more than `sink` takes. The connection cannot go on: what the peer thinks is
    /// in the table is not known.
    pub fn decode(&mut self, block: &[u8], sink: &mut impl Sink) -> Result<(), Malformed> {
        let mut rest = block;
        let block = &mut rest;
        self.resize(block)?;
        while let Some(&first) = block.first() {
            if sink.is_full() {
                return Err(Malformed);
            }
            if first & 0x80 != 0 {
                let index = integer(block, 7)?;
                let (name, value) = field(&self.table, index)?;
                sink.field(name, value);
                continue;
            }
            if first & 0xe0 == 0x20 {
                // RFC 7541 section 4.2: only where a block begins.
                return Err(Malformed);
            }
            let inserted = first & 0x40 != 0;
            let index = integer(block, if inserted { 6 } else { 4 })?;
            self.name.clear();
            let name = match index {
                0 => string(block, &mut self.name)?,
                index if index <= FIELDS.len() => FIELDS[index - 1].0,
                // Copied, since inserting may push it out of the table.
                index => {
                    self.name.extend_from_slice(field(&self.table, index)?.0);
                    &self.name
                }
            };
            self.value.clear();
            let value = string(block, &mut self.value)?;
            sink.field(name, value);
            if inserted {
                self.table.insert(name, value);
            }
        }
        for scratch in [&mut self.name, &mut self.value] {
            if scratch.capacity() > KEEP {
                *scratch = Vec::new();
            }
        }
        Ok(())
    }

    /// Changes of the table's size, of which there are at most two: the smallest in between and the last.
    fn resize(&mut self, block: &mut &[u8]) -> Result<(), Malformed> {
        for _ in 0..2 {
            if block.first().is_none_or(|first| first & 0xe0 != 0x20) {
                break;
            }
            let size = integer(block, 5)?;
            if size > self.max_size {
                return Err(Malformed);
            }
            self.table.resize(size);
        }
        Ok(())
    }
}

/// The field of an index (RFC 7541 section 2.3.3).
#[inline]
fn field(table: &Table, index: usize) -> Result<(&[u8], &[u8]), Malformed> {
    match index.checked_sub(1) {
        None => Err(Malformed),
        Some(index) if index < FIELDS.len() => Ok(FIELDS[index]),
        Some(index) => table.get(index - FIELDS.len()).ok_or(Malformed),
    }
}

/// An integer with a prefix of so many bits (RFC 7541 section 5.1), of at most 28 bits beyond it.
#[inline]
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    let (first, rest) = block.split_first().ok_or(Malformed)?;
    *block = rest;
    let most = (1usize << prefix) - 1;
    let mut value = usize::from(*first) & most;
    if value < most {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let (byte, rest) = block.split_first().ok_or(Malformed)?;
        *block = rest;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

/// A string (RFC 7541 section 5.2): where it stands, or decoded into `scratch`.
#[inline]
fn string<'r, 'b: 'r>(block: &mut &'b [u8], scratch: &'r mut Vec<u8>) -> Result<&'r [u8], Malformed> {
    let coded = block.first().ok_or(Malformed)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Malformed)?;
    *block = rest;
    if coded {
        huffman::decode(text, scratch)?;
        return Ok(scratch);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<(String, String)>);

    impl Sink for Seen {
        fn field(&mut self, name: &[u8], value: &[u8]) {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            self.0.push((text(name), text(value)));
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
    }

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<String, Malformed> {
        let mut seen = Seen::default();
        decoder.decode(block, &mut seen)?;
        Ok(seen.0.iter().map(|(name, value)| format!("{name}={value};")).collect())
    }

    #[test]
    fn single_fields_as_in_the_standard() {
        // RFC 7541 appendix C.2.
        for (block, want) in [
            ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", "custom-key=custom-header;"),
            ("040c 2f73 616d 706c 652f 7061 7468", ":path=/sample/path;"),
            ("1008 7061 7373 776f 7264 0673 6563 7265 74", "password=secret;"),
            ("82", ":method=GET;"),
        ] {
            assert_eq!(decoded(&mut Decoder::new(4096), &hex(block)).as_deref(), Ok(want));
        }
    }

    #[test]
    fn requests_as_in_the_standard() {
        let heads = [
            ":method=GET;:scheme=http;:path=/;:authority=www.example.com;",
            ":method=GET;:scheme=http;:path=/;:authority=www.example.com;cache-control=no-cache;",
            ":method=GET;:scheme=https;:path=/index.html;:authority=www.example.com;custom-key=custom-value;",
        ];
        // RFC 7541 appendices C.3 and C.4.
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let coded = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        for blocks in [plain, coded] {
            let mut decoder = Decoder::new(4096);
            for (block, head) in blocks.iter().zip(heads) {
                assert_eq!(decoded(&mut decoder, &hex(block)).as_deref(), Ok(head));
            }
        }
    }

    #[test]
    fn responses_as_in_the_standard_push_others_out() {
        let first = ":status=302;cache-control=private;date=Mon, 21 Oct 2013 20:13:21 GMT;location=https://www.example.com;";
        let heads = [
            first.to_owned(),
            first.replace("302", "307"),
            format!(
                ":status=200;cache-control=private;date=Mon, 21 Oct 2013 20:13:22 GMT;location=https://www.example.com;\
                 content-encoding=gzip;set-cookie={};",
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
            ),
        ];
        // RFC 7541 appendices C.5 and C.6, with a table of 256 bytes.
        let plain = [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32
             3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970
             7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61
             6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
        ];
        let coded = [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad
             1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2
             e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ];
        for blocks in [plain, coded] {
            let mut decoder = Decoder::new(256);
            for (block, head) in blocks.iter().zip(&heads) {
                assert_eq!(decoded(&mut decoder, &hex(block)).as_ref(), Ok(head));
            }
        }
    }

    #[test]
    fn what_breaks_the_standard_is_refused() {
        for (what, block) in [
            ("index 0", "80"),
            ("an index beyond the table", "be"),
            ("a name beyond the table", "7f 00 01 61"),
            ("an integer without end", "ff ff ff ff ff ff ff ff ff 01"),
            ("an integer that is cut", "ff"),
            ("a string that is cut", "00 01 61 05 62"),
            ("a value that is missing", "00 01 61"),
            ("a size that is not ours", "3f e2 1f"),
            ("a third size", "20 20 20"),
            ("a size after a field", "82 20"),
            ("bad padding", "00 01 61 81 18"),
        ] {
            assert_eq!(decoded(&mut Decoder::new(4096), &hex(block)), Err(Malformed), "{what}");
        }
        assert_eq!(decoded(&mut Decoder::new(4096), &hex("20 3f e1 1f 82")).as_deref(), Ok(":method=GET;"));
    }

    #[test]
    fn a_field_may_push_out_what_its_name_came_from() {
        let mut decoder = Decoder::new(64);
        assert_eq!(decoded(&mut decoder, &hex("40 01 61 01 62")).as_deref(), Ok("a=b;"));
        // The same name with a value of 20 bytes: both do not fit.
        let block = [&[0x7e, 20][..], &[b'c'; 20]].concat();
        let want = format!("a={};", "c".repeat(20));
        assert_eq!(decoded(&mut decoder, &block), Ok(want.clone()));
        assert_eq!(decoded(&mut decoder, &hex("be")), Ok(want));
        assert_eq!(decoded(&mut decoder, &hex("bf")), Err(Malformed));
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(blocks in proptest::collection::vec(proptest::collection::vec(0u8.., 0..200), 0..4)) {
            let mut decoder = Decoder::new(4096);
            for block in blocks {
                let _ = decoded(&mut decoder, &block);
            }
        }
    }
}
