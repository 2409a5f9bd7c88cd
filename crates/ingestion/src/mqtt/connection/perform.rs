//! The effects of one device: publishes, questions to twin-store, packets.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use prost::Message as _;
use rmqtt_codec::v3::Packet;
use service_kit::error::{Classified, Kind};
use service_kit::status::RemoteError;
use service_kit::trace;
use wire::bus::v1::telemetry_entry::Content;
use wire::twin::v1 as twins;

use super::{Ack, Running};
use crate::auth::AuthError;
use crate::methods::MethodCall;
use crate::mqtt::answer;
use crate::mqtt::end::End;
use crate::mqtt::message::DeviceMessage;
use crate::mqtt::queue::Found;
use crate::mqtt::session::{Effect, Request};
use crate::mqtt::subscriptions;
use crate::notice;
use crate::twins::Refused;

/// A publish of the device that is done with.
pub(super) struct Stored {
    /// What to acknowledge.
    pub(super) ack: Ack,
    /// Of its message.
    pub(super) bytes: usize,
    pub(super) outcome: Result<(), End>,
}

/// What came of a question.
pub(super) enum Answer {
    /// The twin was read, or not.
    Twin {
        rid: String,
        outcome: Result<twins::DesiredSection, Refused>,
    },
    /// The reported section was patched, or not.
    Patched {
        rid: String,
        /// Whether somebody waits to acknowledge it.
        acknowledged: bool,
        outcome: Result<u64, Refused>,
    },
    /// Subscriptions are kept and the desired section's version is known, or not.
    Remembered {
        reply: Packet,
        outcome: Result<Option<u64>, End>,
    },
    /// It was read what changed in the desired section, or not.
    Changes(Result<twins::DesiredSection, Refused>),
    /// The queue of the device was read, or not.
    Message(Result<Found, bus::EnsureError>),
    /// The identity was proven again, or not.
    Proven(Result<(), AuthError>),
    /// The twin and the other instances were told.
    Told,
    /// The twin was not told; the next look does it again.
    NotTold,
}

/// Who is told that the session is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// The other instances, one of which may hold an older session of this identity.
    Instances,
    /// The twin as well.
    TwinToo,
}

impl Running {
    /// Does what was decided.
    pub(super) fn perform(&mut self, effects: Vec<Effect>) -> Result<(), End> {
        for effect in effects {
            match effect {
                Effect::Store { message, ack } => self.store(&message, ack),
                Effect::Ack(packet_id) => {
                    let stored = Stored {
                        ack: Some(packet_id),
                        bytes: 0,
                        outcome: Ok(()),
                    };
                    self.acks.push_back(futures::future::ready(stored).boxed());
                }
                Effect::AckPatch(packet_id) => self.acknowledge_patch(packet_id),
                Effect::Ask(request) => self.ask(request),
                Effect::Refuse { rid, problem } => {
                    let id = trace::correlation_id();
                    let now = self.door.parts.clock.now();
                    let packet = answer::invalid(&rid, problem, &id, now);
                    let effects = self.session.respond(packet);
                    self.perform(effects)?;
                }
                Effect::Send(packet) => self.wire.writer.put(packet)?,
                Effect::Answered {
                    rid,
                    status,
                    payload,
                } => {
                    let calls = &self.door.parts.calls;
                    calls.answered(&self.proof.identity, &rid, status, &payload);
                }
                Effect::Decline { rid } => {
                    self.door.parts.calls.declined(&self.proof.identity, &rid);
                }
                Effect::Remove { sequence, outcome } => self.remove(sequence, outcome),
            }
        }
        Ok(())
    }

    /// A publish of the device is durable, or not.
    pub(super) fn on_stored(&mut self, stored: Stored) -> Result<(), End> {
        self.session.on_stored(stored.bytes);
        match (stored.outcome, stored.ack) {
            (Ok(()), Some(packet_id)) => self.wire.writer.put(Packet::PublishAck { packet_id }),
            (Ok(()) | Err(_), None) => Ok(()),
            // It sends it again when it has connected again.
            (Err(end), Some(_)) => Err(end),
        }
    }

    /// Somebody answered.
    pub(super) fn on_answer(&mut self, answer: Answer) -> Result<(), End> {
        let effects = match answer {
            Answer::Told => return Ok(()),
            Answer::NotTold => {
                self.telling.untold = true;
                return Ok(());
            }
            Answer::Proven(outcome) => return self.on_proven(outcome),
            Answer::Message(found) => return self.on_message(found),
            Answer::Twin { rid, outcome } => {
                let packet = match outcome {
                    Ok(sections) => {
                        self.session.on_told(sections.version);
                        answer::twin(&rid, &sections)
                    }
                    Err(error) => self.refuse(&rid, &error),
                };
                self.session.on_twin_answer(packet)
            }
            Answer::Patched {
                rid,
                acknowledged,
                outcome,
            } => self.on_patched(&rid, acknowledged, outcome)?,
            Answer::Remembered { reply, outcome } => self.session.on_remembered(reply, outcome?),
            Answer::Changes(Ok(section)) => {
                self.session.on_changes(section.changes, section.version)
            }
            Answer::Changes(Err(error)) => {
                self.session.on_no_changes();
                self.note_refusal(&error);
                Vec::new()
            }
        };
        self.perform(effects)
    }

    /// Says of calls that they have not gone out.
    pub(super) fn decline(&self, calls: Vec<MethodCall>) {
        for call in calls {
            let identity = &self.proof.identity;
            self.door.parts.calls.declined(identity, &call.rid);
        }
    }

    /// Proves the identity again, unless that is under way.
    pub(super) fn prove_again(&mut self) {
        if self.proving {
            return;
        }
        self.proving = true;
        let (auth, proof) = (self.door.parts.auth.clone(), self.proof.clone());
        let proving = async move { Answer::Proven(auth.prove_again(&proof).await) };
        self.questions.push(proving.boxed());
    }

