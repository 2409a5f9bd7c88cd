//! What flipped bits in the file do to trims. A row of the history is in the file twice, in its table and in the
//! index by time; a disk changes one of them.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use service_kit::error::chain;
use tempfile::TempDir;
use twin::Revision;

use super::*;
use crate::store::maintain::Table;
use crate::store::sample::{of, revision, take};
use crate::store::sqlite::read::is_of_damage;
use crate::store::sqlite::write;
use crate::store::{Commit, Store, sqlite::FILE_NAME};
use crate::testing::{key, now};

const NAMES: [&str; 3] = ["aaa-1", "cam-2", "zzz-3"];
const REVISIONS: u64 = 9;
/// The first of those that are no routine ones.
const KEPT: u64 = 7;
/// The revision that a bit is flipped of.
const HIT: u64 = 4;

/// A closed store with routine revisions of three devices.
async fn filled() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    let mut states = take(&store).await;
    for name in NAMES {
        for number in 1..=REVISIONS {
            let mut entry = revision(&key(name), number);
            // The last ones are apart, and behind them the chain begins anew.
            entry.routine = number < KEPT;
            let previous = if number == KEPT + 1 { 0 } else { number - 1 };
            entry.previous = Some(Revision::new(previous));
            of(&mut states, &key(name)).revision = Revision::new(number);
            let commit = Commit {
                partitions: vec![*of(&mut states, &key(name))],
                history: vec![entry],
                ..Commit::default()
            };
            store.commit(commit).await.unwrap();
        }
    }
    store.close().await;
    folder
}

/// Of the one row of `cam-2` whose bits are flipped: where in the file.
#[derive(Debug, Clone, Copy)]
enum Flip {
    IndexDevice(u8),
    IndexTime(u8),
    TableTime(u8),
    TableDevice(u8),
    TableRevision(u8),
}

const FLIPS: [Flip; 13] = [
    Flip::IndexDevice(0x80),
    Flip::IndexDevice(0x01),
    Flip::IndexTime(0x10),
    Flip::TableTime(0x10),
    Flip::TableDevice(0x80),
    Flip::TableDevice(0x02),
    Flip::TableRevision(0x01),
    Flip::TableRevision(0x02),
    Flip::TableRevision(0x04),
    Flip::TableRevision(0x08),
    Flip::TableRevision(0x10),
    Flip::TableRevision(0x20),
    Flip::TableRevision(0x40),
];

fn flip(folder: &Path, flip: Flip) {
    flip_of(folder, HIT, flip);
}

/// Where the row of a revision is in the index by time.
fn in_index(bytes: &[u8], number: u64) -> usize {
    let at = nanoseconds(revision(&key("cam-2"), number).at).unwrap();
    let number = u8::try_from(number).unwrap();
    let row = [&at.to_be_bytes()[..], b"cam-2", &[number]].concat();
    let found = bytes.windows(row.len()).position(|window| window == row);
    found.expect("the row")
}

fn flip_of(folder: &Path, number: u64, flip: Flip) {
    let file = folder.join(FILE_NAME);
    let mut bytes = fs::read(&file).unwrap();
    let at = nanoseconds(revision(&key("cam-2"), number).at)
        .unwrap()
        .to_be_bytes();
    let number = u8::try_from(number).unwrap();
    // The columns of the row follow one another, texts without their lengths.
    let index = [&at[..], b"cam-2", &[number]].concat();
    let table = [b"cam-2", &[number, number][..], &at].concat();
    let (row, offset, mask) = match flip {
        Flip::IndexTime(mask) => (index, 6, mask),
        Flip::IndexDevice(mask) => (index, 8, mask),
        Flip::TableDevice(mask) => (table, 0, mask),
        Flip::TableRevision(mask) => (table, 5, mask),
        Flip::TableTime(mask) => (table, 7 + 6, mask),
    };
    let mut found = bytes.windows(row.len()).enumerate();
    let (place, _) = found.find(|(_, bytes)| *bytes == row).expect("the row");
    assert!(!found.any(|(_, bytes)| bytes == row), "it is there once");
    bytes[place + offset] ^= mask;
    fs::write(&file, bytes).unwrap();
}

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

