//! What a batch of messages of `TWINS_{p}` asks for: the newest state of each twin, once.
//!
//! Pure. A twin that changed ten times within a batch is looked at once, as it is after the last
//! change; but the timeline is that of the event that came first, because somebody waits for it.

use std::collections::HashMap;

use bus::Sequence;
use bytes::Bytes;
use prost::Message as _;
use twin::IdentityKey;
use wire::bus::v1::{TwinChange, TwinChanges};
use wire::twin::v1::{Change, Timeline, Twin};

use crate::evaluate::Interest;
use crate::rejects::{Reason, Rejected};

/// A twin that changed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    /// As it is after the last change.
    pub twin: Twin,
    /// What any of the changes touched.
    pub changed: Interest,
    /// Of the first event among the changes.
    pub timeline: Timeline,
    /// The trace of that event, or of the last change.
    pub traceparent: String,
    /// The message with the last change: stream and sequence.
    pub source: String,
    from_event: bool,
}

/// What a batch asks for.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Each twin once, in the order of their first changes.
    pub candidates: Vec<Candidate>,
    /// Twins that are gone, with the revision in which they went; some may be there again.
    pub gone: Vec<(IdentityKey, u64)>,
    /// Messages that cannot be used.
    pub rejected: Vec<Rejected>,
    /// The message that last told that the store was restored from a backup: every twin is to be
    /// looked at.
    pub restored: Option<Sequence>,
}

/// Gathers the messages of a batch, in order.
pub(crate) fn gather<'a>(
    stream: &str,
    messages: impl IntoIterator<Item = (Sequence, &'a Bytes)>,
) -> Gathered {
    let mut found = Vec::<Option<Candidate>>::new();
    let mut places = HashMap::<String, usize>::new();
    let mut rejected = Vec::new();
    let mut gone = Vec::new();
    let mut restored = None;
    for (sequence, payload) in messages {
        let source = format!("{stream}/{sequence}");
        let changes = match TwinChanges::decode(payload.clone()) {
            Ok(message) => message.changes,
            Err(error) => {
                rejected.push(Rejected {
                    id: source.clone(),
                    source,
                    reason: Reason::Undecodable,
                    message: format!("is no TwinChanges: {error}"),
                    traceparent: None,
                    original: payload.clone(),
                });
                continue;
            }
        };
        for (index, change) in changes.into_iter().enumerate() {
            if change.restored {
                restored = Some(sequence);
                continue;
            }
            let source = format!("{source}/{index}");
            let deleted = change.deleted;
            if let Some(twin) = change.twin.as_ref().filter(|_| deleted) {
                // One without a name that can be read was never frozen.
                let key = wire::names::identity_from_ids(&twin.device_id, &twin.module_id);
                gone.extend(key.map(|key| (key, change.revision)));
            }
            let Some((name, candidate)) = candidate(change, source.clone()) else {
                rejected.push(Rejected {
                    id: source.clone(),
                    source,
                    reason: Reason::InvalidTwin,
                    message: "a change without a twin".to_owned(),
                    traceparent: None,
                    original: Bytes::new(),
                });
                continue;
            };
            match places.get(&name) {
                Some(place) if deleted => found[*place] = None,
                Some(place) => {
                    let before = found[*place].take();
                    found[*place] = Some(merge(before, candidate));
                }
                None if deleted => {}
                None => {
                    places.insert(name, found.len());
                    found.push(Some(candidate));
                }
            }
        }
    }
    Gathered {
        candidates: found.into_iter().flatten().collect(),
        gone,
        rejected,
        restored,
    }
}

fn candidate(change: TwinChange, source: String) -> Option<(String, Candidate)> {
    let changed = Interest::of_changes(
        change
            .changes
            .iter()
            .map(|code| Change::try_from(*code).unwrap_or_default()),
    );
    let mut twin = change.twin?;
    twin.revision = change.revision;
    // The echo of what we wrote carries the timeline of the loop before; only the fold of an
    // observation that was not answered yet starts a loop. (A session's beginning is folded, too,
    // but nobody observed anything: it must not hide the event that comes right behind it.)
    let event = change.timeline.filter(|times| {
        times.observe_time.is_some() && times.fold_time.is_some() && times.commit_time.is_none()
    });
    let candidate = Candidate {
        changed,
        timeline: event.unwrap_or_default(),
        traceparent: change.trace_parent,
        source,
        from_event: event.is_some(),
        twin,
    };
    Some((candidate.twin.name.clone(), candidate))
}

fn merge(before: Option<Candidate>, after: Candidate) -> Candidate {
    let Some(before) = before else { return after };
    let changed = before.changed.with(after.changed);
    if before.from_event {
        Candidate {
            timeline: before.timeline,
            traceparent: before.traceparent,
            from_event: true,
            changed,
            ..after
        }
    } else {
        Candidate { changed, ..after }
    }
}

#[cfg(test)]
mod tests;
