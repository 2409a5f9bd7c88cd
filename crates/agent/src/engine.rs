//! The heart of the agent: takes what collectors saw into the spool, sends what is due, and follows
//! the desired configuration. One task owns all of it, so nothing is shared and nothing is locked.
//!
//! Before: `collectors` (reports) and `link` (messages). After: `spool` and `link`. What to send is
//! decided by `session`, what a configuration means by `configuration`; this performs.

use std::collections::BTreeMap;
use std::time::Duration;

use posture::event::{AgentStatus, CollectorStatus};
use posture::{AgentConfiguration, EventPayload, Lane, SecurityEvent, limits};
use prost::Message;
use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::collectors::driver::{Report, Request};
use crate::collectors::set::{Audience, CollectorSet};
use crate::collectors::{Checkpoint, Health, Observation, Urgency, text};
use crate::configuration::Store;
use crate::configuration::trial::Watch;
use crate::files::{self, Readers};
use crate::lane::PerLane;
use crate::link::LinkEvent;
use crate::session::Session;
use crate::spool::{self, Sequence, Spool};

mod exchange;
mod expire;
mod follow;
mod methods;
mod trial;

/// How long events may gather before they are made durable together. One fsync costs about as much as
/// fifty events; a kill within this time loses what the collector had just seen.
const COMMIT_AFTER: Duration = Duration::from_millis(50);

/// How long collectors may take to answer before the engine goes on without them.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// How often the engine looks whether an acknowledgement is overdue or the outbound queue has room.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// A service that owes an acknowledgement for longer is not going to give it on this connection.
const ACKNOWLEDGEMENT_OVERDUE: Duration = Duration::from_mins(1);

/// What this agent calls itself.
pub(crate) const AGENT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything the agent is.
pub(crate) struct Engine {
    pub(crate) spool: Spool,
    pub(crate) store: Store,
    pub(crate) collectors: CollectorSet,
    pub(crate) clock: SharedClock,
    pub(crate) reports: mpsc::Receiver<Report>,
    pub(crate) link: mpsc::Receiver<LinkEvent>,
    /// How long the service may be silent after a change of the configuration; none: for ever.
    pub(crate) revert_after: Option<Duration>,
    pub(crate) state: State,
}

/// What the engine remembers between messages.
#[derive(Debug, Default)]
pub(crate) struct State {
    session: Session,
    outbound: Option<Outbound>,
    configuration: AgentConfiguration,
    healths: BTreeMap<&'static str, Health>,
    /// Healths changed since the last status was made.
    status_due: bool,
    /// When the next group commit is, if something waits for it.
    commit_at: Option<Instant>,
    /// Lanes that are to be sent as soon as they are durable.
    urgent: PerLane<bool>,
    checkpoints: Vec<Checkpoint>,
    /// When each lane's interval comes.
    lane_at: PerLane<Option<Instant>>,
    /// When to look next for events that waited too long.
    expire_at: Option<Instant>,
    /// Since when the service owes an acknowledgement.
    owed_since: Option<Instant>,
    /// Watches a configuration that has not proved good yet.
    trial: Option<Watch>,
}

/// The open session.
#[derive(Debug)]
struct Outbound {
    messages: mpsc::Sender<wire::agent::v1::OpenSessionRequest>,
    reset: ShutdownToken,
    session_id: uuid::Uuid,
    answer: follow::Answer,
    warned_of_rejects: bool,
    warned_of_refusal: bool,
}