/// Trims until there is nothing more to do; answers how much is noted.
async fn trimmed(store: &SqliteStore, retention: Retention) -> usize {
    let mut ends = false;
    for _ in 0..200 {
        ends = !store.trim(retention).await.expect("it trims").more;
        if ends {
            break;
        }
    }
    assert!(ends, "it does not end");
    store.damaged().await.unwrap().len()
}

/// How many revisions there are of a device.
fn left(folder: &Path, name: &str) -> i64 {
    let raw = Connection::open(folder.join(FILE_NAME)).unwrap();
    let sql = "SELECT count(*) FROM history WHERE device_id = ?1 AND module_id = ''";
    raw.query_row(sql, [name], |row| row.get(0)).unwrap()
}

async fn each_flip(retention: Retention, expected: i64) {
    let sound = filled().await;
    for one in FLIPS {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(sound.path().join(FILE_NAME), folder.path().join(FILE_NAME)).unwrap();
        flip(folder.path(), one);
        let left = |name| left(folder.path(), name);
        // In the second turn a process that knows of nothing does it.
        for _ in 0..2 {
            let store = SqliteStore::open(folder.path()).unwrap();
            trimmed(&store, retention).await;
            store.close().await;
            assert_eq!(left("aaa-1"), expected, "{one:?}");
            // A row whose device is another one hides those behind it.
            if !matches!(one, Flip::TableDevice(_)) {
                assert_eq!(left("zzz-3"), expected, "{one:?}");
            }
            if let Flip::TableRevision(_) = one
                && retention.history_span > Duration::ZERO
            {
                // Whatever is made of the rest: these are not to be put together.
                let raw = Connection::open(folder.path().join(FILE_NAME)).unwrap();
                let sql = "SELECT count(*) FROM history
                    WHERE patch <> '' AND +device_id = 'cam-2' AND +revision BETWEEN 7 AND 9";
                let kept: i64 = raw.query_row(sql, [], |row| row.get(0)).unwrap();
                assert_eq!(kept, 3, "{one:?}");
            }
            if matches!(one, Flip::IndexDevice(_) | Flip::IndexTime(_)) {
                assert_eq!(left("cam-2"), expected, "{one:?}: nothing of it is lost");
            }
        }
    }
}

fn old() -> Retention {
    Retention {
        history_age: Duration::from_hours(1),
        ..retention()
    }
}

#[tokio::test]
async fn a_flipped_bit_keeps_no_other_history_from_growing_old() {
    each_flip(old(), 0).await;
}

#[tokio::test]
async fn a_flipped_bit_keeps_no_other_history_from_being_put_together() {
    let thin = Retention {
        history_span: Duration::from_hours(1),
        ..retention()
    };
    // Of those with a number below them nothing is put together, whatever is flipped.
    each_flip(thin, 1 + REVISIONS.cast_signed() - KEPT.cast_signed() + 1).await;
}

#[tokio::test]
async fn a_flipped_bit_keeps_no_other_history_from_being_counted() {
    let few = Retention {
        history_count: 2,
        ..retention()
    };
    each_flip(few, 2).await;
}

#[tokio::test]
async fn a_large_store_notes_what_cannot_be_removed_and_the_next_start_mends_its_index() {
    let folder = filled().await;
    flip(folder.path(), Flip::IndexTime(0x10));
    let mut store = SqliteStore::open(folder.path()).unwrap();
    let mut memory = Memory::default();
    memory.stuck.reindexed_max = 5;
    store.trims = Arc::new(memory);
    assert_ne!(trimmed(&store, old()).await, 0);
    // Nor does trimming again change anything.
    assert_ne!(trimmed(&store, old()).await, 0);
    store.close().await;
    assert_ne!(NAMES.map(|name| left(folder.path(), name)), [0; 3]);
    let store = SqliteStore::open(folder.path()).unwrap();
    assert_eq!(trimmed(&store, old()).await, 0, "the notes are gone");
    store.close().await;
    assert_eq!(NAMES.map(|name| left(folder.path(), name)), [0; 3]);
}

