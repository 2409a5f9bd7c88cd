//! Notices leaves that go back and forth: what the service wrote to a leaf, again and again, was there
//! before within a short time, so that two writers undo each other without end. Pure but for a lock.
//!
//! It remembers in memory alone, of so many twins; what it found is frozen durably (`keep`, `store`).
//! After a restart it begins to count anew.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use twin::{IdentityKey, Map, Section};
use xxhash_rust::xxh3::xxh3_64;

use crate::explain::leaves_of;

/// Twins that are remembered. With more of them within the window those are forgotten first on which nothing
/// was written twice.
const TWINS_MAX: usize = 20_000;
/// Leaves of a twin that were written once, of 40 bytes each: most never come again. Further ones are noticed when
/// these are older than the window.
const ONCE_MAX: usize = 256;
/// Leaves of a twin that were written more often, of some hundred bytes each; those that return least go first.
const LEAVES_MAX: usize = 64;
/// States that are remembered of a leaf: two writers alternate between two, or three with its absence.
const STATES_MAX: usize = 8;
/// Writers that are named.
const WRITERS_MAX: usize = 4;

/// When a leaf goes back and forth too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// It may return to what it was so many times; 0: as often as it likes.
    pub returns: u16,
    /// Within this time.
    pub window: SignedDuration,
}

/// A leaf that went back and forth too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Keys from the root of desired.
    pub path: Vec<String>,
    /// The policies that wrote it, and those whose leaves of the same twin went with it.
    pub writers: Vec<String>,
    /// Whether somebody who is no policy wrote between the writes of policies.
    pub others: bool,
}

/// The handle. Clones share the memory.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    limit: Limit,
    twins: Arc<Mutex<HashMap<IdentityKey, OfTwin>>>,
}

#[derive(Debug, Default)]
struct OfTwin {
    once: Vec<Once>,
    leaves: BTreeMap<Vec<String>, OfLeaf>,
    last: Timestamp,
    /// The version of the section that was noted last.
    version: u64,
}

/// A leaf that was written once.
#[derive(Debug, Clone, Copy)]
struct Once {
    /// A hash of it.
    path: u64,
    /// What it was and what it became, as states are.
    was: u64,
    is: u64,
    at: Timestamp,
}

#[derive(Debug, Default)]
struct OfLeaf {
    /// What it was, as a hash of value and writer; 0: absent.
    states: VecDeque<(u64, Timestamp)>,
    /// When it became what it had been before.
    returns: VecDeque<Timestamp>,
    /// What we made it last.
    ours: Option<u64>,
    /// The policies that wrote it.
    writers: BTreeSet<String>,
    /// Those whose leaves went back and forth with it and are frozen since.
    fighters: BTreeSet<String>,
    /// Whether it was not as we had left it.
    others: bool,
}

impl Guard {
    /// Watches by this limit.
    pub(crate) fn new(limit: Limit) -> Guard {
        Guard {
            limit,
            twins: Arc::default(),
        }
    }

    /// Notes that a twin's section was made another by policies; answers the leaves that went back and
    /// forth too often, and forgets them.
    pub(crate) fn note(
        &self,
        twin: &IdentityKey,
        before: &Section,
        after: &Section,
        at: Timestamp,
    ) -> Vec<Found> {
        if self.limit.returns == 0 {
            return Vec::new();
        }
        let (old, new) = (states(before), states(after));
        let paths: BTreeSet<&Vec<String>> = old.keys().chain(new.keys()).collect();
        let mut twins = self.twins.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut twins, at, self.limit.window);
        let of_twin = twins.entry(twin.clone()).or_default();
        // Versions start again only when an identity was deleted and created again: another twin.
        if before.version().get() < of_twin.version {
            *of_twin = OfTwin::default();
        }
        of_twin.version = after.version().get();
        of_twin.last = at;
        let nothing = State::default();
        for path in paths {
            let (was, is) = (
                old.get(path).unwrap_or(&nothing),
                new.get(path).unwrap_or(&nothing),
            );
            if was.hash == is.hash {
                continue;
            }
            if let Some(leaf) = of_twin.leaf(path, [was.hash, is.hash], at, self.limit.window) {
                leaf.note(was, is, at, self.limit.window);
            }
        }
        let found = of_twin.over(self.limit.returns);
        for one in &found {
            of_twin.leaves.remove(&one.path);
        }
        // What goes back and forth with these may be over the limit next, and is the same fight.
        let fighters = || found.iter().flat_map(|one| &one.writers);
        for leaf in of_twin.leaves.values_mut().filter(|leaf| leaf.turns()) {
            leaf.fighters.extend(fighters().cloned());
        }
        found
    }
}

/// Forgets what is older than the window when there are too many, and more if that is not enough; at least a
/// quarter goes, so that it costs little on the whole.
fn make_room(twins: &mut HashMap<IdentityKey, OfTwin>, at: Timestamp, window: SignedDuration) {
    if twins.len() < TWINS_MAX {
        return;
    }
    let is_full = |twins: &HashMap<_, _>| twins.len() > TWINS_MAX / 4 * 3;
    twins.retain(|_, one| at.duration_since(one.last) <= window);
    if is_full(twins) {
        // What goes back and forth comes again at once; a fleet that is written once does not.
        twins.retain(|_, one| !one.leaves.is_empty());
    }
    if is_full(twins) {
        let mut times: Vec<Timestamp> = twins.values().map(|one| one.last).collect();
        let (_, middle, _) = times.select_nth_unstable(TWINS_MAX / 2);
        let middle = *middle;
        twins.retain(|_, one| one.last > middle);
    }
}

