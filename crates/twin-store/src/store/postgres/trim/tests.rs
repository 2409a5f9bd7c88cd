//! What damage that the server itself comes upon does to the histories: of a value that lies in pieces of its own, of
//! a whole page, and of a number in a row, whose pages have no checksums then.

use std::path::PathBuf;

use testkit::{Database, PostgresOptions, PostgresServer};
use twin::Revision;

use super::*;
use crate::store::maintain::verify;
use crate::store::postgres::PostgresRows;
use crate::store::postgres::testing::{open, settings};
use crate::store::sample::{self, of, revision, take};
use crate::store::{
    Commit, HistoryEntry, HistoryRead, Loaded, OperationId, OperationRow, RequestAnswer, RequestId,
    Selection, Store,
};
use crate::testing::{key, now};

const NAMES: [&str; 3] = ["aaa-1", "cam-2", "zzz-3"];
const REVISIONS: u64 = 9;
/// The first of those that are no routine ones.
const KEPT: u64 = 7;
/// The revision that is damaged.
const HIT: u64 = 4;

fn retention() -> Retention {
    Retention {
        now: now() + SignedDuration::from_hours(2),
        history_age: Duration::MAX,
        history_count: u32::MAX,
        history_span: Duration::ZERO,
        history_every: Duration::from_mins(1),
        request_age: Duration::MAX,
        operation_age: Duration::MAX,
        batch: 5,
    }
}

fn thin() -> Retention {
    Retention {
        history_span: Duration::from_hours(24),
        now: now() + SignedDuration::from_hours(48),
        ..retention()
    }
}

fn few() -> Retention {
    Retention {
        history_count: 2,
        ..retention()
    }
}

fn old() -> Retention {
    Retention {
        history_age: Duration::from_hours(1),
        ..retention()
    }
}

/// A server whose pages stay as they are while it does nothing.
async fn server(extra: &str, without_checksums: bool) -> PostgresServer {
    let options = PostgresOptions {
        extra: format!("autovacuum = off\n{extra}"),
        without_checksums,
        ..PostgresOptions::default()
    };
    PostgresServer::start_with(options).await
}

fn routine(name: &str, number: u64) -> HistoryEntry {
    HistoryEntry {
        routine: true,
        previous: Some(Revision::new(number - 1)),
        ..revision(&key(name), number)
    }
}

/// Text that is too long for its page, and not to be compressed, so that it lies elsewhere in pieces.
fn noise() -> String {
    let noise = (0..200).map(|_| uuid::Uuid::new_v4().simple().to_string());
    noise.collect()
}