/// All that is too old in one turn.
fn at_once() -> Retention {
    Retention {
        batch: 100,
        ..old()
    }
}

#[tokio::test]
async fn that_it_cannot_be_removed_is_noted_beside_what_a_reader_has_noted() {
    let folder = filled().await;
    flip(folder.path(), Flip::IndexTime(0x10));
    let mut store = SqliteStore::open(folder.path()).unwrap();
    let mut memory = Memory::default();
    memory.stuck.reindexed_max = 5;
    store.trims = Arc::new(memory);
    let noted = r#"INSERT INTO quarantine VALUES ('history', '["cam-2","","1"]', 7, 'unreadable')"#;
    crate::store::sqlite::tamper(folder.path(), noted, []);
    trimmed(&store, at_once()).await;
    let damaged = store.damaged().await.unwrap();
    let problem = damaged.iter().find(|one| one.key == "cam-2/1");
    let problem = &problem.expect("it is noted").problem;
    assert!(problem.contains("revisions stay as they are"), "{problem}");
    assert!(problem.ends_with("; unreadable"), "{problem}");
    store.close().await;
    // So the next start mends it.
    let store = SqliteStore::open(folder.path()).unwrap();
    assert_eq!(trimmed(&store, old()).await, 0);
    store.close().await;
    assert_eq!(NAMES.map(|name| left(folder.path(), name)), [0; 3]);
}

#[tokio::test]
async fn an_index_that_was_made_anew_in_vain_is_made_anew_again() {
    let folder = filled().await;
    flip(folder.path(), Flip::IndexTime(0x10));
    let mut connection = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    let stuck = Stuck::default();
    let mut old = |is_kept: bool| {
        let mut removed = 0;
        let done = stuck.part(&mut connection, |transaction| {
            (removed, _) = old_revisions(transaction, &at_once(), &stuck)?;
            if is_kept { Ok(()) } else { Err(Error::Closed) }
        });
        assert_eq!(done.unwrap().is_ok(), is_kept);
        removed
    };
    // The disk is full, for instance: what was done is undone, and the index is as it was.
    let first = old(false);
    assert!(first > 0);
    assert_eq!(old(true), first);
    while old(true) > 0 {}
    assert_eq!(stuck.take_notes(), []);
    assert_eq!(NAMES.map(|name| left(folder.path(), name)), [0; 3]);
}

#[tokio::test]
async fn revisions_that_are_hidden_are_noted() {
    let folder = filled().await;
    flip(folder.path(), Flip::TableDevice(0x80));
    let store = SqliteStore::open(folder.path()).unwrap();
    trimmed(&store, old()).await;
    let damaged = store.damaged().await.unwrap();
    let hidden = damaged
        .iter()
        .filter(|one| one.problem.contains("not by its key"));
    let hidden: Vec<_> = hidden.map(|one| &*one.key).collect();
    assert!(hidden.contains(&"cam-2/\u{fffd}"), "{damaged:?}");
    // Once is enough.
    assert_eq!(trimmed(&store, old()).await, damaged.len());
    store.close().await;
}

