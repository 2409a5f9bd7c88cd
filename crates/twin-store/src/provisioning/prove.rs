//! Whether a device that registers belongs to an enrolment.
//!
//! Keys are open here for as long as it takes; nothing of them goes into errors or logs.

use iot_hub::{RegistrationId, SasToken, SymmetricKey, Thumbprints};
use jiff::Timestamp;
use service_kit::error::chain;
use service_kit::tls::authorities::{Authorities, common_name};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::{Attestation, Enrollment};
use crate::secrets::{Sealer, SecretError};
use crate::store::ProvisioningKind;

/// What a device shows.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// A shared access signature.
    Token(SasToken),
    /// The certificates of a handshake in DER form, its own first.
    Chain(Vec<Vec<u8>>),
}

/// With what a device has proven itself: what it will connect with.
#[derive(Debug, Clone)]
pub(crate) enum Credentials {
    /// Its two keys, base64.
    Keys(Zeroizing<String>, Zeroizing<String>),
    /// Thumbprints of its certificates.
    Thumbprints(String, Option<String>),
}

/// An enrolment that a device belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Proven {
    pub(crate) enrollment: Enrollment,
    pub(crate) credentials: Credentials,
}

/// Who registers, and with what.
pub(crate) struct Claim<'a> {
    pub(crate) id_scope: &'a str,
    pub(crate) registration: &'a RegistrationId,
    pub(crate) proof: &'a Proof,
}

/// The first of some enrolments that a device belongs to; none: it has proven nothing.
///
/// # Errors
/// It belongs to none that can be read, and the keys of one cannot be opened.
pub(crate) fn prove(
    sealer: &Sealer,
    enrollments: Vec<Enrollment>,
    claim: &Claim<'_>,
    now: Timestamp,
) -> Result<Option<Proven>, SecretError> {
    let mut unopened = None;
    for enrollment in enrollments {
        match credentials(sealer, &enrollment, claim, now) {
            Ok(None) => {}
            Ok(Some(credentials)) => {
                return Ok(Some(Proven {
                    enrollment,
                    credentials,
                }));
            }
            // Another group's device is not to suffer for it.
            Err(error) => {
                warn!(
                    enrollment = enrollment.name(),
                    error = chain(&error),
                    "keys of an enrolment cannot be opened"
                );
                unopened = Some(error);
            }
        }
    }
    unopened.map_or(Ok(None), Err)
}

/// What a device of this enrolment connects with, if the claim proves that it is one.
fn credentials(
    sealer: &Sealer,
    enrollment: &Enrollment,
    claim: &Claim<'_>,
    now: Timestamp,
) -> Result<Option<Credentials>, SecretError> {
    match (&enrollment.attestation, claim.proof) {
        (Attestation::Keys { .. }, Proof::Token(token)) => {
            let Some((primary, secondary)) = keys(sealer, enrollment, claim.registration)? else {
                return Ok(None);
            };
            let wanted = claim.registration.resource(claim.id_scope);
            if let Err(error) = token.verify(&wanted, &[&primary, &secondary], now) {
                debug!(enrollment = enrollment.name(), %error, "a token is not of this enrolment");
                return Ok(None);
            }
            let keys = Credentials::Keys(primary.to_base64(), secondary.to_base64());
            Ok(Some(keys))
        }
        (Attestation::Thumbprints { primary, secondary }, Proof::Chain(chain)) => {
            let shown = chain.first().map(|own| Thumbprints::of(own));
            let is_one = shown.is_some_and(|shown| {
                shown.are(primary) || secondary.as_ref().is_some_and(|other| shown.are(other))
            });
            Ok(is_one.then(|| Credentials::Thumbprints(primary.clone(), secondary.clone())))
        }
        (Attestation::Authorities(pem), Proof::Chain(chain)) => {
            Ok(signed(enrollment, pem, chain, claim.registration, now))
        }
        (Attestation::Keys { .. }, Proof::Chain(_))
        | (Attestation::Thumbprints { .. } | Attestation::Authorities(_), Proof::Token(_)) => {
            Ok(None)
        }
    }
}

/// The thumbprint of a device whose certificate one of the authorities signed for its name.
fn signed(
    enrollment: &Enrollment,
    pem: &str,
    certificates: &[Vec<u8>],
    registration: &RegistrationId,
    now: Timestamp,
) -> Option<Credentials> {
    let own = certificates.first()?;
    let named = common_name(own)?;
    if !named.eq_ignore_ascii_case(registration.as_str()) {
        return None;
    }
    let verified =
        Authorities::parse(pem).and_then(|authorities| authorities.signed(certificates, now));
    if let Err(error) = verified {
        debug!(
            enrollment = enrollment.name(),
            error = chain(&error),
            "a certificate is not of this enrolment"
        );
        return None;
    }
    // The hub knows the device by this certificate; with the next one it registers again.
    let thumbprint = Thumbprints::of(own).sha256().to_owned();
    Some(Credentials::Thumbprints(thumbprint, None))
}

/// The keys that a device has by an enrolment: of one device the enrolment's own, of a group derived
/// from them, so that the group's own open nothing. None if it has no keys.
///
/// # Errors
/// They cannot be opened.
pub(crate) fn keys(
    sealer: &Sealer,
    enrollment: &Enrollment,
    registration: &RegistrationId,
) -> Result<Option<(SymmetricKey, SymmetricKey)>, SecretError> {
    let Attestation::Keys { primary, secondary } = &enrollment.attestation else {
        return Ok(None);
    };
    let owner = enrollment.owner();
    let open = |sealed| -> Result<SymmetricKey, SecretError> {
        let text = sealer.open_sealed(&owner, sealed)?;
        let key = SymmetricKey::parse(&text).map_err(|_| SecretError::Open)?;
        Ok(match enrollment.kind {
            ProvisioningKind::Group => key.derive(registration),
            ProvisioningKind::Individual | ProvisioningKind::Scope => key,
        })
    };
    Ok(Some((open(primary)?, open(secondary)?)))
}

#[cfg(test)]
mod tests;
