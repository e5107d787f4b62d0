//! HTTPRoutes and GRPCRoutes that share a hostname on one listener: exactly one of the two is accepted
//! (GRPCRoute `hostnames`).

use std::collections::{BTreeSet, HashSet};

use portway_plan::{HostPattern, RuleKind};

/// The hostnames that one kind of route holds on a listener.
#[derive(Default)]
struct Held {
    any: bool,
    nothing: bool,
    exact: HashSet<String>,
    wildcard: HashSet<String>,
    /// All names and suffixes with their bytes reversed, so that all that ends in `.example.com` is a range.
    reversed: BTreeSet<Vec<u8>>,
}

impl Held {
    fn new() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    fn hold(&mut self, pattern: &HostPattern) {
        self.nothing = false;
        match pattern {
            HostPattern::Any => self.any = true,
            HostPattern::Exact(name) => {
                self.exact.insert(name.to_string());
                self.reversed.insert(name.bytes().rev().collect());
            }
            HostPattern::Wildcard(suffix) => {
                self.wildcard.insert(suffix.to_string());
                self.reversed.insert(suffix.bytes().rev().collect());
            }
        }
    }

    fn meets(&self, pattern: &HostPattern) -> bool {
        if self.any {
            return true;
        }
        match pattern {
            HostPattern::Any => !self.nothing,
            HostPattern::Exact(name) => self.exact.contains(&**name) || self.holds_suffix_of(&name[1..]),
            HostPattern::Wildcard(suffix) => {
                let start: Vec<u8> = suffix.bytes().rev().collect();
                self.holds_suffix_of(suffix)
                    || self
                        .reversed
                        .range(start.clone()..)
                        .next()
                        .is_some_and(|next| next.starts_with(&start))
            }
        }
    }

    /// Whether a wildcard that is held covers a name that ends so.
    fn holds_suffix_of(&self, tail: &str) -> bool {
        tail.match_indices('.').any(|(at, _)| self.wildcard.contains(&tail[at..]))
    }
}

/// Walks the candidates of one listener, the most senior first, and says for each whether it is accepted
/// beside those before it.
pub(crate) struct Contest {
    http: Held,
    grpc: Held,
}

impl Contest {
    pub(crate) fn new() -> Self {
        Self { http: Held::new(), grpc: Held::new() }
    }

    /// Enters a route with the hostnames that it would serve on the listener. A route that is refused holds
    /// nothing, so it cannot in turn push out a third.
    pub(crate) fn enter<'a>(
        &mut self,
        kind: RuleKind,
        hostnames: impl Iterator<Item = &'a HostPattern> + Clone,
    ) -> bool {
        let (own, other) = match kind {
            RuleKind::Http => (&mut self.http, &self.grpc),
            RuleKind::Grpc => (&mut self.grpc, &self.http),
        };
        if hostnames.clone().any(|hostname| other.meets(hostname)) {
            return false;
        }
        hostnames.for_each(|hostname| own.hold(hostname));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern() -> impl Strategy<Value = HostPattern> {
        prop_oneof![
            Just(HostPattern::Any),
            "[ab](\\.[ab]){0,2}".prop_map(|name| HostPattern::parse(&name).unwrap()),
            "[ab](\\.[ab]){0,2}".prop_map(|name| HostPattern::parse(&format!("*.{name}")).unwrap()),
        ]
    }

    proptest! {
        /// The sets answer what comparing each pair would.
        #[test]
        fn meeting_is_pairwise_intersection(held in prop::collection::vec(pattern(), 0..5), asked in pattern()) {
            let mut set = Held::new();
            held.iter().for_each(|pattern| set.hold(pattern));
            prop_assert_eq!(set.meets(&asked), held.iter().any(|one| one.intersect(&asked).is_some()));
        }
    }

    #[test]
    fn the_refused_hold_nothing() {
        let host = |text| vec![HostPattern::parse(text).unwrap()];
        let mut contest = Contest::new();
        assert!(contest.enter(RuleKind::Http, host("*.example.com").iter()));
        assert!(!contest.enter(RuleKind::Grpc, host("a.example.com").iter()));
        assert!(contest.enter(RuleKind::Http, host("a.example.com").iter()));
        assert!(contest.enter(RuleKind::Grpc, host("a.example.net").iter()));
    }
}
