//! Text of log lines, written without an allocation for each value.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;

/// What a byte of a JSON string becomes (RFC 8259 section 7): 0 for itself, `u` for `\u00XX`, else the letter
/// after the backslash.
const JSON_ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x08] = b'b';
    table[b'\t' as usize] = b't';
    table[b'\n' as usize] = b'n';
    table[0x0c] = b'f';
    table[b'\r' as usize] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

const HEX: [u8; 16] = *b"0123456789abcdef";

/// Appends a JSON string. Bytes that are no UTF-8 show as U+FFFD.
pub(super) fn json_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if text.iter().all(|byte| byte.is_ascii() && JSON_ESCAPES[usize::from(*byte)] == 0) {
        out.extend_from_slice(text);
    } else {
        for byte in String::from_utf8_lossy(text).bytes() {
            match JSON_ESCAPES[usize::from(byte)] {
                0 => out.push(byte),
                b'u' => {
                    out.extend_from_slice(b"\\u00");
                    out.extend_from_slice(&hex_pair(byte));
                }
                letter => out.extend_from_slice(&[b'\\', letter]),
            }
        }
    }
    out.push(b'"');
}

/// As nginx does, so that no client can end a field or a line: quotes, backslashes and what is not
/// printable ASCII become `\xHH`.
pub(super) fn common_text(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => {
                out.extend_from_slice(b"\\x");
                out.extend_from_slice(&hex_pair(*byte).map(|digit| digit.to_ascii_uppercase()));
            }
            byte => out.push(*byte),
        }
    }
}

/// Appends bytes in lower-case hexadecimal.
pub(super) fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.extend_from_slice(&hex_pair(*byte));
    }
}

pub(super) fn hex_pair(byte: u8) -> [u8; 2] {
    [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]
}

/// Appends a number.
pub(super) fn number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends milliseconds to the microsecond, with as few digits as say it, but one after the point.
pub(super) fn millis(out: &mut Vec<u8>, duration: Duration) {
    let micros = duration.as_micros();
    number(out, micros / 1000);
    out.push(b'.');
    let mut rest = u16::try_from(micros % 1000).unwrap_or_default();
    let mut unit = 100;
    loop {
        out.push(b'0' + u8::try_from(rest / unit).unwrap_or_default());
        rest %= unit;
        if rest == 0 {
            return;
        }
        unit /= 10;
    }
}

/// Appends an IP address.
pub(super) fn ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            for (nth, octet) in ip.octets().into_iter().enumerate() {
                if nth > 0 {
                    out.push(b'.');
                }
                number(out, octet);
            }
        }
        // Writing to a Vec does not fail.
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
}

/// Appends an address with its port.
pub(super) fn address(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            ip(out, (*v4.ip()).into());
            out.push(b':');
            number(out, v4.port());
        }
        // Writing to a Vec does not fail.
        SocketAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

/// Times as text. That of the last second is kept, as most lines are of the same one.
#[derive(Debug)]
pub(super) struct Clock {
    format: &'static [BorrowedFormatItem<'static>],
    second: u64,
    text: Vec<u8>,
}

impl Clock {
    pub(super) fn new(format: &'static [BorrowedFormatItem<'static>]) -> Self {
        Self { format, second: u64::MAX, text: Vec::new() }
    }

    /// The second as text, and the milliseconds of it. A time before 1970 is 1970.
    pub(super) fn read(&mut self, at: SystemTime) -> (&[u8], u32) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != since.as_secs() {
            self.second = since.as_secs();
            let second =
                i64::try_from(self.second).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
            let text = second.and_then(|second| second.format(self.format).ok());
            self.text = text.unwrap_or_default().into_bytes();
        }
        (&self.text, since.subsec_millis())
    }
}

/// Appends three digits.
pub(super) fn three(out: &mut Vec<u8>, number: u32) {
    for unit in [100, 10, 1] {
        out.push(b'0' + u8::try_from(number / unit % 10).unwrap_or_default());
    }
}

/// Three pieces of text in one buffer.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    ends: [usize; 3],
}

impl Pieces {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity), ends: [0; 3] }
    }

    /// Writes a piece; in order.
    pub(super) fn write(&mut self, nth: usize, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends[nth..].fill(self.bytes.len());
    }

    pub(super) fn get(&self, nth: usize) -> &[u8] {
        let range: Range<usize> = nth.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[nth];
        self.bytes.get(range).unwrap_or_default()
    }
}
