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
        upserts: names
            .iter()
            .map(|name| Upsert {
                record: Arc::new(record(name, "g")),
                index_remove: Vec::new(),
                index_add: Vec::new(),
            })
            .collect(),
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    store
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
    assert!(
        matches!(
            error,
            Error::Newer {
                found: 99,
                known: 1
            }
        ),
        "{error}"
    );
    raw.pragma_update(None, "user_version", 1).unwrap();
    let store = SqliteStore::open(folder.path()).expect("nothing was changed");
    assert!(store.get(key("a")).await.unwrap().is_some());
}
