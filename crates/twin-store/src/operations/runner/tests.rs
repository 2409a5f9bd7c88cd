#![allow(clippy::disallowed_methods)] // what is under test needs no supervisor

use std::sync::Mutex;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use iot_hub::MethodName;
use serde_json::json;
use service_kit::clock::ManualClock;
use service_kit::metrics::Registry;
use testkit::wait_for;
use tokio::sync::Semaphore;
use twin::{IdentityKey, Partition, PartitionCount, Writer};

use super::*;
use crate::apply::{Cause, Limits, Mode, devices};
use crate::engine::{self, Keep};
use crate::error::CommandError;
use crate::metrics::Metrics;
use crate::operations::{Answer, Call, Called, Outcome, TwinResult, Update, Work};
use crate::store::model::ModelStore;
use crate::store::{PartitionState, Source};
use crate::testing::{device, new_device, now, object};

const SOON: Duration = Duration::from_mins(1);
/// More than one chunk.
const DEVICES: usize = 150;

/// Devices that answer calls with their own id, as soon as they have a permit.
struct Fleet {
    permits: Arc<Semaphore>,
    called: Arc<Mutex<Vec<IdentityKey>>>,
    at_once: Arc<Mutex<(usize, usize)>>,
}

impl Fleet {
    fn new(permits: usize) -> Arc<Fleet> {
        Arc::new(Fleet {
            permits: Arc::new(Semaphore::new(permits)),
            called: Arc::default(),
            at_once: Arc::default(),
        })
    }

    fn called(&self) -> Vec<IdentityKey> {
        self.called.lock().unwrap().clone()
    }

    /// The most calls that waited at the same time.
    fn most_at_once(&self) -> usize {
        self.at_once.lock().unwrap().1
    }
}

impl Devices for Fleet {
    fn call(&self, key: IdentityKey, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        assert_eq!(call, reboot());
        self.called.lock().unwrap().push(key.clone());
        let (permits, at_once) = (self.permits.clone(), self.at_once.clone());
        async move {
            {
                let mut counts = at_once.lock().unwrap();
                counts.0 += 1;
                counts.1 = counts.1.max(counts.0);
            }
            permits.acquire().await.expect("open").forget();
            at_once.lock().unwrap().0 -= 1;
            if key.device.as_str() == "d7" {
                return Err(CommandError::NotOnline(key).into());
            }
            Ok(Answer {
                status: 200,
                payload: format!("\"{key}\""),
            })
        }
        .boxed()
    }
}

fn reboot() -> Call {
    Call {
        method: MethodName::parse("reboot").unwrap(),
        payload: "null".to_owned(),
        response_within: Duration::from_secs(5),
        connect_within: Duration::ZERO,
    }
}

fn calls() -> Work {
    let Work::Update(update) = update() else {
        panic!("an update");
    };
    Work::Update(Update {
        desired: None,
        call: Some(reboot()),
        ..update
    })
}

async fn results(store: &ModelStore, id: &OperationId) -> Vec<TwinResult> {
    let page = store.operation_results(id.clone(), None, 1000).await;
    let rows = page.unwrap().records;
    rows.iter()
        .map(|row| TwinResult::from_row(row).unwrap())
        .collect()
}

/// A replica that owns some of the partitions of a shared store.
struct Replica {
    store: Arc<dyn Store>,
    engine: Engine,
    begun: Arc<Notify>,
    shutdown: ShutdownToken,
}

impl Replica {
    fn start(store: &ModelStore, states: Vec<PartitionState>) -> Replica {
        let count = PartitionCount::new(4).unwrap();
        let store: Arc<dyn Store> = Arc::new(store.clone());
        let metrics = Metrics::new(&Registry::new().scope("test"));
        let keep = Keep {
            coalesce_within: Duration::ZERO,
            log_changes: 100,
            limits: Limits::NONE,
        };
        let clock = ManualClock::at(now());
        let (engine, writer, _) =
            engine::engine(store.clone(), clock.clone(), metrics, count, states, keep);
        tokio::spawn(writer.run());
        Replica {
            store,
            engine,
            begun: Arc::new(Notify::new()),
            shutdown: ShutdownToken::new(),
        }
    }

    /// Has it work on operations.
    fn serve(&self) {
        self.serve_with(Fleet::new(Semaphore::MAX_PERMITS), &self.shutdown);
    }

    /// The same with these devices, until told to stop.
    fn serve_with(&self, devices: Arc<Fleet>, shutdown: &ShutdownToken) {
        let runner = Runner::new(
            self.store.clone(),
            self.engine.clone(),
            ManualClock::at(now()),
            devices,
            self.begun.clone(),
            shutdown.clone(),
        );
        tokio::spawn(runner.run());
    }