    /// Tells the twin and the other instances that the session has begun.
    pub(super) fn tell_connected(&mut self) {
        self.tell(Audience::TwinToo);
        tracing::debug!(
            identity = %self.proof.identity,
            peer = %self.peer,
            client = self.opened.agent_version,
            by = self.proof.by(),
            "device connected"
        );
        self.door.parts.metrics.session_proven(self.proof.kind());
    }

    /// Says that the session is open, now or again: they, or we, may not have heard it.
    pub(super) fn tell(&mut self, audience: Audience) {
        let parts = &self.door.parts;
        let opened_at = self.place.opened_at();
        let entry = notice::began(&self.proof, &self.opened, opened_at, &parts.instance);
        let hint = notice::hint(&self.proof.identity, &entry);
        let (bus, outbox, partition) = (parts.bus.clone(), parts.outbox.clone(), self.partition);
        let telling = async move {
            if let Err(error) = bus.send_hint(hint).await {
                tracing::debug!(%error, "other instances were not told of a session");
            }
            if audience == Audience::Instances {
                return Answer::Told;
            }
            match outbox.store(partition, entry).await {
                Ok(()) => Answer::Told,
                Err(error) => {
                    tracing::debug!(%error, "beginning of a session was not published");
                    Answer::NotTold
                }
            }
        };
        self.questions.push(telling.boxed());
    }

    fn store(&mut self, message: &DeviceMessage, ack: Ack) {
        let bytes = message.size();
        let publishing = self.publish(message);
        let metrics = self.door.parts.metrics.clone();
        let storing = async move {
            let outcome = publishing.await.map_err(|error| {
                metrics.batch_failed();
                End::NotStored(error)
            });
            Stored {
                ack,
                bytes,
                outcome,
            }
        };
        self.acks.push_back(storing.boxed());
    }

    /// Makes a message durable where its readers are: in `TELEMETRY` what is for the posture, in
    /// `APPLICATION` everything else.
    pub(super) fn publish(
        &mut self,
        message: &DeviceMessage,
    ) -> BoxFuture<'static, Result<(), bus::PackError>> {
        let parts = &self.door.parts;
        let (now, partition) = (parts.clock.now(), self.partition);
        let metrics = parts.metrics.clone();
        let Some(judged) = message.judge(parts.session_limits.batch.event_bytes_max) else {
            // Before it waits: what waits is counted by its bytes, and takes no more than them.
            let encoded = Bytes::from(message.to_wire(&self.proof, now).encode_to_vec());
            let outbox = parts.application.clone();
            return async move {
                outbox.store_message(partition, encoded).await?;
                metrics.mqtt_message_stored();
                Ok(())
            }
            .boxed();
        };
        let identity = &self.proof.identity;
        let elapsed = parts.clock.monotonic();
        let budget = &mut self.reject_budget;
        parts.rejects.keep_parts(identity, &judged, budget, elapsed);
        let events = judged.message.events.len();
        let content = Content::SecurityMessage(judged.message);
        let entry = notice::entry(&self.proof, now, String::new(), content);
        let encoded = Bytes::from(entry.encode_to_vec());
        let outbox = parts.outbox.clone();
        async move {
            outbox.store_message(partition, encoded).await?;
            metrics.security_message_stored(events);
            Ok(())
        }
        .boxed()
    }

    fn ask(&mut self, request: Request) {
        let store = self.door.parts.store.clone();
        let identity = self.proof.identity.clone();
        let question = match request {
            Request::GetTwin { rid } => async move {
                let outcome = store.twin(&identity).await;
                Answer::Twin { rid, outcome }
            }
            .boxed(),
            Request::PatchReported {
                rid,
                patch_json,
                base_version,
                acknowledged,
            } => {
                let told = self.session.told();
                async move {
                    let patched = store.patch_reported(&identity, patch_json, base_version, told);
                    Answer::Patched {
                        rid,
                        acknowledged,
                        outcome: patched.await,
                    }
                }
                .boxed()
            }
            Request::Remember {
                keep,
                follow,
                reply,
            } => {
                let (bus, proof) = (self.door.parts.bus.clone(), self.proof.clone());
                let remembering = async move {
                    if let Some(kept) = keep {
                        let generation_id = &proof.generation_id;
                        subscriptions::keep(&bus, &identity, generation_id, &kept).await?;
                    }
                    if !follow {
                        return Ok(None);
                    }
                    let section = store.desired(&identity).await;
                    Ok(Some(section.map_err(End::NotFollowed)?.version))
                };
                async move {
                    let outcome = remembering.await;
                    Answer::Remembered { reply, outcome }
                }
                .boxed()
            }
        };
        self.questions.push(question);
    }

    /// Asks what changed in the desired section, if the session wants to know.
    pub(super) fn look_for_changes(&mut self) {
        let Some(version) = self.session.next_changes() else {
            return;
        };
        let store = self.door.parts.store.clone();
        let identity = self.proof.identity.clone();
        let looking = async move { Answer::Changes(store.desired_since(&identity, version).await) };
        self.questions.push(looking.boxed());
    }

    pub(super) fn note_refusal(&mut self, error: &RemoteError) {
        let kind = error.kind();
        self.door.parts.metrics.twin_request_failed(kind);
        tracing::debug!(
            identity = %self.proof.identity,
            reason = error.reason(),
            error = %error,
            "twin-store refused a request"
        );
        // Its twin is gone, so the identity may be.
        if kind == Kind::NotFound {
            self.door.parts.auth.forget(&self.proof.identity);
            self.prove_again();
        }
    }
}
