//! What only a file can suffer: flipped bytes, and a schema of the future.

use std::sync::Arc;

use rusqlite::Connection;
use tempfile::TempDir;
use twin::PartitionCount;

use super::*;
use crate::store::{Source, Upsert, everything, sample};
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
pub(crate) fn tamper(folder: &Path, sql: &str, parameters: impl rusqlite::Params) {
    let raw = Connection::open(folder.join(FILE_NAME)).expect("it opens");
    assert!(raw.execute(sql, parameters).expect("it runs") > 0, "{sql}");
}

/// Changes how a table is laid out.
pub(crate) fn alter(folder: &Path, sql: &str) {
    let raw = Connection::open(folder.join(FILE_NAME)).expect("it opens");
    raw.execute_batch(sql).expect("it runs");
}

fn names(page: &Page) -> Vec<String> {
    let key = |record: &Record| record.key.to_string();
    page.records.iter().map(key).collect()
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

/// Breaks the page of the file that holds a text, so that the engine cannot step onto it.
pub(crate) fn break_page_of(folder: &Path, text: &[u8]) {
    const PAGE: usize = 4096;
    /// What a page with rows of a table without row ids begins with.
    const LEAF: u8 = 0x0a;
    let path = folder.join(FILE_NAME);
    let mut bytes = std::fs::read(&path).expect("it can be read");
    let mut pages = bytes.chunks(PAGE).enumerate();
    let holds = |page: &[u8]| page.windows(text.len()).any(|window| window == text);
    let number = pages.find(|(_, page)| page[0] == LEAF && holds(page));
    let (number, _) = number.expect("a page with rows");
    bytes[number * PAGE] = 0xff;
    std::fs::write(path, bytes).expect("it can be written");
}

#[tokio::test]
async fn a_page_that_cannot_be_stepped_onto_leaves_the_others_readable() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = (100..400)
        .map(|number| format!("device-{number}"))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let store = filled(folder.path(), &names).await;
    store.close().await;
    break_page_of(folder.path(), b"device-250");

    let store = SqliteStore::open(folder.path()).expect("it opens");
    let (broken, whole) = (
        Selection::One(key("device-250")),
        Selection::One(key("device-110")),
    );
    let family = Selection::Family(device("device-250"));
    let selections = vec![broken.clone(), whole, family.clone()];
    let loaded = store.load(selections).await.expect("the rest can be read");
    assert!(
        matches!(
            &loaded[..],
            [Loaded::Damaged(one, _), Loaded::Whole(record), Loaded::Damaged(all, _)]
                if *one == broken && record.key == key("device-110") && *all == family
        ),
        "{loaded:?}"
    );
    let found = store.get(key("device-250")).await;
    assert!(matches!(&found, Err(Error::Damaged(_))), "{found:?}");
    let search = everything(Source::All, None, 1000, now());
    let found = store.search(search).await;
    assert!(matches!(&found, Err(Error::Damaged(_))), "{found:?}");
    let noted = store.damaged().await.expect("read");
    assert!(noted.iter().any(|one| one.key == "device-250"), "{noted:?}");
    store.close().await;
}

