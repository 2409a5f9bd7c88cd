//! A flipped bit in each entry of each index and in each row of each table of the schema, with writes of all kinds and
//! trims over it. The schema itself says which there are, so that a new one is among them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jiff::SignedDuration;
use tempfile::TempDir;
use twin::query::Vocabulary;
use twin::{Condition, IdentityKey};

use super::*;
use crate::index;
use crate::store::maintain::verify;
use crate::store::sample;
use crate::store::sqlite::{FILE_NAME, SqliteFiles, SqliteStore};
use crate::store::{
    Commit, Error, OperationId, OperationRow, PartitionState, ProvisioningWrite, RequestAnswer,
    RequestId, Retention, Search, Source, Store, everything,
};
use crate::testing::{device, now};

const NAMES: [&str; 6] = ["a", "a/m", "a/n", "b", "c", "c/m"];

/// A closed store with something of everything.
async fn filled() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    let mut states = sample::fill(&store).await;
    // Of what has an index of its own some more, and an operation that goes on.
    let commit = Commit {
        requests: (2..5).map(|number| answer(number, now())).collect(),
        operations: vec![operation("018e", false), operation("0190", true)],
        audit: vec![sample::audited(&mut states[0], "policies/p")],
        partitions: states,
        ..Commit::default()
    };
    store.commit(commit).await.unwrap();
    store.close().await;
    folder
}

fn answer(number: u8, at: jiff::Timestamp) -> RequestAnswer {
    RequestAnswer {
        id: RequestId(format!("alice/UpdateTwin/{number}")),
        fingerprint: [number; 32],
        answer: vec![number],
        at,
    }
}

fn operation(id: &str, ended: bool) -> OperationRow {
    OperationRow {
        id: OperationId(id.to_owned()),
        ended,
        at: now(),
        body: "{}".to_owned(),
    }
}

/// A place in the file that belongs to a table or an index: bytes of the values of one of its rows.
#[derive(Debug, Clone)]
struct Spot {
    name: String,
    at: usize,
    mask: u8,
}

/// What is read of a page of SQLite's file format ("B-tree Pages").
struct Page<'b> {
    bytes: &'b [u8],
    size: usize,
    number: usize,
}

impl Page<'_> {
    fn start(&self) -> usize {
        (self.number - 1) * self.size
    }

    fn two(&self, at: usize) -> usize {
        usize::from(u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]))
    }

    fn four(&self, at: usize) -> usize {
        let bytes = self.bytes[at..at + 4].try_into().unwrap();
        usize::try_from(u32::from_be_bytes(bytes)).unwrap()
    }

    /// Pages below it, and where the values of its rows are.
    fn look(&self) -> (Vec<usize>, Vec<std::ops::Range<usize>>) {
        let head = self.start() + if self.number == 1 { 100 } else { 0 };
        let kind = self.bytes[head];
        let is_leaf = matches!(kind, 0x0a | 0x0d);
        let cells = (0..self.two(head + 3)).map(|cell| {
            let pointers = head + if is_leaf { 8 } else { 12 };
            self.start() + self.two(pointers + 2 * cell)
        });
        let (mut below, mut rows) = (Vec::new(), Vec::new());
        if !is_leaf {
            below.push(self.four(head + 8));
        }
        for cell in cells {
            let mut at = cell;
            if !is_leaf {
                below.push(self.four(at));
                at += 4;
            }
            if kind == 0x05 {
                continue;
            }
            let (length, next) = self.number_at(at);
            at = next;
            if kind == 0x0d {
                at = self.number_at(at).1;
            }
            let (header, _) = self.number_at(at);
            // What is on pages of its own is left alone.
            let end = (at + length).min(self.start() + self.size);
            rows.push(at + header..end);
        }
        (below, rows)
    }

    /// SQLite's integers of variable length.
    fn number_at(&self, at: usize) -> (usize, usize) {
        let (mut number, mut at) = (0, at);
        loop {
            let byte = self.bytes[at];
            number = number << 7 | usize::from(byte & 0x7f);
            at += 1;
            if byte < 0x80 {
                return (number, at);
            }
        }
    }
}

