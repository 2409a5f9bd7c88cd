//! Gathering equal observations into one with a hit count.
//!
//! What is gathered lives in memory only, so it is never kept for long (see `driver.rs`), and a full
//! table is handed out to the spool, not cut: the spool is on disk and has the only bound that
//! loses events, and counts them.

use std::collections::HashMap;
use std::hash::Hash;

use jiff::Timestamp;

/// Equal things seen, with the first one and the number of them.
#[derive(Debug)]
pub(crate) struct Aggregate<K, V> {
    entries: HashMap<K, Entry<V>>,
    entries_max: usize,
    order: u64,
}

#[derive(Debug)]
struct Entry<V> {
    order: u64,
    first_at: Timestamp,
    first: V,
    hit_count: u32,
}

/// One aggregated thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Aggregated<V> {
    pub(crate) first_at: Timestamp,
    pub(crate) first: V,
    pub(crate) hit_count: u32,
}

impl<K: Eq + Hash, V> Aggregate<K, V> {
    /// An empty table that is full at the given size.
    pub(crate) fn new(cache_size: u64) -> Self {
        let entries_max = usize::try_from(cache_size).unwrap_or(usize::MAX).max(1);
        Self {
            entries: HashMap::new(),
            entries_max,
            order: 0,
        }
    }

    /// Counts one more.
    pub(crate) fn add(&mut self, at: Timestamp, key: K, value: V) {
        self.order += 1;
        let order = self.order;
        self.entries
            .entry(key)
            .and_modify(|entry| entry.hit_count = entry.hit_count.saturating_add(1))
            .or_insert(Entry {
                order,
                first_at: at,
                first: value,
                hit_count: 1,
            });
    }

    /// Whether no further kind should be added before [`Self::drain`].
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= self.entries_max
    }

    /// Takes everything, in the order of first sight.
    pub(crate) fn drain(&mut self) -> Vec<Aggregated<V>> {
        let mut entries: Vec<_> = self.entries.drain().map(|(_, entry)| entry).collect();
        entries.sort_unstable_by_key(|entry| entry.order);
        entries
            .into_iter()
            .map(
                |Entry {
                     first_at,
                     first,
                     hit_count,
                     ..
                 }| Aggregated {
                    first_at,
                    first,
                    hit_count,
                },
            )
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_things_are_counted_and_the_first_is_kept() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut table = Aggregate::new(2);
        table.add(at(1), "a", 1);
        table.add(at(2), "b", 2);
        table.add(at(3), "a", 3);
        assert!(table.is_full());
        let found: Vec<_> = table
            .drain()
            .into_iter()
            .map(|entry| (entry.first_at, entry.first, entry.hit_count))
            .collect();
        assert_eq!(found, [(at(1), 1, 2), (at(2), 2, 1)]);
        assert!(!table.is_full());
        assert!(table.drain().is_empty());
    }
}
