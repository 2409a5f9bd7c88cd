//! The spool: every event waits here, on disk, until the service has made it durable.
//!
//! It never looks into an event, never talks to anybody and never decides when to send.
//!
//! # Layout
//! `<data>/spool/<lane>/` for the lanes `high`, `medium` and `low`, each with
//! - `epoch`: a UUID made when the lane was created; the service counts sequences per epoch;
//! - `position`: JSON with the floor (everything at or below is acknowledged or dropped) and the
//!   number of dropped events;
//! - `<first sequence>.seg`: records, see `record.rs`. The last one is written to.
//!
//! # Update protocol
//! 1. `append` gives an event its sequence and keeps it in memory.
//! 2. `sync` (the group commit) writes and syncs the records of each lane, then replaces its
//!    `position` when that changed, then removes segments below the floor. The last two are done
//!    also when the first fails, because on a full disk they make room. Only events that were
//!    synced are ever read, and so ever sent.
//! 3. `acknowledge` and drops move the floor in memory; the next `sync` makes them durable.
//!
//! # What a crash leaves
//! - A torn or unsynced tail: cut off at open. It was never sent, so its sequences are free.
//! - An old floor: events are sent again under their old sequences, and the service knows them.
//!   Drops that were not yet durable are undone with their count, because the segments still exist.
//! - A segment below the floor, or an empty last one: removed, or written to, by the next run.
//! - Damage inside what was durable (not from a crash): the record is skipped, the ones behind it
//!   are kept, and it counts as dropped. A lane without a readable epoch or position begins anew
//!   under a new epoch, and its events count as dropped.
//!
//! # Bound
//! The bytes of live events of all lanes together stay at or below a bound. Over it the oldest
//! events of the lowest lane go first. On disk there may be one segment more per lane, which is
//! removed when its last event goes.

mod lane_log;
mod position;
mod record;
mod segment;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use posture::Lane;
use uuid::Uuid;

use self::lane_log::LaneLog;
pub use self::record::EVENT_BYTES_MAX;
use crate::lane::{LOWEST_FIRST, PerLane};

/// Position of an event in its lane, from 1; 0 means: before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The sequence after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Why the spool could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A lane could not be opened.
    #[error("cannot open the spool lane in {}", path.display())]
    Open {
        /// The lane's directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A lane could not be read or written.
    #[error("cannot {action} the {lane} lane of the spool")]
    Lane {
        /// What was attempted.
        action: &'static str,
        /// Which lane.
        lane: Lane,
        /// What the operating system said.
        source: io::Error,
    },
    /// An event is larger than a record may be.
    #[error("an event of {bytes} bytes is over the limit of {EVENT_BYTES_MAX}")]
    EventTooLarge {
        /// Size of the encoded event.
        bytes: usize,
    },
}

/// How large the spool may become.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes of live events of all lanes.
    pub bytes_max: u64,
    /// Bytes after which a lane begins a new segment file.
    pub segment_bytes: u64,
}

impl Options {
    /// Default bound: a day of a busy machine's aggregated events, and small for any disk.
    pub const BYTES_MAX_DEFAULT: u64 = 64 * 1024 * 1024;

    /// Options for a bound. Segments are 1/128 of it: small enough that the dead part of the first
    /// segment of each lane does not matter, large enough that files stay few.
    pub fn with_bytes_max(bytes_max: u64) -> Self {
        let segment_bytes = (bytes_max / 128).clamp(16 * 1024, 1024 * 1024);
        Self {
            bytes_max,
            segment_bytes,
        }
    }
}

/// How much to read at once. At least one event is read, whatever its size.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimits {
    /// Bytes of payload.
    pub bytes: usize,
    /// Number of events.
    pub events: usize,
}

/// An event as it lies in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpooledEvent {
    /// Its place in the lane.
    pub sequence: Sequence,
    /// The bytes that were appended.
    pub payload: Vec<u8>,
}

/// What a lane holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneStatus {
    /// The lane's epoch.
    pub epoch: Uuid,
    /// Everything at or below is acknowledged or dropped.
    pub floor: Sequence,
    /// The last sequence that is durable.
    pub durable_through: Sequence,
    /// Events that wait, and their bytes.
    pub waiting_count: u64,
    /// Bytes of the events that wait.
    pub waiting_bytes: u64,
    /// Events dropped since the epoch began.
    pub dropped_total: u64,
}

