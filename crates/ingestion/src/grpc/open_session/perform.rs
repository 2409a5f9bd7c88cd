//! The effects of one session: publishes, questions to twin-store, notices.

use futures::FutureExt;
use futures::future::BoxFuture;
use service_kit::error::{Classified, Kind};
use service_kit::status::RemoteError;
use tracing::Instrument;
use wire::agent::v1 as agent;
use wire::agent::v1::open_session_response::Message as Response;
use wire::bus::v1 as bus_wire;
use wire::bus::v1::telemetry_entry::Content;
use wire::twin::v1 as twins;

use super::Running;
use super::refusal::Refusal;
use super::span::{continue_trace, request_span};
use crate::admit::Admission;
use crate::auth::AuthError;
use crate::error::SessionEnd;
use crate::methods::MethodCall;
use crate::notice;
use crate::session::{Effect, Opened, Request};
use crate::twins::Refused;

/// Resolves when an entry is durable; with the acknowledgement, if it was a batch.
pub(super) type Stored = BoxFuture<'static, Result<Option<agent::EventsAck>, bus::PackError>>;

/// Resolves when a question is answered.
pub(super) type Done = BoxFuture<'static, Answer>;

/// What came of a question.
pub(super) enum Answer {
    /// The agent's request was answered or refused.
    Request(Result<Option<Response>, Refusal>),
    /// The desired section was read, or not.
    Desired(Result<twins::DesiredSection, Refused>),
    /// The identity was proven again, or not.
    Proven(Result<(), AuthError>),
    /// The other instances were told of the session.
    Told,
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
    pub(super) fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Open(opened) => self.open(opened),
                Effect::Publish {
                    admission,
                    trace_parent,
                } => {
                    self.publish(admission, trace_parent);
                }
                Effect::Ask(request) => self.ask(request),
                Effect::FetchDesired => self.fetch_desired(),
                Effect::Answered(response) => {
                    let calls = &self.door.parts.calls;
                    let payload = response.payload_json.into_bytes().into();
                    let identity = &self.proof.identity;
                    calls.answered(identity, &response.call_id, response.status, &payload);
                }
                Effect::Decline { rid } => {
                    self.door.parts.calls.declined(&self.proof.identity, &rid);
                }
                Effect::Refused(reason) => {
                    self.door.parts.metrics.message_refused(reason);
                    tracing::debug!(identity = %self.proof.identity, reason, "message refused");
                }
            }
        }
    }

    /// Says of calls that they have not gone out.
    pub(super) fn decline(&self, calls: Vec<MethodCall>) {
        for call in calls {
            let identity = &self.proof.identity;
            self.door.parts.calls.declined(identity, &call.rid);
        }
    }

    /// An entry is durable, or not.
    pub(super) fn on_stored(
        &mut self,
        stored: Result<Option<agent::EventsAck>, bus::PackError>,
    ) -> Result<(), SessionEnd> {
        match stored {
            Ok(Some(ack)) => self.session.on_stored(ack),
            Ok(None) => {}
            Err(error) => {
                self.door.parts.metrics.batch_failed();
                return Err(SessionEnd::NotStored(error));
            }
        }
        Ok(())
    }

    /// Twin-store answered.
    pub(super) fn on_done(&mut self, answer: Answer) -> Result<(), SessionEnd> {
        match answer {
            Answer::Told => Ok(()),
            Answer::Proven(outcome) => self.on_proven(outcome),
            Answer::Request(outcome) => {
                let response = match outcome {
                    Ok(response) => response,
                    Err(refusal) => Some(self.refuse(&refusal)),
                };
                let effects = self.session.on_answered(response);
                self.perform(effects);
                Ok(())
            }
            Answer::Desired(Ok(section)) => {
                self.look_later();
                let effects = self.session.on_section(agent::DesiredConfiguration {
                    version: section.version,
                    document_json: section.document_json,
                    trace_parent: section.trace_parent,
                });
                self.perform(effects);
                Ok(())
            }
            Answer::Desired(Err(error)) => {
                self.session.on_no_section();
                self.look_sooner();
                self.note_refusal(&error);
                Ok(())
            }
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

    /// Tells the twin that the session is over, if it was told of its beginning.
    pub(super) async fn tell_disconnected(&mut self) {
        let Some(opened) = self.opened.take() else {
            return;
        };
        let parts = &self.door.parts;
        let now = parts.clock.now();
        let entry = notice::ended(&self.proof, &opened, &parts.instance, now);
        parts.tell_end(self.partition, entry).await;
    }

    fn open(&mut self, opened: Opened) {
        let parts = &self.door.parts;
        let limits = &parts.limits;
        let identity = &self.proof.identity;
        let small = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        self.session.welcome(agent::Welcome {
            device_id: identity.device.to_string(),
            module_id: identity
                .module
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            service_time: Some(wire::time::to_wire(parts.clock.now())),
            max_batch_bytes: small(limits.batch_bytes_max.get()),
            max_event_bytes: small(limits.event_bytes_max.get()),
            max_batch_events: limits.batch_events_max,
            generation_id: self.proof.generation_id.clone(),
        });
        tracing::debug!(
            %identity,
            peer = self.peer.map(tracing::field::display),
            agent_version = opened.agent_version,
            by = self.proof.by(),
            "session opened"
        );
        parts.metrics.session_proven(self.proof.kind());
        parts.farewells.begins();
        self.tell(&opened, Audience::TwinToo);
        self.opened = Some(opened);
        if self.session.takes_methods() {
            self.place.mailbox().take_methods();
        }
        self.look_later();
    }

    /// Says again that the session is open: they, or we, may not have heard it.
    pub(super) fn tell_again(&mut self, audience: Audience) {
        if let Some(opened) = self.opened.clone() {
            self.tell(&opened, audience);
        }
    }

    fn tell(&mut self, opened: &Opened, audience: Audience) {
        let parts = &self.door.parts;
        let opened_at = self.place.opened_at();
        let entry = notice::began(&self.proof, opened, opened_at, &parts.instance);
        let hint = notice::hint(&self.proof.identity, &entry);
        let (bus, outbox, partition) = (parts.bus.clone(), parts.outbox.clone(), self.partition);
        let telling = async move {
            if let Err(error) = bus.send_hint(hint).await {
                tracing::debug!(%error, "other instances were not told of a session");
            }
            Answer::Told
        };
        self.questions.push(telling.boxed());
        if audience == Audience::TwinToo {
            let stored = async move { outbox.store(partition, entry).await.map(|()| None) };
            self.stores.push_back(stored.boxed());
        }
    }

    fn publish(&mut self, admission: Admission, trace_parent: String) {
        let parts = &self.door.parts;
        let span = tracing::info_span!(
            parent: None,
            "ingest",
            identity = %self.proof.identity,
            lane = admission.lane.as_str(),
            events = admission.events.len(),
            rejected = admission.rejected.len(),
        );
        let trace_parent = continue_trace(&span, trace_parent);
        let began_at = parts.clock.monotonic();
        parts.rejects.keep(
            &self.proof.identity,
            &admission,
            &trace_parent,
            &mut self.rejects,
            began_at,
        );
        let (lane, events) = (admission.lane.as_str(), admission.events.len());
        let (batch, ack) = split(admission);
        let entry = self.entry(trace_parent, Content::Batch(batch));
        let (outbox, partition) = (parts.outbox.clone(), self.partition);
        let (clock, metrics) = (parts.clock.clone(), parts.metrics.clone());
        let stored = async move {
            outbox.store(partition, entry).await?;
            metrics.batch_stored(lane, events, clock.monotonic().duration_since(began_at));
            Ok(Some(ack))
        };
        self.stores.push_back(stored.instrument(span).boxed());
    }

    fn ask(&mut self, request: Request) {
        let store = self.door.parts.store.clone();
        let identity = self.proof.identity.clone();
        let (span, request) = request_span(&identity, request);
        let asking = async move {
            let request_id = request.id().to_owned();
            let answered = match request {
                Request::PatchReported(patch) => {
                    let version = store
                        .patch_reported(&identity, patch.patch_json, 0, 0)
                        .await;
                    version.map(|version| {
                        let request_id = patch.request_id;
                        Some(Response::ReportedPatched(agent::ReportedPatched {
                            request_id,
                            version,
                        }))
                    })
                }
                Request::Acknowledge {
                    acknowledge,
                    push_time,
                } => store
                    .acknowledge(&identity, acknowledge, push_time)
                    .await
                    .map(|()| None),
                Request::GetTwin(get) => store.twin(&identity).await.map(|sections| {
                    Some(Response::Twin(agent::TwinDocument {
                        request_id: get.request_id,
                        desired_json: sections.document_json,
                        desired_version: sections.version,
                        reported_json: sections.reported_json,
                        reported_version: sections.reported_version,
                    }))
                }),
            };
            Answer::Request(answered.map_err(|error| Refusal { request_id, error }))
        };
        self.questions.push(asking.instrument(span).boxed());
    }

    fn fetch_desired(&mut self) {
        let store = self.door.parts.store.clone();
        let identity = self.proof.identity.clone();
        let fetching = async move { Answer::Desired(store.desired(&identity).await) };
        self.questions.push(fetching.boxed());
    }

    fn entry(&self, trace_parent: String, content: Content) -> bus_wire::TelemetryEntry {
        notice::entry(
            &self.proof,
            self.door.parts.clock.now(),
            trace_parent,
            content,
        )
    }

    fn refuse(&mut self, refusal: &Refusal) -> Response {
        self.note_refusal(&refusal.error);
        Response::Error(refusal.to_message())
    }

    fn note_refusal(&mut self, error: &RemoteError) {
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

/// What goes to the bus, and what goes to the agent once it is there.
fn split(admission: Admission) -> (bus_wire::AdmittedBatch, agent::EventsAck) {
    let lane = wire::events::lane_to_wire(admission.lane).into();
    let rejected_sequences = admission
        .rejected
        .iter()
        .map(|it| it.event.sequence)
        .collect();
    let rejected = admission
        .rejected
        .into_iter()
        .map(|it| agent::RejectedEvent {
            sequence: it.event.sequence,
            reason: it.reason.as_str().to_owned(),
            message: it.message,
        });
    let ack = agent::EventsAck {
        lane,
        epoch: admission.epoch_text,
        through_sequence: admission.through_sequence,
        rejected: rejected.collect(),
    };
    let batch = bus_wire::AdmittedBatch {
        lane,
        epoch: admission.epoch.to_string(),
        events: admission.events,
        rejected_sequences,
        dropped_total: admission.dropped_total,
        settled_through: admission.settled_through,
    };
    (batch, ack)
}
