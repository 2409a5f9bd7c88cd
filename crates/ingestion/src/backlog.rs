//! Watches how full the streams are: how much of each partition's stream is not yet folded, for the
//! inlets, and where the oldest make room for the newest, for whoever operates this.

use std::time::Duration;

use bus::{Bus, Sequence, StreamStatus};
use service_kit::shutdown::ShutdownToken;
use twin::PartitionCount;
use wire::subjects::{APPLICATION_STREAM, MQTT_SESSIONS_STREAM, telemetry_stream};

use crate::inlet::Inlets;
use crate::metrics::Metrics;

/// How often all streams are looked at. A partition at full speed grows by some MB in this time,
/// far less than the default bound.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What is watched.
pub(crate) struct Watched {
    pub(crate) partitions: PartitionCount,
    pub(crate) inlets: Inlets,
    /// Bound of `APPLICATION`.
    pub(crate) application_bytes: u64,
    /// Bound of `MQTT_SESSIONS`.
    pub(crate) sessions_bytes: u64,
    pub(crate) metrics: Metrics,
}

/// Looks until told to stop. A stream that cannot be looked at keeps its last state: while the bus
/// is away nothing is published anyway.
pub(crate) async fn watch(bus: Bus, watched: Watched, shutdown: ShutdownToken) {
    let mut application = Full::new(watched.application_bytes);
    let mut sessions = Full::new(watched.sessions_bytes);
    while shutdown
        .run_until(tokio::time::sleep(LOOK_EVERY))
        .await
        .is_some()
    {
        let looked = shutdown.run_until(look(&bus, &watched, &mut application, &mut sessions));
        match looked.await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(%error, "backlog is not known"),
            None => return,
        }
    }
}

async fn look(
    bus: &Bus,
    watched: &Watched,
    application: &mut Full,
    sessions: &mut Full,
) -> Result<(), bus::EnsureError> {
    for partition in watched.partitions.partitions() {
        let status = bus.stream_status(&telemetry_stream(partition)).await?;
        watched.inlets.note_backlog(partition, status.bytes);
    }
    let status = bus.stream_status(APPLICATION_STREAM).await?;
    watched
        .metrics
        .application_dropped(application.dropped(&status));
    let status = bus.stream_status(MQTT_SESSIONS_STREAM).await?;
    watched.metrics.mqtt_sessions_bytes(status.bytes);
    if sessions.has_become(&status) {
        tracing::warn!(
            bytes = status.bytes,
            max = watched.sessions_bytes,
            "kept subscriptions of devices have no room: those are forgotten that subscribed longest \
             ago (mqtt_sessions_stream_bytes)"
        );
    }
    Ok(())
}

/// A stream in which the oldest make room.
#[derive(Debug)]
struct Full {
    max_bytes: u64,
    /// The first message when it was looked at last.
    first: Option<Sequence>,
    /// How it was then.
    before: bool,
}

impl Full {
    fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            first: None,
            before: false,
        }
    }

    /// Within a tenth of its bound: the next large message makes others go.
    fn is_full(&self, status: &StreamStatus) -> bool {
        status.bytes > self.max_bytes / 10 * 9
    }

    /// How many messages went since the last look, though they were young, to make room.
    fn dropped(&mut self, status: &StreamStatus) -> u64 {
        let before = self.first.replace(status.first);
        let gone = before.map_or(0, |before| status.first.get().saturating_sub(before.get()));
        if self.is_full(status) { gone } else { 0 }
    }

    /// Whether it is full, and was not.
    fn has_become(&mut self, status: &StreamStatus) -> bool {
        let is_full = self.is_full(status);
        let was_full = std::mem::replace(&mut self.before, is_full);
        is_full && !was_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(first: u64, bytes: u64) -> StreamStatus {
        StreamStatus {
            first: Sequence::new(first),
            last: Sequence::new(first + 10),
            messages: 10,
            bytes,
        }
    }

    #[test]
    fn what_makes_room_is_counted_and_what_grew_old_is_not() {
        let mut full = Full::new(1000);
        assert_eq!(full.dropped(&status(50, 1000)), 0, "from before we looked");
        assert_eq!(full.dropped(&status(57, 1000)), 7);
        assert_eq!(full.dropped(&status(60, 300)), 0, "its day was over");
        assert_eq!(full.dropped(&status(61, 950)), 1);
    }

    #[test]
    fn that_a_stream_is_full_is_said_once_until_it_was_not() {
        let mut full = Full::new(1000);
        let told = [100, 901, 950, 900, 1000].map(|bytes| full.has_become(&status(1, bytes)));
        assert_eq!(told, [false, true, false, false, true]);
    }
}
