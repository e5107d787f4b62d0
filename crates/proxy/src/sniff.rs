//! What a client speaks on a plain-text port: HTTP/2 with prior knowledge begins with a preface that no
//! HTTP/1.1 request can begin with (RFC 9113 section 3.4).

use std::io;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What was found.
#[derive(Debug)]
pub(crate) enum Sniffed {
    /// HTTP/1.1, and what has been read of it.
    Http1(Bytes),
    /// HTTP/2; nothing has been read but the preface's part that is given here.
    Http2(Bytes),
    /// The client closed without a byte.
    Closed,
}

/// Looks at the first bytes, which nearly always tell at once; those are left in the socket, so that no
/// buffer is needed for a connection that says nothing.
pub(crate) async fn sniff(stream: &mut TcpStream) -> io::Result<Sniffed> {
    let mut seen = [0; PREFACE.len()];
    let n = stream.peek(&mut seen).await?;
    if n == 0 {
        return Ok(Sniffed::Closed);
    }
    if seen[..n] != PREFACE[..n] {
        return Ok(Sniffed::Http1(Bytes::new()));
    }
    if n == PREFACE.len() {
        return Ok(Sniffed::Http2(Bytes::new()));
    }
    // A part of the preface: has to be read, or peeking would return at once for ever.
    let mut read = 0;
    loop {
        let n = stream.read(&mut seen[read..]).await?;
        read += n;
        let part = Bytes::copy_from_slice(&seen[..read]);
        if n == 0 || part != PREFACE[..read] {
            return Ok(Sniffed::Http1(part));
        }
        if read == PREFACE.len() {
            return Ok(Sniffed::Http2(part));
        }
    }
}
