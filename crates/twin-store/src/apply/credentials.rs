//! Decisions on keys: rotate them, seal them anew under another master key.

use jiff::Timestamp;
use serde_json::json;
use twin::IdentityKey;

use super::devices::{changed, check_etag};
use super::{AuditEvent, Cause, ChangeKind, Mode, Overlay, Weight};
use crate::error::Error;
use crate::record::{Authentication, Record};
use crate::secrets::Sealed;

/// What to do with the two keys of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The first is made anew.
    Primary,
    /// The second is made anew.
    Secondary,
    /// They change places.
    Swap,
}

impl Rotation {
    /// As the audit log has it.
    fn as_str(self) -> &'static str {
        match self {
            Rotation::Primary => "primary",
            Rotation::Secondary => "secondary",
            Rotation::Swap => "swap",
        }
    }
}

/// What is asked of the keys of an identity.
#[derive(Debug, Clone, Copy)]
pub struct Rotate<'a> {
    /// What to do with them.
    pub rotation: Rotation,
    /// What the etag of the identity must be.
    pub expected_etag: Option<&'a str>,
    /// Whether it is kept.
    pub mode: Mode,
}

/// Rotates the keys of an identity, and answers its record. `make` seals a fresh key for it.
///
/// # Errors
/// There is no such identity, its etag is another, or it does not prove itself by keys.
pub fn rotate(
    overlay: &mut Overlay,
    key: &IdentityKey,
    asked: Rotate<'_>,
    make: impl FnOnce(&Record) -> Result<Sealed, Error>,
    now: Timestamp,
    cause: &Cause,
) -> Result<Record, Error> {
    let Rotate {
        rotation,
        expected_etag,
        mode,
    } = asked;
    let mut record = overlay.get(key)?.clone();
    check_etag(&record, expected_etag)?;
    let Authentication::Sas { primary, secondary } = record.identity.authentication.clone() else {
        return Err(Error::NoKeys {
            key: key.clone(),
            authentication: record.identity.authentication.as_str(),
        });
    };
    let (primary, secondary) = match rotation {
        Rotation::Primary => (make(&record)?, secondary),
        Rotation::Secondary => (primary, make(&record)?),
        Rotation::Swap => (secondary, primary),
    };
    record.identity.authentication = Authentication::Sas { primary, secondary };
    changed(&mut record, now);
    if mode == Mode::Validate {
        return Ok(record);
    }
    let detail = json!({ "key": rotation.as_str() });
    overlay.audit(AuditEvent::on(key, "keys.rotate", detail, cause));
    let changes = [ChangeKind::Identity];
    Ok(overlay.put(record, &changes, Weight::Fact, cause).clone())
}

/// Puts the same keys of an identity, sealed anew, in the place of the old ones. It is no change
/// of the identity: its etag stays, and nobody is told. False: it was gone or other keys were set
/// meanwhile, and nothing is changed.
pub fn reseal(
    overlay: &mut Overlay,
    key: &IdentityKey,
    old: &Authentication,
    new: Authentication,
    cause: &Cause,
) -> bool {
    let Ok(Some(record)) = overlay.find(key) else {
        return false;
    };
    if record.identity.authentication != *old {
        return false;
    }
    let mut record = record.clone();
    record.identity.authentication = new;
    overlay.put(record, &[], Weight::Routine, cause);
    true
}

#[cfg(test)]
mod tests;
