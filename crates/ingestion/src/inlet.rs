//! Whether agents may be read at the moment: back-pressure from what lies behind us.
//!
//! Two things close an inlet: batches that wait in our memory for their publish, over all sessions,
//! and a partition's stream that grows because twin-store folds more slowly than agents send (or
//! that is full). A closed inlet is not an error: sessions stop reading, HTTP/2's flow control holds
//! the agents, and their spools keep the events. Without it the door would take all of the machine
//! while the twins fall behind by minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;
use twin::{Partition, PartitionCount};

use crate::metrics::Metrics;

/// Opens and closes inlets. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Inlets {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    backlog_bytes_max: u64,
    waiting_bytes_max: usize,
    waiting_bytes: AtomicUsize,
    /// True while there is room in memory.
    memory: watch::Sender<bool>,
    /// By partition: true while its backlog is small.
    backlog: Vec<watch::Sender<bool>>,
    metrics: Metrics,
}

/// One session's view.
#[derive(Debug, Clone)]
pub(crate) struct Inlet {
    memory: watch::Receiver<bool>,
    backlog: watch::Receiver<bool>,
}

/// Bytes that wait for their publish; given back when dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    inlets: Inlets,
    bytes: usize,
}

impl Inlets {
    /// All inlets open.
    pub(crate) fn new(
        partitions: PartitionCount,
        backlog_bytes_max: u64,
        waiting_bytes_max: usize,
        metrics: Metrics,
    ) -> Self {
        let backlog = partitions
            .partitions()
            .map(|_| watch::Sender::new(true))
            .collect();
        Self {
            shared: Arc::new(Shared {
                backlog_bytes_max,
                waiting_bytes_max,
                waiting_bytes: AtomicUsize::new(0),
                memory: watch::Sender::new(true),
                backlog,
                metrics,
            }),
        }
    }

    /// The inlet of a partition's sessions.
    pub(crate) fn of(&self, partition: Partition) -> Inlet {
        Inlet {
            memory: self.shared.memory.subscribe(),
            backlog: self.backlog(partition).subscribe(),
        }
    }

    /// The inlet of those whose messages no fold is waiting for: memory alone closes it.
    pub(crate) fn of_memory(&self) -> Inlet {
        Inlet {
            memory: self.shared.memory.subscribe(),
            backlog: self.shared.memory.subscribe(),
        }
    }

    /// Notes that bytes wait.
    pub(crate) fn wait(&self, bytes: usize) -> Waiting {
        let total = self
            .shared
            .waiting_bytes
            .fetch_add(bytes, Ordering::Relaxed)
            + bytes;
        self.shared.metrics.waiting_bytes(total);
        if total > self.shared.waiting_bytes_max {
            self.set(&self.shared.memory, false);
        }
        Waiting {
            inlets: self.clone(),
            bytes,
        }
    }

    /// What a partition's stream holds at present.
    pub(crate) fn note_backlog(&self, partition: Partition, bytes: u64) {
        self.shared.metrics.backlog(partition.get(), bytes);
        let state = self.backlog(partition);
        let open = stays_open(*state.borrow(), bytes, self.shared.backlog_bytes_max);
        self.set(state, open);
    }

    /// A partition's stream took nothing more. It opens again by [`Inlets::note_backlog`].
    pub(crate) fn note_full(&self, partition: Partition) {
        self.set(self.backlog(partition), false);
    }

    fn set(&self, state: &watch::Sender<bool>, open: bool) {
        let changed = state.send_if_modified(|is_open| std::mem::replace(is_open, open) != open);
        if changed && !open {
            self.shared.metrics.inlet_closed();
        }
    }

    fn backlog(&self, partition: Partition) -> &watch::Sender<bool> {
        &self.shared.backlog[usize::from(partition.get())]
    }
}

/// Closes above the bound and opens below half of it, so that it does not flutter.
fn stays_open(open: bool, bytes: u64, max: u64) -> bool {
    if open { bytes <= max } else { bytes <= max / 2 }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let shared = &self.inlets.shared;
        let before = shared
            .waiting_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
        let total = before - self.bytes;
        shared.metrics.waiting_bytes(total);
        if !*shared.memory.borrow() && total <= shared.waiting_bytes_max / 2 {
            self.inlets.set(&shared.memory, true);
        }
    }
}

impl Inlet {
    /// Whether the session may read.
    pub(crate) fn is_open(&self) -> bool {
        *self.memory.borrow() && *self.backlog.borrow()
    }

    /// Waits until the backlog of the partition is small. Safe to cancel.
    pub(crate) async fn backlog_is_small(&mut self) {
        // The sender lives as long as the service; without it nobody will ever open again.
        if self.backlog.wait_for(|open| *open).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the inlet is open, or closed. Safe to cancel.
    pub(crate) async fn becomes(&mut self, open: bool) {
        while self.is_open() != open {
            let changed = tokio::select! {
                changed = self.memory.changed() => changed,
                changed = self.backlog.changed() => changed,
            };
            if changed.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use service_kit::metrics::Registry;

    use super::*;

    fn inlets() -> (Inlets, Partition, Partition) {
        let count = PartitionCount::new(2).unwrap();
        let metrics = Metrics::register(&Registry::new().scope("ingestion"));
        let mut all = count.partitions();
        (
            Inlets::new(count, 100, 1000, metrics),
            all.next().unwrap(),
            all.next().unwrap(),
        )
    }

    #[test]
    fn a_backlog_closes_its_partition_until_half_of_it_is_gone() {
        let (inlets, first, second) = inlets();
        for (bytes, open) in [
            (100, true),
            (101, false),
            (51, false),
            (50, true),
            (90, true),
        ] {
            inlets.note_backlog(first, bytes);
            assert_eq!(inlets.of(first).is_open(), open, "{bytes}");
            assert!(inlets.of(second).is_open());
        }
        inlets.note_full(first);
        assert!(!inlets.of(first).is_open());
        inlets.note_backlog(first, 0);
        assert!(inlets.of(first).is_open());
    }

    #[test]
    fn full_memory_closes_every_partition_until_half_of_it_is_free() {
        let (inlets, first, second) = inlets();
        let small = inlets.wait(500);
        let large = inlets.wait(501);
        let mut inlet = inlets.of(first);
        assert!(!inlet.is_open() && !inlets.of(second).is_open());
        assert_eq!(inlet.becomes(true).now_or_never(), None);
        drop(large);
        assert_eq!(inlet.becomes(true).now_or_never(), Some(()));
        drop(small);
        assert!(inlets.of(second).is_open());
    }
}
