//! What only a file can suffer: flipped bytes, and a schema of the future.

use std::sync::Arc;

use rusqlite::{Connection, params};
use twin::PartitionCount;

use super::*;
use crate::store::{Source, Upsert, everything};
use crate::testing::{device, key, now, record};

async fn filled(folder: &Path, names: &[&str]) -> SqliteStore {
    let store = SqliteStore::open(folder).expect("it opens");
    let replica = Replica {
        id: ReplicaId("r".to_owned()),
        address: "http://r".to_owned(),
        count: PartitionCount::DEFAULT,
        lease: std::time::Duration::ZERO,
    };
    let states = store.claim(replica).await.expect("taken").owned;
    let commit = Commit {
        partitions: states,
        upserts: names.iter().map(|name| upsert(name)).collect(),
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    store
}

fn upsert(name: &str) -> Upsert {
    Upsert {
        record: Arc::new(record(name, "g")),
        index_remove: Vec::new(),
        index_add: Vec::new(),
    }
}

/// Writes behind the store's back.
fn tamper(folder: &Path, sql: &str, parameters: impl rusqlite::Params) {
    let raw = Connection::open(folder.join(FILE_NAME)).expect("it opens");
    assert_eq!(raw.execute(sql, parameters).expect("it runs"), 1);
}

fn names(page: &Page) -> Vec<String> {
    let key = |record: &Record| record.key.to_string();
    page.records.iter().map(key).collect()
}

#[tokio::test]
async fn a_flipped_byte_is_reported_for_its_twin_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), &["a", "b", "b/m", "c"]).await;
    let raw = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    let body: String = raw
        .query_row(
            "SELECT body FROM twins WHERE device_id = 'b' AND module_id = ''",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let mut body = body.into_bytes();
    let length = body.len();
    body[length / 2] ^= 1;
    let body = String::from_utf8(body).expect("still ASCII");
    tamper(
        folder.path(),
        "UPDATE twins SET body = ?1 WHERE device_id = 'b' AND module_id = ''",
        params![body],
    );

    let error = store.get(key("b")).await.expect_err("damaged");
    assert!(
        matches!(&error, Error::Damaged(damaged) if damaged.key == "b"),
        "{error}"
    );
    assert!(store.get(key("b/m")).await.unwrap().is_some());
    let page = store
        .search(everything(Source::All, None, 10, now()))
        .await
        .unwrap();
    assert_eq!(names(&page), ["a", "b/m", "c"]);
    assert_eq!(page.damaged.len(), 1);
    let loaded = store
        .load(vec![Selection::Family(device("b"))])
        .await
        .unwrap();
    assert!(matches!(&loaded[0], Loaded::Damaged(of, _) if *of == key("b")));
    assert!(matches!(&loaded[1], Loaded::Whole(record) if record.key == key("b/m")));
}

#[tokio::test]
async fn a_row_does_not_pass_for_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), &["a", "b"]).await;
    tamper(
        folder.path(),
        "UPDATE twins SET device_id = 'c' WHERE device_id = 'b'",
        [],
    );
    tamper(
        folder.path(),
        "UPDATE twins SET revision = 5 WHERE device_id = 'a'",
        [],
    );
    for name in ["a", "c"] {
        let error = store.get(key(name)).await.expect_err("it was changed");
        assert!(matches!(error, Error::Damaged(_)), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_key_does_not_keep_other_twins_from_being_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), &["a", "a/k", "a/m", "b", "c"]).await;
    tamper(
        folder.path(),
        "UPDATE twins SET module_id = 'not a module!/' WHERE device_id = 'a' AND module_id = 'm'",
        [],
    );
    tamper(
        folder.path(),
        "UPDATE twins SET device_id = CAST(x'62FF' AS TEXT) WHERE device_id = 'b'",
        [],
    );
    for limit in 1..6 {
        let (mut after, mut all, mut damaged) = (None, Vec::new(), 0);
        loop {
            let page = store
                .search(everything(Source::All, after, limit, now()))
                .await
                .unwrap();
            all.extend(names(&page));
            damaged += page.damaged.len();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(
            (all, damaged),
            (vec!["a".into(), "a/k".into(), "c".into()], 2),
            "by {limit}"
        );
    }
    let family = store
        .load(vec![Selection::Family(device("a"))])
        .await
        .unwrap();
    assert_eq!(family.len(), 2);
}