/// Writes them, each into the partition of its device.
async fn write(store: &PostgresStore, entries: Vec<HistoryEntry>, coalesce_within: Duration) {
    let mut states = take(store).await;
    for entry in &entries {
        of(&mut states, &entry.key).revision = entry.revision;
    }
    let commit = Commit {
        partitions: states,
        history: entries,
        coalesce_within,
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
}

/// Routine revisions of three devices and some that are none; `noise` is in the one that is to be damaged.
async fn fill(store: &PostgresStore, noise: &str) {
    let mut entries = Vec::new();
    for name in NAMES {
        entries.extend((1..=REVISIONS).map(|number| {
            let mut entry = routine(name, number);
            entry.routine = number < KEPT;
            if (name, number) == ("cam-2", HIT) {
                entry.patch = format!(r#"{{"noise":"{noise}"}}"#);
            }
            entry
        }));
    }
    write(store, entries, Duration::ZERO).await;
}

/// The file of a table, or of what its values lie in.
async fn file(database: &Database, table: &str, relation: &str) -> PathBuf {
    let sql = format!(
        "SELECT current_setting('data_directory') || '/' || pg_relation_filepath({relation})
         FROM pg_class WHERE oid = '{table}'::regclass"
    );
    database.ask(&sql).await.expect("it has a file").into()
}

/// Has the disk change bytes of a file of the histories, at the one place where they are.
async fn change(
    server: &mut PostgresServer,
    database: &Database,
    relation: &str,
    change: impl FnOnce(&mut Vec<u8>),
) {
    change_of(server, database, ("history", relation), change).await;
}

async fn change_of(
    server: &mut PostgresServer,
    database: &Database,
    (table, relation): (&str, &str),
    change: impl FnOnce(&mut Vec<u8>),
) {
    database.execute("CHECKPOINT").await;
    let path = file(database, table, relation).await;
    server.kill();
    let mut bytes = std::fs::read(&path).expect("it can be read");
    change(&mut bytes);
    std::fs::write(&path, bytes).expect("it can be written");
    server.restart().await;
}

/// Where something is in a file.
fn place(bytes: &[u8], wanted: &[u8]) -> usize {
    let mut found = bytes.windows(wanted.len()).enumerate();
    let (place, _) = { &mut found }
        .find(|(_, window)| *window == wanted)
        .expect("it is there");
    assert!(
        !found.any(|(_, window)| window == wanted),
        "it is there once"
    );
    place
}

/// Takes away the first piece of a text.
async fn lose_piece(server: &mut PostgresServer, database: &Database, noise: &str) {
    let begin = format!(r#"{{"noise":"{}"#, &noise[..32]);
    // Before the text of a piece are its length and its number, with four bytes each.
    let flip = |bytes: &mut Vec<u8>| {
        let at = place(bytes, begin.as_bytes());
        bytes[at - 8] ^= 2;
    };
    change(server, database, "reltoastrelid", flip).await;
}

/// Trims until there is nothing more to do; answers what is noted.
async fn trimmed(store: &PostgresStore, retention: Retention) -> Vec<String> {
    let mut ends = false;
    for _ in 0..200 {
        ends = !store.trim(retention).await.expect("it trims").more;
        if ends {
            break;
        }
    }
    assert!(ends, "it does not end");
    let noted = store.damaged().await.expect("read").into_iter();
    noted.map(|one| one.key).collect()
}

/// The revisions of a device, whatever else is wrong with them.
async fn left(database: &Database, name: &str) -> Vec<u64> {
    let sql = format!(
        "SELECT string_agg(revision::text, ' ' ORDER BY revision) FROM history
         WHERE device_id = '{name}'"
    );
    let numbers = database.ask(&sql).await.unwrap_or_default();
    let numbers = numbers.split_whitespace().map(str::parse);
    numbers.collect::<Result<_, _>>().expect("numbers")
}

/// As in a large table.
const BY_INDEX: &str = "enable_seqscan = off\nenable_bitmapscan = off\nenable_sort = off";
const FLIPS_ARE_SEEN: &str = "ignore_checksum_failure = on";

#[tokio::test]
async fn a_value_that_the_server_cannot_put_together_keeps_nothing_else() {
    let mut server = server(FLIPS_ARE_SEEN, false).await;
    let database = server.database().await;
    let store = open(&database.url()).await;
    let noise = noise();
    fill(&store, &noise).await;
    lose_piece(&mut server, &database, &noise).await;
    let named = [format!("cam-2/{HIT}")];
    let all = Retention {
        history_count: 5,
        ..thin()
    };
    for _ in 0..2 {
        // The second time nothing is left to say.
        assert_eq!(trimmed(&store, all).await, named);
        assert_eq!(left(&database, "aaa-1").await, [6, 7, 8, 9]);
        assert_eq!(left(&database, "cam-2").await, [4, 6, 7, 8, 9]);
        assert_eq!(left(&database, "zzz-3").await, [6, 7, 8, 9]);
    }
    let report = verify(&PostgresRows::new(settings(&database.url())), |_, _| ()).await;
    let findings = report.expect("it can be read").findings;
    let of_it = findings.iter().find(|one| one.problem.contains("patch"));
    assert_eq!(of_it.expect("it is named").key, "cam-2//4", "{findings:?}");
    assert_eq!(trimmed(&store, old()).await, [""; 0], "it is gone");
    for name in NAMES {
        assert_eq!(left(&database, name).await, [0; 0], "{name}");
    }
    store.close().await;
}

fn all_of(name: &str) -> HistoryRead {
    HistoryRead {
        key: key(name),
        before: None,
        from: None,
        to: None,
        limit: 100,
    }
}

/// A report that is routine is put together with the last revision, which has to be read for it.
#[tokio::test]
async fn a_last_revision_that_cannot_be_read_keeps_nobody_from_writing() {
    let mut server = server(FLIPS_ARE_SEEN, false).await;
    let database = server.database().await;
    let store = open(&database.url()).await;
    let noise = noise();
    let large = HistoryEntry {
        patch: format!(r#"{{"noise":"{noise}"}}"#),
        ..routine("cam-2", 1)
    };
    write(&store, vec![large, routine("zzz-3", 1)], Duration::ZERO).await;
    lose_piece(&mut server, &database, &noise).await;
    let next = ["cam-2", "zzz-3"].map(|name| routine(name, 2));
    write(&store, next.into(), Duration::from_hours(1)).await;
    assert_eq!(left(&database, "cam-2").await, [1, 2], "it stays by itself");
    assert_eq!(left(&database, "zzz-3").await, [2], "they are one");
    let noted = store.damaged().await.expect("read");
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert!(noted[0].key.starts_with("cam-2/"), "{noted:?}");
    store.close().await;
}

/// Devices of which each has revisions on several pages, and the page in the midst of them.
async fn on_pages(store: &PostgresStore, database: &Database) -> (Vec<String>, u64, Vec<String>) {
    let names: Vec<_> = (0..6).map(|number| format!("d{number}")).collect();
    for (place, name) in (0_u64..).zip(&names) {
        // Each at times of its own, as they lie on the pages.
        let entries = (1..=80).map(|number| {
            let at =
                now() + SignedDuration::from_secs(i64::try_from(100 * place + number).unwrap());
            HistoryEntry {
                at,
                first_at: at,
                // Few of them lie on a page.
                cause: "because ".repeat(100),
                ..routine(name, number)
            }
        });
        write(store, entries.collect(), Duration::ZERO).await;
    }
    let page = "SELECT (ctid::text::point)[0]::bigint FROM history
                WHERE device_id = 'd2' AND revision = 40";
    let page = database
        .ask(page)
        .await
        .expect("it is there")
        .parse()
        .expect("a number");
    let on_it = format!(
        "SELECT string_agg(DISTINCT device_id, ' ') FROM history
         WHERE (ctid::text::point)[0]::bigint = {page}"
    );
    let on_it = database.ask(&on_it).await.expect("some");
    let on_it: Vec<_> = on_it.split(' ').map(str::to_owned).collect();
    (names, page, on_it)
}

/// Devices whose revisions are not on a damaged page lose what they have to lose.
#[tokio::test]
async fn a_damaged_page_keeps_nothing_of_those_that_are_not_on_it() {
    for retention in [thin(), few(), old()] {
        let mut server = server("", false).await;
        let database = server.database().await;
        let store = open(&database.url()).await;
        let (names, page, on_it) = on_pages(&store, &database).await;
        assert!(on_it.len() <= 2, "{on_it:?}");
        let middle = usize::try_from(page).expect("small") * 8192 + 5000;
        change(&mut server, &database, "oid", |bytes| bytes[middle] ^= 1).await;
        let retention = Retention {
            batch: 50,
            ..retention
        };
        let noted = trimmed(&store, retention).await;
        assert!(!noted.is_empty(), "{retention:?}");
        for name in names.iter().filter(|name| !on_it.contains(name)) {
            let expected: &[u64] = if retention.history_count == 2 {
                &[79, 80]
            } else if retention.history_span.is_zero() {
                &[]
            } else {
                &[80]
            };
            let found = numbers_of(&store, name).await;
            assert_eq!(found, expected, "{name}: {retention:?}");
        }
        // There is nothing more to say, to nobody.
        assert_eq!(trimmed(&store, retention).await, noted);
        let other = open(&database.url()).await;
        assert_eq!(trimmed(&other, retention).await, noted);
        other.close().await;
        store.close().await;
    }
}

async fn numbers_of(store: &PostgresStore, name: &str) -> Vec<u64> {
    let entries = store.history(all_of(name)).await.expect("read");
    let numbers = entries.iter().flatten().map(|entry| entry.revision.get());
    let mut numbers: Vec<_> = numbers.collect();
    numbers.reverse();
    numbers
}

/// How the row of the revision that is damaged begins: its device with its length, an empty module, a byte that
/// fills, and twice its number.
fn row(name: &str, number: u64) -> Vec<u8> {
    let number = number.to_le_bytes();
    [b"\x0d", name.as_bytes(), b"\x03\0", &number, &number].concat()
}

#[tokio::test]
async fn a_number_that_is_damaged_is_noted_in_the_end_and_passed_over() {
    let mut server = server(BY_INDEX, true).await;
    let database = server.database().await;
    let store = open(&database.url()).await;
    fill(&store, "none").await;
    // 4 becomes 260.
    let flip = |bytes: &mut Vec<u8>| {
        let at = place(bytes, &row("cam-2", HIT));
        bytes[at + 9] ^= 1;
    };
    change(&mut server, &database, "oid", flip).await;
    assert_eq!(trimmed(&store, thin()).await, ["cam-2/1"]);
    for name in ["aaa-1", "zzz-3"] {
        assert_eq!(left(&database, name).await, [6, 7, 8, 9]);
    }
    let of_it = left(&database, "cam-2").await;
    // Under the numbers that its index has; 5 is part of 6.
    assert_eq!(of_it, [1, 2, 3, 4, 6, 7, 8, 9], "nothing of it is lost");
    assert_eq!(trimmed(&store, thin()).await, ["cam-2/1"]);
    store.close().await;
}

#[tokio::test]
async fn an_oldest_revision_that_is_not_found_again_does_not_slow_the_others() {
    let mut server = server("", true).await;
    let database = server.database().await;
    let store = open(&database.url()).await;
    fill(&store, "none").await;
    let flip = |bytes: &mut Vec<u8>| {
        let at = place(bytes, &row("cam-2", 1));
        bytes[at + 1] ^= 0x20;
    };
    change(&mut server, &database, "oid", flip).await;
    // Of the first five one is not removed, and there is more all the same.
    let first = store.trim(old()).await.expect("trimmed");
    assert!(first.more && first.revisions < 5, "{first:?}");
    trimmed(&store, old()).await;
    for name in ["aaa-1", "zzz-3"] {
        assert_eq!(left(&database, name).await, [0; 0]);
    }
    store.close().await;
}

#[tokio::test]
async fn a_place_that_cannot_be_read_is_the_beginning() {
    let database = testkit::postgres::database().await;
    let store = open(&database.url()).await;
    fill(&store, "none").await;
    database
        .execute(
            "CREATE CAST (bytea AS text) WITHOUT FUNCTION;
             INSERT INTO facts (name, value)
             SELECT name, '\\xff'::bytea::text
             FROM UNNEST(ARRAY['history_thinned', 'history_counted']) AS of (name)",
        )
        .await;
    let all = Retention {
        history_count: 2,
        ..thin()
    };
    trimmed(&store, all).await;
    assert_eq!(left(&database, "cam-2").await, [8, 9]);
    store.close().await;
}

/// Of the answers those on one page, whose checksum is wrong.
#[tokio::test]
async fn answers_that_cannot_be_removed_keep_nothing_else() {
    let mut server = server("", false).await;
    let database = server.database().await;
    let store = open(&database.url()).await;
    let states = take(&store).await;
    let answer = |number: u8| RequestAnswer {
        id: RequestId(format!("alice/UpdateTwin/{number}")),
        fingerprint: [number; 32],
        answer: vec![number; 1500],
        at: now() + Duration::from_secs(number.into()),
    };
    let operation = |number: u8| OperationRow {
        id: OperationId(format!("018f-{number}")),
        ended: true,
        at: now(),
        body: format!(r#"{{"kind":"{number}"}}"#),
    };
    let mut results = sample::results();
    results[0].operation = operation(1).id;
    let written = Commit {
        partitions: states,
        requests: (0..20).map(answer).collect(),
        operations: (1..4).map(operation).collect(),
        results,
        tokens: sample::tokens(),
        enrollments: sample::enrollments(),
        ..Commit::default()
    };
    store.commit(written).await.expect("committed");
    let flip = |bytes: &mut Vec<u8>| {
        let at = place(bytes, b"alice/UpdateTwin/7");
        bytes[at] ^= 1;
    };
    change_of(&mut server, &database, ("requests", "oid"), flip).await;
    let all = Retention {
        request_age: Duration::from_hours(1),
        operation_age: Duration::from_hours(1),
        // Tokens go an hour after they have expired.
        now: now() + SignedDuration::from_hours(3),
        batch: 3,
        ..old()
    };
    let noted = trimmed(&store, all).await;
    assert_eq!(noted.len(), 1, "{noted:?}");
    for _ in 0..2 {
        trimmed(&store, all).await;
        let selections = (0..20).map(|number| Selection::Request(answer(number).id));
        let left = store.load(selections.collect()).await.expect("read");
        assert!((1..10).contains(&left.len()), "{left:?}");
        let is_damaged = |one: &Loaded| matches!(one, Loaded::Damaged(..));
        assert!(left.iter().all(is_damaged), "{left:?}");
    }
    for table in [
        "operations",
        "operation_results",
        "enrollment_tokens",
        "enrollments",
    ] {
        let left = format!("SELECT count(*)::text FROM {table}");
        assert_eq!(database.ask(&left).await.as_deref(), Some("0"), "{table}");
    }
    store.close().await;
}

#[tokio::test]
async fn twins_on_a_damaged_page_keep_no_others_from_being_written() {
    let mut server = server("", false).await;
    let database = server.database().await;
    let store = open(&database.url()).await;
    let names: Vec<_> = (100..140).map(|number| format!("dev-{number}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let mut states = take(&store).await;
    let first = sample::created(&mut states, &names);
    store.commit(first).await.expect("committed");
    let flip = |bytes: &mut Vec<u8>| {
        // The first of two or more: the other ones are what the row says of itself.
        let of = b"dev-107";
        let mut found = bytes.windows(of.len()).enumerate();
        let (at, _) = found.find(|(_, window)| window == of).expect("the row");
        bytes[at] ^= 1;
    };
    change_of(&mut server, &database, ("twins", "oid"), flip).await;
    let all = sample::created(&mut states.clone(), &names);
    let refused = store.commit(all).await.expect_err("it is damaged");
    let Error::Unwritable(said) = refused else {
        panic!("{refused}");
    };
    let on_it: Vec<String> = said
        .iter()
        .map(|one| match one {
            Loaded::Damaged(Selection::One(key), _) => key.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(on_it.contains(&"dev-107".to_owned()), "{on_it:?}");
    assert!(on_it.len() < 20, "{on_it:?}");
    let beside: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !on_it.iter().any(|one| one == name))
        .collect();
    let rest = sample::created(&mut states, &beside);
    store.commit(rest).await.expect("they are beside it");
    let noted = store.damaged().await.expect("read");
    let noted: Vec<_> = noted.iter().map(|one| &*one.key).collect();
    assert_eq!(noted, on_it);
    store.close().await;
}
