//! Callers for whom a service of ours calls, such as the gateway for a back end that has shown a key of
//! a shared access policy: twin-store cannot check that key, and who checks it says whose it was.
//!
//! It is a name for history and audit and nothing else: what the call may do is what the service may
//! that makes it. Believed is only who may write in the name of somebody else anyway.

use http::{HeaderMap, HeaderValue};

use crate::auth::refusal::Refusal;
use crate::auth::{Permission, Principal};

/// Longest name: it is kept with every entry of the audit log.
const NAME_MAX: usize = 128;

/// The header that says for whom a call is made, as metadata of gRPC.
pub const ON_BEHALF_OF: &str = "x-twinward-on-behalf-of";

/// Who calls, seen from here: whoever the service calls for, if it says so and may.
pub(super) fn principal(said_by: Principal, headers: &HeaderMap) -> Result<Principal, Refusal> {
    let Some(value) = headers.get(ON_BEHALF_OF) else {
        return Ok(said_by);
    };
    let name = name(value).unwrap_or("somebody without a readable name");
    if !said_by.may(Permission::TwinsWriteAs) {
        return Err(Refusal::PermissionMissing {
            principal: said_by,
            permission: Permission::TwinsWriteAs,
            action: format!("call in the name of {name}"),
        });
    }
    Ok(Principal {
        name: name.to_owned(),
        ..said_by
    })
}

fn name(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    (1..=NAME_MAX).contains(&text.len()).then_some(text)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::auth::{Role, Via};

    fn headers(name: &[u8]) -> HeaderMap {
        let value = HeaderValue::from_bytes(name).expect("a value");
        HeaderMap::from_iter([(HeaderName::from_static(ON_BEHALF_OF), value)])
    }

    fn gateway(roles: &[Role]) -> Principal {
        Principal::new("gateway", roles.iter().copied(), Via::Token)
    }

    #[test]
    fn a_service_names_for_whom_it_calls_and_gains_nothing_by_it() {
        let said_by = gateway(&[Role::Service]);
        let named = principal(said_by.clone(), &headers(b"sas/owner")).expect("a service");
        assert_eq!(
            (named.name.as_str(), &named.roles),
            ("sas/owner", &said_by.roles)
        );
        let own = principal(said_by.clone(), &HeaderMap::new()).expect("nothing was said");
        assert_eq!(own, said_by);
    }

    #[test]
    fn others_are_refused_rather_than_taken_for_themselves() {
        let refused = principal(gateway(&[Role::Admin]), &headers(b"root"));
        let text = refused.expect_err("an admin is no service").to_string();
        assert!(text.contains("call in the name of root"), "{text}");
        assert!(text.contains("twins.write_as"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_no_name() {
        for odd in [&b""[..], b"\xff\xfe", &[b'a'; 129]] {
            let named = principal(gateway(&[Role::Service]), &headers(odd)).expect("a service");
            assert_eq!(named.name, "somebody without a readable name");
        }
    }
}