impl OfTwin {
    /// What is remembered of a leaf; none if it was written once so far.
    fn leaf(
        &mut self,
        path: &[String],
        [was, is]: [u64; 2],
        at: Timestamp,
        window: SignedDuration,
    ) -> Option<&mut OfLeaf> {
        let fresh = |since: Timestamp| at.duration_since(since) <= window;
        if !self.leaves.contains_key(path) {
            let hash = hash_of(path);
            let known = self.once.iter().position(|once| once.path == hash);
            let known = known.map(|index| self.once.swap_remove(index));
            let Some(once) = known.filter(|once| fresh(once.at)) else {
                if self.once.len() >= ONCE_MAX {
                    self.once.retain(|once| fresh(once.at));
                }
                if self.once.len() < ONCE_MAX {
                    let path = hash;
                    self.once.push(Once { path, was, is, at });
                }
                return None;
            };
            if self.leaves.len() >= LEAVES_MAX {
                self.leaves.retain(|_, leaf| leaf.last().is_some_and(fresh));
            }
            if self.leaves.len() >= LEAVES_MAX {
                let rank = |leaf: &OfLeaf| (leaf.returns.len(), leaf.last());
                let least = self.leaves.iter().min_by_key(|(_, leaf)| rank(leaf));
                let least = least.map(|(path, _)| path.clone());
                least.and_then(|path| self.leaves.remove(&path));
            }
            self.leaves.insert(path.to_vec(), OfLeaf::of(once));
        }
        self.leaves.get_mut(path)
    }

    /// The leaves that returned more often than that.
    fn over(&self, returns: u16) -> Vec<Found> {
        let too_many = |leaf: &OfLeaf| leaf.returns.len() > usize::from(returns);
        let turning = || self.leaves.values().filter(|leaf| leaf.turns());
        let over = self.leaves.iter().filter(|(_, leaf)| too_many(leaf));
        over.map(|(path, leaf)| {
            let mut writers: Vec<String> = leaf.writers.iter().cloned().collect();
            let others = turning().flat_map(|leaf| &leaf.writers);
            for other in others.chain(&leaf.fighters) {
                if !writers.contains(other) {
                    writers.push(other.clone());
                }
            }
            writers.truncate(WRITERS_MAX);
            Found {
                path: path.clone(),
                writers,
                others: leaf.others,
            }
        })
        .collect()
    }
}

impl OfLeaf {
    /// One that was written once before.
    fn of(once: Once) -> OfLeaf {
        OfLeaf {
            states: [(once.was, once.at), (once.is, once.at)].into(),
            ours: Some(once.is),
            ..OfLeaf::default()
        }
    }

    /// When it was written last.
    fn last(&self) -> Option<Timestamp> {
        self.states.back().map(|(_, at)| *at)
    }

    /// Whether it goes back and forth.
    fn turns(&self) -> bool {
        self.returns.len() > 1
    }

    fn note(&mut self, was: &State, is: &State, at: Timestamp, window: SignedDuration) {
        let fresh = |since: Timestamp| at.duration_since(since) <= window;
        self.returns.retain(|since| fresh(*since));
        self.states.retain(|(_, since)| fresh(*since));
        self.others |= self.ours.is_some_and(|ours| ours != was.hash);
        if self.states.iter().any(|(known, _)| *known == is.hash) {
            self.returns.push_back(at);
        }
        for state in [was, is] {
            self.states.retain(|(known, _)| *known != state.hash);
            self.states.push_back((state.hash, at));
            if let Some(writer) = &state.policy
                && self.writers.len() < WRITERS_MAX
            {
                self.writers.insert(writer.clone());
            }
        }
        while self.states.len() > STATES_MAX {
            self.states.pop_front();
        }
        self.ours = Some(is.hash);
    }
}

/// What a leaf holds.
#[derive(Debug, Default)]
struct State {
    /// Of value and writer; 0: there is none.
    hash: u64,
    /// Its writer, if that is a policy.
    policy: Option<String>,
}

fn hash_of(path: &[String]) -> u64 {
    // No key has this character (spec iot-hub-twins §2.3).
    xxh3_64(path.join("\u{1f}").as_bytes())
}

fn states(section: &Section) -> HashMap<Vec<String>, State> {
    let leaves = leaves_of(section).into_iter().map(|leaf| {
        let value = if leaf.value.is_object() {
            Value::Object(Map::new())
        } else {
            leaf.value
        };
        let text = format!("{} {value}", leaf.writer);
        let state = State {
            hash: xxh3_64(text.as_bytes()).max(1),
            policy: leaf.writer.is_policy().then(|| leaf.writer.to_string()),
        };
        (leaf.path, state)
    });
    leaves.collect()
}

#[cfg(test)]
mod tests;
