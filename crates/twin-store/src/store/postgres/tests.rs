//! What only the shared store does: it checks its server, shares partitions out under leases, and
//! gets over a restart of the server.

use std::time::Duration;

use futures::future::join_all;
use testkit::{Database, PostgresOptions, PostgresServer, TestCerts};
use twin::{PartitionCount, Revision};

use super::testing::open;
use super::*;
use crate::store::maintain::{Gaps, backup, restore};
use crate::store::sqlite::{SqliteFiles, SqliteStore};
use crate::store::{HistoryRead, LogEntry, PartitionState, Source, Upsert, everything, sample};
use crate::testing::{key, now, record};

fn replica(name: &str, lease: Duration) -> Replica {
    Replica {
        id: ReplicaId(name.to_owned()),
        address: format!("http://{name}"),
        count: PartitionCount::new(5).expect("a count"),
        lease,
    }
}

const LONG: Duration = Duration::from_mins(10);

fn text(error: &Error) -> String {
    service_kit::error::chain(error)
}

fn numbers(states: &[PartitionState]) -> Vec<u16> {
    states.iter().map(|state| state.partition.get()).collect()
}

#[tokio::test]
async fn replicas_share_the_partitions_and_hand_over_without_taking() {
    let database = testkit::postgres::database().await;
    let (a, b) = (open(&database.url()).await, open(&database.url()).await);
    let (one, other) = (replica("a", LONG), replica("b", LONG));
    let first = a.claim(one.clone()).await.expect("claimed");
    assert_eq!(numbers(&first.owned), [0, 1, 2, 3, 4]);

    // Nothing is taken from the living.
    let second = b.claim(other.clone()).await.expect("claimed");
    assert_eq!(second.owned, []);
    assert_eq!(second.elsewhere.len(), 5);
    assert!(
        second
            .elsewhere
            .values()
            .all(|address| address == "http://a")
    );

    let first = a.claim(one.clone()).await.expect("claimed");
    assert_eq!(first.surrender.len(), 2);
    assert_eq!(first.owned.len(), 5, "still ours until we release them");
    a.release(one.id.clone(), first.surrender.clone())
        .await
        .expect("released");
    let second = b.claim(other.clone()).await.expect("claimed");
    let taken: Vec<_> = second.owned.iter().map(|state| state.partition).collect();
    assert_eq!(taken, first.surrender);
    for state in &second.owned {
        let before = first
            .owned
            .iter()
            .find(|before| before.partition == state.partition);
        assert!(before.expect("it was ours").epoch < state.epoch);
    }
    assert_eq!(second.elsewhere.len(), 3);
    let first = a.claim(one).await.expect("claimed");
    assert_eq!((first.owned.len(), first.surrender.len()), (3, 0));
    assert_eq!(first.elsewhere.len(), 2);
}

#[tokio::test]
async fn a_silent_replica_is_succeeded_when_its_lease_has_ended() {
    let database = testkit::postgres::database().await;
    let store = open(&database.url()).await;
    let brief = Duration::from_millis(300);
    store
        .claim(replica("silent", brief))
        .await
        .expect("claimed");
    let claims = store.claim(replica("b", LONG)).await.expect("claimed");
    assert_eq!(claims.owned, []);
    testkit::wait_for("the lease to end", Duration::from_secs(10), async || {
        let claims = store.claim(replica("b", LONG)).await.expect("claimed");
        (claims.owned.len() == 5).then_some(())
    })
    .await;
}

/// The row of a partition is locked while its owner commits. A claim must not wait for that, or a
/// replica that hangs in the middle of a commit would end everybody's leases.
#[tokio::test]
async fn a_partition_that_is_being_committed_to_is_taken_later() {
    let database = testkit::postgres::database().await;
    let store = open(&database.url()).await;
    store
        .claim(replica("a", Duration::ZERO))
        .await
        .expect("claimed");
    let mut hanging = store.connections.get().await;
    let transaction = hanging.transaction().await.expect("it begins");
    let locked = "SELECT FROM partitions WHERE partition = 3 FOR UPDATE";
    transaction.batch_execute(locked).await.expect("it locks");
    let claims = store.claim(replica("b", LONG)).await.expect("claimed");
    assert_eq!(numbers(&claims.owned), [0, 1, 2, 4]);
    transaction.rollback().await.expect("it ends");
    let claims = store.claim(replica("b", LONG)).await.expect("claimed");
    assert_eq!(numbers(&claims.owned), [0, 1, 2, 3, 4]);
}

