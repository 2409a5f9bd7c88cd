//! Decisions on the registry: create, change and remove identities.

use jiff::Timestamp;
use posture::Posture;
use twin::{DeviceId, IdentityKey, ModuleId, Revision, Twin};

use super::{Cause, ChangeKind, Overlay, Weight};
use crate::error::Error;
use crate::record::{Authentication, Identity, Record, Status, TwinText};
use crate::secrets::Sealed;
use crate::store::{EnrollmentState, EnrollmentUse, TokenHash};

/// IoT Hub's limit (spec iot-hub-twins §2.6), so that a device's family loads in one read.
pub const MODULES_PER_DEVICE_MAX: usize = 50;

/// What a new identity is made of, beyond its key.
#[derive(Debug, Clone)]
pub struct NewIdentity {
    /// A UUID.
    pub generation_id: String,
    /// Whether it may connect.
    pub status: Status,
    /// Why.
    pub status_reason: String,
    /// Sealed primary key.
    pub primary_key: Sealed,
    /// Sealed secondary key.
    pub secondary_key: Sealed,
}

/// Makes a device and, if its identity is given, its security module.
pub fn create_device(
    overlay: &mut Overlay,
    device: &DeviceId,
    identity: NewIdentity,
    security_module: Option<NewIdentity>,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let key = IdentityKey::new_device(device.clone());
    if overlay.find(&key)?.is_some() {
        return Err(Error::AlreadyExists(key));
    }
    let record = new_record(key, identity, now);
    overlay.put(
        record.clone(),
        &[ChangeKind::Created],
        Weight::Fact,
        cause.clone(),
    );
    if let Some(identity) = security_module {
        let key = IdentityKey::new_module(device.clone(), ModuleId::security());
        let module = new_record(key, identity, now);
        overlay.put(module, &[ChangeKind::Created], Weight::Fact, cause.clone());
    }
    Ok(record)
}

/// Makes a module below a device, enabled or disabled as the device is.
pub fn create_module(
    overlay: &mut Overlay,
    key: &IdentityKey,
    mut identity: NewIdentity,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let device = overlay.get(&IdentityKey::new_device(key.device.clone()))?;
    identity.status = device.identity.status;
    if overlay.find(key)?.is_some() {
        return Err(Error::AlreadyExists(key.clone()));
    }
    if overlay.modules(&key.device).len() >= MODULES_PER_DEVICE_MAX {
        return Err(Error::TooManyModules {
            device: key.device.to_string(),
            allowed: MODULES_PER_DEVICE_MAX,
        });
    }
    let record = new_record(key.clone(), identity, now);
    overlay.put(
        record.clone(),
        &[ChangeKind::Created],
        Weight::Fact,
        cause.clone(),
    );
    Ok(record)
}

/// Enables or disables a device. Its modules are touched too, because they follow it.
pub fn set_status(
    overlay: &mut Overlay,
    device: &DeviceId,
    status: Status,
    reason: &str,
    expected_etag: Option<&str>,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let key = IdentityKey::new_device(device.clone());
    let mut record = overlay.get(&key)?.clone();
    check_etag(&record, expected_etag)?;
    record.identity.status = status;
    reason.clone_into(&mut record.identity.status_reason);
    record.identity.etag += 1;
    record.identity.updated_at = now;
    let mut modules = Vec::new();
    for key in overlay.modules(device) {
        // A damaged one opens no door anyway, and must not keep the device from being disabled.
        let Ok(module) = overlay.get(&key) else {
            continue;
        };
        let mut module = module.clone();
        module.identity.status = status;
        module.identity.etag += 1;
        module.identity.updated_at = now;
        modules.push(module);
    }
    overlay.put(
        record.clone(),
        &[ChangeKind::Status],
        Weight::Fact,
        cause.clone(),
    );
    for module in modules {
        overlay.put(module, &[ChangeKind::Status], Weight::Fact, cause.clone());
    }
    Ok(record)
}

/// Removes an identity, and with a device all its modules. A damaged one can be removed, too, as
/// long as no etag is asked of it.
pub fn delete(
    overlay: &mut Overlay,
    key: &IdentityKey,
    expected_etag: Option<&str>,
    cause: &Cause,
) -> Result<(), Error> {
    match overlay.find(key) {
        Ok(Some(record)) => check_etag(record, expected_etag)?,
        Ok(None) => return Err(Error::NotFound(key.clone())),
        Err(damaged) if expected_etag.is_some() => return Err(damaged),
        Err(_) => {}
    }
    if key.module.is_none() {
        for module in overlay.modules(&key.device) {
            overlay.remove(&module, cause.clone());
        }
    }
    overlay.remove(key, cause.clone());
    Ok(())
}

