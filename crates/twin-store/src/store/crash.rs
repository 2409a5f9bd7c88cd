//! Kills processes that write to an embedded store, at every durable step and in between, and looks
//! at what they left: every acknowledged write is there, whole; nothing is there in half; postures
//! and the positions in the telemetry agree; the log has no gap.

#![allow(clippy::disallowed_methods)] // children are told by their environment, and have no supervisor

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Stdio};

use jiff::SignedDuration;
use serde_json::Value;

use super::maintain::verify;
use super::sample::sound;
use super::sqlite::{SqliteFiles, SqliteStore};
use super::{HistoryRead, Store as _, failpoint, sample};
use crate::history;
use crate::testing::key;
use child::{Doing, Plan, WORKERS};

mod child;
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
async fn hold(folder: &Path, told: &Told) {
    let report = verify(&SqliteFiles::new(folder), |_, _| ()).await;
    let report = report.expect("it can be read");
    assert!(report.is_sound(), "{report:?}");
    let store = SqliteStore::open(folder).expect("it opens");
    let mut states = sample::take(&store).await;
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

#[tokio::test]
async fn a_kill_at_any_durable_step_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut told = Told::default();
    let mut run = 0;
    let mut reached = Vec::new();
    for point in failpoint::ALL {
        for nth in [1, 2, 9] {
            run += 1;
            // Each on what the ones before left; the first steps of a store's life, on none.
            if point.starts_with("migrate") {
                wipe(folder.path());
                told = Told::default();
            }
            let plan = Plan {
                folder: folder.path().to_owned(),
                run,
                point: Some(((*point).to_owned(), nth)),
            };
            live(&plan, &mut told, None);
            if !told.done {
                reached.push(*point);
            }
            if folder.path().join("twins.db").exists() && !point.starts_with("migrate") {
                hold(folder.path(), &told).await;
            }
        }
    }
    reached.dedup();
    assert_eq!(reached, failpoint::ALL, "every step kills");
    // What is left is no worse than any other store.
    let plan = Plan {
        folder: folder.path().to_owned(),
        run: run + 1,
        point: None,
    };
    live(&plan, &mut told, None);
    assert!(told.done);
    hold(folder.path(), &told).await;
}

#[tokio::test]
async fn a_kill_at_any_time_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut told = Told::default();
    for run in 1..=8 {
        let plan = Plan {
            folder: folder.path().to_owned(),
            run,
            point: None,
        };
        let after = usize::try_from(run * run * 3).expect("small");
        live(&plan, &mut told, Some(after));
        hold(folder.path(), &told).await;
    }
}

fn wipe(folder: &Path) {
    for file in std::fs::read_dir(folder).expect("it can be read") {
        std::fs::remove_file(file.expect("an entry").path()).expect("it can be removed");
    }
}

/// How long history is kept by children: everything.
const FOR_EVER: SignedDuration = SignedDuration::from_hours(24 * 365);
