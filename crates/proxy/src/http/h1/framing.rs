//! How long a body is, and where it ends (RFC 9112 sections 6 and 7).

use bytes::{Buf, Bytes, BytesMut};

use super::names;
use super::parse::{self, Malformed};
use crate::http::Headers;

/// Extensions of all chunks of one body together. They are ignored, so they are worth no more.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// A trailer section.
const MAX_TRAILERS: usize = 16 * 1024;

/// Reads one body out of what comes in.
#[derive(Debug)]
pub(super) enum Decoder {
    /// This many bytes are still to come.
    Length(u64),
    Chunked(Box<Chunked>),
    /// Until the connection ends.
    UntilClose,
    /// Nothing is to come.
    Done,
    /// It cannot be told what is to come.
    Broken,
}

/// What could be made of the input.
#[derive(Debug)]
pub(super) enum Decoded {
    /// A piece of the body, not empty.
    Data(Bytes),
    /// The trailer section; the body has ended.
    Trailers(Box<Headers>),
    /// The body has ended.
    End,
    /// Nothing without more input.
    More,
}

impl Decoder {
    pub(super) fn chunked(max_headers: usize) -> Self {
        Self::Chunked(Box::new(Chunked {
            state: Chunk::Start,
            size: 0,
            digits: 0,
            extensions: 0,
            trailers: BytesMut::new(),
            max_headers,
        }))
    }

    /// How many bytes are to come, if that is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(n) => Some(*n),
            Self::Done => Some(0),
            Self::Chunked(_) | Self::UntilClose | Self::Broken => None,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::Length(0))
    }

    /// Takes what it can from the input. After the end it takes nothing.
    pub(super) fn decode(&mut self, input: &mut Bytes) -> Result<Decoded, Malformed> {
        let decoded = match self {
            Self::Done | Self::Length(0) => Decoded::End,
            Self::Length(_) | Self::Chunked(_) | Self::UntilClose if input.is_empty() => Decoded::More,
            Self::Length(left) => {
                let data = take(input, *left);
                *left -= data.len() as u64;
                return Ok(Decoded::Data(data));
            }
            Self::UntilClose => Decoded::Data(std::mem::take(input)),
            Self::Chunked(chunked) => match chunked.decode(input) {
                Ok(decoded) => decoded,
                Err(malformed) => {
                    // Whoever reads on, to keep the connection perhaps, must not find a foothold again.
                    *self = Self::Broken;
                    return Err(malformed);
                }
            },
            Self::Broken => return Err(Malformed("a body that is broken")),
        };
        if matches!(decoded, Decoded::Trailers(_) | Decoded::End) {
            *self = Self::Done;
        }
        Ok(decoded)
    }
}

fn take(input: &mut Bytes, at_most: u64) -> Bytes {
    if input.len() as u64 <= at_most {
        std::mem::take(input)
    } else {
        // Less than the input's length, so it fits.
        input.split_to(at_most as usize)
    }
}

/// The chunked coding, wherever the input is cut.
#[derive(Debug)]
pub(super) struct Chunked {
    state: Chunk,
    /// Of the current chunk, what is still to come.
    size: u64,
    /// Digits of the current size.
    digits: u8,
    extensions: usize,
    /// The trailer section so far.
    trailers: BytesMut,
    max_headers: usize,
}

#[derive(Clone, Copy, Debug)]
enum Chunk {
    Start,
    Size,
    Extension(Extension),
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
}

/// Where in a chunk's extensions: `;name`, `;name=value` or `;name="value"`, as often as may be. White space
/// around them, which RFC 9112 section 7.1.1 calls bad, is refused: llhttp does so, too.
#[derive(Clone, Copy, Debug)]
enum Extension {
    Semicolon,
    Name,
    Equals,
    Value,
    Quoted,
    Escaped,
    Unquoted,
}

impl Extension {
    /// One byte of an extension; `None`: it is no part of one.
    fn step(self, byte: u8) -> Option<Self> {
        let is_text = matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        match (self, byte) {
            (Self::Name | Self::Value | Self::Unquoted, b';') => Some(Self::Semicolon),
            (Self::Name, b'=') => Some(Self::Equals),
            (Self::Equals, b'"') => Some(Self::Quoted),
            (Self::Quoted, b'"') => Some(Self::Unquoted),
            (Self::Quoted, b'\\') => Some(Self::Escaped),
            (Self::Quoted | Self::Escaped, _) if is_text => Some(Self::Quoted),
            (Self::Semicolon | Self::Name, _) if names::is_token(byte) => Some(Self::Name),
            (Self::Equals | Self::Value, _) if names::is_token(byte) => Some(Self::Value),
            _ => None,
        }
    }

