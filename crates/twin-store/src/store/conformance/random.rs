//! Random sequences of commits, restarts, takeovers and trims, on a store and on the plain model:
//! every answer must be the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use twin::{IdentityKey, Revision};

use super::Opener;
use super::small::token;
use crate::index;
use crate::record::{Record, Status};
use crate::store::model::ModelStore;
use crate::store::sample::{audited, count, of, replica, revision, tagged};
use crate::store::{
    Commit, EnrollmentUse, Error, HistoryRead, LogEntry, OperationId, OperationResultRow,
    OperationRow, PartitionState, RequestAnswer, RequestId, Retention, Selection, Source, Store,
    Upsert, everything,
};
use crate::testing::{key, now};
use steps::{Op, Step, steps};

mod steps;

pub(super) const KEYS: [&str; 7] = ["a", "a/m", "b", "b/m", "b/n", "c/z", "d"];
/// Sequences that a store runs, besides those that are shrunk when they fail.
const SEQUENCES: usize = 3;
const STEPS: usize = 40;

pub(super) async fn whatever_is_done_every_store_answers_as_the_model(opener: Opener) {
    // One long sequence on the one content there is; a failure shows what was done.
    let mut runner = TestRunner::default();
    let steps = steps(STEPS * SEQUENCES)
        .new_tree(&mut runner)
        .expect("steps");
    if let Err(error) = World::run(&opener, steps.current()).await {
        panic!("{error}\nafter {:#?}", steps.current());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn sequences_on_the_embedded_store(steps in steps(STEPS)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(World::run(&Opener::sqlite(), steps))?;
    }
}

struct World<'o> {
    opener: &'o Opener,
    store: Arc<dyn Store>,
    model: ModelStore,
    states: Vec<PartitionState>,
    stale: Vec<PartitionState>,
    records: BTreeMap<IdentityKey, Record>,
    /// Seconds since the beginning.
    time: u64,
}

impl<'o> World<'o> {
    async fn run(opener: &'o Opener, steps: Vec<Step>) -> Result<(), TestCaseError> {
        let mut world = World {
            opener,
            store: opener.open().await,
            model: ModelStore::new(),
            states: Vec::new(),
            stale: Vec::new(),
            records: BTreeMap::new(),
            time: 0,
        };
        world.take().await?;
        for step in steps {
            world.time += 1;
            match step {
                Step::Commit(ops) => world.commit(&ops).await?,
                Step::Stale(ops) => world.stale(&ops).await?,
                Step::Takeover => {
                    world.stale = world.states.clone();
                    world.take().await?;
                }
                Step::Restart => {
                    world.store.close().await;
                    world.store = opener.open().await;
                    world.take().await?;
                }
                Step::Trim(batch) => world.trim(batch).await?,
            }
            world.compare().await?;
        }
        world.opener.is_sound().await;
        world.store.close().await;
        Ok(())
    }

    fn now(&self) -> Timestamp {
        now() + Duration::from_secs(self.time)
    }

    async fn take(&mut self) -> Result<(), TestCaseError> {
        let replica = replica(count());
        let theirs = self.model.claim(replica.clone()).await.expect("claimed");
        let ours = self.store.claim(replica).await.expect("claimed");
        prop_assert_eq!(&ours.owned, &theirs.owned);
        self.states = ours.owned;
        Ok(())
    }

    async fn commit(&mut self, ops: &[Op]) -> Result<(), TestCaseError> {
        let (states, commit) = self.build(ops, self.states.clone());
        self.model.commit(commit.clone()).await.expect("committed");
        for key in &commit.deletes {
            self.records.remove(key);
        }
        for upsert in &commit.upserts {
            let record = (*upsert.record).clone();
            self.records.insert(record.key.clone(), record);
        }
        self.store.commit(commit).await.expect("committed");
        self.states = states;
        Ok(())
    }

    async fn stale(&mut self, ops: &[Op]) -> Result<(), TestCaseError> {
        if self.stale.is_empty() {
            return Ok(());
        }
        let (_, commit) = self.build(ops, self.stale.clone());
        let theirs = self.model.commit(commit.clone()).await;
        let ours = self.store.commit(commit).await;
        let fenced = |result| matches!(result, Err(Error::Fenced { .. }));
        prop_assert!(fenced(theirs));
        prop_assert!(fenced(ours));
        Ok(())
    }

