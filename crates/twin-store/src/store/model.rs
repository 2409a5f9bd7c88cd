//! A plain store in memory, for tests only: what the conformance suite says, and nothing more. It
//! can be told to fail a commit, or to hold commits back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;
use twin::{IdentityKey, Partition, Revision};

use super::{
    AuditEntry, AuditPage, Claims, Commit, EnrollmentState, EnrollmentToken, Epoch, Error,
    HistoryEntry, HistoryRead, IndexEntry, Loaded, LogEntry, LogPage, OperationId,
    OperationResultRow, OperationRow, Page, PartitionState, Plan, Replica, ReplicaId,
    RequestAnswer, RequestId, Retention, Search, Selection, Source, Store, TokenHash, Trimmed,
};
use crate::history;
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
    index: BTreeMap<IdentityKey, BTreeSet<IndexEntry>>,
    partitions: BTreeMap<Partition, PartitionState>,
    owners: BTreeMap<Partition, Replica>,
    claimed: BTreeSet<ReplicaId>,
    log: BTreeMap<(Partition, Revision), Vec<u8>>,
    floors: BTreeMap<Partition, Revision>,
    history: BTreeMap<(IdentityKey, Revision), HistoryEntry>,
    audit: BTreeMap<(Partition, u64), AuditEntry>,
    requests: BTreeMap<RequestId, RequestAnswer>,
    tokens: BTreeMap<TokenHash, EnrollmentToken>,
    uses: BTreeMap<(TokenHash, String), String>,
    operations: BTreeMap<OperationId, OperationRow>,
    results: BTreeMap<(OperationId, IdentityKey), OperationResultRow>,
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

    /// Whether a token is there, whoever it lets in.
    pub(crate) fn has_token(&self, hash: &TokenHash) -> bool {
        self.state.lock().unwrap().tokens.contains_key(hash)
    }

    /// What is in the index of searched values about an identity.
    pub(crate) fn index_of(&self, key: &IdentityKey) -> BTreeSet<IndexEntry> {
        let state = self.state.lock().unwrap();
        state.index.get(key).cloned().unwrap_or_default()
    }

    fn with<T: Send + 'static>(&self, work: impl FnOnce(&mut State) -> T) -> BoxFuture<'static, T> {
        let result = work(&mut self.state.lock().unwrap());
        std::future::ready(result).boxed()
    }
}

