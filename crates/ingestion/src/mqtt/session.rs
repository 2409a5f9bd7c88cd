//! Decides what each packet of a device leads to. One value per connection.
//!
//! Pure: packets and answers in, effects out. Reading is a decision too ([`Session::may_read`]):
//! whoever sends faster than its messages become durable is not read, and TCP does the rest.

use std::num::NonZeroU16;

use bus::Sequence;
use bytes::Bytes;
use iot_hub::mqtt::{DeviceTopic, Filter, FilterKind};
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Packet, SubscribeReturnCode};
use twin::IdentityKey;
use wire::bus::v1::DeviceBoundMessage;
use wire::twin::v1::DesiredChange;

use super::answer;
use super::desired::Desired;
use super::end::End;
use super::inbox::{Counts, Delivery, Inbox, Look as Reading};
use super::message::DeviceMessage;
use super::subscriptions::Subscriptions;
use crate::methods::MethodCall;

pub(super) use effect::{Effect, Outcome, Persistence, Request};
use requests::Requests;

mod effect;
mod requests;

/// Publishes of one device that may wait for their acknowledgement. SDKs have a handful on the way.
const ACKS_MAX: usize = 16;

/// Bytes of one device's messages that may wait for the bus: four of the largest.
const BYTES_MAX: usize = 1 << 20;

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Session {
    identity: IdentityKey,
    subscriptions: Subscriptions,
    /// Whether they outlive the connection.
    persistent: bool,
    desired: Desired,
    /// The newest version of the desired section that went to the device in this connection; 0: none.
    told: u64,
    inbox: Inbox,
    requests: Requests,
    acks: usize,
    bytes: usize,
}

impl Session {
    /// A session with what was subscribed to before. `present`: the version of the desired section,
    /// if it is followed.
    pub(super) fn new(
        identity: IdentityKey,
        subscriptions: Subscriptions,
        persistence: Persistence,
        present: Option<u64>,
    ) -> Self {
        let mut desired = Desired::default();
        if let Some(version) = present {
            desired.subscribed(version);
        }
        Self {
            identity,
            subscriptions,
            persistent: persistence == Persistence::Kept,
            desired,
            told: 0,
            inbox: Inbox::default(),
            requests: Requests::default(),
            acks: 0,
            bytes: 0,
        }
    }

    /// Whether another packet may be read.
    pub(super) fn may_read(&self) -> bool {
        let bytes = self.bytes + self.requests.bytes();
        self.acks < ACKS_MAX && bytes < BYTES_MAX && self.requests.have_room()
    }

    /// A packet of the device.
    pub(super) fn on_packet(&mut self, packet: Packet) -> Result<Vec<Effect>, End> {
        match packet {
            Packet::Publish(publish) => self.on_publish(*publish),
            Packet::Subscribe {
                packet_id,
                topic_filters,
            } => {
                let before = self.subscriptions.clone();
                let mut status = Vec::with_capacity(topic_filters.len());
                for (text, qos) in topic_filters {
                    let filter = Filter::parse(&text, &self.identity)?;
                    let granted = self.subscriptions.add(filter, qos)?;
                    status.push(SubscribeReturnCode::Success(granted));
                }
                Ok(self.remember(&before, Packet::SubscribeAck { packet_id, status }))
            }
            Packet::Unsubscribe {
                packet_id,
                topic_filters,
            } => {
                let before = self.subscriptions.clone();
                for text in topic_filters {
                    self.subscriptions.remove(&text);
                }
                if !self.wants_changes() {
                    self.desired.unsubscribed();
                }
                Ok(self.remember(&before, Packet::UnsubscribeAck { packet_id }))
            }
            Packet::PingRequest => Ok(vec![Effect::Send(Packet::PingResponse)]),
            Packet::Disconnect => Err(End::Disconnected),
            // One that acknowledges nothing is of a session that was taken up, and harmless.
            Packet::PublishAck { packet_id } => {
                let done = self.inbox.on_acknowledged(packet_id);
                Ok(done.map(completed).into_iter().collect())
            }
            Packet::PublishReceived { .. }
            | Packet::PublishRelease { .. }
            | Packet::PublishComplete { .. } => Err(End::Qos2),
            Packet::Connect(_)
            | Packet::ConnectAck(_)
            | Packet::SubscribeAck { .. }
            | Packet::UnsubscribeAck { .. }
            | Packet::PingResponse => Err(End::Unexpected {
                kind: packet.packet_type(),
            }),
        }
    }

