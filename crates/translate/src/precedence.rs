//! Which of several matches wins (HTTPRoute and GRPCRoute `rules[].matches`), as one total order.

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use portway_plan::{HostPattern, PathMatch};

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

/// The place of one match among all those of a virtual host; the least is tried first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rank {
    /// The route's own hostname, not its intersection with the listener's
    /// (feature GatewayRouteHostnameIntersectionPrecedence).
    pub(crate) hostname: HostPattern,
    pub(crate) specificity: Specificity,
    pub(crate) seniority: Arc<Seniority>,
    /// `HTTPRoute` before `GRPCRoute`, which meet on no host; it makes the order total.
    pub(crate) kind: portway_plan::RuleKind,
    pub(crate) rule: u16,
    pub(crate) match_index: u16,
}

impl Rank {
    /// The route that the match is of.
    pub(crate) fn owner(&self) -> (Arc<Seniority>, portway_plan::RuleKind) {
        (Arc::clone(&self.seniority), self.kind)
    }
}

impl Rank {
    fn key(&self) -> impl Ord + '_ {
        (
            Reverse((&self.hostname, self.specificity)),
            &*self.seniority,
            self.kind,
            self.rule,
            self.match_index,
        )
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
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
