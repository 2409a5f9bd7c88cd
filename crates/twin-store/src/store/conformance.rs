//! What every store must do, run on each implementation: the embedded one, the shared one on a real
//! PostgreSQL, and the plain model that other tests use in their place.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::SignedDuration;
use tempfile::TempDir;
use twin::{PartitionCount, Revision, partition_of};

use super::model::ModelStore;
use super::postgres::testing::open as open_postgres;
use super::sqlite::SqliteStore;
use super::{
    Commit, EnrollmentToken, EnrollmentUse, Error, Loaded, LogEntry, PartitionState, Replica,
    ReplicaId, Retention, Selection, Source, Store, Upsert, everything,
};
use crate::record::Record;
use crate::testing::{device, key, now, record};

/// Opens further handles on one and the same content, as another process would.
struct Opener {
    open: Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Store>>>,
    _folder: Option<TempDir>,
}

impl Opener {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_owned();
        let open = move || -> BoxFuture<'static, Arc<dyn Store>> {
            let store = Arc::new(SqliteStore::open(&path).expect("it opens"));
            async move { store as Arc<dyn Store> }.boxed()
        };
        Self {
            open: Box::new(open),
            _folder: Some(folder),
        }
    }

    async fn postgres() -> Self {
        let database = testkit::postgres::database().await;
        let open = move || -> BoxFuture<'static, Arc<dyn Store>> {
            let url = database.url();
            async move { Arc::new(open_postgres(&url).await) as Arc<dyn Store> }.boxed()
        };
        Self {
            open: Box::new(open),
            _folder: None,
        }
    }

    fn model() -> Self {
        let model = ModelStore::new();
        let open = move || -> BoxFuture<'static, Arc<dyn Store>> {
            let model = model.clone();
            async move { Arc::new(model) as Arc<dyn Store> }.boxed()
        };
        Self {
            open: Box::new(open),
            _folder: None,
        }
    }

    async fn open(&self) -> Arc<dyn Store> {
        (self.open)().await
    }
}

macro_rules! on_every_store {
    ($($story:ident)*) => {
        mod sqlite {
            $(#[tokio::test] async fn $story() { super::$story(super::Opener::sqlite()).await; })*
        }
        mod postgres {
            $(#[tokio::test] async fn $story() {
                super::$story(super::Opener::postgres().await).await;
            })*
        }
        mod model {
            $(#[tokio::test] async fn $story() { super::$story(super::Opener::model()).await; })*
        }
    };
}

on_every_store! {
    a_record_is_read_as_it_was_written
    lists_are_in_order_and_paged_without_loss
    a_commit_is_whole_or_nothing
    a_stale_owner_cannot_commit_anything
    the_log_keeps_its_order_and_forgets_what_is_trimmed
    another_number_of_partitions_is_refused
    a_token_counts_its_uses_and_knows_its_nonces
    a_trim_forgets_tokens_an_hour_after_they_expired
    a_reopened_store_has_kept_everything
}

const COUNT: u16 = 4;

fn count() -> PartitionCount {
    PartitionCount::new(COUNT).expect("a count")
}

/// A new replica, which counts as gone at once when another one comes.
fn replica(count: PartitionCount) -> Replica {
    Replica {
        id: ReplicaId(uuid::Uuid::new_v4().to_string()),
        address: "http://replica".to_owned(),
        count,
        lease: Duration::ZERO,
    }
}

/// Takes every partition, as a start of the service does.
async fn take(store: &dyn Store) -> Vec<PartitionState> {
    let claims = store.claim(replica(count())).await.expect("taken");
    assert_eq!(claims.owned.len(), usize::from(COUNT));
    claims.owned
}

/// A standing for the partition of a device, with another revision.
fn standing(states: &[PartitionState], id: &str, revision: u64) -> PartitionState {
    let partition = partition_of(&device(id), count());
    let state = states.iter().find(|state| state.partition == partition);
    PartitionState {
        revision: Revision::new(revision),
        ..*state.expect("all partitions are there")
    }
}

fn upserts(records: &[Record]) -> Vec<Upsert> {
    let upsert = |record: &Record| Upsert {
        record: Arc::new(record.clone()),
        index_remove: Vec::new(),
        index_add: Vec::new(),
    };
    records.iter().map(upsert).collect()
}

async fn keys_of(store: &dyn Store, source: Source, limit: u32) -> Vec<String> {
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .search(everything(source, after, limit, now()))
            .await
            .expect("a page");
        assert!(page.records.len() <= limit as usize);
        keys.extend(page.records.iter().map(|record| record.key.to_string()));
        after = page.next;
        if after.is_none() {
            return keys;
        }
    }
}

