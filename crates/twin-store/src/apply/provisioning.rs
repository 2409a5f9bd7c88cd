//! Decisions on provisioning: enrolments are made, changed and removed; devices are made by them.

use jiff::Timestamp;
use serde_json::json;
use twin::{DeviceId, IdentityKey, ModuleId, TwinPatch};

use super::devices::{Authenticate, NewDevice, NewIdentity, changed, create_device};
use super::twins::{Conditions, Form, OperatorWrite, write};
use super::{AuditEvent, Cause, ChangeKind, Mode, Overlay, Weight};
use crate::error::Error;
use crate::provisioning::{
    Attestation, Enrollment, ProvisioningError, Reprovision, key_of, scope_row, unprintable,
};
use crate::record::{EnrolledBy, Provisioned, Record};
use crate::store::{
    GROUPS_MAX, ProvisioningKey, ProvisioningKind, ProvisioningRow, ProvisioningWrite,
};

mod adoption;

use adoption::{look_at_adopted, may_have};

/// Makes an enrolment.
///
/// # Errors
/// The id is taken, or there are as many groups as there may be.
pub fn create(
    overlay: &mut Overlay,
    enrollment: &Enrollment,
    mode: Mode,
    now: Timestamp,
    cause: &Cause,
) -> Result<(), Error> {
    let mut enrollment = enrollment.clone();
    look_at_adopted(overlay, &[], &mut enrollment, now)?;
    let row = print(&enrollment)?;
    if overlay.provisioning(&row.key)?.is_some() {
        return Err(ProvisioningError::Exists(enrollment.name()).into());
    }
    if row.key.kind == ProvisioningKind::Group && overlay.groups() >= GROUPS_MAX {
        return Err(ProvisioningError::TooManyGroups {
            allowed: GROUPS_MAX,
        }
        .into());
    }
    if mode == Mode::Write {
        overlay.audit(event(&enrollment, "enrollment.create", cause));
        overlay.put_provisioning(ProvisioningWrite::Put(row));
    }
    Ok(())
}

/// Changes an enrolment as `change` does, and answers it.
///
/// # Errors
/// There is none, its etag is another, or `change` refuses.
pub fn update(
    overlay: &mut Overlay,
    (key, name): (&ProvisioningKey, &str),
    change: impl FnOnce(&mut Enrollment) -> Result<(), Error>,
    expected_etag: Option<&str>,
    mode: Mode,
    now: Timestamp,
    cause: &Cause,
) -> Result<Enrollment, Error> {
    let mut enrollment = find(overlay, key, name)?;
    check_etag(&enrollment, expected_etag)?;
    let adopted = enrollment.adopts.clone();
    change(&mut enrollment)?;
    look_at_adopted(overlay, &adopted, &mut enrollment, now)?;
    enrollment.etag = enrollment.etag.next();
    enrollment.updated_at = now;
    if mode == Mode::Write {
        overlay.audit(event(&enrollment, "enrollment.update", cause));
        let row = print(&enrollment)?;
        overlay.put_provisioning(ProvisioningWrite::Put(row));
    }
    Ok(enrollment)
}

/// Removes an enrolment; also one that is damaged, as long as no etag is asked of it.
///
/// # Errors
/// There is none, or its etag is another.
pub fn delete(
    overlay: &mut Overlay,
    (key, name): (&ProvisioningKey, &str),
    expected_etag: Option<&str>,
    mode: Mode,
    cause: &Cause,
) -> Result<(), Error> {
    match find(overlay, key, name) {
        Ok(enrollment) => check_etag(&enrollment, expected_etag)?,
        Err(Error::Damaged(_)) if expected_etag.is_none() => {}
        Err(error) => return Err(error),
    }
    if mode == Mode::Write {
        overlay.audit(AuditEvent {
            device: None,
            actor: cause.actor.to_string(),
            action: "enrollment.delete",
            resource: name.to_owned(),
            detail: json!({}),
            trace_parent: cause.trace_parent.clone(),
        });
        overlay.put_provisioning(ProvisioningWrite::Remove(key.clone()));
    }
    Ok(())
}

