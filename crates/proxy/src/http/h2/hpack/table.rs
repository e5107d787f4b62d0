//! The dynamic table (RFC 7541 sections 2.3.2 and 4), of either side.

use std::collections::VecDeque;

/// What each entry counts beside its bytes.
const OVERHEAD: usize = 32;

/// Fields that were sent before. Holds no memory before the first one.
pub(super) struct Table {
    /// The entries' bytes, oldest first; those before the first entry's are dead.
    bytes: Vec<u8>,
    entries: VecDeque<Entry>,
    size: usize,
    max_size: usize,
    /// Entries that were ever inserted.
    inserted: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    start: usize,
    name: usize,
    value: usize,
}

impl Table {
    pub(super) fn new(max_size: usize) -> Self {
        Self { bytes: Vec::new(), entries: VecDeque::new(), size: 0, max_size, inserted: 0 }
    }

    pub(super) fn max_size(&self) -> usize {
        self.max_size
    }

    /// Changes the size; the oldest entries go.
    pub(super) fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict(0);
    }

    /// An entry by its age; 0 is the newest.
    #[inline]
    pub(super) fn get(&self, age: usize) -> Option<(&[u8], &[u8])> {
        let index = self.entries.len().checked_sub(age + 1)?;
        let Entry { start, name, value } = self.entries[index];
        let middle = start + name;
        Some((&self.bytes[start..middle], &self.bytes[middle..middle + value]))
    }

    /// The age of the entry that was inserted as the so manieth, if it is still there.
    #[inline]
    pub(super) fn age(&self, number: u32) -> Option<usize> {
        let age = self.inserted.wrapping_sub(number) as usize;
        (age < self.entries.len()).then_some(age)
    }

    /// Inserts a field; gives its number. One that is larger than the table only empties it.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) -> u32 {
        let size = name.len() + value.len() + OVERHEAD;
        self.evict(size);
        if size > self.max_size {
            return self.inserted;
        }
        let dead = self.entries.front().map_or(self.bytes.len(), |entry| entry.start);
        if dead >= self.max_size.max(256) {
            self.bytes.drain(..dead);
            self.entries.iter_mut().for_each(|entry| entry.start -= dead);
        }
        self.entries.push_back(Entry { start: self.bytes.len(), name: name.len(), value: value.len() });
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.size += size;
        self.inserted = self.inserted.wrapping_add(1);
        self.inserted
    }

    /// Makes room for that much.
    fn evict(&mut self, room: usize) {
        while self.size + room > self.max_size
            && let Some(entry) = self.entries.pop_front()
        {
            self.size -= entry.name + entry.value + OVERHEAD;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go() {
        let mut table = Table::new(3 * 34 + 10);
        let numbers: Vec<u32> = (b'a'..=b'd').map(|byte| table.insert(&[byte], &[byte])).collect();
        assert_eq!(table.get(0), Some((&b"d"[..], &b"d"[..])));
        assert_eq!(table.get(2), Some((&b"b"[..], &b"b"[..])));
        assert_eq!(table.get(3), None);
        assert_eq!(
            (table.age(numbers[0]), table.age(numbers[1]), table.age(numbers[3])),
            (None, Some(2), Some(0))
        );
        table.resize(40);
        assert_eq!((table.get(0), table.get(1)), (Some((&b"d"[..], &b"d"[..])), None));
        table.insert(&[b'x'; 100], b"");
        assert_eq!(table.get(0), None);
    }

    #[test]
    fn its_memory_is_bounded() {
        let mut table = Table::new(4096);
        for n in 0..10_000usize {
            table.insert(n.to_string().as_bytes(), &vec![b'x'; n % 300]);
            assert!(table.bytes.len() <= 2 * 4096, "{}", table.bytes.len());
        }
    }
}