impl Engine {
    /// Runs until told to stop; then makes durable what is held.
    pub(crate) async fn run(mut self, shutdown: ShutdownToken) {
        self.begin().await;
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let commit_at = self.state.commit_at;
            let lane_at = self.next_lane_at();
            tokio::select! {
                () = shutdown.triggered() => break,
                Some(event) = self.link.recv() => self.on_link(event).await,
                Some(report) = self.reports.recv() => self.on_report(report),
                () = at(commit_at) => self.commit(),
                () = at(lane_at) => self.on_lane_interval().await,
                _ = housekeeping.tick() => self.on_housekeeping().await,
            }
            self.pump();
        }
        self.stop_on_trial();
        self.gather(Audience::All, Request::Flush).await;
        self.commit();
    }

    /// Starts the collectors of the last good configuration and takes the first look at everything.
    async fn begin(&mut self) {
        // What an earlier run left was due then or soon after; it goes first.
        self.all_due();
        let floors = self.floors();
        self.state.session.closed(floors);
        self.start_on_trial();
        let started = self.switch_to(self.store.configuration());
        self.gather(Audience::Named(&started), Request::Snapshot)
            .await;
        self.add_status();
        self.commit();
        self.all_due();
        self.watch_trial();
    }

    /// Lets the collectors become what a configuration wants; answers those that are new, which have
    /// not looked yet.
    fn switch_to(&mut self, configuration: AgentConfiguration) -> Vec<&'static str> {
        let changes = block_in_place(|| self.collectors.apply(&configuration));
        for name in &changes.disabled {
            self.note_health(name, Health::disabled());
        }
        for lane in Lane::ALL {
            let before = self.state.configuration.priority_intervals.of(lane);
            let interval = configuration.priority_intervals.of(lane);
            if self.state.lane_at[lane].is_none() || before != interval {
                self.state.lane_at[lane] = Some(Instant::now() + interval);
            }
        }
        self.state.configuration = configuration;
        changes.started
    }

    /// Asks collectors and takes their reports until all have answered or the deadline is over.
    async fn gather(&mut self, audience: Audience<'_>, request: Request) {
        let round = self.collectors.ask(audience, request);
        for name in round.dead {
            self.note_health(
                name,
                Health::failed("it ended unexpectedly; see the agent's log"),
            );
        }
        let deadline = Instant::now() + ANSWER_DEADLINE;
        let mut missing = round.answers;
        while missing > 0 {
            match timeout_at(deadline, self.reports.recv()).await {
                Ok(Some(Report::Answered { round: answered })) => {
                    missing -= usize::from(answered == round.number);
                }
                Ok(Some(report)) => self.on_report(report),
                Ok(None) => break,
                Err(_elapsed) => {
                    tracing::warn!(
                        missing,
                        "collectors did not answer in time; going on without them"
                    );
                    break;
                }
            }
        }
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Observed { lane, observations } => {
                for observation in observations {
                    self.take(lane, observation);
                }
            }
            Report::Health { name, health } => self.note_health(name, health),
            // Of a round that was given up.
            Report::Answered { .. } => {}
        }
    }

    fn note_health(&mut self, name: &'static str, mut health: Health) {
        // A reason may hold a path, and an event with a longer one would be rejected whole.
        health.reason = health
            .reason
            .map(|reason| text::cut(reason, limits::REASON_BYTES_MAX));
        if self.state.healths.get(name) == Some(&health) {
            return;
        }
        tracing::info!(collector = name, state = ?health.state, reason = health.reason, "collector");
        self.state.healths.insert(name, health);
        self.state.status_due = true;
        self.commit_soon();
    }

    /// Puts an observation into its lane's spool.
    fn take(&mut self, lane: Lane, observation: Observation) {
        let Observation {
            observed_at,
            payload,
            urgency,
            checkpoint,
        } = observation;
        let kind = payload.kind();
        // The spool numbers the event; the number is put in when it is sent.
        let event = SecurityEvent {
            sequence: 0,
            observed_at,
            payload,
        };
        let bytes = wire::events::event_to_wire(&event).encode_to_vec();
        match block_in_place(|| self.spool.append(lane, &bytes)) {
            Ok(_) => {}
            Err(error @ spool::Error::EventTooLarge { .. }) => {
                tracing::warn!(%kind, %lane, %error, "an event was not kept");
            }
            // A disk that is full or broken: what is in memory is tried again with the next commit,
            // and the bound holds for it as well.
            Err(error) => tracing::error!(error = chain(&error), %lane, "the spool has a problem"),
        }
        if let Some(checkpoint) = checkpoint {
            // A later one stands for the earlier ones of its file.
            let others = |kept: &Checkpoint| kept.path != checkpoint.path;
            self.state.checkpoints.retain(others);
            self.state.checkpoints.push(checkpoint);
        }
        if urgency == Urgency::Immediate {
            self.state.urgent[lane] = true;
            self.state.commit_at = Some(Instant::now());
        } else {
            self.commit_soon();
        }
    }

    fn commit_soon(&mut self) {
        self.state
            .commit_at
            .get_or_insert_with(|| Instant::now() + COMMIT_AFTER);
    }

    /// Makes everything taken durable, then keeps how far sources were read.
    fn commit(&mut self) {
        self.state.commit_at = None;
        if std::mem::take(&mut self.state.status_due) {
            self.state.urgent.high = true;
            self.add_status();
            self.state.commit_at = None;
        }
        if let Err(error) = block_in_place(|| self.spool.sync()) {
            tracing::error!(
                error = chain(&error),
                "cannot make events durable; trying again"
            );
            self.state.commit_at = Some(Instant::now() + HOUSEKEEPING);
            return;
        }
        for checkpoint in std::mem::take(&mut self.state.checkpoints) {
            let kept = block_in_place(|| {
                files::replace(&checkpoint.path, &checkpoint.content, Readers::Owner)
            });
            if let Err(error) = kept {
                tracing::warn!(path = %checkpoint.path.display(), %error, "cannot keep how far a source was read");
            }
        }
        for lane in Lane::ALL {
            let status = self.spool.status(lane);
            let full = status.waiting_bytes > spool_bytes(crate::session::BATCH_BYTES_MAX);
            // A full batch is worth sending whatever the interval.
            if std::mem::take(&mut self.state.urgent[lane]) || full {
                self.state.session.due(lane, status.durable_through);
            }
        }
    }

    /// Adds the agent's own state to the high lane, because silence about a broken collector is what
    /// an attacker wants.
    fn add_status(&mut self) {
        let status = AgentStatus {
            agent_version: AGENT_VERSION.to_owned(),
            collectors: self
                .state
                .healths
                .iter()
                .map(|(name, health)| CollectorStatus {
                    name: (*name).to_owned(),
                    state: health.state,
                    reason: health.reason.clone(),
                })
                .collect(),
        };
        let payload = EventPayload::AgentStatus(status);
        self.state.status_due = false;
        self.take(Lane::High, Observation::routine(self.clock.now(), payload));
    }

    fn next_lane_at(&self) -> Option<Instant> {
        Lane::ALL
            .iter()
            .filter_map(|lane| self.state.lane_at[*lane])
            .min()
    }

    /// The interval of one or more lanes came: full states are taken, and everything is sent.
    async fn on_lane_interval(&mut self) {
        let now = Instant::now();
        for lane in Lane::ALL {
            let Some(at) = self.state.lane_at[lane].filter(|at| *at <= now) else {
                continue;
            };
            let interval = self.state.configuration.priority_intervals.of(lane);
            // From the planned time, so that intervals that are multiples stay in step; from now,
            // when the machine slept.
            let next = if at + interval > now {
                at + interval
            } else {
                now + interval
            };
            self.state.lane_at[lane] = Some(next);
            self.gather(Audience::Lane(lane), Request::Snapshot).await;
            if lane == Lane::High {
                self.add_status();
            }
            self.state.urgent[lane] = true;
        }
        self.commit();
    }

    async fn on_housekeeping(&mut self) {
        self.look_at_trial().await;
        self.answer_again();
        if !self.state.session.is_open() {
            self.expire();
        }
        if !self.state.session.awaits_acknowledgement() {
            self.state.owed_since = None;
            return;
        }
        let since = *self.state.owed_since.get_or_insert_with(Instant::now);
        if since.elapsed() > ACKNOWLEDGEMENT_OVERDUE {
            tracing::warn!("the service owes an acknowledgement for too long");
            self.reset_session();
        }
    }

    fn all_due(&mut self) {
        for lane in Lane::ALL {
            self.state
                .session
                .due(lane, self.spool.status(lane).durable_through);
        }
    }

    fn floors(&self) -> PerLane<Sequence> {
        let floor = |lane| self.spool.status(lane).floor;
        PerLane {
            high: floor(Lane::High),
            medium: floor(Lane::Medium),
            low: floor(Lane::Low),
        }
    }
}

/// Waits until an instant, or for ever.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn spool_bytes(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
