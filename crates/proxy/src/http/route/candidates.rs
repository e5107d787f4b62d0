//! The entries of one path.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use portway_plan::{Entry, StringMatch};
use smallvec::SmallVec;

use super::Hasher;
use super::conditions::{query_value, value_of};
use crate::http::RequestHead;

/// Indices of entries, ascending.
pub(super) type Indices = SmallVec<[u32; 4]>;

/// The entries that share a path. Where many do, they mostly differ in the values of a few headers or query
/// parameters (a tenant, a version); then those with the request's values are found by hash. Where they
/// differ in the names of headers, those with the request's names are.
#[derive(Debug)]
pub(super) enum Candidates {
    /// All of them, the first `len` of these. So it is with most paths, of which there can be very many.
    Few {
        len: u8,
        indices: [u32; FEW],
    },
    Many(Box<Many>),
}

#[derive(Debug)]
pub(super) struct Many {
    /// All of them, or those that are not in `split`.
    rest: Indices,
    split: Option<Split>,
}

#[derive(Debug)]
struct Split {
    keyed: Box<[Keyed]>,
    /// Of those that ask for no exact value of any key in `keyed`: those that ask for a header, by one of the
    /// names that each asks for.
    named: HashMap<Arc<str>, Indices, Hasher>,
}

/// Entries that ask for exact values of one key.
#[derive(Debug)]
struct Keyed {
    key: Key,
    values: HashMap<Arc<str>, Candidates, Hasher>,
}

/// What entries may ask for an exact value of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Header(Arc<str>),
    Query(Arc<str>),
}

/// How many take no more room than where more of them are.
const FEW: usize = 3;

/// From how many entries on it pays to look at a header or query parameter first.
const MANY: usize = 8;

/// How many keys are looked at, at most, before the entries that are left are tried one by one.
const MOST_KEYS: usize = 8;

/// From how many entries on it pays to look each of the request's headers up.
const MANY_NAMES: usize = 32;

/// What an entry asks for by exact values.
fn keys(entry: &Entry) -> impl Iterator<Item = (Key, &Arc<str>)> {
    fn exact(value: &StringMatch) -> Option<&Arc<str>> {
        match value {
            StringMatch::Exact(value) => Some(value),
            StringMatch::Regex(_) => None,
        }
    }
    let headers = entry.headers.iter().filter_map(|h| Some((Key::Header(h.name.clone()), exact(&h.value)?)));
    let queries = entry.query.iter().filter_map(|q| Some((Key::Query(q.name.clone()), exact(&q.value)?)));
    headers.chain(queries)
}

/// The key that most of the entries have, if many do and it has not been used.
fn most_common(indices: &[u32], entries: &[Entry], used: &[Key]) -> Option<Key> {
    let mut counts: HashMap<Key, usize> = HashMap::new();
    for (key, _) in indices.iter().flat_map(|index| keys(&entries[*index as usize])) {
        if !used.contains(&key) {
            *counts.entry(key).or_default() += 1;
        }
    }
    let most = counts.into_iter().max_by(|(a, n), (b, m)| (n, a).cmp(&(m, b)));
    most.filter(|(_, count)| *count >= MANY).map(|(key, _)| key)
}

impl Candidates {
    /// Of the entries of a host, those of the indices given, which ascend.
    pub(super) fn new(indices: Indices, entries: &[Entry]) -> Self {
        Self::split(indices, entries, &mut Vec::new())
    }

