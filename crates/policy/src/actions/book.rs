//! Where all actions stand on all twins, and what is to be done next. Pure, in memory: the store has the
//! places, what stands here beside them may be forgotten.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use twin::IdentityKey;

use super::place::{Finding, Place, State, Terms};
use crate::policy_doc::{Actions, PolicyId};

/// Actions on twins that are kept. Each is some 300 bytes (reckoned, not measured).
const ENTRIES_MAX: usize = 200_000;

/// Of these: such where a policy does not hold any more, kept so that an older event that comes again
/// begins nothing. The oldest make room.
const OVER_MAX: usize = 100_000;

/// Which action of which policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ActionId {
    /// The policy.
    pub policy: PolicyId,
    /// Its action.
    pub action: String,
}

/// An action on a twin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ActionKey {
    /// The twin.
    pub twin: IdentityKey,
    /// The action.
    pub id: ActionId,
}

/// What a look at a twin found of a policy.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found<'a> {
    /// This revision of it applies.
    Holds {
        /// Which one.
        revision: u64,
        /// What it calls.
        actions: &'a Actions,
    },
    /// It does not apply.
    HoldsNot,
    /// It is not known, or the policy may change nothing now.
    Unsure,
}

/// What changes: a place, or none where one is forgotten.
pub(crate) type Change = (ActionKey, Option<Place>);

#[derive(Debug, Clone)]
struct Entry {
    place: Place,
    /// When it is due, it is not called before this.
    hold: Timestamp,
    /// It waits for its device to connect.
    is_offline: bool,
    /// The newest revision of the twin in which its device was connected.
    connected: u64,
    /// The last sweep in which somebody looked.
    round: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Book {
    twins: BTreeMap<IdentityKey, BTreeMap<ActionId, Entry>>,
    count: usize,
    /// What is to be called, by policy, with the time from which on it may be.
    agenda: BTreeMap<PolicyId, BTreeSet<(Timestamp, ActionKey)>>,
    /// When time changes something.
    timers: BTreeSet<(Timestamp, ActionKey)>,
    /// What is over, the oldest first.
    over: BTreeSet<(Timestamp, ActionKey)>,
    calling: usize,
    round: u64,
    /// What had to make room, until its row is removed.
    evicted: Vec<ActionKey>,
    is_closed: bool,
}

impl Book {
    /// Takes over what the store holds.
    pub(crate) fn new(places: impl IntoIterator<Item = (ActionKey, Place)>) -> Book {
        let mut book = Book::default();
        for (key, place) in places {
            book.put(&key, Some(place));
        }
        book
    }

    /// Where an action stands on a twin.
    pub(crate) fn get(&self, key: &ActionKey) -> Option<&Place> {
        Some(&self.twins.get(&key.twin)?.get(&key.id)?.place)
    }

    /// All places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&IdentityKey, &ActionId, &Place)> {
        let twins = self.twins.iter();
        twins.flat_map(|(twin, entries)| {
            let entries = entries.iter();
            entries.map(move |(id, entry)| (twin, id, &entry.place))
        })
    }

    /// The places of a twin.
    pub(crate) fn of(&self, twin: &IdentityKey) -> impl Iterator<Item = (&ActionId, &Place)> {
        let entries = self.twins.get(twin).into_iter().flatten();
        entries.map(|(id, entry)| (id, &entry.place))
    }

    /// The policies that have a place on a twin.
    pub(crate) fn policies_of(&self, twin: &IdentityKey) -> impl Iterator<Item = &PolicyId> {
        let entries = self.twins.get(twin).into_iter().flatten();
        entries.map(|(id, _)| &id.policy)
    }

    /// Whether anything is known of a twin.
    pub(crate) fn knows(&self, twin: &IdentityKey) -> bool {
        self.twins.contains_key(twin)
    }