#[tokio::test]
async fn age_does_not_make_what_is_put_together_look_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    let mut states = take(&store).await;
    let state = of(&mut states, &key("d"));
    state.revision = Revision::new(100);
    let entries = (1..=100).map(|number| {
        let mut entry = revision(&key("d"), number);
        (entry.routine, entry.previous) = (true, Some(Revision::new(number - 1)));
        entry
    });
    let commit = Commit {
        partitions: vec![*state],
        history: entries.collect(),
        ..Commit::default()
    };
    store.commit(commit).await.unwrap();
    // Notes of what is gone are swept at once, so each is counted as it is made.
    let trigger = "CREATE TABLE made (problem TEXT) STRICT;
        CREATE TRIGGER counted AFTER INSERT ON quarantine
        BEGIN INSERT INTO made VALUES (new.problem); END";
    crate::store::sqlite::alter(folder.path(), trigger);
    let meet = Retention {
        now: now() + SignedDuration::from_hours(2),
        history_age: Duration::from_mins(119),
        history_span: Duration::from_hours(1),
        ..retention()
    };
    assert_eq!(trimmed(&store, meet).await, 0);
    store.close().await;
    let raw = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    let made: i64 = raw
        .query_row("SELECT count(*) FROM made", [], |row| row.get(0))
        .unwrap();
    assert_eq!(made, 0, "nothing is damaged");
    assert_eq!(left(folder.path(), "d"), 1);
}

#[tokio::test]
async fn a_last_revision_that_cannot_be_removed_keeps_nobody_from_writing() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    let commit = async |store: &SqliteStore, number| {
        let mut states = take(store).await;
        let mut entry = revision(&key("cam-2"), number);
        (entry.routine, entry.previous) = (true, Some(Revision::new(number - 1)));
        of(&mut states, &key("cam-2")).revision = Revision::new(number);
        let commit = Commit {
            partitions: vec![*of(&mut states, &key("cam-2"))],
            history: vec![entry],
            coalesce_within: Duration::from_hours(1),
            ..Commit::default()
        };
        store.commit(commit).await
    };
    commit(&store, HIT).await.unwrap();
    store.close().await;
    flip(folder.path(), Flip::IndexTime(0x10));
    let store = SqliteStore::open(folder.path()).unwrap();
    commit(&store, HIT + 1)
        .await
        .expect("it is written beside it");
    assert_eq!(left(folder.path(), "cam-2"), 2);
    commit(&store, HIT + 2)
        .await
        .expect("and the next one to that");
    assert_eq!(left(folder.path(), "cam-2"), 2);
    store.close().await;
}

