//! Decisions on the registry: create, change and remove identities.

use jiff::Timestamp;
use posture::Posture;
use serde_json::json;
use twin::{
    ConfigurationStates, DeviceId, IdentityKey, ModuleId, Revision, Stamp, Twin, TwinPatch,
};

use super::{AuditEvent, Cause, ChangeKind, Mode, Overlay, Weight};
use crate::error::Error;
use crate::record::{Authentication, Identity, IdentityEtag, Record, Status, TwinText};

/// IoT Hub's limit (spec iot-hub-twins §2.6), so that a device's family loads in one read.
pub const MODULES_PER_DEVICE_MAX: usize = 50;

/// What a new identity is made of, beyond its key.
#[derive(Debug, Clone)]
pub struct NewIdentity {
    /// A UUID.
    pub generation_id: String,
    /// Where its etags begin: at random, because an etag of a former generation must not match.
    pub etag: IdentityEtag,
    /// Whether it may connect; enabled on a module.
    pub status: Status,
    /// Why.
    pub status_reason: String,
    /// How it proves itself.
    pub authentication: Authentication,
    /// Whether it is an IoT Edge device; false on a module.
    pub iot_edge: bool,
    /// Who manages a module; empty on a device.
    pub managed_by: String,
    /// What its twin begins with.
    pub sections: TwinPatch,
}

/// A device to be made.
#[derive(Debug, Clone)]
pub struct NewDevice {
    /// Its id.
    pub device: DeviceId,
    /// What it is made of.
    pub identity: NewIdentity,
    /// For its security module, if that is to be made, too.
    pub security_module: Option<NewIdentity>,
}

/// Makes a device and, if its identity is given, its security module.
///
/// # Errors
/// The id is taken, the hub has all it may have, or the twin's beginning breaks rules.
pub fn create_device(
    overlay: &mut Overlay,
    new: NewDevice,
    mode: Mode,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let key = IdentityKey::new_device(new.device.clone());
    if overlay.find(&key)?.is_some() {
        return Err(Error::AlreadyExists(key));
    }
    overlay.admit(&key)?;
    let record = new_record(key, new.identity, now, cause)?;
    let module = match new.security_module {
        Some(identity) => {
            let key = IdentityKey::new_module(new.device, ModuleId::security());
            overlay.admit(&key)?;
            Some(new_record(key, identity, now, cause)?)
        }
        None => None,
    };
    if mode == Mode::Validate {
        return Ok(record);
    }
    let record = put_new(overlay, record, cause);
    if let Some(module) = module {
        put_new(overlay, module, cause);
    }
    Ok(record)
}

/// Makes a module below a device.
///
/// # Errors
/// There is no such device, the id is taken, or the device or the hub has all the modules it may
/// have.
pub fn create_module(
    overlay: &mut Overlay,
    key: &IdentityKey,
    identity: NewIdentity,
    mode: Mode,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    overlay.get(&IdentityKey::new_device(key.device.clone()))?;
    if overlay.find(key)?.is_some() {
        return Err(Error::AlreadyExists(key.clone()));
    }
    if overlay.modules(&key.device)?.len() >= MODULES_PER_DEVICE_MAX {
        return Err(Error::TooManyModules {
            device: key.device.to_string(),
            allowed: MODULES_PER_DEVICE_MAX,
        });
    }
    overlay.admit(key)?;
    let record = new_record(key.clone(), identity, now, cause)?;
    match mode {
        Mode::Validate => Ok(record),
        Mode::Write => Ok(put_new(overlay, record, cause)),
    }
}

/// Makes how an identity will prove itself of the record as it is: keys are sealed for the
/// identity and its generation, which only the record says.
pub type Authenticate = Box<dyn FnOnce(&Record) -> Result<Authentication, Error> + Send>;

/// What to change of a device.
#[derive(Default)]
pub struct DeviceUpdate {
    /// Whether it and its modules may connect, and why.
    pub status: Option<(Status, String)>,
    /// Why, if the status stays as it is.
    pub status_reason: Option<String>,
    /// How it proves itself.
    pub authentication: Option<Authenticate>,
    /// Whether it is an IoT Edge device.
    pub iot_edge: Option<bool>,
}

/// Changes a device. Its modules stay as they are, also if its status changes: whoever lets a module
/// in asks for the status of its device.
///
/// # Errors
/// There is no such device, or its etag is another.
pub fn update_device(
    overlay: &mut Overlay,
    device: &DeviceId,
    update: DeviceUpdate,
    expected_etag: Option<&str>,
    mode: Mode,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let key = IdentityKey::new_device(device.clone());
    let mut record = overlay.get(&key)?.clone();
    check_etag(&record, expected_etag)?;
    let mut changes = Vec::new();
    let is_authentication_set = update.authentication.is_some();
    if let Some(make) = update.authentication {
        record.identity.authentication = make(&record)?;
        changes.push(ChangeKind::Identity);
    }
    if let Some(iot_edge) = update.iot_edge {
        record.identity.iot_edge = iot_edge;
        changes.push(ChangeKind::Identity);
    }
    let status = update.status.or_else(|| {
        let reason = update.status_reason?;
        Some((record.identity.status, reason))
    });
    if let Some((status, reason)) = status {
        let identity = &mut record.identity;
        if identity.status != status || identity.status_reason != reason {
            identity.status_updated_at = Some(now);
        }
        identity.status = status;
        identity.status_reason = reason;
        changes.push(ChangeKind::Status);
    }
    changed(&mut record, now);
    if mode == Mode::Validate {
        return Ok(record);
    }
    let detail = json!({
        "status": record.identity.status.as_str(),
        "statusReason": record.identity.status_reason,
        "authentication": record.identity.authentication.as_str(),
        "authenticationChanged": is_authentication_set,
        "iotEdge": record.identity.iot_edge,
    });
    overlay.audit(AuditEvent::on(&key, "device.update", detail, cause));
    Ok(overlay.put(record, &changes, Weight::Fact, cause).clone())
}

