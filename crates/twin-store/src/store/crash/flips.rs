//! Flips bits of the file of an embedded store, anywhere in it. Nothing may panic; no twin may be read
//! as another than it was; and where one cannot be read as it was, a check says that the store is
//! damaged.

use std::collections::BTreeMap;
use std::path::Path;

use super::Fresh;
use crate::record::Record;
use crate::store::maintain::{MaintainError, verify};
use crate::store::sqlite::SqliteStore;
use crate::store::{
    Error, HistoryRead, OperationId, PartitionState, RequestId, Selection, Source, Store,
    everything, sample,
};
use crate::testing::{device, key, now};

/// What the store of these tests holds.
pub(super) const NAMES: [&str; 6] = ["a", "a/m", "a/n", "b", "c", "c/m"];
/// Where the flips are; printed with each failure.
const SEED: u64 = 0x5eed_2026_1123;
/// How many are tried: a store of this size has some 30 pages.
const FLIPS: usize = 150;

/// Numbers without a pattern, the same each time.
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Numbers {
        Numbers(seed)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).expect("64 bits") % end
    }
}

/// Every twin, as somebody who asks for it gets it.
pub(super) async fn twins(store: &dyn Store) -> BTreeMap<&'static str, Result<Record, String>> {
    let mut all = BTreeMap::new();
    for name in NAMES {
        let read = match store.get(key(name)).await {
            Ok(Some(record)) => Ok(record),
            Ok(None) => Err("it is not there".to_owned()),
            Err(error) => {
                // A thread that panicked is gone, and the store says that it is closed.
                assert!(!matches!(error, Error::Closed), "{name}: {error}");
                Err(error.to_string())
            }
        };
        all.insert(name, read);
    }
    all
}

fn alive<T>(done: &Result<T, Error>) {
    let is_closed = matches!(done, Err(Error::Closed));
    assert!(!is_closed, "a thread of the store has panicked");
}

/// Everything else that the service asks of its store, but for writing twins; it may fail, but not
/// panic. Answers what it owns then.
pub(super) async fn use_all(store: &dyn Store) -> Vec<PartitionState> {
    let claims = store.claim(sample::replica(sample::count())).await;
    let states = claims.as_ref().ok().map(|claims| claims.owned.clone());
    alive(&claims);
    alive(&store.identity().await);
    alive(&store.heads().await);
    let family = Selection::Family(device("a"));
    let token = Selection::Token([7; 32], device("z"));
    let request = Selection::Request(RequestId("alice/UpdateTwin/1".to_owned()));
    let operation = Selection::Operation(OperationId("018f".to_owned()));
    for selection in [family, token, request, operation] {
        alive(&store.load(vec![selection]).await);
    }
    alive(
        &store
            .search(everything(Source::All, None, 100, now()))
            .await,
    );
    alive(&store.scan(everything(Source::All, None, 100, now())).await);
    alive(&store.damaged().await);
    for name in NAMES {
        let read = HistoryRead {
            key: key(name),
            before: None,
            from: None,
            to: None,
            limit: 100,
        };
        alive(&store.history(read).await);
    }
    for partition in sample::count().partitions() {
        alive(&store.log(partition, twin::Revision::ZERO, 100).await);
        alive(&store.audit(partition, 0, 100).await);
    }
    alive(&store.operations(None, 100).await);
    let operation = OperationId("018f".to_owned());
    alive(&store.operation_results(operation, None, 100).await);
    alive(&store.trim(super::child::retention()).await);
    states.unwrap_or_default()
}

/// Writes to some twins, as the owner of these partitions.
async fn write(store: &dyn Store, mut states: Vec<PartitionState>) {
    if states.len() == usize::from(sample::count().get()) {
        let commit = sample::created(&mut states, &["a", "b", "c/m", "new"]);
        alive(&store.commit(commit).await);
    }
}

fn write_flipped(to: &Path, bytes: &[u8], at: usize, bit: usize) {
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1 << bit;
    std::fs::write(to, flipped).expect("written");
}

#[tokio::test]
async fn a_flipped_bit_of_the_file_panics_nowhere_and_changes_no_twin_unnoticed() {
    let source = Fresh::folder();
    let store = SqliteStore::open(source.path()).expect("it opens");
    sample::fill(&store).await;
    store.close().await;
    let bytes = std::fs::read(source.path().join("twins.db")).expect("readable");
    let store = source.place.open().await;
    let whole = twins(&*store).await;
    assert!(whole.values().all(Result::is_ok));
    store.close().await;

    let mut numbers = Numbers::new(SEED);
    let (mut found, mut hurt) = (0, 0);
    for _ in 0..FLIPS {
        let (at, bit) = (numbers.below(bytes.len()), numbers.below(8));
        let context = format!("bit {bit} of byte {at}");
        let copy = Fresh::folder();
        write_flipped(&copy.path().join("twins.db"), &bytes, at, bit);
        let sound = match verify(&*copy.place.rows(), |_, _| ()).await {
            Ok(report) => report.is_sound(),
            Err(MaintainError::Stopped) => panic!("{context}: the check has panicked"),
            Err(_) => false,
        };
        found += usize::from(!sound);
        let store = match SqliteStore::open(copy.path()) {
            Ok(store) => store,
            Err(error) => {
                assert!(!sound, "{context}: {error}");
                continue;
            }
        };
        for (name, read) in twins(&store).await {
            match (&whole[name], read) {
                (Ok(was), Ok(is)) => assert_eq!(&is, was, "{context}: {name} is another"),
                (_, Err(problem)) => {
                    hurt += 1;
                    assert!(
                        !sound,
                        "{context}: {name}: {problem}, and no check finds it"
                    );
                }
                (Err(_), Ok(_)) => unreachable!("all were whole"),
            }
        }
        let states = use_all(&store).await;
        write(&store, states).await;
        store.close().await;
    }
    assert!(found > 0 && hurt > 0, "{found} found, {hurt} twins hurt");
}
