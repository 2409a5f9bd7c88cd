//! Says every second that this run of ingestion is there, and hears whether that gets through.
//!
//! twin-store takes the sessions of a run that it has not heard of for long for ended, for a run that
//! was killed cannot say so itself. A run that is cut off from the bus, or was suspended, looks the
//! same from there; so whoever did not hear its own beats for a while has its sessions say once more
//! that they are open. It decides nothing about single sessions.

use std::time::Duration;

use bus::{Bus, HintError, Hints, Outgoing};
use prost::Message as _;
use service_kit::shutdown::ShutdownToken;
use tokio::time::{Instant, MissedTickBehavior};
use wire::bus::v1::InstanceAlive;
use wire::subjects;

use crate::sessions::Sessions;

/// How often an instance says that it is there.
const BEAT: Duration = Duration::from_secs(1);

/// After how long a gap others may have taken this run for ended. Half of the shortest time after
/// which twin-store does (`sessions_lost_after`).
const GAP_MAX: Duration = Duration::from_secs(5);

/// This instance of ingestion.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// Its name, from the configuration.
    pub(crate) name: String,
    /// Names this run of it, from the start to the end of the process.
    pub(crate) run: String,
}

impl Instance {
    /// A new run.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            run: uuid::Uuid::new_v4().simple().to_string(),
        }
    }
}

/// The beats of one run.
pub(crate) struct Beats {
    run: String,
    beat: Outgoing,
    heard: Hints,
}

impl Beats {
    /// Listens, and says for the first time that the run is there: to be done when it can be asked
    /// at `subject`, and before any device is here.
    pub(crate) async fn begin(bus: &Bus, run: &str, subject: &str) -> Result<Self, HintError> {
        let alive = InstanceAlive {
            subject: subject.to_owned(),
            run: run.to_owned(),
        };
        let beats = Self {
            run: run.to_owned(),
            beat: Outgoing::new(subjects::INSTANCES_SUBJECT, alive.encode_to_vec()),
            heard: bus.listen(subjects::INSTANCES_SUBJECT).await?,
        };
        bus.send_hint(beats.beat.clone()).await?;
        Ok(beats)
    }

    /// Beats until told to stop.
    pub(crate) async fn run(mut self, bus: Bus, sessions: Sessions, shutdown: ShutdownToken) {
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_heard = Instant::now();
        let mut stop = Box::pin(shutdown.triggered());
        loop {
            tokio::select! {
                () = &mut stop => return,
                _ = beats.tick() => if let Err(error) = bus.send_hint(self.beat.clone()).await {
                    tracing::debug!(%error, "a beat of this instance was not sent");
                },
                heard = self.heard.recv() => {
                    let Some(heard) = heard else { return };
                    let alive = InstanceAlive::decode(&*heard.payload);
                    if alive.is_ok_and(|alive| alive.run == self.run) {
                        let now = Instant::now();
                        let gap = now.duration_since(last_heard);
                        last_heard = now;
                        if gap > GAP_MAX {
                            let seconds = gap.as_secs();
                            tracing::info!(seconds, "nobody heard of this instance for a while");
                            sessions.tell_again();
                        }
                    }
                }
            }
        }
    }
}
