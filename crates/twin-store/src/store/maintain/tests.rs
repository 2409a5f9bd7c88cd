//! What checks find, and what backups keep.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::store::postgres::{self, PostgresRows};
use crate::store::sqlite::{SqliteFiles, SqliteStore};
use crate::store::{Store as _, sample};
use crate::testing::now;

mod gaps;
mod raised;

/// A closed store with something of everything.
async fn filled() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    sample::fill(&store).await;
    store.close().await;
    folder
}

async fn check(folder: &Path) -> Report {
    let files = SqliteFiles::new(folder);
    verify(&files, |_, _| ()).await.expect("it can be read")
}

/// Runs statements behind the store's back, and answers what a check finds then.
async fn check_after(folder: &Path, sql: &str) -> Vec<String> {
    let raw = Connection::open(folder.join("twins.db")).unwrap();
    raw.execute_batch(sql).unwrap();
    drop(raw);
    let report = check(folder).await;
    assert_eq!(usize::try_from(report.found), Ok(report.findings.len()));
    report.findings.iter().map(ToString::to_string).collect()
}

/// All rows of a store.
async fn rows(store: &dyn Maintain) -> Vec<Item> {
    let (into, mut from) = mpsc::channel(BATCHES);
    let collect = async {
        let mut all = Vec::new();
        while let Some(items) = from.recv().await {
            all.extend(items);
        }
        all
    };
    let (read, all) = tokio::join!(store.dump(into), collect);
    read.unwrap();
    all
}

async fn backed_up(folder: &Path) -> Vec<u8> {
    let files = SqliteFiles::new(folder);
    let (bytes, report) = backup(&files, Vec::new(), now(), Gaps::Refused, |_, _| ())
        .await
        .unwrap();
    assert!(report.is_sound(), "{report:?}");
    bytes
}

/// Restores at once, and only what is whole.
async fn restored(bytes: Vec<u8>, into: &dyn Maintain) -> Result<Restored, MaintainError> {
    let from = std::io::Cursor::new(bytes);
    restore(
        from,
        into,
        sample::restoring(now(), Gaps::Refused),
        |_, _| (),
    )
    .await
}

/// What a restore leaves as it was: everything but the versions of twins, their index, the logs, and its
/// own entry of the audit log.
async fn unchanged(store: &dyn Maintain) -> Vec<Item> {
    let mut all = rows(store).await;
    all.retain(|item| match item {
        Item::Row(row) if row.table == Table::History => {
            !row.values.contains(&Value::Text("restore".to_owned()))
        }
        Item::Row(row) if row.table == Table::Audit => !row
            .values
            .contains(&Value::Text("store.restore".to_owned())),
        Item::Row(row) => !matches!(row.table, Table::Partitions | Table::Twins | Table::Log),
        Item::Unreadable(..) => true,
    });
    all
}