#[tokio::test]
async fn changes_and_audit_entries_are_found_behind_a_page_that_cannot_be_stepped_onto() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).expect("it opens");
    let mut states = crate::store::sample::take(&store).await;
    let state = &mut states[0];
    let text = |number: u64| format!("number-{number}-{}", "x".repeat(100));
    let log = (100..400).map(|number| crate::store::LogEntry {
        partition: state.partition,
        revision: Revision::new(number),
        change: text(number).into_bytes(),
    });
    let log = log.collect();
    let audit = (100..400).map(|number| crate::store::sample::audited(state, &text(number)));
    let audit = audit.collect();
    state.revision = Revision::new(400);
    let written = Commit {
        partitions: vec![*state],
        log,
        audit,
        ..Commit::default()
    };
    let state = *state;
    store.commit(written).await.expect("committed");
    store.close().await;
    // Both tables have such a page; the first is broken first, and then the other.
    break_page_of(folder.path(), b"number-250-");
    break_page_of(folder.path(), b"number-250-");

    let store = SqliteStore::open(folder.path()).expect("it opens");
    let page = store.log(state.partition, Revision::ZERO, 1000).await;
    let page = page.expect("the rest can be read");
    let (read, holes) = (page.entries.len(), page.holes.len());
    assert!(holes > 0 && holes < 100, "{holes} holes");
    assert!(page.holes.contains(&Revision::new(250)));
    assert_eq!(page.entries.last().map(|one| one.revision.get()), Some(399));
    assert!(read >= 200, "{read} changes");
    let page = store.audit(state.partition, 0, 1000).await;
    let page = page.expect("the rest can be read");
    let holes = page.entries.iter().filter(|entry| entry.is_err()).count();
    assert!(holes > 0 && holes < 100, "{holes} holes");
    assert_eq!(page.entries.len(), 300);
    store.close().await;
}

/// A store with so many audit entries, of which every ten thousandth is rare.
async fn audited(entries: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    let mut states = sample::take(&store).await;
    let mut left = entries;
    while left > 0 {
        let mut commit = Commit::default();
        for _ in 0..left.min(10_000) {
            let state = &mut states[usize::try_from(left % 4).unwrap()];
            let mut entry = sample::audited(state, &format!("devices/d{left}"));
            entry.at += jiff::SignedDuration::from_secs(left.cast_signed());
            if left.is_multiple_of(10_000) {
                entry.actor = "operator:rare".to_owned();
                entry.action = "store.restore".to_owned();
            }
            commit.audit.push(entry);
            left -= 1;
        }
        commit.partitions.clone_from(&states);
        store.commit(commit).await.unwrap();
    }
    store.close().await;
    folder
}

/// What the engine does for a page of ten, in steps of its machine.
fn steps(folder: &Path, read: &AuditRead) -> i32 {
    let raw = Connection::open(folder.join(FILE_NAME)).unwrap();
    let by = trails::audit_by(&raw, read).unwrap();
    let (sql, values) = trails::audit_statement(read, by);
    let mut statement = raw.prepare(&sql).unwrap();
    let mut rows = statement.query(rusqlite::params_from_iter(values)).unwrap();
    let mut found = 0;
    while rows.next().unwrap().is_some() {
        found += 1;
    }
    drop(rows);
    assert!(found > 0, "{read:?}");
    statement.get_status(rusqlite::StatementStatus::VmStep)
}

#[tokio::test]
async fn the_newest_of_a_hundred_thousand_audit_entries_cost_as_much_as_of_a_hundred() {
    let (few, many) = (audited(100).await, audited(100_000).await);
    let of = |text: &str| Some(text.to_owned());
    let newest = AuditRead {
        newest_first: true,
        limit: 10,
        ..AuditRead::default()
    };
    let at = |seconds| Some(now() + jiff::SignedDuration::from_secs(seconds));
    for read in [
        newest.clone(),
        AuditRead {
            newest_first: false,
            ..newest.clone()
        },
        AuditRead {
            to: at(50),
            ..newest.clone()
        },
        AuditRead {
            actor: of("operator:alice"),
            ..newest.clone()
        },
        AuditRead {
            action: of("device.create"),
            ..newest.clone()
        },
        AuditRead {
            resource: of("devices/d50"),
            ..newest.clone()
        },
        AuditRead {
            resource: of("devices"),
            ..newest.clone()
        },
    ] {
        let steps = [&few, &many].map(|folder| steps(folder.path(), &read));
        assert!(steps[1] < steps[0] + 100, "{steps:?} for {read:?}");
    }
    let rare = AuditRead {
        actor: of("operator:rare"),
        action: of("store.restore"),
        ..newest
    };
    let steps = steps(many.path(), &rare);
    assert!(steps < 1000, "{steps}");
}