#[tokio::test]
async fn a_store_of_a_newer_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path(), &["a"]).await);
    let raw = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    let error = SqliteStore::open(folder.path()).err().expect("refused");
    let Error::Newer { found: 99, known } = error else {
        panic!("{error}");
    };
    raw.pragma_update(None, "user_version", known).unwrap();
    let store = SqliteStore::open(folder.path()).expect("nothing was changed");
    assert!(store.get(key("a")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_damaged_twin_is_noted_once_and_forgotten_when_it_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), &["a", "b", "b/m"]).await;
    assert_eq!(store.damaged().await.unwrap(), []);
    for (device, module) in [("b", ""), ("b", "m")] {
        tamper(
            folder.path(),
            "UPDATE twins SET tags = '{}}' WHERE device_id = ?1 AND module_id = ?2",
            [device, module],
        );
        // Whoever writes it anew cannot know what the index has of it.
        tamper(
            folder.path(),
            "INSERT INTO twin_index VALUES ('tags.old', 's:old', ?1, ?2)",
            [device, module],
        );
    }
    // Whichever way they are come by; a second time changes nothing.
    for _ in 0..2 {
        store.get(key("b")).await.expect_err("damaged");
        let family = vec![Selection::Family(device("b"))];
        assert_eq!(store.load(family).await.unwrap().len(), 2);
        let search = everything(Source::All, None, 9, now());
        assert_eq!(store.search(search).await.unwrap().damaged.len(), 2);
    }
    let noted = async |store: &SqliteStore| -> Vec<String> {
        let damaged = store.damaged().await.unwrap();
        damaged.into_iter().map(|one| one.key).collect()
    };
    assert_eq!(noted(&store).await, ["b", "b/m"]);
    // The rows are still there, as evidence, and so are the notes after a restart.
    store.close().await;
    let store = SqliteStore::open(folder.path()).unwrap();
    assert_eq!(noted(&store).await, ["b", "b/m"]);
    store.get(key("b")).await.expect_err("damaged");

    let replica = crate::store::sample::replica(PartitionCount::DEFAULT);
    let states = store.claim(replica).await.unwrap().owned;
    let mut commit = Commit {
        partitions: states,
        deletes: vec![key("b")],
        ..Commit::default()
    };
    store.commit(commit.clone()).await.unwrap();
    assert_eq!(noted(&store).await, ["b/m"]);
    assert_eq!(store.get(key("b")).await.unwrap(), None);
    commit.deletes.clear();
    commit.upserts = ["b", "b/m"].map(upsert).into();
    store.commit(commit).await.unwrap();
    assert!(noted(&store).await.is_empty());
    assert!(store.get(key("b/m")).await.unwrap().is_some());
    let raw = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    let left: i64 = raw
        .query_row("SELECT count(*) FROM twin_index", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
    // Damaged once more, it is noted once more.
    tamper(
        folder.path(),
        "UPDATE twins SET revision = 9 WHERE device_id = 'a'",
        [],
    );
    store.get(key("a")).await.expect_err("damaged");
    assert_eq!(noted(&store).await, ["a"]);
    store.close().await;
}

#[tokio::test]
async fn every_connection_waits_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), &["a"]).await;
    let look = |connection: &Connection| {
        let synchronous = connection.query_row("PRAGMA synchronous", [], |row| row.get(0));
        let journal = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0));
        let read = || -> rusqlite::Result<(i64, String)> { Ok((synchronous?, journal?)) };
        read().map_err(engine("look"))
    };
    // 2 is FULL: the WAL is synced at each commit.
    let full = (2, "wal".to_owned());
    assert_eq!(store.write(move |one| look(one)).await.unwrap(), full);
    assert_eq!(store.read(look).await.unwrap(), full);
    store.close().await;
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert_eq!(left, [FILE_NAME], "a closed store is one file");
}

#[tokio::test]
async fn damaged_rows_of_operations_do_not_keep_the_others_from_being_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), &[]).await;
    let replica = Replica {
        id: ReplicaId("s".to_owned()),
        address: "http://s".to_owned(),
        count: PartitionCount::DEFAULT,
        lease: std::time::Duration::ZERO,
    };
    let states = store.claim(replica).await.expect("taken").owned;
    let written = crate::store::sample::many_operations(states);
    store.commit(written).await.expect("committed");
    for sql in [
        "UPDATE operation_results SET device_id = CAST(x'61ff' AS TEXT) WHERE device_id = 'a'",
        "UPDATE operation_results SET device_id = CAST(x'63ff' AS TEXT) WHERE device_id = 'c'",
        "UPDATE operation_results SET device_id = CAST(x'64ff' AS TEXT) WHERE device_id = 'd'",
        "UPDATE operation_results SET device_id = CAST(x'7aff' AS TEXT) WHERE device_id = 'f'",
        "UPDATE operations SET body = CAST(x'7bff' AS TEXT) WHERE id = '2'",
    ] {
        tamper(folder.path(), sql, []);
    }
    crate::store::sample::read_with_damage(&store).await;
}