async fn a_record_is_read_as_it_was_written(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let (parent, module) = (record("d", "g1"), record("d/m", "g2"));
    let commit = Commit {
        partitions: vec![standing(&states, "d", 2)],
        upserts: upserts(&[parent.clone(), module.clone(), record("e", "g3")]),
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    assert_eq!(
        store.get(key("d")).await.expect("read"),
        Some(parent.clone())
    );
    assert_eq!(store.get(key("d/x")).await.expect("read"), None);
    let loaded = store
        .load(vec![
            Selection::Family(device("d")),
            Selection::One(key("d/x")),
        ])
        .await
        .expect("loaded");
    let whole = |record| Loaded::Whole(Box::new(record));
    assert_eq!(loaded, [whole(parent), whole(module)]);
}

async fn lists_are_in_order_and_paged_without_loss(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let names = ["B", "a", "a/m", "a/n", "a-b", "a.c", "a.c/m", "z"];
    let records: Vec<_> = names.map(|name| record(name, "g")).into();
    let commit = Commit {
        partitions: vec![standing(&states, "a", 1)],
        upserts: upserts(&records),
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    let mut sorted: Vec<_> = records.iter().map(|record| record.key.clone()).collect();
    sorted.sort();
    let all: Vec<_> = sorted.iter().map(ToString::to_string).collect();
    let devices: Vec<_> = sorted
        .iter()
        .filter(|key| key.module.is_none())
        .map(ToString::to_string)
        .collect();
    for limit in 1..=9 {
        assert_eq!(
            keys_of(&*store, Source::All, limit).await,
            all,
            "by {limit}"
        );
        assert_eq!(
            keys_of(&*store, Source::Devices, limit).await,
            devices,
            "by {limit}"
        );
    }
}

async fn a_commit_is_whole_or_nothing(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let mut lost = standing(&states, "d", 1);
    lost.epoch.0 += 7;
    let mut good = *states
        .iter()
        .find(|state| state.partition != lost.partition)
        .expect("there are more");
    good.position = 9;
    let commit = Commit {
        partitions: vec![good, lost],
        upserts: upserts(&[record("d", "g")]),
        log: vec![change(lost, 1)],
        ..Commit::default()
    };
    let refused = store.commit(commit).await.expect_err("the fence");
    assert!(matches!(refused, Error::Fenced { partition } if partition == lost.partition));
    assert_eq!(store.get(key("d")).await.expect("read"), None);
    let log = store.log(lost.partition, Revision::ZERO, 9).await;
    assert!(log.expect("read").entries.is_empty());
    let again = take(&*store).await;
    assert!(again.iter().all(|state| state.position == 0));
}

async fn a_stale_owner_cannot_commit_anything(opener: Opener) {
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

fn change(state: PartitionState, revision: u64) -> LogEntry {
    LogEntry {
        partition: state.partition,
        revision: Revision::new(revision),
        change: vec![u8::try_from(revision).expect("small"); 3],
    }
}

async fn the_log_keeps_its_order_and_forgets_what_is_trimmed(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let (one, other) = (states[0], states[1]);
    let at = |state: PartitionState, revision| PartitionState {
        revision: Revision::new(revision),
        ..state
    };
    let log = [3, 1, 2]
        .map(|revision| change(one, revision))
        .into_iter()
        .chain([change(other, 1)])
        .collect();
    let commit = Commit {
        partitions: vec![at(one, 3), at(other, 1)],
        log,
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    let read = async |state: PartitionState, after, limit| -> Vec<u64> {
        let page = store
            .log(state.partition, Revision::new(after), limit)
            .await
            .expect("read");
        for found in &page.entries {
            assert_eq!(*found, change(state, found.revision.get()));
        }
        let revisions = page.entries.iter().map(|change| change.revision.get());
        std::iter::once(page.floor.get()).chain(revisions).collect()
    };
    assert_eq!(read(one, 0, 9).await, [0, 1, 2, 3]);
    assert_eq!(read(one, 1, 1).await, [0, 2]);
    let commit = Commit {
        partitions: vec![at(one, 3)],
        trim_log: vec![(one.partition, Revision::new(2))],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    assert_eq!(read(one, 0, 9).await, [2, 3]);
    assert_eq!(read(other, 0, 9).await, [0, 1]);
}

async fn another_number_of_partitions_is_refused(opener: Opener) {
    take(&*opener.open().await).await;
    let other = PartitionCount::new(COUNT * 2).expect("a count");
    let refused = opener.open().await.claim(replica(other)).await;
    assert!(
        matches!(
            refused,
            Err(Error::PartitionCount {
                stored: COUNT,
                asked: 8
            })
        ),
        "{refused:?}"
    );
    take(&*opener.open().await).await;
}

fn token(hash: u8, expires_in: SignedDuration) -> EnrollmentToken {
    EnrollmentToken {
        hash: [hash; 32],
        device: hash.is_multiple_of(2).then(|| device("d")),
        expires_at: now() + expires_in,
        uses_max: 3,
    }
}

async fn a_token_counts_its_uses_and_knows_its_nonces(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let hour = SignedDuration::from_hours(1);
    let commit = Commit {
        partitions: vec![standing(&states, "d", 0)],
        tokens: vec![token(1, hour), token(2, hour)],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    let use_of = |id: &str, nonce: &str| EnrollmentUse {
        hash: [1; 32],
        device: device(id),
        nonce: nonce.to_owned(),
    };
    let commit = Commit {
        partitions: vec![standing(&states, "d", 1)],
        enrollments: vec![
            use_of("d", "first"),
            use_of("e", "other"),
            use_of("d", "late"),
        ],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    let state = async |hash, id| {
        let selection = Selection::Token([hash; 32], device(id));
        match store.load(vec![selection]).await.expect("read").pop() {
            Some(Loaded::Token(of, state)) => {
                assert_eq!(of, device(id));
                Some((state.token, state.uses, state.nonce))
            }
            other => {
                assert_eq!(other, None);
                None
            }
        }
    };
    let (one, two) = (token(1, hour), token(2, hour));
    assert_eq!(
        state(1, "d").await,
        Some((one.clone(), 2, Some("first".to_owned())))
    );
    assert_eq!(state(1, "x").await, Some((one, 2, None)));
    assert_eq!(state(2, "d").await, Some((two, 0, None)));
    assert_eq!(state(3, "d").await, None);
}

async fn a_trim_forgets_tokens_an_hour_after_they_expired(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let (short, long) = (SignedDuration::from_mins(1), SignedDuration::from_hours(5));
    let commit = Commit {
        partitions: vec![standing(&states, "d", 0)],
        tokens: vec![token(1, short), token(3, long), token(5, long)],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    for (after, expected) in [(1, vec![1, 3, 5]), (3, vec![3, 5]), (9, vec![])] {
        let retention = Retention {
            now: now() + SignedDuration::from_hours(after),
            history_age: Duration::MAX,
            history_count: u32::MAX,
            request_age: Duration::MAX,
            operation_age: Duration::MAX,
            batch: 1,
        };
        while store.trim(retention).await.expect("trimmed").more {}
        let mut left = Vec::new();
        for hash in [1, 3, 5] {
            let selection = Selection::Token([hash; 32], device("d"));
            if !store.load(vec![selection]).await.expect("read").is_empty() {
                left.push(hash);
            }
        }
        assert_eq!(left, expected, "after {after} h");
    }
}

async fn a_reopened_store_has_kept_everything(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let mut standing = standing(&states, "d", 5);
    standing.position = 77;
    let written = record("d/m", "g");
    let commit = Commit {
        partitions: vec![standing],
        upserts: upserts(&[record("d", "g"), written.clone(), record("e", "g")]),
        log: vec![change(standing, 5)],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    let commit = Commit {
        partitions: vec![standing],
        deletes: vec![key("e")],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    drop(store);

    let store = opener.open().await;
    let states = take(&*store).await;
    let kept = states
        .iter()
        .find(|state| state.partition == standing.partition)
        .expect("there");
    assert_eq!((kept.position, kept.revision.get()), (77, 5));
    assert_eq!(store.get(key("d/m")).await.expect("read"), Some(written));
    assert_eq!(store.get(key("e")).await.expect("read"), None);
    let log = store.log(standing.partition, Revision::ZERO, 9).await;
    assert_eq!(log.expect("read").entries, [change(standing, 5)]);
}
