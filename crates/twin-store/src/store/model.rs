//! A plain store in memory, for tests only: what the conformance suite says, and nothing more. It
//! can be told to fail a commit, or to hold commits back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use twin::{IdentityKey, Partition, Revision};

use super::{
    AuditEntry, AuditFound, AuditPage, AuditPlace, AuditRead, Claims, Commit, EnrollmentToken,
    Error, HistoryEntry, HistoryRead, IndexEntry, Loaded, LogEntry, LogPage, OperationId,
    OperationResultRow, OperationRow, OrHole, Page, Plan, Population, ProvisioningKey,
    ProvisioningKind, ProvisioningRow, Replica, ReplicaId, Retention, Search, Selection, Store,
    TokenHash, Trimmed,
};
use crate::record::{Damaged, Record};
use state::State;

mod state;

/// The store. Clones share their content, as two processes share a file.
#[derive(Clone)]
pub(crate) struct ModelStore {
    state: Arc<Mutex<State>>,
    /// One permit per commit that may go through.
    gate: Option<Arc<Semaphore>>,
    /// Readings of the log that are still to fail.
    broken_logs: Arc<AtomicU32>,
    /// What comes before the next readings of histories, in their order.
    between: Arc<Mutex<Vec<Option<Retention>>>>,
}

impl ModelStore {
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::default(),
            gate: None,
            broken_logs: Arc::default(),
            between: Arc::default(),
        }
    }

    /// Trims before readings of histories that come, as upkeep may: the first before the next one; none lets
    /// one pass.
    pub(crate) fn trim_between(&self, trims: impl IntoIterator<Item = Option<Retention>>) {
        self.between.lock().unwrap().extend(trims);
    }

    /// Trims that have not come yet.
    pub(crate) fn trims_left(&self) -> usize {
        self.between.lock().unwrap().len()
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

    /// The next readings of the log fail, as while a database restarts.
    pub(crate) fn break_logs(&self, times: u32) {
        self.broken_logs.store(times, Ordering::SeqCst);
    }

    /// Makes a result of an operation unreadable.
    pub(crate) fn damage_result(&self, operation: &OperationId, key: &IdentityKey) {
        let mut state = self.state.lock().unwrap();
        let row = state.results.get_mut(&(operation.clone(), key.clone()));
        row.expect("it is there").body.push('}');
    }

    /// What decisions need cannot be read this many times, as on a disk that does not answer.
    pub(crate) fn fail_loads(&self, times: usize) {
        self.state.lock().unwrap().failing_loads = times;
    }

    /// Damages something, whatever it is: it is told of as such when it is asked for.
    pub(crate) fn damage(&self, selection: Selection) {
        self.state.lock().unwrap().damaged.push(selection);
    }

    /// Commits that wrote something.
    pub(crate) fn commits(&self) -> usize {
        self.state.lock().unwrap().commits
    }

    /// Has a token at once, as if another replica had committed it.
    pub(crate) fn keep_token(&self, token: EnrollmentToken) {
        self.state.lock().unwrap().tokens.insert(token.hash, token);
    }

    /// Uses a token at once, as if another replica had committed it.
    pub(crate) fn use_token(&self, hash: TokenHash, device: &str) {
        let mut state = self.state.lock().unwrap();
        state.uses.insert((hash, device.to_owned()), String::new());
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
        self.with(|state| {
            if state.failing_loads > 0 {
                state.failing_loads -= 1;
                return Err(Error::Engine {
                    action: "read",
                    source: "the disk does not answer".into(),
                });
            }
            Ok(selections.iter().flat_map(|one| state.load(one)).collect())
        })
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
        let (order, less) = (Ordering::SeqCst, |left: u32| left.checked_sub(1));
        let is_broken = self.broken_logs.fetch_update(order, order, less).is_ok();
        self.with(move |state| {
            if is_broken {
                return Err(Error::Engine {
                    action: "read the log",
                    source: "it restarts".into(),
                });
            }
            let all = state.log.iter();
            let later = all.filter(|((of, at), _)| *of == partition && *at > after);
            let entries = later.map(|((partition, revision), change)| LogEntry {
                partition: *partition,
                revision: *revision,
                change: change.clone(),
            });
            Ok(LogPage {
                entries: entries.take(limit as usize).collect(),
                holes: Vec::new(),
                floor: state.floors.get(&partition).copied().unwrap_or_default(),
            })
        })
    }

    fn identity(&self) -> BoxFuture<'_, Result<String, Error>> {
        self.with(|_| Ok("model".to_owned()))
    }

    fn population(&self) -> BoxFuture<'_, Result<Population, Error>> {
        self.with(|state| {
            let mut population = Population::default();
            for key in state.records.keys() {
                population += Population::one(key);
            }
            Ok(population)
        })
    }

    fn heads(&self) -> BoxFuture<'_, Result<BTreeMap<Partition, Revision>, Error>> {
        self.with(|state| {
            let states = state.partitions.values();
            Ok(states.map(|one| (one.partition, one.revision)).collect())
        })
    }

    fn damaged(&self) -> BoxFuture<'_, Result<Vec<Damaged>, Error>> {
        self.with(|_| Ok(Vec::new()))
    }

    fn history(
        &self,
        read: HistoryRead,
    ) -> BoxFuture<'_, Result<Vec<OrHole<HistoryEntry, Revision>>, Error>> {
        let mut between = self.between.lock().unwrap();
        let trim = if between.is_empty() {
            None
        } else {
            between.remove(0)
        };
        self.with(|state| {
            if let Some(retention) = trim {
                state.trim(&retention);
            }
            let entries = state.history.values().rev();
            let entries = entries
                .filter(|entry| entry.key == read.key)
                .filter(|entry| read.before.is_none_or(|before| entry.revision < before))
                .filter(|entry| read.from.is_none_or(|from| entry.at >= from))
                .filter(|entry| read.to.is_none_or(|to| entry.at < to));
            Ok(entries.take(read.limit as usize).cloned().map(Ok).collect())
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
                entries: entries.take(limit as usize).cloned().map(Ok).collect(),
                head: head.unwrap_or_default(),
            })
        })
    }

    fn audit_by_time(&self, read: AuditRead) -> BoxFuture<'_, Result<AuditFound, Error>> {
        self.with(|state| {
            let place = |entry: &AuditEntry| AuditPlace {
                at: entry.at,
                partition: entry.partition,
                sequence: entry.sequence,
            };
            let mut entries: Vec<_> = state.audit.values().collect();
            entries.sort_by_key(|entry| place(entry));
            if read.newest_first {
                entries.reverse();
            }
            entries.retain(|entry| {
                let is_behind = read.after.is_none_or(|after| {
                    if read.newest_first {
                        place(entry) < after
                    } else {
                        place(entry) > after
                    }
                });
                is_behind && read.wants(entry)
            });
            let limit = read.limit as usize;
            let next = (entries.len() > limit).then(|| place(entries[limit - 1]));
            entries.truncate(limit);
            Ok(AuditFound {
                looked_at: entries.len(),
                entries: entries.into_iter().cloned().map(Ok).collect(),
                next,
                by: None,
            })
        })
    }

    fn operations(
        &self,
        after: Option<OperationId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page<OperationRow, OperationId>, Error>> {
        self.with(|state| {
            let all = state.operations.values().rev();
            let older = all.filter(|one| after.as_ref().is_none_or(|after| one.id < *after));
            Ok(page(older.cloned(), limit, |row| row.id.clone()))
        })
    }

    fn operation_results(
        &self,
        operation: OperationId,
        after: Option<IdentityKey>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page<OperationResultRow>, Error>> {
        self.with(|state| {
            let all = state.results.values();
            let later = all
                .filter(|one| one.operation == operation)
                .filter(|one| after.as_ref().is_none_or(|after| one.key > *after));
            Ok(page(later.cloned(), limit, |row| row.key.clone()))
        })
    }

    fn individual_enrollments(&self) -> BoxFuture<'_, Result<u64, Error>> {
        self.with(|state| {
            let keys = state.provisioning.keys();
            let individuals = keys.filter(|key| key.kind == ProvisioningKind::Individual);
            Ok(individuals.count() as u64)
        })
    }

    fn provisioning(
        &self,
        after: ProvisioningKey,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page<ProvisioningRow, ProvisioningKey>, Error>> {
        self.with(|state| {
            let all = state.provisioning.values();
            let later = all.filter(|row| row.key.kind == after.kind && row.key > after);
            Ok(page(later.cloned(), limit, |row| row.key.clone()))
        })
    }

    fn trim(&self, retention: Retention) -> BoxFuture<'_, Result<Trimmed, Error>> {
        self.with(|state| Ok(state.trim(&retention)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

fn page<R, K>(rows: impl Iterator<Item = R>, limit: u32, key: impl Fn(&R) -> K) -> Page<R, K> {
    let mut rows = rows.peekable();
    let records: Vec<R> = rows.by_ref().take(limit as usize).collect();
    let more = rows.peek().is_some();
    Page {
        next: records.last().filter(|_| more).map(key),
        records,
        damaged: Vec::new(),
    }
}
