use serde_json::json;
use service_kit::error::{Classified, Kind};
use tempfile::TempDir;

use super::*;
use crate::policy_doc::PolicySpec;

mod damage;

fn policy(id: &str, description: &str, priority: i32) -> Policy {
    Policy::check(PolicySpec {
        id: id.to_owned(),
        description: description.to_owned(),
        target: "*".to_owned(),
        priority,
        settings: json!({"a": 1}).as_object().unwrap().clone(),
        ..PolicySpec::default()
    })
    .unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn change(second: i64) -> Change {
    Change {
        by: by(),
        at: at(second),
        note: format!("at {second}"),
        guarded: None,
        expected: None,
    }
}

struct Fixture {
    folder: TempDir,
    store: Store,
}

impl Fixture {
    async fn new() -> Fixture {
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        Fixture { folder, store }
    }

    async fn reopen(self) -> Fixture {
        drop(self.store);
        let store = Store::open(self.folder.path()).await.unwrap();
        Fixture {
            folder: self.folder,
            store,
        }
    }

    async fn apply(&self, policy: Policy, second: i64) -> (StoredPolicy, Outcome) {
        let applied = self.store.apply(policy, change(second), |_| {}).await;
        let applied = applied.unwrap();
        let outcome = applied.outcome();
        (applied.stored, outcome)
    }

    async fn delete(&self, id: &str, expected: Option<&str>) -> Result<(), Error> {
        let id = PolicyId::parse(id).unwrap();
        self.store
            .delete(
                id,
                expected.map(str::to_owned),
                (at(99), by()),
                (|| Ok(()), |_| {}),
            )
            .await
    }

    async fn sweep(&self) -> SweepState {
        self.store.load(Timestamp::UNIX_EPOCH).await.unwrap().sweep
    }
}

#[tokio::test]
async fn a_new_store_wants_its_first_sweep() {
    let fixture = Fixture::new().await;
    let contents = fixture.store.load(Timestamp::UNIX_EPOCH).await.unwrap();
    assert!(contents.policies.is_empty() && contents.positions.is_empty());
    assert_eq!(
        (contents.sweep.wanted.get(), contents.sweep.done.get()),
        (1, 0)
    );
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let fixture = Fixture::new().await;
    let (stored, outcome) = fixture.apply(policy("p", "d", 3), 10).await;
    assert_eq!(outcome, Outcome::Created);
    let positions = BTreeMap::from([(0, Sequence::new(7)), (15, Sequence::new(9))]);
    fixture
        .store
        .save_positions(positions.clone())
        .await
        .unwrap();
    let counts = SweepCounts {
        evaluated: 5,
        changed: 2,
        failed: 1,
    };
    fixture
        .store
        .sweep_done(SweepNumber::new(2), counts)
        .await
        .unwrap();
    let contents = fixture
        .reopen()
        .await
        .store
        .load(Timestamp::UNIX_EPOCH)
        .await
        .unwrap();
    assert_eq!(contents.policies, [stored]);
    assert_eq!(contents.positions, positions);
    let sweep = SweepNumber::new(2);
    assert_eq!(
        contents.sweep,
        SweepState {
            wanted: sweep,
            done: sweep,
            counts
        }
    );
}

#[tokio::test]
async fn the_same_content_again_writes_nothing() {
    let fixture = Fixture::new().await;
    let (first, _) = fixture.apply(policy("p", "d", 3), 10).await;
    let before = fixture.sweep().await;
    let (again, outcome) = fixture.apply(policy("p", "d", 3), 20).await;
    assert_eq!((again, outcome), (first, Outcome::Unchanged));
    assert_eq!(fixture.sweep().await, before);
}

#[tokio::test]
async fn a_change_raises_the_revision_and_wants_a_sweep() {
    let fixture = Fixture::new().await;
    let (first, _) = fixture.apply(policy("p", "d", 3), 10).await;
    let (second, outcome) = fixture.apply(policy("p", "d", 4), 20).await;
    assert_eq!(outcome, Outcome::Updated);
    assert_eq!((second.revision, second.effective_revision), (2, 2));
    assert_eq!((second.created_at, second.updated_at), (at(10), at(20)));
    assert_eq!(
        second.created_order, first.created_order,
        "it was created when it was"
    );
    assert!(second.sweep > first.sweep);
    assert_eq!(fixture.sweep().await.wanted, second.sweep);
}

#[tokio::test]
async fn better_words_touch_no_twin() {
    let fixture = Fixture::new().await;
    let (first, _) = fixture.apply(policy("p", "d", 3), 10).await;
    let (second, outcome) = fixture.apply(policy("p", "better words", 3), 20).await;
    assert_eq!(outcome, Outcome::Updated);
    assert_eq!((second.revision, second.effective_revision), (2, 1));
    assert_eq!(second.sweep, first.sweep);
    assert_eq!(
        second.active().revision,
        1,
        "leaves keep the name they were written under"
    );
}

#[tokio::test]
async fn a_revision_is_never_used_again() {
    let fixture = Fixture::new().await;
    fixture.apply(policy("p", "d", 1), 10).await;
    let (other, _) = fixture.apply(policy("q", "d", 1), 11).await;
    fixture.apply(policy("p", "d", 2), 12).await;
    fixture.delete("p", None).await.unwrap();
    let fixture = fixture.reopen().await;
    assert_eq!(
        fixture
            .store
            .load(Timestamp::UNIX_EPOCH)
            .await
            .unwrap()
            .policies
            .len(),
        1
    );
    let (again, outcome) = fixture.apply(policy("p", "d", 1), 20).await;
    assert_eq!((outcome, again.revision), (Outcome::Created, 3));
    assert_eq!((again.created_at, again.updated_at), (at(20), at(20)));
    assert!(
        again.created_order > other.created_order,
        "it was created last"
    );
}

#[tokio::test]
async fn deleting_wants_a_sweep_and_heeds_the_etag() {
    let fixture = Fixture::new().await;
    let (stored, _) = fixture.apply(policy("p", "d", 1), 10).await;
    let refused = fixture.delete("p", Some("r9")).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.reason()),
        (Kind::Aborted, "ETAG_MISMATCH")
    );
    fixture
        .delete("p", Some(&etag(stored.revision)))
        .await
        .unwrap();
    assert!(fixture.sweep().await.wanted > stored.sweep);
    let gone = fixture.delete("p", None).await.unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_policy_is_replaced_only_as_its_author_has_seen_it() {
    let fixture = Fixture::new().await;
    let at_etag = |expected: &str| Change {
        expected: Some(expected.to_owned()),
        ..change(50)
    };
    let apply = async |priority, expected| {
        let policy = policy("p", "d", priority);
        let applied = fixture.store.apply(policy, at_etag(expected), |_| {});
        applied.await.map(|applied| applied.stored.revision)
    };
    assert_eq!(apply(1, "r1").await.unwrap_err().kind(), Kind::NotFound);
    fixture.apply(policy("p", "d", 1), 10).await;
    assert_eq!(apply(2, "r1").await.unwrap(), 2);
    let late = apply(3, "r1").await.unwrap_err();
    assert_eq!(
        (late.kind(), late.reason()),
        (Kind::Aborted, "ETAG_MISMATCH")
    );
    let seen = Some("r1".to_owned());
    let rehearsed = fixture
        .store
        .rehearse(policy("p", "d", 3), seen, at(60))
        .await;
    assert_eq!(rehearsed.unwrap_err().reason(), "ETAG_MISMATCH");
    fixture.delete("p", None).await.unwrap();
    assert_eq!(apply(4, "r2").await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn missed_changes_note_position_and_sweep_together() {
    let fixture = Fixture::new().await;
    let sweep = fixture
        .store
        .want_sweep(Some((3, Sequence::new(41))))
        .await
        .unwrap();
    let contents = fixture
        .reopen()
        .await
        .store
        .load(Timestamp::UNIX_EPOCH)
        .await
        .unwrap();
    assert_eq!(contents.sweep.wanted, sweep);
    assert_eq!(contents.positions, BTreeMap::from([(3, Sequence::new(41))]));
}

#[tokio::test]
async fn an_older_sweep_does_not_undo_a_newer_one() {
    let fixture = Fixture::new().await;
    for _ in 2..=4 {
        fixture.store.want_sweep(None).await.unwrap();
    }
    let counts = SweepCounts {
        evaluated: 5,
        ..SweepCounts::default()
    };
    fixture
        .store
        .sweep_done(SweepNumber::new(4), counts)
        .await
        .unwrap();
    fixture
        .store
        .sweep_done(SweepNumber::new(3), SweepCounts::default())
        .await
        .unwrap();
    let sweep = fixture.sweep().await;
    assert_eq!((sweep.done.get(), sweep.counts), (4, counts));
}

#[tokio::test]
async fn there_are_no_more_policies_than_twin_store_takes_for_one_twin() {
    let fixture = Fixture::new().await;
    for number in 0..POLICIES_MAX {
        fixture
            .apply(policy(&format!("p{number}"), "d", 1), 10)
            .await;
    }
    let more = fixture
        .store
        .apply(policy("one-more", "d", 1), change(11), |_| {})
        .await;
    assert_eq!(more.unwrap_err().kind(), Kind::ResourceExhausted);
    fixture.apply(policy("p7", "d", 2), 12).await;
    fixture.delete("p7", None).await.unwrap();
    fixture.apply(policy("one-more", "d", 1), 13).await;
}

#[tokio::test]
async fn a_store_of_a_newer_program_is_refused() {
    let fixture = Fixture::new().await;
    let file = fixture.folder.path().join(FILE_NAME);
    drop(fixture.store);
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Store::open(fixture.folder.path()).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Newer {
                found: 99,
                known: 11
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_stored_policy_that_cannot_be_used_is_named_with_what_is_wrong() {
    let fixture = Fixture::new().await;
    fixture.apply(policy("p", "d", 1), 10).await;
    let connection = rusqlite::Connection::open(fixture.folder.path().join(FILE_NAME)).unwrap();
    connection
        .execute(
            "UPDATE revisions SET content = replace(content, '\"*\"', '\"tags.a =\"')",
            [],
        )
        .unwrap();
    let contents = fixture.store.load(Timestamp::UNIX_EPOCH).await.unwrap();
    let words = contents.unreadable.words().unwrap_or_default();
    assert!(
        words.contains("the stored policy p cannot be used: target"),
        "{words}"
    );
}

fn by() -> By {
    By {
        actor: "operator:alice".to_owned(),
        request_id: "0190b3a2-7c1e-7d3a-9d0b-0d6a2b9f4c11".to_owned(),
        trace_parent: String::new(),
    }
}

#[tokio::test]
async fn every_change_leaves_an_entry_in_the_order_of_the_changes() {
    let fixture = Fixture::new().await;
    fixture.apply(policy("p", "d", 3), 10).await;
    // What changes nothing is no change.
    fixture.apply(policy("p", "d", 3), 20).await;
    fixture.apply(policy("p", "d", 4), 30).await;
    fixture.delete("p", Some("r9")).await.unwrap_err();
    fixture.delete("p", None).await.unwrap();
    let mut found = Vec::new();
    while let Some(entry) = fixture.store.next_audit_entry().await.unwrap() {
        assert_eq!((&*entry.actor, &*entry.policy_id), ("operator:alice", "p"));
        let detail: serde_json::Value = serde_json::from_str(&entry.detail).unwrap();
        found.push((entry.action, detail["revision"].as_u64().unwrap(), entry.at));
        fixture.store.audit_entry_done(entry.number).await.unwrap();
    }
    let expected = [("policy.create", 1, at(10)), ("policy.update", 2, at(30))];
    let mut expected: Vec<_> = expected
        .map(|(action, revision, at)| (action.to_owned(), revision, at))
        .into();
    expected.push(("policy.delete".to_owned(), 2, at(99)));
    assert_eq!(found, expected);
}

#[tokio::test]
async fn revisions_keep_who_made_them_and_why_also_when_the_policy_is_gone() {
    let fixture = Fixture::new().await;
    fixture.apply(policy("p", "d", 1), 10).await;
    fixture.apply(policy("p", "d", 1), 20).await;
    fixture.apply(policy("p", "d", 2), 30).await;
    fixture.delete("p", None).await.unwrap();
    fixture.apply(policy("p", "e", 2), 40).await;
    fixture.apply(policy("q", "d", 1), 50).await;
    let fixture = fixture.reopen().await;
    let id = PolicyId::parse("p").unwrap();
    let all = fixture.store.revisions(id.clone(), None, 10).await.unwrap();
    let told: Vec<_> = all
        .iter()
        .map(|one| (one.revision, &*one.author, &*one.note, one.spec.priority))
        .collect();
    let author = &*by().actor;
    assert_eq!(
        told,
        [
            (3, author, "at 40", 2),
            (2, author, "at 30", 2),
            (1, author, "at 10", 1)
        ]
    );
    assert_eq!(all[0].before.as_ref(), Some(&all[1].spec));
    assert_eq!(all[1].before.as_ref(), Some(&all[2].spec));
    assert_eq!(all[2].before, None);
    let page = fixture.store.revisions(id, Some(3), 1).await.unwrap();
    assert_eq!(page, [all[1].clone()]);
}

#[tokio::test]
async fn a_rehearsal_says_what_applying_does_and_writes_nothing() {
    let fixture = Fixture::new().await;
    fixture.apply(policy("p", "d", 1), 10).await;
    fixture.delete("p", None).await.unwrap();
    fixture.apply(policy("q", "d", 1), 20).await;
    for next in [
        policy("p", "d", 1),
        policy("p", "d", 1),
        policy("p", "words", 1),
        policy("q", "d", 2),
        policy("new", "d", 2),
    ] {
        let before = fixture.store.load(Timestamp::UNIX_EPOCH).await.unwrap();
        let told = fixture
            .store
            .rehearse(next.clone(), None, at(30))
            .await
            .unwrap();
        let after = fixture.store.load(Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(before.policies, after.policies);
        assert_eq!(before.sweep, after.sweep);
        let done = fixture.store.apply(next, change(30), |_| {}).await.unwrap();
        assert_eq!(told, done);
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_the_rest_is_there() {
    let good = policy("good", "d", 3);
    for (damage, named) in [
        ("UPDATE revisions SET content = '{' WHERE policy_id = 'bad'", "policy bad"),
        ("UPDATE revisions SET content = CAST(x'ff' AS TEXT) WHERE policy_id = 'bad'", "policy bad"),
        ("DELETE FROM revisions WHERE policy_id = 'bad'", "policy bad"),
        ("UPDATE policies SET create_time = 'x' WHERE policy_id = 'bad'", "policy bad"),
        ("UPDATE policies SET revision = -1 WHERE policy_id = 'bad'", "policy bad"),
        ("UPDATE policies SET policy_id = 'no id' WHERE policy_id = 'bad'", "\"no id\""),
        ("INSERT INTO rollouts VALUES ('bad', 1, 1, 1, '{')", "policy bad"),
        ("INSERT INTO frozen_paths VALUES ('d', '[', '[]', 'x')", "1 frozen paths"),
        (
            "INSERT INTO configurations (configuration_id, revision, body, create_time, update_time, deleted,
                created_order) VALUES ('c', 1, '[', 'x', 'x', 0, 9)",
            "policy configuration:c",
        ),
    ] {
        let fixture = Fixture::new().await;
        let (stored, _) = fixture.apply(good.clone(), 10).await;
        fixture.apply(policy("bad", "d", 3), 10).await;
        {
            let file = fixture.folder.path().join(FILE_NAME);
            let database = rusqlite::Connection::open(file).unwrap();
            assert!(database.execute(damage, []).unwrap() > 0, "{damage}");
        }
        let contents = fixture.store.load(Timestamp::UNIX_EPOCH).await.unwrap();
        assert!(contents.policies.contains(&stored), "{damage}");
        let words = contents.unreadable.words().unwrap_or_default();
        assert!(words.contains(named), "{damage}: {words}");
        // Whatever does not need it goes on.
        fixture.apply(policy("good", "other", 4), 20).await;
        fixture.delete("good", None).await.unwrap();
    }
}