    /// What [`Effect::Store`], [`Effect::Ack`] or [`Effect::AckPatch`] asked for is done; `bytes`
    /// were the message's.
    pub(super) fn on_stored(&mut self, bytes: usize) {
        debug_assert!(self.acks > 0, "only what was asked for is stored");
        self.acks = self.acks.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// A request about the twin was answered with this packet.
    pub(super) fn on_twin_answer(&mut self, packet: Packet) -> Vec<Effect> {
        let mut effects = self.respond(packet);
        effects.extend(self.requests.answered());
        effects
    }

    /// A request is done with, and there is nobody to tell.
    pub(super) fn on_no_twin_answer(&mut self) -> Vec<Effect> {
        self.requests.answered().into_iter().collect()
    }

    /// Whether the device hears what becomes of its requests.
    pub(super) fn hears_answers(&self) -> bool {
        self.subscriptions.have(&FilterKind::TwinResponses)
    }

    /// Whether a request is on its way, or waits.
    pub(super) fn is_asking(&self) -> bool {
        self.requests.is_asking()
    }

    /// Nothing of what waits is asked for any more.
    pub(super) fn ask_no_more(&mut self) {
        self.requests.forget();
    }

    /// Of what waits only patches are asked for: the rest matters to this connection alone.
    pub(super) fn ask_for_patches_only(&mut self) {
        self.requests.keep_patches();
    }

    /// The device reads the desired section in this version.
    pub(super) fn on_told(&mut self, version: u64) {
        self.told = self.told.max(version);
    }

    /// The newest version of the desired section that went to the device; 0: none.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// Subscriptions are kept. `present`: the version of the desired section, if it was asked for.
    pub(super) fn on_remembered(&mut self, reply: Packet, present: Option<u64>) -> Vec<Effect> {
        // Who has unsubscribed meanwhile is not followed.
        if let Some(version) = present.filter(|_| self.wants_changes()) {
            self.desired.subscribed(version);
        }
        let mut effects = vec![Effect::Send(reply)];
        effects.extend(self.requests.answered());
        effects
    }

    /// An answer about the twin, for whoever has subscribed to them; others do not get it, as
    /// Python's own GET after a reconnect.
    pub(super) fn respond(&self, packet: Packet) -> Vec<Effect> {
        if self.hears_answers() {
            vec![Effect::Send(packet)]
        } else {
            Vec::new()
        }
    }

    /// Somebody says that the desired section has this version; 0 when it is not known.
    pub(super) fn on_hint(&mut self, version: u64) {
        self.desired.on_hint(version);
    }

    /// It is time to look at the desired section and the queue.
    pub(super) fn on_tick(&mut self) {
        self.inbox.on_hint();
        self.desired.on_tick();
    }

    /// Since which version to look for changes of the desired section now; then
    /// [`Session::on_changes`] or [`Session::on_no_changes`].
    pub(super) fn next_changes(&mut self) -> Option<u64> {
        self.desired.look()
    }

    /// What changed in the desired section, which has the version `present`.
    pub(super) fn on_changes(&mut self, changes: Vec<DesiredChange>, present: u64) -> Vec<Effect> {
        let news = self.desired.on_changes(changes, present);
        for change in &news {
            self.on_told(change.version);
        }
        news.iter()
            .map(|change| Effect::Send(answer::notification(change)))
            .collect()
    }

    /// It could not be read what changed.
    pub(super) fn on_no_changes(&mut self) {
        self.desired.on_failure();
    }

    /// Somebody calls a direct method. Methods go out at `QoS` 0, whatever was granted: one that
    /// comes late or twice does harm.
    pub(super) fn on_call(&self, call: MethodCall) -> Vec<Effect> {
        if !self.subscriptions.have_method(&call.name) {
            return vec![Effect::Decline { rid: call.rid }];
        }
        vec![Effect::Send(answer::method(&call))]
    }

    /// Somebody says that a message waits.
    pub(super) fn on_message_hint(&mut self) {
        self.inbox.on_hint();
    }

    /// What to read of the device's queue now; then [`Session::on_message`] or
    /// [`Session::on_no_message`].
    pub(super) fn next_message(&mut self) -> Option<Reading> {
        let granted = self.subscriptions.granted(&FilterKind::DeviceBound);
        self.inbox.look(granted)
    }

    /// How often messages went out in earlier connections.
    pub(super) fn on_message_counts(&mut self, counts: Counts) {
        self.inbox.on_counts(counts);
    }

    /// The same, to be kept for later ones; none: nothing changed.
    pub(super) fn message_counts(&self) -> Option<Counts> {
        self.inbox.to_keep()
    }

    /// No message waits, or it cannot be read.
    pub(super) fn on_no_message(&mut self) {
        self.inbox.on_nothing();
    }

    /// The next message; none: what is there is not to be delivered.
    pub(super) fn on_message(
        &mut self,
        sequence: Sequence,
        message: Option<DeviceBoundMessage>,
    ) -> Vec<Effect> {
        let remove = |outcome| Effect::Remove { sequence, outcome };
        let Some(message) = message else {
            self.inbox.on_unfit(sequence);
            return vec![remove(Outcome::Expired)];
        };
        let device = &self.identity.device;
        match self.inbox.on_read(sequence) {
            Delivery::Once => {
                let packet = answer::message(device, message, None);
                vec![Effect::Send(packet), remove(Outcome::Sent)]
            }
            Delivery::Until { id, again } => {
                let packet = answer::message(device, message, Some((id, again)));
                vec![Effect::Send(packet)]
            }
            Delivery::InVain => vec![remove(Outcome::InVain)],
            Delivery::Later => Vec::new(),
        }
    }

    fn on_publish(&mut self, publish: Publish) -> Result<Vec<Effect>, End> {
        if publish.qos == QoS::ExactlyOnce {
            return Err(End::Qos2);
        }
        let ack = publish.packet_id;
        match DeviceTopic::parse(&publish.topic, &self.identity)? {
            DeviceTopic::Telemetry(properties) => {
                let message = DeviceMessage::new(properties, publish.payload, publish.retain);
                message.check_size()?;
                self.acks += 1;
                self.bytes += message.size();
                Ok(vec![Effect::Store { message, ack }])
            }
            DeviceTopic::TwinGet { rid } => {
                let mut effects = self.acknowledge(ack);
                // Nobody would hear the answer.
                if self.hears_answers() {
                    effects.extend(self.requests.ask(Request::GetTwin { rid }));
                }
                Ok(effects)
            }
            DeviceTopic::TwinPatchReported { rid, base_version } => {
                let base_version = base_version.unwrap_or(0);
                Ok(self.on_patch(rid, base_version, &publish.payload, ack))
            }
            DeviceTopic::MethodResponse { status, rid } => {
                let mut effects = self.acknowledge(ack);
                let payload = publish.payload;
                effects.push(Effect::Answered {
                    rid,
                    status,
                    payload,
                });
                Ok(effects)
            }
        }
    }

    fn on_patch(
        &mut self,
        rid: String,
        base_version: u64,
        payload: &Bytes,
        ack: Option<NonZeroU16>,
    ) -> Vec<Effect> {
        let Ok(patch_json) = String::from_utf8(payload.to_vec()) else {
            let mut effects = self.acknowledge(ack);
            let problem = "the patch is no UTF-8; it must be a JSON object";
            effects.push(Effect::Refuse { rid, problem });
            return effects;
        };
        let mut effects = Vec::new();
        if let Some(packet_id) = ack {
            self.acks += 1;
            effects.push(Effect::AckPatch(packet_id));
        }
        effects.extend(self.requests.ask(Request::PatchReported {
            rid,
            patch_json,
            base_version,
            acknowledged: ack.is_some(),
        }));
        effects
    }

    fn remember(&mut self, before: &Subscriptions, reply: Packet) -> Vec<Effect> {
        let changed = self.persistent && *before != self.subscriptions;
        let keep = changed.then(|| self.subscriptions.clone());
        let follow = self.wants_changes() && !self.desired.is_subscribed();
        if keep.is_none() && !follow {
            return vec![Effect::Send(reply)];
        }
        let request = Request::Remember {
            keep,
            follow,
            reply,
        };
        self.requests.ask(request).into_iter().collect()
    }

    fn wants_changes(&self) -> bool {
        self.subscriptions.have(&FilterKind::DesiredChanges)
    }

    fn acknowledge(&mut self, ack: Option<NonZeroU16>) -> Vec<Effect> {
        let Some(packet_id) = ack else {
            return Vec::new();
        };
        self.acks += 1;
        vec![Effect::Ack(packet_id)]
    }
}

fn completed(sequence: Sequence) -> Effect {
    let outcome = Outcome::Completed;
    Effect::Remove { sequence, outcome }
}

#[cfg(test)]
mod tests;
