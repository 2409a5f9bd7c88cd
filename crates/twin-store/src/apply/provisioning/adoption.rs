//! Whose a device is that has registered before: its enrolment's, and after that one's end of the group
//! that an operator has it adopt.

use jiff::Timestamp;

use super::super::Overlay;
use crate::error::Error;
use crate::provisioning::{Adopted, Enrollment, Seen, key_of};
use crate::record::{EnrolledBy, Provisioned};
use crate::store::ProvisioningKind;

/// Whether a device that registered before is an enrolment's own. Registration ids are no secrets, and
/// whoever has one group's key can prove any of them: it opens that group's devices alone, and those
/// that an operator has it adopt, once the enrolment that they came by is no more. An enrolment of the
/// device alone is an operator's word that it may have it, and after its end the device is its former
/// group's again, or of whoever adopts that one's; that it has ended was seen to before.
pub(super) fn may_have(
    overlay: &Overlay,
    before: &Provisioned,
    by: &Enrollment,
) -> Result<bool, Error> {
    let (name, generation) = (by.name(), by.generation_id.as_str());
    if by.kind == ProvisioningKind::Individual {
        return Ok(true);
    }
    for former in std::iter::once(&before.enrollment).chain(&before.group) {
        if former.is(&name, generation) {
            return Ok(true);
        }
        let is_meant = |adopted: &Adopted| adopted.is(former, before.last_at);
        if by.adopts.iter().any(is_meant) && is_gone(overlay, former)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an enrolment is no more; another may have its name.
fn is_gone(overlay: &Overlay, known: &EnrolledBy) -> Result<bool, Error> {
    let Some(key) = key_of(&known.name) else {
        return Ok(true);
    };
    match overlay.provisioning(&key)? {
        None => Ok(true),
        Some(row) => Ok(!known.is(&known.name, &Enrollment::read(row)?.generation_id)),
    }
}

/// Notes what there is of the enrolments that a group is to adopt, but of those that it did before.
pub(super) fn look_at_adopted(
    overlay: &Overlay,
    before: &[Adopted],
    enrollment: &mut Enrollment,
    now: Timestamp,
) -> Result<(), Error> {
    for adopted in &mut enrollment.adopts {
        let key = adopted.key();
        let known = before.iter().find(|known| known.key() == key);
        if let Some(known) = known {
            adopted.seen.clone_from(&known.seen);
            continue;
        }
        let row = match &key {
            Some(key) => overlay.provisioning(key)?,
            None => None,
        };
        let present = row.map(Enrollment::read).transpose()?;
        adopted.seen = Some(Seen {
            generation: present.map(|present| present.generation_id),
            at: now,
        });
    }
    Ok(())
}