/// Rows of a table or an index that bits are flipped in; of larger ones those in between are as these.
const ROWS: usize = 5;
/// Of searched values those under this path change in what is done here.
const SEARCHED: &[u8] = b"tags.site.floor";

/// Bits in some rows of each table or index of the schema: of the first byte of its values and of the last.
fn spots(folder: &Path, kind: &str, flips: &[(End, u8)]) -> Vec<Spot> {
    let file = folder.join(FILE_NAME);
    let raw = Connection::open(&file).unwrap();
    let size: u32 = raw
        .query_row("PRAGMA page_size", [], |row| row.get(0))
        .unwrap();
    let mut statement = raw
        .prepare("SELECT name, rootpage FROM sqlite_schema WHERE type = ?1 AND sql IS NOT NULL")
        .unwrap();
    let roots = statement.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?)));
    let roots: Vec<(String, u32)> = roots.unwrap().map(Result::unwrap).collect();
    drop(statement);
    raw.close().unwrap();
    let bytes = fs::read(&file).unwrap();
    let mut spots = Vec::new();
    for (name, root) in roots {
        let rows = rows(&bytes, usize::try_from(size).unwrap(), root);
        let step = rows.len().div_ceil(ROWS).max(1);
        for (number, values) in rows.into_iter().enumerate() {
            let of = &bytes[values.clone()];
            let is_searched = of.windows(SEARCHED.len()).any(|part| part == SEARCHED);
            if values.is_empty() || !(number % step == 0 || is_searched) {
                continue;
            }
            spots.extend(flips.iter().map(|(end, mask)| Spot {
                name: name.clone(),
                at: match end {
                    End::First => values.start,
                    End::Last => values.end - 1,
                },
                mask: *mask,
            }));
        }
    }
    spots
}

/// Which byte of the values.
#[derive(Debug, Clone, Copy)]
enum End {
    First,
    Last,
}

/// Where the values of each row of a tree are.
fn rows(bytes: &[u8], size: usize, root: u32) -> Vec<std::ops::Range<usize>> {
    let mut open = vec![usize::try_from(root).unwrap()];
    let mut all = Vec::new();
    while let Some(number) = open.pop() {
        let page = Page {
            bytes,
            size,
            number,
        };
        let (below, rows) = page.look();
        open.extend(below);
        all.extend(rows);
    }
    all
}

const IN_INDEX: &[(End, u8)] = &[(End::First, 0x01), (End::Last, 0x80)];
const IN_TABLE: &[(End, u8)] = &[
    (End::First, 0x01),
    (End::First, 0x80),
    (End::Last, 0x01),
    (End::Last, 0x80),
];

fn flipped(sound: &Path, spot: &Spot) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(sound.join(FILE_NAME)).unwrap();
    bytes[spot.at] ^= spot.mask;
    fs::write(folder.path().join(FILE_NAME), bytes).unwrap();
    folder
}

/// Everything that a service writes, each kind by itself, over all that there is.
struct Life {
    store: SqliteStore,
    states: Vec<PartitionState>,
    /// What could not be written, and why.
    refused: Vec<(String, Error)>,
}

impl Life {
    async fn commit(&mut self, what: &str, commit: impl FnOnce(&mut [PartitionState]) -> Commit) {
        let mut states = self.states.clone();
        let mut commit = commit(&mut states);
        commit.partitions = states.clone();
        match self.store.commit(commit).await {
            Ok(()) => self.states = states,
            Err(error) => self.refused.push((what.to_owned(), error)),
        }
    }