    fn may_end(self) -> bool {
        matches!(self, Self::Name | Self::Value | Self::Unquoted)
    }
}

impl Chunked {
    fn decode(&mut self, input: &mut Bytes) -> Result<Decoded, Malformed> {
        loop {
            match self.state {
                Chunk::Data => {
                    if input.is_empty() {
                        return Ok(Decoded::More);
                    }
                    let data = take(input, self.size);
                    self.size -= data.len() as u64;
                    if self.size == 0 {
                        self.state = Chunk::DataCr;
                        // The end of the chunk is most often here already; taken at once, the last piece
                        // and the end of the body are known together.
                        if input.starts_with(b"\r\n") {
                            input.advance(2);
                            self.state = Chunk::Start;
                        }
                    }
                    return Ok(Decoded::Data(data));
                }
                Chunk::Trailers => return self.trailers(input),
                _ => {
                    let Some(&byte) = input.first() else { return Ok(Decoded::More) };
                    input.advance(1);
                    self.state = self.step(byte)?;
                }
            }
        }
    }

    /// One byte of framing.
    fn step(&mut self, byte: u8) -> Result<Chunk, Malformed> {
        match (self.state, byte) {
            (Chunk::Start | Chunk::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if matches!(self.state, Chunk::Start) {
                    (self.size, self.digits) = (0, 0);
                }
                // 15 digits: no overflow, and more than any disk.
                if self.digits == 15 {
                    return Err(Malformed("a chunk's size of more than 15 digits"));
                }
                self.digits += 1;
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    _ => (byte | 0x20) - b'a' + 10,
                };
                self.size = self.size << 4 | u64::from(digit);
                Ok(Chunk::Size)
            }
            (Chunk::Size, b';') => Ok(Chunk::Extension(Extension::Semicolon)),
            (Chunk::Size, b'\r') => Ok(Chunk::SizeLf),
            (Chunk::Extension(extension), b'\r') if extension.may_end() => Ok(Chunk::SizeLf),
            (Chunk::Extension(extension), byte) => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSIONS {
                    return Err(Malformed("too many chunk extensions"));
                }
                let next = extension.step(byte).ok_or(Malformed("a malformed chunk extension"))?;
                Ok(Chunk::Extension(next))
            }
            (Chunk::SizeLf, b'\n') => Ok(if self.size == 0 { Chunk::Trailers } else { Chunk::Data }),
            (Chunk::DataCr, b'\r') => Ok(Chunk::DataLf),
            (Chunk::DataLf, b'\n') => Ok(Chunk::Start),
            _ => Err(Malformed("broken chunked coding")),
        }
    }

    fn trailers(&mut self, input: &mut Bytes) -> Result<Decoded, Malformed> {
        if self.trailers.is_empty() && input.starts_with(b"\r\n") {
            input.advance(2);
            return Ok(Decoded::End);
        }
        // The section ends with an empty line: alone, or behind a field line.
        while let Some(&byte) = input.first() {
            let line = memchr::memchr(b'\n', input).map_or(input.len(), |end| end + 1);
            if self.trailers.len() + line > MAX_TRAILERS {
                return Err(Malformed("a trailer section too large"));
            }
            let at_line_start = matches!(self.trailers.last(), None | Some(b'\n'));
            if at_line_start && byte == b'\n' {
                return Err(Malformed("a bare line feed in the trailer section"));
            }
            self.trailers.extend_from_slice(&input[..line]);
            input.advance(line);
            if &self.trailers[..] == b"\r\n" {
                return Ok(Decoded::End);
            }
            if self.trailers.ends_with(b"\n\r\n") {
                let raw = self.trailers.split().freeze();
                let mut fields = parse::fields(raw, self.max_headers)?;
                fields.remove_if(|name, _| names::is_forbidden_in_trailers(name));
                let none = fields.is_empty();
                return Ok(if none { Decoded::End } else { Decoded::Trailers(Box::new(fields)) });
            }
        }
        Ok(Decoded::More)
    }
}

/// `Content-Length`: digits and nothing else, in the one way in which a number is written, below 2^63
/// (RFC 9112 section 6.3).
pub(super) fn content_length(value: &[u8]) -> Option<u64> {
    let canonical = match value {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.len() < 19 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let number = canonical.then(|| value.iter().fold(0u64, |n, d| n * 10 + u64::from(d - b'0')))?;
    (number < 1 << 63).then_some(number)
}
