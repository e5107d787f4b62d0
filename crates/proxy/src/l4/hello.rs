//! The ClientHello of a connection whose TLS may go through: read only as far as the server name
//! (RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3), so that nothing that a backend understands and
//! Portway does not is in the way. With encrypted ClientHello the outer name counts, which is the public one.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The most that is read of a client's hello, with the headers of the records that it comes in. Hellos with
/// post-quantum keys have about 2 KiB.
const MOST: usize = 64 * 1024;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// RFC 8446 section 5.1: 2^14 bytes.
const LONGEST_RECORD: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What was read of a connection.
#[derive(Debug)]
pub(crate) struct Hello {
    /// Everything, for whoever goes on with the handshake.
    pub(crate) bytes: Bytes,
    /// The name that the client asks for, lower case and without a trailing dot. `None` also for an IP
    /// address, which is no server name.
    pub(crate) server_name: Option<Arc<str>>,
}

/// Why there is no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHello {
    /// The client has closed the connection, or it broke.
    Gone,
    /// What came is no ClientHello.
    Malformed,
}

/// Reads until the whole hello is there.
pub(crate) async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<Hello, NoHello> {
    let mut raw = BytesMut::with_capacity(2048);
    let mut records = Records::default();
    loop {
        match io.read_buf(&mut raw).await {
            Ok(0) => return Err(NoHello::Gone),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(NoHello::Gone),
        }
        if let Some(server_name) = records.take(&raw)? {
            return Ok(Hello { bytes: raw.freeze(), server_name });
        }
        if raw.len() >= MOST {
            return Err(NoHello::Malformed);
        }
        if raw.len() == raw.capacity() {
            raw.reserve(raw.len().min(MOST));
        }
    }
}

/// The handshake messages of the records so far.
#[derive(Default)]
struct Records {
    handshake: Vec<u8>,
    /// How much of the raw bytes is in `handshake`, or is a header of what is.
    seen: usize,
    /// How much of the present record is still to come.
    left: usize,
}

impl Records {
    /// Takes in what is new in `raw`. The server name once the hello is whole.
    fn take(&mut self, raw: &[u8]) -> Result<Option<Option<Arc<str>>>, NoHello> {
        loop {
            if self.left == 0 {
                let Some(header) = raw.get(self.seen..self.seen + 5) else {
                    // Something else than TLS is refused by its first bytes.
                    let begun = raw.get(self.seen..).unwrap_or_default();
                    let fits = begun.first().is_none_or(|kind| *kind == HANDSHAKE_RECORD)
                        && begun.get(1).is_none_or(|major| *major == 3);
                    return if fits { Ok(None) } else { Err(NoHello::Malformed) };
                };
                let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
                if header[0] != HANDSHAKE_RECORD || header[1] != 3 || !(1..=LONGEST_RECORD).contains(&length)
                {
                    return Err(NoHello::Malformed);
                }
                (self.seen, self.left) = (self.seen + 5, length);
            }
            let fragment = raw.get(self.seen..).unwrap_or_default();
            let fragment = &fragment[..fragment.len().min(self.left)];
            self.handshake.extend_from_slice(fragment);
            (self.seen, self.left) = (self.seen + fragment.len(), self.left - fragment.len());
            if self.handshake.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
                return Err(NoHello::Malformed);
            }
            if let Some(&[_, a, b, c]) = self.handshake.first_chunk() {
                let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
                if length > MOST {
                    return Err(NoHello::Malformed);
                }
                if let Some(hello) = self.handshake.get(4..4 + length) {
                    return server_name(hello).map(Some).ok_or(NoHello::Malformed);
                }
            }
            if self.left > 0 {
                return Ok(None);
            }
        }
    }
}

/// Reads a message from its front; `None` where it is too short.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// What follows its length in one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.bytes(length.into())
    }

    /// What follows its length in two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.bytes(length.into())
    }
}

/// The server name of a ClientHello; `None` for one that is broken.
fn server_name(hello: &[u8]) -> Option<Option<Arc<str>>> {
    const VERSION_AND_RANDOM: usize = 2 + 32;
    let mut hello = Cursor(hello);
    hello.bytes(VERSION_AND_RANDOM)?;
    let session = hello.short()?;
    let ciphers = hello.long()?;
    let compressions = hello.short()?;
    if session.len() > 32 || ciphers.is_empty() || ciphers.len() % 2 != 0 || compressions.is_empty() {
        return None;
    }
    if hello.0.is_empty() {
        // Before TLS 1.2 there need be no extensions.
        return Some(None);
    }
    let mut extensions = Cursor(hello.long()?);
    if !hello.0.is_empty() {
        return None;
    }
    let mut found = None;
    while !extensions.0.is_empty() {
        let (kind, data) = (extensions.u16()?, extensions.long()?);
        if kind != SERVER_NAME {
            continue;
        }
        if found.is_some() {
            return None;
        }
        let mut data = Cursor(data);
        let mut names = Cursor(data.long()?);
        if names.0.is_empty() || !data.0.is_empty() {
            return None;
        }
        let (kind, name) = (names.u8()?, names.long()?);
        // There is no other kind of name, and only one of each (RFC 6066 section 3).
        if kind != HOST_NAME || !names.0.is_empty() {
            return None;
        }
        found = Some(host_name(name)?);
    }
    Some(found.flatten())
}

