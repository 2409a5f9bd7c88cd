//! Tokens of the hub's shared access policies: a program that has a key of one with the right
//! `DeviceConnect` connects as any identity that its token's resource covers, as in IoT Hub; that the
//! identity proves itself by a certificate otherwise does not count.

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
    if policies.is_some_and(|policies| !policies.is_there()) {
        return Err(AuthError::NoPolicies);
    }
    let policies = policies.map(Followed::current);
    let policy = policies.as_ref().and_then(|policies| policies.named(name));
    let policy = policy.filter(|policy| policy.allows(Right::DeviceConnect));
    // An unknown policy, one without the right, and a wrong key are told alike: names of policies are
    // nobody's business, and keys of those that open other doors are not here to be compared.
    let keys = policy.map(AccessPolicy::keys).unwrap_or_default();
    token.verify(wanted, &keys, now)?;
    match policy {
        Some(_) => Ok(()),
        None => Err(SasError::WrongSignature.into()),
    }
}