/// What is said in ARCHITECTURE: damage in the frame of a page may stop what goes through it as a whole.
#[tokio::test]
async fn damage_in_the_frame_of_a_page_keeps_nothing_else_and_is_noted() {
    let sound = filled().await;
    let file = fs::read(sound.path().join(FILE_NAME)).unwrap();
    let row = in_index(&file, HIT);
    let (mut failed, mut done) = (0, 0);
    // Before the values are the kinds of them, their length, and the length of all.
    for (back, bit) in (1..=6).flat_map(|back| (0..8).map(move |bit| (back, bit))) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = file.clone();
        bytes[row - back] ^= 1 << bit;
        fs::write(folder.path().join(FILE_NAME), bytes).unwrap();
        let store = SqliteStore::open(folder.path()).unwrap();
        let mut states = take(&store).await;
        let mut answer = crate::store::sample::answers().remove(0);
        answer.at = now();
        let id = answer.id.clone();
        let commit = Commit {
            partitions: vec![*of(&mut states, &key("cam-2"))],
            requests: vec![answer],
            ..Commit::default()
        };
        store.commit(commit).await.unwrap();
        let all = Retention {
            request_age: Duration::from_hours(1),
            ..old()
        };
        let trims = async {
            for _ in 0..100 {
                match store.trim(all).await {
                    Ok(trimmed) if !trimmed.more => return Ok(()),
                    Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
            panic!("it does not end");
        };
        let trims = trims.await;
        let of_answer = vec![crate::store::Selection::Request(id)];
        assert_eq!(store.load(of_answer).await.unwrap(), [], "{back} {bit}");
        if let Err(error) = trims {
            assert!(is_of_damage(&error), "{back} {bit}: {}", chain(&error));
            let noted = store.damaged().await.unwrap();
            assert!(!noted.is_empty(), "{back} {bit}: {}", chain(&error));
            failed += 1;
        } else {
            done += 1;
        }
        store.close().await;
    }
    assert!(failed > 0 && done > 0, "{failed} failed, {done} are done");
}

/// A closed store whose index by time has two levels, and the places of the pointers of its upper page in the file.
async fn with_two_levels() -> (TempDir, Vec<usize>) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    let mut states = take(&store).await;
    for device in 0..40 {
        let name = key(&format!("cam-{device:02}"));
        let state = of(&mut states, &name);
        state.revision = Revision::new(state.revision.get() + 20);
        let commit = Commit {
            partitions: vec![*state],
            history: (1..=20).map(|number| revision(&name, number)).collect(),
            ..Commit::default()
        };
        store.commit(commit).await.unwrap();
    }
    store.close().await;
    let file = folder.path().join(FILE_NAME);
    let raw = Connection::open(&file).unwrap();
    let look = "SELECT rootpage, (SELECT page_size FROM pragma_page_size())
        FROM sqlite_schema WHERE name = 'history_at'";
    let (page, size): (u32, u32) = raw
        .query_row(look, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    drop(raw);
    let (page, size) = (
        usize::try_from(page).unwrap(),
        usize::try_from(size).unwrap(),
    );
    let bytes = fs::read(&file).unwrap();
    let root = (page - 1) * size;
    // SQLite's file format, "B-tree Pages": an upper page of an index begins with a 2; behind the twelve bytes of its
    // header are the places of the cells, each of which begins with a pointer.
    assert_eq!(bytes[root], 2, "it has two levels");
    let two = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let cells = (0..two(root + 3)).map(|cell| root + two(root + 12 + 2 * cell));
    let pointers = std::iter::once(root + 8).chain(cells).collect();
    (folder, pointers)
}

#[tokio::test]
async fn an_index_with_a_pointer_to_a_page_of_another_table_is_not_made_anew() {
    let (sound, pointers) = with_two_levels().await;
    let file = sound.path().join(FILE_NAME);
    let bytes = fs::read(&file).unwrap();
    let made = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        let mut connection = Connection::open(&file).unwrap();
        let transaction = write::begin(&mut connection).unwrap();
        crate::store::sqlite::indexes::reindex(&transaction, Table::History)
    };
    made(&bytes).expect("a sound one is made anew");
    for (at, bit) in pointers
        .iter()
        .flat_map(|at| (0..4).map(move |bit| (at, bit)))
    {
        let mut bytes = bytes.clone();
        bytes[at + 3] ^= 1 << bit;
        let refused = made(&bytes).expect_err("its pages would be freed");
        assert!(
            refused.to_string().contains("pages are damaged"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn that_many_are_found_stuck_at_once_is_no_damage_of_all_histories() {
    let folder = filled().await;
    let mut connection = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    let stuck = Stuck::default();
    let corrupt = || {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        let failure = rusqlite::Error::SqliteFailure(code, None);
        Error::Engine {
            action: "remove a revision",
            source: Box::new(failure),
        }
    };
    let mut turn = || {
        let done = stuck.part(&mut connection, |transaction| {
            for number in 0..20 {
                let device = Text::from(&*format!("cam-{number}"));
                let work = || -> Result<(), Error> { Err(corrupt()) };
                stuck.apart(transaction, (&device, &Text::from("")), work)?;
            }
            Ok(())
        });
        let done = done.unwrap();
        (done.is_ok(), stuck.of_all(&done))
    };
    assert_eq!(turn(), (false, None), "it is not done yet");
    assert_eq!(turn(), (true, None), "all the others are");
    assert_eq!(stuck.take_notes().len(), 20);
}