    async fn trim(&mut self, batch: u32) -> Result<(), TestCaseError> {
        let retention = Retention {
            now: self.now() + SignedDuration::from_hours(2),
            history_age: Duration::from_secs(2 * 3600 + 15),
            history_count: 4,
            history_span: Duration::ZERO,
            history_every: Duration::MAX,
            request_age: Duration::from_secs(2 * 3600 + 10),
            operation_age: Duration::from_secs(2 * 3600 + 10),
            batch,
        };
        // After what goes is gone: how many go depends on how many were put together before.
        let thinning = Retention {
            history_age: Duration::MAX,
            history_count: u32::MAX,
            history_span: Duration::from_secs(8),
            history_every: Duration::from_secs(2 * 3600 + 3),
            ..retention
        };
        for store in [&*self.store, &self.model] {
            for retention in [retention, thinning] {
                while store.trim(retention).await.expect("trimmed").more {}
            }
        }
        Ok(())
    }

    /// A commit of these, each identity written at most once, as the engine does.
    fn build(&self, ops: &[Op], mut states: Vec<PartitionState>) -> (Vec<PartitionState>, Commit) {
        let mut commit = Commit {
            coalesce_within: Duration::from_secs(4),
            ..Commit::default()
        };
        for op in ops {
            self.add(op, &mut states, &mut commit);
        }
        commit.partitions = states.clone();
        (states, commit)
    }

    fn add(&self, op: &Op, states: &mut [PartitionState], commit: &mut Commit) {
        match *op {
            Op::Put(at, value) => self.put(KEYS[at], Some(value), states, commit),
            Op::Touch(at) => self.put(KEYS[at], None, states, commit),
            Op::Delete(at) => {
                let key = key(KEYS[at]);
                if self.records.contains_key(&key) && !written(commit, &key) {
                    self.log(&key, false, states, commit);
                    commit.deletes.push(key);
                }
            }
            Op::Token(hash) => {
                let token = token(hash, SignedDuration::from_secs(10));
                let known = |one: &crate::store::EnrollmentToken| one.hash == token.hash;
                if !self.model.has_token(&token.hash) && !commit.tokens.iter().any(known) {
                    commit.tokens.push(token);
                }
            }
            // The engine has seen the token before it lets it be used.
            Op::Use(hash, at) if self.model.has_token(&[hash; 32]) => {
                commit.enrollments.push(EnrollmentUse {
                    hash: [hash; 32],
                    device: key(KEYS[at]).device,
                    nonce: self.time.to_string(),
                });
            }
            Op::Use(..) => {}
            Op::Answer(id, value) => commit.requests.push(RequestAnswer {
                id: RequestId(id.to_string()),
                fingerprint: [value; 32],
                answer: vec![value; 3],
                at: self.now(),
            }),
            Op::Operation(id, ended) => commit.operations.push(OperationRow {
                id: OperationId(id.to_string()),
                ended,
                at: self.now(),
                body: self.time.to_string(),
            }),
            Op::Result(id, at, value) => commit.results.push(OperationResultRow {
                operation: OperationId(id.to_string()),
                key: key(KEYS[at]),
                body: value.to_string(),
            }),
            Op::Audit(at) => {
                let state = of(states, &key(KEYS[at]));
                commit.audit.push(audited(state, KEYS[at]));
            }
            Op::Publish(at) => {
                let state = of(states, &key(KEYS[at]));
                state.published = state.revision;
                state.position += 1;
            }
            Op::TrimLog(at, kept) => {
                let state = of(states, &key(KEYS[at]));
                let through = state.revision.get().saturating_sub(kept);
                commit
                    .trim_log
                    .push((state.partition, Revision::new(through)));
            }
        }
    }

    fn put(
        &self,
        name: &str,
        value: Option<u8>,
        states: &mut [PartitionState],
        commit: &mut Commit,
    ) {
        let key = key(name);
        if written(commit, &key) {
            return;
        }
        let before = self.records.get(&key);
        let mut record = match (value, before) {
            (None, None) => return,
            (None, Some(before)) => before.clone(),
            (Some(value), _) => {
                let mut record = tagged(&format!("{name}{value}").replace('/', "-"));
                record.key = key.clone();
                if value == 3 {
                    record.identity.status = Status::Disabled;
                }
                record
            }
        };
        record.revision = self.log(&key, value.is_none(), states, commit);
        let (index_remove, index_add) = index::changes(before, Some(&record)).expect("readable");
        commit.upserts.push(Upsert {
            record: Arc::new(record),
            index_remove,
            index_add,
        });
    }