/// The hub's id scope: the one that there is, or this one, which is then kept for good.
///
/// # Errors
/// There is one, and it cannot be read.
pub fn ensure_scope(overlay: &mut Overlay, fresh: String, cause: &Cause) -> Result<String, Error> {
    if let Some(row) = overlay.provisioning(&ProvisioningKey::scope())? {
        return Ok(crate::provisioning::read_scope(row)?);
    }
    let row = scope_row(&fresh).map_err(unprintable)?;
    overlay.audit(AuditEvent {
        device: None,
        actor: cause.actor.to_string(),
        action: "provisioning.scope",
        resource: "provisioning".to_owned(),
        detail: json!({ "idScope": fresh }),
        trace_parent: cause.trace_parent.clone(),
    });
    overlay.put_provisioning(ProvisioningWrite::Put(row));
    Ok(fresh)
}

/// Whether a record has certain credentials: they are sealed, and opened elsewhere.
pub type HasCredentials = Box<dyn FnOnce(&Record) -> Result<bool, Error> + Send>;

/// A device that has proven to belong to an enrolment.
pub struct Registering {
    /// The enrolment, as it was when the proof was looked at.
    pub enrollment: Enrollment,
    /// The enrolment of this device alone, which there must not be if it registers with a group.
    pub instead: Option<ProvisioningKey>,
    /// As it calls itself.
    pub registration_id: String,
    /// The device to make or find.
    pub device: DeviceId,
    /// Names this registration.
    pub operation_id: String,
    /// What it is made of, should it not exist.
    pub new_device: NewIdentity,
    /// What its security module is made of, if it is to have one.
    pub new_module: Option<NewIdentity>,
    /// Whether a record has the credentials that were proven.
    pub has_credentials: HasCredentials,
    /// Gives them to a record.
    pub authenticate: Authenticate,
}

/// Makes the device of an enrolment, or finds it, and answers its record.
///
/// # Errors
/// The enrolment changed meanwhile; somebody else has the device's id; the hub is full.
pub fn register(
    overlay: &mut Overlay,
    asked: Registering,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let row = print(&asked.enrollment)?;
    let is_as_proven = overlay.provisioning(&row.key)? == Some(&row);
    let is_overruled = match &asked.instead {
        Some(key) => overlay.provisioning(key)?.is_some(),
        None => false,
    };
    if !is_as_proven || is_overruled {
        return Err(Error::Overtaken);
    }
    let key = IdentityKey::new_device(asked.device.clone());
    match overlay.find(&key)?.cloned() {
        None => first(overlay, asked, now, cause),
        Some(record) => again(overlay, record, asked, now, cause),
    }
}

fn first(
    overlay: &mut Overlay,
    asked: Registering,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let security_module = asked.new_module;
    let new = NewDevice {
        device: asked.device,
        identity: asked.new_device,
        security_module,
    };
    let mut record = create_device(overlay, new, Mode::Write, now, cause)?;
    let event = AuditEvent::on(
        &record.key,
        "device.provision",
        json!({
            "enrollment": asked.enrollment.name(),
            "registrationId": asked.registration_id,
        }),
        cause,
    );
    overlay.audit(event);
    record.identity.provisioned = Some(Provisioned {
        registration_id: asked.registration_id,
        enrollment: enrolled_by(&asked.enrollment),
        group: None,
        operation_id: asked.operation_id,
        was_reset: false,
        count: 1,
        first_at: now,
        last_at: now,
    });
    let changes = [ChangeKind::Created];
    Ok(overlay.put(record, &changes, Weight::Fact, cause).clone())
}

