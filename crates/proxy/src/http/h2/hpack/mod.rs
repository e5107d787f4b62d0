//! HPACK (RFC 7541): how HTTP/2 writes header fields.

mod decode;
mod encode;
mod huffman;
mod static_table;
mod table;

pub use decode::{Decoder, Sink};
pub use encode::Encoder;

/// A header block that breaks RFC 7541; the connection ends with COMPRESSION_ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;
