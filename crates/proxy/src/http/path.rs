//! The one place where request targets are normalised, so that what is matched is what filters see and what
//! the backend gets (docs/reference/paths.md is the table for people).
//!
//! Whatever two readers could take for different paths is either brought into one form (RFC 3986
//! section 6.2.2) or refused.

use bytes::Bytes;

use super::Target;
use crate::fault::FaultKind;

/// Normalises a target in origin form (RFC 9112 section 3.2.1): `/path?query`.
///
/// - Escapes of unreserved characters are decoded, the other escapes get upper-case digits.
/// - `.` and `..` segments are resolved, and repeated slashes are merged: a backend that does either by
///   itself must not come to another path than the one that was matched.
/// - `%2F` and `%5C` stay escaped. `;` and the rest stay as they are.
/// - The query stays byte for byte.
///
/// What needs no change is not copied.
///
/// # Errors
/// [`FaultKind::BadRequest`] for a target without leading `/`; a path that climbs above its root; `\`, `#`,
/// spaces, control characters and bytes above 127, the control characters also when escaped in the path;
/// broken escapes in the path; dot segments that appear when `;`, `%2F` or `%5C` are taken for separators
/// (`/..;/`, `/..%2Fx`).
pub fn normalise(target: &Bytes) -> Result<Target, FaultKind> {
    if target.first() != Some(&b'/') {
        return Err(FaultKind::BadRequest);
    }
    match scan(target)? {
        Scan::Normal => Ok(Target::new(target.clone())),
        Scan::Changes { path_len } => rewrite(target, path_len).map(Target::new),
    }
}

/// A path of a route's match in the form in which [`normalise`] leaves paths of requests, so that the two
/// can meet: a route may write `/caf%c3%a9`, or `/%7Euser`. `None` where it has that form already, or has
/// none because no request's path can be like it.
pub fn normalise_match(path: &str) -> Option<String> {
    if !path.contains('%') {
        return None;
    }
    let mut text = Vec::with_capacity(path.len());
    decode(path.as_bytes(), &mut text).ok()?;
    String::from_utf8(text).ok().filter(|text| text != path)
}

enum Scan {
    Normal,
    Changes { path_len: usize },
}

/// Looks at each byte once: refuses what is never allowed, and tells whether the path has to change.
fn scan(target: &[u8]) -> Result<Scan, FaultKind> {
    let mut changes = false;
    let mut i = 0;
    while i < target.len() {
        match CLASS[usize::from(target[i])] {
            Class::Plain => i += 1,
            Class::Separator => {
                changes |= match &target[i + 1..] {
                    [b'/', ..] => target[i] == b'/',
                    [b'.', rest @ ..] => {
                        matches!(rest.first(), None | Some(b'/' | b'.' | b';' | b'%' | b'?'))
                    }
                    _ => false,
                };
                i += 1;
            }
            Class::Percent => {
                let byte = unescape(&target[i..])?;
                changes |= unreserved(byte)
                    || matches!(byte, b'/' | b'\\')
                    || target[i + 1].is_ascii_lowercase()
                    || target[i + 2].is_ascii_lowercase();
                i += 3;
            }
            Class::Question => {
                let bad = |b: &u8| matches!(*b, 0..=0x20 | b'#' | 0x7f..);
                if target[i + 1..].iter().any(bad) {
                    return Err(FaultKind::BadRequest);
                }
                break;
            }
            Class::Bad => return Err(FaultKind::BadRequest),
        }
    }
    Ok(if changes { Scan::Changes { path_len: i } } else { Scan::Normal })
}

/// The normalised copy. `scan` has seen the target.
fn rewrite(target: &[u8], path_len: usize) -> Result<Bytes, FaultKind> {
    let mut text = Vec::with_capacity(target.len());
    decode(&target[..path_len], &mut text)?;
    resolve_segments(&mut text)?;
    text.extend_from_slice(&target[path_len..]);
    Ok(text.into())
}

/// Decodes escapes of unreserved characters and writes the others in upper case.
fn decode(path: &[u8], text: &mut Vec<u8>) -> Result<(), FaultKind> {
    let mut rest = path;
    while let Some(at) = memchr::memchr(b'%', rest) {
        text.extend_from_slice(&rest[..at]);
        let byte = unescape(&rest[at..])?;
        if unreserved(byte) {
            text.push(byte);
        } else {
            text.push(b'%');
            text.extend(rest[at + 1..at + 3].iter().map(u8::to_ascii_uppercase));
        }
        rest = &rest[at + 3..];
    }
    text.extend_from_slice(rest);
    Ok(())
}

/// Resolves dot segments (RFC 3986 section 5.2.4) and merges slashes, in place.
fn resolve_segments(text: &mut Vec<u8>) -> Result<(), FaultKind> {
    let mut written = 0;
    let mut read = 0;
    while read < text.len() {
        let begin = read + 1;
        let end = memchr::memchr(b'/', &text[begin..]).map_or(text.len(), |at| begin + at);
        let directory = match &text[begin..end] {
            b"" | b"." => true,
            b".." => {
                written = memchr::memrchr(b'/', &text[..written]).ok_or(FaultKind::BadRequest)?;
                true
            }
            segment if hides_dots(segment) => return Err(FaultKind::BadRequest),
            _ => false,
        };
        if !directory {
            text.copy_within(read..end, written);
            written += end - read;
        } else if end == text.len() {
            text[written] = b'/';
            written += 1;
        }
        read = end;
    }
    text.truncate(written);
    Ok(())
}

