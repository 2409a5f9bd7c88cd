//! Decisions on twins: writes of operators, devices and policies, and the answers of agents.

use jiff::Timestamp;
use posture::Timeline;
use posture::configuration::{Acknowledgement, Transition};
use twin::twin::PolicyApplied;
use twin::{
    Etag, IdentityKey, LostLeaf, Map, PolicyWrite, Stamp, TwinPatch, TwinWrite, Version, Writer,
};

use super::{Cause, ChangeKind, Overlay, Weight};
use crate::error::Error;
use crate::record::{Record, TwinText};

/// Merges into tags and desired.
pub fn patch(
    overlay: &mut Overlay,
    key: &IdentityKey,
    patch: &TwinPatch,
    by: Writer,
    expected: Option<Etag>,
    now: Timestamp,
    cause: Cause,
) -> Result<Record, Error> {
    let mut record = overlay.get(key)?.clone();
    let twin = record.twin.parse(key)?;
    let stamp = Stamp { at: now, by };
    let write = twin
        .patch(patch, &stamp, expected)
        .map_err(|source| Error::twin(key, source))?;
    let Some(write) = write else {
        return Ok(record);
    };
    let mut changes = Vec::new();
    if write.twin.tags.version() != twin.tags.version() {
        changes.push(ChangeKind::Tags);
    }
    set_twin(&mut record, &write, now, &cause, &mut changes);
    // The engine stamps what is committed; this copy is the answer.
    record.updated_at = now;
    overlay.put(record.clone(), &changes, Weight::Fact, cause);
    Ok(record)
}

/// Merges what the device says of itself, and answers the section's new version.
pub fn patch_reported(
    overlay: &mut Overlay,
    key: &IdentityKey,
    patch: &Map,
    expected: Option<Version>,
    now: Timestamp,
    cause: Cause,
) -> Result<Version, Error> {
    let mut record = overlay.get(key)?.clone();
    let twin = record.twin.parse(key)?;
    let twin = twin
        .patch_reported(patch, now, expected)
        .map_err(|source| Error::twin(key, source))?;
    record.twin = TwinText::print(&twin);
    overlay.put(record, &[ChangeKind::Reported], Weight::Fact, cause);
    Ok(twin.reported.version())
}

/// What policies made of a twin.
#[derive(Debug, Clone, PartialEq)]
pub struct PoliciesApplied {
    /// False: it held already.
    pub changed: bool,
    /// Of the desired section, afterwards.
    pub desired_version: Version,
    /// Leaves that were not written.
    pub lost: Vec<LostLeaf>,
}

/// Makes the desired section hold exactly these settings of policies.
pub fn apply_policies(
    overlay: &mut Overlay,
    key: &IdentityKey,
    writes: &[PolicyWrite],
    expected: Option<Version>,
    now: Timestamp,
    cause: Cause,
) -> Result<PoliciesApplied, Error> {
    let mut record = overlay.get(key)?.clone();
    let twin = record.twin.parse(key)?;
    let PolicyApplied { write, lost } = twin
        .apply_policies(writes, now, expected)
        .map_err(|source| Error::twin(key, source))?;
    let Some(write) = write else {
        let desired_version = twin.desired.version();
        return Ok(PoliciesApplied {
            changed: false,
            desired_version,
            lost,
        });
    };
    let mut changes = Vec::new();
    set_twin(&mut record, &write, now, &cause, &mut changes);
    let desired_version = record.twin.desired.version;
    overlay.put(record, &changes, Weight::Fact, cause);
    Ok(PoliciesApplied {
        changed: true,
        desired_version,
        lost,
    })
}

/// Records the agent's answer to a desired version, and answers the timeline of the loop that it
/// closes, if it closes one. A repeated or outdated answer changes nothing.
pub fn acknowledge(
    overlay: &mut Overlay,
    key: &IdentityKey,
    answer: &Acknowledgement,
    cause: Cause,
) -> Result<Option<Timeline>, Error> {
    let mut record = overlay.get(key)?.clone();
    match record.posture.configuration.acknowledged(answer) {
        Transition::Changed => {
            let timeline = record.posture.configuration.timeline;
            let cause = Cause { timeline, ..cause };
            overlay.put(
                record,
                &[ChangeKind::ConfigurationState],
                Weight::Fact,
                cause,
            );
            Ok(Some(timeline))
        }
        Transition::Unchanged => Ok(None),
        Transition::NeverDesired => Err(Error::NeverDesired {
            key: key.clone(),
            version: answer.version,
        }),
    }
}

/// Puts an accepted write into the record, and a changed desired section on its way to the agent.
fn set_twin(
    record: &mut Record,
    write: &TwinWrite,
    now: Timestamp,
    cause: &Cause,
    changes: &mut Vec<ChangeKind>,
) {
    record.twin = TwinText::print(&write.twin);
    if write.notification.is_some() {
        record.posture.configuration.desired_changed(
            write.twin.desired.version().get(),
            now,
            cause.timeline,
            cause.trace_parent.clone(),
        );
        changes.push(ChangeKind::Desired);
    }
}

#[cfg(test)]
mod tests;
