//! One device: performs what `session` decides.
//!
//! The loop waits for whatever comes first (the device, the bus, twin-store, other sessions, time)
//! and makes no decision beyond when to look again. Every branch of its `select!` may be cancelled:
//! each waits on a channel, a timer, a future that is kept, or bytes that are not lost.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use rmqtt_codec::v3::{ConnectAck, ConnectAckReason, Packet};
use service_kit::backoff::{Backoff, Policy};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use twin::Partition;

use super::Room;
use super::arrive::{self, Admitted, Until, Way};
use super::end::End;
use super::message::DeviceMessage;
use super::pace::Pace;
use super::provisioning::{self, Claimed, Registering};
use super::session::Session;
use super::wire::{AnyStream, Wire};
use crate::auth::Proof;
use crate::grpc::Door;
use crate::inlet::Inlet;
use crate::rejects::Budget;
use crate::session::Opened;
use crate::sessions::Place;
use perform::{Answer, Stored};

mod goodbye;
mod mail;
mod messages;
mod patches;
mod perform;
mod proof;

/// How often a session looks at the desired section and proves itself again though nobody said
/// that anything changed: between half of this and this, so that sessions spread.
const LOOK: Policy = Policy {
    first: Duration::from_secs(30),
    cap: Duration::from_secs(30),
    budget: None,
};

/// The longest silence that is allowed whatever a device asks for, as in IoT Hub.
const SILENCE_MAX: Duration = Duration::from_secs(1767);

/// Bytes of a client's id that a log line shows, whoever it is.
const CLIENT_BYTES_MAX: usize = 256;

/// Both ways of a device.
type DeviceWire = Wire<AnyStream>;

/// Lets a device in and serves it until either side ends it.
pub(super) async fn serve(
    door: Door,
    way: Way,
    peer: SocketAddr,
    mut room: Room,
    within: Duration,
) {
    let shutdown = door.parts.shutdown.clone();
    let mut client = String::new();
    let arriving = Box::pin(arrival(&door, way, (peer, within), &room, &mut client));
    let arrived = tokio::select! {
        biased;
        arrived = shutdown.run_until(arriving) => arrived.unwrap_or(Err(End::Stopping)),
        () = room.makes_room() => Err(End::MadeRoom),
    };
    match arrived {
        Ok(Arrived::Device(running)) => {
            room.proven();
            running.run().await;
        }
        Ok(Arrived::Registering(registering)) => {
            room.proven();
            Box::pin(registering.run()).await;
        }
        Err(end) => {
            door.parts.metrics.mqtt_ended(end.code());
            let (reason, error) = (end.code(), service_kit::error::chain(&end));
            let now = door.parts.clock.monotonic();
            let tells = end.is_told_before_the_connack();
            let line = tells.then(|| door.parts.ends.tells(reason, now)).flatten();
            if let Some(untold) = line {
                tracing::info!(client, %peer, reason, error, untold, "device was not let in");
            } else {
                tracing::debug!(client, %peer, reason, error, "device was not let in");
            }
        }
    }
}

/// Up to the CONNACK, whichever it is.
async fn arrival(
    door: &Door,
    way: Way,
    (peer, within): (SocketAddr, Duration),
    room: &Room,
    client: &mut String,
) -> Result<Arrived, End> {
    let mut until = Until::within(within);
    let (mut wire, certificates) = arrive::shake_hands(way, &mut until, room).await?;
    let connecting = arrive::connect(&mut wire, certificates);
    let admitted = match until.wait(connecting).await? {
        Ok(caller) => {
            let _waits = room.waits();
            *client = crate::text::shorten(caller.connect.client_id.to_string(), CLIENT_BYTES_MAX);
            let keep_alive = caller.connect.keep_alive;
            let patience = patience(keep_alive);
            if provisioning::is_meant(&caller.connect) {
                let claimed = Box::pin(provisioning::admit(door, caller, peer)).await;
                claimed.map(|claimed| Admission::Registering(claimed, patience))
            } else {
                let admitted = Box::pin(arrive::admit(door, caller, peer)).await;
                admitted.map(|admitted| Admission::Device(Box::new(admitted), keep_alive))
            }
        }
        Err(end) => Err(end),
    };
    match admitted {
        Ok(Admission::Device(admitted, keep_alive)) => {
            wire.reader.proven();
            wire.writer.put(Packet::ConnectAck(ConnectAck {
                return_code: ConnectAckReason::ConnectionAccepted,
                session_present: admitted.session_present,
            }))?;
            let running = Running::new(door.clone(), wire, *admitted, peer, keep_alive);
            Ok(Arrived::Device(Box::new(running)))
        }
        // Its packets stay as small as a CONNECT.
        Ok(Admission::Registering(claimed, patience)) => {
            wire.writer.put(Packet::ConnectAck(ConnectAck {
                return_code: ConnectAckReason::ConnectionAccepted,
                session_present: false,
            }))?;
            let registering = Registering::new(door.clone(), wire, claimed, peer, patience);
            Ok(Arrived::Registering(Box::new(registering)))
        }
        Err(end) => {
            if let Some(return_code) = arrive::refusal(&end) {
                wire.writer.put(Packet::ConnectAck(ConnectAck {
                    return_code,
                    session_present: false,
                }))?;
                // Who does not take its refusal in time has lost it.
                let _ = tokio::time::timeout(goodbye::GOODBYE_WITHIN, wire.writer.finish()).await;
            }
            Err(end)
        }
    }
}

