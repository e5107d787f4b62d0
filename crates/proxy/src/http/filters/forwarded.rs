//! What backends are told about the client: `X-Forwarded-For`, `-Proto`, `-Host`, `-Port` and
//! `X-Request-Id`. Applied before routes are matched, so that nothing a client makes up is ever matched.

use std::net::IpAddr;

use rand::RngCore;

use crate::http::{Connection, Headers, RequestHead};

/// The gateway's forwarding headers.
///
/// With no trusted hops, whatever the client says about itself goes: `X-Forwarded-*`, `Forwarded`,
/// `X-Real-IP`, `X-Envoy-*`, `X-Request-Id`, and their twins with underscores, which some backends cannot
/// tell from them. With N trusted hops, N proxies of one's own stand in front: the last N entries of
/// `X-Forwarded-For` are believed and kept, those before them are the client's and go; the other headers
/// are kept where they are there. `Forwarded` (RFC 7239) always goes, for nobody here adds to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForwardingHeaders {
    /// How many proxies in front of this one are one's own.
    pub trusted_hops: u32,
}

impl ForwardingHeaders {
    /// Rewrites the forwarding headers of a request; returns the client's address, as far as it is known.
    pub fn apply(&self, head: &mut RequestHead, connection: &Connection) -> IpAddr {
        let peer = connection.peer.ip().to_canonical();
        let trusted = self.trusted_hops > 0;
        let believed = trusted.then(|| self.hops(&head.headers, connection));
        head.headers.remove_if(|name, _| drops(name, trusted));
        let headers = &mut head.headers;
        let (hops, client) = match &believed {
            Some((hops, client)) => (&**hops, client.unwrap_or(peer)),
            None => (connection.client(), peer),
        };
        headers.append_end_to_end(b"x-forwarded-for", hops.as_bytes());
        let told = |headers: &Headers, name| trusted && headers.contains(name);
        if !told(headers, "x-forwarded-proto") {
            headers.append_end_to_end(b"x-forwarded-proto", head.scheme.as_str().as_bytes());
        }
        if !told(headers, "x-forwarded-host") && !head.authority.text().is_empty() {
            headers.append_end_to_end(b"x-forwarded-host", head.authority.text());
        }
        if !told(headers, "x-forwarded-port") {
            let mut digits = itoa::Buffer::new();
            headers.append_end_to_end(b"x-forwarded-port", digits.format(connection.port).as_bytes());
        }
        if !trusted {
            headers.append_end_to_end(b"x-request-id", &request_id());
        } else if !headers.get("x-request-id").is_some_and(sound_id) {
            headers.set("x-request-id", request_id());
        }
        client
    }

    /// The believed hops, with the peer as the last, and the first of those that are believed.
    fn hops(&self, headers: &Headers, connection: &Connection) -> (String, Option<IpAddr>) {
        let mut entries = Vec::new();
        for line in headers.get_all("x-forwarded-for") {
            entries.extend(std::str::from_utf8(line).unwrap_or_default().split(',').map(str::trim));
        }
        let believed = entries.len().saturating_sub(self.trusted_hops as usize);
        let mut text = String::new();
        let mut client = None;
        for address in entries[believed..].iter().filter_map(|entry| address(entry)) {
            client.get_or_insert(address);
            text.push_str(&address.to_string());
            text.push_str(", ");
        }
        text.push_str(connection.client());
        (text, client)
    }
}

/// An entry of `X-Forwarded-For`: an address, by some proxies with a port.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = entry.trim_start_matches('[').trim_end_matches(']');
    let parsed = bare.parse().ok().or_else(|| Some(entry.parse::<std::net::SocketAddr>().ok()?.ip()));
    parsed.map(|address: IpAddr| address.to_canonical())
}

/// Whether a header of the client goes.
fn drops(name: &[u8], trusted: bool) -> bool {
    // Most names end here.
    if !matches!(name.first(), Some(b'x' | b'X' | b'f' | b'F')) {
        return false;
    }
    if name.eq_ignore_ascii_case(b"forwarded") {
        return true;
    }
    let same = |wanted: &[u8]| name.iter().zip(wanted).all(|(n, w)| fold(*n) == *w);
    let is = |wanted: &[u8]| name.len() == wanted.len() && same(wanted);
    let begins = |wanted: &[u8]| name.len() >= wanted.len() && same(wanted);
    let listed = match name.get(2).map(u8::to_ascii_lowercase) {
        Some(b'f') => begins(b"x-forwarded-"),
        Some(b'e') => begins(b"x-envoy-"),
        Some(b'r') => is(b"x-real-ip") || is(b"x-request-id"),
        _ => false,
    };
    listed && (!trusted || name.contains(&b'_') || is(b"x-forwarded-for"))
}

fn fold(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }
}

