//! A sorted map that is cheap to clone, and cheap to change after a clone.

use std::cmp::Ordering;
use std::sync::Arc;

/// Entries in one chunk before it is split.
const CHUNK: usize = 128;

/// A sorted map in chunks, which clones share.
///
/// Changing one of 10,000 entries copies one chunk and the list of chunks, some hundred pointers each. A sorted
/// `Vec` would copy all; a persistent tree copies less still, but is slower to read through, and reading is what
/// translation does.
#[derive(Debug)]
pub(crate) struct SortedMap<K, V> {
    /// No chunk is empty.
    chunks: Arc<Vec<Arc<Chunk<K, V>>>>,
    len: usize,
}

type Chunk<K, V> = Vec<(K, V)>;

impl<K, V> Clone for SortedMap<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

impl<K, V> SortedMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether both are clones of one map, unchanged.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }

    /// The entries, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().map(|(key, value)| (key, value)))
    }

    /// The entries whose keys compare as equal; `compare` must go with the order of the keys.
    pub(crate) fn range(&self, compare: impl Fn(&K) -> Ordering + Copy) -> impl Iterator<Item = (&K, &V)> {
        let first = self.first_chunk(compare);
        let chunks = self.chunks.get(first..).unwrap_or_default();
        let entries = chunks.iter().enumerate().flat_map(move |(nth, chunk)| {
            // Only in the first chunk can there be entries before the range.
            let start = if nth == 0 { chunk.partition_point(|(key, _)| compare(key).is_lt()) } else { 0 };
            chunk[start..].iter()
        });
        entries.take_while(move |(key, _)| compare(key).is_eq()).map(|(key, value)| (key, value))
    }

    /// The entry whose key compares as equal.
    pub(crate) fn get(&self, compare: impl Fn(&K) -> Ordering) -> Option<&V> {
        self.range(&compare).next().map(|(_, value)| value)
    }

    /// The first chunk whose last entry is not before the range.
    fn first_chunk(&self, compare: impl Fn(&K) -> Ordering) -> usize {
        self.chunks.partition_point(|chunk| chunk.last().is_some_and(|(key, _)| compare(key).is_lt()))
    }
}

impl<K: Ord + Clone, V: Clone> SortedMap<K, V> {
    /// Sets an entry; returns what was there.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let chunks = Arc::make_mut(&mut self.chunks);
        // A key after all others goes into the last chunk.
        let nth = chunks
            .partition_point(|chunk| chunk.last().is_some_and(|(last, _)| *last < key))
            .min(chunks.len().saturating_sub(1));
        let Some(shared) = chunks.get_mut(nth) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let chunk = Arc::make_mut(shared);
        match chunk.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(at) => Some(std::mem::replace(&mut chunk[at].1, value)),
            Err(at) => {
                chunk.insert(at, (key, value));
                self.len += 1;
                if chunk.len() > CHUNK {
                    let rest = chunk.split_off(CHUNK / 2);
                    chunks.insert(nth + 1, Arc::new(rest));
                }
                None
            }
        }
    }

    /// Removes the entry whose key compares as equal.
    pub(crate) fn remove(&mut self, compare: impl Fn(&K) -> Ordering) -> Option<V> {
        let nth = self.first_chunk(&compare);
        let at = self.chunks.get(nth)?.binary_search_by(|(key, _)| compare(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[nth]);
        let (_, value) = chunk.remove(at);
        if chunk.is_empty() {
            chunks.remove(nth);
        }
        self.len -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_a_btreemap_does(steps in prop::collection::vec((any::<bool>(), 0u16..400), 0..1500)) {
            let mut expected = BTreeMap::new();
            let mut map = SortedMap::default();
            let mut kept = Vec::new();
            for (nth, (insert, key)) in steps.into_iter().enumerate() {
                if insert {
                    prop_assert_eq!(map.insert(key, nth), expected.insert(key, nth));
                } else {
                    prop_assert_eq!(map.remove(|k| k.cmp(&key)), expected.remove(&key));
                }
                prop_assert_eq!(map.get(|k| k.cmp(&key)), expected.get(&key));
                prop_assert_eq!(map.len(), expected.len());
                if nth % 200 == 0 {
                    kept.push((map.clone(), expected.clone()));
                }
            }
            kept.push((map, expected));
            for (map, expected) in kept {
                prop_assert!(map.iter().eq(expected.iter()));
                let tens = |k: &u16| (k / 10).cmp(&7);
                prop_assert!(map.range(tens).eq(expected.range(70..80)));
            }
        }
    }
}
