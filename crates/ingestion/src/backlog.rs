//! Watches how full the streams are: how much of each partition's stream is not yet folded, for the
//! inlets, and where the oldest make room for the newest, for whoever operates this.

use std::time::Duration;

use bus::{APPLICATION_KEPT, Bus, Sequence, StreamStatus};
use jiff::Timestamp;
use service_kit::clock::SharedClock;
use service_kit::shutdown::ShutdownToken;
use twin::PartitionCount;
use wire::subjects::{APPLICATION_STREAM, MQTT_SESSIONS_STREAM, telemetry_stream};

use crate::inlet::Inlets;
use crate::metrics::Metrics;

/// How often all streams are looked at. A partition at full speed grows by some MB in this time,
/// far less than the default bound.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How old a message may be that went because its time was over, beside that time: the server looks
/// from time to time, and so do we.
const ABOUT: Duration = Duration::from_mins(5);

/// How often the log says that messages are being lost.
const TOLD_EVERY: Duration = Duration::from_hours(1);

/// What is watched.
pub(crate) struct Watched {
    pub(crate) partitions: PartitionCount,
    pub(crate) inlets: Inlets,
    /// Bound of `APPLICATION`.
    pub(crate) application_bytes: u64,
    /// Bound of `MQTT_SESSIONS`.
    pub(crate) sessions_bytes: u64,
    pub(crate) metrics: Metrics,
    pub(crate) clock: SharedClock,
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
    let now = watched.clock.now();
    let dropped = application.dropped(&status, now);
    watched.metrics.application_dropped(dropped);
    if dropped > 0 && application.is_to_be_told(now) {
        tracing::warn!(
            dropped,
            max = watched.application_bytes,
            "messages of devices that were acknowledged go before their day is over, read or not: their \
             stream is full (application_stream_bytes)"
        );
    }
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
    /// When it was said last that messages go.
    told_at: Option<Timestamp>,
}

impl Full {
    fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            first: None,
            before: false,
            told_at: None,
        }
    }

    /// Within a tenth of its bound: the next large message makes others go.
    fn is_full(&self, status: &StreamStatus) -> bool {
        status.bytes > self.max_bytes / 10 * 9
    }

    /// How many messages went since the last look, though they were young, to make room. What went is
    /// about as old as what is the oldest now.
    fn dropped(&mut self, status: &StreamStatus, now: Timestamp) -> u64 {
        let before = self.first.replace(status.first);
        let gone = before.map_or(0, |before| status.first.get().saturating_sub(before.get()));
        let is_young = status.first_at.is_some_and(|at| {
            Duration::try_from(now.duration_since(at)).unwrap_or_default() + ABOUT
                < APPLICATION_KEPT
        });
        if is_young && self.is_full(status) {
            gone
        } else {
            0
        }
    }

    /// Whether it was long ago that it was said that messages go.
    fn is_to_be_told(&mut self, now: Timestamp) -> bool {
        let since = |at: Timestamp| Duration::try_from(now.duration_since(at)).unwrap_or_default();
        let is_due = self.told_at.is_none_or(|at| since(at) >= TOLD_EVERY);
        if is_due {
            self.told_at = Some(now);
        }
        is_due
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

    fn now() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    fn status(first: u64, bytes: u64) -> StreamStatus {
        StreamStatus {
            first_at: Some(now() - jiff::SignedDuration::from_hours(1)),
            first: Sequence::new(first),
            last: Sequence::new(first + 10),
            messages: 10,
            bytes,
        }
    }

    #[test]
    fn what_makes_room_is_counted_and_what_grew_old_is_not() {
        let mut full = Full::new(1000);
        let mut dropped = |status| full.dropped(&status, now());
        assert_eq!(dropped(status(50, 1000)), 0, "from before we looked");
        assert_eq!(dropped(status(57, 1000)), 7);
        assert_eq!(dropped(status(60, 300)), 0, "there is room");
        assert_eq!(dropped(status(61, 950)), 1);
        let old = StreamStatus {
            first_at: Some(now() - jiff::SignedDuration::from_hours(24)),
            ..status(70, 1000)
        };
        assert_eq!(dropped(old), 0, "their day was over");
        let empty = StreamStatus {
            first_at: None,
            ..status(80, 1000)
        };
        assert_eq!(dropped(empty), 0, "nobody knows");
    }

    #[test]
    fn that_messages_are_lost_is_said_once_an_hour() {
        let mut full = Full::new(1000);
        let minutes = |many| now() + jiff::SignedDuration::from_mins(many);
        let told = [0, 1, 59, 60, 61].map(|many| full.is_to_be_told(minutes(many)));
        assert_eq!(told, [true, false, false, true, false]);
    }

    #[test]
    fn that_a_stream_is_full_is_said_once_until_it_was_not() {
        let mut full = Full::new(1000);
        let told = [100, 901, 950, 900, 1000].map(|bytes| full.has_become(&status(1, bytes)));
        assert_eq!(told, [false, true, false, false, true]);
    }
}
