//! A change of the log as it lies in a row: its bytes, then a CRC-32 over its place and them.

use twin::{Partition, Revision};

/// Bytes of the checksum at the end.
const SUM: usize = size_of::<u32>();

/// Prints a change.
pub(crate) fn seal(partition: Partition, revision: Revision, change: &[u8]) -> Vec<u8> {
    seal_numbered(partition.get(), revision, change)
}

/// As [`seal`], for the number of a partition.
pub(crate) fn seal_numbered(partition: u16, revision: Revision, change: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(change.len() + SUM);
    sealed.extend_from_slice(change);
    sealed.extend_from_slice(&sum(partition, revision, change).to_le_bytes());
    sealed
}

/// Reads a change back; none when it is damaged.
pub(crate) fn open(partition: Partition, revision: Revision, sealed: &[u8]) -> Option<&[u8]> {
    let (change, stored) = sealed.split_last_chunk::<SUM>()?;
    (u32::from_le_bytes(*stored) == sum(partition.get(), revision, change)).then_some(change)
}

fn sum(partition: u16, revision: Revision, change: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&partition.to_le_bytes());
    sum.update(&revision.get().to_le_bytes());
    sum.update(change);
    sum.finalize()
}