/// Whether the id of a trusted hop can be passed on and logged.
fn sound_id(id: &[u8]) -> bool {
    (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// A random UUID (RFC 9562 section 5.4).
fn request_id() -> [u8; 36] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // Of each byte's two digits: 8-4-4-4-12.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut random = [0; 16];
    rand::rng().fill_bytes(&mut random);
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    for (byte, at) in random.iter().zip(PLACES) {
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::request;
    use super::*;
    use crate::http::Scheme;

    fn applied(trusted_hops: u32, url: &str, headers: Headers) -> (Headers, IpAddr) {
        let mut head = request("GET", url);
        head.headers = headers;
        let connection = Connection::new(
            "[::ffff:192.0.2.1]:5000".parse().unwrap(),
            "127.0.0.1:18443".parse().unwrap(),
            if head.scheme == Scheme::Https { 443 } else { 8080 },
        );
        let client = ForwardingHeaders { trusted_hops }.apply(&mut head, &connection);
        (head.headers, client)
    }

    fn text(headers: &Headers, name: &str) -> String {
        let lines: Vec<_> = headers.get_all(name).map(String::from_utf8_lossy).collect();
        lines.join(" | ")
    }

    #[test]
    fn spoofed_headers_go_in_both_spellings() {
        let spoofed = Headers::from([
            ("X-Forwarded-For", "1.1.1.1"),
            ("x_forwarded_for", "1.1.1.1"),
            ("X-FORWARDED_For", "1.1.1.1"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil"),
            ("X-Forwarded-Port", "1"),
            ("X-Forwarded-Prefix", "/x"),
            ("Forwarded", "for=1.1.1.1"),
            ("X-Real-IP", "1.1.1.1"),
            ("x_real_ip", "1.1.1.1"),
            ("X-Envoy-Internal", "true"),
            ("X-Envoy_Original-Path", "/x"),
            ("X-Request-Id", "mine"),
            ("X_Request_Id", "mine"),
            ("Accept", "*/*"),
            ("X-Forwarde", "kept"),
        ]);
        let (headers, client) = applied(0, "http://Shop.example:81/", spoofed);
        let names: Vec<_> = headers.iter().map(|(n, _)| String::from_utf8_lossy(n).into_owned()).collect();
        assert_eq!(
            names,
            [
                "Accept",
                "X-Forwarde",
                "x-forwarded-for",
                "x-forwarded-proto",
                "x-forwarded-host",
                "x-forwarded-port",
                "x-request-id",
            ]
        );
        assert_eq!(text(&headers, "x-forwarded-for"), "192.0.2.1");
        assert_eq!(text(&headers, "x-forwarded-proto"), "http");
        assert_eq!(text(&headers, "x-forwarded-host"), "Shop.example:81");
        assert_eq!(text(&headers, "x-forwarded-port"), "8080");
        assert_eq!(client.to_string(), "192.0.2.1");
    }

    #[test]
    fn trusted_hops_are_believed_and_no_more() {
        let from = || {
            Headers::from([
                ("X-Forwarded-For", "6.6.6.6, 10.0.0.1:99"),
                ("x-forwarded-for", "[2001:db8::1]"),
                ("X-Forwarded-Proto", "https"),
                ("X_Forwarded_For", "6.6.6.6"),
                ("X_Forwarded_Proto", "http"),
                ("Forwarded", "for=6.6.6.6"),
                ("X-Request-Id", "abc"),
            ])
        };
        let (headers, client) = applied(1, "http://a/", from());
        assert_eq!(text(&headers, "x-forwarded-for"), "2001:db8::1, 192.0.2.1");
        assert_eq!(client.to_string(), "2001:db8::1");
        let (headers, client) = applied(2, "http://a/", from());
        assert_eq!(text(&headers, "x-forwarded-for"), "10.0.0.1, 2001:db8::1, 192.0.2.1");
        assert_eq!(client.to_string(), "10.0.0.1");
        assert_eq!(text(&headers, "x-forwarded-proto"), "https");
        assert_eq!(text(&headers, "x-forwarded-host"), "a");
        assert_eq!(text(&headers, "x-request-id"), "abc");
        for gone in ["forwarded", "x_forwarded_for", "x_forwarded_proto"] {
            assert!(!headers.contains(gone), "{gone}");
        }
        let (_, client) = applied(2, "http://a/", Headers::default());
        assert_eq!(client.to_string(), "192.0.2.1");
    }

    #[test]
    fn request_ids_are_uuids_and_differ() {
        let (first, _) = applied(0, "https://a/", Headers::default());
        let (second, _) = applied(1, "https://a/", Headers::from([("x-request-id", "a b")]));
        let (a, b) = (text(&first, "x-request-id"), text(&second, "x-request-id"));
        assert_ne!(a, b);
        for id in [a, b] {
            assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'), "{id}");
        }
        assert_eq!(text(&first, "x-forwarded-port"), "443");
    }
}