/// Who was let in.
enum Arrived {
    /// A device of the hub.
    Device(Box<Running>),
    /// One that wants to be registered.
    Registering(Box<Registering<AnyStream>>),
}

/// Who may come in, before it is told.
enum Admission {
    /// A device of the hub, and its keep-alive.
    Device(Box<Admitted>, u16),
    /// One that wants to be registered, and how long it may be silent.
    Registering(Claimed, Duration),
}

/// A device that was let in, and everything under way for it.
struct Running {
    door: Door,
    wire: DeviceWire,
    proof: Proof,
    peer: SocketAddr,
    partition: Partition,
    place: Place,
    /// Resolves when the session that this one took over has done what it had read. Until then
    /// nothing is read here, so that no patch of then overtakes one of now.
    older: Option<oneshot::Receiver<()>>,
    inlet: Inlet,
    session: Session,
    opened: Opened,
    will: Option<DeviceMessage>,
    keep_alive: u16,
    /// How much of what is wrong with its security messages is kept.
    reject_budget: Budget,
    /// Acknowledgements, in the order of what they acknowledge, as MQTT wants them.
    acks: FuturesOrdered<BoxFuture<'static, Stored>>,
    /// Who waits for what becomes of a patch, in the order of patches.
    patches: VecDeque<patches::Waiting>,
    /// Questions to others.
    questions: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Messages that are done with, on their way out of the queue.
    removals: FuturesUnordered<BoxFuture<'static, ()>>,
    /// A proof is under way.
    proving: bool,
    /// The identity changed since that proof began, so its outcome may be old.
    prove_once_more: bool,
    /// When it says again that it is here.
    telling: mail::Telling,
    /// Until the next look.
    look: Pin<Box<Sleep>>,
    look_backoff: Backoff,
}

impl Running {
    fn new(
        door: Door,
        wire: DeviceWire,
        admitted: Admitted,
        peer: SocketAddr,
        keep_alive: u16,
    ) -> Self {
        let Admitted {
            proof,
            mut place,
            session,
            session_present: _,
            will,
            client_type,
            model_id,
        } = admitted;
        let partition = door.parts.outbox.partition_of(&proof.identity);
        let inlet = door.parts.inlets.of_memory();
        let max = posture::limits::NAME_BYTES_MAX;
        Self {
            wire,
            proof,
            peer,
            partition,
            older: place.take_older(),
            place,
            inlet,
            session,
            opened: Opened {
                session_id: uuid::Uuid::new_v4().to_string(),
                agent_version: crate::text::shorten(client_type, max),
                model_id,
            },
            will,
            keep_alive,
            reject_budget: Budget::new(
                door.parts.limits.rejects_per_minute,
                door.parts.clock.monotonic(),
            ),
            acks: FuturesOrdered::new(),
            patches: VecDeque::new(),
            questions: FuturesUnordered::new(),
            removals: FuturesUnordered::new(),
            proving: false,
            prove_once_more: false,
            telling: mail::Telling::default(),
            look: Box::pin(tokio::time::sleep(LOOK.cap)),
            look_backoff: Backoff::new(LOOK),
            door,
        }
    }

