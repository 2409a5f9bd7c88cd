//! Reads an entry of a telemetry message into a value, or says what is wrong with it.

use jiff::Timestamp;
use posture::fold::{SessionChange, SessionNotice};
use posture::{AgentBatch, LaneEpoch, MessageBatch, MessageKey, SecurityEvent};
use wire::agent::v1 as agent;
use wire::bus::v1 as proto;
use wire::bus::v1::telemetry_entry;
use wire::{InvalidField, events, names, time};

use crate::apply::telemetry::{Content, Entry};

/// Reads an entry of a message.
pub(super) fn read(
    sequence: u64,
    index: usize,
    entry: proto::TelemetryEntry,
) -> Result<Entry, InvalidField> {
    let received_at = time::required("receive_time", entry.receive_time)?;
    let content = match entry.content {
        Some(telemetry_entry::Content::Batch(batch)) => {
            Content::Batch(read_batch(batch, received_at)?)
        }
        Some(telemetry_entry::Content::Session(notice)) => Content::Session(SessionNotice {
            session_id: notice.session_id,
            change: if notice.connected {
                SessionChange::Connected
            } else {
                SessionChange::Disconnected
            },
            agent_version: said(notice.agent_version),
            run: said(notice.run),
            access_policy: said(notice.access_policy),
            model_id: said(notice.model_id).filter(|id| iot_hub::mqtt::is_model_id(id)),
            at: received_at,
        }),
        Some(telemetry_entry::Content::SecurityMessage(message)) => {
            Content::Message(read_message(message, received_at)?)
        }
        None => {
            return Err(InvalidField::new(
                "content",
                "is absent or of a kind unknown here",
            ));
        }
    };
    Ok(Entry {
        sequence,
        index,
        key: names::identity_from_ids(&entry.device_id, &entry.module_id)?,
        generation_id: entry.generation_id,
        received_at,
        trace_parent: said(entry.trace_parent),
        content,
    })
}

/// A text that may be left out.
fn said(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn read_batch(
    batch: proto::AdmittedBatch,
    received_at: Timestamp,
) -> Result<AgentBatch, InvalidField> {
    let epoch: LaneEpoch = batch
        .epoch
        .parse()
        .map_err(|error| InvalidField::new("batch.epoch", error))?;
    let lane = events::lane_from_wire("batch.lane", batch.lane)?;
    let events = read_events("batch.events", batch.events)?;
    Ok(AgentBatch {
        lane,
        epoch,
        events,
        rejected_sequences: batch.rejected_sequences,
        dropped_by_agent: batch.dropped_total,
        settled_through: batch.settled_through,
        received_at,
    })
}

fn read_message(
    message: proto::SecurityMessage,
    received_at: Timestamp,
) -> Result<MessageBatch, InvalidField> {
    Ok(MessageBatch {
        key: MessageKey::new(message.key),
        events: read_events("security_message.events", message.events)?,
        rejected: message.rejected,
        received_at,
    })
}

fn read_events(
    field: &str,
    list: Vec<agent::SecurityEvent>,
) -> Result<Vec<SecurityEvent>, InvalidField> {
    list.into_iter()
        .enumerate()
        .map(|(index, event)| {
            events::event_from_wire(event)
                .map_err(|error| error.within(&format!("{field}[{index}]")))
        })
        .collect()
}
