//! Watches how much of each partition's stream is not yet folded, and tells the inlets.

use std::time::Duration;

use bus::Bus;
use service_kit::shutdown::ShutdownToken;
use twin::PartitionCount;
use wire::subjects::telemetry_stream;

use crate::inlet::Inlets;

/// How often all streams are looked at. A partition at full speed grows by some MB in this time,
/// far less than the default bound.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks until told to stop. A stream that cannot be looked at keeps its last state: while the bus
/// is away nothing is published anyway.
pub(crate) async fn watch(
    bus: Bus,
    partitions: PartitionCount,
    inlets: Inlets,
    shutdown: ShutdownToken,
) {
    while shutdown
        .run_until(tokio::time::sleep(LOOK_EVERY))
        .await
        .is_some()
    {
        for partition in partitions.partitions() {
            let stream = telemetry_stream(partition);
            match shutdown.run_until(bus.stream_status(&stream)).await {
                Some(Ok(status)) => inlets.note_backlog(partition, status.bytes),
                Some(Err(error)) => {
                    tracing::debug!(stream, %error, "backlog is not known");
                    break;
                }
                None => return,
            }
        }
    }
}
