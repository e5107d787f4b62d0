//! The entries of one path.

use std::collections::HashMap;
use std::sync::Arc;

use portway_plan::{Entry, StringMatch};
use smallvec::SmallVec;

use super::Hasher;
use super::conditions::value_of;
use crate::http::RequestHead;

/// Indices of entries, ascending.
pub(super) type Indices = SmallVec<[u32; 4]>;

/// The entries that share a path. Where many do, they mostly differ in the value of one header (a tenant, a
/// version); then those with the request's value are found by hash.
#[derive(Debug)]
pub(super) struct Candidates {
    /// All of them, or those that do not ask for `header` by an exact value.
    rest: Indices,
    header: Option<Box<ByHeader>>,
}

#[derive(Debug)]
struct ByHeader {
    name: Arc<str>,
    values: HashMap<Arc<str>, Indices, Hasher>,
}

/// From how many entries on it pays to look at a header first.
const MANY: usize = 8;

fn exact_headers(entry: &Entry) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
    entry.headers.iter().filter_map(|header| match &header.value {
        StringMatch::Exact(value) => Some((&header.name, value)),
        StringMatch::Regex(_) => None,
    })
}

impl Candidates {
    /// Of the entries of a host, those of the indices given, which ascend.
    pub(super) fn new(indices: Indices, entries: &[Entry]) -> Self {
        if indices.len() < MANY {
            return Self { rest: indices, header: None };
        }
        let mut counts: HashMap<&Arc<str>, usize> = HashMap::new();
        for (name, _) in indices.iter().flat_map(|index| exact_headers(&entries[*index as usize])) {
            *counts.entry(name).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(name, count)| (*count, *name));
        let Some(name) = most.filter(|(_, count)| *count >= MANY).map(|(name, _)| name.clone()) else {
            return Self { rest: indices, header: None };
        };
        let mut rest = Indices::new();
        let mut values: HashMap<Arc<str>, Indices, Hasher> = HashMap::default();
        for index in indices {
            match exact_headers(&entries[index as usize]).find(|(n, _)| **n == name) {
                Some((_, value)) => values.entry(value.clone()).or_default().push(index),
                None => rest.push(index),
            }
        }
        Self { rest, header: Some(Box::new(ByHeader { name, values })) }
    }

    /// Calls back with all entries that can match the request, in lists that ascend, each index once. With
    /// `all`, also with those that cannot.
    #[inline]
    pub(super) fn each(&self, head: &RequestHead, all: bool, mut found: impl FnMut(&[u32])) {
        if let Some(header) = &self.header {
            header.each(head, all, &mut found);
        }
        found(&self.rest);
    }
}

impl ByHeader {
    fn each(&self, head: &RequestHead, all: bool, found: &mut dyn FnMut(&[u32])) {
        let value = value_of(head, &self.name);
        let value = value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
        let wanted = value.and_then(|value| self.values.get(value));
        if let Some(indices) = wanted {
            found(indices);
        }
        if all {
            let others = self.values.values().filter(|v| !wanted.is_some_and(|w| std::ptr::eq(w, *v)));
            others.for_each(|indices| found(indices));
        }
    }
}
