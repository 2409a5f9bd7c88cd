//! Kills a process that notes that a twin is damaged, one that removes what is too much or makes an index anew, and
//! one that makes its master key.

#![allow(clippy::disallowed_methods)] // children are told by their environment

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Fresh, Place};
use crate::secrets::{MasterKeys, Sealer};
use crate::store::maintain::{Table, verify};
use crate::store::quarantine::STUCK;
use crate::store::{Error, HistoryRead, Retention, failpoint, sample};
use crate::testing::{key, now};

/// Names the environment variable with what to do, where, and the place to die at.
const PLAN: &str = "TWINWARD_NOTE_PLAN";

fn kill(doing: &str, at: &str, point: &str) {
    let status = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "store::crash::note::child", "--ignored"])
        .env(PLAN, format!("{doing}|{at}|{point}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("a child");
    assert!(!status.success(), "it died at {point}");
}

async fn read_damaged(place: &Place) {
    let store = place.open().await;
    let read = store.get(key("b")).await;
    assert!(matches!(read, Err(Error::Damaged(_))), "{read:?}");
    store.close().await;
}

async fn noted(place: &Place) -> Vec<String> {
    let store = place.open().await;
    let damaged = store.damaged().await.expect("readable");
    store.close().await;
    damaged.into_iter().map(|one| one.key).collect()
}

/// A store with something of everything, of which one twin is damaged.
async fn damaged(at: &Fresh) {
    let store = at.place.open().await;
    sample::fill(&*store).await;
    store.close().await;
    at.tamper("UPDATE twins SET tags = '{}' WHERE device_id = 'b'")
        .await;
}

async fn killed_at_each_note(fresh: impl AsyncFn() -> Fresh) {
    for (point, left) in failpoint::QUARANTINE.iter().zip([&[][..], &["b"][..]]) {
        let at = fresh().await;
        damaged(&at).await;
        kill("read", &at.place.print(), point);
        assert_eq!(noted(&at.place).await, left, "{point}");
        let report = verify(&*at.place.rows(), |_, _| ())
            .await
            .expect("readable");
        let tables: Vec<_> = report.findings.iter().map(|one| one.table).collect();
        assert!(tables.contains(&Some(Table::Twins)), "{report:?}");
        // Whoever reads it next finds it, and it is noted once.
        read_damaged(&at.place).await;
        assert_eq!(noted(&at.place).await, ["b"], "{point}");
    }
}

#[tokio::test]
async fn a_kill_at_the_note_of_a_damaged_twin_leaves_it_or_none_and_nothing_else() {
    killed_at_each_note(async || Fresh::folder()).await;
}

#[tokio::test]
async fn a_kill_at_the_note_of_a_damaged_twin_of_a_database_leaves_it_or_none() {
    killed_at_each_note(Fresh::database).await;
}

/// Has everything forgotten whose time is over, and notes of rows that are gone.
async fn trim(place: &Place) {
    trim_to(place, u32::MAX).await;
}

/// The same, and all but so many revisions of each twin.
async fn trim_to(place: &Place, history_count: u32) {
    let store = place.open().await;
    let retention = Retention {
        now: now() + Duration::from_hours(1),
        history_age: Duration::MAX,
        history_count,
        history_span: Duration::ZERO,
        history_every: Duration::ZERO,
        request_age: Duration::MAX,
        operation_age: Duration::MAX,
        batch: 100,
    };
    store.trim(retention).await.expect("trimmed");
    store.close().await;
}

async fn killed_at_each_sweep(fresh: impl AsyncFn() -> Fresh) {
    for (point, left) in failpoint::SWEEP.iter().zip([&["b"][..], &[][..]]) {
        let at = fresh().await;
        damaged(&at).await;
        read_damaged(&at.place).await;
        assert_eq!(noted(&at.place).await, ["b"], "{point}");
        at.tamper("DELETE FROM twins WHERE device_id = 'b'").await;
        kill("trim", &at.place.print(), point);
        assert_eq!(noted(&at.place).await, left, "{point}");
        trim(&at.place).await;
        assert!(noted(&at.place).await.is_empty(), "{point}");
    }
}

#[tokio::test]
async fn a_kill_while_a_note_goes_with_its_row_leaves_it_or_none() {
    killed_at_each_sweep(async || Fresh::folder()).await;
}

#[tokio::test]
async fn a_kill_while_a_note_of_a_database_goes_with_its_row_leaves_it_or_none() {
    killed_at_each_sweep(Fresh::database).await;
}

async fn revisions(place: &Place, name: &str) -> usize {
    let store = place.open().await;
    let read = HistoryRead {
        key: key(name),
        before: None,
        from: None,
        to: None,
        limit: 100,
    };
    let found = store.history(read).await.expect("readable");
    store.close().await;
    found.len()
}

/// Kills at places that a trim comes by so often.
async fn killed_while_counted(fresh: impl AsyncFn() -> Fresh, times: usize) {
    let mut seen = BTreeSet::new();
    for (point, nth) in ["trim.written", "trim.durable"]
        .into_iter()
        .flat_map(|point| (1..=times).map(move |nth| (point, nth)))
    {
        let at = fresh().await;
        let store = at.place.open().await;
        sample::fill(&*store).await;
        store.close().await;
        assert_eq!(revisions(&at.place, "a").await, 2);
        kill("count", &at.place.print(), &format!("{point}#{nth}"));
        let left = revisions(&at.place, "a").await;
        // Of one commit all is there, or nothing.
        assert_eq!(revisions(&at.place, "b").await, left, "{point} {nth}");
        seen.insert(left);
        let report = verify(&*at.place.rows(), |_, _| ()).await;
        let report = report.expect("readable");
        assert!(report.is_sound(), "{point} {nth}: {report:?}");
        trim_to(&at.place, 1).await;
        assert_eq!(revisions(&at.place, "a").await, 1, "{point} {nth}");
    }
    assert_eq!(seen, BTreeSet::from([1, 2]), "before and after");
}

#[tokio::test]
async fn a_kill_while_revisions_go_leaves_all_of_them_or_what_is_to_stay() {
    // Its parts are commits by themselves.
    killed_while_counted(async || Fresh::folder(), 3).await;
}

#[tokio::test]
async fn a_kill_while_revisions_of_a_database_go_leaves_all_of_them_or_what_is_to_stay() {
    killed_while_counted(Fresh::database, 1).await;
}

#[tokio::test]
async fn a_kill_while_an_index_is_made_anew_keeps_no_start_from_serving() {
    for point in failpoint::MEND {
        let at = Fresh::folder();
        let store = at.place.open().await;
        sample::fill(&*store).await;
        store.close().await;
        let noted_before = format!(
            r#"INSERT INTO quarantine VALUES ('history', '["b","","1"]', 7, '{STUCK}: b')"#
        );
        at.tamper(&noted_before).await;
        kill("open", &at.place.print(), point);
        // The next start makes it anew only if this one had not begun to: a REINDEX that takes longer than a
        // supervisor waits must not keep the service from starting for ever.
        let left = match *point {
            "mend.begun" | "mend.durable" => &[][..],
            _ => &["b/1"][..],
        };
        assert_eq!(noted(&at.place).await, left, "{point}");
        assert_eq!(noted(&at.place).await, left, "{point}, once more");
        let report = verify(&*at.place.rows(), |_, _| ()).await;
        let report = report.expect("readable");
        assert!(report.is_sound(), "{point}: {report:?}");
        assert_eq!(revisions(&at.place, "a").await, 2, "{point}");
        // A day later it is tried again.
        at.tamper("UPDATE facts SET value = '0' WHERE name = 'history_mended'")
            .await;
        assert!(noted(&at.place).await.is_empty(), "{point}");
    }
}

fn keys(folder: &Path) -> MasterKeys {
    MasterKeys {
        file: folder.join("master.key"),
        ..MasterKeys::default()
    }
}

#[test]
fn a_kill_while_the_master_key_is_made_leaves_none_or_a_whole_one() {
    for point in failpoint::MASTER_KEY {
        let folder = tempfile::tempdir().expect("a folder");
        kill("make", &folder.path().display().to_string(), point);
        let made = keys(folder.path()).file.exists();
        let named = matches!(*point, "key.named" | "key.durable");
        assert_eq!(made, named, "{point}");
        // The next start takes it, or makes one, and keeps to it.
        let present = Sealer::open(&keys(folder.path())).expect("a key");
        let sealed = present.seal("d#1", "secret").expect("sealed");
        let again = Sealer::open(&keys(folder.path())).expect("a key");
        let opened = again.open_sealed("d#1", &sealed).expect("opened");
        assert_eq!(*opened, "secret", "{point}");
    }
}

#[test]
#[ignore = "a child of the crash tests, which tell it what to do"]
fn child() {
    let Ok(plan) = std::env::var(PLAN) else {
        return;
    };
    let parts: Vec<_> = plan.split('|').collect();
    let [doing, at, point] = parts[..] else {
        panic!("{plan:?} is no plan");
    };
    let (point, nth) = point.split_once('#').unwrap_or((point, "1"));
    failpoint::arm(point, nth.parse().expect("a number"));
    match doing {
        "make" => drop(Sealer::open(&keys(Path::new(at)))),
        "read" => runtime().block_on(read_damaged(&Place::parse(at))),
        "open" => drop(runtime().block_on(Place::parse(at).open())),
        "count" => runtime().block_on(trim_to(&Place::parse(at), 1)),
        "trim" => runtime().block_on(trim(&Place::parse(at))),
        other => panic!("what is {other}?"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}
