//! Backups of stores that cannot be read to their end, and what a restore leaves out with what is
//! missing.

use super::*;
use crate::store::HistoryRead;
use crate::store::sample::sound;
use crate::testing::key;

/// Twins of a store whose tables have many pages.
const MANY: usize = 120;
const PAGE: usize = 4096;
/// The first byte of a page that holds rows.
const LEAF: u8 = 10;

async fn many() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    let mut states = sample::take(&store).await;
    let names: Vec<_> = (0..MANY).map(|number| format!("w{number:03}")).collect();
    for names in names.chunks(10) {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        store
            .commit(sample::created(&mut states, &names))
            .await
            .unwrap();
    }
    store.close().await;
    folder
}

/// Makes a page unreadable which holds all of these texts.
fn break_page(folder: &Path, texts: &[&str]) {
    let path = folder.join("twins.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let holds = |page: &[u8], text: &str| page.windows(text.len()).any(|at| at == text.as_bytes());
    let page = bytes
        .chunks_mut(PAGE)
        .find(|page| page[0] == LEAF && texts.iter().all(|text| holds(page, text)))
        .expect("there is such a page");
    page[0] = 0;
    std::fs::write(path, bytes).unwrap();
}

/// What stands in a page of twins, of the index and of revisions, and nowhere else.
const TWINS: &str = "enabled{\"name\":\"w060\"";
const INDEX: &str = "w060tags.names:w060";
const HISTORY: [&str; 2] = ["w060", "UpdateTwin"];

async fn partial(folder: &Path) -> (Vec<u8>, Report) {
    let files = SqliteFiles::new(folder);
    let made = backup(&files, Vec::new(), now(), Gaps::Accepted, |_, _| ()).await;
    made.unwrap()
}

/// Restores what there is, and opens it.
async fn opened(bytes: Vec<u8>) -> (TempDir, SqliteStore, Restored) {
    let target = tempfile::tempdir().unwrap();
    let files = SqliteFiles::new(target.path());
    let from = std::io::Cursor::new(bytes);
    let restored = restore(
        from,
        &files,
        sample::restoring(now(), Gaps::Accepted),
        |_, _| (),
    )
    .await;
    let restored = restored.unwrap();
    let left = check(target.path()).await;
    assert!(left.is_sound(), "{left:?}");
    let store = SqliteStore::open(target.path()).unwrap();
    sample::take(&store).await;
    (target, store, restored)
}

/// The revisions of an identity that are left but for that of the restore, newest first.
async fn revisions(store: &SqliteStore, name: &str) -> Vec<u64> {
    let read = HistoryRead {
        key: key(name),
        before: None,
        from: None,
        to: None,
        limit: u32::MAX,
    };
    let entries = sound(store.history(read).await.unwrap());
    let entries = entries.iter().filter(|entry| entry.cause != "restore");
    entries.map(|entry| entry.revision.get()).collect()
}

#[tokio::test]
async fn a_store_that_cannot_be_read_to_its_end_gets_no_backup_that_looks_whole() {
    let folder = many().await;
    let whole = backed_up(folder.path()).await;
    break_page(folder.path(), &[TWINS]);
    let files = SqliteFiles::new(folder.path());
    let made = backup(&files, Vec::new(), now(), Gaps::Refused, |_, _| ()).await;
    let Err(MaintainError::Unreadable(gap)) = made else {
        panic!("{made:?}");
    };
    assert_eq!(gap.table, Some(Table::Twins));
    assert!(gap.problem.contains("behind w0"), "{gap}");

    // What was asked for says of itself that it is not whole, and is not restored by mistake.
    let (bytes, report) = partial(folder.path()).await;
    assert_eq!(report.incomplete, [Table::Twins].into());
    assert!(bytes.len() < whole.len());
    let target = tempfile::tempdir().unwrap();
    let refused = restored(bytes.clone(), &SqliteFiles::new(target.path())).await;
    let Err(MaintainError::Incomplete(gap)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(gap.table, Some(Table::Twins));
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);

    let (_folder, store, restored) = opened(bytes).await;
    assert_eq!(restored.report.incomplete, [Table::Twins].into());
    assert!(!restored.is_whole());
    assert!(store.get(key("w000")).await.unwrap().is_some());
    assert!(store.get(key("w119")).await.unwrap().is_none());
    // A past without the present that it is rewound from would be a wrong one.
    assert!(restored.orphans > 0);
    assert_eq!(revisions(&store, "w119").await, [0_u64; 0]);
    assert_ne!(revisions(&store, "w000").await, [0_u64; 0]);
    store.close().await;
}

#[tokio::test]
async fn an_index_that_cannot_be_read_keeps_no_twin_out_of_a_backup() {
    let folder = many().await;
    break_page(folder.path(), &[INDEX]);
    let files = SqliteFiles::new(folder.path());
    let made = backup(&files, Vec::new(), now(), Gaps::Refused, |_, _| ()).await;
    let (bytes, report) = made.unwrap();
    assert!(!report.is_sound());
    assert_eq!(report.rows[&Table::Twins], 120);
    let target = tempfile::tempdir().unwrap();
    let files = SqliteFiles::new(target.path());
    let restored = restored(bytes, &files).await.unwrap();
    assert!(restored.is_whole(), "{restored:?}");
    assert!(check(target.path()).await.is_sound());
}

#[tokio::test]
async fn where_the_history_breaks_off_no_twin_has_a_past_that_is_wrong() {
    let folder = many().await;
    break_page(folder.path(), &HISTORY);
    let (bytes, _) = partial(folder.path()).await;
    let (_folder, store, restored) = opened(bytes).await;
    assert_eq!(restored.report.incomplete, [Table::History].into());
    let mut left = 0;
    for number in 0..MANY {
        let name = format!("w{number:03}");
        let record = store.get(key(&name)).await.unwrap();
        assert!(record.is_some(), "{name}: no twin is missing");
        left += revisions(&store, &name).await.len();
    }
    assert!(left > 0 && left < MANY, "{left}");
    store.close().await;
}

#[tokio::test]
async fn what_is_behind_a_damaged_revision_is_not_restored() {
    let folder = filled().await;
    let store = SqliteStore::open(folder.path()).unwrap();
    let mut states = sample::take(&store).await;
    for _ in 0..3 {
        let commit = sample::created(&mut states, &["a", "b"]);
        store.commit(commit).await.unwrap();
    }
    let before = revisions(&store, "a").await;
    let others = revisions(&store, "b").await;
    store.close().await;
    assert_eq!(before.len(), 5, "{before:?}");
    let damaged = before[2];
    check_after(
        folder.path(),
        &format!(
            "UPDATE history SET undo = '{{}}'
             WHERE device_id = 'a' AND module_id = '' AND revision = {damaged}"
        ),
    )
    .await;
    let (bytes, report) = partial(folder.path()).await;
    assert_eq!(report.found, 1, "{report:?}");
    let (_folder, store, restored) = opened(bytes).await;
    assert_eq!(revisions(&store, "a").await, before[..2]);
    assert_eq!(revisions(&store, "b").await, others);
    let told: Vec<_> = restored
        .report
        .findings
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        told.iter().any(|one| one.contains("are left out")),
        "{told:?}"
    );
    store.close().await;
}