/// What to change of a module.
#[derive(Default)]
pub struct ModuleUpdate {
    /// How it proves itself.
    pub authentication: Option<Authenticate>,
    /// Who manages it.
    pub managed_by: Option<String>,
}

/// Changes a module.
///
/// # Errors
/// There is no such module, or its etag is another.
pub fn update_module(
    overlay: &mut Overlay,
    key: &IdentityKey,
    update: ModuleUpdate,
    expected_etag: Option<&str>,
    mode: Mode,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let mut record = overlay.get(key)?.clone();
    check_etag(&record, expected_etag)?;
    if let Some(make) = update.authentication {
        record.identity.authentication = make(&record)?;
    }
    if let Some(managed_by) = update.managed_by {
        record.identity.managed_by = managed_by;
    }
    changed(&mut record, now);
    if mode == Mode::Validate {
        return Ok(record);
    }
    let detail = json!({
        "authentication": record.identity.authentication.as_str(),
        "managedBy": record.identity.managed_by,
    });
    overlay.audit(AuditEvent::on(key, "module.update", detail, cause));
    let changes = [ChangeKind::Identity];
    Ok(overlay.put(record, &changes, Weight::Fact, cause).clone())
}

/// Removes an identity, and with a device all its modules. A damaged one can be removed, too, as
/// long as no etag is asked of it.
///
/// # Errors
/// There is no such identity, or its etag is another.
pub fn delete(
    overlay: &mut Overlay,
    key: &IdentityKey,
    expected_etag: Option<&str>,
    mode: Mode,
    cause: &Cause,
) -> Result<(), Error> {
    match overlay.find(key) {
        Ok(Some(record)) => check_etag(record, expected_etag)?,
        Ok(None) => return Err(Error::NotFound(key.clone())),
        Err(damaged) if expected_etag.is_some() => return Err(damaged),
        Err(_) => {}
    }
    if mode == Mode::Validate {
        return Ok(());
    }
    let mut modules = Vec::new();
    if key.module.is_none() {
        modules = overlay.modules(&key.device)?;
    }
    let action = match key.module {
        None => "device.delete",
        Some(_) => "module.delete",
    };
    let detail = json!({ "modules": modules.len() });
    overlay.audit(AuditEvent::on(key, action, detail, cause));
    overlay.remove(key, cause);
    for module in modules {
        overlay.remove(&module, cause);
    }
    Ok(())
}

/// Writes a new record and notes it for the audit.
fn put_new(overlay: &mut Overlay, record: Record, cause: &Cause) -> Record {
    let (action, key) = match record.key.module {
        None => ("device.create", record.key.clone()),
        Some(_) => ("module.create", record.key.clone()),
    };
    let detail = json!({
        "generation": record.identity.generation_id,
        "status": record.identity.status.as_str(),
        "authentication": record.identity.authentication.as_str(),
        "iotEdge": record.identity.iot_edge,
    });
    overlay.audit(AuditEvent::on(&key, action, detail, cause));
    let changes = [ChangeKind::Created];
    overlay.put(record, &changes, Weight::Fact, cause).clone()
}

fn new_record(
    key: IdentityKey,
    identity: NewIdentity,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let mut twin = Twin::new(now);
    let stamp = Stamp {
        at: now,
        by: cause.actor.clone(),
    };
    let begun = twin
        .replace(&identity.sections, &stamp, None)
        .map_err(|source| Error::twin(&key, source))?;
    if let Some(begun) = begun {
        twin = begun.twin;
    }
    let mut posture = Posture::default();
    // The first desired version counts as pushed, or its acknowledgement would be of a version
    // that was never desired.
    posture.configuration.desired_changed(
        twin.desired.version().get(),
        now,
        posture::Timeline::default(),
        None,
    );
    Ok(Record {
        key,
        identity: Identity {
            generation_id: identity.generation_id,
            etag: identity.etag,
            status: identity.status,
            status_reason: identity.status_reason,
            status_updated_at: None,
            authentication: identity.authentication,
            iot_edge: identity.iot_edge,
            managed_by: identity.managed_by,
            model_id: String::new(),
            provisioned: None,
            created_at: now,
            updated_at: now,
        },
        twin: TwinText::print(&twin),
        posture,
        configurations: ConfigurationStates::new(),
        device_tags: None,
        revision: Revision::ZERO,
        updated_at: now,
    })
}

/// Counts a change of the identity.
pub(super) fn changed(record: &mut Record, now: Timestamp) {
    record.identity.etag = record.identity.etag.next();
    record.identity.updated_at = now;
    record.updated_at = now;
}

pub(super) fn check_etag(record: &Record, expected: Option<&str>) -> Result<(), Error> {
    let actual = record.identity.etag.to_string();
    match expected {
        Some(expected) if expected != actual => Err(Error::EtagMismatch {
            key: record.key.clone(),
            expected: expected.to_owned(),
            actual,
        }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
