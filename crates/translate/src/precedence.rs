//! Which of several matches wins (HTTPRoute and GRPCRoute `rules[].matches`), as one total order.

use std::cmp::Reverse;
use std::sync::Arc;

use portway_plan::{Entry, PathMatch, RuleKind};

/// How old an object is and, among equals, what it is called: the tie-break that the whole API shares.
///
/// Orders the winner first: the oldest by `metadata.creationTimestamp`, then by `{namespace}/{name}` as one
/// string. An object without a creation time counts as the newest, so that an object read from a file cannot
/// push aside one that has a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Seniority {
    /// `false` sorts first.
    undated: bool,
    created: i64,
    name: Arc<str>,
}

impl Seniority {
    /// `created` in seconds of Unix time; Kubernetes keeps no finer.
    pub(crate) fn new(created: Option<i64>, namespace: &str, name: &str) -> Self {
        Self {
            undated: created.is_none(),
            created: created.unwrap_or_default(),
            name: format!("{namespace}/{name}").into(),
        }
    }
}

/// How specific a match is, the winner greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Specificity([u32; 5]);

impl Specificity {
    /// An HTTPRoute's match: path kind, path length, method, number of headers, number of query parameters.
    ///
    /// The spec leaves the place of regular expressions open; they stand between exact paths and prefixes,
    /// the longest expression first. Prefixes count without their trailing slash.
    pub(crate) fn of_http(path: &PathMatch, method: bool, headers: usize, query: usize) -> Self {
        let (kind, length) = match path {
            PathMatch::Exact(path) => (2, path.len()),
            PathMatch::Regex(regex) => (1, regex.0.len()),
            PathMatch::Prefix(prefix) => (0, prefix.len()),
        };
        Self([kind, count(length), u32::from(method), count(headers), count(query)])
    }

    /// A GRPCRoute's match: characters of the service, characters of the method, number of headers.
    pub(crate) fn of_grpc(service: usize, method: usize, headers: usize) -> Self {
        Self([count(service), count(method), count(headers), 0, 0])
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The place of one match among all those of a virtual host, together with what its entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rank {
    pub(crate) specificity: Specificity,
    pub(crate) seniority: Arc<Seniority>,
    /// Which of the route's rules it is of.
    pub(crate) rule: u16,
}

impl Rank {
    /// The route that the match is of.
    pub(crate) fn owner(&self, entry: &Entry) -> (Arc<Seniority>, RuleKind) {
        (Arc::clone(&self.seniority), entry.rule.kind)
    }

    /// Orders matches; the least is tried first.
    pub(crate) fn key<'a>(&'a self, entry: &'a Entry) -> impl Ord + 'a {
        (
            // The route's own hostname, not its intersection with the listener's (feature
            // GatewayRouteHostnameIntersectionPrecedence).
            Reverse((&entry.route_hostname, self.specificity)),
            &*self.seniority,
            // `HTTPRoute` before `GRPCRoute`, which meet on no host; it makes the order total.
            entry.rule.kind,
            self.rule,
            entry.match_index,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_as_one_string() {
        let a = Seniority::new(None, "a", "x");
        let a_b = Seniority::new(None, "a-b", "x");
        assert!(a_b < a, "'-' sorts before '/'");
    }

    #[test]
    fn the_undated_are_the_newest() {
        let dated = Seniority::new(Some(i64::MAX), "z", "z");
        let undated = Seniority::new(None, "a", "a");
        assert!(dated < undated);
    }
}
