//! The entries of one hostname pattern, found by path.

use std::collections::HashMap;
use std::sync::Arc;

use portway_plan::{self as plan, PathMatch};

use super::candidates::{Candidates, Indices};
use super::conditions::Conditions;
use super::regexes::PathRegexes;
use super::rule::RuleEntry;
use super::trace::Observer;
use super::{Compilation, Hasher};
use crate::http::{RequestHead, path};

/// The compiled entries of one hostname pattern, on all listeners that have the same.
///
/// Entries are found by path: exact paths and prefixes by hash, one look for each length that a prefix has;
/// regular expressions by what their matches begin or end with, where there are many. Of all that is found,
/// the entry that comes first in the plan and matches wins.
#[derive(Debug)]
pub struct HostTable {
    plan: Arc<plan::Host>,
    entries: Box<[EntryTable]>,
    exact: HashMap<Arc<str>, Candidates, Hasher>,
    prefixes: HashMap<Arc<str>, Candidates, Hasher>,
    /// The lengths that prefixes have, the longest first.
    prefix_lens: Box<[usize]>,
    regexes: PathRegexes,
    resolved: bool,
}

#[derive(Debug)]
struct EntryTable {
    rule: Arc<RuleEntry>,
    conditions: Option<Box<Conditions>>,
}

impl HostTable {
    /// Compiles a host. Rules that the previous table of that hostname has are taken from it, with their
    /// counters.
    pub(super) fn compile(
        host: &Arc<plan::Host>,
        previous: Option<&Self>,
        with: &mut Compilation<'_>,
    ) -> Self {
        let mut rules: HashMap<*const plan::Rule, &Arc<RuleEntry>, Hasher> = HashMap::default();
        for entry in previous.iter().flat_map(|table| &table.entries).filter(|e| e.rule.is_resolved()) {
            rules.insert(Arc::as_ptr(entry.rule.plan()), &entry.rule);
        }
        let mut exact: HashMap<Arc<str>, Indices, Hasher> = HashMap::default();
        let mut prefixes: HashMap<Arc<str>, Indices, Hasher> = HashMap::default();
        let mut regexes = Vec::new();
        let mut entries = Vec::with_capacity(host.entries.len());
        for (index, entry) in (0u32..).zip(&host.entries) {
            let rule = match rules.get(&Arc::as_ptr(&entry.rule)) {
                Some(known) => Arc::clone(known),
                None => with.rule(&entry.rule),
            };
            let conditions = Conditions::compile(entry, rule.answers_preflights(), &mut with.regexes);
            entries.push(EntryTable { rule, conditions });
            let (map, planned, is_prefix) = match &entry.path {
                PathMatch::Exact(path) => (&mut exact, path, false),
                PathMatch::Prefix(prefix) => (&mut prefixes, prefix, true),
                PathMatch::Regex(regex) => {
                    regexes.push((index, regex));
                    continue;
                }
            };
            let trimmed = if is_prefix { planned.trim_end_matches('/') } else { &**planned };
            let normal = path::normalise_match(trimmed);
            let path = normal.as_deref().unwrap_or(trimmed);
            match map.get_mut(path) {
                Some(indices) => indices.push(index),
                None => {
                    let path = if *path == **planned { planned.clone() } else { path.into() };
                    map.insert(path, Indices::from_slice(&[index]));
                }
            }
        }
        let candidates = |paths: HashMap<Arc<str>, Indices, Hasher>| {
            let new = |indices| Candidates::new(indices, &host.entries);
            paths.into_iter().map(|(path, indices)| (path, new(indices))).collect()
        };
        let mut prefix_lens: Vec<usize> = prefixes.keys().map(|prefix| prefix.len()).collect();
        prefix_lens.sort_unstable_by(|a, b| b.cmp(a));
        prefix_lens.dedup();
        Self {
            plan: host.clone(),
            resolved: entries.iter().all(|entry| entry.rule.is_resolved()),
            entries: entries.into(),
            exact: candidates(exact),
            prefixes: candidates(prefixes),
            prefix_lens: prefix_lens.into(),
            regexes: PathRegexes::new(regexes, &mut with.regexes),
        }
    }

    /// The host as the plan has it.
    pub fn plan(&self) -> &Arc<plan::Host> {
        &self.plan
    }

    /// The compiled rule of the plan's entry of that index.
    pub fn rule(&self, index: usize) -> Option<&Arc<RuleEntry>> {
        self.entries.get(index).map(|entry| &entry.rule)
    }

    /// Whether every backend that it names was there when it was compiled.
    pub(super) fn is_resolved(&self) -> bool {
        self.resolved
    }

    /// The index of the first entry that matches.
    #[inline]
    pub(super) fn find<'a, O: Observer<'a>>(&'a self, head: &RequestHead, observer: &mut O) -> Option<usize> {
        let path = head.target.path();
        let mut best = u32::MAX;
        if let Some(candidates) = self.exact.get(path) {
            candidates.each(head, O::EXHAUSTIVE, |indices| best = self.first(indices, best, head, observer));
        }
        for &len in &self.prefix_lens {
            // Prefixes end where path elements end.
            if !matches!(path.as_bytes().get(len..), Some([] | [b'/', ..])) {
                continue;
            }
            if let Some(candidates) = path.get(..len).and_then(|prefix| self.prefixes.get(prefix)) {
                candidates
                    .each(head, O::EXHAUSTIVE, |indices| best = self.first(indices, best, head, observer));
            }
        }
        let below = if O::EXHAUSTIVE { u32::MAX } else { best };
        self.regexes.each_match(path, below, |indices| {
            best = self.first(indices, best, head, observer);
            if O::EXHAUSTIVE { u32::MAX } else { best }
        });
        (best != u32::MAX).then_some(best as usize)
    }

    /// The first entry among these, whose path matches, that matches in all else; `best` if that comes
    /// earlier.
    #[inline]
    fn first<'a, O: Observer<'a>>(
        &'a self,
        indices: &[u32],
        mut best: u32,
        head: &RequestHead,
        observer: &mut O,
    ) -> u32 {
        for &index in indices {
            if index >= best && !O::EXHAUSTIVE {
                break;
            }
            let at = index as usize;
            let result = match &self.entries[at].conditions {
                None => Ok(()),
                Some(conditions) => conditions.check(&self.plan.entries[at], head),
            };
            observer.entry(self, at, result);
            if result.is_ok() {
                best = best.min(index);
            }
        }
        best
    }
}