#[tokio::test]
async fn a_sound_store_has_no_findings_and_every_row_is_counted() {
    let folder = filled().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let into = told.clone();
    let files = SqliteFiles::new(folder.path());
    let report = verify(&files, move |table, rows| {
        into.lock().unwrap().push((table, rows));
    });
    let report = report.await.unwrap();
    assert_eq!(report.findings, []);
    let counts: Vec<_> = report.rows.into_iter().collect();
    assert_eq!(counts[0], (Table::Partitions, 4));
    assert_eq!(counts[1], (Table::Twins, 6));
    assert_eq!(counts[4], (Table::History, 9));
    assert_eq!(counts.len(), Table::ALL.len(), "{counts:?}");
    assert!(!told.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_service_may_run_and_write_while_its_store_is_checked_and_backed_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    let mut states = sample::fill(&store).await;
    let reading = async {
        for _ in 0..5 {
            assert!(check(folder.path()).await.is_sound());
            backed_up(folder.path()).await;
        }
    };
    let writing = async {
        for number in 0..50 {
            let name = format!("w{number}");
            let commit = sample::created(&mut states, &[&name]);
            store.commit(commit).await.unwrap();
        }
    };
    tokio::join!(reading, writing);
    let report = check(folder.path()).await;
    assert_eq!(report.rows[&Table::Twins], 56);
}

#[tokio::test]
async fn every_flipped_byte_of_a_twin_and_of_a_revision_is_found() {
    let folder = filled().await;
    let raw = Connection::open(folder.path().join("twins.db")).unwrap();
    let mut flipped = 0;
    for (table, place) in [
        (Table::Twins, "device_id = 'a' AND module_id = 'm'"),
        (Table::History, "device_id = 'a' AND module_id = 'm'"),
        (Table::Log, "revision = (SELECT max(revision) FROM log)"),
    ] {
        for (column, _) in table.columns() {
            // In a transaction that is undone, and read on the same connection: a check of the
            // whole store for each byte would take minutes.
            let select = format!(
                "SELECT CAST({column} AS BLOB), typeof({column}) FROM {} WHERE {place}",
                table.name()
            );
            let (bytes, kind): (Option<Vec<u8>>, String) = raw
                .query_row(&select, [], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap();
            for at in 0..bytes.as_ref().map_or(0, Vec::len) {
                let mut bytes = bytes.clone().unwrap();
                bytes[at] ^= 1;
                raw.execute_batch("BEGIN").unwrap();
                let update = format!(
                    "UPDATE {} SET {column} = CAST(?1 AS {kind}) WHERE {place}",
                    table.name()
                );
                // A key that another row has already cannot be written.
                if raw.execute(&update, [&bytes]).is_ok() {
                    let found = crate::store::sqlite::check_on(&raw);
                    assert!(
                        found.findings.iter().any(|one| one.table == Some(table)),
                        "{table:?} {column} byte {at}: {found:?}"
                    );
                    flipped += 1;
                }
                raw.execute_batch("ROLLBACK").unwrap();
            }
        }
    }
    assert!(flipped > 1500, "{flipped}");
    assert!(check(folder.path()).await.is_sound());
}

#[tokio::test]
async fn an_index_that_does_not_match_its_twins_is_found_entry_by_entry() {
    let folder = filled().await;
    let found = check_after(
        folder.path(),
        "DELETE FROM twin_index WHERE path = 'tags.name' AND device_id = 'b';
         UPDATE twin_index SET value = 's:disabled'
             WHERE path = 'status' AND device_id = 'a' AND module_id = 'm';
         INSERT INTO twin_index VALUES ('tags.name', 's:ghost', 'ghost', '');",
    )
    .await;
    assert_eq!(
        found,
        [
            "twin_index a/m/status/s:disabled: the twin does not have this value",
            "twin_index a/m/status/s:enabled: the twin has this value, the index does not",
            "twin_index b//tags.name/s:b: the twin has this value, the index does not",
            "twin_index ghost//tags.name/s:ghost: there is no such twin",
        ]
    );
}

#[tokio::test]
async fn gaps_in_a_log_and_breaks_of_a_chain_are_found() {
    let folder = filled().await;
    let raw = Connection::open(folder.path().join("twins.db")).unwrap();
    let busy: i64 = raw
        .query_row(
            "SELECT partition FROM log GROUP BY partition ORDER BY count(*) DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .unwrap();
    drop(raw);
    let found = check_after(
        folder.path(),
        &format!("DELETE FROM log WHERE partition = {busy} AND revision = 2"),
    )
    .await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("gap"), "{found:?}");

    let folder = filled().await;
    let found = check_after(folder.path(), "DELETE FROM log").await;
    assert!(
        found.iter().all(|one| one.contains("are missing")),
        "{found:?}"
    );
    assert!(!found.is_empty());

    for sql in [
        "UPDATE audit SET detail = '{}' WHERE sequence = 1",
        "DELETE FROM audit WHERE sequence = 1",
        "DELETE FROM audit WHERE sequence = (SELECT max(sequence) FROM audit)",
        "UPDATE audit SET at = at + 1 WHERE sequence = 2",
    ] {
        let folder = filled().await;
        let found = check_after(folder.path(), sql).await;
        assert!(!found.is_empty(), "{sql}");
        assert!(
            found.iter().all(|one| one.starts_with("audit ")),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn a_backup_restores_every_row() {
    let folder = filled().await;
    let bytes = backed_up(folder.path()).await;
    let target = tempfile::tempdir().unwrap();
    let files = SqliteFiles::new(target.path());
    let restored = restored(bytes, &files);
    let restored = restored.await.unwrap();
    assert!(restored.is_whole(), "{restored:?}");
    assert_eq!(restored.header.kind, "sqlite");
    assert_eq!(restored.header.made_at, now());
    assert_eq!(
        unchanged(&files).await,
        unchanged(&SqliteFiles::new(folder.path())).await
    );
    // The service starts on it, and another number of partitions is refused still.
    let store = SqliteStore::open(target.path()).unwrap();
    let states = sample::take(&store).await;
    assert!(states.iter().any(|state| state.position == 42));
    assert!(
        store
            .get(crate::testing::key("c/m"))
            .await
            .unwrap()
            .is_some()
    );
    store.close().await;
    assert!(check(target.path()).await.is_sound());
}

#[tokio::test]
async fn a_backup_that_is_cut_off_or_damaged_anywhere_restores_nothing() {
    let folder = filled().await;
    let bytes = backed_up(folder.path()).await;
    let target = tempfile::tempdir().unwrap();
    let files = SqliteFiles::new(target.path());
    let refused = async |bytes: Vec<u8>| {
        let error = restored(bytes, &files).await;
        error.expect_err("it is damaged")
    };
    let step = bytes.len() / 50;
    for at in (0..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
        let cut = refused(bytes[..at].to_vec()).await;
        let fits = matches!(cut, MaintainError::Foreign | MaintainError::Damaged { .. });
        assert!(fits, "cut at {at}: {cut}");
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        let error = refused(flipped).await;
        let fits = matches!(
            error,
            MaintainError::Foreign | MaintainError::Newer { .. } | MaintainError::Damaged { .. }
        );
        assert!(fits, "flipped at {at}: {error}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(
        refused(longer).await,
        MaintainError::Damaged { .. }
    ));
    // It is still empty, so the whole one goes in; a second time it does not.
    restored(bytes.clone(), &files).await.unwrap();
    assert!(matches!(refused(bytes).await, MaintainError::NotEmpty));
}

#[tokio::test]
async fn what_was_damaged_when_it_was_backed_up_is_reported_and_left_out() {
    let folder = filled().await;
    check_after(
        folder.path(),
        "UPDATE twins SET tags = '{}' WHERE device_id = 'b';
         UPDATE twins SET status = CAST(x'65ff' AS TEXT) WHERE device_id = 'a' AND module_id = 'm';",
    )
    .await;
    let files = SqliteFiles::new(folder.path());
    let (bytes, report) = backup(&files, Vec::new(), now(), Gaps::Refused, |_, _| ())
        .await
        .unwrap();
    assert_eq!(report.found, 2, "{report:?}");
    let target = tempfile::tempdir().unwrap();
    let files = SqliteFiles::new(target.path());
    let restored = restored(bytes, &files);
    let restored = restored.await.unwrap();
    let keys: Vec<_> = restored
        .report
        .findings
        .iter()
        .map(|one| &*one.key)
        .collect();
    assert_eq!(keys, ["a/m", "b/"]);
    let left = check(target.path()).await;
    assert!(left.is_sound(), "{left:?}");
    assert_eq!(left.rows[&Table::Twins], 4);
}

#[tokio::test]
async fn a_backup_of_one_kind_of_store_restores_into_the_other_and_back() {
    let folder = filled().await;
    let first = SqliteFiles::new(folder.path());
    let database = testkit::postgres::database().await;
    let settings = postgres::testing::settings(&database.url());
    let second = PostgresRows::new(settings);
    let missing = verify(&second, |_, _| ()).await.expect_err("nothing there");
    assert!(matches!(missing, MaintainError::Missing(_)), "{missing}");

    let bytes = backed_up(folder.path()).await;
    let done = restored(bytes.clone(), &second).await;
    assert!(done.unwrap().is_whole());
    let report = verify(&second, |_, _| ()).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    let all = unchanged(&first).await;
    assert_eq!(unchanged(&second).await, all);
    let again = restored(bytes, &second).await;
    assert!(matches!(again, Err(MaintainError::NotEmpty)), "{again:?}");
    // The service starts on it.
    let store = postgres::testing::open(&database.url()).await;
    sample::take(&store).await;
    let read = store.get(crate::testing::key("c/m")).await.unwrap();
    assert_eq!(read.unwrap().key, crate::testing::key("c/m"));
    store.close().await;

    let (bytes, report) = backup(&second, Vec::new(), now(), Gaps::Refused, |_, _| ())
        .await
        .unwrap();
    assert!(report.is_sound(), "{report:?}");
    let target = tempfile::tempdir().unwrap();
    let third = SqliteFiles::new(target.path());
    let done = restored(bytes, &third).await;
    assert_eq!(done.unwrap().header.kind, "postgresql");
    assert_eq!(unchanged(&third).await, all);
}

#[tokio::test]
async fn a_database_that_was_tampered_with_is_found_out() {
    let database = testkit::postgres::database().await;
    let settings = postgres::testing::settings(&database.url());
    let store = postgres::testing::open(&database.url()).await;
    sample::fill(&store).await;
    let files = PostgresRows::new(settings);
    assert!(verify(&files, |_, _| ()).await.unwrap().is_sound());
    store
        .execute_raw(
            "UPDATE twins SET tags = '{}' WHERE device_id = 'b';
             UPDATE history SET patch = '{}' WHERE device_id = 'c' AND module_id = 'm';
             DELETE FROM twin_index WHERE path = 'status' AND device_id = 'a' AND module_id = '';
             INSERT INTO twin_index VALUES ('status', 's:enabled', 'ghost', '');
             UPDATE audit SET actor = 'nobody' WHERE sequence = 1 AND partition =
                 (SELECT min(partition) FROM audit)",
        )
        .await;
    let report = verify(&files, |_, _| ()).await.unwrap();
    let tables: Vec<_> = report
        .findings
        .iter()
        .map(|one| one.table.unwrap())
        .collect();
    assert_eq!(
        tables,
        [
            Table::Index,
            Table::Twins,
            Table::Index,
            Table::History,
            Table::Audit
        ],
        "{report:?}"
    );
    store.close().await;
}

#[tokio::test]
async fn there_must_be_a_store_to_check() {
    let folder = tempfile::tempdir().unwrap();
    let files = SqliteFiles::new(folder.path());
    let error = verify(&files, |_, _| ()).await.expect_err("nothing there");
    assert!(matches!(error, MaintainError::Missing(_)), "{error}");
    assert!(!folder.path().join("twins.db").exists());
}
