//! Decisions on what was pushed to a device: its answer, its silence, its drift, and what policies
//! leave alone on it.

use jiff::{SignedDuration, Timestamp};
use posture::configuration::{Acknowledgement, Transition};
use posture::{FrozenPath, Timeline};
use twin::{IdentityKey, Version, Writer};

use super::twins::notify;
use super::{Cause, ChangeKind, Overlay, Weight};
use crate::error::Error;
use crate::record::{Record, TwinText};

/// Records the agent's answer to a desired version, and answers the timeline of the loop that it
/// closes, if it closes one. A repeated or outdated answer changes nothing.
pub fn acknowledge(
    overlay: &mut Overlay,
    key: &IdentityKey,
    answer: &Acknowledgement,
    cause: &Cause,
) -> Result<Option<Timeline>, Error> {
    let mut record = overlay.get(key)?.clone();
    match record.posture.configuration.acknowledged(answer) {
        Transition::Changed => {
            record.posture.recommend();
            let timeline = record.posture.configuration.timeline;
            let cause = Cause {
                timeline,
                ..cause.clone()
            };
            overlay.put(
                record,
                &[ChangeKind::ConfigurationState],
                Weight::Fact,
                &cause,
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

/// Marks the push to a connected device as timed out if it has not answered in time; answers whether
/// it did.
pub fn time_out(
    overlay: &mut Overlay,
    key: &IdentityKey,
    within: SignedDuration,
    now: Timestamp,
) -> Result<bool, Error> {
    let mut record = overlay.get(key)?.clone();
    let agent = &record.posture.agent;
    // Of a section that nobody has written yet a device is asked nothing.
    if !agent.connected || record.twin.desired.version == Version::FIRST {
        return Ok(false);
    }
    let connected_at = agent.connected_at;
    let configuration = &mut record.posture.configuration;
    match configuration.timed_out(connected_at, within, now) {
        Transition::Changed => {}
        Transition::Unchanged | Transition::NeverDesired => return Ok(false),
    }
    let cause = Cause {
        cause: "timeout".to_owned(),
        trace_parent: configuration.trace_parent.clone(),
        ..Cause::default()
    };
    let changes = [ChangeKind::ConfigurationState];
    overlay.put(record, &changes, Weight::Fact, &cause);
    Ok(true)
}

/// What was done about a device that does not run on what it had applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Its settings were pushed again.
    Pushed,
    /// The policy service is asked whether they may be, since settings of policies are among them: they may
    /// be of one that must change nothing now.
    Asked,
}

/// Whether policies or configurations have set anything; then it is theirs to say what is pushed.
pub fn is_of_policies(record: &Record) -> bool {
    let metadata = &record.twin.desired.metadata;
    metadata.contains("policy:") || metadata.contains(Writer::CONFIGURATION)
}

/// Does what is due for a connected device that does not run on what it had applied, if it is time; answers
/// what that was.
pub fn push_again(
    overlay: &mut Overlay,
    key: &IdentityKey,
    first: SignedDuration,
    now: Timestamp,
) -> Result<Option<Again>, Error> {
    let record = overlay.get(key)?;
    let configuration = &record.posture.configuration;
    let asks = is_of_policies(record);
    let due = if asks {
        configuration.ask_due(first)
    } else {
        configuration.push_due(first)
    };
    if due.is_none_or(|due| due > now) || !record.posture.agent.connected {
        return Ok(None);
    }
    if !asks {
        push(overlay, key, now)?;
        return Ok(Some(Again::Pushed));
    }
    let mut record = record.clone();
    record.posture.configuration.ask(now);
    let cause = Cause {
        cause: "drift".to_owned(),
        ..Cause::default()
    };
    let changes = [ChangeKind::ConfigurationState];
    overlay.put(record, &changes, Weight::Fact, &cause);
    Ok(Some(Again::Asked))
}

/// Pushes the settings again, as the policy service says that they may be, if it was asked and nothing came of
/// that yet; answers whether it did.
pub fn push_asked(overlay: &mut Overlay, key: &IdentityKey, now: Timestamp) -> Result<bool, Error> {
    let posture = &overlay.get(key)?.posture;
    if !posture.configuration.is_asked() || !posture.agent.connected {
        return Ok(false);
    }
    push(overlay, key, now)?;
    Ok(true)
}

fn push(overlay: &mut Overlay, key: &IdentityKey, now: Timestamp) -> Result<(), Error> {
    let mut record = overlay.get(key)?.clone();
    let configuration = &record.posture.configuration;
    let twin = record.twin.parse(key)?;
    let write = twin
        .repeat_desired(&configuration.drift.properties, now)
        .map_err(|source| Error::twin(key, source))?;
    record.twin = TwinText::print(&write.twin);
    let version = write.twin.desired.version().get();
    record.posture.configuration.pushed_again(version, now);
    record.posture.recommend();
    let cause = Cause {
        cause: "drift".to_owned(),
        ..Cause::default()
    };
    overlay.put(record, &[ChangeKind::Desired], Weight::Fact, &cause);
    notify(overlay, key, &write);
    Ok(())
}

/// Says in the posture which paths policies leave alone; false if it says so already.
pub fn tell_frozen(
    overlay: &mut Overlay,
    key: &IdentityKey,
    frozen: Vec<FrozenPath>,
    cause: &Cause,
) -> Result<bool, Error> {
    let record = overlay.get(key)?;
    if record.posture.configuration.frozen == frozen {
        return Ok(false);
    }
    let mut record = record.clone();
    record.posture.configuration.frozen = frozen;
    let changes = [ChangeKind::ConfigurationState];
    overlay.put(record, &changes, Weight::Fact, cause);
    Ok(true)
}