    async fn lead(&mut self) {
        for name in NAMES {
            let renamed = |states: &mut [PartitionState]| rewritten(states, name, 4);
            self.commit(&format!("twin {name}"), renamed).await;
        }
        self.commit("a new twin", |states| sample::created(states, &["new"]))
            .await;
        self.commit("a twin removed", |states| removed(states, "c/m"))
            .await;
        for number in 1..7 {
            let later = now() + SignedDuration::from_secs(1);
            let written = |_: &mut [PartitionState]| Commit {
                requests: vec![answer(number, later)],
                ..Commit::default()
            };
            self.commit(&format!("answer {number}"), written).await;
        }
        for id in ["018e", "018f", "0190", "0191"] {
            let mut row = operation(id, true);
            row.at = now() + SignedDuration::from_secs(1);
            let written = |_: &mut [PartitionState]| Commit {
                operations: vec![row],
                results: sample::results(),
                ..Commit::default()
            };
            self.commit(&format!("operation {id}"), written).await;
        }
        self.commit("a token", |_| Commit {
            tokens: vec![crate::store::EnrollmentToken {
                hash: [8; 32],
                ..sample::tokens().remove(0)
            }],
            ..Commit::default()
        })
        .await;
        self.commit("the use of a token", |_| Commit {
            enrollments: vec![crate::store::EnrollmentUse {
                device: device("y"),
                ..sample::enrollments().remove(0)
            }],
            ..Commit::default()
        })
        .await;
        for write in sample::provisioning() {
            let remove = ProvisioningWrite::Remove(write.key().clone());
            for write in [write.clone(), remove, write] {
                let written = |_: &mut [PartitionState]| Commit {
                    provisioning: vec![write],
                    ..Commit::default()
                };
                self.commit("an enrolment", written).await;
            }
        }
        self.commit("the log", |states| {
            let trims = states.iter().map(|state| (state.partition, state.revision));
            Commit {
                trim_log: trims.collect(),
                ..Commit::default()
            }
        })
        .await;
    }

    /// Forgets all that is to be forgotten.
    async fn trim(&mut self) {
        for _ in 0..30 {
            let retention = Retention {
                now: now() + SignedDuration::from_hours(48),
                history_age: Duration::from_hours(1),
                history_count: 1,
                history_span: Duration::from_hours(1),
                history_every: Duration::from_mins(1),
                request_age: Duration::from_hours(1),
                operation_age: Duration::from_hours(1),
                batch: 100,
            };
            match self.store.trim(retention).await {
                Ok(trimmed) if trimmed.more => {}
                Ok(_) => return,
                Err(error) => {
                    self.refused.push(("what is old".to_owned(), error));
                    return;
                }
            }
        }
        panic!("it does not end");
    }
}

