//! Who may make which call: the hub's shared access policies, and bearer tokens, which twin-store
//! judges itself (spec iot-hub-twins §5).

use access_policies::{AccessPolicies, AccessPolicy};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use iot_hub::{SasResource, SasToken};
use jiff::Timestamp;
use service_kit::secret::Secret;

use crate::error::ApiError;
use crate::route::Route;

mod bearer;

pub(crate) use bearer::{Bearer, Bearers};

/// Who makes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Somebody with a key of this policy. What it may do was checked here.
    Policy(String),
    /// Somebody with this token. Who that is, and what it may do, twin-store finds out.
    Bearer(Secret),
}

/// What a request shows of its caller.
#[derive(Debug)]
pub(crate) enum Shown<'a> {
    /// A good signature by a key of this policy.
    Policy(&'a AccessPolicy),
    /// A bearer token, which nobody has looked at yet.
    Bearer(Secret),
}

/// Finds out who makes a call. Whoever cannot prove it is refused, whatever the call is.
pub(crate) fn shown<'a>(
    policies: &'a AccessPolicies,
    headers: &HeaderMap,
    path: &str,
    now: Timestamp,
) -> Result<Shown<'a>, ApiError> {
    let header = headers.get(AUTHORIZATION).ok_or_else(|| {
        ApiError::unauthorized(
            "the header Authorization is missing; want a SharedAccessSignature or a Bearer token",
        )
    })?;
    let header = header
        .to_str()
        .map_err(|_| ApiError::unauthorized("the header Authorization is not readable"))?;
    if let Some((scheme, token)) = header.split_once(' ')
        && scheme.eq_ignore_ascii_case("bearer")
    {
        return Ok(Shown::Bearer(Secret::new(token.trim())));
    }
    let refused = |error: iot_hub::SasError| ApiError::unauthorized(error.to_string());
    let token = SasToken::parse(header).map_err(refused)?;
    let name = token.policy().ok_or_else(|| {
        ApiError::unauthorized(
            "the token names no policy (skn); keys of devices do not open this API",
        )
    })?;
    let policy = policies.named(name);
    // An unknown policy and a wrong key are told alike: names of policies are nobody's business.
    let keys = policy.map(AccessPolicy::keys).unwrap_or_default();
    // The host does not count: the key is this hub's alone, whatever name it was reached by.
    let wanted = SasResource::of_path(token.resource().host(), path);
    token.verify(&wanted, &keys, now).map_err(refused)?;
    policy
        .map(Shown::Policy)
        .ok_or_else(|| refused(iot_hub::SasError::WrongSignature))
}

/// Refuses what a policy does not allow.
pub(crate) fn allow(policy: &AccessPolicy, route: &Route) -> Result<(), ApiError> {
    let rights = route.rights();
    if rights.iter().any(|right| policy.allows(*right)) {
        return Ok(());
    }
    let wanted: Vec<&str> = rights.iter().map(|right| right.name()).collect();
    Err(ApiError::forbidden(format!(
        "the policy `{}` may not make this call; it needs {}",
        policy.name(),
        wanted.join(" or ")
    )))
}

#[cfg(test)]
mod tests;
