//! A restore that is killed leaves an empty store or the whole one.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::store::maintain::{backup, restore, verify};
use crate::store::sqlite::{SqliteFiles, SqliteStore};
use crate::store::{Store as _, failpoint, sample};
use crate::testing::now;

/// Names the environment variable with backup, target and place.
const PLAN: &str = "TWINWARD_RESTORE_PLAN";

async fn restore_from(file: &Path, target: &Path) -> bool {
    let file = std::fs::File::open(file).expect("it opens");
    let files = SqliteFiles::new(target);
    restore(file, &files, |_, _| ()).await.is_ok()
}

#[tokio::test]
async fn a_restore_that_is_killed_leaves_nothing_or_all() {
    let source = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(source.path()).expect("it opens");
    sample::fill(&store).await;
    store.close().await;
    let files = SqliteFiles::new(source.path());
    let path = source.path().join("backup");
    let file = std::fs::File::create(&path).expect("it can be made");
    backup(&files, file, now(), |_, _| ())
        .await
        .expect("backed up");
    for point in failpoint::RESTORE {
        let target = tempfile::tempdir().expect("a folder");
        let plan = format!("{}|{}|{point}", path.display(), target.path().display());
        let status = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "store::crash::restore::child", "--ignored"])
            .env(PLAN, plan)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("a child");
        assert!(!status.success(), "it died at {point}");
        // A second restore is taken by an empty store only.
        let durable = *point == "restore.durable";
        assert_eq!(
            restore_from(&path, target.path()).await,
            !durable,
            "{point}"
        );
        let report = verify(&SqliteFiles::new(target.path()), |_, _| ()).await;
        assert!(report.expect("it can be read").is_sound());
        let store = SqliteStore::open(target.path()).expect("it opens");
        sample::take(&store).await;
        let record = store.get(crate::testing::key("c/m")).await.expect("read");
        assert!(record.is_some());
        store.close().await;
    }
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
    runtime.block_on(restore_from(Path::new(file), Path::new(target)));
}
