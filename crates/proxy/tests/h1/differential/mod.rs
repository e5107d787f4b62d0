//! The same bytes to this engine, to hyper and to llhttp (Node's parser, in strict mode).
//!
//! What they refuse is refused here, and what is taken here means the same to them. Where that is not so, the
//! file in `hostile/` or `responses/` says it, and `docs/reference/http1-differences.md` lists it:
//! - `hyper: takes`, `llhttp: takes`: the other takes what is refused here; the file's first line is why;
//! - `refuses`: it refuses what is taken here, and `differs`: it takes it for something else; with a `reason`.
//!
//! Not compared, since they differ on purpose:
//! - fields between neighbours (`Connection`, what it names, `Keep-Alive`, `TE`, `Transfer-Encoding`,
//!   `Upgrade`, …) and `Content-Length` and `Expect`, which here are not among the fields;
//! - fields with underscores, of which those that pose as others are dropped here;
//! - trailers that do not belong there, which are dropped here;
//! - targets, which here are normalised, before that is done to theirs, too.

mod documented;
mod hyper;
mod llhttp;
mod mutations;

use std::collections::BTreeMap;

use bytes::Bytes;
use portway_proxy::http::path;
use portway_testkit::engine::corpus::Case;
use portway_testkit::engine::{Answered, Meaning, Pairs};

use crate::hostile::SMUGGLED;

/// The case as a client sends it.
fn request_wire(case: &Case) -> Vec<u8> {
    [&case.payload, SMUGGLED.as_bytes()].concat()
}

/// What another parser makes of a message that is compared with ours, and how it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// It takes more messages.
    Takes,
    /// It takes fewer.
    Refuses,
    /// It takes as many, and at least one for something else.
    Differs,
}

impl Verdict {
    fn key(self) -> Option<&'static str> {
        match self {
            Self::Same => None,
            Self::Takes => Some("takes"),
            Self::Refuses => Some("refuses"),
            Self::Differs => Some("differs"),
        }
    }
}

/// Compares the messages that came whole.
fn compare<T: Comparable>(ours: &[T], theirs: &[T]) -> Verdict {
    let whole = |all: &[T]| all.iter().filter(|message| message.is_whole()).cloned().collect::<Vec<_>>();
    let (ours, theirs) = (whole(ours), whole(theirs));
    let same = ours.iter().zip(&theirs).all(|(ours, theirs)| ours.means(theirs));
    match ours.len().cmp(&theirs.len()) {
        _ if !same => Verdict::Differs,
        std::cmp::Ordering::Less => Verdict::Takes,
        std::cmp::Ordering::Equal => Verdict::Same,
        std::cmp::Ordering::Greater => Verdict::Refuses,
    }
}

trait Comparable: Clone {
    fn is_whole(&self) -> bool;

    /// Whether this, which is ours, and the other parser's mean the same.
    fn means(&self, theirs: &Self) -> bool;
}

impl Comparable for Meaning {
    fn is_whole(&self) -> bool {
        self.fault.is_none()
    }

    fn means(&self, theirs: &Self) -> bool {
        let (target, authority) = in_origin_form(&theirs.target, &theirs.fields);
        let target = match path::normalise(&Bytes::from(target.clone())) {
            Ok(normal) => normal.as_str().to_owned(),
            Err(_) => target,
        };
        self.method == theirs.method
            && self.target == target
            && self.authority == authority
            && end_to_end(&self.fields) == end_to_end(&theirs.fields)
            && self.body == theirs.body
            && trailers(&self.trailers, &theirs.trailers)
    }
}

impl Comparable for Answered {
    fn is_whole(&self) -> bool {
        self.fault.is_none()
    }

    fn means(&self, theirs: &Self) -> bool {
        self.status == theirs.status
            && end_to_end(&self.fields) == end_to_end(&theirs.fields)
            && self.body == theirs.body
            && trailers(&self.trailers, &theirs.trailers)
    }
}

/// The target without its scheme and authority, and the authority: that of the target, or that in `Host`.
fn in_origin_form(target: &str, fields: &Pairs) -> (String, String) {
    let after_scheme = target.split_once("://").filter(|_| !target.starts_with('/'));
    if let Some((_, rest)) = after_scheme {
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let slash = if path.starts_with('/') { "" } else { "/" };
        return (format!("{slash}{path}"), authority.to_owned());
    }
    let host = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    (target.to_owned(), host.map(|(_, value)| value.clone()).unwrap_or_default())
}

/// By lower-case name, the values in order.
fn end_to_end(fields: &Pairs) -> BTreeMap<String, Vec<String>> {
    const HOPS: [&str; 11] = [
        "host",
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "trailer",
    ];
    let connection = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
    let named: Vec<String> = connection
        .flat_map(|(_, value)| value.split(','))
        .map(|name| name.trim_matches([' ', '\t']).to_ascii_lowercase())
        .collect();
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in fields {
        let name = name.to_ascii_lowercase();
        if !HOPS.contains(&&*name) && !name.contains('_') && !named.contains(&name) {
            all.entry(name).or_default().push(value.clone());
        }
    }
    all
}

/// Whether ours are theirs without those that we drop.
fn trailers(ours: &Pairs, theirs: &Pairs) -> bool {
    let ours = end_to_end(ours);
    let mut theirs = end_to_end(theirs);
    theirs.retain(|name, _| ours.contains_key(name));
    ours == theirs
}

/// Fails where the differences found are not those that the corpus lists.
fn check_listed(parser: &str, found: impl IntoIterator<Item = (Case, Verdict, String)>) {
    let mut wrong = String::new();
    for (case, verdict, told) in found {
        let listed = case.get(parser);
        if listed != verdict.key() {
            wrong += &format!(
                "{}: {parser}: {} (listed: {listed:?})\n    {told}\n",
                case.name,
                verdict.key().unwrap_or("same")
            );
        } else if matches!(verdict, Verdict::Refuses | Verdict::Differs) && case.get("reason").is_none() {
            wrong += &format!("{}: no reason for {parser}: {verdict:?}\n", case.name);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