#[tokio::test]
async fn what_is_behind_a_span_is_not_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).expect("it opens");
    let states = crate::store::sample::take(&store).await;
    let (written, found) = crate::store::sample::far_apart(states, 600);
    store.commit(written).await.expect("committed");
    let reaches = crate::store::thin::reaches(vec![found]);
    let lights = store.read(move |connection| super::thin::lights(connection, &reaches[0]));
    let lights = lights.await.expect("read");
    let numbers: Vec<_> = lights.iter().map(|light| light.revision).collect();
    assert_eq!(numbers, [9, 10]);
    store.close().await;
}

/// The names of all members of an object and of those in it.
fn members(value: &serde_json::Value, path: &str, all: &mut std::collections::BTreeSet<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}{name}");
        members(value, &format!("{path}."), all);
        all.insert(path);
    }
}

/// A program that does not know a member of a row drops it with its next write of that row. So whoever adds one also
/// adds a migration, if only for its number.
#[test]
fn a_new_member_of_a_row_has_a_schema_of_its_own() {
    let mut record = crate::store::sample::tagged("d/m");
    let identity = &mut record.identity;
    identity.status_reason = "why".to_owned();
    identity.status_updated_at = Some(now());
    identity.iot_edge = true;
    identity.managed_by = "somebody".to_owned();
    identity.model_id = "dtmi:com:example:thing;1".to_owned();
    let enrolled = crate::record::EnrolledBy {
        name: "enrollmentGroups/plant".to_owned(),
        generation: Some("g".to_owned()),
    };
    identity.provisioned = Some(crate::record::Provisioned {
        registration_id: "sn".to_owned(),
        enrollment: enrolled.clone(),
        group: Some(enrolled),
        operation_id: "5.1".to_owned(),
        was_reset: true,
        count: 1,
        first_at: now(),
        last_at: now(),
    });
    record.configurations = [("c".to_owned(), twin::ConfigurationStatus::Applied)].into();
    record.device_tags = Some(r#"{"t":1}"#.to_owned());
    let row = crate::store::row::encode(&record).unwrap();
    let mut all = std::collections::BTreeSet::new();
    members(&serde_json::from_str(&row.body).unwrap(), "", &mut all);
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let expected = [
        "authentication",
        "authentication.sas",
        "authentication.sas.primary",
        "authentication.sas.secondary",
        "configurations",
        "configurations.c",
        "created_at",
        "desired",
        "desired.metadata",
        "desired.version",
        "device_tags",
        "device_tags.t",
        "etag",
        "generation",
        "identity_etag",
        "identity_updated_at",
        "iot_edge",
        "managed_by",
        "model_id",
        "provisioned",
        "provisioned.count",
        "provisioned.enrollment",
        "provisioned.first_at",
        "provisioned.generation",
        "provisioned.group",
        "provisioned.group.generation",
        "provisioned.group.name",
        "provisioned.last_at",
        "provisioned.operation",
        "provisioned.registration",
        "provisioned.reset",
        "reported",
        "reported.metadata",
        "reported.version",
        "status_reason",
        "status_updated_at",
        "tags",
        "tags.metadata",
        "tags.version",
        "updated_at",
        "version",
    ];
    assert_eq!((all.as_slice(), MIGRATIONS.len()), (&expected[..], 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_reads_does_not_hold_up_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(filled(folder.path(), &["a"]).await);
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = Arc::new(Mutex::new(ended));
    let begun = Arc::new(tokio::sync::Notify::new());
    let mut reads = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (store, ended, begun) = (store.clone(), ended.clone(), begun.clone());
        reads.spawn(async move {
            let read = store.read(move |_| {
                begun.notify_one();
                // Until the other end is dropped.
                let _ = ended.lock().map(|ended| ended.recv());
                Ok(())
            });
            read.await
        });
    }
    begun.notified().await;
    let needed = store.load_to_write(vec![Selection::One(key("a"))]);
    let needed = tokio::time::timeout(std::time::Duration::from_secs(20), needed).await;
    drop(end);
    assert_eq!(needed.expect("it has a turn of its own").unwrap().len(), 1);
    while let Some(read) = reads.join_next().await {
        read.unwrap().unwrap();
    }
    store.close().await;
}
