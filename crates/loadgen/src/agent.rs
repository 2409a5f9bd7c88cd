//! One simulated agent: a real session over a real connection, and nothing behind it.
//!
//! It does what the real agent does on the wire: signs in, sends batches with lanes and sequences,
//! keeps them until they are acknowledged, sends them again in the next session, answers every
//! configuration at once. It observes nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use iot_hub::sas::{SasResource, SasToken};
use jiff::SignedDuration;
use service_kit::backoff::{Backoff, Policy};
use service_kit::client::Connection;
use service_kit::clock::{Clock as _, SystemClock};
use service_kit::shutdown::ShutdownToken;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status, Streaming};
use uuid::Uuid;
use wire::agent::v1 as agent;
use wire::agent::v1::agent_service_client::AgentServiceClient;
use wire::agent::v1::open_session_request::Message;
use wire::agent::v1::open_session_response::Message as Answer;

use crate::events;
use crate::fleet::{Member, SETTING};
use crate::hops::Over;
use crate::lane::LaneQueue;
use crate::outbox;
use crate::stats::{Stats, add};
use crate::turn::{Port, Turn};

/// Longer than any run.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// How long the service may take to begin its answer.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Messages between this task and the stream.
const STREAM_BUFFER: usize = 4;
/// Not as patient as a real agent: a test that kills the hub waits for us.
const RECONNECT: Policy = Policy {
    first: Duration::from_millis(100),
    cap: Duration::from_secs(2),
    budget: None,
};
/// The share of the pause after a turn in which its answer is waited for.
const LOOK_SHARE: f64 = 0.8;
/// A timer that is not needed.
const FAR: Duration = Duration::from_hours(24);

/// How an agent behaves in a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Name in tokens.
    pub(crate) host: String,
    /// When to begin after all are connected, so that agents do not send in step.
    pub(crate) phase: Duration,
    /// Time between batches; none: as soon as the window allows.
    pub(crate) interval: Option<Duration>,
    pub(crate) batch: u32,
    pub(crate) window: usize,
    pub(crate) loop_pause: Duration,
}

/// The phases of a run, as every agent sees them.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    /// Begin to send.
    pub(crate) go: ShutdownToken,
    /// Send nothing new, finish what is under way.
    pub(crate) stop: ShutdownToken,
    /// Whatever is not finished will not be.
    pub(crate) end: ShutdownToken,
}

/// One simulated agent.
#[derive(Debug)]
pub(crate) struct Agent {
    member: Member,
    plan: Plan,
    client: AgentServiceClient<Connection>,
    stats: Arc<Stats>,
    signals: Signals,
    /// Where turns of the loop are told of that are over.
    over: mpsc::Sender<Over>,
    high: LaneQueue<Instant>,
    medium: LaneQueue<Instant>,
    turn: Option<Turn<Instant>>,
    applied_version: u64,
    /// Whether the policy's settings are in the configuration; an earlier run may have left them.
    applies: bool,
    requests: u64,
    seed: u32,
    next_batch_at: Instant,
    outbox: VecDeque<Message>,
    welcomed: bool,
}

/// How a session ended.
enum End {
    /// The run is over and everything is acknowledged.
    Finished,
    /// The service ended it, or it could not be opened.
    Lost(Status),
}

impl Agent {
    pub(crate) fn new(
        member: Member,
        plan: Plan,
        channel: Connection,
        stats: Arc<Stats>,
        signals: Signals,
        over: mpsc::Sender<Over>,
    ) -> Self {
        let far = Instant::now() + FAR;
        let loops = member.loops;
        Self {
            seed: member.index.wrapping_mul(7919),
            member,
            plan,
            client: AgentServiceClient::new(channel),
            stats,
            signals,
            over,
            high: LaneQueue::new(agent::Lane::High),
            medium: LaneQueue::new(agent::Lane::Medium),
            turn: loops.then_some(Turn::Resting {
                until: far,
                then: Port::Open,
            }),
            applied_version: 0,
            applies: false,
            requests: 0,
            next_batch_at: far,
            outbox: VecDeque::new(),
            welcomed: false,
        }
    }