    /// What a look at a twin, as it was in its revision `age`, makes of its places.
    pub(crate) fn look(
        &self,
        twin: &IdentityKey,
        age: u64,
        found: &BTreeMap<PolicyId, Found<'_>>,
        now: Timestamp,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut note = |id: ActionId, finding| {
            let known = self.twins.get(twin).and_then(|entries| entries.get(&id));
            let known = known.map(|entry| &entry.place);
            if let Some(place) = Place::look(known, finding, age, now) {
                let twin = twin.clone();
                changes.push((ActionKey { twin, id }, Some(place)));
            }
        };
        for (policy, found) in found {
            let (has, actions) = match *found {
                Found::Unsure => continue,
                Found::HoldsNot => (None, None),
                Found::Holds { revision, actions } => (Some(revision), Some(actions)),
            };
            for action in actions.into_iter().flat_map(Actions::iter) {
                let id = ActionId {
                    policy: policy.clone(),
                    action: action.spec().name.clone(),
                };
                let finding = Finding::Holds {
                    revision: has.unwrap_or_default(),
                    fingerprint: action.fingerprint(),
                    expires: Terms::of(action).expires,
                };
                note(id, finding);
            }
            for (id, entry) in self.twins.get(twin).into_iter().flatten() {
                let is_there = actions.is_some_and(|all| all.get(&id.action).is_some());
                // An older revision that came back ends nothing of the newer one.
                let is_older = has.is_some_and(|revision| revision < entry.place.revision);
                if id.policy == *policy && !is_there && !is_older {
                    note(id.clone(), Finding::HoldsNot);
                }
            }
        }
        changes
    }

    /// Takes a change in; false: there is no room for it.
    pub(crate) fn put(&mut self, key: &ActionKey, place: Option<Place>) -> bool {
        let before = self.take(key);
        let Some(place) = place else {
            return true;
        };
        if before.is_none() && !self.make_room() {
            return false;
        }
        let round = self.round;
        let entry = before.map_or(
            Entry {
                hold: Timestamp::MIN,
                is_offline: false,
                connected: 0,
                round,
                place: place.clone(),
            },
            |before| Entry {
                // A cause that is new waits for nothing.
                hold: if before.place.cause == place.cause {
                    before.hold
                } else {
                    Timestamp::MIN
                },
                place: place.clone(),
                ..before
            },
        );
        self.insert(key, entry);
        true
    }

    /// Does not call it before this time.
    pub(crate) fn hold(&mut self, key: &ActionKey, until: Timestamp, is_offline: bool) {
        if let Some(entry) = self.take(key) {
            let entry = Entry {
                hold: until,
                is_offline,
                ..entry
            };
            self.insert(key, entry);
        }
    }

    /// Somebody looked at a twin, which changed no place by itself. What waited for its device may be called;
    /// true if there was such.
    pub(crate) fn saw(&mut self, twin: &IdentityKey, age: u64, is_connected: bool) -> bool {
        let round = self.round;
        let mut woken = Vec::new();
        for (id, entry) in self.twins.get_mut(twin).into_iter().flatten() {
            entry.round = round;
            if is_connected && age >= entry.connected {
                entry.connected = age;
                if entry.is_offline {
                    woken.push(id.clone());
                }
            }
        }
        let any = !woken.is_empty();
        for id in woken {
            let twin = twin.clone();
            self.hold(&ActionKey { twin, id }, Timestamp::MIN, false);
        }
        any
    }

    /// Whether the device of a twin was connected in a newer revision than this.
    pub(crate) fn was_connected_after(&self, key: &ActionKey, age: u64) -> bool {
        let entry = self.twins.get(&key.twin).and_then(|all| all.get(&key.id));
        entry.is_some_and(|entry| entry.connected > age)
    }

    /// A sweep begins; answers its number.
    pub(crate) fn begin_round(&mut self) -> u64 {
        self.round += 1;
        self.round
    }

    /// Twins on which a policy is said to hold, and at which nobody looked since that sweep began.
    pub(crate) fn unseen_since(&self, round: u64) -> Vec<IdentityKey> {
        let unseen = |entry: &Entry| entry.place.holds && entry.round < round;
        let twins = self.twins.iter();
        let twins = twins.filter(|(_, entries)| entries.values().any(unseen));
        twins.map(|(twin, _)| twin.clone()).collect()
    }

