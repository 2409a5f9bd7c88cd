#![allow(clippy::disallowed_methods)] // what is under test needs no supervisor

use serde_json::json;
use service_kit::clock::ManualClock;
use service_kit::metrics::Registry;
use testkit::wait_for;
use twin::{Partition, PartitionCount, Writer};

use super::*;
use crate::apply::{Cause, Mode, devices};
use crate::engine::{self, Keep};
use crate::metrics::Metrics;
use crate::store::model::ModelStore;
use crate::store::{PartitionState, Source};
use crate::testing::{device, new_device, now, object};

const SOON: Duration = Duration::from_mins(1);
/// More than one chunk.
const DEVICES: usize = 150;

/// A replica that owns some of the partitions of a shared store.
struct Replica {
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
        };
        let clock = ManualClock::at(now());
        let (engine, writer, _) =
            engine::engine(store.clone(), clock.clone(), metrics, count, states, keep);
        tokio::spawn(writer.run());
        let (begun, shutdown) = (Arc::new(Notify::new()), ShutdownToken::new());
        let runner = Runner::new(
            store,
            engine.clone(),
            clock,
            begun.clone(),
            shutdown.clone(),
        );
        tokio::spawn(runner.run());
        Replica {
            engine,
            begun,
            shutdown,
        }
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

async fn ended(store: &ModelStore, id: &OperationId) -> Operation {
    wait_for("the operation's end", SOON, async || {
        let rows = store.operations(None, 10).await.unwrap();
        let row = rows.iter().find(|row| row.id == *id).unwrap();
        row.ended.then(|| Operation::from_row(row).unwrap())
    })
    .await
}

#[tokio::test]
async fn two_replicas_carry_one_operation_out_each_on_its_own_twins() {
    let store = ModelStore::new();
    let claim = crate::store::Replica {
        id: crate::store::ReplicaId("both".to_owned()),
        address: "http://replica".to_owned(),
        count: PartitionCount::new(4).unwrap(),
        lease: Duration::ZERO,
    };
    let states = store.claim(claim).await.expect("taken").owned;
    let is_first = |partition: Partition| partition.get().is_multiple_of(2);
    let (even, odd): (Vec<_>, Vec<_>) = states
        .into_iter()
        .partition(|state| is_first(state.partition));
    let replicas = [Replica::start(&store, even), Replica::start(&store, odd)];
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
    let update = Update {
        source: Source::Devices,
        condition: "*".to_owned(),
        tags: None,
        desired: Some(object(json!({"a": 1}))),
    };
    let count = u64::try_from(DEVICES).unwrap();
    let id = replicas[0].begin(Work::Update(update)).await;
    let done = ended(&store, &id).await;
    assert_eq!(done.state, State::Succeeded, "{done:?}");
    assert_eq!((done.succeeded, done.handed_over), (count, elsewhere));
    let check = async |version: u64, document: &str| {
        for number in 0..DEVICES {
            let key = IdentityKey::new_device(device(&format!("d{number}")));
            let desired = store.get(key).await.unwrap().unwrap().twin.desired;
            let found = (desired.version.get(), desired.document.as_str());
            assert_eq!(found, (version, document), "d{number}");
        }
    };
    check(2, r#"{"a":1}"#).await;
    let undo = replicas[0].begin(Work::Undo { of: id }).await;
    let undone = ended(&store, &undo).await;
    assert_eq!((undone.succeeded, undone.skipped), (count, 0));
    check(3, "{}").await;
    for replica in replicas {
        replica.shutdown.trigger();
    }
}
