//! Decisions on enrolment: whether a token lets a device in, and what is made for it.

use jiff::Timestamp;
use serde_json::json;
use twin::{DeviceId, IdentityKey, ModuleId};

use super::devices::{NewDevice, NewIdentity, create_device, create_module};
use super::{AuditEvent, Cause, Mode, Overlay};
use crate::error::Error;
use crate::hex;
use crate::record::{Authentication, Record, Status};
use crate::store::{EnrollmentState, EnrollmentToken, EnrollmentUse, TokenHash};

/// Leaves a new token to be written; of the token itself only its hash is known here.
pub fn add_token(overlay: &mut Overlay, token: EnrollmentToken, cause: &Cause) {
    /// Bytes of the hash that name the token: enough to find it, too few to be one.
    const SHOWN: usize = 8;
    let name = hex::text(&token.hash[..SHOWN]);
    overlay.audit(AuditEvent {
        device: token.device.clone(),
        actor: cause.actor.to_string(),
        action: "enrollment_token.create",
        resource: format!("enrollmentTokens/{name}"),
        detail: json!({
            "device": token.device.as_ref().map(DeviceId::as_str),
            "expiresAt": token.expires_at.to_string(),
            "maxUses": token.uses_max,
        }),
        trace_parent: cause.trace_parent.clone(),
    });
    overlay.add_token(token);
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
/// would open every old one, and only if it proves itself by keys, which are what is handed out.
///
/// # Errors
/// The token opens nothing, or not this device.
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
        None if parent.is_some() => {
            create_module(overlay, &key, new_module, Mode::Write, now, cause)?
        }
        None => {
            let new = NewDevice {
                device: device.clone(),
                identity: new_device,
                security_module: Some(new_module),
            };
            create_device(overlay, new, Mode::Write, now, cause)?;
            overlay.get(&key)?.clone()
        }
    };
    let detail = json!({ "generation": module.identity.generation_id });
    overlay.audit(AuditEvent::on(&key, "module.enroll", detail, cause));
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
    if module
        .is_some_and(|module| !matches!(module.identity.authentication, Authentication::Sas { .. }))
    {
        return denied("its security module does not authenticate by keys");
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

#[cfg(test)]
mod tests;
