//! Finding the hostname patterns that match a host.

use std::collections::HashMap;
use std::sync::Arc;

use portway_plan::HostPattern;

use crate::http::route::Hasher;

/// Hostname patterns, each with its index in a list; found by host at a cost that grows with the labels of
/// the host and not with the number of patterns.
#[derive(Debug, Default)]
pub(crate) struct PatternIndex {
    exact: HashMap<Arc<str>, u32, Hasher>,
    /// By suffix, with its leading dot.
    wildcards: HashMap<Arc<str>, u32, Hasher>,
    any: Option<u32>,
}

impl PatternIndex {
    /// Of patterns that are equal, the first counts.
    pub(crate) fn new<'a>(patterns: impl Iterator<Item = (u32, &'a HostPattern)>) -> Self {
        let mut index = Self::default();
        index.exact.reserve(patterns.size_hint().0);
        for (at, pattern) in patterns {
            match pattern {
                HostPattern::Exact(name) => index.exact.entry(name.clone()).or_insert(at),
                HostPattern::Wildcard(suffix) => index.wildcards.entry(suffix.clone()).or_insert(at),
                HostPattern::Any => index.any.get_or_insert(at),
            };
        }
        index.exact.shrink_to_fit();
        index
    }

    /// The index of that very pattern.
    pub(crate) fn get(&self, pattern: &HostPattern) -> Option<u32> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name).copied(),
            HostPattern::Wildcard(suffix) => self.wildcards.get(suffix).copied(),
            HostPattern::Any => self.any,
        }
    }

    /// The indices of the patterns that match a host (lower case, no port, no trailing dot), from the most
    /// specific to the least. The empty host is matched by [`HostPattern::Any`] alone.
    #[inline]
    pub(crate) fn matching(&self, host: &str) -> impl Iterator<Item = u32> {
        let dots = if self.wildcards.is_empty() { "" } else { host };
        // A wildcard stands for one label at least.
        let suffixes = memchr::memchr_iter(b'.', dots.as_bytes()).filter(|at| *at > 0).map(|at| &dots[at..]);
        let wildcards = suffixes.filter_map(|suffix| self.wildcards.get(suffix).copied());
        self.exact.get(host).copied().into_iter().chain(wildcards).chain(self.any)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterns() -> impl Strategy<Value = Vec<HostPattern>> {
        let label = || prop::sample::select(vec!["a", "b", "c"]);
        let pattern = (prop::bool::ANY, prop::collection::vec(label(), 0..4)).prop_map(|(wild, labels)| {
            let name = labels.join(".");
            HostPattern::parse(&if wild && !name.is_empty() { format!("*.{name}") } else { name })
                .expect("a pattern")
        });
        prop::collection::vec(pattern, 0..12)
    }

    proptest! {
        #[test]
        fn the_same_as_trying_each(mut patterns in patterns(), host in "(\\.?[abc]?){0,5}") {
            patterns.sort_by(|a, b| b.cmp(a));
            patterns.dedup();
            let index = PatternIndex::new(patterns.iter().enumerate().map(|(i, p)| (i as u32, p)));
            let wanted: Vec<u32> =
                (0..patterns.len() as u32).filter(|i| patterns[*i as usize].matches(&host)).collect();
            prop_assert_eq!(index.matching(&host).collect::<Vec<_>>(), wanted);
            for (i, pattern) in patterns.iter().enumerate() {
                prop_assert_eq!(index.get(pattern), Some(i as u32));
            }
        }
    }
}
