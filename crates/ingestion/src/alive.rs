//! Says every second that this run of ingestion is there, and hears whether that gets through.
//!
//! twin-store takes the sessions of a run that it has not heard of for long for ended, for a run that
//! was killed cannot say so itself. A run that is cut off from the bus, or was suspended, looks the
//! same from there. When twin-store hears of it again it calls the roll: the sessions say once more that
//! they are open, some at a time, so that what devices send meanwhile gets through. Whoever did not
//! hear its own beats for long does so unasked, for twin-store may have begun anew and remember
//! nothing. A run that stops says so last, if it could tell how all of its sessions ended.
//!
//! It decides nothing about single sessions.

use std::time::Duration;

use bus::{Bus, HintError, Hints, Outgoing, Questions};
use bytes::Bytes;
use futures::StreamExt as _;
use prost::Message as _;
use service_kit::shutdown::ShutdownToken;
use tokio::time::{Instant, MissedTickBehavior};
use twin::IdentityKey;
use wire::bus::v1::InstanceAlive;
use wire::subjects;

use crate::sessions::Sessions;

/// How often an instance says that it is there.
const BEAT: Duration = Duration::from_secs(1);

/// After how long a gap others may have taken this run for ended: half of the time after which
/// twin-store does by itself (`sessions_lost_after`, 30 s). With a shorter one it calls the roll.
const GAP_MAX: Duration = Duration::from_secs(15);

/// Sessions that say again that they are open, and how soon the next ones do: 50,000 take twenty
/// seconds. Each is a hint and an entry of `TELEMETRY`.
const AT_ONCE: usize = 250;
const AT_ONCE_EVERY: Duration = Duration::from_millis(100);

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
    roll_calls: Questions,
}

/// The last beat of a run.
pub(crate) fn ended(run: &str) -> Outgoing {
    let alive = InstanceAlive {
        subject: subjects::methods_subject(run),
        run: run.to_owned(),
        ended: true,
    };
    Outgoing::new(subjects::INSTANCES_SUBJECT, alive.encode_to_vec())
}

/// How far the sessions have come with saying again that they are open.
enum Telling {
    /// Nobody asked for it.
    Done,
    /// Those behind this one are still to do so; none: all.
    Behind(Option<IdentityKey>),
}

impl Beats {
    /// Listens, and says for the first time that the run is there: to be done when it can be asked
    /// at `subject`, and before any device is here.
    pub(crate) async fn begin(bus: &Bus, run: &str, subject: &str) -> Result<Self, HintError> {
        let alive = InstanceAlive {
            subject: subject.to_owned(),
            run: run.to_owned(),
            ended: false,
        };
        let roll_calls = subjects::roll_call_subject(run);
        let beats = Self {
            run: run.to_owned(),
            beat: Outgoing::new(subjects::INSTANCES_SUBJECT, alive.encode_to_vec()),
            heard: bus.listen(subjects::INSTANCES_SUBJECT).await?,
            roll_calls: bus.take_questions(&roll_calls).await?,
        };
        bus.send_hint(beats.beat.clone()).await?;
        Ok(beats)
    }

    /// Beats until told to stop.
    pub(crate) async fn run(mut self, bus: Bus, sessions: Sessions, shutdown: ShutdownToken) {
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut some = tokio::time::interval(AT_ONCE_EVERY);
        some.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut telling = Telling::Done;
        let mut last_heard = Instant::now();
        let mut stop = Box::pin(shutdown.triggered());
        loop {
            let is_telling = matches!(telling, Telling::Behind(_));
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
                            telling = Telling::Behind(None);
                        }
                    }
                }
                question = self.roll_calls.next() => {
                    let Some(question) = question else { return };
                    tracing::info!("sessions are to say again that they are open");
                    // From the beginning: those that have done so may be meant.
                    telling = Telling::Behind(None);
                    if let Err(error) = bus.answer(question.reply_to, Bytes::new()).await {
                        tracing::debug!(%error, "a roll call was not answered");
                    }
                }
                _ = some.tick(), if is_telling => {
                    if let Telling::Behind(last) = &telling {
                        let next = sessions.tell_again(last.as_ref(), AT_ONCE);
                        telling = next.map_or(Telling::Done, |last| Telling::Behind(Some(last)));
                    }
                }
            }
        }
    }
}
