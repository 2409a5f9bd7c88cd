use tempfile::TempDir;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn by() -> By {
    By {
        actor: "operator:alice".to_owned(),
        request_id: uuid::Uuid::now_v7().to_string(),
        trace_parent: String::new(),
    }
}

fn everything() -> Range {
    Range {
        policy: None,
        filter: String::new(),
    }
}

async fn begin(store: &Store, request: &str, second: i64) -> StoredReevaluation {
    let begun = store.begin_reevaluation(everything(), request.to_owned(), (at(second), by()));
    begun.await.unwrap()
}

#[tokio::test]
async fn one_goes_on_behind_its_place_when_the_store_is_opened_again() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let range = Range {
        policy: Some(PolicyId::parse("lamps").unwrap()),
        filter: "tags.site = 'a'".to_owned(),
    };
    let first = store.begin_reevaluation(range, String::new(), (at(1), by()));
    let first = first.await.unwrap();
    assert_eq!(first.state, State::Waiting);
    begin(&store, "", 2).await;
    let running = store.next_reevaluation(at(3)).await.unwrap().unwrap();
    assert_eq!(
        (running.number, running.state),
        (first.number, State::Running)
    );
    let moved = StoredReevaluation {
        place: "behind x".to_owned(),
        total: Some(10),
        counts: SweepCounts {
            evaluated: 4,
            changed: 2,
            failed: 1,
        },
        updated_at: at(4),
        ..running
    };
    assert!(!store.keep_reevaluation(moved.clone()).await.unwrap());
    drop(store);

    let store = Store::open(folder.path()).await.unwrap();
    let again = store.next_reevaluation(at(5)).await.unwrap().unwrap();
    assert_eq!(
        again,
        StoredReevaluation {
            updated_at: at(5),
            ..moved
        }
    );
}

#[tokio::test]
async fn the_same_request_begins_one_alone_and_too_many_are_refused() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let first = begin(&store, "a", 1).await;
    assert_eq!(begin(&store, "a", 2).await, first);
    for _ in 1..WAITING_MAX {
        begin(&store, "", 3).await;
    }
    let more = store.begin_reevaluation(everything(), String::new(), (at(4), by()));
    assert!(matches!(more.await, Err(ReevaluationError::TooMany)));
    // What was begun is still known then.
    assert_eq!(begin(&store, "a", 5).await, first);
    let listed = store.reevaluations(None, 3).await.unwrap();
    let below = store
        .reevaluations(Some(listed[2].number), 1)
        .await
        .unwrap();
    assert_eq!(listed[2].number, below[0].number + 1);
}

#[tokio::test]
async fn one_that_waits_is_cancelled_at_once_and_a_running_one_by_who_works_on_it() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let (first, second) = (begin(&store, "", 1).await, begin(&store, "", 1).await);
    let running = store.next_reevaluation(at(2)).await.unwrap().unwrap();
    for _ in 0..2 {
        let told = store.cancel_reevaluation(second.number, (at(3), by()));
        let told = told.await.unwrap();
        assert_eq!((told.state, told.ended_at), (State::Cancelled, Some(at(3))));
        let told = store.cancel_reevaluation(first.number, (at(3), by()));
        let told = told.await.unwrap();
        assert_eq!((told.state, told.cancelling), (State::Running, true));
    }
    assert!(store.keep_reevaluation(running.clone()).await.unwrap());
    let ended = StoredReevaluation {
        state: State::Cancelled,
        ended_at: Some(at(4)),
        ..running
    };
    store.keep_reevaluation(ended).await.unwrap();
    assert_eq!(store.next_reevaluation(at(5)).await.unwrap(), None);
    let missing = store.cancel_reevaluation(77, (at(6), by())).await;
    assert!(matches!(
        missing,
        Err(ReevaluationError::NotFound { number: 77 })
    ));
}

#[tokio::test]
async fn ended_ones_are_forgotten_after_a_month_and_not_before() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let old = begin(&store, "", 1).await;
    store
        .cancel_reevaluation(old.number, (at(10), by()))
        .await
        .unwrap();
    let month = 30 * 24 * 60 * 60;
    begin(&store, "", month).await;
    assert_eq!(store.reevaluations(None, 10).await.unwrap().len(), 2);
    let last = begin(&store, "", month + 100).await;
    let left = store.reevaluations(None, 10).await.unwrap();
    assert_eq!(left.len(), 2);
    assert_eq!(left[0].number, last.number);
    assert!(left.iter().all(|one| one.number != old.number));
}
