//! The cache itself: values by key, rounds of snapshots, and who has to be told.
//!
//! Pure but for waking followers. An entry knows in which round it last came; when a snapshot is
//! complete, those of earlier rounds are gone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::{fmt, mem};

use tokio::sync::Notify;
use twin::IdentityKey;

pub(super) struct Cache<T> {
    entries: HashMap<IdentityKey, Entry<T>>,
    round: u64,
    followers: Vec<Follower>,
    ended: bool,
}

struct Entry<T> {
    value: Arc<T>,
    round: u64,
}

/// What one follower has still to be told.
struct Follower {
    wake: Weak<Notify>,
    id: u64,
    order: VecDeque<IdentityKey>,
    waiting: HashSet<IdentityKey>,
}

/// A follower's place; dropping it ends the subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) id: u64,
    pub(super) wake: Arc<Notify>,
}

/// What a follower is told next.
pub(super) enum Told<T> {
    Changed(IdentityKey, Option<Arc<T>>),
    Nothing,
    Ended,
}

impl<T> fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("entries", &self.entries.len())
            .field("round", &self.round)
            .finish_non_exhaustive()
    }
}

impl<T> Cache<T> {
    pub(super) fn new() -> Cache<T> {
        Cache {
            entries: HashMap::new(),
            round: 0,
            followers: Vec::new(),
            ended: false,
        }
    }

    pub(super) fn get(&self, key: &IdentityKey) -> Option<Arc<T>> {
        self.entries.get(key).map(|entry| entry.value.clone())
    }

    pub(super) fn snapshot(&self) -> Vec<(IdentityKey, Arc<T>)> {
        let pair = |(key, entry): (&IdentityKey, &Entry<T>)| (key.clone(), entry.value.clone());
        self.entries.iter().map(pair).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A snapshot begins; one that was under way counts for nothing.
    pub(super) fn begin(&mut self) {
        self.round = self.round.saturating_add(1);
    }

    /// A snapshot is complete: what did not come is gone.
    pub(super) fn complete(&mut self) {
        let round = self.round;
        let gone: Vec<IdentityKey> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.round < round)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.remove(&key);
        }
    }

    pub(super) fn put(&mut self, key: IdentityKey, value: T) {
        self.tell(&key);
        let entry = Entry {
            value: Arc::new(value),
            round: self.round,
        };
        self.entries.insert(key, entry);
    }

    /// A twin came, and what is kept of it is the same.
    pub(super) fn confirm(&mut self, key: &IdentityKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.round = self.round;
        }
    }

    pub(super) fn remove(&mut self, key: &IdentityKey) {
        if self.entries.remove(key).is_some() {
            self.tell(key);
        }
    }

    /// No more changes will come.
    pub(super) fn end(&mut self) {
        self.ended = true;
        for follower in &self.followers {
            if let Some(wake) = follower.wake.upgrade() {
                wake.notify_one();
            }
        }
    }

    /// A new follower; everything kept waits for it.
    pub(super) fn subscribe(&mut self) -> Subscription {
        self.followers
            .retain(|follower| follower.wake.strong_count() > 0);
        let id = self.followers.last().map_or(0, |last| last.id + 1);
        let wake = Arc::new(Notify::new());
        self.followers.push(Follower {
            wake: Arc::downgrade(&wake),
            id,
            order: self.entries.keys().cloned().collect(),
            waiting: self.entries.keys().cloned().collect(),
        });
        Subscription { id, wake }
    }

    /// Takes what a follower is to be told next.
    pub(super) fn take(&mut self, id: u64) -> Told<T> {
        let next = self
            .followers
            .iter_mut()
            .find(|follower| follower.id == id)
            .and_then(Follower::take);
        match next {
            Some(key) => {
                let value = self.get(&key);
                Told::Changed(key, value)
            }
            None if self.ended => Told::Ended,
            None => Told::Nothing,
        }
    }

    fn tell(&mut self, key: &IdentityKey) {
        let mut followers = mem::take(&mut self.followers);
        followers.retain_mut(|follower| follower.put(key));
        self.followers = followers;
    }
}

impl Follower {
    /// False if nobody follows any more.
    fn put(&mut self, key: &IdentityKey) -> bool {
        let Some(wake) = self.wake.upgrade() else {
            return false;
        };
        if self.waiting.insert(key.clone()) {
            self.order.push_back(key.clone());
            wake.notify_one();
        }
        true
    }

    fn take(&mut self) -> Option<IdentityKey> {
        let key = self.order.pop_front()?;
        self.waiting.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests;