/// Three lanes under one bound.
#[derive(Debug)]
pub struct Spool {
    lanes: PerLane<LaneLog>,
    bytes_max: u64,
}

impl Spool {
    /// Opens the spool below `dir`, recovering what a crash left. A new lane gets a random epoch.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        let open = |lane: Lane| {
            LaneLog::open(
                &dir.join(lane.as_str()),
                Uuid::new_v4(),
                options.segment_bytes,
            )
        };
        let lanes = PerLane {
            high: open(Lane::High)?,
            medium: open(Lane::Medium)?,
            low: open(Lane::Low)?,
        };
        let mut spool = Self {
            lanes,
            bytes_max: options.bytes_max,
        };
        spool.enforce_bound()?;
        spool.sync()?;
        Ok(spool)
    }

    /// Takes an event and gives it its sequence. It is safe after the next [`Self::sync`].
    /// When the bound is passed, older events of lower lanes go.
    pub fn append(&mut self, lane: Lane, event: &[u8]) -> Result<Sequence, Error> {
        let sequence = self.lanes[lane].append(event)?;
        self.enforce_bound()?;
        Ok(sequence)
    }

    /// Makes everything appended, acknowledged and dropped so far durable.
    pub fn sync(&mut self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for lane in Lane::ALL {
            let synced = self.lanes[lane].sync().map_err(|source| Error::Lane {
                action: "sync",
                lane,
                source,
            });
            // The others go on: one of them may free what this one lacks.
            outcome = outcome.and(synced);
        }
        outcome
    }

    /// Reads durable events after `after`, at or below `through`, in order.
    pub fn read(
        &mut self,
        lane: Lane,
        after: Sequence,
        through: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<SpooledEvent>, Error> {
        self.lanes[lane]
            .read(after, through, limits)
            .map_err(|source| Error::Lane {
                action: "read",
                lane,
                source,
            })
    }

    /// Forgets everything of a lane at or below `through`.
    pub fn acknowledge(&mut self, lane: Lane, through: Sequence) -> Result<(), Error> {
        self.lanes[lane]
            .acknowledge(through)
            .map_err(|source| Error::Lane {
                action: "acknowledge",
                lane,
                source,
            })
    }

    /// Drops, and counts, events that wait since before an instant. Whole segments at a time, so an
    /// event may stay a little longer.
    pub fn expire(&mut self, before: Timestamp) -> Result<(), Error> {
        for lane in Lane::ALL {
            self.lanes[lane]
                .expire(before)
                .map_err(|source| Error::Lane {
                    action: "drop old events from",
                    lane,
                    source,
                })?;
        }
        Ok(())
    }

    /// What a lane holds.
    pub fn status(&self, lane: Lane) -> LaneStatus {
        let log = &self.lanes[lane];
        LaneStatus {
            epoch: log.epoch(),
            floor: log.floor(),
            durable_through: log.durable_through(),
            waiting_count: log.live_count(),
            waiting_bytes: log.live_bytes(),
            dropped_total: log.dropped(),
        }
    }

    fn enforce_bound(&mut self) -> Result<(), Error> {
        while Lane::ALL
            .iter()
            .map(|lane| self.lanes[*lane].live_bytes())
            .sum::<u64>()
            > self.bytes_max
        {
            let mut dropped = false;
            for lane in LOWEST_FIRST {
                dropped = self.lanes[lane]
                    .drop_oldest()
                    .map_err(|source| Error::Lane {
                        action: "drop from",
                        lane,
                        source,
                    })?;
                if dropped {
                    break;
                }
            }
            if !dropped {
                break;
            }
        }
        Ok(())
    }
}

/// What a lane below `dir` holds, without changing anything, also while an agent writes to it; `None`
/// when there is no such lane.
pub fn inspect(dir: &Path, lane: Lane) -> Result<Option<LaneStatus>, Error> {
    lane_log::inspect(&dir.join(lane.as_str())).map_err(|source| Error::Lane {
        action: "look into",
        lane,
        source,
    })
}