impl State {
    fn claim(&mut self, replica: &Replica) -> Result<Claims, Error> {
        let stored = u16::try_from(self.partitions.len()).unwrap();
        let asked = replica.count.get();
        if stored != 0 && stored != asked {
            return Err(Error::PartitionCount { stored, asked });
        }
        let newcomer = self.claimed.insert(replica.id.clone());
        let mut claims = Claims::default();
        for partition in replica.count.partitions() {
            let state = self.partitions.entry(partition).or_insert(PartitionState {
                partition,
                epoch: Epoch(0),
                position: 0,
                revision: Revision::ZERO,
                published: Revision::ZERO,
                audit: super::AuditHead::default(),
            });
            match self.owners.get(&partition) {
                Some(owner) if owner.id == replica.id => {}
                Some(owner) if !newcomer => {
                    claims.elsewhere.insert(partition, owner.address.clone());
                    continue;
                }
                Some(_) | None => {
                    self.owners.insert(partition, replica.clone());
                    state.epoch.0 += 1;
                }
            }
            claims.owned.push(*state);
        }
        Ok(claims)
    }

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
        for written in commit.upserts {
            let index = self.index.entry(written.record.key.clone()).or_default();
            index.retain(|entry| !written.index_remove.contains(entry));
            index.extend(written.index_add);
            self.records
                .insert(written.record.key.clone(), (*written.record).clone());
        }
        for key in commit.deletes {
            self.records.remove(&key);
            self.index.remove(&key);
        }
        for entry in commit.log {
            self.log
                .insert((entry.partition, entry.revision), entry.change);
        }
        for (partition, through) in commit.trim_log {
            let head = self.partitions.get(&partition).map(|state| state.revision);
            let floor = self.floors.entry(partition).or_default();
            *floor = (*floor).max(through.min(head.unwrap_or_default()));
            self.log
                .retain(|(of, revision), _| *of != partition || *revision > through);
        }
        for entry in commit.history {
            self.keep(entry, commit.coalesce_within);
        }
        for entry in commit.audit {
            self.audit.insert((entry.partition, entry.sequence), entry);
        }
        for answer in commit.requests {
            self.requests.insert(answer.id.clone(), answer);
        }
        for token in commit.tokens {
            self.tokens.insert(token.hash, token);
        }
        for use_of in commit.enrollments {
            self.uses
                .entry((use_of.hash, use_of.device.to_string()))
                .or_insert(use_of.nonce);
        }
        for operation in commit.operations {
            self.operations.insert(operation.id.clone(), operation);
        }
        for result in commit.results {
            let key = (result.operation.clone(), result.key.clone());
            self.results.insert(key, result);
        }
        Ok(())
    }

    fn keep(&mut self, mut entry: HistoryEntry, coalesce_within: Duration) {
        let of = self.history.keys().rev().find(|(key, _)| *key == entry.key);
        if let Some(of) = of.cloned()
            && let Some(last) = self.history.get(&of)
            && history::may_merge(last, &entry, coalesce_within)
        {
            entry = history::merge(last, &entry).expect("patches can be read");
            self.history.remove(&of);
        }
        self.history
            .insert((entry.key.clone(), entry.revision), entry);
    }

    /// Of each identity, oldest first, as long as they are too old or too many.
    fn trim_history(&mut self, retention: &Retention, before: Timestamp) -> (usize, bool) {
        let mut due = Vec::new();
        for key in self
            .history
            .keys()
            .map(|(key, _)| key)
            .collect::<BTreeSet<_>>()
        {
            let entries = self.history.values().filter(|entry| entry.key == *key);
            let entries: Vec<_> = entries.collect();
            let kept = retention.history_count as usize;
            let surplus = entries.len().saturating_sub(kept);
            let old = entries.iter().take_while(|entry| entry.at < before).count();
            let gone = entries.iter().take(surplus.max(old));
            due.extend(gone.map(|entry| (key.clone(), entry.revision)));
        }
        let more = due.len() > retention.batch as usize;
        due.truncate(retention.batch as usize);
        for of in &due {
            self.history.remove(of);
        }
        (due.len(), more)
    }

    fn load(&self, selection: &Selection) -> Vec<Loaded> {
        let whole = |record: &Record| Loaded::Whole(Box::new(record.clone()));
        let found = match selection {
            Selection::One(key) => self.records.get(key).map(whole),
            Selection::Family(device) => {
                let family = self.records.values();
                let family = family.filter(|record| record.key.device == *device);
                return family.map(whole).collect();
            }
            Selection::Token(hash, device) => {
                let uses = self.uses.keys().filter(|(of, _)| of == hash).count();
                let state = self.tokens.get(hash).map(|token| EnrollmentState {
                    token: token.clone(),
                    uses: u32::try_from(uses).unwrap(),
                    nonce: self.uses.get(&(*hash, device.to_string())).cloned(),
                });
                state.map(|state| Loaded::Token(device.clone(), state))
            }
            Selection::Request(id) => self.requests.get(id).cloned().map(Loaded::Request),
            Selection::Operation(id) => self.operations.get(id).cloned().map(Loaded::Operation),
        };
        found.into_iter().collect()
    }

    fn search(&self, search: &Search) -> Page {
        let after = search.after.as_ref();
        let limit = search.limit as usize;
        let matching: Vec<_> = self
            .records
            .values()
            .filter(|record| after.is_none_or(|after| record.key > *after))
            .filter(|record| match search.source {
                Source::All => true,
                Source::Devices => record.key.module.is_none(),
                Source::Modules => record.key.module.is_some(),
            })
            .collect();
        let records: Vec<_> = matching.iter().take(limit).copied().cloned().collect();
        let last = records.last().map(|record| record.key.clone());
        Page {
            next: last.filter(|_| matching.len() > limit),
            records,
            damaged: Vec::new(),
        }
    }

    fn trim(&mut self, retention: &Retention) -> Trimmed {
        let before = |age: Duration| {
            let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
            retention.now.saturating_sub(age).unwrap_or(Timestamp::MIN)
        };
        let batch = retention.batch as usize;
        let (revisions, more) = self.trim_history(retention, before(retention.history_age));
        let mut trimmed = Trimmed {
            revisions: revisions as u64,
            more,
            ..Trimmed::default()
        };
        let old: Vec<_> = self
            .requests
            .values()
            .filter(|answer| answer.at < before(retention.request_age))
            .map(|answer| answer.id.clone())
            .collect();
        for id in old.iter().take(batch) {
            self.requests.remove(id);
            trimmed.requests += 1;
        }
        trimmed.more |= old.len() > batch;
        let old: Vec<_> = self
            .operations
            .values()
            .filter(|one| one.ended && one.at < before(retention.operation_age))
            .map(|one| one.id.clone())
            .collect();
        for id in old.iter().take(batch) {
            self.operations.remove(id);
            self.results.retain(|(of, _), _| of != id);
            trimmed.operations += 1;
        }
        trimmed.more |= old.len() > batch;
        let expired: Timestamp = retention.now - SignedDuration::from_hours(1);
        let old: Vec<_> = self
            .tokens
            .values()
            .filter(|token| token.expires_at.as_second() < expired.as_second())
            .map(|token| token.hash)
            .collect();
        for hash in old.iter().take(batch) {
            self.tokens.remove(hash);
            self.uses.retain(|(of, _), _| of != hash);
        }
        trimmed.more |= old.len() > batch;
        trimmed
    }
}

