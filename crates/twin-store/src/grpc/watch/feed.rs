//! The log of changes as watches read it: decoded once for all of them.
//!
//! A ring per partition holds the newest changes; who is further behind reads the store. The heads
//! say up to where each log goes, also of partitions that another replica owns: those are asked of
//! the store now and then, while somebody watches. Nothing here knows who watches what.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tokio::sync::{Mutex, broadcast, watch};
use tracing::{error, warn};
use twin::{IdentityKey, Partition, PartitionCount, Revision};
use wire::bus::v1::TwinChange;
use wire::names::parse_identity;

use crate::engine::Committed;
use crate::error::{Error, ReadError};
use crate::store::{self, LogEntry, Store};

/// Last revision of each partition.
pub(crate) type Heads = BTreeMap<Partition, Revision>;

/// Changes read at once.
pub(super) const PAGE: u32 = 256;
/// Bytes of changes kept for all partitions together.
const RING_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of changes kept of a partition at least: a page of usual changes.
const RING_BYTES_MIN: usize = 256 * 1024;
/// How often the heads of others' partitions are asked for while somebody watches: little against
/// the second that a push may take, and next to nothing for the store.
const POLL: Duration = Duration::from_millis(200);

/// A change of the log.
#[derive(Debug)]
pub(super) struct Logged {
    /// Whose.
    pub(super) key: IdentityKey,
    /// Its place.
    pub(super) revision: Revision,
    /// What happened.
    pub(super) change: TwinChange,
    /// What it takes, about.
    pub(super) bytes: usize,
}

/// What was read of a log.
#[derive(Debug)]
pub(super) struct Piece {
    /// In order; empty at the end of the log.
    pub(super) changes: Vec<Arc<Logged>>,
    /// Up to here the log was read.
    pub(super) through: Revision,
}

/// The newest changes of one partition.
#[derive(Debug, Default)]
struct Ring {
    /// It holds every change behind this revision…
    start: Revision,
    /// …up to this one.
    end: Revision,
    changes: VecDeque<Arc<Logged>>,
    bytes: usize,
}

/// The log, shared by all watches.
pub(crate) struct Feed {
    store: Arc<dyn Store>,
    rings: BTreeMap<Partition, Mutex<Ring>>,
    ring_bytes: usize,
    heads: watch::Sender<Heads>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

impl Feed {
    /// A feed of a store's log.
    pub(crate) fn new(store: Arc<dyn Store>, count: PartitionCount) -> Arc<Feed> {
        let rings: BTreeMap<_, _> = count
            .partitions()
            .map(|partition| (partition, Mutex::default()))
            .collect();
        Arc::new(Feed {
            store,
            ring_bytes: (RING_BYTES / rings.len().max(1)).max(RING_BYTES_MIN),
            rings,
            heads: watch::Sender::new(Heads::new()),
        })
    }

    /// Tells when heads move.
    pub(super) fn subscribe(&self) -> watch::Receiver<Heads> {
        self.heads.subscribe()
    }

    /// The heads as they are now.
    pub(super) async fn heads(&self) -> Result<Heads, store::Error> {
        let heads = self.store.heads().await?;
        self.moved(heads.iter().map(|(partition, head)| (*partition, *head)));
        Ok(heads)
    }

    /// Reads what follows a revision in the log of a partition.
    pub(super) async fn read(&self, partition: Partition, after: Revision) -> Result<Piece, Error> {
        let Some(ring) = self.rings.get(&partition) else {
            let (changes, through) = (Vec::new(), after);
            return Ok(Piece { changes, through });
        };
        // Held while the store is read, so that many watches read it once.
        let mut ring = ring.lock().await;
        if let Some(piece) = ring.read(after) {
            return Ok(piece);
        }
        if ring.is_behind(after) {
            // Nobody has watched for a while; what lies between is of no use to anybody.
            *ring = Ring::at(after);
        }
        if after < ring.end {
            drop(ring);
            return self.read_store(partition, after).await;
        }
        let piece = self.read_store(partition, after).await?;
        ring.append(&piece, self.ring_bytes);
        Ok(piece)
    }