/// A twin with another number among its tags.
fn rewritten(states: &mut [PartitionState], name: &str, floor: u32) -> Commit {
    let mut commit = sample::created(states, &[name]);
    let upsert = &mut commit.upserts[0];
    let mut record = (*upsert.record).clone();
    let had = index::entries(&record).unwrap();
    let tags = &mut record.twin.tags;
    tags.document = tags
        .document
        .replace(r#""floor":3"#, &format!(r#""floor":{floor}"#));
    let has = index::entries(&record).unwrap();
    assert_ne!(had, has);
    upsert.index_remove = had.difference(&has).cloned().collect();
    upsert.index_add = has.difference(&had).cloned().collect();
    upsert.record = std::sync::Arc::new(record);
    commit
}

fn removed(states: &mut [PartitionState], name: &str) -> Commit {
    let mut commit = sample::created(states, &[name]);
    let gone: IdentityKey = commit.upserts.remove(0).record.key.clone();
    commit.deletes = vec![gone];
    commit
}

/// What a search for a number finds.
async fn on_floor(store: &SqliteStore, condition: &str) -> Vec<String> {
    let condition = Condition::parse_in(condition, Vocabulary::Query).unwrap();
    let search = Search {
        condition: condition.scope().clone(),
        ..everything(Source::All, None, 100, now())
    };
    let found = crate::search::pages(store, search, Duration::from_mins(1)).await;
    let records = found.expect("it can be searched").records;
    records.iter().map(|one| one.key.to_string()).collect()
}

/// Opens a store and leads a life with it; none if it cannot even be begun.
async fn live(folder: &Path, reindexed_max: i64) -> Result<Life, Error> {
    let mut store = SqliteStore::open(folder)?;
    store.indexes = std::sync::Arc::new(Indexes {
        reindexed_max,
        ..Indexes::default()
    });
    let claims = store.claim(sample::replica(sample::count())).await?;
    let mut life = Life {
        store,
        states: claims.owned,
        refused: Vec::new(),
    };
    life.lead().await;
    // As the writer does when it begins, and each second.
    let there = life.store.population().await?;
    assert!(
        (1..9).contains(&there.devices) && (1..9).contains(&there.modules),
        "{there:?}"
    );
    Ok(life)
}

/// Whether it has put off the time of the last revision that there is: nothing stands behind it, and it goes when that
/// time has come.
fn is_last(spot: &Spot, report: &crate::store::maintain::Report) -> bool {
    spot.name == "history_at" && report.rows.get(&Table::History) == Some(&1)
}

#[tokio::test]
async fn a_flipped_bit_in_an_index_keeps_nothing_from_being_written_and_is_mended() {
    let sound = filled().await;
    let all = spots(sound.path(), "index", IN_INDEX);
    let names: BTreeSet<_> = all.iter().map(|spot| &*spot.name).collect();
    let mut mended = BTreeSet::new();
    for spot in &all {
        let folder = flipped(sound.path(), spot);
        let mut life = live(folder.path(), REINDEXED_MAX).await.unwrap();
        assert_eq!(life.refused.len(), 0, "{spot:?}: {:?}", life.refused);
        let found = on_floor(&life.store, "tags.site.floor > 3.5").await;
        assert_eq!(found, ["a", "a/m", "a/n", "b", "c"], "{spot:?}");
        let found = on_floor(&life.store, "tags.site.floor < 3.5").await;
        assert_eq!(found, ["new"], "{spot:?}");
        life.trim().await;
        assert_eq!(life.refused.len(), 0, "{spot:?}: {:?}", life.refused);
        life.store.close().await;
        let report = verify(&SqliteFiles::new(folder.path()), |_, _| ()).await;
        let report = report.unwrap();
        if report.is_sound() {
            mended.insert(&*spot.name);
        } else {
            // Nobody came upon it: rows of the audit log never go, and some searched values never change.
            let is_left = spot.name.starts_with("audit_") || spot.name == "twin_index_of";
            assert!(is_left || is_last(spot, &report), "{spot:?}: {report:?}");
        }
    }
    let left: Vec<_> = names.difference(&mended).collect();
    assert_eq!(
        left,
        ["audit_action", "audit_actor", "audit_at", "audit_resource"]
            .iter()
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_flipped_bit_in_an_index_of_a_large_store_keeps_nothing_else_and_the_next_start_mends_it()
{
    let sound = filled().await;
    for spot in spots(sound.path(), "index", IN_INDEX) {
        if spot.name.starts_with("audit_") {
            continue;
        }
        let folder = flipped(sound.path(), &spot);
        let mut life = live(folder.path(), 5).await.unwrap();
        let refused = life.refused.iter().map(|(what, error)| match error {
            // Whoever decides on it is told that it is damaged.
            Error::Unwritable(found) => (&**what, found.len()),
            error => panic!("{spot:?}: {what}: {}", chain(error)),
        });
        let refused: Vec<_> = refused.collect();
        let expected = match &*spot.name {
            "requests_at" => "answer ",
            "operations_ended" | "operations_running" => "operation ",
            _ => "",
        };
        let is_expected = |(what, count): &(&str, usize)| {
            !expected.is_empty() && what.starts_with(expected) && *count == 1
        };
        assert!(refused.iter().all(is_expected), "{spot:?}: {refused:?}");
        assert!(refused.len() <= 2, "{spot:?}: {refused:?}");
        life.refused.clear();
        life.trim().await;
        assert_eq!(life.refused.len(), 0, "{spot:?}: {:?}", life.refused);
        let noted = life.store.damaged().await.unwrap().len();
        life.store.close().await;
        let report = verify(&SqliteFiles::new(folder.path()), |_, _| ()).await;
        let report = report.unwrap();
        let is_left = spot.name == "twin_index_of" || is_last(&spot, &report);
        assert!(report.is_sound() || noted > 0 || is_left, "{spot:?}");
        // The next start mends what was noted.
        let store = SqliteStore::open(folder.path()).unwrap();
        let mut life = Life {
            states: store
                .claim(sample::replica(sample::count()))
                .await
                .unwrap()
                .owned,
            store,
            refused: Vec::new(),
        };
        life.lead().await;
        life.trim().await;
        assert_eq!(life.refused.len(), 0, "{spot:?}: {:?}", life.refused);
        life.store.close().await;
        if noted > 0 {
            let report = verify(&SqliteFiles::new(folder.path()), |_, _| ()).await;
            let report = report.unwrap();
            assert!(
                report.is_sound() || is_last(&spot, &report),
                "{spot:?}: {report:?}"
            );
        }
    }
}

/// Tables in which a row that is damaged may keep its own twin from being written, but none beside it.
const OF_TWINS: [&str; 3] = ["twins", "twin_index", "history"];

#[tokio::test]
async fn a_flipped_bit_in_a_row_stops_nothing_beside_it() {
    let sound = filled().await;
    let mut lived = BTreeSet::new();
    for spot in spots(sound.path(), "table", IN_TABLE) {
        let folder = flipped(sound.path(), &spot);
        let life = live(folder.path(), REINDEXED_MAX).await;
        let mut life = life.unwrap_or_else(|error| panic!("{spot:?}: {}", chain(&error)));
        for (what, error) in &life.refused {
            let is_alone = matches!(error, Error::Unwritable(found) if found.len() == 1);
            let is_of_it = OF_TWINS.contains(&&*spot.name) && what.starts_with("twin ");
            assert!(is_alone && is_of_it, "{spot:?}: {what}: {}", chain(error));
        }
        assert!(life.refused.len() <= 2, "{spot:?}: {:?}", life.refused);
        life.refused.clear();
        life.trim().await;
        assert_eq!(life.refused.len(), 0, "{spot:?}: {:?}", life.refused);
        life.store.damaged().await.expect("notes can be read");
        life.store.close().await;
        lived.insert(spot.name);
    }
    let tables = [
        "audit",
        "enrollment_tokens",
        "enrollments",
        "facts",
        "history",
        "log",
        "operation_results",
        "operations",
        "partitions",
        "population",
        "provisioning",
        "requests",
        "twin_index",
        "twins",
    ];
    // But for notes of damage, of which there are none: see `a_note_that_is_damaged`.
    assert_eq!(lived.iter().map(|name| &**name).collect::<Vec<_>>(), tables);
}

#[tokio::test]
async fn a_note_that_is_damaged_keeps_no_other_from_being_read_and_nothing_from_being_forgotten() {
    let folder = filled().await;
    for (key, problem) in [
        ("CAST(x'ff' AS TEXT)", "'a'"),
        ("'[\"b\",\"\"]'", "CAST(x'ff' AS TEXT)"),
    ] {
        let sql = format!("INSERT INTO quarantine VALUES ('twins', {key}, 7, {problem})");
        crate::store::sqlite::tamper(folder.path(), &sql, []);
    }
    let noted = r#"INSERT INTO quarantine VALUES ('twins', '["c",""]', 7, 'unreadable')"#;
    crate::store::sqlite::tamper(folder.path(), noted, []);
    let mut life = live(folder.path(), REINDEXED_MAX).await.unwrap();
    let noted = r#"INSERT INTO quarantine VALUES ('twins', '["a",""]', 7, 'unreadable')"#;
    crate::store::sqlite::tamper(folder.path(), noted, []);
    life.trim().await;
    assert_eq!(life.refused.len(), 0, "{:?}", life.refused);
    let damaged = life.store.damaged().await.unwrap();
    let keys: Vec<_> = damaged.iter().map(|one| &*one.key).collect();
    assert_eq!(keys, ["a"]);
    life.store.close().await;
}
