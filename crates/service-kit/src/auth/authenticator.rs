//! Finds out who makes a call, from what the call carries.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::auth::refusal::Refusal;
use crate::auth::token::SCHEME;
use crate::auth::{AdminToken, AuthConfig, AuthError, Principal, Role, Via};
use crate::secret::Secret;

/// Knows who is who.
#[derive(Debug, Default)]
pub(super) struct Authenticator {
    tokens: Vec<(AdminToken, Principal)>,
}

impl Authenticator {
    /// Reads the configuration; `token` is the service's own.
    pub(super) fn new(token: Option<&Secret>, config: &AuthConfig) -> Result<Self, AuthError> {
        let mut tokens = Vec::new();
        if let Some(token) = token {
            let roles = config.token_roles.iter().copied();
            let principal = Principal::new(&config.token_name, roles, Via::Token);
            tokens.push((AdminToken::new(token.clone())?, principal));
        }
        if let Some(token) = &config.service_token {
            let principal = Principal::new("service", [Role::Service], Via::Token);
            tokens.push((AdminToken::new(token.clone())?, principal));
        }
        Ok(Self { tokens })
    }

    /// True if nobody has to prove anything.
    pub(super) fn is_off(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Who makes a call with these headers.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Refusal> {
        if self.is_off() {
            return Ok(Principal::local());
        }
        let Some(given) = bearer(headers) else {
            return Err(Refusal::Missing {
                wanted: "send the header `authorization: Bearer <token>`".to_owned(),
            });
        };
        // Every token is compared, so that the time does not tell which one was nearly right.
        let mut found = None;
        for (token, principal) in &self.tokens {
            if token.matches(given) {
                found = Some(principal);
            }
        }
        found.cloned().ok_or(Refusal::WrongToken)
    }
}

/// The token of the `authorization` header, if there is one. RFC 9110: the name of the scheme is
/// not case-sensitive.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, given) = value.split_at_checked(SCHEME.len())?;
    scheme
        .eq_ignore_ascii_case(SCHEME.as_bytes())
        .then_some(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";
    const OURS: &str = "fedcba9876543210";

    fn authenticator() -> Authenticator {
        let config = AuthConfig {
            token_name: "ops".to_owned(),
            token_roles: vec![Role::Operator],
            service_token: Some(Secret::new(OURS)),
        };
        Authenticator::new(Some(&Secret::new(TOKEN)), &config).expect("usable tokens")
    }

    fn who(header: Option<&str>) -> Result<String, Refusal> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().expect("a header value"));
        }
        let principal = authenticator().authenticate(&headers)?;
        Ok(format!("{} {}", principal.name, principal.role_names()))
    }

    #[test]
    fn each_token_is_its_principal_and_no_other_is_anybody() {
        let right = format!("Bearer {TOKEN}");
        assert_eq!(who(Some(&right)), Ok("ops operator".to_owned()));
        let other_case = right.replace('B', "b");
        assert_eq!(who(Some(&other_case)), Ok("ops operator".to_owned()));
        let ours = format!("Bearer {OURS}");
        assert_eq!(who(Some(&ours)), Ok("service service".to_owned()));
        let wrong = Err(Refusal::WrongToken);
        assert_eq!(who(Some("Bearer 0123456789abcdeX")), wrong);
        assert_eq!(who(Some("Bearer ")), wrong);
        for nothing in [None, Some("Basic abc"), Some("Bearer")] {
            assert!(
                matches!(who(nothing), Err(Refusal::Missing { .. })),
                "{nothing:?}"
            );
        }
    }

    #[test]
    fn with_nothing_configured_whoever_calls_may_everything() {
        let off = Authenticator::new(None, &AuthConfig::default()).expect("nothing to refuse");
        assert!(off.is_off());
        let principal = off.authenticate(&HeaderMap::new());
        assert_eq!(principal, Ok(Principal::local()));
    }
}
