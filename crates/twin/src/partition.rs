//! Which fixed bucket a device belongs to.
//!
//! The bucket decides stream, owner and order, so the function may never change for a hub that
//! has data: a test freezes its results.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::id::DeviceId;
use crate::limits::{PARTITIONS_DEFAULT, PARTITIONS_MAX};

/// How many partitions a hub has, from 1 to 256. Fixed when the hub is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionCount(u16);

impl PartitionCount {
    /// The count of a hub that was not told otherwise.
    pub const DEFAULT: PartitionCount = PartitionCount(PARTITIONS_DEFAULT);

    /// Accepts 1 to 256.
    pub fn new(count: u16) -> Result<PartitionCount, PartitionError> {
        if (1..=PARTITIONS_MAX).contains(&count) {
            return Ok(PartitionCount(count));
        }
        Err(PartitionError::Count { count })
    }

    /// The number itself.
    pub fn get(self) -> u16 {
        self.0
    }

    /// All partitions of such a hub, in order.
    pub fn partitions(self) -> impl Iterator<Item = Partition> {
        (0..self.0).map(Partition)
    }
}

impl Default for PartitionCount {
    fn default() -> Self {
        PartitionCount::DEFAULT
    }
}

impl fmt::Display for PartitionCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One bucket of devices: the unit of order and of sharing work between replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u16);

impl Partition {
    /// Accepts a number below the hub's partition count.
    pub fn new(index: u16, count: PartitionCount) -> Result<Partition, PartitionError> {
        if index < count.get() {
            return Ok(Partition(index));
        }
        Err(PartitionError::Index { index, count })
    }

    /// The number itself, from 0.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a number is not a partition, or not a count of partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// The count is 0 or above the most a hub may have.
    #[error("a hub has from 1 to {PARTITIONS_MAX} partitions, not {count}")]
    Count {
        /// What was given.
        count: u16,
    },
    /// The hub has no partition of that number.
    #[error("partition {index} does not exist: this hub has {count} partitions, counted from 0")]
    Index {
        /// What was given.
        index: u16,
        /// What the hub has.
        count: PartitionCount,
    },
}

/// The partition of a device and of all its modules.
///
/// Only the device id counts, so that a device and its security module keep a common order.
pub fn partition_of(device: &DeviceId, count: PartitionCount) -> Partition {
    let bucket = xxh3_64(device.as_str().as_bytes()) % u64::from(count.0);
    Partition(u16::try_from(bucket).expect("a remainder of a u16 fits a u16"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buckets_of_known_devices_are_frozen() {
        let of = |id: &str, count| {
            partition_of(
                &DeviceId::parse(id).unwrap(),
                PartitionCount::new(count).unwrap(),
            )
            .get()
        };
        // The published value for no input, so that the hash itself is the one that we mean.
        assert_eq!(xxh3_64(b""), 0x2D06_8005_38D3_94C2);
        let devices = ["d1", "d2", "device-0001", "Device-0001", "a:b;c$d'e", "x"];
        assert_eq!(devices.map(|d| of(d, 1)), [0; 6]);
        assert_eq!(devices.map(|d| of(d, 16)), [2, 11, 1, 1, 8, 1]);
        assert_eq!(devices.map(|d| of(d, 256)), [146, 235, 17, 81, 72, 17]);
    }

    #[test]
    fn a_count_outside_its_range_and_a_missing_partition_are_refused() {
        assert!(PartitionCount::new(0).is_err());
        assert!(PartitionCount::new(257).is_err());
        let error = Partition::new(16, PartitionCount::DEFAULT).unwrap_err();
        assert_eq!(
            error.to_string(),
            "partition 16 does not exist: this hub has 16 partitions, counted from 0"
        );
        assert_eq!(PartitionCount::DEFAULT.partitions().count(), 16);
    }
}
