//! `OpenSession`: performs what `session` decides, for one stream.
//!
//! The loop waits for whatever comes first (the agent, the bus, twin-store, other sessions, time)
//! and makes no decision beyond when to look again. Nothing in it waits for one thing only, so a
//! session can always be taken over, proven again, or ended. Every branch of its `select!` may be
//! cancelled: each waits on a channel, a timer or a future that is kept.

mod goodbye;
mod perform;
mod refusal;
mod span;

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures::stream::{FuturesOrdered, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use service_kit::backoff::{Backoff, Policy};
use service_kit::malformed::Malformed;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use twin::Partition;
use wire::agent::v1 as agent;
use wire::agent::v1::open_session_response::Message as Response;

use crate::auth::{AuthError, Proof};
use crate::error::SessionEnd;
use crate::grpc::open_session::perform::{Audience, Done, Stored};
use crate::grpc::{Door, SessionFuture};
use crate::inlet::Inlet;
use crate::looks::Looks;
use crate::rejects::Budget;
use crate::session::{Opened, Session};
use crate::sessions::{Mail, Place};

/// How long an agent has to say hello: a stream that says nothing costs a place.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// How often a session looks at the desired section and proves itself again though nobody said
/// that anything changed: between half of this and this, so that sessions spread.
const LOOK: Policy = Policy {
    first: Duration::from_secs(30),
    cap: Duration::from_secs(30),
    budget: None,
};

/// How soon it looks again after twin-store did not answer.
const LOOK_AGAIN: Policy = Policy {
    first: Duration::from_millis(500),
    cap: Duration::from_secs(30),
    budget: None,
};

/// The longest single sleep until the proof ends. The wall clock may be stepped meanwhile, and
/// timers have a limit that tokens do not have.
const PROOF_SLEEP_MAX: Duration = Duration::from_hours(1);

/// Messages between the loop and the stream. More only delays the sight of a slow reader.
const STREAM_BUFFER: usize = 4;

/// What goes to the agent.
type Responses = mpsc::Sender<Result<agent::OpenSessionResponse, Status>>;

/// Lets an agent in and starts its session.
pub(super) async fn begin(
    door: &Door,
    request: Request<Streaming<agent::OpenSessionRequest>>,
) -> Result<ReceiverStream<Result<agent::OpenSessionResponse, Status>>, SessionEnd> {
    let parts = &door.parts;
    if parts.shutdown.is_triggered() {
        return Err(SessionEnd::Stopping);
    }
    let peer = request.remote_addr();
    let ip = peer.map(|address| address.ip());
    let proving = parts
        .auth
        .authenticate(request.metadata(), ip, &parts.admitting);
    let proof = proving.await?;
    let place = parts
        .sessions
        .open(proof.identity.clone(), parts.clock.now())
        .map_err(|full| SessionEnd::TooMany { max: full.max })?;
    if proof.policy().is_some() {
        place.mailbox().is_by_policy();
    }
    let (responses, stream) = mpsc::channel(STREAM_BUFFER);
    let running = Running::new(door.clone(), proof, peer, place, responses);
    let session: SessionFuture = running.run(request.into_inner()).boxed();
    parts
        .nursery
        .begin(session)
        .await
        .map_err(|_closed| SessionEnd::Stopping)?;
    Ok(ReceiverStream::new(stream))
}

/// A session and everything under way for it.
struct Running {
    door: Door,
    proof: Proof,
    peer: Option<SocketAddr>,
    partition: Partition,
    place: Place,
    inlet: Inlet,
    session: Session,
    opened: Option<Opened>,
    rejects: Budget,
    responses: Responses,
    /// Publishes, answered in the order they were begun: an acknowledgement covers all before it.
    stores: FuturesOrdered<Stored>,
    /// Questions to twin-store.
    questions: FuturesUnordered<Done>,
    /// A proof is under way.
    proving: bool,
    /// The identity changed since that proof began, so its outcome may be old.
    prove_once_more: bool,
    /// Until the next look.
    look: Pin<Box<Sleep>>,
    look_backoff: Backoff,
    look_again: Backoff,
    looks: Looks,
}

impl Running {
    fn new(
        door: Door,
        proof: Proof,
        peer: Option<SocketAddr>,
        place: Place,
        responses: Responses,
    ) -> Self {
        let parts = &door.parts;
        let partition = parts.outbox.partition_of(&proof.identity);
        let inlet = parts.inlets.of(partition);
        let session = Session::new(parts.session_limits, proof.generation_id.clone());
        let rejects = Budget::new(parts.limits.rejects_per_minute, parts.clock.monotonic());
        Self {
            proof,
            peer,
            partition,
            place,
            inlet,
            session,
            opened: None,
            rejects,
            responses,
            stores: FuturesOrdered::new(),
            questions: FuturesUnordered::new(),
            proving: false,
            prove_once_more: false,
            look: Box::pin(tokio::time::sleep(HELLO_WITHIN)),
            look_backoff: Backoff::new(LOOK),
            look_again: Backoff::new(LOOK_AGAIN),
            looks: Looks::default(),
            door,
        }
    }

    async fn run(mut self, mut requests: Streaming<agent::OpenSessionRequest>) {
        self.door.parts.metrics.session_began();
        let end = self.serve(&mut requests).await;
        self.say_goodbye(&end).await;
        self.door.parts.metrics.session_ended(end.code());
    }

    /// Serves until something ends the session.
    async fn serve(&mut self, requests: &mut Streaming<agent::OpenSessionRequest>) -> SessionEnd {
        let shutdown = self.door.parts.shutdown.clone();
        let mut stopped = Box::pin(shutdown.triggered());
        let mut proof_ends = Box::pin(tokio::time::sleep(self.proof_left()));
        let mut reading = true;
        loop {
            if !reading && self.is_idle() {
                return SessionEnd::Finished;
            }
            let wants = reading && self.session.may_read();
            // The first message is read in any case: it brings nothing that must be stored, and an
            // agent that is not welcomed cannot be told what it should be.
            let may_be_held = self.session.is_open();
            let reads = wants && (self.inlet.is_open() || !may_be_held);
            let outcome = tokio::select! {
                biased;
                mail = self.place.mailbox().take() => self.on_mail(mail),
                () = &mut stopped => Err(SessionEnd::Stopping),
                () = &mut proof_ends => {
                    proof_ends.as_mut().reset(Instant::now() + self.proof_left());
                    self.check_proof_time()
                }
                () = self.responses.closed() => Err(SessionEnd::Left),
                Some(stored) = self.stores.next() => self.on_stored(stored),
                Some(done) = self.questions.next() => self.on_done(done),
                () = has_room(&self.responses), if self.session.has_response() => {
                    self.give_response();
                    Ok(())
                }
                () = &mut self.look => self.on_look(),
                () = self.inlet.becomes(!reads), if wants && may_be_held => Ok(()),
                received = requests.message(), if reads => match received {
                    Ok(Some(message)) => {
                        let effects = self.session.on_message(message);
                        self.perform(effects);
                        Ok(())
                    }
                    Ok(None) => {
                        reading = false;
                        Ok(())
                    }
                    Err(status) => Err(self.broken(&status)),
                },
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    /// Nothing is under way and nothing waits.
    fn is_idle(&self) -> bool {
        self.stores.is_empty() && self.questions.is_empty() && !self.session.has_response()
    }

    fn on_mail(&mut self, mail: Mail) -> Result<(), SessionEnd> {
        if mail.taken_over {
            self.decline(mail.calls);
            return Err(SessionEnd::TakenOver);
        }
        if mail.identity_changed {
            self.prove_once_more = self.proving;
            self.prove_again();
        }
        if let Some(version) = mail.desired {
            let effects = self.session.on_hint(version);
            self.perform(effects);
        }
        for call in mail.calls {
            let effects = self.session.on_call(call);
            self.perform(effects);
        }
        if mail.tell_again {
            self.tell_again(Audience::TwinToo);
        } else if mail.announce {
            self.tell_again(Audience::Instances);
        }
        Ok(())
    }

    fn on_look(&mut self) -> Result<(), SessionEnd> {
        if !self.session.is_open() {
            return Err(SessionEnd::NoHello {
                seconds: HELLO_WITHIN.as_secs(),
            });
        }
        self.set_look(LOOK.cap, |running| &mut running.look_backoff);
        self.prove_again();
        if self.looks.announces() {
            self.tell_again(Audience::Instances);
        }
        let effects = self.session.on_tick();
        self.perform(effects);
        Ok(())
    }

    /// Sets the slow tick. To be called when twin-store has answered.
    fn look_later(&mut self) {
        self.look_again = Backoff::new(LOOK_AGAIN);
        self.set_look(LOOK.cap, |running| &mut running.look_backoff);
    }

    /// Looks again soon, because twin-store did not answer.
    fn look_sooner(&mut self) {
        self.set_look(LOOK_AGAIN.cap, |running| &mut running.look_again);
    }

    fn set_look(&mut self, otherwise: Duration, backoff: fn(&mut Self) -> &mut Backoff) {
        // Without a budget there is always another delay.
        let delay = backoff(self).next_delay().unwrap_or(otherwise);
        self.look.as_mut().reset(Instant::now() + delay);
    }

    fn on_proven(&mut self, outcome: Result<(), AuthError>) -> Result<(), SessionEnd> {
        self.proving = false;
        if std::mem::take(&mut self.prove_once_more) {
            self.prove_again();
        }
        match outcome {
            // That twin-store is away proves nothing; the next look asks again.
            Ok(()) | Err(AuthError::Unavailable(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How long to sleep until the proof may have ended.
    fn proof_left(&self) -> Duration {
        let left = self
            .proof
            .ends_at()
            .duration_since(self.door.parts.clock.now());
        Duration::try_from(left)
            .unwrap_or(Duration::ZERO)
            .min(PROOF_SLEEP_MAX)
    }

    fn check_proof_time(&self) -> Result<(), SessionEnd> {
        match self.proof.check_time(self.door.parts.clock.now()) {
            Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The stream ended with an error: what came is no message, or the connection is gone.
    fn broken(&self, status: &Status) -> SessionEnd {
        if Malformed::of(status).is_none() {
            return SessionEnd::Left;
        }
        tracing::info!(
            identity = %self.proof.identity,
            peer = self.peer.map(tracing::field::display),
            error = status.message(),
            "agent sent what is no message"
        );
        SessionEnd::Broken {
            problem: status.message().to_owned(),
        }
    }

    /// Gives the stream what waits, if it takes it at once.
    fn give_response(&mut self) {
        let Ok(permit) = self.responses.clone().try_reserve_owned() else {
            return;
        };
        let now = self.door.parts.clock.now();
        if let Some(mut response) = self.session.next_response(now) {
            if let Some(Response::Desired(section)) = &mut response.message {
                span::trace_push(&self.proof.identity, section);
                self.door.parts.metrics.pushed();
            }
            permit.send(Ok(response));
        }
    }
}

/// Waits until the stream takes another message, or takes none any more.
async fn has_room(responses: &Responses) {
    // The permit is given back; only this session sends, so the room stays.
    drop(responses.reserve().await);
}