    /// Lives until the run is over, and hands back what its lanes counted.
    pub(crate) async fn run(mut self) -> Finished {
        let end = self.signals.end.clone();
        let go = self.signals.go.clone();
        end.run_until(async {
            let mut backoff = Backoff::new(RECONNECT);
            let mut gone = false;
            loop {
                let status = match self.session(&go, &mut gone).await {
                    End::Finished => return,
                    End::Lost(status) => status,
                };
                self.stats.error(&format!(
                    "session: {:?}: {}",
                    status.code(),
                    status.message()
                ));
                if std::mem::take(&mut self.welcomed) {
                    add(&self.stats.sessions_lost, 1);
                    backoff = Backoff::new(RECONNECT);
                }
                let pause = self.plan.loop_pause;
                if self
                    .turn
                    .as_mut()
                    .is_some_and(|turn| turn.give_up(Instant::now(), pause))
                {
                    add(&self.stats.loops_interrupted, 1);
                }
                sleep(backoff.next_delay().unwrap_or(RECONNECT.cap)).await;
            }
        })
        .await;
        Finished {
            member: self.member,
            lanes: [self.high, self.medium],
        }
    }

    async fn session(&mut self, go: &ShutdownToken, going: &mut bool) -> End {
        let (stream, requests) = mpsc::channel(STREAM_BUFFER);
        self.prepare_outbox();
        let mut answers = match self.open(requests).await {
            Ok(answers) => answers,
            Err(error) => return End::Lost(Status::unavailable(format!("{error:#}"))),
        };
        loop {
            if self.is_finished() {
                return End::Finished;
            }
            let due = self
                .turn
                .as_ref()
                .map_or_else(|| Instant::now() + FAR, Turn::due);
            let may_send = self.outbox.is_empty() && self.medium.waiting() < self.plan.window;
            // Every branch waits on a channel, a timer or a token; what a cancelled one had not
            // taken is taken the next time.
            tokio::select! {
                biased;
                () = go.triggered(), if !*going => {
                    *going = true;
                    self.begin();
                }
                permit = stream.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => permit.send(agent::OpenSessionRequest {
                        message: self.outbox.pop_front(),
                    }),
                    // The stream's end says why, and is read below.
                    Err(_closed) => self.outbox.clear(),
                },
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => self.receive(answer),
                    Ok(None) => return End::Lost(Status::unavailable("the stream ended")),
                    Err(status) => return End::Lost(status),
                },
                () = self.signals.stop.triggered(), if self.next_batch_at < Instant::now() + FAR / 2 => {
                    self.next_batch_at = Instant::now() + FAR;
                }
                () = sleep_until(due), if self.turn.is_some() => self.turn_is_due(),
                () = sleep_until(self.next_batch_at), if may_send => self.send_mixture(),
            }
        }
    }

    /// What a new session says first.
    fn prepare_outbox(&mut self) {
        let hello = agent::Hello {
            agent_version: concat!("loadgen/", env!("CARGO_PKG_VERSION")).to_owned(),
            session_id: Uuid::new_v4().to_string(),
            applied_desired_version: self.applied_version,
            generation_id: String::new(),
            takes_methods: false,
        };
        self.outbox.clear();
        self.outbox.push_back(Message::Hello(hello));
        let again = self
            .high
            .unacknowledged()
            .chain(self.medium.unacknowledged());
        self.outbox.extend(again.map(Message::Events));
    }

    async fn open(
        &mut self,
        requests: mpsc::Receiver<agent::OpenSessionRequest>,
    ) -> Result<Streaming<agent::OpenSessionResponse>> {
        let mut request = Request::new(ReceiverStream::new(requests));
        let resource = SasResource::of_identity(&self.plan.host, &self.member.identity);
        let expires_at = SystemClock.now() + TOKEN_LIFE;
        let token = SasToken::sign(resource, &self.member.key, expires_at).to_string();
        let token: MetadataValue<Ascii> = token.parse().context("the token fits no header")?;
        request.metadata_mut().insert("authorization", token);
        let opening = timeout(OPEN_WITHIN, self.client.open_session(request));
        let answer = opening.await.context("the service did not answer")??;
        Ok(answer.into_inner())
    }

    /// Whether nothing is left to do.
    fn is_finished(&self) -> bool {
        let waits = matches!(self.turn, Some(Turn::Waiting { .. }));
        self.signals.stop.is_triggered()
            && self.outbox.is_empty()
            && self.high.waiting() + self.medium.waiting() == 0
            && !waits
    }

    fn begin(&mut self) {
        let at = Instant::now() + self.plan.phase;
        self.next_batch_at = at;
        // The opposite of how it is: nothing else leads to a push.
        let then = if self.applies {
            Port::Closed
        } else {
            Port::Open
        };
        if let Some(turn) = &mut self.turn {
            *turn = Turn::Resting { until: at, then };
        }
    }

    fn receive(&mut self, answer: agent::OpenSessionResponse) {
        match answer.message {
            Some(Answer::Welcome(_)) => {
                self.welcomed = true;
                add(&self.stats.sessions_opened, 1);
            }
            Some(Answer::EventsAck(ack)) => self.acknowledged(&ack),
            Some(Answer::Desired(desired)) => self.configure(desired),
            Some(Answer::Error(error)) => self.stats.error(&error.reason),
            // It says that it takes no methods.
            Some(Answer::ReportedPatched(_) | Answer::Twin(_) | Answer::Method(_)) | None => {}
        }
    }

    fn acknowledged(&mut self, ack: &agent::EventsAck) {
        let now = Instant::now();
        for rejected in &ack.rejected {
            self.stats
                .error(&format!("event: {}: {}", rejected.reason, rejected.message));
        }
        for lane in [&mut self.high, &mut self.medium] {
            let Some(acked) = lane.acknowledge(ack) else {
                continue;
            };
            add(&self.stats.acked_events, acked.events);
            add(&self.stats.rejected_events, acked.rejected);
            for sent_at in acked.batches_sent_at {
                add(&self.stats.acked_batches, 1);
                self.stats.ack_latency.record(now - sent_at);
            }
        }
    }

    /// Applies a configuration, which takes no time here, and answers as the real agent does.
    fn configure(&mut self, desired: agent::DesiredConfiguration) {
        let now = Instant::now();
        // The section is small and flat; a full parser would measure itself.
        self.applies = desired.document_json.contains(SETTING);
        if let Some(turn) = &mut self.turn
            && let Some(took) = turn.on_configuration(self.applies, now, self.plan.loop_pause)
        {
            self.stats.loop_latency.record(took);
            // Of those that find no room nobody reads the hops, which makes them a sample.
            let _ = self.over.try_send(Over {
                identity: self.member.identity.clone(),
                version: desired.version,
                look_at: now + self.plan.loop_pause.mul_f64(LOOK_SHARE),
            });
        }
        self.applied_version = self.applied_version.max(desired.version);
        self.requests += 1;
        self.outbox
            .push_back(Message::AcknowledgeDesired(agent::AcknowledgeDesired {
                version: desired.version,
                outcome: agent::acknowledge_desired::Outcome::Applied.into(),
                apply_time: Some(wire::time::to_wire(SystemClock.now())),
                trace_parent: desired.trace_parent,
                ..Default::default()
            }));
        self.outbox
            .push_back(Message::PatchReported(agent::PatchReported {
                request_id: self.requests.to_string(),
                patch_json: r#"{"latest_state":"success","latest_invalid_fields":null}"#.to_owned(),
            }));
    }

    fn send_mixture(&mut self) {
        let now = Instant::now();
        let events = events::mixture(self.seed, self.plan.batch, SystemClock.now());
        self.seed = self.seed.wrapping_add(self.plan.batch);
        add(&self.stats.sent_events, u64::from(self.plan.batch));
        let batch = self.medium.batch(events, String::new(), now);
        self.outbox.push_back(Message::Events(batch));
        self.next_batch_at = match self.plan.interval {
            // From the planned instant, not from now: being late once must not lower the rate.
            Some(interval) => self.next_batch_at + interval,
            None => now,
        };
    }

    fn turn_is_due(&mut self) {
        let now = Instant::now();
        let Some(turn) = &mut self.turn else { return };
        match *turn {
            Turn::Resting { .. } if self.signals.stop.is_triggered() => {
                *turn = Turn::Resting {
                    until: now + FAR,
                    then: Port::Open,
                };
            }
            Turn::Resting { then, .. } => {
                *turn = Turn::Waiting {
                    since: now,
                    port: then,
                };
                let events = events::listening(then == Port::Open, SystemClock.now());
                add(&self.stats.sent_events, 1);
                let batch = self.high.batch(events, String::new(), now);
                outbox::push_urgent(&mut self.outbox, batch);
            }
            Turn::Waiting { .. } => {
                turn.give_up(now, self.plan.loop_pause);
                add(&self.stats.loops_timed_out, 1);
            }
        }
    }
}

/// What is left of an agent.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) member: Member,
    pub(crate) lanes: [LaneQueue<Instant>; 2],
}