    /// Boxed, because a future keeps what it takes by value twice: once as it came.
    async fn run(mut self: Box<Self>) {
        self.door.parts.metrics.mqtt_connected();
        self.place.mailbox().take_methods();
        self.door.parts.farewells.begins();
        self.tell_connected();
        self.look_later();
        let end = self.serve().await;
        // Boxed, so that nobody has it with him who is not going yet.
        Box::pin(self.say_goodbye(&end)).await;
        self.door.parts.metrics.mqtt_disconnected();
        self.door.parts.metrics.mqtt_ended(end.code());
    }

    /// Serves until something ends it.
    async fn serve(&mut self) -> End {
        let shutdown = self.door.parts.shutdown.clone();
        let mut stopped = Box::pin(shutdown.triggered());
        let mut proof_ends = Box::pin(tokio::time::sleep(self.proof_left()));
        let patience = patience(self.keep_alive);
        let mut silence = Box::pin(tokio::time::sleep(patience));
        let mut pace = Pace::of_device(&self.door.parts.limits, Instant::now());
        let mut pause = Box::pin(tokio::time::sleep(Duration::ZERO));
        let mut paced = false;
        loop {
            let takes = self.wire.writer.has_room();
            if takes {
                self.look_for_messages();
                self.look_for_changes();
            }
            let may_read = self.older.is_none() && self.session.may_read();
            let wants = takes && may_read && !paced;
            let reads = wants && self.inlet.is_open();
            let outcome = tokio::select! {
                biased;
                mail = self.place.mailbox().take() => self.on_mail(mail),
                () = &mut stopped => Err(End::Stopping),
                () = finished(&mut self.older), if self.older.is_some() => {
                    self.older = None;
                    Ok(())
                }
                () = &mut proof_ends => {
                    proof_ends.as_mut().reset(Instant::now() + self.proof_left());
                    self.check_proof_time()
                }
                Some(stored) = self.acks.next() => self.on_stored(stored),
                Some(answer) = self.questions.next() => self.on_answer(answer),
                Some(()) = self.removals.next() => Ok(()),
                written = self.wire.writer.step(), if self.wire.writer.has_work() => written,
                received = self.wire.reader.next_with_bytes(), if reads => match received {
                    Ok((packet, bytes)) => {
                        let now = Instant::now();
                        silence.as_mut().reset(now + patience);
                        if let Some(until) = pace.on_packet(bytes, now) {
                            pause.as_mut().reset(until);
                            paced = true;
                        }
                        self.on_packet(packet)
                    }
                    Err(end) => Err(end),
                },
                () = &mut pause, if paced => {
                    paced = false;
                    Ok(())
                }
                () = &mut silence => {
                    silence.as_mut().reset(Instant::now() + patience);
                    // Whom we do not read for reasons of our own cannot be heard.
                    if reads || !takes {
                        Err(End::Silent { seconds: self.keep_alive })
                    } else {
                        Ok(())
                    }
                }
                () = &mut self.look => {
                    self.on_look();
                    Ok(())
                }
                () = self.inlet.becomes(!reads), if wants => Ok(()),
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    fn on_packet(&mut self, packet: Packet) -> Result<(), End> {
        let effects = self.session.on_packet(packet)?;
        self.perform(effects)
    }
}

/// Waits until an older session has done what it had read. Safe to cancel.
async fn finished(older: &mut Option<oneshot::Receiver<()>>) {
    if let Some(older) = older {
        // It only ever drops its end.
        let _ = older.await;
    }
}

/// What a future of ours acknowledges.
type Ack = Option<NonZeroU16>;

/// How long a device may be silent. A keep-alive of 0 asks for any length of time.
fn patience(keep_alive: u16) -> Duration {
    match keep_alive {
        0 => SILENCE_MAX,
        seconds => (Duration::from_secs(seconds.into()) * 3 / 2).min(SILENCE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, D, E, F>(_of: impl Fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    /// Tens of thousands of devices are quiet most of the time, and each keeps this much.
    #[test]
    fn a_quiet_device_keeps_little() {
        let (task, device) = (size_of_future(serve), size_of::<Running>());
        assert!(task + device < 3072, "{task} + {device} bytes");
    }

    #[test]
    fn a_device_may_be_silent_for_one_and_a_half_times_its_keep_alive() {
        for (keep_alive, millis) in [(1, 1500), (60, 90_000), (1740, 1_767_000), (0, 1_767_000)] {
            assert_eq!(patience(keep_alive), Duration::from_millis(millis));
        }
    }
}
