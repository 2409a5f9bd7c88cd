//! A restore that is killed leaves no store, or the whole one.

#![allow(clippy::disallowed_methods)] // a child is told by its environment

use std::path::Path;
use std::process::{Command, Stdio};

use super::{Fresh, Place};
use crate::store::maintain::{Gaps, MaintainError, backup, restore, verify};
use crate::store::sqlite::{SqliteFiles, SqliteStore};
use crate::store::{Store as _, failpoint, sample};
use crate::testing::now;

/// Names the environment variable with backup, target and place.
const PLAN: &str = "TWINWARD_RESTORE_PLAN";

async fn restore_from(file: &Path, target: &Place) -> bool {
    let file = std::fs::File::open(file).expect("it opens");
    let done = restore(
        file,
        &*target.rows(),
        sample::restoring(now(), Gaps::Refused),
        |_, _| (),
    )
    .await;
    done.is_ok()
}

async fn killed_at(points: &[&str], last: &str, fresh: impl AsyncFn() -> Fresh) {
    let source = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(source.path()).expect("it opens");
    sample::fill(&store).await;
    store.close().await;
    let files = SqliteFiles::new(source.path());
    let path = source.path().join("backup");
    let file = std::fs::File::create(&path).expect("it can be made");
    backup(&files, file, now(), Gaps::Refused, |_, _| ())
        .await
        .expect("backed up");
    for point in points {
        let target = fresh().await;
        let plan = format!("{}|{}|{point}", path.display(), target.place.print());
        let status = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "store::crash::restore::child", "--ignored"])
            .env(PLAN, plan)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("a child");
        assert!(!status.success(), "it died at {point}");
        let is_there = *point == last;
        let rows = target.place.rows();
        match verify(&*rows, |_, _| ()).await {
            Err(MaintainError::Missing(_)) => assert!(!is_there, "{point}"),
            there => {
                let report = there.expect("it can be read");
                assert!(report.is_sound(), "{report:?}");
                // In a database the tables are there before.
                assert!(is_there || rows.kind() == "postgresql", "{point}");
                assert_eq!(report.rows.is_empty(), !is_there, "{point}");
            }
        }
        // A second restore is taken only where there is no store yet.
        let taken = restore_from(&path, &target.place).await;
        assert_eq!(taken, !is_there, "{point}");
        let report = verify(&*rows, |_, _| ()).await;
        assert!(report.expect("it can be read").is_sound());
        let store = target.place.open().await;
        sample::take(&*store).await;
        let record = store.get(crate::testing::key("c/m")).await.expect("read");
        assert!(record.is_some());
        store.close().await;
    }
}

#[tokio::test]
async fn a_restore_that_is_killed_leaves_nothing_or_all() {
    let points = failpoint::RESTORE;
    killed_at(points, "restore.named", async || Fresh::folder()).await;
}

#[tokio::test]
async fn a_restore_into_a_database_that_is_killed_leaves_nothing_or_all() {
    let points = &failpoint::RESTORE[..2];
    killed_at(points, "restore.durable", Fresh::database).await;
}

#[test]
#[ignore = "a child of the crash tests, which tell it what to do"]
fn child() {
    let Ok(plan) = std::env::var(PLAN) else {
        return;
    };
    let parts: Vec<_> = plan.split('|').collect();
    let [file, target, point] = parts[..] else {
        panic!("{plan:?} is no plan");
    };
    failpoint::arm(point, 1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(restore_from(Path::new(file), &Place::parse(target)));
}
