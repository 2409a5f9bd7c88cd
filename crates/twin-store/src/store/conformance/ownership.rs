//! Who may commit.

use twin::PartitionCount;

use super::{Opener, commit, standing, upserts};
use crate::store::sample::{count, replica, take};
use crate::store::{Commit, Error, PartitionState};
use crate::testing::{key, record};

pub(super) async fn a_stale_owner_cannot_commit_anything(opener: Opener) {
    let first = opener.open().await;
    let stale = take(&*first).await;
    let second = opener.open().await;
    let fresh = take(&*second).await;
    for (before, after) in stale.iter().zip(&fresh) {
        assert!(before.epoch < after.epoch, "{before:?} {after:?}");
    }
    let commit = |states: &[PartitionState], generation: &str| Commit {
        partitions: vec![standing(states, "d", 1)],
        upserts: upserts(&[record("d", generation)]),
        ..Commit::default()
    };
    let refused = first.commit(commit(&stale, "stale")).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    assert_eq!(second.get(key("d")).await.expect("read"), None);
    second
        .commit(commit(&fresh, "fresh"))
        .await
        .expect("the owner commits");
    let refused = first.commit(commit(&stale, "stale")).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    let kept = first.get(key("d")).await.expect("read").expect("there");
    assert_eq!(kept.identity.generation_id, "fresh");
}

pub(super) async fn another_number_of_partitions_is_refused(opener: Opener) {
    take(&*opener.open().await).await;
    let other = PartitionCount::new(8).expect("a count");
    let refused = opener.open().await.claim(replica(other)).await;
    assert!(
        matches!(
            refused,
            Err(Error::PartitionCount {
                stored: 4,
                asked: 8
            })
        ),
        "{refused:?}"
    );
    take(&*opener.open().await).await;
}

pub(super) async fn claiming_again_changes_nothing(opener: Opener) {
    let store = opener.open().await;
    let mut replica = replica(count());
    replica.lease = std::time::Duration::from_mins(1);
    let first = store.claim(replica.clone()).await.expect("claimed");
    let again = store.claim(replica.clone()).await.expect("claimed");
    assert_eq!(first, again);
    assert!(first.surrender.is_empty() && first.elsewhere.is_empty());
    commit(&*store, &first.owned, Commit::default()).await;
    let again = store.claim(replica).await.expect("claimed");
    assert_eq!(first, again, "an empty commit moves nothing");
}

pub(super) async fn what_is_released_can_be_taken_at_once(opener: Opener) {
    let (first, second) = (opener.open().await, opener.open().await);
    let (one, other) = (replica(count()), replica(count()));
    let owned = first.claim(one.clone()).await.expect("claimed").owned;
    let (left, given) = owned.split_at(2);
    let given: Vec<_> = given.iter().map(|state| state.partition).collect();
    // Somebody else cannot give away what is ours.
    first
        .release(other.id.clone(), given.clone())
        .await
        .expect("nothing to do");
    commit(&*first, &owned, Commit::default()).await;
    first
        .release(one.id.clone(), given.clone())
        .await
        .expect("released");
    first
        .release(one.id, left.iter().map(|state| state.partition).collect())
        .await
        .expect("released");
    let taken = second.claim(other).await.expect("claimed").owned;
    assert_eq!(taken.len(), owned.len());
    for (before, after) in owned.iter().zip(&taken) {
        assert!(before.epoch < after.epoch, "{before:?} {after:?}");
        assert_eq!(before.position, after.position);
    }
    let late = Commit {
        partitions: vec![owned[0]],
        ..Commit::default()
    };
    let refused = first.commit(late).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
}

pub(super) async fn heads_are_those_of_the_last_commits(opener: Opener) {
    let store = opener.open().await;
    assert!(store.heads().await.expect("read").is_empty());
    let states = take(&*store).await;
    let heads = store.heads().await.expect("read");
    assert_eq!(heads.len(), usize::from(count().get()));
    assert!(heads.values().all(|revision| revision.get() == 0));
    let moved = standing(&states, "d", 12);
    commit(&*store, &[moved], Commit::default()).await;
    // Also on a handle that owns nothing.
    let heads = opener.open().await.heads().await.expect("read");
    assert_eq!(heads[&moved.partition].get(), 12);
    assert_eq!(heads.values().filter(|one| one.get() == 0).count(), 3);
}
