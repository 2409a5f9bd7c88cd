//! Decisions on twins: writes of operators, devices and policies, and the answers of agents.

use jiff::Timestamp;
use serde_json::json;
use twin::twin::PolicyApplied;
use twin::{
    ConfigurationStates, IdentityKey, LostLeaf, Map, PolicyWrite, SectionKind, Stamp, TwinError,
    TwinPatch, TwinWrite, Version,
};

use super::{AuditEvent, Cause, ChangeKind, Mode, Overlay, Weight, answers};
use crate::error::Error;
use crate::record::{Damaged, Record, TwinText};

/// How an operator's write treats what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// It merges into the sections given.
    Patch,
    /// The sections given become exactly what it says.
    Replace,
}

/// What must hold of a twin before an operator writes to it.
#[derive(Default)]
pub struct Conditions {
    /// Its etag, as the caller wrote it.
    pub etag: Option<String>,
    /// Version of its desired section.
    pub desired_version: Option<Version>,
    /// A condition on its content.
    pub only_if: Option<OnlyIf>,
}

/// A condition on the content of a twin.
pub struct OnlyIf {
    /// In the caller's words.
    pub text: String,
    /// Whether it holds.
    pub holds: Holds,
}

/// Whether something holds of a twin at a time.
pub type Holds = Box<dyn Fn(&Record, Timestamp) -> Result<bool, Damaged> + Send>;

impl OnlyIf {
    /// Refuses a write to a twin of which the condition does not hold.
    ///
    /// # Errors
    /// It does not hold, or the twin cannot be read.
    pub fn check(&self, record: &Record, now: Timestamp) -> Result<(), Error> {
        if (self.holds)(record, now)? {
            return Ok(());
        }
        Err(Error::ConditionFalse {
            key: record.key.clone(),
            condition: self.text.clone(),
        })
    }
}

impl Conditions {
    fn check(&self, record: &Record, now: Timestamp) -> Result<(), Error> {
        let key = &record.key;
        // Compared as text: one that we never wrote is one that does not match (spec 3.4).
        let actual = record.twin.etag.to_string();
        if let Some(expected) = &self.etag
            && *expected != actual
        {
            return Err(Error::TwinEtagMismatch {
                key: key.clone(),
                expected: expected.clone(),
                actual,
            });
        }
        let actual = record.twin.desired.version;
        if let Some(expected) = self.desired_version
            && expected != actual
        {
            let source = TwinError::VersionMismatch {
                section: SectionKind::Desired.path(),
                expected,
                actual,
            };
            return Err(Error::twin(key, source));
        }
        match &self.only_if {
            Some(only_if) => only_if.check(record, now),
            None => Ok(()),
        }
    }
}

/// A write of an operator.
pub struct OperatorWrite {
    /// Merge or replace.
    pub form: Form,
    /// The sections.
    pub sections: TwinPatch,
    /// What must hold before.
    pub conditions: Conditions,
    /// Whether it is kept.
    pub mode: Mode,
    /// What the audit log calls it.
    pub action: &'static str,
}

/// Writes tags and desired in the name of the cause's actor, and answers the record after it. There is no detection of writes that
/// change nothing: clients count on versions that rise (spec 3.2).
///
/// # Errors
/// A condition does not hold, or the write breaks rules; then nothing is changed.
pub fn write(
    overlay: &mut Overlay,
    key: &IdentityKey,
    write: &OperatorWrite,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let mut record = overlay.get(key)?.clone();
    write.conditions.check(&record, now)?;
    let twin = record.twin.parse(key)?;
    let stamp = Stamp {
        at: now,
        by: cause.actor.clone(),
    };
    let written = match write.form {
        Form::Patch => twin.patch(&write.sections, &stamp, None),
        Form::Replace => twin.replace(&write.sections, &stamp, None),
    };
    let written = written.map_err(|source| Error::twin(key, source))?;
    let Some(written) = written else {
        return Ok(record);
    };
    let mut changes = Vec::new();
    if written.twin.tags.version() != twin.tags.version() {
        changes.push(ChangeKind::Tags);
    }
    set_twin(&mut record, &written, now, cause, &mut changes);
    if write.mode == Mode::Validate {
        record.updated_at = now;
        return Ok(record);
    }
    let detail = json!({
        "tags": changes.contains(&ChangeKind::Tags),
        "desired": changes.contains(&ChangeKind::Desired),
        "version": record.twin.version.get(),
        "desiredVersion": record.twin.desired.version.get(),
    });
    overlay.audit(AuditEvent::on(key, write.action, detail, cause));
    let record = overlay.put(record, &changes, Weight::Fact, cause).clone();
    notify(overlay, key, &written);
    Ok(record)
}

