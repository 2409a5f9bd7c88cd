//! Kills processes that write to a store, embedded or shared, at every durable step and in between,
//! and looks at what they left: every acknowledged write is there, whole; nothing is there in half;
//! postures and the positions in the telemetry agree; the log has no gap.

#![allow(clippy::disallowed_methods)] // children are told by their environment, and have no supervisor

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};

use jiff::SignedDuration;
use serde_json::Value;

use super::maintain::verify;
use super::sample::sound;
use super::{HistoryRead, failpoint, sample};
use crate::history;
use crate::testing::key;
use child::{Doing, Plan, WORKERS};
use place::{Fresh, Place};

mod bus;
mod child;
mod flips;
mod heap;
mod note;
mod place;
mod restore;
mod wal;

/// What the life of a child told: of everything each worker did, the last that was acknowledged and
/// the last that was begun.
#[derive(Debug, Default)]
struct Told {
    numbers: BTreeMap<(usize, Doing), (u64, u64)>,
    /// Bytes of the WAL when the last acknowledgement was given.
    wal: u64,
    /// It came to its end.
    done: bool,
}

impl Told {
    /// What the store may say: everything acknowledged, and perhaps what was under way.
    fn range(&self, worker: usize, doing: Doing) -> RangeInclusive<u64> {
        let (acknowledged, begun) = self
            .numbers
            .get(&(worker, doing))
            .copied()
            .unwrap_or_default();
        acknowledged..=begun.max(acknowledged)
    }

    fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["@done"] => self.done = true,
            // Workers measure before they speak, and may speak in another order.
            ["@wal", bytes] => self.wal = self.wal.max(bytes.parse().expect("a number")),
            [told, worker, doing, number] => {
                let doing = Doing::parse(doing).expect("something that is done");
                let of = (worker.parse().expect("a number"), doing);
                let number = number.parse().expect("a number");
                let entry = self.numbers.entry(of).or_default();
                match told {
                    "@begin" => entry.1 = number,
                    "@ack" => *entry = (number, number),
                    _ => panic!("what is {line:?}?"),
                }
            }
            _ => panic!("what is {line:?}?"),
        }
    }
}

/// Runs a child until it dies or is done, or for so many acknowledgements, when it is killed.
fn live(plan: &Plan, told: &mut Told, kill_after: Option<usize>) {
    let mut process = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "store::crash::child::child",
            "--ignored",
            "--nocapture",
        ])
        .env(child::PLAN, plan.print())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let output = BufReader::new(process.stdout.take().expect("piped"));
    let mut acknowledged = 0;
    told.done = false;
    for line in output.lines() {
        let line = line.expect("text");
        // The test harness says something, too, and without a line's end.
        let Some(at) = line.find('@') else { continue };
        told.hear(&line[at..]);
        acknowledged += usize::from(line[at..].starts_with("@ack"));
        if kill_after == Some(acknowledged) {
            process.kill().expect("it lives");
        }
    }
    process.wait().expect("it ended");
}

/// The store holds what was told, and nothing of it in half.
async fn hold(place: &Place, told: &Told) {
    let report = verify(&*place.rows(), |_, _| ()).await;
    let report = report.expect("it can be read");
    assert!(report.is_sound(), "{report:?}");
    let store = place.open().await;
    let mut states = sample::take(&*store).await;
    for worker in 0..WORKERS {
        let writes = key(&child::device_of(worker));
        let position = sample::of(&mut states, &writes).position;
        let folds = told.range(worker, Doing::Fold);
        assert!(
            folds.contains(&position),
            "{position} of {folds:?}: {told:?}"
        );

        let record = store.get(writes.clone()).await.expect("it can be read");
        let patches = told.range(worker, Doing::Patch);
        let Some(record) = record else {
            assert_eq!((*patches.start(), position), (0, 0), "it is gone: {told:?}");
            continue;
        };
        let desired: Value = serde_json::from_str(&record.twin.desired.document).expect("JSON");
        let number = desired.get("n").and_then(Value::as_u64).unwrap_or(0);
        assert!(
            patches.contains(&number),
            "{number} of {patches:?}: {told:?}"
        );
        // Each message of the telemetry counted once, and the position says the same.
        let low = &record.posture.delivery.low;
        assert_eq!((low.received, low.duplicates), (position, 0), "{told:?}");
        // The history leads back to where there was nothing: it and the twin were written together.
        let read = HistoryRead {
            key: writes,
            before: None,
            from: None,
            to: None,
            limit: u32::MAX,
        };
        let entries = sound(store.history(read).await.expect("it can be read"));
        let document = history::document(&record).expect("it can be read");
        let beginning = history::rewind(document, &entries).expect("it can be read");
        assert_eq!(beginning, Value::Null, "{entries:?}");

        let device = key(&child::toggled_of(worker));
        let toggles = told.range(worker, Doing::Toggle);
        match store.get(device).await.expect("it can be read") {
            Some(record) => {
                let number = record.identity.generation_id.parse().expect("a number");
                assert!(toggles.contains(&number), "{number} of {toggles:?}");
            }
            None => assert!(toggles.clone().any(|number| number % 2 == 0), "{toggles:?}"),
        }
    }
    store.close().await;
}

/// Kills at each point, each time on what the times before left; the first steps of a store's life,
/// on none.
async fn killed_at_each(points: &[&str], fresh: impl AsyncFn() -> Fresh) {
    let mut at = fresh().await;
    let mut told = Told::default();
    let mut run = 0;
    let mut reached = Vec::new();
    for point in points {
        for nth in [1, 2, 9] {
            run += 1;
            let is_first = point.starts_with("migrate");
            if is_first {
                at = fresh().await;
                told = Told::default();
            }
            let plan = Plan {
                run,
                point: Some(((*point).to_owned(), nth)),
                ..Plan::at(&at.place)
            };
            live(&plan, &mut told, None);
            if !told.done {
                reached.push(*point);
            }
            if !is_first {
                hold(&at.place, &told).await;
            }
        }
    }
    reached.dedup();
    assert_eq!(reached, points, "every step kills");
    // What is left is no worse than any other store.
    let plan = Plan {
        run: run + 1,
        ..Plan::at(&at.place)
    };
    live(&plan, &mut told, None);
    assert!(told.done);
    hold(&at.place, &told).await;
}

async fn killed_at_any_time(at: Fresh) {
    let mut told = Told::default();
    for run in 1..=8 {
        let plan = Plan {
            run,
            ..Plan::at(&at.place)
        };
        let after = usize::try_from(run * run * 3).expect("small");
        live(&plan, &mut told, Some(after));
        hold(&at.place, &told).await;
    }
}

#[tokio::test]
async fn a_kill_at_any_durable_step_loses_nothing_that_was_acknowledged() {
    killed_at_each(failpoint::SQLITE, async || Fresh::folder()).await;
}

#[tokio::test]
async fn a_kill_at_any_durable_step_on_a_database_loses_nothing_that_was_acknowledged() {
    killed_at_each(failpoint::POSTGRES, Fresh::database).await;
}

#[tokio::test]
async fn a_kill_at_any_time_loses_nothing_that_was_acknowledged() {
    killed_at_any_time(Fresh::folder()).await;
}

#[tokio::test]
async fn a_kill_at_any_time_on_a_database_loses_nothing_that_was_acknowledged() {
    killed_at_any_time(Fresh::database().await).await;
}

/// How long history is kept by children: everything.
const FOR_EVER: SignedDuration = SignedDuration::from_hours(24 * 365);