    /// Stops an operation, as a caller does.
    async fn cancel(&self, id: &OperationId) -> Operation {
        let (selection, id) = (Selection::Operation(id.clone()), id.clone());
        let stopped = self.engine.decide(selection, move |overlay, now| {
            decide::amend(overlay, &id, |one| one.stop(State::Cancelled, now))
        });
        stopped.await.expect("stopped")
    }

    async fn begin(&self, work: Work) -> OperationId {
        let id = OperationId(uuid::Uuid::now_v7().to_string());
        let selection = Selection::Operation(id.clone());
        let new = id.clone();
        let begun = self.engine.decide(selection, move |overlay, now| {
            let actor = Writer::Operator("alice".to_owned());
            let operation = Operation::begin(new, work, actor, None, 0, now);
            overlay.put_operation(operation.to_row());
            Ok(())
        });
        begun.await.expect("begun");
        self.begun.notify_one();
        id
    }
}

async fn read(store: &ModelStore, id: &OperationId) -> Operation {
    let page = store.operations(None, 10).await.unwrap();
    let row = page.records.iter().find(|row| row.id == *id).unwrap();
    Operation::from_row(row).unwrap()
}

async fn until(
    store: &ModelStore,
    id: &OperationId,
    what: &str,
    so: impl Fn(&Operation) -> bool,
) -> Operation {
    wait_for(what, SOON, async || {
        Some(read(store, id).await).filter(|operation| so(operation))
    })
    .await
}

async fn ended(store: &ModelStore, id: &OperationId) -> Operation {
    let has_ended = |operation: &Operation| operation.state != State::Running;
    until(store, id, "the operation's end", has_ended).await
}

fn update() -> Work {
    Work::Update(Update {
        source: Source::Devices,
        condition: "*".to_owned(),
        tags: None,
        desired: Some(object(json!({"a": 1}))),
        call: None,
    })
}

fn is_first(partition: Partition) -> bool {
    partition.get().is_multiple_of(2)
}

/// Two replicas that own every second partition, with devices; answers how many of them the second
/// one owns. Neither works on operations yet.
async fn pair(store: &ModelStore) -> ([Replica; 2], u64) {
    let claim = crate::store::Replica {
        id: crate::store::ReplicaId("both".to_owned()),
        address: "http://replica".to_owned(),
        count: PartitionCount::new(4).unwrap(),
        lease: Duration::ZERO,
    };
    let states = store.claim(claim).await.expect("taken").owned;
    let (even, odd): (Vec<_>, Vec<_>) = states
        .into_iter()
        .partition(|state| is_first(state.partition));
    let replicas = [Replica::start(store, even), Replica::start(store, odd)];
    let mut elsewhere = 0;
    for number in 0..DEVICES {
        let id = device(&format!("d{number}"));
        let key = IdentityKey::new_device(id.clone());
        let owner = if is_first(replicas[0].engine.partition(&key)) {
            &replicas[0]
        } else {
            elsewhere += 1;
            &replicas[1]
        };
        let created = owner
            .engine
            .decide(Selection::Family(id.clone()), move |overlay, now| {
                let cause = Cause::default();
                let new = new_device(id.as_str(), "g");
                devices::create_device(overlay, new, Mode::Write, now, &cause)
            });
        created.await.expect("created");
    }
    assert!(elsewhere > 10, "both have work to do");
    (replicas, elsewhere)
}

/// How many twins have this version and document, of those that are each replica's.
async fn count(store: &ModelStore, version: u64, document: &str) -> [u64; 2] {
    let mut counts = [0, 0];
    for number in 0..DEVICES {
        let key = IdentityKey::new_device(device(&format!("d{number}")));
        let partition = twin::partition_of(&key.device, PartitionCount::new(4).unwrap());
        let desired = store.get(key).await.unwrap().unwrap().twin.desired;
        if (desired.version.get(), desired.document.as_str()) == (version, document) {
            counts[usize::from(!is_first(partition))] += 1;
        }
    }
    counts
}

