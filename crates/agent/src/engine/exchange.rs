//! The engine's half of a session: what to do about each message of the service, and sending.

use posture::Lane;
use prost::Message;
use service_kit::error::chain;
use service_kit::trace;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::block_in_place;
use tracing::Instrument;
use uuid::Uuid;
use wire::agent::v1::open_session_request::Message as Outgoing;
use wire::agent::v1::open_session_response::Message as Incoming;
use wire::agent::v1::{
    EventBatch, EventsAck, Hello, MessageError, OpenSessionRequest, SecurityEvent, Welcome,
};
use wire::events::{lane_from_wire, lane_to_wire};

use super::follow::Answer;
use super::{AGENT_VERSION, Engine, Outbound};
use crate::link::LinkEvent;
use crate::session::{BatchPlan, ServiceLimits};

/// What became of an attempt to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Queued,
    /// The connection is slower than we are; later.
    NoRoom,
    NoSession,
}

impl Engine {
    pub(super) async fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Opened { outbound, reset } => {
                let session_id = Uuid::new_v4();
                self.state.outbound = Some(Outbound {
                    messages: outbound,
                    reset,
                    session_id,
                    answer: Answer::default(),
                    warned_of_rejects: false,
                    warned_of_refusal: false,
                });
                self.send(Outgoing::Hello(Hello {
                    agent_version: AGENT_VERSION.to_owned(),
                    session_id: session_id.to_string(),
                    applied_desired_version: self.store.decision().map_or(0, |last| last.version),
                    generation_id: self.store.generation_id().to_owned(),
                    takes_methods: true,
                }));
            }
            LinkEvent::Received(response) => {
                self.heard_of_service();
                if let Some(message) = response.message {
                    self.on_message(message).await;
                } else {
                    tracing::debug!("a message of a kind unknown here");
                }
            }
            LinkEvent::Closed => self.session_over(),
        }
    }

    async fn on_message(&mut self, message: Incoming) {
        match message {
            Incoming::Welcome(welcome) => self.on_welcome(&welcome),
            Incoming::EventsAck(ack) => self.on_events_ack(&ack),
            Incoming::Desired(desired) => {
                let span = tracing::info_span!("apply_configuration", version = desired.version);
                trace::set_parent(&span, &desired.trace_parent);
                self.on_desired(desired).instrument(span).await;
            }
            Incoming::ReportedPatched(patched) => self.on_reported(&patched),
            Incoming::Twin(_) => tracing::debug!("a sign of life"),
            Incoming::Error(error) => self.on_error(&error),
            Incoming::Method(request) => self.on_method(request).await,
        }
    }

    fn on_welcome(&mut self, welcome: &Welcome) {
        tracing::info!(
            device = welcome.device_id,
            module = welcome.module_id,
            "session open"
        );
        self.state.session.opened(ServiceLimits {
            batch_bytes: welcome.max_batch_bytes,
            batch_events: welcome.max_batch_events,
        });
        self.enter_generation(&welcome.generation_id);
        // The answer to the last configuration may have been lost with the last connection.
        if !self.store.is_confirmed() {
            self.answer_last_decision("");
        }
    }

    fn on_events_ack(&mut self, ack: &EventsAck) {
        let Ok(lane) = lane_from_wire("lane", ack.lane) else {
            tracing::warn!(lane = ack.lane, "an acknowledgement of an unknown lane");
            return;
        };
        if ack.epoch != self.spool.status(lane).epoch.to_string() {
            tracing::debug!(%lane, "an acknowledgement of an earlier epoch");
            return;
        }
        if let Some(outbound) = &mut self.state.outbound
            && let Some(reject) = ack.rejected.first()
            && !std::mem::replace(&mut outbound.warned_of_rejects, true)
        {
            tracing::warn!(%lane, count = ack.rejected.len(), sequence = reject.sequence,
                reason = reject.reason, message = reject.message,
                "the service rejected events; later ones are logged as debug");
        }
        for reject in &ack.rejected {
            tracing::debug!(%lane, sequence = reject.sequence, reason = reject.reason, message = reject.message, "event rejected");
        }
        self.state.owed_since = None;
        let through = crate::spool::Sequence(ack.through_sequence);
        if let Some(through) = self.state.session.acknowledged(lane, through) {
            if let Err(error) = block_in_place(|| self.spool.acknowledge(lane, through)) {
                // It will be sent and acknowledged again.
                tracing::error!(error = chain(&error), "cannot forget acknowledged events");
            }
            self.commit_soon();
        }
    }

    fn on_error(&mut self, error: &MessageError) {
        let first = self
            .state
            .outbound
            .as_mut()
            .is_none_or(|outbound| !std::mem::replace(&mut outbound.warned_of_refusal, true));
        // What may succeed later is tried again; saying so each time would fill the log.
        if first || !error.retryable {
            tracing::warn!(
                reason = error.reason,
                message = error.message,
                retryable = error.retryable,
                "the service refused a message"
            );
        }
        self.on_refused_answer(error);
    }

    /// Sends what may be sent now, the most urgent lane first.
    pub(super) fn pump(&mut self) {
        for lane in Lane::ALL {
            while let Some(plan) = self.state.session.next_batch(lane) {
                if self.send_batch(lane, plan) != Sent::Queued {
                    return;
                }
            }
        }
    }

    fn send_batch(&mut self, lane: Lane, plan: BatchPlan) -> Sent {
        let Some(outbound) = &self.state.outbound else {
            return Sent::NoSession;
        };
        if outbound.messages.capacity() == 0 {
            return Sent::NoRoom;
        }
        let read = block_in_place(|| self.spool.read(lane, plan.after, plan.through, plan.limits));
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(error = chain(&error), "cannot read the spool");
                // Ending the session makes the next attempt wait for the back-off.
                self.reset_session();
                return Sent::NoSession;
            }
        };
        let Some(last) = read.last().map(|event| event.sequence) else {
            self.state.session.nothing_left(lane, plan);
            return Sent::Queued;
        };
        let mut events = Vec::with_capacity(read.len());
        for spooled in read {
            match SecurityEvent::decode(spooled.payload.as_slice()) {
                Ok(mut event) => {
                    event.sequence = spooled.sequence.0;
                    events.push(event);
                }
                // Its checksum holds, so another version of the agent wrote it; it is passed over.
                Err(error) => {
                    tracing::warn!(%lane, sequence = %spooled.sequence, %error, "a spooled event cannot be read");
                }
            }
        }
        let status = self.spool.status(lane);
        // Below the batch in any case, or the service would refuse it.
        let first = events.first().map_or(0, |event| event.sequence);
        let settled_through = status.floor.0.min(first.saturating_sub(1));
        let span = tracing::info_span!("send_events", %lane, count = events.len());
        let batch = EventBatch {
            lane: lane_to_wire(lane).into(),
            epoch: status.epoch.to_string(),
            events,
            dropped_total: status.dropped_total,
            settled_through,
            trace_parent: trace::traceparent_of(&span).unwrap_or_default(),
        };
        let sent = span.in_scope(|| self.send(Outgoing::Events(batch)));
        if sent == Sent::Queued {
            self.state.session.batch_sent(lane, last);
        }
        sent
    }

    pub(super) fn send(&mut self, message: Outgoing) -> Sent {
        let Some(outbound) = &self.state.outbound else {
            return Sent::NoSession;
        };
        match outbound.messages.try_send(OpenSessionRequest {
            message: Some(message),
        }) {
            Ok(()) => Sent::Queued,
            Err(TrySendError::Full(_)) => {
                // Batches look for room first, so this is an answer that would be lost.
                tracing::warn!(session = %outbound.session_id, "the connection takes nothing more");
                self.reset_session();
                Sent::NoRoom
            }
            // The link says so itself in a moment.
            Err(TrySendError::Closed(_)) => Sent::NoSession,
        }
    }

    pub(super) fn reset_session(&mut self) {
        if let Some(outbound) = &self.state.outbound {
            outbound.reset.trigger();
        }
        self.session_over();
    }

    fn session_over(&mut self) {
        if self.state.session.is_open() {
            tracing::info!("session over");
        }
        self.state.outbound = None;
        self.state.owed_since = None;
        let floors = self.floors();
        self.state.session.closed(floors);
    }
}
