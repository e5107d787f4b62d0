//! What an entry asks for besides the path: method, headers and query parameters.

use std::borrow::Cow;

use portway_plan::{Entry, StringMatch};

use super::regexes::{Regex, RegexCompiler, matches};
use crate::http::filters::requested_method;
use crate::http::{Authority, Headers, RequestHead};

/// The compiled expressions of an entry that asks for more than a path; the rest is read from the plan.
#[derive(Debug)]
pub(super) struct Conditions {
    headers: Box<[Option<Regex>]>,
    query: Box<[Option<Regex>]>,
    /// The rule answers CORS preflights.
    preflights: bool,
}

/// Why an entry does not match a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The path is another.
    Path,
    /// The method is another.
    Method,
    /// The header match of that index in the plan's entry does not hold.
    Header(usize),
    /// The query parameter match of that index in the plan's entry does not hold.
    Query(usize),
}

impl Conditions {
    /// `None` when every request with the path matches.
    pub(super) fn compile(entry: &Entry, preflights: bool, regexes: &mut RegexCompiler) -> Option<Box<Self>> {
        if entry.method.is_none() && entry.headers.is_empty() && entry.query.is_empty() {
            return None;
        }
        let mut compile = |value: &StringMatch| match value {
            StringMatch::Exact(_) => None,
            StringMatch::Regex(regex) => regexes.for_values(regex),
        };
        Some(Box::new(Self {
            headers: entry.headers.iter().map(|header| compile(&header.value)).collect(),
            query: entry.query.iter().map(|parameter| compile(&parameter.value)).collect(),
            preflights,
        }))
    }

    /// Whether they hold.
    pub(super) fn check(&self, entry: &Entry, head: &RequestHead) -> Result<(), Failure> {
        if let Some(method) = entry.method.as_deref().map(str::as_bytes)
            && method != head.method.as_str().as_bytes()
            // A browser asks before it sends; what it asks for decides who answers.
            && !(self.preflights && requested_method(head) == Some(method))
        {
            return Err(Failure::Method);
        }
        for (at, header) in entry.headers.iter().enumerate() {
            let holds = value_of(head, &header.name)
                .is_some_and(|value| holds(&header.value, self.headers[at].as_deref(), &value));
            if !holds {
                return Err(Failure::Header(at));
            }
        }
        for (at, parameter) in entry.query.iter().enumerate() {
            let holds = query_value(head.target.query().unwrap_or_default(), &parameter.name)
                .is_some_and(|value| holds(&parameter.value, self.query[at].as_deref(), &value));
            if !holds {
                return Err(Failure::Query(at));
            }
        }
        Ok(())
    }
}

fn holds(wanted: &StringMatch, regex: Option<&regex_automata::meta::Regex>, value: &[u8]) -> bool {
    match wanted {
        StringMatch::Exact(text) => text.as_bytes() == value,
        StringMatch::Regex(_) => regex.is_some_and(|regex| matches(regex, value)),
    }
}

/// The value of a header, its lines joined (RFC 9110 section 5.3; cookies: RFC 9113 section 8.2.3). `host`
/// is the authority.
pub(super) fn value_of<'a>(head: &'a RequestHead, name: &str) -> Option<Cow<'a, [u8]>> {
    if name == "host" {
        return host(&head.authority);
    }
    joined(&head.headers, name)
}

/// The host in lower case and without a trailing dot, and the port if it was given.
fn host(authority: &Authority) -> Option<Cow<'_, [u8]>> {
    let host = authority.host();
    match authority.port() {
        _ if host.is_empty() => None,
        None => Some(host.as_bytes().into()),
        Some(port) => Some(format!("{host}:{port}").into_bytes().into()),
    }
}

fn joined<'a>(headers: &'a Headers, name: &str) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, v)| v);
    let mut value = Cow::Borrowed(lines.next()?);
    for line in lines {
        let value = value.to_mut();
        value.extend_from_slice(if name == "cookie" { b"; " } else { b"," });
        value.extend_from_slice(line);
    }
    Some(value)
}

/// The decoded value of the first parameter of that name; empty when it has no `=`.
pub(super) fn query_value<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*form_decoded(key) == *name.as_bytes() && !pair.is_empty()).then(|| form_decoded(value))
    })
}

/// Decodes as `application/x-www-form-urlencoded`: `+` is a space. Broken escapes stand for themselves.
pub(in crate::http) fn form_decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if memchr::memchr2(b'%', b'+', bytes).is_none() {
        return bytes.into();
    }
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match (bytes[i], digit(bytes.get(i + 1)), digit(bytes.get(i + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                i += 2;
            }
            (b'+', ..) => decoded.push(b' '),
            (byte, ..) => decoded.push(byte),
        }
        i += 1;
    }
    decoded.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters() {
        let value = |query, name| query_value(query, name).map(|v| String::from_utf8_lossy(&v).into_owned());
        for (query, name, wanted) in [
            ("animal=whale", "animal", Some("whale")),
            ("a=1&animal=x&animal=y", "animal", Some("x")),
            ("animal", "animal", Some("")),
            ("animal=", "animal", Some("")),
            ("an%69mal=wh%61le+%2B%", "animal", Some("whale +%")),
            ("a=b=c", "a", Some("b=c")),
            ("Animal=whale", "animal", None),
            ("", "", None),
            ("&&", "", None),
            ("=x", "", Some("x")),
            ("a=%zz", "a", Some("%zz")),
        ] {
            assert_eq!(value(query, name).as_deref(), wanted, "{query}");
        }
    }

    #[test]
    fn lines_of_one_name_are_joined() {
        let headers =
            Headers::from([("X-A", "1"), ("b", "2"), ("x-a", "3"), ("cookie", "p=1"), ("Cookie", "q=2")]);
        let value = |name| joined(&headers, name).map(|v| String::from_utf8_lossy(&v).into_owned());
        assert_eq!(value("x-a").as_deref(), Some("1,3"));
        assert_eq!(value("b").as_deref(), Some("2"));
        assert_eq!(value("cookie").as_deref(), Some("p=1; q=2"));
        assert_eq!(value("c"), None);
        assert!(matches!(joined(&headers, "b"), Some(Cow::Borrowed(_))));
    }

    #[test]
    fn the_host_header_is_the_authority() {
        let host = |text: &'static str| {
            let authority = Authority::parse(text.into()).expect("an authority");
            host(&authority).map(|v| String::from_utf8_lossy(&v).into_owned())
        };
        assert_eq!(host("Shop.Example.").as_deref(), Some("shop.example"));
        assert_eq!(host("a:8080").as_deref(), Some("a:8080"));
        assert_eq!(host(""), None);
    }
}