    /// Numbers a change, and leaves it for the log and the history.
    fn log(
        &self,
        key: &IdentityKey,
        routine: bool,
        states: &mut [PartitionState],
        commit: &mut Commit,
    ) -> Revision {
        let state = of(states, key);
        state.revision = state.revision.next().expect("there are more");
        commit.log.push(LogEntry {
            partition: state.partition,
            revision: state.revision,
            change: key.to_string().into_bytes(),
        });
        let mut entry = revision(key, state.revision.get());
        (entry.at, entry.first_at) = (self.now(), self.now());
        entry.routine = routine;
        commit.history.push(entry);
        state.revision
    }

    /// Every answer of the store is the model's.
    async fn compare(&self) -> Result<(), TestCaseError> {
        let mut selections = Vec::new();
        for name in KEYS {
            let key = key(name);
            selections.push(Selection::One(key.clone()));
            selections.push(Selection::Family(key.device.clone()));
            for hash in 0..4 {
                selections.push(Selection::Token([hash; 32], key.device.clone()));
            }
        }
        for id in 0..4 {
            selections.push(Selection::Request(RequestId(id.to_string())));
            selections.push(Selection::Operation(OperationId(id.to_string())));
        }
        for selection in selections {
            let ours = self.store.load(vec![selection.clone()]).await;
            let theirs = self.model.load(vec![selection]).await;
            prop_assert_eq!(ours.expect("read"), theirs.expect("read"));
        }
        self.compare_pages().await?;
        self.compare_trails().await
    }

    async fn compare_pages(&self) -> Result<(), TestCaseError> {
        for source in [Source::All, Source::Devices, Source::Modules] {
            let mut after = None;
            loop {
                let search = everything(source, after, 2, self.now());
                let ours = self.store.search(search.clone()).await.expect("read");
                let theirs = self.model.search(search).await.expect("read");
                prop_assert_eq!(&ours.records, &theirs.records);
                prop_assert_eq!(&ours.next, &theirs.next);
                after = ours.next;
                if after.is_none() {
                    break;
                }
            }
        }
        let ours = self.store.operations(None, 3).await.expect("read");
        let theirs = self.model.operations(None, 3).await.expect("read");
        prop_assert_eq!(ours.records, theirs.records);
        prop_assert_eq!(ours.next, theirs.next);
        for id in 0..4 {
            let id = OperationId(id.to_string());
            let after = Some(key("a/m"));
            let ours = self.store.operation_results(id.clone(), after.clone(), 3);
            let theirs = self.model.operation_results(id, after, 3);
            let (ours, theirs) = (ours.await.expect("read"), theirs.await.expect("read"));
            prop_assert_eq!(ours.records, theirs.records);
            prop_assert_eq!(ours.next, theirs.next);
        }
        Ok(())
    }

    async fn compare_trails(&self) -> Result<(), TestCaseError> {
        let heads = self.store.heads().await.expect("read");
        prop_assert_eq!(heads, self.model.heads().await.expect("read"));
        for state in &self.states {
            for (after, limit) in [(0, 100), (state.revision.get() / 2, 2)] {
                let after = Revision::new(after);
                let ours = self.store.log(state.partition, after, limit).await;
                let theirs = self.model.log(state.partition, after, limit).await;
                prop_assert_eq!(ours.expect("read"), theirs.expect("read"));
            }
            let ours = self.store.audit(state.partition, 1, 3).await;
            let theirs = self.model.audit(state.partition, 1, 3).await;
            prop_assert_eq!(ours.expect("read"), theirs.expect("read"));
        }
        for name in KEYS {
            let whole = HistoryRead {
                key: key(name),
                before: None,
                from: None,
                to: None,
                limit: 100,
            };
            let part = HistoryRead {
                before: Some(Revision::new(5)),
                from: Some(now() + Duration::from_secs(3)),
                to: Some(now() + Duration::from_secs(30)),
                limit: 2,
                ..whole.clone()
            };
            for read in [whole, part] {
                let ours = self.store.history(read.clone()).await.expect("read");
                let theirs = self.model.history(read).await.expect("read");
                prop_assert_eq!(ours, theirs);
            }
        }
        Ok(())
    }
}

fn written(commit: &Commit, key: &IdentityKey) -> bool {
    let upserts = commit.upserts.iter().map(|upsert| &upsert.record.key);
    upserts.chain(&commit.deletes).any(|one| one == key)
}
