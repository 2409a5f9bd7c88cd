//! Rows that were changed behind the store's back: each is reported, noted, and left out, and the
//! rows beside it are read as ever.

use std::time::Duration;

use twin::{Partition, Revision};

use super::{Opener, upserts};
use crate::record::{Damaged, Record};
use crate::store::sample::{self, sound, take};
use crate::store::{
    Commit, Error, HistoryEntry, HistoryRead, IndexEntry, Loaded, OperationId, OperationResultRow,
    OperationRow, ProvisioningKey, ProvisioningKind, RequestId, Retention, Selection, Source,
    Store, everything,
};
use crate::testing::{device, key, now, record};

/// Fills a store with a few plain records.
async fn filled(store: &dyn Store, names: &[&str]) {
    let states = take(store).await;
    let records: Vec<Record> = names.iter().map(|name| record(name, "g")).collect();
    let commit = Commit {
        upserts: upserts(&records),
        ..Commit::default()
    };
    super::commit(store, &states, commit).await;
}

fn names(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|record| record.key.to_string())
        .collect()
}

/// What is noted, as `key` or `table: key`.
async fn noted(store: &dyn Store) -> Vec<String> {
    let name = |damaged: Damaged| match damaged.part {
        "row" => damaged.key,
        table => format!("{table}: {}", damaged.key),
    };
    let damaged = store.damaged().await.expect("read");
    damaged.into_iter().map(name).collect()
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

pub(super) async fn a_flipped_byte_is_reported_for_its_twin_alone(opener: Opener) {
    let store = opener.open().await;
    filled(&*store, &["a", "b", "b/m", "c"]).await;
    opener
        .tamper(
            "UPDATE twins SET body = replace(body, 'g', 'f')
             WHERE device_id = 'b' AND module_id = ''",
        )
        .await;
    let error = store.get(key("b")).await.expect_err("damaged");
    assert!(
        matches!(&error, Error::Damaged(damaged) if damaged.key == "b"),
        "{error}"
    );
    assert!(store.get(key("b/m")).await.unwrap().is_some());
    let search = everything(Source::All, None, 10, now());
    let page = store.search(search).await.unwrap();
    assert_eq!(names(&page.records), ["a", "b/m", "c"]);
    assert_eq!(page.damaged.len(), 1);
    for selections in [
        vec![Selection::Family(device("b"))],
        vec![Selection::One(key("b")), Selection::One(key("b/m"))],
    ] {
        let loaded = store.load(selections).await.unwrap();
        let is_b = |of: &Selection| *of == Selection::One(key("b"));
        assert!(matches!(&loaded[0], Loaded::Damaged(of, _) if is_b(of)));
        assert!(matches!(&loaded[1], Loaded::Whole(record) if record.key == key("b/m")));
    }
}

pub(super) async fn a_row_does_not_pass_for_another_one(opener: Opener) {
    let store = opener.open().await;
    filled(&*store, &["a", "b"]).await;
    for sql in [
        "UPDATE twins SET device_id = 'c' WHERE device_id = 'b'",
        "UPDATE twins SET revision = 5 WHERE device_id = 'a'",
    ] {
        opener.tamper(sql).await;
    }
    for name in ["a", "c"] {
        let error = store.get(key(name)).await.expect_err("it was changed");
        assert!(matches!(error, Error::Damaged(_)), "{error}");
    }
}

pub(super) async fn a_damaged_twin_is_noted_once_and_forgotten_when_it_is_written_anew(
    opener: Opener,
) {
    let store = opener.open().await;
    filled(&*store, &["a", "b", "b/m"]).await;
    assert!(noted(&*store).await.is_empty());
    for module in ["", "m"] {
        let of = format!("device_id = 'b' AND module_id = '{module}'");
        opener
            .tamper(format!("UPDATE twins SET tags = '{{}}}}' WHERE {of}"))
            .await;
        // Whoever writes it anew cannot know what the index has of it.
        let entry = format!("INSERT INTO twin_index VALUES ('tags.old', 's:old', 'b', '{module}')");
        opener.tamper(entry).await;
    }
    // Whichever way they are come by; a second time changes nothing.
    for _ in 0..2 {
        store.get(key("b")).await.expect_err("damaged");
        let family = vec![Selection::Family(device("b"))];
        assert_eq!(store.load(family).await.unwrap().len(), 2);
        let search = everything(Source::All, None, 9, now());
        assert_eq!(store.search(search).await.unwrap().damaged.len(), 2);
    }
    assert_eq!(noted(&*store).await, ["b", "b/m"]);
    // The rows are still there, as evidence, and so are the notes after a restart.
    store.close().await;
    let store = opener.open().await;
    assert_eq!(noted(&*store).await, ["b", "b/m"]);
    store.get(key("b")).await.expect_err("damaged");

    let states = take(&*store).await;
    let removed = Commit {
        deletes: vec![key("b")],
        ..Commit::default()
    };
    super::commit(&*store, &states, removed).await;
    assert_eq!(noted(&*store).await, ["b/m"]);
    assert_eq!(store.get(key("b")).await.unwrap(), None);
    let mut anew = upserts(&[record("b", "g"), record("b/m", "g")]);
    let entry = IndexEntry {
        path: "tags.new".to_owned(),
        value: "s:new".to_owned(),
    };
    anew[1].index_add = vec![entry];
    let anew = Commit {
        upserts: anew,
        ..Commit::default()
    };
    super::commit(&*store, &states, anew).await;
    assert!(noted(&*store).await.is_empty());
    assert!(store.get(key("b/m")).await.unwrap().is_some());
    // Of the index only the new entry is left: there is one row to be changed, and it is that one.
    let left = "UPDATE twin_index SET path = 'tags.left' WHERE path = 'tags.new'";
    opener.tamper(left).await;
    let rows = opener.maintain.as_ref().expect("a store with rows");
    let report = crate::store::maintain::verify(&**rows, |_, _| ()).await;
    let report = report.expect("it can be read");
    let found = report.findings.iter().map(|finding| finding.key.as_str());
    // Beside what these twins never had.
    let found: Vec<_> = found.filter(|key| key.contains("/tags.")).collect();
    assert_eq!(found, ["b/m/tags.left/s:new"]);

    // Damaged once more, it is noted once more.
    let sql = "UPDATE twins SET revision = 9 WHERE device_id = 'b' AND module_id = 'm'";
    opener.tamper(sql).await;
    store.get(key("b/m")).await.expect_err("damaged");
    assert_eq!(noted(&*store).await, ["b/m"]);
    store.close().await;
}

/// What a decision on everything of the sample needs.
fn needed() -> Vec<Selection> {
    vec![
        Selection::One(key("a")),
        Selection::Token([7; 32], device("z")),
        Selection::Request(RequestId("alice/UpdateTwin/1".to_owned())),
        Selection::Operation(OperationId("018f".to_owned())),
        Selection::One(key("b")),
        Selection::Provisioning(ProvisioningKey {
            kind: ProvisioningKind::Individual,
            id: "sn-1".to_owned(),
        }),
    ]
}

pub(super) async fn what_a_decision_needs_is_damaged_by_itself(opener: Opener) {
    let store = opener.open().await;
    sample::fill(&*store).await;
    let whole = store.load(needed()).await.expect("read");
    assert_eq!(whole.len(), needed().len());
    let (short, other) = (opener.bytes("0900"), opener.bytes("00"));
    // Each is changed and changed back, one after another, and is the only one to tell.
    let cases = [
        (
            1,
            "enrollment_tokens",
            "device_id",
            "'zz'".to_owned(),
            "'z'".to_owned(),
        ),
        (
            1,
            "enrollment_tokens",
            "device_id",
            "'no id!'".to_owned(),
            "'z'".to_owned(),
        ),
        (
            1,
            "enrollment_tokens",
            "uses_max",
            "uses_max + 1".to_owned(),
            "uses_max - 1".to_owned(),
        ),
        (
            1,
            "enrollment_tokens",
            "uses_max",
            "9999999999".to_owned(),
            "2".to_owned(),
        ),
        (
            1,
            "enrollment_tokens",
            "expires_at",
            "expires_at + 1".to_owned(),
            "expires_at - 1".to_owned(),
        ),
        (
            1,
            "enrollments",
            "nonce",
            "'m'".to_owned(),
            "'n'".to_owned(),
        ),
        (
            2,
            "requests",
            "fingerprint",
            short,
            opener.bytes(&"09".repeat(32)),
        ),
        (
            2,
            "requests",
            "fingerprint",
            opener.bytes(&"08".repeat(32)),
            opener.bytes(&"09".repeat(32)),
        ),
        (2, "requests", "answer", other, opener.bytes("0001ff")),
        (
            2,
            "requests",
            "at",
            "at + 1".to_owned(),
            "at - 1".to_owned(),
        ),
        (
            3,
            "operations",
            "body",
            "'{}'".to_owned(),
            r#"'{"kind":"delete"}'"#.to_owned(),
        ),
        (
            3,
            "operations",
            "at",
            "at + 1".to_owned(),
            "at - 1".to_owned(),
        ),
        (
            3,
            "operations",
            "ended",
            "NOT ended".to_owned(),
            "NOT ended".to_owned(),
        ),
        (
            5,
            "provisioning",
            "body",
            "replace(body, 'sn-1', 'sn-2')".to_owned(),
            "replace(body, 'sn-2', 'sn-1')".to_owned(),
        ),
    ];
    for (place, table, column, broken, mended) in cases {
        opener
            .tamper(format!("UPDATE {table} SET {column} = {broken}"))
            .await;
        let loaded = store.load(needed()).await.expect("read");
        for (at, (loaded, whole)) in loaded.iter().zip(&whole).enumerate() {
            let what = format!("{table}.{column}, at {at}");
            match loaded {
                Loaded::Damaged(of, _) if at == place => assert_eq!(*of, needed()[at], "{what}"),
                loaded => assert!(at != place && loaded == whole, "{what}: {loaded:?}"),
            }
        }
        assert_eq!(loaded.len(), whole.len());
        opener
            .tamper(format!("UPDATE {table} SET {column} = {mended}"))
            .await;
    }
    assert_eq!(store.load(needed()).await.expect("read"), whole);
    let token = format!("enrollment_tokens: {}", "07".repeat(32));
    let expected = [
        &token,
        "operations: 018f",
        "provisioning: individual/sn-1",
        "requests: alice/UpdateTwin/1",
    ];
    assert_eq!(noted(&*store).await, expected);
    opener.is_sound().await;
}

pub(super) async fn a_note_goes_with_its_row(opener: Opener) {
    let store = opener.open().await;
    sample::fill(&*store).await;
    for sql in [
        "UPDATE requests SET answer = fingerprint",
        "UPDATE operation_results SET body = '{'",
    ] {
        opener.tamper(sql).await;
    }
    store.load(needed()).await.expect("read");
    let operation = OperationId("018f".to_owned());
    let results = store.operation_results(operation, None, 9).await;
    results.expect("read");
    let expected = [
        "operation_results: 018f/a/m",
        "requests: alice/UpdateTwin/1",
    ];
    assert_eq!(noted(&*store).await, expected);
    let retention = |hours| Retention {
        now: now() + Duration::from_hours(hours),
        history_age: Duration::MAX,
        history_count: u32::MAX,
        history_span: Duration::ZERO,
        history_every: Duration::MAX,
        request_age: Duration::from_hours(2),
        operation_age: Duration::from_hours(4),
        batch: 100,
    };
    store.trim(retention(1)).await.expect("trimmed");
    assert_eq!(noted(&*store).await, expected, "nothing is due");
    store.trim(retention(3)).await.expect("trimmed");
    assert_eq!(noted(&*store).await, expected[..1]);
    store.trim(retention(5)).await.expect("trimmed");
    assert!(noted(&*store).await.is_empty());
}

pub(super) async fn a_damaged_revision_leaves_a_hole_in_its_place(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let written = Commit {
        history: [1, 2, 3].map(|at| sample::revision(&key("d"), at)).into(),
        ..Commit::default()
    };
    super::commit(&*store, &[super::standing(&states, "d", 3)], written).await;
    let sql = "UPDATE history SET patch = '{}' WHERE device_id = 'd' AND revision = 2";
    opener.tamper(sql).await;
    let entries = store.history(all_of("d")).await.expect("read");
    let places: Vec<_> = entries
        .iter()
        .map(|entry| match entry {
            Ok(entry) => (entry.revision.get(), true),
            Err(hole) => (hole.at.get(), false),
        })
        .collect();
    assert_eq!(places, [(3, true), (2, false), (1, true)]);
    let below = HistoryRead {
        before: Some(Revision::new(2)),
        ..all_of("d")
    };
    let below = sound(store.history(below).await.expect("read"));
    assert_eq!(below, [sample::revision(&key("d"), 1)]);
    assert_eq!(noted(&*store).await, ["history: d/2"]);
    // Written behind it, revisions are no part of it.
    let written = Commit {
        history: vec![sample::revision(&key("d"), 4)],
        ..Commit::default()
    };
    super::commit(&*store, &[super::standing(&states, "d", 4)], written).await;
    assert_eq!(store.history(all_of("d")).await.expect("read").len(), 4);
}

pub(super) async fn what_cannot_be_read_stays_between_what_is_put_together(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let routine = |at| HistoryEntry {
        routine: true,
        ..sample::revision(&key("d"), at)
    };
    let written = Commit {
        history: (1..=9).map(routine).collect(),
        ..Commit::default()
    };
    super::commit(&*store, &[super::standing(&states, "d", 9)], written).await;
    let sql = "UPDATE history SET patch = '{}' WHERE device_id = 'd' AND revision = 4";
    opener.tamper(sql).await;
    let retention = Retention {
        now: now() + Duration::from_hours(3),
        history_age: Duration::MAX,
        history_count: u32::MAX,
        history_span: Duration::from_hours(1),
        history_every: Duration::ZERO,
        request_age: Duration::MAX,
        operation_age: Duration::MAX,
        batch: 100,
    };
    let trimmed = store.trim(retention).await.expect("trimmed");
    assert_eq!((trimmed.joined, trimmed.written), (2 + 4, 2));
    let entries = store.history(all_of("d")).await.expect("read");
    let places: Vec<_> = entries
        .iter()
        .map(|entry| match entry {
            Ok(entry) => (entry.first_revision.get(), entry.revision.get()),
            Err(hole) => (0, hole.at.get()),
        })
        .collect();
    assert_eq!(places, [(5, 9), (0, 4), (1, 3)]);
}

pub(super) async fn a_lost_revision_stays_a_hole_between_what_is_put_together(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let routine = |at: u64| HistoryEntry {
        routine: true,
        previous: Some(Revision::new(at - 1)),
        ..sample::revision(&key("d"), at)
    };
    let written = |history| Commit {
        history,
        coalesce_within: Duration::from_hours(1),
        ..Commit::default()
    };
    let apart = Commit {
        coalesce_within: Duration::ZERO,
        ..written((1..=9).map(routine).collect())
    };
    super::commit(&*store, &[super::standing(&states, "d", 9)], apart).await;
    for lost in [4, 9] {
        let sql = format!("DELETE FROM history WHERE device_id = 'd' AND revision = {lost}");
        opener.tamper(sql).await;
    }
    // Neither when it is written, nor later.
    let next = written(vec![routine(10)]);
    super::commit(&*store, &[super::standing(&states, "d", 10)], next).await;
    let retention = Retention {
        now: now() + Duration::from_hours(3),
        history_age: Duration::MAX,
        history_count: u32::MAX,
        history_span: Duration::from_hours(1),
        history_every: Duration::ZERO,
        request_age: Duration::MAX,
        operation_age: Duration::MAX,
        batch: 100,
    };
    let trimmed = store.trim(retention).await.expect("trimmed");
    assert_eq!((trimmed.joined, trimmed.written), (2 + 3, 2));
    let entries = sound(store.history(all_of("d")).await.expect("read"));
    let places = entries.iter().map(|entry| {
        let previous = entry.previous.map(Revision::get);
        (entry.first_revision.get(), entry.revision.get(), previous)
    });
    let places: Vec<_> = places.collect();
    assert_eq!(
        places,
        [(10, 10, Some(9)), (5, 8, Some(4)), (1, 3, Some(0))]
    );
    let rows = opener.maintain.as_ref().expect("a store with rows");
    let report = crate::store::maintain::verify(&**rows, |_, _| ()).await;
    let findings = report.expect("it can be read").findings;
    for lost in [4, 9] {
        let missing = format!("revision {lost}, which was before it, is missing");
        let is_named = findings.iter().any(|one| one.problem == missing);
        assert!(is_named, "{findings:?}");
    }
}

pub(super) async fn a_damaged_key_of_a_revision_stops_no_trim(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let mut entries = Vec::new();
    for (place, name) in ["a", "b", "c"].into_iter().enumerate() {
        let first = 10 * place as u64;
        let of = |number| HistoryEntry {
            routine: true,
            ..sample::revision(&key(name), first + number)
        };
        entries.extend((1..=4).map(of));
    }
    let mut answer = sample::answers().remove(0);
    answer.at = now();
    let id = answer.id.clone();
    let written = Commit {
        history: entries,
        requests: vec![answer],
        ..Commit::default()
    };
    super::commit(&*store, &states, written).await;
    let noted_as = damage_key(&opener, 12).await;
    let hours = Duration::from_hours;
    let retention = Retention {
        now: now() + hours(3),
        history_age: Duration::MAX,
        history_count: 2,
        history_span: Duration::from_nanos(1),
        history_every: Duration::ZERO,
        request_age: hours(2),
        operation_age: Duration::MAX,
        batch: 3,
    };
    let trim = async |retention| {
        for _ in 0..100 {
            if !store.trim(retention).await.expect("trimmed").more {
                return;
            }
        }
        panic!("it does not end");
    };
    let left = async |name| -> Vec<u64> {
        let entries = sound(store.history(all_of(name)).await.expect("read"));
        entries.iter().map(|entry| entry.revision.get()).collect()
    };
    trim(retention).await;
    assert_eq!(left("a").await, [4, 3]);
    assert_eq!(left("b").await, [14, 13]);
    assert_eq!(left("c").await, [24, 23]);
    let loaded = store.load(vec![Selection::Request(id)]).await;
    assert_eq!(loaded.expect("read"), [], "old answers go, too");
    assert_eq!(noted(&*store).await, std::slice::from_ref(&noted_as));
    // And what is too old goes whatever its key is.
    let old = Retention {
        history_age: hours(1),
        ..retention
    };
    trim(old).await;
    for name in ["a", "b", "c"] {
        assert_eq!(left(name).await, [0; 0]);
    }
    assert_eq!(noted(&*store).await, [noted_as]);
    // The note is forgotten when it is older than all that is kept.
    let later = Retention {
        now: "2200-01-01T00:00:00Z".parse().expect("an instant"),
        ..old
    };
    trim(later).await;
    assert_eq!(noted(&*store).await, [""; 0]);
}

/// Makes the key of a revision of `b` one that cannot be read; answers how it is noted.
async fn damage_key(opener: &Opener, revision: u64) -> String {
    let sqlite = "UPDATE history SET device_id = CAST(x'62ff' AS TEXT)";
    let postgres = "ALTER TABLE history DROP CONSTRAINT history_pkey;
         ALTER TABLE history ALTER device_id DROP NOT NULL;
         CREATE UNIQUE INDEX ON history (device_id, module_id, revision);
         UPDATE history SET device_id = NULL";
    let (damage, device) = if opener.kind() == Some("sqlite") {
        (sqlite, "b\u{fffd}")
    } else {
        (postgres, "\u{fffd}")
    };
    let one = format!("{damage} WHERE device_id = 'b' AND revision = {revision}");
    opener.tamper(one).await;
    format!("history: {device}/{revision}")
}

pub(super) async fn what_cannot_be_noted_is_noted_the_next_time(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let entries = ["a", "b", "c"].into_iter().zip([10, 20, 30]);
    let entries = entries.flat_map(|(name, first)| {
        (1..=4).map(move |number| HistoryEntry {
            routine: true,
            ..sample::revision(&key(name), first + number)
        })
    });
    let written = Commit {
        history: entries.collect(),
        ..Commit::default()
    };
    super::commit(&*store, &states, written).await;
    let noted_as = damage_key(&opener, 22).await;
    let retention = Retention {
        now: now() + Duration::from_hours(3),
        history_age: Duration::MAX,
        history_count: 2,
        history_span: Duration::from_nanos(1),
        history_every: Duration::ZERO,
        request_age: Duration::MAX,
        operation_age: Duration::MAX,
        batch: 100,
    };
    opener
        .alter("ALTER TABLE quarantine RENAME TO elsewhere")
        .await;
    // Its walks pass the damaged one, and do not come to it again.
    for _ in 0..3 {
        store.trim(retention).await.expect_err("it is told");
    }
    let left = sound(store.history(all_of("c")).await.expect("read"));
    assert_eq!(left.len(), 2, "everything else is done");
    opener
        .alter("ALTER TABLE elsewhere RENAME TO quarantine")
        .await;
    store.trim(retention).await.expect("trimmed");
    assert_eq!(noted(&*store).await, [noted_as]);
}

/// Whatever is wrong with the histories keeps nothing else.
pub(super) async fn histories_that_cannot_be_looked_at_keep_nothing_else(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let mut answer = sample::answers().remove(0);
    answer.at = now();
    let id = answer.id.clone();
    let written = Commit {
        history: vec![sample::revision(&key("d"), 1)],
        requests: vec![answer],
        ..Commit::default()
    };
    super::commit(&*store, &states, written).await;
    opener.break_histories().await;
    let retention = Retention {
        now: now() + Duration::from_hours(3),
        history_age: Duration::from_hours(1),
        history_count: 1,
        history_span: Duration::from_hours(1),
        history_every: Duration::ZERO,
        request_age: Duration::from_hours(2),
        operation_age: Duration::MAX,
        batch: 100,
    };
    let trimmed = store.trim(retention).await;
    trimmed.expect_err("it is told");
    let loaded = store.load(vec![Selection::Request(id)]).await;
    assert_eq!(loaded.expect("read"), [], "old answers go all the same");
}

pub(super) async fn a_damaged_change_leaves_a_hole_in_the_log(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let state = super::standing(&states, "d", 4);
    let written = Commit {
        log: (1..=4).map(|at| super::change(state, at)).collect(),
        ..Commit::default()
    };
    super::commit(&*store, &[state], written).await;
    let garbage = opener.bytes("0102");
    for sql in [
        format!("UPDATE log SET change = {garbage} WHERE revision = 2"),
        format!("UPDATE log SET change = {garbage} WHERE revision = 4"),
    ] {
        opener.tamper(sql).await;
    }
    let read = async |after, limit| -> (Vec<u64>, Vec<u64>) {
        let after = Revision::new(after);
        let page = store
            .log(state.partition, after, limit)
            .await
            .expect("read");
        let entries = page.entries.iter().map(|entry| entry.revision.get());
        let holes = page.holes.iter().map(|hole| hole.get());
        (entries.collect(), holes.collect())
    };
    assert_eq!(read(0, 9).await, (vec![1, 3], vec![2, 4]));
    assert_eq!(read(0, 2).await.0, [1, 3]);
    assert_eq!(read(2, 9).await, (vec![3], vec![4]));
    assert_eq!(read(4, 9).await, (vec![], vec![]));
    let at = |at: u64| format!("log: {}/{at}", state.partition);
    assert_eq!(noted(&*store).await, [at(2), at(4)]);
}

pub(super) async fn a_damaged_audit_entry_leaves_a_hole_in_its_chain(opener: Opener) {
    let store = opener.open().await;
    let mut states = take(&*store).await;
    let entries = (1..=4).map(|at| sample::audited(&mut states[1], &format!("devices/d{at}")));
    let entries: Vec<_> = entries.collect();
    let written = Commit {
        audit: entries.clone(),
        ..Commit::default()
    };
    super::commit(&*store, &[states[1]], written).await;
    let short = opener.bytes("00");
    let sql = format!("UPDATE audit SET hash = {short} WHERE sequence = 2");
    opener.tamper(sql).await;
    let partition: Partition = states[1].partition;
    let page = store.audit(partition, 0, 9).await.expect("read");
    assert_eq!(page.head, states[1].audit);
    assert_eq!(page.entries.len(), 4);
    for (at, entry) in page.entries.iter().enumerate() {
        match entry {
            Ok(entry) => assert_eq!(*entry, entries[at]),
            Err(hole) => assert_eq!((at, hole.at), (1, 2)),
        }
    }
    assert!(page.entries[1].is_err());
    assert_eq!(noted(&*store).await, [format!("audit: {partition}/2")]);
}

pub(super) async fn damaged_operations_and_results_do_not_stop_a_list(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let operation = |id: &str| OperationRow {
        id: OperationId(id.to_owned()),
        ended: false,
        at: now(),
        body: "{}".to_owned(),
    };
    let result = |of: &str| OperationResultRow {
        operation: OperationId("02".to_owned()),
        key: key(of),
        body: "{}".to_owned(),
    };
    let written = Commit {
        operations: ["01", "02", "03", "04"].map(operation).into(),
        results: ["a", "b", "c", "d"].map(result).into(),
        ..Commit::default()
    };
    super::commit(&*store, &states, written).await;
    for sql in [
        "UPDATE operations SET body = '[]' WHERE id = '03'",
        "UPDATE operation_results SET body = '[]' WHERE device_id = 'b'",
        "UPDATE operation_results SET device_id = 'c!/' WHERE device_id = 'c'",
    ] {
        // The characters that no id has leave the order of the rows as it is.
        opener.tamper(sql).await;
    }
    for limit in 1..=5 {
        let (mut read, mut damaged, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let page = store.operations(after, limit).await.expect("read");
            read.extend(page.records.into_iter().map(|row| row.id.0));
            damaged.extend(page.damaged.into_iter().map(|one| one.key));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(
            (read, damaged.len()),
            (vec!["04".into(), "02".into(), "01".into()], 1)
        );

        let (mut read, mut damaged, mut after) = (Vec::new(), 0, None);
        let of = OperationId("02".to_owned());
        loop {
            let page = store.operation_results(of.clone(), after, limit).await;
            let page = page.expect("read");
            read.extend(page.records.iter().map(|row| row.key.to_string()));
            damaged += page.damaged.len();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(
            (read, damaged),
            (vec!["a".into(), "d".into()], 2),
            "by {limit}"
        );
    }
    let notes = noted(&*store).await;
    assert!(notes.contains(&"operations: 03".to_owned()), "{notes:?}");
    assert!(
        notes.contains(&"operation_results: 02/b".to_owned()),
        "{notes:?}"
    );
    assert_eq!(notes.len(), 3, "{notes:?}");
}

pub(super) async fn rows_of_an_older_program_have_no_checksum_and_are_read(opener: Opener) {
    let store = opener.open().await;
    sample::fill(&*store).await;
    let whole = store.load(needed()).await.expect("read");
    for table in [
        "enrollment_tokens",
        "enrollments",
        "requests",
        "operations",
        "operation_results",
    ] {
        opener
            .tamper(format!("UPDATE {table} SET checksum = NULL"))
            .await;
    }
    assert_eq!(store.load(needed()).await.expect("read"), whole);
    let operation = OperationId("018f".to_owned());
    let results = store.operation_results(operation, None, 9).await;
    assert_eq!(results.expect("read").records, sample::results());
    assert!(noted(&*store).await.is_empty());
    opener.is_sound().await;
}
