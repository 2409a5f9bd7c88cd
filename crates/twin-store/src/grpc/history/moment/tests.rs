use super::*;
use crate::apply::{Cause, ChangeKind, Touch, Weight};
use crate::store::model::ModelStore;
use crate::store::sample::{of, take};
use crate::store::{Commit, Retention, Upsert};
use crate::testing::{key, now, record};

/// A life of five revisions, in each of which the identity was changed; the second was kept by a
/// version of ours that did not follow the registry.
async fn lived() -> Arc<dyn Store> {
    let store: Arc<dyn Store> = Arc::new(ModelStore::new());
    let mut states = take(&*store).await;
    let (mut before, mut history) = (None, Vec::new());
    for number in 1..=5 {
        let mut after = record("d", "g");
        after.identity.managed_by = format!("somebody {number}");
        after.revision = Revision::new(number);
        after.updated_at = at(number);
        let touch = Touch::of([ChangeKind::Identity], Weight::Fact, Cause::default());
        let both = [before.as_ref(), Some(&after)];
        let entry = history::entry(&key("d"), both, &touch, after.revision, after.updated_at);
        history.push(entry.expect("readable"));
        before = Some(after);
    }
    history[1].has_registry = false;
    let state = of(&mut states, &key("d"));
    state.revision = Revision::new(9);
    let present = before.expect("five");
    let commit = Commit {
        partitions: vec![*state],
        upserts: vec![Upsert {
            record: Arc::new(present),
            index_remove: Vec::new(),
            index_add: Vec::new(),
        }],
        history,
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    store
}

fn at(number: u64) -> Timestamp {
    now() + std::time::Duration::from_secs(number)
}

#[tokio::test]
async fn what_the_registry_said_is_not_guessed_where_nobody_followed_it() {
    let store = lived().await;
    for (number, expected) in [
        (1, None),
        (2, None),
        (3, Some("somebody 3")),
        (4, Some("somebody 4")),
        (5, Some("somebody 5")),
        (7, Some("somebody 5")),
    ] {
        let moment = Moment::Revision(Revision::new(number));
        let then = find(&store, &key("d"), moment).await.expect("kept");
        let managed_by = then.document.get("managedBy").and_then(Value::as_str);
        assert_eq!(managed_by, expected, "revision {number}");
        let twin = then.twin().expect("readable");
        let how = expected.map_or("", |_| "sas");
        assert_eq!(twin.authentication_type, how, "revision {number}");
        assert_eq!(then.has_registry(), expected.is_some());
    }
}

#[tokio::test]
async fn a_moment_that_has_not_come_is_refused() {
    let store = lived().await;
    let states = take(&*store).await;
    let mut states = states;
    let partition = of(&mut states, &key("d")).partition;
    let revision = |number| Moment::Revision(Revision::new(number));
    for (moment, expected) in [
        (Moment::Now, None),
        (revision(5), None),
        (revision(9), None),
        (revision(10), Some("REVISION_NOT_YET")),
        (Moment::Time(at(5)), None),
        (Moment::Time(at(5 + 60)), None),
        (Moment::Time(at(5 + 61)), Some("TIME_NOT_YET")),
    ] {
        let come = must_have_come(&store, &key("d"), moment, partition, at(5)).await;
        let reason = come.err().map(|error| match error {
            Error::Read(ReadError::RevisionNotYet { asked, newest, .. }) => {
                assert_eq!((asked, newest), (10, 9));
                "REVISION_NOT_YET"
            }
            Error::Read(ReadError::TimeNotYet { .. }) => "TIME_NOT_YET",
            other => panic!("{other}"),
        });
        assert_eq!(reason, expected, "{moment:?}");
    }
}

/// A life of `count` revisions, each of which names the one before it, and of which all but the first are routine.
async fn busy(count: u64) -> (ModelStore, Arc<dyn Store>) {
    let model = ModelStore::new();
    let store: Arc<dyn Store> = Arc::new(model.clone());
    let mut states = take(&*store).await;
    let (mut before, mut history) = (None, Vec::new());
    for number in 1..=count {
        let mut after = record("d", "g");
        after.identity.managed_by = format!("somebody {number}");
        after.revision = Revision::new(number);
        after.updated_at = at(number);
        let touch = Touch::of([ChangeKind::Identity], Weight::Fact, Cause::default());
        let both = [before.as_ref(), Some(&after)];
        let entry = history::entry(&key("d"), both, &touch, after.revision, after.updated_at);
        history.push(HistoryEntry {
            routine: number > 1,
            previous: Some(Revision::new(number - 1)),
            ..entry.expect("readable")
        });
        before = Some(after);
    }
    let state = of(&mut states, &key("d"));
    state.revision = Revision::new(count);
    let commit = Commit {
        partitions: vec![*state],
        upserts: vec![Upsert {
            record: Arc::new(before.expect("some")),
            index_remove: Vec::new(),
            index_add: Vec::new(),
        }],
        history,
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    (model, store)
}

/// Puts together what is older than so many seconds, ten seconds of it at a time.
fn thinning(older_than: u64) -> Retention {
    Retention {
        now: at(older_than),
        history_age: std::time::Duration::MAX,
        history_count: u32::MAX,
        history_span: std::time::Duration::from_secs(10),
        history_every: std::time::Duration::ZERO,
        request_age: std::time::Duration::MAX,
        operation_age: std::time::Duration::MAX,
        batch: 100,
    }
}

#[tokio::test]
async fn a_way_back_that_is_put_together_while_it_is_walked_is_found_all_the_same() {
    // Three pages; between the first two lies a span, of which the first page has seen a part.
    let count = u64::from(PAGE) * 3;
    for asked in [1, 2, 40, 100, 120] {
        let (model, store) = busy(count).await;
        // Before the second page. The third reading is of the second try.
        model.trim_between([None, Some(thinning(count)), None]);
        let moment = Moment::Revision(Revision::new(asked));
        let walked = find(&store, &key("d"), moment).await.expect("it is kept");
        assert_eq!(model.trims_left(), 0, "{asked} is more than a page away");
        let revision = walked.revision().get();
        assert!(
            revision <= asked && revision + 10 > asked,
            "{revision} for {asked}"
        );
        let managed_by = walked.document.get("managedBy").and_then(Value::as_str);
        assert_eq!(managed_by, Some(&*format!("somebody {revision}")));
    }
}
