//! Certificates that an authority of the operator has signed: who they say their owner is.
//!
//! It is decided with the CONNECT and never in the handshake, so that a device is told (CONNACK)
//! what it would take for a broken network. Lists of revoked certificates are not consulted, as in
//! IoT Hub: an identity is disabled in the registry.

use jiff::Timestamp;
use service_kit::tls::authorities::{Authorities, common_name, ends_at};
use twin::IdentityKey;

use crate::auth::AuthError;

/// Certificates of a chain that are looked at; there are three or four.
const CHAIN_MAX: usize = 10;

/// Whether a chain that was shown proves an identity: one of the authorities has signed it, it is for
/// now, and its common name is the identity's.
/// Answers when it ends.
pub(super) fn check(
    authorities: &Authorities,
    identity: &IdentityKey,
    chain: &[Vec<u8>],
    now: Timestamp,
) -> Result<Timestamp, AuthError> {
    let not_signed = |problem: String| AuthError::NotSigned {
        identity: identity.clone(),
        problem,
    };
    if chain.len() > CHAIN_MAX {
        let problem = format!("at most {CHAIN_MAX} certificates are looked at");
        return Err(not_signed(problem));
    }
    let Some(until) = chain.first().and_then(|own| ends_at(own)) else {
        return Err(not_signed("it cannot be read".to_owned()));
    };
    check_time(identity, until, now)?;
    authorities
        .signed(chain, now)
        .map_err(|error| not_signed(error.to_string()))?;
    // Only now: what nobody has signed may say anything.
    let found = chain.first().and_then(|own| common_name(own));
    if found.as_deref() != Some(identity.to_string().as_str()) {
        return Err(AuthError::WrongCommonName {
            identity: identity.clone(),
            found: found.map(|name| crate::text::shorten(name, 256)),
        });
    }
    Ok(until)
}

/// Whether a certificate's time is over.
pub(super) fn check_time(
    identity: &IdentityKey,
    until: Timestamp,
    now: Timestamp,
) -> Result<(), AuthError> {
    if now < until {
        return Ok(());
    }
    Err(AuthError::CertificateExpired {
        identity: identity.clone(),
        ended_at: until,
    })
}
