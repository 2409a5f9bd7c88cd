//! A process that writes, says what was acknowledged, and is killed.

use std::io::Write as _;
use std::time::Duration;

use ::bus::Bus;
use service_kit::clock::ManualClock;
use service_kit::metrics::Registry;
use service_kit::shutdown::ShutdownToken;
use service_kit::tasks::Tasks;
use twin::{TwinPatch, Writer, partition_of};

use super::{FOR_EVER, Place, bus};
use crate::apply::telemetry::fold_entries;
use crate::apply::twins::{self, Form};
use crate::apply::{Cause, Limits, Mode, devices};
use crate::engine::{self, Engine, Keep};
use crate::metrics::Metrics;
use crate::partitions::Parts;
use crate::presence::Presence;
use crate::store::sample::{count, replica};
use crate::store::{Retention, Selection, Store, failpoint};
use crate::testing::{entry, heartbeats, key, new_device, now, object, operator_write};

/// Names the environment variable with the plan.
pub(super) const PLAN: &str = "TWINWARD_CRASH_PLAN";
/// Who write at the same time, so that they meet in one commit. Each has a partition of its own.
pub(super) const WORKERS: usize = 3;
/// What each does in one life, if it lives so long.
const ROUNDS: u64 = 12;
/// More than a life has rounds, so that numbers of different lives differ.
const LIFE: u64 = 1000;

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doing {
    /// Writes the next number into a twin.
    Patch,
    /// Folds the next message into its posture.
    Fold,
    /// Creates a device with an odd number, removes it with an even one.
    Toggle,
}

impl Doing {
    pub(super) fn parse(text: &str) -> Option<Doing> {
        [Doing::Patch, Doing::Fold, Doing::Toggle]
            .into_iter()
            .find(|doing| doing.as_str() == text)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Doing::Patch => "patch",
            Doing::Fold => "fold",
            Doing::Toggle => "toggle",
        }
    }
}

/// What a child is to do.
pub(super) struct Plan {
    pub(super) place: Place,
    /// Which life of the place, from 1.
    pub(super) run: u64,
    /// Where it dies, and at which time.
    pub(super) point: Option<(String, u32)>,
    /// The NATS server through which telemetry comes and changes go; none: neither does.
    pub(super) nats: Option<String>,
}

impl Plan {
    /// The first life of a place, to its end.
    pub(super) fn at(place: &Place) -> Plan {
        Plan {
            place: place.clone(),
            run: 1,
            point: None,
            nats: None,
        }
    }

    pub(super) fn print(&self) -> String {
        let (point, nth) = self.point.clone().unwrap_or_default();
        let nats = self.nats.as_deref().unwrap_or_default();
        let place = self.place.print();
        format!("{place}|{}|{point}|{nth}|{nats}", self.run)
    }

    fn parse(text: &str) -> Plan {
        let parts: Vec<_> = text.split('|').collect();
        let [place, run, point, nth, nats] = parts[..] else {
            panic!("{text:?} is no plan");
        };
        let nth = nth.parse().expect("a number");
        Plan {
            place: Place::parse(place),
            run: run.parse().expect("a number"),
            point: (!point.is_empty()).then(|| (point.to_owned(), nth)),
            nats: (!nats.is_empty()).then(|| nats.to_owned()),
        }
    }
}

/// The device that a worker writes to; of a partition of its own.
pub(super) fn device_of(worker: usize) -> String {
    let partition = count().partitions().nth(worker).expect("there are more");
    let mut names = (0..).map(|number| format!("w{worker}-{number}"));
    names
        .find(|name| partition_of(&key(name).device, count()) == partition)
        .expect("there is one")
}

/// The device that a worker creates and removes.
pub(super) fn toggled_of(worker: usize) -> String {
    format!("x{worker}")
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").expect("somebody listens");
    out.flush().expect("somebody listens");
}

/// One worker: says before and after each thing which number it has.
struct Worker<'w> {
    number: usize,
    run: u64,
    engine: Engine,
    store: &'w dyn Store,
    place: &'w Place,
    /// Whence its telemetry comes; none: it folds it itself.
    bus: Option<Bus>,
}