impl Store for ModelStore {
    fn claim(&self, replica: Replica) -> BoxFuture<'_, Result<Claims, Error>> {
        self.with(|state| state.claim(&replica))
    }

    fn release(
        &self,
        replica: ReplicaId,
        partitions: Vec<Partition>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        self.with(|state| {
            let ours =
                |at: &Partition, owner: &Replica| partitions.contains(at) && owner.id == replica;
            state.owners.retain(|at, owner| !ours(at, owner));
            Ok(())
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

    fn search(&self, search: Search) -> BoxFuture<'_, Result<Page, Error>> {
        self.with(|state| Ok(state.search(&search)))
    }

    fn explain(&self, _: Search) -> BoxFuture<'_, Result<Plan, Error>> {
        self.with(|_| Ok(Plan::default()))
    }

    fn log(
        &self,
        partition: Partition,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<LogPage, Error>> {
        self.with(|state| {
            let all = state.log.iter();
            let later = all.filter(|((of, at), _)| *of == partition && *at > after);
            let entries = later.map(|((partition, revision), change)| LogEntry {
                partition: *partition,
                revision: *revision,
                change: change.clone(),
            });
            Ok(LogPage {
                entries: entries.take(limit as usize).collect(),
                floor: state.floors.get(&partition).copied().unwrap_or_default(),
            })
        })
    }

    fn identity(&self) -> BoxFuture<'_, Result<String, Error>> {
        self.with(|_| Ok("model".to_owned()))
    }

    fn heads(&self) -> BoxFuture<'_, Result<BTreeMap<Partition, Revision>, Error>> {
        self.with(|state| {
            let states = state.partitions.values();
            Ok(states.map(|one| (one.partition, one.revision)).collect())
        })
    }

    fn history(&self, read: HistoryRead) -> BoxFuture<'_, Result<Vec<HistoryEntry>, Error>> {
        self.with(|state| {
            let entries = state.history.values().rev();
            let entries = entries
                .filter(|entry| entry.key == read.key)
                .filter(|entry| read.before.is_none_or(|before| entry.revision < before))
                .filter(|entry| read.from.is_none_or(|from| entry.at >= from))
                .filter(|entry| read.to.is_none_or(|to| entry.at < to));
            Ok(entries.take(read.limit as usize).cloned().collect())
        })
    }

    fn audit(
        &self,
        partition: Partition,
        after: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<AuditPage, Error>> {
        self.with(|state| {
            let entries = state.audit.values();
            let entries =
                entries.filter(|entry| entry.partition == partition && entry.sequence > after);
            let head = state.partitions.get(&partition).map(|state| state.audit);
            Ok(AuditPage {
                entries: entries.take(limit as usize).cloned().collect(),
                head: head.unwrap_or_default(),
            })
        })
    }

    fn operations(
        &self,
        after: Option<OperationId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<OperationRow>, Error>> {
        self.with(|state| {
            let all = state.operations.values().rev();
            let older = all.filter(|one| after.as_ref().is_none_or(|after| one.id < *after));
            Ok(older.take(limit as usize).cloned().collect())
        })
    }

    fn operation_results(
        &self,
        operation: OperationId,
        after: Option<IdentityKey>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<OperationResultRow>, Error>> {
        self.with(|state| {
            let all = state.results.values();
            let later = all
                .filter(|one| one.operation == operation)
                .filter(|one| after.as_ref().is_none_or(|after| one.key > *after));
            Ok(later.take(limit as usize).cloned().collect())
        })
    }

    fn trim(&self, retention: Retention) -> BoxFuture<'_, Result<Trimmed, Error>> {
        self.with(|state| Ok(state.trim(&retention)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}
