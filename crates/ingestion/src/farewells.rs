//! Ends of sessions that the bus did not take in time: they are told as soon as it does.
//!
//! A connection that has ended waits for the bus for a moment only, so that its place is free again.
//! Without this, a device whose connection ended while the bus was slow would stay connected in its
//! twin for as long as this run of ingestion lives; when the run ends, twin-store ends what is left, if
//! anything is: who was told of a beginning, and not of its end, is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use service_kit::backoff::{Backoff, Policy};
use service_kit::shutdown::ShutdownToken;
use tokio::sync::mpsc;
use twin::Partition;
use wire::bus::v1 as bus_wire;

use crate::metrics::Metrics;
use crate::outbox::Outbox;

/// Ends that may wait. Each is some 300 bytes, so that a whole instance that loses its devices while
/// the bus is away costs 20 MB.
const WAITING_MAX: usize = 65_536;

/// Ends that are published at once; the packers gather them.
const AT_ONCE: usize = 256;

/// Between two attempts.
const AGAIN: Policy = Policy {
    first: Duration::from_millis(500),
    cap: Duration::from_secs(5),
    budget: None,
};

/// An end that is still to be told.
type Farewell = (Partition, bus_wire::TelemetryEntry);

/// The other end of [`Farewells`].
pub(crate) type Waiting = mpsc::Receiver<Farewell>;

/// Takes ends that are still to be told. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Farewells {
    queue: mpsc::Sender<Farewell>,
    /// Sessions whose beginning was told, or may have been, and whose end was not.
    open: Arc<AtomicUsize>,
    metrics: Metrics,
}

impl Farewells {
    /// A queue, and its other end for [`run`].
    pub(crate) fn new(metrics: Metrics) -> (Self, Waiting) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let open = Arc::default();
        let farewells = Self {
            queue,
            open,
            metrics,
        };
        (farewells, waiting)
    }

    /// A session begins, of which its twin is told.
    pub(crate) fn begins(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// The end of one is durable.
    pub(crate) fn told(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the ends of all sessions are durable.
    pub(crate) fn all_told(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// Has an end told later.
    pub(crate) fn leave(&self, partition: Partition, entry: bus_wire::TelemetryEntry) {
        // Full, or we are stopping. Then the end of this run is the end of the session.
        if self.queue.try_send((partition, entry)).is_err() {
            self.metrics.end_untold();
        }
    }
}

/// Tells what waits until told to stop.
pub(crate) async fn run(
    mut waiting: Waiting,
    farewells: Farewells,
    outbox: Outbox,
    shutdown: ShutdownToken,
) {
    let mut telling = FuturesUnordered::new();
    let mut stop = Box::pin(shutdown.triggered());
    loop {
        tokio::select! {
            () = &mut stop => return,
            Some(()) = telling.next() => farewells.told(),
            farewell = waiting.recv(), if telling.len() < AT_ONCE => match farewell {
                Some(farewell) => telling.push(tell(&outbox, farewell)),
                None => return,
            },
        }
    }
}

async fn tell(outbox: &Outbox, (partition, entry): Farewell) {
    let mut backoff = Backoff::new(AGAIN);
    while let Err(error) = outbox.store(partition, entry.clone()).await {
        tracing::debug!(%error, "end of a session was not published yet");
        let delay = backoff.next_delay().unwrap_or(AGAIN.cap);
        tokio::time::sleep(delay).await;
    }
}