    /// All places of a twin, forgotten, but for those that are of a newer one of its name.
    pub(crate) fn forget_twin(&self, twin: &IdentityKey, age: u64) -> Vec<Change> {
        let entries = self.twins.get(twin).into_iter().flatten();
        let old = entries.filter(|(_, entry)| entry.place.seen <= age);
        old.map(|(id, _)| {
            let (twin, id) = (twin.clone(), id.clone());
            (ActionKey { twin, id }, None)
        })
        .collect()
    }

    /// All places of policies that are not there any more, forgotten.
    pub(crate) fn forget_policies(&self, is_there: impl Fn(&PolicyId) -> bool) -> Vec<Change> {
        let gone = self.iter().filter(|(_, id, _)| !is_there(&id.policy));
        gone.map(|(twin, id, _)| {
            let (twin, id) = (twin.clone(), id.clone());
            (ActionKey { twin, id }, None)
        })
        .collect()
    }

    /// The policies of which something is to be called.
    pub(crate) fn policies_due(&self) -> Vec<PolicyId> {
        self.agenda.keys().cloned().collect()
    }

    /// What is to be called first of a policy, and from when on.
    pub(crate) fn first_due(&self, policy: &PolicyId) -> Option<&(Timestamp, ActionKey)> {
        self.agenda.get(policy)?.first()
    }

    /// What time changes by now.
    pub(crate) fn timers_until(&self, now: Timestamp) -> Vec<ActionKey> {
        let due = self.timers.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, key)| key.clone()).collect()
    }

    /// When time changes something next.
    pub(crate) fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How many calls are due, and how many under way.
    pub(crate) fn pending(&self) -> (usize, usize) {
        let due = self.agenda.values().map(BTreeSet::len).sum();
        (due, self.calling)
    }

    /// What had to make room since this was asked last.
    pub(crate) fn evicted(&mut self) -> Vec<ActionKey> {
        std::mem::take(&mut self.evicted)
    }

    /// Nothing is taken in any more: what was not kept must be looked at again after the start.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Whether nothing is taken in any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn make_room(&mut self) -> bool {
        if self.over.len() >= OVER_MAX || self.count >= ENTRIES_MAX {
            let oldest = self.over.first().map(|(_, key)| key.clone());
            if let Some(key) = oldest {
                self.take(&key);
                self.evicted.push(key);
            }
        }
        self.count < ENTRIES_MAX
    }

    fn take(&mut self, key: &ActionKey) -> Option<Entry> {
        let entries = self.twins.get_mut(&key.twin)?;
        let entry = entries.remove(&key.id)?;
        if entries.is_empty() {
            self.twins.remove(&key.twin);
        }
        self.count -= 1;
        let at = |at: Timestamp| (at, key.clone());
        match entry.place.state {
            State::Due(due) => {
                if let Some(agenda) = self.agenda.get_mut(&key.id.policy) {
                    agenda.remove(&at(entry.hold.max(due.since)));
                    if agenda.is_empty() {
                        self.agenda.remove(&key.id.policy);
                    }
                }
            }
            State::Idle if entry.place.is_over() => {
                self.over.remove(&at(entry.place.at));
            }
            State::Calling { .. } => self.calling -= 1,
            State::Idle | State::Waiting { .. } => {}
        }
        if let Some(wakes) = entry.place.wakes() {
            self.timers.remove(&at(wakes));
        }
        Some(entry)
    }

    fn insert(&mut self, key: &ActionKey, entry: Entry) {
        let at = |at: Timestamp| (at, key.clone());
        match entry.place.state {
            State::Due(due) => {
                let agenda = self.agenda.entry(key.id.policy.clone()).or_default();
                agenda.insert(at(entry.hold.max(due.since)));
            }
            State::Idle if entry.place.is_over() => {
                self.over.insert(at(entry.place.at));
            }
            State::Calling { .. } => self.calling += 1,
            State::Idle | State::Waiting { .. } => {}
        }
        if let Some(wakes) = entry.place.wakes() {
            self.timers.insert(at(wakes));
        }
        let entries = self.twins.entry(key.twin.clone()).or_default();
        entries.insert(key.id.clone(), entry);
        self.count += 1;
    }
}

#[cfg(test)]
mod tests;
