//! What a power cut may do to the WAL: everything behind the last sync may be missing, torn or
//! other bytes. What was acknowledged was synced before. And what it may do to the file while a
//! checkpoint takes the WAL into it: any page may be the old one, the new one, or torn between them.

use std::path::Path;

use super::child::{Plan, WORKERS};
use super::flips::Numbers;
use super::{Doing, Fresh, Told, hold, live};
use crate::store::maintain::verify;

const DATABASE: &str = "twins.db";
const WAL: &str = "twins.db-wal";

/// A copy of a store with another WAL.
fn copy(from: &Path, wal: &[u8]) -> Fresh {
    let to = Fresh::folder();
    std::fs::copy(from.join(DATABASE), to.path().join(DATABASE)).expect("copied");
    std::fs::write(to.path().join(WAL), wal).expect("written");
    to
}

/// Bytes that look like nothing, the same each time.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}

/// Everything that may be behind the last sync.
fn suffixes(wal: &[u8], synced: usize) -> Vec<Vec<u8>> {
    let behind = wal.len() - synced;
    let mut variants = vec![wal.to_vec(), wal[..synced].to_vec()];
    for part in 0..12 {
        let at = synced + behind * part / 12;
        variants.push(wal[..at].to_vec());
        let mut scrambled = wal[..at].to_vec();
        scrambled.extend(noise(wal.len() - at));
        variants.push(scrambled);
        let mut zeroed = wal.to_vec();
        zeroed[at..].fill(0);
        variants.push(zeroed);
        // Later pages came to the disk, an earlier one did not.
        let mut torn = wal.to_vec();
        let end = (at + 512).min(wal.len());
        torn[at..end].fill(0xa5);
        variants.push(torn);
        if at < wal.len() {
            let mut flipped = wal.to_vec();
            flipped[at] ^= 0x10;
            variants.push(flipped);
        }
    }
    let mut longer = wal.to_vec();
    longer.extend(noise(10_000));
    variants.push(longer);
    variants
}

#[tokio::test]
async fn unsynced_writes_may_be_lost_torn_or_scrambled_acknowledged_ones_stand() {
    let mut unsynced = 0;
    for (point, nth) in [
        ("commit.written", 9),
        ("commit.durable", 8),
        ("commit.durable", 14),
        ("commit.durable", 40),
        ("trim.durable", 9),
    ] {
        let folder = Fresh::folder();
        let plan = Plan {
            point: Some((point.to_owned(), nth)),
            ..Plan::at(&folder.place)
        };
        let mut told = Told::default();
        live(&plan, &mut told, None);
        assert!(!told.done, "{point} is come by");
        let wal = std::fs::read(folder.path().join(WAL)).expect("a WAL");
        let synced = usize::try_from(told.wal).expect("small");
        assert!(
            0 < synced && synced <= wal.len(),
            "{synced} of {}",
            wal.len()
        );
        unsynced += wal.len() - synced;
        for variant in suffixes(&wal, synced) {
            let copied = copy(folder.path(), &variant);
            hold(&copied.place, &told).await;
        }
    }
    assert!(unsynced > 0, "something was under way");
}

#[tokio::test]
async fn whatever_is_missing_at_the_end_of_the_wal_what_is_left_is_whole() {
    let folder = Fresh::folder();
    let plan = Plan {
        point: Some(("commit.durable".to_owned(), 30)),
        ..Plan::at(&folder.place)
    };
    let mut told = Told::default();
    live(&plan, &mut told, None);
    // Also what was acknowledged may be missing here, as on a disk that lies about syncs; but a
    // commit is there as a whole or not at all.
    for worker in 0..WORKERS {
        for doing in [Doing::Patch, Doing::Fold, Doing::Toggle] {
            told.numbers.entry((worker, doing)).or_default().0 = 0;
        }
    }
    let wal = std::fs::read(folder.path().join(WAL)).expect("a WAL");
    let mut stores = 0;
    for part in 1..60 {
        let copied = copy(folder.path(), &wal[..wal.len() * part / 60]);
        // Before the first migration is there, it is no store yet.
        if verify(&*copied.place.rows(), |_, _| ()).await.is_ok() {
            hold(&copied.place, &told).await;
            stores += 1;
        }
    }
    assert!(stores > 40, "{stores}");
}

/// The pages of a file that a checkpoint was writing: by `choose` old, new, or half of each.
fn mixed(old: &[u8], new: &[u8], mut choose: impl FnMut(usize) -> usize) -> Vec<u8> {
    let mut file = new.to_vec();
    for (at, page) in file.chunks_mut(PAGE).enumerate() {
        let from = at * PAGE;
        let old = old.get(from..from + PAGE);
        // What is behind the old end is not there yet, or zeros.
        let old = old.map_or_else(|| vec![0; PAGE], <[u8]>::to_vec);
        match choose(3) {
            0 => page.copy_from_slice(&old),
            1 => {}
            _ => {
                let sectors = 1 + choose(PAGE / SECTOR - 1);
                page[..sectors * SECTOR].copy_from_slice(&old[..sectors * SECTOR]);
            }
        }
    }
    file
}

/// Bytes of a page of the file, and of what a disk writes as a whole.
const PAGE: usize = 4096;
const SECTOR: usize = 512;

#[tokio::test]
async fn a_checkpoint_that_is_torn_is_made_good_by_the_wal() {
    let folder = Fresh::folder();
    let mut told = Told::default();
    // A first life ends well, so that the file has something to be torn.
    live(&Plan::at(&folder.place), &mut told, None);
    assert!(told.done);
    let plan = Plan {
        run: 2,
        point: Some(("commit.durable".to_owned(), 25)),
        ..Plan::at(&folder.place)
    };
    live(&plan, &mut told, None);
    assert!(!told.done);
    let old = std::fs::read(folder.path().join(DATABASE)).expect("readable");
    let wal = std::fs::read(folder.path().join(WAL)).expect("a WAL");
    let complete = copy(folder.path(), &wal);
    let raw = rusqlite::Connection::open(complete.path().join(DATABASE)).expect("it opens");
    raw.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))
        .expect("taken in");
    drop(raw);
    let new = std::fs::read(complete.path().join(DATABASE)).expect("readable");
    assert!(new != old && old.len() > 20 * PAGE, "{}", old.len());

    let mut numbers = Numbers::new(0x7042_0000_1123);
    let mut needed = 0;
    for _ in 0..25 {
        let file = mixed(&old, &new, |end| numbers.below(end));
        let torn = copy(folder.path(), &wal);
        std::fs::write(torn.path().join(DATABASE), &file).expect("written");
        hold(&torn.place, &told).await;
        // Without the WAL it would be found out.
        let bare = Fresh::folder();
        std::fs::write(bare.path().join(DATABASE), &file).expect("written");
        let checked = verify(&*bare.place.rows(), |_, _| ()).await;
        needed += usize::from(!checked.is_ok_and(|report| report.is_sound()));
    }
    assert!(needed > 20, "{needed}: the WAL has made it good");
}