/// A host name as patterns are matched with it; `Some(None)` for an IP address.
fn host_name(name: &[u8]) -> Option<Option<Arc<str>>> {
    let name = std::str::from_utf8(name).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b':');
    if name.is_empty() || name.len() > 253 || !name.bytes().all(is_name) {
        return None;
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Some(None);
    }
    Some(Some(name.to_ascii_lowercase().into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A hello with these extensions, as one handshake message.
    fn message(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend([0, 2, 0x13, 0x01, 1, 0]);
        let all: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, data)| [&kind.to_be_bytes()[..], &length(data.len()), data].concat())
            .collect();
        body.extend(length(all.len()));
        body.extend(all);
        let size = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[CLIENT_HELLO], &size[1..], &body[..]].concat()
    }

    fn length(bytes: usize) -> [u8; 2] {
        u16::try_from(bytes).unwrap().to_be_bytes()
    }

    fn sni(name: &str) -> (u16, Vec<u8>) {
        let entry = [&[HOST_NAME], &length(name.len())[..], name.as_bytes()].concat();
        (SERVER_NAME, [&length(entry.len())[..], &entry].concat())
    }

    fn grease() -> (u16, Vec<u8>) {
        (0x0a0a, vec![0])
    }

    /// Puts a message into records of at most that many bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[22, 3, 1], &length(part.len())[..], part].concat();
        message.chunks(size).flat_map(record).collect()
    }

    async fn of(raw: &[u8]) -> Result<Option<String>, NoHello> {
        let mut io = raw;
        let hello = read(&mut io).await?;
        assert!(raw.starts_with(&hello.bytes), "what was read is what came");
        Ok(hello.server_name.map(|name| name.to_string()))
    }

    #[tokio::test]
    async fn names_are_lower_case_and_without_a_dot() {
        for (name, wanted) in [
            ("a.example.com", Some("a.example.com")),
            ("A.Example.COM.", Some("a.example.com")),
            ("192.0.2.1", None),
            ("2001:db8::1", None),
        ] {
            let raw = records(&message(&[grease(), sni(name)]), 1 << 14);
            assert_eq!(of(&raw).await.unwrap().as_deref(), wanted);
        }
        let raw = records(&message(&[grease()]), 1 << 14);
        assert_eq!(of(&raw).await, Ok(None), "no name");
    }

    #[tokio::test]
    async fn what_follows_the_hello_is_kept() {
        let mut raw = records(&message(&[sni("a.example")]), 100);
        raw.extend(b"early data");
        let mut io = &raw[..];
        let hello = read(&mut io).await.unwrap();
        assert_eq!([&hello.bytes, io].concat(), raw);
    }

    #[tokio::test]
    async fn hostile_hellos_are_refused() {
        let whole = message(&[sni("a.example")]);
        let twice = records(&message(&[sni("a.example"), sni("b.example")]), 1 << 14);
        assert_eq!(of(&twice).await, Err(NoHello::Malformed), "two names");
        for name in ["", "a b", "a\nb", "\u{e4}.example", "x".repeat(254).as_str()] {
            let raw = records(&message(&[sni(name)]), 1 << 14);
            assert_eq!(of(&raw).await, Err(NoHello::Malformed), "{name:?}");
        }
        for raw in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[22],
            &[22, 2],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 0x40, 1],
            &[21, 3, 1, 0, 2, 1, 0],
            // A hello of 16 MiB.
            &[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff],
            &[22, 3, 1, 0, 4, 2, 0, 0, 0],
        ] {
            assert!(of(raw).await.is_err(), "{raw:?}");
        }
        let mut long = whole.clone();
        long[3] = long[3].wrapping_sub(1);
        assert_eq!(of(&records(&long, 1 << 14)).await, Err(NoHello::Malformed), "shorter than it says");
        // One byte per record: more headers than anyone needs.
        let padded = message(&[sni("a.example"), (21, vec![0; 16_000])]);
        assert_eq!(of(&records(&padded, 1)).await, Err(NoHello::Malformed));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_says_the_same(size in 1usize..300, cut in 0usize..400) {
            let raw = records(&message(&[grease(), sni("a.example.com"), grease()]), size);
            let mut seen = Records::default();
            let cut = cut.min(raw.len() - 1);
            prop_assert_eq!(seen.take(&raw[..cut]), Ok(None), "not whole yet");
            let name = seen.take(&raw).unwrap().unwrap();
            prop_assert_eq!(name.as_deref(), Some("a.example.com"));
        }

        #[test]
        fn nothing_makes_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), start in any::<bool>()) {
            if start && bytes.len() > 9 {
                let length = bytes.len() - 5;
                bytes[..5].copy_from_slice(&[22, 3, 1, 0, length as u8]);
                bytes[5..9].copy_from_slice(&[1, 0, 0, (length - 4) as u8]);
            }
            let _ = Records::default().take(&bytes);
        }
    }
}
