//! What a power cut may do to the WAL: everything behind the last sync may be missing, torn or
//! other bytes. What was acknowledged was synced before.

use std::path::{Path, PathBuf};

use super::child::{Plan, WORKERS};
use super::{Doing, Told, hold, live};
use crate::store::maintain::verify;
use crate::store::sqlite::SqliteFiles;

const DATABASE: &str = "twins.db";
const WAL: &str = "twins.db-wal";

/// A copy of a store with another WAL.
fn copy(from: &Path, wal: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(from.join(DATABASE), folder.path().join(DATABASE)).expect("copied");
    std::fs::write(folder.path().join(WAL), wal).expect("written");
    let path = folder.path().to_owned();
    (folder, path)
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
        let folder = tempfile::tempdir().expect("a folder");
        let plan = Plan {
            folder: folder.path().to_owned(),
            run: 1,
            point: Some((point.to_owned(), nth)),
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
            let (_folder, path) = copy(folder.path(), &variant);
            hold(&path, &told).await;
        }
    }
    assert!(unsynced > 0, "something was under way");
}

#[tokio::test]
async fn whatever_is_missing_at_the_end_of_the_wal_what_is_left_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = Plan {
        folder: folder.path().to_owned(),
        run: 1,
        point: Some(("commit.durable".to_owned(), 30)),
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
        let (_folder, path) = copy(folder.path(), &wal[..wal.len() * part / 60]);
        // Before the first migration is there, it is no store yet.
        if verify(&SqliteFiles::new(&path), |_, _| ()).await.is_ok() {
            hold(&path, &told).await;
            stores += 1;
        }
    }
    assert!(stores > 40, "{stores}");
}
