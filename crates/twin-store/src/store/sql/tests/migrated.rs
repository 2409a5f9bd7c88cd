//! An older store gets the entries that it lacks, just as they are written today.

use std::collections::BTreeSet;

use proptest::strategy::Strategy as _;

use super::equality::{fill, one, random_records, runner};
use super::generate::versions;
use crate::index::{self, CONNECTION_STATE, LAST_ACTIVITY};
use crate::record::Record;
use crate::store::Store as _;
use crate::store::postgres::testing::open as open_postgres;
use crate::store::sqlite::SqliteStore;

/// What the store was before.
const BEFORE: &str = "DROP INDEX twin_index_numbers;
     DELETE FROM twin_index WHERE path IN ('connectionState', 'lastActivityTime');";

/// Twins whose agents have said any text to be their version.
fn records() -> (Vec<Record>, String) {
    let (mut runner, seed) = runner();
    let mut records = random_records(&mut runner);
    for record in &mut records {
        record.posture.agent.version = one(&mut runner, &versions().boxed());
    }
    (records, seed)
}

fn expected(records: &[Record]) -> BTreeSet<String> {
    let of_one = |record: &Record| {
        let entries = index::entries(record).expect("an index").into_iter();
        let searched = entries
            .filter(|entry| [CONNECTION_STATE, LAST_ACTIVITY].contains(&entry.path.as_str()));
        let key = record.key.to_string();
        searched
            .map(|entry| format!("{key} {} {}", entry.path, entry.value))
            .collect::<Vec<_>>()
    };
    records.iter().flat_map(of_one).collect()
}

const LIST: &str = "SELECT device_id || CASE module_id WHEN '' THEN '' ELSE '/' || module_id END
         || ' ' || path || ' ' || value FROM twin_index
     WHERE path IN ('connectionState', 'lastActivityTime')";

#[tokio::test]
async fn an_older_embedded_store_gets_the_entries() {
    let (records, seed) = records();
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(folder.path()).expect("it opens");
    fill(&store, &records).await;
    store.close().await;
    let raw = rusqlite::Connection::open(folder.path().join(crate::store::sqlite::FILE_NAME))
        .expect("the file");
    raw.execute_batch(BEFORE).expect("as it was");
    raw.execute_batch(include_str!("../../../../migrations/0006_searched.sql"))
        .expect("migrated");
    let found: rusqlite::Result<BTreeSet<String>> = raw
        .prepare(LIST)
        .expect("a statement")
        .query_map([], |row| row.get(0))
        .expect("rows")
        .collect();
    assert_eq!(found.expect("texts"), expected(&records), "seed {seed}");
}

#[tokio::test]
async fn an_older_shared_store_gets_the_entries() {
    let (records, seed) = records();
    let database = testkit::postgres::database().await;
    let store = open_postgres(&database.url()).await;
    fill(&store, &records).await;
    store.close().await;
    database.execute(BEFORE).await;
    let migration = include_str!("../../../../migrations/postgres/0006_searched.sql");
    database.execute(migration).await;
    let list = format!("SELECT string_agg(line, E'\\n') FROM ({LIST}) AS l (line)");
    let found = database.ask(&list).await.expect("entries");
    let found: BTreeSet<String> = found.lines().map(str::to_owned).collect();
    assert_eq!(found, expected(&records), "seed {seed}");
}