/// What a device says of itself.
pub struct Report<'r> {
    /// Merged into its reported section.
    pub patch: &'r Map,
    /// The version that the section must have before; none: any.
    pub expected: Option<Version>,
    /// The newest version of the desired section that the device was told of; 0: nobody knows.
    pub told: u64,
}

/// Merges what the device says of itself, and answers the section's new version. What it says of its
/// configuration by that is heard, too.
///
/// # Errors
/// The expected version is another, or the patch breaks rules; then nothing is changed.
pub fn patch_reported(
    overlay: &mut Overlay,
    key: &IdentityKey,
    report: &Report<'_>,
    now: Timestamp,
    cause: &Cause,
) -> Result<Version, Error> {
    let mut record = overlay.get(key)?.clone();
    let twin = record.twin.parse(key)?;
    let twin = twin
        .patch_reported(report.patch, now, report.expected)
        .map_err(|source| Error::twin(key, source))?;
    record.twin = TwinText::print(&twin);
    let mut changes = vec![ChangeKind::Reported];
    let configuration = &mut record.posture.configuration;
    if answers::hear(configuration, &twin, report, now) {
        changes.push(ChangeKind::ConfigurationState);
        record.posture.recommend();
    }
    overlay.put(record, &changes, Weight::Fact, cause);
    Ok(twin.reported.version())
}

/// What the policy service wants of a twin.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// What policies and configurations set, in the order of precedence; none: it stays as it is.
    pub settings: Option<Vec<PolicyWrite>>,
    /// Where configurations stand; others are forgotten.
    pub configurations: ConfigurationStates,
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

/// Makes the desired section hold exactly these settings of policies, and notes where configurations
/// stand, in one commit.
///
/// # Errors
/// The desired section has another version, or the settings break its limits; then nothing is
/// changed.
pub fn apply_policies(
    overlay: &mut Overlay,
    key: &IdentityKey,
    wanted: &Wanted,
    expected: Option<Version>,
    now: Timestamp,
    cause: &Cause,
) -> Result<PoliciesApplied, Error> {
    let mut record = overlay.get(key)?.clone();
    let twin = record.twin.parse(key)?;
    let applied = match &wanted.settings {
        Some(writes) => twin.apply_policies(writes, now, expected),
        None => twin.expect_desired(expected).map(|()| PolicyApplied {
            write: None,
            lost: Vec::new(),
        }),
    };
    let PolicyApplied { write, lost } = applied.map_err(|source| Error::twin(key, source))?;
    let mut changes = Vec::new();
    if let Some(write) = &write {
        set_twin(&mut record, write, now, cause, &mut changes);
    }
    if record.configurations != wanted.configurations {
        record.configurations.clone_from(&wanted.configurations);
        changes.push(ChangeKind::Configurations);
    }
    let desired_version = record.twin.desired.version;
    let is_new = !changes.is_empty();
    if is_new {
        overlay.put(record, &changes, Weight::Fact, cause);
    }
    if let Some(write) = &write {
        notify(overlay, key, write);
    }
    Ok(PoliciesApplied {
        changed: is_new,
        desired_version,
        lost,
    })
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
        record.posture.recommend();
        changes.push(ChangeKind::Desired);
    }
}

/// Keeps what the device is to be told, if it is to be told anything.
pub(super) fn notify(overlay: &mut Overlay, key: &IdentityKey, write: &TwinWrite) {
    if let Some(notification) = &write.notification {
        // A document of JSON values is printable; without it the difference is told.
        if let Ok(printed) = serde_json::to_string(notification) {
            overlay.notify(key, printed);
        }
    }
}

#[cfg(test)]
mod tests;