impl Worker<'_> {
    async fn work(&self) {
        let name = device_of(self.number);
        if self.store.get(key(&name)).await.expect("read").is_none() {
            self.create(&name, "g").await;
        }
        let record = self.store.get(key(&name)).await.expect("read");
        let record = record.expect("it was created");
        let desired: serde_json::Value =
            serde_json::from_str(&record.twin.desired.document).expect("JSON");
        let mut patched = desired
            .get("n")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0);
        let mut folded = record.posture.delivery.low.received;
        // A device left from an earlier life is removed first, with an even number.
        let toggled = key(&toggled_of(self.number));
        let left = self.store.get(toggled).await.expect("read").is_some();
        let mut toggle = self.run * LIFE - u64::from(left);
        for _ in 0..ROUNDS {
            patched += 1;
            self.tell(Doing::Patch, patched, self.patch(&name, patched))
                .await;
            folded += 1;
            self.tell(Doing::Fold, folded, self.fold(&name, folded))
                .await;
            toggle += 1;
            self.tell(Doing::Toggle, toggle, self.toggle(toggle)).await;
            self.store.trim(retention()).await.expect("trimmed");
        }
    }

    async fn tell(&self, doing: Doing, number: u64, done: impl Future<Output = ()>) {
        let what = format!("{} {} {number}", self.number, doing.as_str());
        say(&format!("@begin {what}"));
        done.await;
        let wal = self.place.wal();
        say(&format!("@ack {what}"));
        say(&format!("@wal {wal}"));
    }

    async fn create(&self, name: &str, generation: &str) {
        let new = new_device(name, generation);
        let family = Selection::Family(new.device.clone());
        self.engine
            .decide(family, move |overlay, now| {
                devices::create_device(overlay, new, Mode::Write, now, &Cause::default())
            })
            .await
            .expect("created");
    }

    async fn patch(&self, name: &str, number: u64) {
        let key = key(name);
        let sections = TwinPatch {
            tags: None,
            desired: Some(object(
                serde_json::json!({ "n": number, "pad": "x".repeat(3000) }),
            )),
        };
        let write = operator_write(Form::Patch, sections);
        self.engine
            .decide(Selection::One(key.clone()), move |overlay, now| {
                let cause = Cause {
                    actor: Writer::Operator("alice".to_owned()),
                    ..Cause::default()
                };
                twins::write(overlay, &key, &write, now, &cause)
            })
            .await
            .expect("patched");
    }

    async fn fold(&self, name: &str, position: u64) {
        if let Some(bus) = &self.bus {
            bus::publish(bus, name, position).await;
            return bus::folded(self.store, name, position).await;
        }
        let entry = entry(name, "g", position, heartbeats([position]));
        let partition = self.engine.partition(&key(name));
        let folded = self
            .engine
            .fold(
                vec![Selection::One(key(name))],
                (partition, position),
                move |overlay, now| fold_entries(overlay, partition, &[entry], now),
            )
            .await
            .expect("folded");
        assert!(folded.refused.is_empty());
    }

    async fn toggle(&self, number: u64) {
        let name = toggled_of(self.number);
        if number % 2 == 1 {
            return self.create(&name, &number.to_string()).await;
        }
        let key = key(&name);
        self.engine
            .decide(Selection::Family(key.device.clone()), move |overlay, _| {
                devices::delete(overlay, &key, None, Mode::Write, &Cause::default())
            })
            .await
            .expect("deleted");
    }
}

/// Looks for what is too old, and finds nothing; puts routine revisions together, which are never young.
pub(super) fn retention() -> Retention {
    let age = FOR_EVER.unsigned_abs();
    Retention {
        now: now() + Duration::from_hours(1),
        history_age: age,
        history_count: u32::MAX,
        history_span: Duration::from_mins(1),
        history_every: Duration::ZERO,
        request_age: age,
        operation_age: age,
        batch: 10,
    }
}

#[test]
#[ignore = "a child of the crash tests, which tell it what to do"]
fn child() {
    let Ok(plan) = std::env::var(PLAN) else {
        return;
    };
    let plan = Plan::parse(&plan);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(live(&plan));
    say("@done");
}

async fn live(plan: &Plan) {
    if let Some((point, nth)) = &plan.point {
        failpoint::arm(point, *nth);
    }
    let store = plan.place.open().await;
    let replica = replica(count());
    let states = store.claim(replica.clone()).await.expect("claimed").owned;
    let keep = Keep {
        // Put together in the commit in one life, by the trim in the next.
        coalesce_within: Duration::from_hours(plan.run % 2),
        log_changes: 10,
        limits: Limits::NONE,
    };
    let metrics = Metrics::new(&Registry::new().scope("test"));
    let (engine, writer, ends) = engine::engine(
        store.clone(),
        ManualClock::at(now()),
        metrics.clone(),
        count(),
        states.clone(),
        keep,
    );
    let writer = tokio::spawn(writer.run());
    let tasks = Tasks::new(ShutdownToken::new());
    let bus = match &plan.nats {
        None => {
            // The writer ends when nobody can tell it any more of what was published.
            drop(ends);
            None
        }
        Some(url) => {
            let bus = bus::connect(url).await;
            let parts = Parts {
                bus: bus.clone(),
                store: store.clone(),
                engine: engine.clone(),
                metrics,
                presence: Presence::new(std::time::Duration::from_secs(30)),
                tasks: tasks.clone(),
            };
            parts.start_all(&states, ends);
            Some(bus)
        }
    };
    let workers = (0..WORKERS).map(|number| {
        let (engine, store, place) = (engine.clone(), &*store, &plan.place);
        let bus = bus.clone();
        async move {
            let worker = Worker {
                number,
                run: plan.run,
                engine,
                store,
                place,
                bus,
            };
            worker.work().await;
        }
    });
    futures::future::join_all(workers).await;
    drop(engine);
    // The readers hold the engine, and the publishers end with the writer.
    tasks.shutdown_token().trigger();
    writer
        .await
        .expect("it does not panic")
        .expect("a good end");
    tasks.drain(bus::SOON).await.expect("everything has ended");
    let partitions: Vec<_> = states.iter().map(|state| state.partition).collect();
    let (left, right) = partitions.split_at(2);
    for part in [left, right] {
        store
            .release(replica.id.clone(), part.to_vec())
            .await
            .expect("released");
    }
    store.close().await;
}
