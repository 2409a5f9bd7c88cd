//! A plain store in memory, for tests only: what the conformance suite says, and nothing more. It
//! can be told to fail a commit, or to hold commits back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use twin::{IdentityKey, Partition, PartitionCount, Revision};

use super::{
    Commit, EnrollmentState, EnrollmentToken, Epoch, Error, Listing, Loaded, OutboxChange, Page,
    PartitionState, Selection, Store, TokenHash,
};
use crate::record::Record;

/// The store. Clones share their content, as two processes share a file.
#[derive(Clone)]
pub(crate) struct ModelStore {
    state: Arc<Mutex<State>>,
    /// One permit per commit that may go through.
    gate: Option<Arc<Semaphore>>,
}

#[derive(Default, Clone)]
struct State {
    records: BTreeMap<IdentityKey, Record>,
    partitions: BTreeMap<Partition, PartitionState>,
    outbox: BTreeMap<(Partition, Revision), Vec<u8>>,
    tokens: BTreeMap<TokenHash, EnrollmentToken>,
    uses: BTreeMap<(TokenHash, String), String>,
    commits: usize,
    fails: bool,
}

impl ModelStore {
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::default(),
            gate: None,
        }
    }

    /// A store that lets a commit through only for each permit given.
    pub(crate) fn gated() -> (Self, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        let store = Self {
            gate: Some(gate.clone()),
            ..Self::new()
        };
        (store, gate)
    }

    /// Every commit fails from now on, as on a full disk.
    pub(crate) fn break_down(&self) {
        self.state.lock().unwrap().fails = true;
    }

    /// Commits that wrote something.
    pub(crate) fn commits(&self) -> usize {
        self.state.lock().unwrap().commits
    }

    fn with<T: Send + 'static>(&self, work: impl FnOnce(&mut State) -> T) -> BoxFuture<'static, T> {
        let result = work(&mut self.state.lock().unwrap());
        std::future::ready(result).boxed()
    }
}

impl State {
    fn commit(&mut self, commit: Commit) -> Result<(), Error> {
        if self.fails {
            return Err(Error::Engine {
                action: "commit",
                source: "no space left".into(),
            });
        }
        for state in &commit.partitions {
            let partition = state.partition;
            let owned = self.partitions.get(&partition);
            if owned.is_none_or(|owned| owned.epoch != state.epoch) {
                return Err(Error::Fenced { partition });
            }
        }
        self.commits += 1;
        for state in commit.partitions {
            self.partitions.insert(state.partition, state);
        }
        for record in commit.upserts {
            self.records.insert(record.key.clone(), (*record).clone());
        }
        for key in commit.deletes {
            self.records.remove(&key);
        }
        for change in commit.outbox {
            self.outbox
                .insert((change.partition, change.revision), change.change);
        }
        for (partition, through) in commit.published {
            self.outbox
                .retain(|(of, revision), _| *of != partition || *revision > through);
        }
        for use_of in commit.enrollments {
            self.uses
                .entry((use_of.hash, use_of.device.to_string()))
                .or_insert(use_of.nonce);
        }
        Ok(())
    }

    fn load(&self, selection: &Selection) -> Vec<Loaded> {
        let whole = |record: &Record| Loaded::Whole(Box::new(record.clone()));
        match selection {
            Selection::One(key) => self.records.get(key).map(whole).into_iter().collect(),
            Selection::Family(device) => self
                .records
                .values()
                .filter(|record| record.key.device == *device)
                .map(whole)
                .collect(),
            Selection::Token(hash, device) => {
                let uses = self.uses.keys().filter(|(of, _)| of == hash).count();
                let state = self.tokens.get(hash).map(|token| EnrollmentState {
                    token: token.clone(),
                    uses: u32::try_from(uses).unwrap(),
                    nonce: self.uses.get(&(*hash, device.to_string())).cloned(),
                });
                state
                    .map(|state| Loaded::Token(device.clone(), state))
                    .into_iter()
                    .collect()
            }
        }
    }

    fn list(&self, listing: Listing, after: Option<&IdentityKey>, limit: usize) -> Page {
        let matching: Vec<_> = self
            .records
            .values()
            .filter(|record| after.is_none_or(|after| record.key > *after))
            .filter(|record| listing == Listing::All || record.key.module.is_none())
            .collect();
        let records: Vec<_> = matching.iter().take(limit).copied().cloned().collect();
        let last = records.last().map(|record| record.key.clone());
        Page {
            next: last.filter(|_| matching.len() > limit),
            records,
            damaged: Vec::new(),
        }
    }
}

impl Store for ModelStore {
    fn acquire(&self, count: PartitionCount) -> BoxFuture<'_, Result<Vec<PartitionState>, Error>> {
        self.with(move |state| {
            let stored = u16::try_from(state.partitions.len()).unwrap();
            if stored != 0 && stored != count.get() {
                let asked = count.get();
                return Err(Error::PartitionCount { stored, asked });
            }
            let take = |partition| {
                let taken = state.partitions.entry(partition).or_insert(PartitionState {
                    partition,
                    epoch: Epoch(0),
                    position: 0,
                    revision: Revision::ZERO,
                });
                taken.epoch.0 += 1;
                *taken
            };
            Ok(count.partitions().map(take).collect())
        })
    }

    fn load(&self, selections: Vec<Selection>) -> BoxFuture<'_, Result<Vec<Loaded>, Error>> {
        self.with(|state| Ok(selections.iter().flat_map(|one| state.load(one)).collect()))
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            if let Some(gate) = &self.gate {
                gate.acquire().await.expect("the gate stays").forget();
            }
            self.state.lock().unwrap().commit(commit)
        }
        .boxed()
    }

    fn get(&self, key: IdentityKey) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        self.with(|state| Ok(state.records.get(&key).cloned()))
    }

    fn list(
        &self,
        listing: Listing,
        after: Option<IdentityKey>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page, Error>> {
        self.with(|state| Ok(state.list(listing, after.as_ref(), limit as usize)))
    }

    fn outbox(
        &self,
        partition: Partition,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<OutboxChange>, Error>> {
        self.with(|state| {
            let waiting = state.outbox.iter();
            let later = waiting.filter(|((of, at), _)| *of == partition && *at > after);
            let changes = later.map(|((partition, revision), change)| OutboxChange {
                partition: *partition,
                revision: *revision,
                change: change.clone(),
            });
            Ok(changes.take(limit as usize).collect())
        })
    }

    fn add_enrollment_token(
        &self,
        token: EnrollmentToken,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<(), Error>> {
        self.with(|state| {
            let old = now - jiff::SignedDuration::from_hours(1);
            state.tokens.retain(|_, token| token.expires_at >= old);
            let left: BTreeSet<_> = state.tokens.keys().copied().collect();
            state.uses.retain(|(hash, _), _| left.contains(hash));
            state.tokens.insert(token.hash, token);
            Ok(())
        })
    }
}