/// Many replicas claim and commit at the same time; no deadlock, and every commit is whole.
#[tokio::test]
async fn commits_and_claims_of_many_replicas_run_beside_each_other() {
    let database = testkit::postgres::database().await;
    let store = open(&database.url()).await;
    let claims = store.claim(replica("a", LONG)).await.expect("claimed");
    let writers = (0..20_u64).map(|number| {
        let (store, mut states) = (&store, claims.owned.clone());
        // Each in another order, so that locks taken in the order of the commit would cross.
        states.rotate_left(usize::try_from(number).expect("small") % 5);
        async move {
            for state in &mut states {
                state.position = number;
            }
            let commit = Commit {
                partitions: states,
                ..Commit::default()
            };
            let renewed = store.claim(replica("a", LONG));
            let (committed, claimed) = tokio::join!(store.commit(commit), renewed);
            committed.expect("committed");
            claimed.expect("claimed");
        }
    });
    join_all(writers).await;
    let claims = store.claim(replica("a", LONG)).await.expect("claimed");
    let positions: Vec<u64> = claims.owned.iter().map(|state| state.position).collect();
    assert!(
        positions.iter().all(|position| *position == positions[0]),
        "{positions:?}"
    );
}

#[tokio::test]
async fn a_zero_character_is_kept_wherever_text_is() {
    let database = testkit::postgres::database().await;
    let store = open(&database.url()).await;
    let claims = store.claim(replica("a", LONG)).await.expect("claimed");
    let mut stored = record("d", "g");
    stored.twin.tags.document = r#"{"a":"b\u0000c"}"#.to_owned();
    stored.identity.status_reason = "x\0y".to_owned();
    let entry = crate::store::HistoryEntry {
        key: key("d"),
        revision: Revision::new(1),
        first_revision: Revision::new(1),
        at: now(),
        first_at: now(),
        actor: "operator:ann".to_owned(),
        cause: "because of \0".to_owned(),
        changes: std::collections::BTreeSet::new(),
        patch: "{}".to_owned(),
        undo: "{}".to_owned(),
        notification: None,
        has_registry: true,
        routine: false,
        previous: None,
        trace_parent: None,
    };
    let index = crate::store::IndexEntry {
        path: "tags.a".to_owned(),
        value: "s:b\0c".to_owned(),
    };
    let upsert = |add: bool| Upsert {
        record: Arc::new(stored.clone()),
        index_remove: if add { vec![] } else { vec![index.clone()] },
        index_add: if add { vec![index.clone()] } else { vec![] },
    };
    let commit = Commit {
        partitions: vec![claims.owned[0]],
        upserts: vec![upsert(true)],
        history: vec![entry.clone()],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    let read = store.get(key("d")).await.expect("read").expect("there");
    assert_eq!(read.twin.tags.document, stored.twin.tags.document);
    assert_eq!(read.identity.status_reason, "x\0y");
    let all = HistoryRead {
        key: key("d"),
        before: None,
        from: None,
        to: None,
        limit: 9,
    };
    assert_eq!(store.history(all).await.expect("read"), [Ok(entry)]);
    let rows = "SELECT count(*) FROM twin_index";
    assert_eq!(database.ask(rows).await.as_deref(), Some("1"));
    let commit = Commit {
        partitions: vec![claims.owned[0]],
        upserts: vec![upsert(false)],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    assert_eq!(database.ask(rows).await.as_deref(), Some("0"));
}

#[tokio::test]
async fn acknowledged_writes_are_on_disk_whatever_the_server_is_set_to() {
    let weak = PostgresOptions {
        extra: "synchronous_commit = off".to_owned(),
        ..PostgresOptions::default()
    };
    let mut server = PostgresServer::start_with(weak).await;
    let database = server.database().await;
    let store = open(&database.url()).await;
    let client = store.connections.get().await;
    let row = client
        .query_one("SHOW synchronous_commit", &[])
        .await
        .expect("asked");
    assert_eq!(row.get::<_, &str>(0), "on");
    drop(client);

    // A crash of the server, between two calls, is not noticed by reads and claims.
    let claims = store.claim(replica("a", LONG)).await.expect("claimed");
    let mut moved = claims.owned[0];
    (moved.position, moved.revision) = (77, Revision::new(1));
    let change = LogEntry {
        partition: moved.partition,
        revision: moved.revision,
        change: vec![1, 2, 3],
    };
    let commit = Commit {
        partitions: vec![moved],
        log: vec![change.clone()],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    server.restart().await;
    let claims = store
        .claim(replica("a", LONG))
        .await
        .expect("claimed again");
    assert_eq!(claims.owned[0].position, 77);
    let page = store
        .log(moved.partition, Revision::ZERO, 9)
        .await
        .expect("read");
    assert_eq!(page.entries, [change]);

    // While it is down, callers are told so, and afterwards all is well.
    server.kill();
    let error = store.get(key("d")).await.expect_err("nobody is there");
    assert!(text(&error).contains("connect"), "{}", text(&error));
    server.restart().await;
    assert_eq!(store.get(key("d")).await.expect("read"), None);
    store.close().await;
    assert!(matches!(store.get(key("d")).await, Err(Error::Closed)));
    let others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'twin-store'";
    testkit::wait_for(
        "the connections to end",
        Duration::from_secs(10),
        async || (database.ask(others).await.as_deref() == Some("0")).then_some(()),
    )
    .await;
}

/// Two replicas that let a device in with the same token at the same time do not know of each other.
#[tokio::test]
async fn a_token_is_not_used_more_often_than_it_may_by_all_together() {
    let database = testkit::postgres::database().await;
    let store = open(&database.url()).await;
    let claims = store.claim(replica("a", LONG)).await.expect("claimed");
    let token = crate::store::EnrollmentToken {
        hash: [7; 32],
        device: None,
        expires_at: now(),
        uses_max: 1,
    };
    let made = Commit {
        partitions: vec![claims.owned[0]],
        tokens: vec![token],
        ..Commit::default()
    };
    store.commit(made).await.expect("committed");
    let used = |partition: usize, device: &str| Commit {
        partitions: vec![claims.owned[partition]],
        enrollments: vec![crate::store::EnrollmentUse {
            hash: [7; 32],
            device: crate::testing::device(device),
            nonce: "n".to_owned(),
        }],
        ..Commit::default()
    };
    let (one, other) = tokio::join!(store.commit(used(1, "d")), store.commit(used(2, "e")));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    let count = "SELECT count(*) FROM enrollments";
    assert_eq!(database.ask(count).await.as_deref(), Some("1"));
    // The same device again is no further use.
    let again = if one.is_ok() {
        used(1, "d")
    } else {
        used(2, "e")
    };
    store.commit(again).await.expect("it was let in before");
}

/// Whoever is left does not wait for the lease of one that gave everything back.
#[tokio::test]
async fn a_replica_that_leaves_counts_no_more() {
    let database = testkit::postgres::database().await;
    let store = open(&database.url()).await;
    store.claim(replica("a", LONG)).await.expect("claimed");
    store.claim(replica("b", LONG)).await.expect("claimed");
    let all = PartitionCount::new(5)
        .expect("a count")
        .partitions()
        .collect();
    store
        .release(replica("a", LONG).id, all)
        .await
        .expect("released");
    let claims = store.claim(replica("b", LONG)).await.expect("claimed");
    assert_eq!(numbers(&claims.owned), [0, 1, 2, 3, 4]);
}

/// A routine revision is put together with the last one, whether that is stored or of the same
/// commit, and with nothing else.
#[tokio::test]
async fn routine_revisions_are_put_together() {
    let database = testkit::postgres::database().await;
    let store = open(&database.url()).await;
    let claims = store.claim(replica("a", LONG)).await.expect("claimed");
    let entry = |id: &str, revision: u64, routine: bool| crate::store::HistoryEntry {
        key: key(id),
        revision: Revision::new(revision),
        first_revision: Revision::new(revision),
        at: now(),
        first_at: now(),
        actor: "twinward".to_owned(),
        cause: String::new(),
        changes: std::collections::BTreeSet::new(),
        patch: format!(r#"{{"posture":{{"eventCount":{revision}}}}}"#),
        undo: format!(r#"{{"posture":{{"eventCount":{}}}}}"#, revision - 1),
        notification: None,
        has_registry: true,
        routine,
        previous: None,
        trace_parent: None,
    };
    for history in [
        vec![entry("d", 1, false), entry("d", 2, true)],
        vec![
            entry("d", 3, true),
            entry("d", 4, true),
            entry("e", 5, true),
        ],
        vec![entry("d", 6, false)],
        vec![entry("d", 7, true)],
    ] {
        let commit = Commit {
            partitions: vec![claims.owned[0]],
            history,
            coalesce_within: Duration::from_mins(1),
            ..Commit::default()
        };
        store.commit(commit).await.expect("committed");
    }
    let spans = async |id: &str| -> Vec<(u64, u64)> {
        let read = HistoryRead {
            key: key(id),
            before: None,
            from: None,
            to: None,
            limit: 9,
        };
        let entries = store.history(read).await.expect("read");
        let spans = entries.iter();
        spans
            .map(|entry| entry.as_ref().expect("not damaged"))
            .map(|entry| (entry.first_revision.get(), entry.revision.get()))
            .collect()
    };
    assert_eq!(spans("d").await, [(7, 7), (6, 6), (2, 4), (1, 1)]);
    assert_eq!(spans("e").await, [(5, 5)]);
}

#[tokio::test]
async fn every_session_has_limits_in_time() {
    let database = testkit::postgres::database().await;
    let store = open(&database.url()).await;
    let client = store.connections.get().await;
    for (setting, within) in [
        ("lock_timeout", "5s"),
        ("statement_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "5s"),
        ("jit", "off"),
    ] {
        let row = client
            .query_one(&format!("SHOW {setting}"), &[])
            .await
            .expect("asked");
        assert_eq!(row.get::<_, &str>(0), within, "{setting}");
    }
}

#[tokio::test]
async fn an_unfit_database_is_refused_with_what_to_do() {
    let latin = PostgresOptions {
        encoding: "LATIN1".to_owned(),
        ..PostgresOptions::default()
    };
    let server = PostgresServer::start_with(latin).await;
    let url = server.database().await.url();
    let refused = PostgresStore::open(&PostgresSettings::at(&url))
        .await
        .err()
        .expect("LATIN1");
    assert!(
        text(&refused).contains("ENCODING 'UTF8'"),
        "{}",
        text(&refused)
    );

    let database = testkit::postgres::database().await;
    open(&database.url()).await.close().await;
    database
        .execute("UPDATE facts SET value = '99' WHERE name = 'schema'")
        .await;
    let refused = PostgresStore::open(&PostgresSettings::at(database.url()))
        .await
        .err()
        .expect("newer");
    assert!(
        matches!(refused, Error::Newer { found: 99, .. }),
        "{refused:?}"
    );

    // A wrong password is no reason to try again.
    let url = database
        .tcp_url()
        .replace("twinward:twinward@", "twinward:wrong@");
    let refused = PostgresStore::open(&PostgresSettings::at(&url))
        .await
        .err()
        .expect("no password");
    assert!(text(&refused).contains("password"), "{}", text(&refused));
    assert!(!text(&refused).contains("wrong"), "{}", text(&refused));
}

#[tokio::test]
async fn replicas_that_start_together_migrate_once() {
    let database = testkit::postgres::database().await;
    let url = database.url();
    let stores = join_all((0..4).map(|_| open(&url))).await;
    assert_eq!(stores.len(), 4);
    let schema = "SELECT value FROM facts WHERE name = 'schema'";
    let known = migrate::known().to_string();
    assert_eq!(database.ask(schema).await, Some(known));
}

#[tokio::test]
async fn damaged_rows_of_operations_do_not_keep_the_others_from_being_read() {
    let database = testkit::postgres::database().await;
    let store = open(&database.url()).await;
    let states = store.claim(replica("a", LONG)).await.expect("claimed");
    let written = crate::store::sample::many_operations(states.owned);
    store.commit(written).await.expect("committed");
    database
        .execute(
            "UPDATE operation_results SET device_id = device_id || ' x'
                 WHERE device_id NOT IN ('b', 'e');
             ALTER TABLE operations ALTER at DROP NOT NULL;
             UPDATE operations SET at = NULL WHERE id = '2'",
        )
        .await;
    crate::store::sample::read_with_damage(&store).await;
}

#[tokio::test]
async fn tls_is_checked_against_the_authority_and_our_own_certificate_is_shown() {
    let certs = TestCerts::new();
    let strict = PostgresOptions {
        tls: Some(certs.clone()),
        client_certificates: true,
        ..PostgresOptions::default()
    };
    let server = PostgresServer::start_with(strict).await;
    let database: Database = server.database().await;
    let at = || PostgresSettings::at(database.tcp_url());
    let known = PostgresSettings {
        ca_file: Some(certs.ca()),
        cert_file: Some(certs.client_certificate()),
        key_file: Some(certs.client_key()),
        ..at()
    };
    let store = PostgresStore::open(&known).await.expect("it opens");
    let client = store.connections.get().await;
    let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = client.query_one(ssl, &[]).await.expect("asked");
    assert!(row.get::<_, bool>(0));

    let nameless = PostgresSettings {
        ca_file: Some(certs.ca()),
        ..at()
    };
    let refused = PostgresStore::open(&nameless).await;
    let refused = refused.err().expect("no certificate");
    assert!(text(&refused).contains("connect"), "{}", text(&refused));
    let strangers = TestCerts::new();
    let deceived = PostgresSettings {
        ca_file: Some(strangers.ca()),
        ..at()
    };
    let refused = PostgresStore::open(&deceived).await;
    let refused = refused.err().expect("another authority");
    assert!(text(&refused).contains("certificate"), "{}", text(&refused));
}

/// The server cannot answer a row whose text it cannot put together, nor any statement that touches
/// it; and it does not say which row it is.
#[tokio::test]
async fn a_twin_that_the_server_cannot_put_together_is_damaged_by_itself() {
    let flips_are_seen = PostgresOptions {
        // Or the whole page is gone, where pages have checksums.
        extra: "ignore_checksum_failure = on".to_owned(),
        ..PostgresOptions::default()
    };
    let mut server = PostgresServer::start_with(flips_are_seen).await;
    let database = server.database().await;
    let store = open(&database.url()).await;
    let claims = store.claim(replica("a", LONG)).await.expect("claimed");
    // Too long for its page, and not to be compressed, so it lies elsewhere in pieces.
    let noise: String = (0..200)
        .map(|_| uuid::Uuid::new_v4().simple().to_string())
        .collect();
    let large = |noise: &str| {
        let mut large = record("b", "g");
        large.twin.tags.document = format!(r#"{{"noise":"{noise}"}}"#);
        large
    };
    let written = |records: Vec<crate::record::Record>| Commit {
        partitions: claims.owned.clone(),
        upserts: records
            .into_iter()
            .map(|record| Upsert {
                record: Arc::new(record),
                index_remove: Vec::new(),
                index_add: Vec::new(),
            })
            .collect(),
        ..Commit::default()
    };
    let all = vec![
        record("a", "g"),
        large(&noise),
        record("b/m", "g"),
        record("c", "g"),
    ];
    store.commit(written(all)).await.expect("committed");
    database.execute("CHECKPOINT").await;
    let pieces = "SELECT current_setting('data_directory') || '/' ||
        pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'twins'::regclass";
    let path = database.ask(pieces).await.expect("it has a file");
    server.kill();
    let mut bytes = std::fs::read(&path).expect("it can be read");
    let begin = format!(r#"{{"noise":"{}"#, &noise[..32]);
    let begin = begin.as_bytes();
    let at = bytes
        .windows(begin.len())
        .position(|window| window == begin)
        .expect("the first piece");
    // Before the text of a piece are its length and its number, with four bytes each.
    bytes[at - 8] ^= 2;
    std::fs::write(&path, bytes).expect("it can be written");
    server.restart().await;

    let b = || Selection::One(key("b"));
    let is_damaged = |loaded: &Loaded| matches!(loaded, Loaded::Damaged(of, _) if *of == b());
    let found = store.get(key("b")).await;
    assert!(matches!(&found, Err(Error::Damaged(_))), "{found:?}");
    let ones = vec![Selection::One(key("a")), b(), Selection::One(key("c"))];
    let loaded = store.load(ones).await.expect("read");
    assert_eq!(loaded.len(), 3);
    assert!(is_damaged(&loaded[1]), "{loaded:?}");
    assert!(matches!(&loaded[2], Loaded::Whole(record) if record.key == key("c")));
    let family = vec![Selection::Family(crate::testing::device("b"))];
    let loaded = store.load(family).await.expect("read");
    assert!(is_damaged(&loaded[0]), "{loaded:?}");
    assert!(matches!(&loaded[1], Loaded::Whole(record) if record.key == key("b/m")));
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let search = everything(Source::All, after, 1, now());
        let page = store.search(search).await.expect("read");
        names.extend(page.records.iter().map(|record| record.key.to_string()));
        names.extend(
            page.damaged
                .iter()
                .map(|damaged| format!("!{}", damaged.key)),
        );
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(names, ["a", "!b", "b/m", "c"]);
    let noted = store.damaged().await.expect("read");
    assert_eq!(noted.iter().map(|one| &*one.key).collect::<Vec<_>>(), ["b"]);
    // A check names it and goes on behind it, and so does a backup.
    let rows = PostgresRows::new(testing::settings(&database.url()));
    let backup = backup(&rows, Vec::new(), now(), Gaps::Refused, |_, _| ());
    let (bytes, report) = backup.await.expect("nothing is missing");
    let mut of_it = report.findings.iter().filter(|one| one.key == "b/");
    let is_named = of_it.any(|one| one.problem.contains("tags"));
    assert!(is_named, "{report:?}");
    let folder = tempfile::tempdir().expect("a folder");
    let files = SqliteFiles::new(folder.path());
    let restoring = sample::restoring(now(), Gaps::Refused);
    let restored = restore(std::io::Cursor::new(bytes), &files, restoring, |_, _| ());
    restored.await.expect("restored");
    let other = SqliteStore::open(folder.path()).expect("it opens");
    for (name, is_there) in [("a", true), ("b", false), ("c", true)] {
        let found = other.get(key(name)).await.expect("read");
        assert_eq!(found.is_some(), is_there, "{name}");
    }
    other.close().await;
    // Written anew, it is as any other.
    store
        .commit(written(vec![large("none")]))
        .await
        .expect("committed");
    assert_eq!(
        store.get(key("b")).await.expect("read"),
        Some(large("none"))
    );
    assert_eq!(store.damaged().await.expect("read"), []);
    store.close().await;
}

/// Fills the audit log with so many entries, of ever later times.
async fn audited(database: &Database, entries: u32) -> PostgresStore {
    let store = open(&database.url()).await;
    sample::take(&store).await;
    store
        .execute_raw(&format!(
            "INSERT INTO audit SELECT n % 4, n, n * 1000, 'operator:alice', 'device.create',
                 'devices/d' || n, '{{}}', NULL, decode(repeat('00', 32), 'hex')
             FROM generate_series(1, {entries}) AS n;
             ANALYZE audit"
        ))
        .await;
    store
}

#[tokio::test]
async fn the_newest_of_a_hundred_thousand_audit_entries_are_read_from_a_few_pages() {
    let database = testkit::postgres::database().await;
    let store = audited(&database, 100_000).await;
    let of = |text: &str| Some(text.to_owned());
    let newest = AuditRead {
        newest_first: true,
        limit: 10,
        ..AuditRead::default()
    };
    for read in [
        newest.clone(),
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
            to: Some(jiff::Timestamp::from_microsecond(50_000).unwrap()),
            ..newest
        },
    ] {
        let found = store.audit_by_time(read.clone()).await.expect("read");
        assert!(!found.entries.is_empty(), "{read:?}");
        assert!(found.looked_at <= 10, "{found:?}");
        let client = store.connections.get().await;
        let pages = trails::audit_pages(&client, &read).await;
        assert!(pages < 60, "{pages} pages for {read:?}");
    }
}

/// What puts together and counts everything that is there, in many turns.
fn due() -> Retention {
    Retention {
        now: now() + Duration::from_hours(3),
        history_age: Duration::MAX,
        history_count: 5,
        history_span: Duration::from_secs(10),
        history_every: Duration::ZERO,
        request_age: Duration::MAX,
        operation_age: Duration::MAX,
        batch: 8,
    }
}

/// A store with 40 identities of 20 revisions each, every fourth of which is no routine one.
async fn with_histories(store: &PostgresStore) {
    let states = store.claim(replica("a", LONG)).await.expect("claimed");
    let revisions = (0..40_u64).flat_map(|device| {
        let key = key(&format!("d{device}"));
        (1..=20_u64).map(move |number| HistoryEntry {
            routine: number % 4 != 0,
            ..sample::revision(&key, number)
        })
    });
    let written = Commit {
        partitions: states.owned,
        history: revisions.collect(),
        ..Commit::default()
    };
    store.commit(written).await.expect("committed");
}

async fn trim_all(store: &PostgresStore) -> Trimmed {
    let mut all = Trimmed::default();
    for _ in 0..1000 {
        let trimmed = store.trim(due()).await.expect("trimmed");
        all.revisions += trimmed.revisions;
        all.joined += trimmed.joined;
        all.written += trimmed.written;
        if !trimmed.more {
            return all;
        }
    }
    panic!("it does not end");
}

async fn left(store: &PostgresStore) -> Vec<Vec<u64>> {
    let mut left = Vec::new();
    for device in 0..40 {
        let read = HistoryRead {
            key: key(&format!("d{device}")),
            before: None,
            from: None,
            to: None,
            limit: 99,
        };
        let found = store.history(read).await.expect("read");
        let numbers = found.iter().flatten().map(|entry| entry.revision.get());
        left.push(numbers.collect());
    }
    left
}

#[tokio::test]
async fn one_replica_trims_at_a_time() {
    let database = testkit::postgres::database().await;
    let (a, b) = (open(&database.url()).await, open(&database.url()).await);
    with_histories(&a).await;
    let mut client = a.connections.get().await;
    let transaction = client.transaction().await.expect("begun");
    let lock = "SELECT pg_advisory_xact_lock($1)";
    transaction
        .execute(lock, &[&trim::LOCK])
        .await
        .expect("taken");
    let trimmed = b.trim(due()).await.expect("no error, and no waiting");
    assert_eq!(trimmed, Trimmed::default());
    transaction.commit().await.expect("given back");
    assert!(b.trim(due()).await.expect("trimmed").joined > 0);
}

#[tokio::test]
async fn replicas_that_trim_together_do_what_one_would_do() {
    let database = testkit::postgres::database().await;
    let alone = open(&database.url()).await;
    with_histories(&alone).await;
    let expected = trim_all(&alone).await;
    let kept = left(&alone).await;
    assert_eq!(kept.len(), 40);
    assert!(
        kept.iter().all(|revisions| revisions.len() == 5),
        "{kept:?}"
    );

    let database = testkit::postgres::database().await;
    let (a, b) = (open(&database.url()).await, open(&database.url()).await);
    with_histories(&a).await;
    // Who is not alone does nothing and says that nothing is left, so both are asked until nothing is.
    let mut all = Trimmed::default();
    loop {
        let (one, other) = tokio::join!(trim_all(&a), trim_all(&b));
        for trimmed in [one, other] {
            all.revisions += trimmed.revisions;
            all.joined += trimmed.joined;
            all.written += trimmed.written;
        }
        if one == Trimmed::default() && other == Trimmed::default() {
            break;
        }
    }
    assert_eq!(all, expected);
    assert_eq!(left(&a).await, kept);
}

#[tokio::test]
async fn what_is_behind_a_span_is_not_looked_at() {
    let database = testkit::postgres::database().await;
    let store = open(&database.url()).await;
    let states = sample::take(&store).await;
    let (written, found) = sample::far_apart(states, 600);
    store.commit(written).await.expect("committed");
    let reaches = crate::store::thin::reaches(vec![found]);
    let mut client = store.connections.get().await;
    let transaction = client.transaction().await.expect("begun");
    let lights = super::thin::lights(&transaction, &reaches).await;
    let lights = lights.expect("read");
    let numbers: Vec<_> = lights[0].iter().map(|light| light.revision).collect();
    assert_eq!(numbers, [9, 10]);
}