/// Whether a segment has dot segments for those who cut it at path parameters (servlet containers) or at
/// escaped slashes.
fn hides_dots(segment: &[u8]) -> bool {
    let mut piece = 0;
    let mut cut = false;
    let mut i = 0;
    let dots = |piece: &[u8]| matches!(piece, b"." | b"..");
    while i < segment.len() {
        let skip = match segment[i] {
            b';' => 1,
            b'%' if matches!(segment.get(i + 1..i + 3), Some(b"2F" | b"5C")) => 3,
            _ => 0,
        };
        if skip > 0 {
            if dots(&segment[piece..i]) {
                return true;
            }
            cut = true;
            i += skip;
            piece = i;
        } else {
            i += 1;
        }
    }
    cut && dots(&segment[piece..])
}

/// The byte that an escape at the beginning of the text stands for; not a control character.
fn unescape(text: &[u8]) -> Result<u8, FaultKind> {
    let digit = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
    match (digit(1), digit(2)) {
        (Some(high), Some(low)) => match (high << 4 | low) as u8 {
            0..=0x1f | 0x7f => Err(FaultKind::BadRequest),
            byte => Ok(byte),
        },
        _ => Err(FaultKind::BadRequest),
    }
}

/// RFC 3986 section 2.3.
fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[derive(Clone, Copy)]
enum Class {
    Plain,
    /// `/` and `;`.
    Separator,
    Percent,
    Question,
    Bad,
}

static CLASS: [Class; 256] = {
    let mut table = [Class::Bad; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = match byte as u8 {
            b'/' | b';' => Class::Separator,
            b'%' => Class::Percent,
            b'?' => Class::Question,
            b'\\' | b'#' => Class::Bad,
            _ => Class::Plain,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn norm(text: &str) -> Result<String, FaultKind> {
        normalise(&Bytes::copy_from_slice(text.as_bytes())).map(|t| t.as_str().to_owned())
    }

    #[test]
    fn one_form_for_each_path() {
        for (given, wanted) in [
            ("/", "/"),
            ("/a/b?x=%2e%2e/../#".trim_end_matches('#'), "/a/b?x=%2e%2e/../"),
            ("/%7Euser/%61", "/~user/a"),
            ("/caf%c3%a9%20", "/caf%C3%A9%20"),
            ("/a/./b/../c", "/a/c"),
            ("/a/%2e%2E/c", "/c"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/.", "/"),
            ("/a/..", "/"),
            ("//a///b//", "/a/b/"),
            ("/a//../b", "/b"),
            ("/a%2fb%5cc", "/a%2Fb%5Cc"),
            ("/a;x=1/b;y", "/a;x=1/b;y"),
            ("/.well-known/acme", "/.well-known/acme"),
            ("/...", "/..."),
            ("/..a/.b", "/..a/.b"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/a?b?c//d", "/a?b?c//d"),
            ("/a|b[1]^", "/a|b[1]^"),
            ("/?", "/?"),
            ("/.?q", "/?q"),
        ] {
            assert_eq!(norm(given).as_deref(), Ok(wanted), "{given}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "",
            "a",
            "*",
            "?",
            "/..",
            "/a/../..",
            "/%2e%2e",
            "/a\\b",
            "/a#b",
            "/a?b#c",
            "/a b",
            "/a\tb",
            "/a%00b",
            "/%0d%0a",
            "/%7f",
            "/%",
            "/%4",
            "/%zz",
            "/%4x",
            "/é",
            "/a?é",
            "/a?b c",
            "/a?\x01",
            "/..;/a",
            "/a/..;x=1/b",
            "/.;/a",
            "/..%2Fa",
            "/a%2f..",
            "/a%2f..%5cb",
            "/%2e%2e%2fa",
            "/x;..",
        ] {
            assert_eq!(norm(bad), Err(FaultKind::BadRequest), "{bad:?}");
        }
    }

    #[test]
    fn a_normal_target_is_not_copied() {
        let given = Bytes::from_static(b"/.well-known/a%20b;c?d=%2e");
        assert_eq!(normalise(&given).unwrap().text().as_ptr(), given.as_ptr());
    }

    #[test]
    fn a_match_meets_the_request_that_it_means() {
        assert_eq!(normalise_match("/%7euser/%c3").as_deref(), Some("/~user/%C3"));
        assert_eq!(normalise_match("/a/b"), None);
        assert_eq!(normalise_match("/a%2"), None);
    }

    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", ".", "..", "a", "%2e", "%2F", "%5c", ";", "%41", "%c3", "?", "%", "\\", "#", "=", "é",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn idempotent_and_without_dots(text in pieces()) {
            if let Ok(once) = norm(&text) {
                prop_assert_eq!(norm(&once), Ok(once.clone()));
                let path = once.split('?').next().unwrap();
                prop_assert!(path.starts_with('/') && !path.contains("//"));
                let cut = path.replace("%2F", "/").replace("%5C", "/").replace(';', "/");
                prop_assert!(!cut.split('/').any(|s| s == "." || s == ".."), "{}", path);
                let query = |t: &str| t.split_once('?').map(|(_, q)| q.to_owned());
                prop_assert_eq!(query(&once), query(&text));
            }
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = normalise(&bytes.into());
        }
    }
}