fn again(
    overlay: &mut Overlay,
    record: Record,
    asked: Registering,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let key = record.key.clone();
    let before = record.identity.provisioned.clone();
    let is_its_own = match &before {
        Some(before) => {
            let (one, other) = (&before.registration_id, &asked.registration_id);
            one.eq_ignore_ascii_case(other) && may_have(overlay, before, &asked.enrollment)?
        }
        None => false,
    };
    let has_credentials = (asked.has_credentials)(&record)?;
    // Who has the device's credentials could connect as it anyhow; nobody else takes it over.
    if !is_its_own && !has_credentials {
        return Err(ProvisioningError::DeviceTaken {
            device: asked.device.to_string(),
        }
        .into());
    }
    let policy = asked.enrollment.reprovision;
    let is_reset = policy == Reprovision::Reset && before.is_some();
    let record = if is_reset {
        begin_anew(overlay, &key, &asked.new_device.sections, now, cause)?
    } else {
        record
    };
    let mut record = record;
    let mut changes = Vec::new();
    let mut weight = Weight::Routine;
    if !has_credentials && policy != Reprovision::Never {
        record.identity.authentication = (asked.authenticate)(&record)?;
        changed(&mut record, now);
        changes.push(ChangeKind::Identity);
        weight = Weight::Fact;
    }
    if is_reset || !changes.is_empty() || before.is_none() {
        let detail = json!({
            "enrollment": asked.enrollment.name(),
            "formerEnrollment": before.as_ref().map(|before| &before.enrollment.name),
            "registrationId": asked.registration_id,
            "authenticationChanged": !changes.is_empty(),
            "twinReset": is_reset,
        });
        overlay.audit(AuditEvent::on(&key, "device.provision", detail, cause));
    }
    let group = match asked.enrollment.kind {
        ProvisioningKind::Individual => before.as_ref().and_then(group_of),
        ProvisioningKind::Group | ProvisioningKind::Scope => None,
    };
    record.identity.provisioned = Some(Provisioned {
        registration_id: asked.registration_id,
        enrollment: enrolled_by(&asked.enrollment),
        group,
        operation_id: asked.operation_id,
        was_reset: is_reset,
        count: before
            .as_ref()
            .map_or(0, |before| before.count)
            .saturating_add(1),
        first_at: before.map_or(now, |before| before.first_at),
        last_at: now,
    });
    Ok(overlay.put(record, &changes, weight, cause).clone())
}

/// The group that a device came by, also before it had an enrolment of its own.
fn group_of(before: &Provisioned) -> Option<EnrolledBy> {
    let is_of_group =
        key_of(&before.enrollment.name).is_some_and(|key| key.kind == ProvisioningKind::Group);
    if is_of_group {
        Some(before.enrollment.clone())
    } else {
        before.group.clone()
    }
}

fn enrolled_by(enrollment: &Enrollment) -> EnrolledBy {
    EnrolledBy {
        name: enrollment.name(),
        generation: Some(enrollment.generation_id.clone()),
    }
}

/// The tags and the desired section of a twin become those that its enrolment has it begin with.
fn begin_anew(
    overlay: &mut Overlay,
    key: &IdentityKey,
    beginning: &TwinPatch,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let anew = OperatorWrite {
        form: Form::Replace,
        sections: TwinPatch {
            tags: Some(beginning.tags.clone().unwrap_or_default()),
            desired: Some(beginning.desired.clone().unwrap_or_default()),
        },
        conditions: Conditions::default(),
        mode: Mode::Write,
        action: "twin.replace",
    };
    write(overlay, key, &anew, now, cause)
}

fn find(overlay: &Overlay, key: &ProvisioningKey, name: &str) -> Result<Enrollment, Error> {
    let row = overlay.provisioning(key)?;
    let row = row.ok_or_else(|| ProvisioningError::NotFound(name.to_owned()))?;
    Ok(Enrollment::read(row)?)
}

fn check_etag(enrollment: &Enrollment, expected: Option<&str>) -> Result<(), Error> {
    let actual = enrollment.etag.to_string();
    match expected {
        Some(expected) if expected != actual => Err(ProvisioningError::Etag {
            name: enrollment.name(),
            expected: expected.to_owned(),
            actual,
        }
        .into()),
        Some(_) | None => Ok(()),
    }
}

fn print(enrollment: &Enrollment) -> Result<ProvisioningRow, Error> {
    enrollment.row().map_err(unprintable)
}

fn event(enrollment: &Enrollment, action: &'static str, cause: &Cause) -> AuditEvent {
    let attestation = match &enrollment.attestation {
        Attestation::Keys { .. } => "symmetricKey",
        Attestation::Thumbprints { .. } | Attestation::Authorities(_) => "x509",
    };
    AuditEvent {
        device: None,
        actor: cause.actor.to_string(),
        action,
        resource: enrollment.name(),
        detail: json!({
            "status": enrollment.status.as_str(),
            "attestation": attestation,
            "device": enrollment.device.as_ref().map(DeviceId::as_str),
            "adopts": enrollment.adopted_names(),
            "etag": enrollment.etag.to_string(),
        }),
        trace_parent: cause.trace_parent.clone(),
    }
}

/// The key of the security module of a device.
pub fn security_module(device: &DeviceId) -> IdentityKey {
    IdentityKey::new_module(device.clone(), ModuleId::security())
}

#[cfg(test)]
mod tests;