    async fn read_store(&self, partition: Partition, after: Revision) -> Result<Piece, Error> {
        let page = self.store.log(partition, after, PAGE).await?;
        // A watch that went on behind a change that is lost would keep an old twin for ever. Who
        // begins again reads every twin, and goes on behind the hole.
        if page.floor > after || !page.holes.is_empty() {
            return Err(ReadError::WatchTooOld.into());
        }
        let through = page.entries.last().map_or(after, |entry| entry.revision);
        let changes = page.entries.iter().map(|entry| decode(entry).map(Arc::new));
        let changes: Option<Vec<_>> = changes.collect();
        let changes = changes.ok_or(ReadError::WatchTooOld)?;
        Ok(Piece { changes, through })
    }

    /// Notes heads; they only rise.
    fn moved(&self, heads: impl Iterator<Item = (Partition, Revision)>) {
        self.heads.send_if_modified(|known| {
            let mut changed = false;
            for (partition, head) in heads {
                let known = known.entry(partition).or_default();
                if head > *known {
                    *known = head;
                    changed = true;
                }
            }
            changed
        });
    }
}

impl Ring {
    fn at(revision: Revision) -> Ring {
        Ring {
            start: revision,
            end: revision,
            ..Ring::default()
        }
    }

    fn is_behind(&self, after: Revision) -> bool {
        after > self.end
    }

    /// What follows a revision, if it is all here.
    fn read(&self, after: Revision) -> Option<Piece> {
        if after < self.start || after >= self.end {
            return None;
        }
        let first = self
            .changes
            .partition_point(|change| change.revision <= after);
        let limit = usize::try_from(PAGE).unwrap_or(usize::MAX);
        let changes: Vec<_> = self.changes.range(first..).take(limit).cloned().collect();
        let is_all = first + changes.len() == self.changes.len();
        let last = changes.last().map(|change| change.revision);
        let through = last.filter(|_| !is_all).unwrap_or(self.end);
        Some(Piece { changes, through })
    }

    fn append(&mut self, piece: &Piece, bytes_max: usize) {
        self.end = self.end.max(piece.through);
        for change in &piece.changes {
            self.bytes += change.bytes;
            self.changes.push_back(change.clone());
        }
        while self.bytes > bytes_max
            && let Some(oldest) = self.changes.pop_front()
        {
            self.bytes -= oldest.bytes;
            self.start = oldest.revision;
        }
    }
}

/// Reads a change; none is left of one that cannot be read, as of one that is damaged.
fn decode(entry: &LogEntry) -> Option<Logged> {
    let unreadable = |why: String| {
        error!(
            partition = %entry.partition,
            revision = %entry.revision,
            error = why,
            "a change in the log is damaged; watches begin again behind it"
        );
    };
    let change = TwinChange::decode(entry.change.as_slice())
        .map_err(|error| unreadable(error.to_string()))
        .ok()?;
    let name = change.twin.as_ref().map_or("", |twin| twin.name.as_str());
    let key = parse_identity("name", name)
        .map_err(|error| unreadable(error.to_string()))
        .ok()?;
    Some(Logged {
        key,
        revision: entry.revision,
        change,
        bytes: entry.change.len(),
    })
}

/// Keeps the heads of a feed up to date: from what the writer here tells at once, and from the
/// store for the rest. Ends with the service, or with the writer.
pub(crate) async fn follow_heads(
    feed: Arc<Feed>,
    mut commits: broadcast::Receiver<Arc<Committed>>,
    shutdown: ShutdownToken,
) {
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Nothing is lost when a branch is dropped: what is missed is asked for at the next tick.
        tokio::select! {
            () = shutdown.triggered() => return,
            committed = commits.recv() => match committed {
                Ok(committed) => {
                    let mut moved = vec![(committed.partition, committed.revision)];
                    while let Ok(committed) = commits.try_recv() {
                        moved.push((committed.partition, committed.revision));
                    }
                    feed.moved(moved.into_iter());
                }
                Err(broadcast::error::RecvError::Lagged(_)) => poll.reset_immediately(),
                Err(broadcast::error::RecvError::Closed) => return,
            },
            _ = poll.tick() => {
                if feed.heads.receiver_count() > 0
                    && let Err(error) = feed.heads().await
                {
                    warn!(error = chain(&error), "the heads of the log cannot be read");
                }
            }
        }
    }
}

/// A change for the tests of those who read it.
#[cfg(test)]
pub(super) fn logged(key: IdentityKey, revision: u64, change: TwinChange) -> Logged {
    Logged {
        key,
        revision: Revision::new(revision),
        bytes: change.encoded_len(),
        change,
    }
}

#[cfg(test)]
mod tests;
