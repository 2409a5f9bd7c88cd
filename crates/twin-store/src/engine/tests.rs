#![allow(clippy::disallowed_methods)] // a writer under test needs no supervisor

use std::sync::Arc;

use futures::FutureExt as _;
use service_kit::clock::ManualClock;
use service_kit::metrics::Registry;
use tokio::task::JoinHandle;

use super::*;
use crate::apply::{Cause, Limits, Mode, devices, enrollment, twins};
use crate::store::model::ModelStore;
use crate::store::{
    self, EnrollmentToken, Loaded, OperationId, Replica, ReplicaId, RequestId, Selection,
};
use crate::testing::{device, identity, key, new_device, now, object, operator_write};

mod inherited;
mod sequences;
mod spoilt;
mod trails;

/// Keeps little, so that tests see what is forgotten.
const KEEP: Keep = Keep {
    coalesce_within: Duration::from_hours(1),
    log_changes: 2,
    limits: Limits::NONE,
};

/// Takes the partitions of a store, as a start of the service does.
pub(super) async fn take(store: &dyn Store) -> Vec<PartitionState> {
    let replica = Replica {
        id: ReplicaId(uuid::Uuid::new_v4().to_string()),
        address: "http://replica".to_owned(),
        count: PartitionCount::new(4).unwrap(),
        lease: std::time::Duration::ZERO,
    };
    store.claim(replica).await.expect("taken").owned
}

/// An engine whose writer runs.
pub(super) struct Running {
    pub(super) engine: Engine,
    pub(super) ends: Vec<OutboxEnd>,
    writer: JoinHandle<Result<(), store::Error>>,
}

impl Running {
    /// Takes the partitions of a store, as a start of the service does.
    pub(super) async fn start(store: Arc<dyn Store>) -> Self {
        Self::start_with(store, KEEP).await
    }

    async fn start_with(store: Arc<dyn Store>, keep: Keep) -> Self {
        let count = PartitionCount::new(4).unwrap();
        let states = take(&*store).await;
        let metrics = Metrics::new(&Registry::new().scope("test"));
        let clock = ManualClock::at(now());
        let (engine, writer, ends) = engine(store, clock, metrics, count, states, keep);
        Self {
            engine,
            ends,
            writer: tokio::spawn(writer.run()),
        }
    }

    /// Lets go of everything and waits for the writer's end.
    pub(super) async fn stop(self) -> Result<(), store::Error> {
        drop((self.engine, self.ends));
        self.writer.await.expect("it does not panic")
    }
}

fn create(engine: &Engine, id: &str) -> impl Future<Output = Result<Record, Error>> + use<> {
    let (engine, id) = (engine.clone(), device(id));
    async move {
        engine
            .decide(Selection::Family(id.clone()), move |overlay, now| {
                let cause = Cause::default();
                let new = new_device(id.as_str(), "g");
                devices::create_device(overlay, new, Mode::Write, now, &cause)
            })
            .await
    }
}

/// A device asks to be let in.
fn enrolling(
    engine: &Engine,
    token: store::TokenHash,
    id: &str,
) -> impl Future<Output = Result<Record, Error>> + use<> {
    let (engine, device) = (engine.clone(), device(id));
    let selections = [
        Selection::Token(token, device.clone()),
        Selection::Family(device.clone()),
    ];
    let asked = enrollment::Enrollment {
        token,
        device,
        nonce: "0123456789abcdef".to_owned(),
        new_device: identity("d"),
        new_module: identity("m"),
    };
    async move {
        engine
            .decide(selections, move |overlay, now| {
                enrollment::enroll(overlay, asked, now, &Cause::default())
            })
            .await
    }
}

/// Lets every task get as far as it can.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nobody_is_answered_before_the_commit_and_a_group_costs_one() {
    let (store, gate) = ModelStore::gated();
    let running = Running::start(Arc::new(store.clone())).await;
    let mut first = tokio::spawn(create(&running.engine, "first"));
    settle().await;
    let others: Vec<_> = (0..10)
        .map(|number| tokio::spawn(create(&running.engine, &format!("d{number}"))))
        .collect();
    settle().await;
    assert!(
        (&mut first).now_or_never().is_none(),
        "nothing is committed"
    );
    gate.add_permits(1);
    first.await.unwrap().expect("committed");
    settle().await;
    assert!(others.iter().all(|other| !other.is_finished()));
    gate.add_permits(1);
    for other in others {
        other.await.unwrap().expect("committed");
    }
    assert_eq!(store.commits(), 2);
}

