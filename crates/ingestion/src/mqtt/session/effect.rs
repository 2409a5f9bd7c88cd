//! What a session decides: effects, and requests that others have to answer.

use std::num::NonZeroU16;

use bus::Sequence;
use bytes::Bytes;
use rmqtt_codec::v3::Packet;

use crate::mqtt::message::DeviceMessage;
use crate::mqtt::subscriptions::Subscriptions;

/// What the loop has to do.
#[derive(Debug, PartialEq)]
pub(in crate::mqtt) enum Effect {
    /// Make a message durable, then call [`Session::on_stored`](super::Session::on_stored) and acknowledge it if it wants that.
    Store {
        /// The message.
        message: DeviceMessage,
        /// What to acknowledge.
        ack: Option<NonZeroU16>,
    },
    /// Acknowledge in turn, after what is being stored; then call [`Session::on_stored`](super::Session::on_stored).
    Ack(NonZeroU16),
    /// The same, once it is known what became of the patch that is asked for next, in the order of
    /// patches: stored, or refused for good.
    AckPatch(NonZeroU16),
    /// Ask, then call [`Session::on_twin_answer`](super::Session::on_twin_answer),
    /// [`Session::on_no_twin_answer`](super::Session::on_no_twin_answer) or
    /// [`Session::on_remembered`](super::Session::on_remembered).
    Ask(Request),
    /// Refuse a request at once.
    Refuse {
        /// The request's id.
        rid: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Send a packet.
    Send(Packet),
    /// Give an answer of the device to whoever called the method.
    Answered {
        /// Of the call.
        rid: String,
        /// As the device chose it.
        status: i32,
        /// What it sent.
        payload: Bytes,
    },
    /// Say that a method was not called, since the device has not subscribed to it.
    Decline {
        /// Of the call.
        rid: String,
    },
    /// Remove a message from the device's queue.
    Remove {
        /// Which.
        sequence: Sequence,
        /// Why.
        outcome: Outcome,
    },
}

/// What others have to answer.
#[derive(Debug, PartialEq)]
pub(in crate::mqtt) enum Request {
    /// Read both sections.
    GetTwin {
        /// The request's id.
        rid: String,
    },
    /// Merge into reported.
    PatchReported {
        /// The request's id.
        rid: String,
        /// The patch.
        patch_json: String,
        /// The version that must be the present one; 0: any.
        base_version: u64,
        /// Whether an [`Effect::AckPatch`] waits for what becomes of it.
        acknowledged: bool,
    },
    /// Keep the subscriptions, and find out where the desired section stands.
    Remember {
        /// To keep; `None`: what is kept is the same, or nothing is to be.
        keep: Option<Subscriptions>,
        /// Whether the desired section is followed from now on.
        follow: bool,
        /// The answer for the device, once it is done.
        reply: Packet,
    },
}

impl Request {
    /// What it takes while it waits; the others are small.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::PatchReported { patch_json, .. } => patch_json.len(),
            Self::GetTwin { .. } | Self::Remember { .. } => 0,
        }
    }
}

/// Why a message is no longer in a device's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mqtt) enum Outcome {
    /// The device acknowledged it.
    Completed,
    /// It went out at `QoS` 0.
    Sent,
    /// It went out as often as it may.
    InVain,
    /// It ended, or was no message.
    Expired,
}

impl Outcome {
    /// For metrics.
    pub(in crate::mqtt) fn label(self) -> &'static str {
        match self {
            Self::Completed => "COMPLETED",
            Self::Sent => "SENT",
            Self::InVain => "IN_VAIN",
            Self::Expired => "EXPIRED",
        }
    }
}

/// Whether what a device subscribes to outlives its connection (clean session 0) or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mqtt) enum Persistence {
    /// It does.
    Kept,
    /// It does not.
    Clean,
}