    /// `used`: keys of which all the entries have one value.
    fn split(indices: Indices, entries: &[Entry], used: &mut Vec<Key>) -> Self {
        let mut few = [0; FEW];
        if let (Some(few_of), Ok(len)) = (few.get_mut(..indices.len()), u8::try_from(indices.len())) {
            few_of.copy_from_slice(&indices);
            return Self::Few { len, indices: few };
        }
        let (mut rest, mut keyed) = (indices, Vec::new());
        while rest.len() >= MANY && keyed.len() < MOST_KEYS {
            let Some(key) = most_common(&rest, entries, used) else { break };
            let mut groups: HashMap<Arc<str>, Indices, Hasher> = HashMap::default();
            let mut others = Indices::new();
            for index in rest {
                match keys(&entries[index as usize]).find(|(k, _)| *k == key) {
                    Some((_, value)) => groups.entry(value.clone()).or_default().push(index),
                    None => others.push(index),
                }
            }
            rest = others;
            used.push(key.clone());
            let group = |(value, indices)| (value, Self::split(indices, entries, used));
            let values = groups.into_iter().map(group).collect();
            used.pop();
            keyed.push(Keyed { key, values });
        }
        let named = if rest.len() >= MANY_NAMES { by_name(&mut rest, entries) } else { HashMap::default() };
        let is_split = !keyed.is_empty() || !named.is_empty();
        let split = is_split.then(|| Split { keyed: keyed.into(), named });
        Self::Many(Box::new(Many { rest, split }))
    }

    /// Calls back with all entries that can match the request, in lists that ascend. With `all`, also with
    /// those that cannot, each index once.
    #[inline]
    pub(super) fn each(&self, head: &RequestHead, all: bool, mut found: impl FnMut(&[u32])) {
        match self {
            Self::Few { len, indices } => found(indices.get(..usize::from(*len)).unwrap_or(indices)),
            Self::Many(many) => {
                if let Some(split) = &many.split {
                    split.keyed.iter().for_each(|keyed| keyed.each(head, all, &mut found));
                    split.each_named(head, all, &mut found);
                }
                found(&many.rest);
            }
        }
    }
}

/// Takes out those that ask for a header, each by that of its names which the fewest ask for.
fn by_name(rest: &mut Indices, entries: &[Entry]) -> HashMap<Arc<str>, Indices, Hasher> {
    let names = |index: u32| entries[index as usize].headers.iter().map(|header| &header.name);
    let mut counts: HashMap<&Arc<str>, usize> = HashMap::new();
    rest.iter().flat_map(|index| names(*index)).for_each(|name| *counts.entry(name).or_default() += 1);
    let mut named: HashMap<Arc<str>, Indices, Hasher> = HashMap::default();
    rest.retain(|index| match names(*index).min_by_key(|name| counts.get(name)) {
        Some(name) => {
            named.entry(name.clone()).or_default().push(*index);
            false
        }
        None => true,
    });
    named
}

impl Split {
    fn each_named(&self, head: &RequestHead, all: bool, found: &mut dyn FnMut(&[u32])) {
        if all {
            return self.named.values().for_each(|indices| found(indices));
        }
        if self.named.is_empty() {
            return;
        }
        // What is found twice is tried twice.
        let mut lower: SmallVec<[u8; 64]> = SmallVec::new();
        for (name, _) in head.headers.iter() {
            lower.clear();
            lower.extend(name.iter().map(u8::to_ascii_lowercase));
            if let Some(indices) = std::str::from_utf8(&lower).ok().and_then(|name| self.named.get(name)) {
                found(indices);
            }
        }
        // The host is no header of the request here, but entries may ask for it.
        if let Some(indices) = self.named.get("host") {
            found(indices);
        }
    }
}

impl Keyed {
    fn each(&self, head: &RequestHead, all: bool, found: &mut dyn FnMut(&[u32])) {
        if all {
            return self.values.values().for_each(|candidates| candidates.each(head, all, &mut *found));
        }
        let value = self.key.value_of(head);
        let value = value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
        if let Some(candidates) = value.and_then(|value| self.values.get(value)) {
            candidates.each(head, all, found);
        }
    }
}

impl Key {
    fn value_of<'a>(&self, head: &'a RequestHead) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Header(name) => value_of(head, name),
            Self::Query(name) => query_value(head.target.query().unwrap_or_default(), name),
        }
    }
}