#[tokio::test]
async fn a_store_that_fails_answers_nobody_with_success_and_ends_the_writer() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    create(&running.engine, "before").await.expect("committed");
    store.break_down();
    let (one, two) = tokio::join!(create(&running.engine, "a"), create(&running.engine, "b"));
    assert!(matches!(one, Err(Error::Stopping)), "{one:?}");
    assert!(matches!(two, Err(Error::Stopping)), "{two:?}");
    let later = create(&running.engine, "c").await;
    assert!(matches!(later, Err(Error::Stopping)), "{later:?}");
    let ended = running.stop().await;
    assert!(
        matches!(ended, Err(store::Error::Engine { .. })),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_store_that_cannot_be_read_refuses_those_who_ask_and_ends_nothing() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    store.fail_loads(1);
    let refused = create(&running.engine, "d").await;
    assert!(
        matches!(&refused, Err(Error::Store(store::Error::Engine { .. }))),
        "{refused:?}"
    );
    create(&running.engine, "d").await.expect("it can be read");
    running.stop().await.expect("a good end");
}

#[tokio::test]
async fn what_is_damaged_is_refused_by_itself() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    create(&running.engine, "d").await.expect("committed");
    let (request, operation) = (RequestId("r".to_owned()), OperationId("o".to_owned()));
    for selection in [
        Selection::Family(device("gone")),
        Selection::One(key("d/m")),
        Selection::Request(request.clone()),
        Selection::Operation(operation.clone()),
        Selection::Token([1; 32], device("e")),
    ] {
        store.damage(selection);
    }
    let ask = async |selection: Selection, look: fn(&mut Overlay) -> Result<(), Error>| {
        running
            .engine
            .decide(selection, move |overlay, _| look(overlay))
            .await
    };
    // One whose modules cannot be told is neither made nor removed.
    let create = create(&running.engine, "gone").await.map(drop);
    let remove = ask(Selection::Family(device("gone")), |overlay| {
        devices::delete(overlay, &key("gone"), None, Mode::Write, &Cause::default())
    });
    let module = ask(Selection::One(key("d/m")), |overlay| {
        overlay.get(&key("d/m")).map(drop)
    });
    let request = ask(Selection::Request(request), |overlay| {
        overlay.answer(&RequestId("r".to_owned())).map(drop)
    });
    let operation = ask(Selection::Operation(operation), |overlay| {
        overlay.operation(&OperationId("o".to_owned())).map(drop)
    });
    let refused = [
        create,
        remove.await,
        module.await,
        request.await,
        operation.await,
    ];
    for (at, refused) in refused.iter().enumerate() {
        assert!(
            matches!(refused, Err(Error::Damaged(_))),
            "{at}: {refused:?}"
        );
    }
    let token = ask(Selection::Token([1; 32], device("e")), |overlay| {
        // As one that is not there.
        assert_eq!(overlay.token([1; 32], &device("e")), None);
        Ok(())
    });
    token.await.expect("decided");
    assert_eq!(store.commits(), 1);
    running.stop().await.expect("a good end");
}

#[tokio::test]
async fn an_owner_that_lost_its_partitions_stops_at_its_next_write() {
    let store = ModelStore::new();
    let stale = Running::start(Arc::new(store.clone())).await;
    let fresh = Running::start(Arc::new(store.clone())).await;
    let refused = create(&stale.engine, "d").await;
    assert!(matches!(refused, Err(Error::Stopping)), "{refused:?}");
    let ended = stale.stop().await;
    assert!(
        matches!(ended, Err(store::Error::Fenced { .. })),
        "{ended:?}"
    );
    assert_eq!(store.get(key("d")).await.unwrap(), None);
    create(&fresh.engine, "d").await.expect("the owner commits");
}

#[tokio::test]
async fn a_refused_decision_writes_nothing() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    create(&running.engine, "d").await.expect("committed");
    let refused = create(&running.engine, "d").await;
    assert!(
        matches!(refused, Err(Error::AlreadyExists(_))),
        "{refused:?}"
    );
    assert_eq!(store.commits(), 1);
}

#[tokio::test]
async fn a_hub_takes_as_many_devices_as_it_may_also_after_a_restart() {
    let store = ModelStore::new();
    let keep = Keep {
        limits: Limits {
            devices_max: 2,
            modules_max: 1,
        },
        ..KEEP
    };
    let running = Running::start_with(Arc::new(store.clone()), keep).await;
    create(&running.engine, "a").await.expect("committed");
    let at_once = tokio::join!(
        create(&running.engine, "b"),
        create(&running.engine, "c"),
        create(&running.engine, "e"),
    );
    let made = [&at_once.0, &at_once.1, &at_once.2];
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
    running.stop().await.expect("a good end");

    let running = Running::start_with(Arc::new(store.clone()), keep).await;
    let refused = create(&running.engine, "d").await.expect_err("it is full");
    assert!(
        matches!(refused, Error::HubFull { allowed: 2, .. }),
        "{refused}"
    );
    running
        .engine
        .decide(Selection::Family(device("a")), |overlay, _| {
            devices::delete(overlay, &key("a"), None, Mode::Write, &Cause::default())
        })
        .await
        .expect("removed");
    create(&running.engine, "d").await.expect("there is room");
}

