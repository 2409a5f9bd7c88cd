//! Tokens of the hub's shared access policies: a program that has a key of one with the right
//! `DeviceConnect` connects as any device that its token's resource covers, as in IoT Hub.

use access_policies::{AccessPolicy, Followed, Right};
use iot_hub::{SasError, SasResource, SasToken};
use jiff::Timestamp;

use super::AuthError;

/// That a token which names a policy was made with a key of it, is for this identity or what stands
/// above it, and that the policy opens this door.
pub(super) fn verify(
    policies: Option<&Followed>,
    name: &str,
    token: &SasToken,
    wanted: &SasResource,
    now: Timestamp,
) -> Result<(), AuthError> {
    let policies = policies.map(Followed::current);
    let policy = policies.as_ref().and_then(|policies| policies.named(name));
    // An unknown policy and a wrong key are told alike: names of policies are nobody's business.
    let keys = policy.map(AccessPolicy::keys).unwrap_or_default();
    token.verify(wanted, &keys, now)?;
    match policy {
        Some(policy) if policy.allows(Right::DeviceConnect) => Ok(()),
        Some(_) => Err(AuthError::PolicyForbids {
            policy: name.to_owned(),
        }),
        None => Err(SasError::WrongSignature.into()),
    }
}