#[tokio::test]
async fn the_past_of_a_twin_that_is_left_out_is_left_out_and_that_of_a_removed_one_is_not() {
    let folder = filled().await;
    let raw = Connection::open(folder.path().join("twins.db")).unwrap();
    raw.execute_batch(
        "UPDATE twins SET tags = '{}' WHERE device_id = 'b';
         DELETE FROM twins WHERE device_id = 'c' AND module_id = '';
         UPDATE history SET patch = 'null' WHERE device_id = 'c' AND module_id = ''",
    )
    .unwrap();
    drop(raw);
    let (bytes, _) = partial(folder.path()).await;
    let (_folder, store, restored) = opened(bytes).await;
    assert!(restored.orphans > 0);
    assert_eq!(revisions(&store, "b").await, [0_u64; 0]);
    assert_ne!(revisions(&store, "c/m").await, [0_u64; 0]);
    store.close().await;
}

#[tokio::test]
async fn without_a_partition_there_is_neither_backup_nor_restore() {
    for damage in [
        "UPDATE partitions SET audit_hash = x'00' WHERE partition = 2",
        "DELETE FROM partitions WHERE partition = 2",
    ] {
        let folder = filled().await;
        check_after(folder.path(), damage).await;
        let files = SqliteFiles::new(folder.path());
        let made = backup(&files, Vec::new(), now(), Gaps::Refused, |_, _| ()).await;
        assert!(
            matches!(&made, Err(MaintainError::Unreadable(gap)) if gap.table == Some(Table::Partitions)),
            "{made:?}"
        );
        let (bytes, _) = partial(folder.path()).await;
        let target = tempfile::tempdir().unwrap();
        let files = SqliteFiles::new(target.path());
        let from = std::io::Cursor::new(bytes);
        let refused = restore(
            from,
            &files,
            sample::restoring(now(), Gaps::Accepted),
            |_, _| (),
        )
        .await;
        assert!(
            matches!(refused, Err(MaintainError::NoPartitions(_))),
            "{refused:?}"
        );
        assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_revision_that_is_gone_is_missed_by_the_next() {
    let folder = filled().await;
    let store = SqliteStore::open(folder.path()).unwrap();
    let mut states = sample::take(&store).await;
    let mut written = Vec::new();
    for _ in 0..5 {
        let mut commit = sample::created(&mut states, &["b"]);
        let entry = &mut commit.history[0];
        entry.previous = written.last().copied();
        written.push(entry.revision);
        store.commit(commit).await.unwrap();
    }
    store.close().await;
    assert!(check(folder.path()).await.is_sound());
    // It cannot be said whose it was: its very name is what changed.
    let sql = format!(
        "UPDATE history SET device_id = 'zz' WHERE device_id = 'b' AND revision = {}",
        written[2]
    );
    let findings = check_after(folder.path(), &sql).await;
    let missing = format!(
        "history b//{}: revision {}, which was before it, is missing",
        written[3], written[2]
    );
    assert!(findings.contains(&missing), "{findings:?}");
    let bytes = {
        let files = SqliteFiles::new(folder.path());
        let backup = backup(&files, Vec::new(), now(), Gaps::Refused, |_, _| ()).await;
        backup.expect("backed up").0
    };
    let into = tempfile::tempdir().unwrap();
    let files = SqliteFiles::new(into.path());
    restored(bytes, &files).await.expect("restored");
    let store = SqliteStore::open(into.path()).unwrap();
    sample::take(&store).await;
    let read = HistoryRead {
        key: key("b"),
        before: None,
        from: None,
        to: None,
        limit: 100,
    };
    let kept = sound(store.history(read).await.unwrap());
    let left: Vec<_> = kept
        .iter()
        .filter(|entry| entry.cause != "restore")
        .map(|entry| entry.revision)
        .collect();
    assert_eq!(left, written[4..], "nothing is rewound through the hole");
    store.close().await;
    assert!(check(into.path()).await.is_sound());
}