/// Two replicas that let devices in with one token at the same moment do not know of each other: who
/// comes second is told to look again, and nobody else is disturbed.
#[tokio::test]
async fn a_token_used_up_elsewhere_fails_nothing_but_its_use() {
    let (store, gate) = ModelStore::gated();
    let running = Running::start(Arc::new(store.clone())).await;
    let (hash, hour) = ([1; 32], jiff::SignedDuration::from_hours(1));
    let token = EnrollmentToken {
        hash,
        device: None,
        expires_at: now() + hour,
        uses_max: 1,
    };
    store.keep_token(token);
    let first = tokio::spawn(create(&running.engine, "first"));
    settle().await;
    let of_others = tokio::spawn(create(&running.engine, "other"));
    let ask = enrolling(&running.engine, hash, "mine");
    let refused = tokio::spawn(ask);
    settle().await;
    gate.add_permits(1);
    settle().await;
    // Both are decided on; the other replica commits before they do.
    store.use_token(hash, "theirs");
    gate.add_permits(9);
    first.await.unwrap().expect("committed");
    of_others
        .await
        .unwrap()
        .expect("it has nothing to do with tokens");
    let refused = refused.await.unwrap().expect_err("used up");
    assert!(
        matches!(refused, Error::Overtaken | Error::TokenRefused),
        "{refused}"
    );
    let again = enrolling(&running.engine, hash, "mine").await;
    let again = again.expect_err("whoever looks again knows why");
    assert!(matches!(again, Error::TokenRefused), "{again}");
    assert_eq!(store.get(key("mine")).await.unwrap(), None);
    create(&running.engine, "later").await.expect("it goes on");
    running.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_position_moves_even_when_nothing_else_does() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    let partition = running.engine.partition(&key("d"));
    running
        .engine
        .fold(Vec::new(), (partition, 12), |_, _| ())
        .await
        .expect("committed");
    running.stop().await.expect("a good end");
    let states = take(&store).await;
    let moved: Vec<_> = states.iter().filter(|state| state.position == 12).collect();
    assert_eq!(moved.len(), 1);
    assert_eq!(moved[0].partition, partition);
}

#[tokio::test]
async fn a_token_for_one_device_is_used_once_however_many_ask_at_once() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    let token = EnrollmentToken {
        hash: [1; 32],
        device: None,
        expires_at: now() + jiff::SignedDuration::from_hours(1),
        uses_max: 1,
    };
    running
        .engine
        .decide(Vec::new(), move |overlay, _| {
            overlay.add_token(token);
            Ok(())
        })
        .await
        .expect("committed");
    let ask = |id: &str| enrolling(&running.engine, [1; 32], id);
    let answers = tokio::join!(ask("a"), ask("b"), ask("c"));
    let answers = [answers.0, answers.1, answers.2, ask("d").await];
    let let_in = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(let_in, 1);
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(matches!(refused, Error::TokenRefused), "{refused}");
    }
    ask("a")
        .await
        .expect("a repeated call is answered the same");
}

#[tokio::test]
async fn watchers_are_told_in_order_of_revision_and_after_the_commit() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    let mut changes = running.engine.watch();
    create(&running.engine, "d").await.expect("committed");
    for number in 0..5 {
        let sections = twin::TwinPatch {
            tags: Some(object(serde_json::json!({ "n": number }))),
            desired: None,
        };
        let patch = operator_write(twins::Form::Patch, sections);
        running
            .engine
            .decide(Selection::One(key("d")), move |overlay, now| {
                twins::write(overlay, &key("d"), &patch, now, &Cause::default())
            })
            .await
            .expect("committed");
    }
    for revision in 1..=6 {
        let told = changes.recv().await.expect("told");
        assert_eq!(told.revision.get(), revision);
        let record = told.record.as_ref().expect("it is there");
        assert_eq!(record.revision.get(), revision);
        assert!(store.get(key("d")).await.unwrap().unwrap().revision >= record.revision);
    }
}

#[tokio::test]
async fn at_the_end_the_outboxes_are_waited_for_and_relieved() {
    let store = ModelStore::new();
    let mut running = Running::start(Arc::new(store.clone())).await;
    create(&running.engine, "d").await.expect("committed");
    let partition = running.engine.partition(&key("d"));
    drop(running.engine);
    let position = running
        .ends
        .iter()
        .position(|end| end.partition == partition);
    let mut end = running.ends.remove(position.expect("there is one"));
    end.log.changed().await.expect("the commit is told");
    end.log.changed().await.expect_err("then the log ends");
    let waiting = store
        .log(partition, Revision::ZERO, 9)
        .await
        .unwrap()
        .entries;
    assert_eq!(waiting.len(), 1);
    end.published
        .try_send((partition, waiting[0].revision))
        .expect("the writer listens to the end");
    drop((end, running.ends));
    running.writer.await.unwrap().expect("a good end");
    let states = take(&store).await;
    let state = states.iter().find(|state| state.partition == partition);
    assert_eq!(state.expect("there").published, waiting[0].revision);
}