#[tokio::test]
async fn two_replicas_carry_one_operation_out_each_on_its_own_twins() {
    let store = ModelStore::new();
    let (replicas, elsewhere) = pair(&store).await;
    replicas.iter().for_each(Replica::serve);
    let all = u64::try_from(DEVICES).unwrap();
    let id = replicas[0].begin(update()).await;
    let done = ended(&store, &id).await;
    assert_eq!(done.state, State::Succeeded, "{done:?}");
    assert_eq!((done.succeeded, done.handed_over), (all, elsewhere));
    let written = count(&store, 2, r#"{"a":1}"#).await;
    assert_eq!(written, [all - elsewhere, elsewhere]);
    let undo = replicas[0].begin(Work::Undo { of: id }).await;
    let undone = ended(&store, &undo).await;
    assert_eq!((undone.succeeded, undone.skipped), (all, 0));
    assert_eq!(count(&store, 3, "{}").await, [all - elsewhere, elsewhere]);
    for replica in replicas {
        replica.shutdown.trigger();
    }
}

#[tokio::test]
async fn a_cancelled_operation_ends_when_the_others_have_let_go_of_their_twins() {
    let store = ModelStore::new();
    let (replicas, elsewhere) = pair(&store).await;
    let all = u64::try_from(DEVICES).unwrap();
    replicas[0].serve();
    let id = replicas[0].begin(update()).await;
    until(&store, &id, "the walk's end", |one| one.walked).await;
    let stopped = replicas[0].cancel(&id).await;
    assert_eq!(stopped.state, State::Running, "the other knows nothing yet");
    // Only now the other looks at what was handed over to it.
    replicas[1].serve();
    let done = ended(&store, &id).await;
    assert_eq!(done.state, State::Cancelled, "{done:?}");
    assert_eq!((done.succeeded, done.skipped), (all - elsewhere, elsewhere));
    let written = count(&store, 2, r#"{"a":1}"#).await;
    assert_eq!(
        written,
        [all - elsewhere, 0],
        "nothing after it was stopped"
    );
    let undo = replicas[0].begin(Work::Undo { of: id }).await;
    let undone = ended(&store, &undo).await;
    assert_eq!(
        (undone.total, undone.succeeded),
        (Some(done.succeeded), done.succeeded)
    );
    assert_eq!(count(&store, 3, "{}").await, [all - elsewhere, 0]);
    for replica in replicas {
        replica.shutdown.trigger();
    }
}

#[tokio::test]
async fn what_the_others_have_done_is_counted_while_it_goes_on() {
    let store = ModelStore::new();
    let (replicas, elsewhere) = pair(&store).await;
    replicas.iter().for_each(Replica::serve);
    let new = OperationId(uuid::Uuid::now_v7().to_string());
    let id = new.clone();
    let begun = replicas[0]
        .engine
        .decide(Selection::Operation(id.clone()), move |overlay, now| {
            let actor = Writer::Operator("alice".to_owned());
            // Slow enough that the others are done with their part of what was passed.
            let operation = Operation::begin(new, update(), actor, None, 20, now);
            overlay.put_operation(operation.to_row());
            Ok(())
        });
    begun.await.expect("begun");
    replicas[0].begun.notify_one();
    wait_for("the others' part in the progress", SOON, async || {
        let told = read(&store, &id).await;
        assert!(!told.walked, "it is counted only at the end: {told:?}");
        let [first, _] = count(&store, 2, r#"{"a":1}"#).await;
        (told.succeeded > first).then_some(())
    })
    .await;
    let stopped = replicas[0].cancel(&id).await;
    assert!(stopped.handed_over <= elsewhere);
    let done = ended(&store, &id).await;
    let [first, second] = count(&store, 2, r#"{"a":1}"#).await;
    assert_eq!(
        (done.state, done.succeeded),
        (State::Cancelled, first + second)
    );
    assert!(second > 0, "both have written: {done:?}");
    for replica in replicas {
        replica.shutdown.trigger();
    }
}

#[tokio::test]
async fn a_result_that_cannot_be_read_stops_neither_an_operation_nor_its_undo() {
    let store = ModelStore::new();
    let (replicas, elsewhere) = pair(&store).await;
    let all = u64::try_from(DEVICES).unwrap();
    replicas[0].serve();
    let id = replicas[0].begin(update()).await;
    until(&store, &id, "the walk's end", |one| one.walked).await;
    let page = store
        .operation_results(id.clone(), None, 1000)
        .await
        .unwrap();
    let is_pending = |pending: bool| {
        let mut rows = page.records.iter();
        let row = rows.find(|row| row.body.contains(r#""outcome":"pending""#) == pending);
        row.unwrap().key.clone()
    };
    // One that the other was to carry out, and one that was carried out.
    for key in [is_pending(true), is_pending(false)] {
        store.damage_result(&id, &key);
    }
    replicas[1].serve();
    let done = ended(&store, &id).await;
    assert_eq!(done.state, State::Succeeded, "{done:?}");
    assert_eq!((done.succeeded, done.failed), (all - 2, 2));
    let undo = replicas[0].begin(Work::Undo { of: id }).await;
    let undone = ended(&store, &undo).await;
    assert_eq!(undone.state, State::Succeeded, "{undone:?}");
    assert_eq!((undone.succeeded, undone.failed), (all - 2, 2));
    let back = count(&store, 3, "{}").await;
    assert_eq!(back, [all - elsewhere - 1, elsewhere - 1]);
    for replica in replicas {
        replica.shutdown.trigger();
    }
}

#[tokio::test]
async fn a_job_calls_every_device_once_and_a_few_at_a_time() {
    let store = ModelStore::new();
    let (replicas, _) = pair(&store).await;
    let fleet = Fleet::new(Semaphore::MAX_PERMITS);
    // Both look, and whoever owns the first partition calls all.
    let others = Fleet::new(Semaphore::MAX_PERMITS);
    replicas[0].serve_with(fleet.clone(), &replicas[0].shutdown);
    replicas[1].serve_with(others.clone(), &replicas[1].shutdown);
    let id = replicas[0].begin(calls()).await;
    let done = ended(&store, &id).await;
    assert_eq!(done.state, State::Succeeded, "{done:?}");
    let all = u64::try_from(DEVICES).unwrap();
    assert_eq!((done.succeeded, done.failed), (all - 1, 1));
    let mut called = fleet.called();
    called.sort();
    called.dedup();
    assert_eq!((called.len(), fleet.called().len()), (DEVICES, DEVICES));
    assert!(others.called().is_empty());
    assert!(fleet.most_at_once() <= 16, "{}", fleet.most_at_once());
    for result in results(&store, &id).await {
        let key = result.key.to_string();
        if key == "d7" {
            assert_eq!((result.outcome, result.call), (Outcome::Failed, None));
            assert!(result.reason.contains("not connected"), "{}", result.reason);
            continue;
        }
        let answer = Answer {
            status: 200,
            payload: format!("\"{key}\""),
        };
        assert_eq!(result.outcome, Outcome::Succeeded, "{key}");
        assert_eq!(result.call, Some(Called::Answered(answer)), "{key}");
    }
    // Nothing was written.
    assert_eq!(count(&store, 1, "{}").await.iter().sum::<u64>(), all);
    for replica in replicas {
        replica.shutdown.trigger();
    }
}

#[tokio::test]
async fn calls_that_had_begun_when_the_service_ended_are_not_made_again() {
    let store = ModelStore::new();
    let (replicas, _) = pair(&store).await;
    let silent = Fleet::new(0);
    let first = ShutdownToken::new();
    replicas[0].serve_with(silent.clone(), &first);
    let id = replicas[0].begin(calls()).await;
    wait_for("calls to be under way", SOON, async || {
        (silent.called().len() == 16).then_some(())
    })
    .await;
    first.trigger();
    let fleet = Fleet::new(Semaphore::MAX_PERMITS);
    replicas[0].serve_with(fleet.clone(), &replicas[0].shutdown);
    let done = ended(&store, &id).await;
    assert_eq!(done.state, State::Succeeded, "{done:?}");
    let lost = silent.called();
    assert!(fleet.called().iter().all(|key| !lost.contains(key)));
    assert_eq!(fleet.called().len(), DEVICES - 16);
    for result in results(&store, &id).await {
        if lost.contains(&result.key) {
            assert_eq!(result.outcome, Outcome::Failed);
            assert!(result.reason.contains("not known"), "{}", result.reason);
        }
    }
    for replica in replicas {
        replica.shutdown.trigger();
    }
}

#[tokio::test]
async fn a_job_that_is_stopped_calls_nobody_any_more_and_waits_for_whom_it_called() {
    let store = ModelStore::new();
    let (replicas, _) = pair(&store).await;
    let fleet = Fleet::new(0);
    replicas[0].serve_with(fleet.clone(), &replicas[0].shutdown);
    let id = replicas[0].begin(calls()).await;
    until(&store, &id, "the walk's end", |one| one.walked).await;
    wait_for("calls to be under way", SOON, async || {
        (fleet.called().len() == 16).then_some(())
    })
    .await;
    let stopped = replicas[0].cancel(&id).await;
    assert_eq!(stopped.state, State::Running, "it waits for answers");
    fleet.permits.add_permits(1000);
    let done = ended(&store, &id).await;
    assert_eq!(done.state, State::Cancelled, "{done:?}");
    assert_eq!(fleet.called().len(), 16);
    let all = u64::try_from(DEVICES).unwrap();
    assert_eq!(done.succeeded + done.failed, 16);
    assert_eq!(done.skipped, all - 16);
    for replica in replicas {
        replica.shutdown.trigger();
    }
}