/// An agent asks for credentials with a token.
#[derive(Debug)]
pub struct Enrollment {
    /// Of the token's text.
    pub token: TokenHash,
    /// Which device asks.
    pub device: DeviceId,
    /// The agent's nonce.
    pub nonce: String,
    /// For the device, should it not exist.
    pub new_device: NewIdentity,
    /// For its security module, should it not exist.
    pub new_module: NewIdentity,
}

/// Lets a device in, making what is missing, and answers its security module.
///
/// A token lets a device in once. Who repeats the call with the nonce of then gets the same answer
/// (its first one may have been lost), as long as the module is there; nobody else does. A module
/// that exists is handed out only by a token that names its device, else a token for new devices
/// would open every old one.
pub fn enroll(
    overlay: &mut Overlay,
    enrollment: Enrollment,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let Enrollment {
        token,
        device,
        nonce,
        new_device,
        new_module,
    } = enrollment;
    let state = overlay.token(token, &device).ok_or(Error::TokenRefused)?;
    let device_key = IdentityKey::new_device(device.clone());
    let key = IdentityKey::new_module(device.clone(), ModuleId::security());
    let existing = overlay.find(&key)?.cloned();
    let parent = overlay.find(&device_key)?.cloned();
    admit(
        &state,
        &device,
        &nonce,
        parent.as_ref(),
        existing.as_ref(),
        now,
    )?;
    let module = match existing {
        Some(module) if state.nonce.is_some() => return Ok(module),
        Some(module) => module,
        None if parent.is_some() => create_module(overlay, &key, new_module, now, cause)?,
        None => {
            create_device(overlay, &device, new_device, Some(new_module), now, cause)?;
            overlay.get(&key)?.clone()
        }
    };
    overlay.enroll(EnrollmentUse {
        hash: token,
        device,
        nonce,
    });
    Ok(module)
}

/// Whether a token lets a device in.
fn admit(
    state: &EnrollmentState,
    device: &DeviceId,
    nonce: &str,
    parent: Option<&Record>,
    module: Option<&Record>,
    now: Timestamp,
) -> Result<(), Error> {
    let denied = |why| {
        Err(Error::EnrollmentDenied {
            device: device.to_string(),
            why,
        })
    };
    let token = &state.token;
    if token.expires_at <= now {
        return Err(Error::TokenRefused);
    }
    if token.device.as_ref().is_some_and(|only| only != device) {
        return denied("it is for another device");
    }
    if parent.is_some_and(|parent| parent.identity.status == Status::Disabled) {
        return denied("the device is disabled");
    }
    match &state.nonce {
        Some(known) if known != nonce => {
            denied("the device used it before, with another nonce; make a token for this device")
        }
        Some(_) if module.is_none() => {
            denied("the device used it before and was deleted since; make a new token")
        }
        None if state.uses >= token.uses_max => Err(Error::TokenRefused),
        None if token.device.is_none() && module.is_some() => {
            denied("it is enrolled already; make a token for this device")
        }
        Some(_) | None => Ok(()),
    }
}

fn new_record(key: IdentityKey, identity: NewIdentity, now: Timestamp) -> Record {
    let twin = Twin::new(now);
    let mut posture = Posture::default();
    // The first desired version counts as pushed, or its acknowledgement would be of a version
    // that was never desired.
    posture.configuration.desired_changed(
        twin.desired.version().get(),
        now,
        posture::Timeline::default(),
        None,
    );
    Record {
        key,
        identity: Identity {
            generation_id: identity.generation_id,
            etag: 1,
            status: identity.status,
            status_reason: identity.status_reason,
            status_updated_at: None,
            authentication: Authentication::Sas {
                primary: identity.primary_key,
                secondary: identity.secondary_key,
            },
            iot_edge: false,
            managed_by: String::new(),
            model_id: String::new(),
            created_at: now,
            updated_at: now,
        },
        twin: TwinText::print(&twin),
        posture,
        revision: Revision::ZERO,
        updated_at: now,
    }
}

fn check_etag(record: &Record, expected: Option<&str>) -> Result<(), Error> {
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
