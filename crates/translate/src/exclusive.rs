//! HTTPRoutes and GRPCRoutes that share a hostname on one listener: exactly one of the two is accepted
//! (GRPCRoute `hostnames`).

use std::collections::{BTreeMap, HashMap};

use portway_api::object::ObjectKey;
use portway_plan::{HostPattern, RuleKind};

/// The hostnames that one kind of route holds on a listener, each with the route that held it first.
#[derive(Default)]
struct Held<'a> {
    /// The first route of all.
    first: Option<&'a ObjectKey>,
    any: Option<&'a ObjectKey>,
    exact: HashMap<&'a str, &'a ObjectKey>,
    wildcard: HashMap<&'a str, &'a ObjectKey>,
    /// All names and suffixes with their bytes reversed, so that all that ends in `.example.com` is a range.
    reversed: BTreeMap<Vec<u8>, &'a ObjectKey>,
}

impl<'a> Held<'a> {
    fn hold(&mut self, pattern: &'a HostPattern, route: &'a ObjectKey) {
        self.first.get_or_insert(route);
        match pattern {
            HostPattern::Any => {
                self.any.get_or_insert(route);
            }
            HostPattern::Exact(name) => {
                self.exact.entry(name).or_insert(route);
                self.reversed.entry(name.bytes().rev().collect()).or_insert(route);
            }
            HostPattern::Wildcard(suffix) => {
                self.wildcard.entry(suffix).or_insert(route);
                self.reversed.entry(suffix.bytes().rev().collect()).or_insert(route);
            }
        }
    }

    /// A route that holds a hostname which intersects this one.
    fn meets(&self, pattern: &HostPattern) -> Option<&'a ObjectKey> {
        self.any.or_else(|| match pattern {
            HostPattern::Any => self.first,
            HostPattern::Exact(name) => {
                self.exact.get(&**name).copied().or_else(|| self.holds_suffix_of(&name[1..]))
            }
            HostPattern::Wildcard(suffix) => self.holds_suffix_of(suffix).or_else(|| {
                let start: Vec<u8> = suffix.bytes().rev().collect();
                let (next, route) = self.reversed.range(start.clone()..).next()?;
                next.starts_with(&start).then_some(*route)
            }),
        })
    }

    /// The route whose wildcard covers a name that ends so.
    fn holds_suffix_of(&self, tail: &str) -> Option<&'a ObjectKey> {
        tail.match_indices('.').find_map(|(at, _)| self.wildcard.get(&tail[at..]).copied())
    }
}

/// Walks the candidates of one listener, the most senior first, and says for each whether it is accepted
/// beside those before it.
#[derive(Default)]
pub(crate) struct Contest<'a> {
    http: Held<'a>,
    grpc: Held<'a>,
}

impl<'a> Contest<'a> {
    /// Enters a route with the hostnames that it would serve on the listener. Returns a route of the other
    /// kind that is in its way; then it holds nothing, so it cannot in turn push out a third.
    pub(crate) fn enter(
        &mut self,
        kind: RuleKind,
        route: &'a ObjectKey,
        hostnames: impl Iterator<Item = &'a HostPattern> + Clone,
    ) -> Option<&'a ObjectKey> {
        let (own, other) = match kind {
            RuleKind::Http => (&mut self.http, &self.grpc),
            RuleKind::Grpc => (&mut self.grpc, &self.http),
        };
        let rival = hostnames.clone().find_map(|hostname| other.meets(hostname));
        if rival.is_none() {
            hostnames.for_each(|hostname| own.hold(hostname, route));
        }
        rival
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portway_api::object::KindId;
    use proptest::prelude::*;

    fn route(name: &str) -> ObjectKey {
        ObjectKey::new(KindId::HTTPRoute, "store", name)
    }

    fn pattern() -> impl Strategy<Value = HostPattern> {
        prop_oneof![
            Just(HostPattern::Any),
            "[ab](\\.[ab]){0,2}".prop_map(|name| HostPattern::parse(&name).unwrap()),
            "[ab](\\.[ab]){0,2}".prop_map(|name| HostPattern::parse(&format!("*.{name}")).unwrap()),
        ]
    }

    proptest! {
        /// The sets answer what comparing each pair would, and name one that it would find.
        #[test]
        fn meeting_is_pairwise_intersection(held in prop::collection::vec(pattern(), 0..5), asked in pattern()) {
            let routes: Vec<_> = (0..held.len()).map(|i| route(&i.to_string())).collect();
            let mut set = Held::default();
            held.iter().zip(&routes).for_each(|(pattern, route)| set.hold(pattern, route));
            let meeting: Vec<_> = held
                .iter()
                .zip(&routes)
                .filter(|(pattern, _)| pattern.intersect(&asked).is_some())
                .map(|(_, route)| route)
                .collect();
            match set.meets(&asked) {
                Some(found) => prop_assert!(meeting.contains(&found)),
                None => prop_assert!(meeting.is_empty()),
            }
        }
    }

    #[test]
    fn the_refused_hold_nothing() {
        let host = |text| HostPattern::parse(text).unwrap();
        let (all, one, other) = (host("*.example.com"), host("a.example.com"), host("a.example.net"));
        let [a, b, c, d] = ["a", "b", "c", "d"].map(route);
        let mut contest = Contest::default();
        assert_eq!(contest.enter(RuleKind::Http, &a, [&all].into_iter()), None);
        assert_eq!(contest.enter(RuleKind::Grpc, &b, [&one].into_iter()), Some(&a));
        assert_eq!(contest.enter(RuleKind::Http, &c, [&one].into_iter()), None);
        assert_eq!(contest.enter(RuleKind::Grpc, &d, [&other].into_iter()), None);
    }
}
