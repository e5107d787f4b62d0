//! RequestHeaderModifier and ResponseHeaderModifier: HTTPHeaderFilter
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#httpheaderfilter>).

use bytes::Bytes;
use portway_plan::HeaderEdit;

use crate::http::{Authority, Headers, RequestHead, ResponseHead};

/// Sets, adds and removes header fields.
///
/// `Host` of a request is its authority: `set` changes it, `add` and `remove` leave it alone. Names that
/// belong to the connection ([`PROTECTED`]) are left alone too.
#[derive(Debug)]
pub(super) struct HeaderModifier {
    authority: Option<Authority>,
    set: Box<[(Bytes, Bytes)]>,
    add: Box<[(Bytes, Bytes)]>,
    remove: Box<[Box<str>]>,
}

/// Framing and hop-by-hop fields, which the engines write by themselves (RFC 9110 section 7.6.1): a route
/// that could set them could make two readers see two different messages.
pub(super) const PROTECTED: [&str; 10] = [
    "host",
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

impl HeaderModifier {
    /// `None` when it sets a `Host` that is none.
    pub(super) fn compile(edit: &HeaderEdit) -> Option<Self> {
        let free = |name: &str| !PROTECTED.iter().any(|protected| protected.eq_ignore_ascii_case(name));
        let own = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let pairs = |pairs: &[portway_plan::HeaderPair]| {
            pairs.iter().filter(|p| free(&p.name)).map(|p| (own(&p.name), own(&p.value))).collect()
        };
        let authority = match edit.set.iter().find(|pair| pair.name.eq_ignore_ascii_case("host")) {
            Some(host) => Some(Authority::parse(own(&host.value)).ok().filter(|a| !a.host().is_empty())?),
            None => None,
        };
        Some(Self {
            authority,
            set: pairs(&edit.set),
            add: pairs(&edit.add),
            remove: edit.remove.iter().filter(|name| free(name)).map(|name| (**name).into()).collect(),
        })
    }

    pub(super) fn on_request(&self, head: &mut RequestHead) {
        if let Some(authority) = &self.authority {
            head.authority = authority.clone();
        }
        self.apply(&mut head.headers);
    }

    pub(super) fn on_response(&self, head: &mut ResponseHead) {
        self.apply(&mut head.headers);
    }

    fn apply(&self, headers: &mut Headers) {
        for (name, value) in &self.set {
            headers.set(name, value);
        }
        for (name, value) in &self.add {
            add(headers, name, value);
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// Appends to the values that are there, in one line as the specification shows it. `Set-Cookie` cannot be
/// joined and gets a line of its own (RFC 9110 section 5.3); after a comma, a cookie would be a part of the
/// value of the one before (RFC 6265 section 4.2.1).
fn add(headers: &mut Headers, name: &Bytes, value: &Bytes) {
    let separator: &[u8] = if name.eq_ignore_ascii_case(b"cookie") { b"; " } else { b"," };
    let joined =
        std::str::from_utf8(name).ok().filter(|n| !n.eq_ignore_ascii_case("set-cookie")).and_then(|text| {
            let mut joined = Vec::new();
            let mut some = false;
            for line in headers.get_all(text) {
                joined.extend_from_slice(line);
                joined.extend_from_slice(separator);
                some = true;
            }
            joined.extend_from_slice(value);
            some.then_some(joined)
        });
    match joined {
        Some(joined) => headers.set(name, joined),
        None => headers.append(name, value),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::request;
    use super::*;
    use portway_plan::HeaderPair;

    fn edit(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> Option<HeaderModifier> {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(n, v)| HeaderPair { name: (*n).into(), value: (*v).into() }).collect()
        };
        let remove = remove.iter().map(|name| (*name).into()).collect();
        HeaderModifier::compile(&HeaderEdit { set: pairs(set), add: pairs(add), remove })
    }

    fn applied(modifier: Option<HeaderModifier>, headers: Headers) -> Headers {
        let mut head = request("GET", "http://a/");
        head.headers = headers;
        modifier.expect("a modifier").on_request(&mut head);
        head.headers
    }

    #[test]
    fn the_examples_of_the_specification() {
        let before = Headers::from([("my-header", "foo")]);
        let set = edit(&[("my-header", "bar")], &[], &[]);
        assert_eq!(applied(set, before.clone()), Headers::from([("my-header", "bar")]));
        let add = edit(&[], &[("my-header", "bar,baz")], &[]);
        assert_eq!(applied(add, before), Headers::from([("my-header", "foo,bar,baz")]));
        let three = Headers::from([("my-header1", "foo"), ("My-Header2", "bar"), ("MY-HEADER3", "baz")]);
        let remove = edit(&[], &[], &["my-header1", "my-header3"]);
        assert_eq!(applied(remove, three), Headers::from([("My-Header2", "bar")]));
    }

    #[test]
    fn add_without_values_before_and_for_cookies() {
        let modifier = edit(&[], &[("X-New", "1"), ("Set-Cookie", "b=2")], &[]);
        let after = applied(modifier, Headers::from([("set-cookie", "a=1")]));
        assert_eq!(after, Headers::from([("set-cookie", "a=1"), ("X-New", "1"), ("Set-Cookie", "b=2")]));
        let lines = Headers::from([("x", "1"), ("y", "2"), ("X", "3")]);
        let after = applied(edit(&[], &[("x", "4")], &[]), lines);
        assert_eq!(after, Headers::from([("x", "1,3,4"), ("y", "2")]));
        let after = applied(edit(&[], &[("Cookie", "b=2")], &[]), Headers::from([("cookie", "a=1")]));
        assert_eq!(after, Headers::from([("Cookie", "a=1; b=2")]));
    }

    #[test]
    fn host_is_the_authority() {
        let mut head = request("GET", "http://a.example/");
        edit(&[("Host", "B.example:81")], &[("host", "c")], &["HOST"]).unwrap().on_request(&mut head);
        assert_eq!((head.authority.host(), head.authority.port()), ("b.example", Some(81)));
        assert!(head.headers.is_empty());
        assert!(edit(&[("Host", "a b")], &[], &[]).is_none());
        assert!(edit(&[("Host", "")], &[], &[]).is_none());
    }

    #[test]
    fn framing_is_not_for_routes() {
        let modifier = edit(
            &[("Content-Length", "0"), ("transfer-encoding", "chunked")],
            &[("Connection", "x")],
            &["te"],
        );
        let before = Headers::from([("te", "trailers")]);
        assert_eq!(applied(modifier, before.clone()), before);
    }
}
