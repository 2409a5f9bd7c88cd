//! Finds out who makes a call, from what the call carries.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::auth::certificate::{CertificateMap, Shown};
use crate::auth::oidc::Oidc;
use crate::auth::refusal::Refusal;
use crate::auth::token::SCHEME;
use crate::auth::{AdminToken, AuthConfig, AuthError, Insecure, Principal, Role, Via};
use crate::clock::SharedClock;
use crate::health::Health;
use crate::secret::Secret;
use crate::shutdown::ShutdownToken;

/// What callers may prove themselves with, as configured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credentials<'a> {
    /// The service's own token.
    pub(crate) token: Option<&'a Secret>,
    /// The rest.
    pub(crate) config: &'a AuthConfig,
    /// Whether the listener asks for client certificates.
    pub(crate) certificates: bool,
    /// Whether less safe ways are accepted.
    pub(crate) insecure: Insecure,
}

/// Knows who is who.
#[derive(Debug)]
pub(super) struct Authenticator {
    tokens: Vec<(AdminToken, Principal)>,
    oidc: Option<Oidc>,
    certificates: Option<CertificateMap>,
    clock: SharedClock,
}

impl Authenticator {
    /// Reads the configuration.
    pub(super) fn new(credentials: Credentials<'_>, clock: SharedClock) -> Result<Self, AuthError> {
        let Credentials { token, config, .. } = credentials;
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
        let certificates = if credentials.certificates {
            let map = CertificateMap::read(&config.certificates);
            Some(map.map_err(|error| AuthError::Setting {
                key: "certificates",
                problem: error.to_string(),
            })?)
        } else {
            None
        };
        Ok(Self {
            tokens,
            oidc: Oidc::new(config, credentials.insecure, clock.clone())?,
            certificates,
            clock,
        })
    }

    /// What must run beside the server, if anything.
    pub(super) fn upkeep(
        &self,
        shutdown: ShutdownToken,
        health: &Health,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let oidc = self.oidc.as_ref()?;
        Some(oidc.follow(shutdown, health))
    }

    /// True if nobody has to prove anything.
    pub(super) fn is_off(&self) -> bool {
        self.tokens.is_empty() && self.oidc.is_none() && self.certificates.is_none()
    }

    /// Who makes a call with these headers, over a connection whose client showed this
    /// certificate, if it showed one. A token goes before the certificate, which may be that
    /// of a proxy; a wrong token is not made good by a certificate.
    pub(super) async fn authenticate(
        &self,
        headers: &HeaderMap,
        shown: Option<&Shown>,
    ) -> Result<Principal, Refusal> {
        if self.is_off() {
            return Ok(Principal::local());
        }
        let Some(header) = headers.get(AUTHORIZATION) else {
            return match (&self.certificates, shown) {
                (Some(map), Some(shown)) => self.by_certificate(map, shown),
                (None, _) | (_, None) => Err(self.missing()),
            };
        };
        let given = bearer(header.as_bytes()).ok_or_else(|| self.missing())?;
        if let Some(principal) = self.by_token(given) {
            return Ok(principal);
        }
        match &self.oidc {
            Some(oidc) if Oidc::could_be(given) => oidc.principal(given).await,
            Some(_) | None => Err(Refusal::WrongToken),
        }
    }

    /// Whose certificate it is. It was good when it was shown, which may be long ago.
    fn by_certificate(&self, map: &CertificateMap, shown: &Shown) -> Result<Principal, Refusal> {
        if shown.until.is_some_and(|until| until <= self.clock.now()) {
            return Err(Refusal::CertificateExpired);
        }
        Ok(Principal {
            until: shown.until,
            ..map.principal(&shown.names)
        })
    }

    /// Whose configured token it is.
    fn by_token(&self, given: &[u8]) -> Option<Principal> {
        // Every token is compared, so that the time does not tell which one was nearly right.
        let mut found = None;
        for (token, principal) in &self.tokens {
            if token.matches(given) {
                found = Some(principal);
            }
        }
        found.cloned()
    }

    /// The refusal of a call that says nothing about its caller.
    fn missing(&self) -> Refusal {
        let tokens = !self.tokens.is_empty() || self.oidc.is_some();
        let token = "send the header `authorization: Bearer <token>`";
        let certificate = "show a client certificate";
        let wanted = match (tokens, self.certificates.is_some()) {
            (true | false, false) => token.to_owned(),
            (true, true) => format!("{token} or {certificate}"),
            (false, true) => certificate.to_owned(),
        };
        Refusal::Missing { wanted }
    }
}

/// The token in an `authorization` header. RFC 9110: the name of the scheme is not case-sensitive.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, given) = value.split_at_checked(SCHEME.len())?;
    scheme
        .eq_ignore_ascii_case(SCHEME.as_bytes())
        .then_some(given)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::clock::{ManualClock, SystemClock};

    const TOKEN: &str = "0123456789abcdef";
    const OURS: &str = "fedcba9876543210";

    fn config() -> AuthConfig {
        AuthConfig {
            token_name: "ops".to_owned(),
            token_roles: vec![Role::Operator],
            service_token: Some(Secret::new(OURS)),
            certificates: vec!["CN:policy=service".to_owned()],
            ..AuthConfig::default()
        }
    }

    async fn who(header: Option<&str>, names: Option<&[&str]>) -> Result<String, Refusal> {
        let credentials = Credentials {
            token: Some(&Secret::new(TOKEN)),
            config: &config(),
            certificates: true,
            insecure: Insecure::Refused,
        };
        let authenticator =
            Authenticator::new(credentials, SystemClock::shared()).expect("usable settings");
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().expect("a header value"));
        }
        let shown = names.map(|names| Shown {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            until: None,
        });
        let principal = authenticator.authenticate(&headers, shown.as_ref()).await?;
        Ok(format!("{} {}", principal.name, principal.role_names()))
    }

    #[tokio::test]
    async fn each_token_is_its_principal_and_no_other_is_anybody() {
        let right = format!("Bearer {TOKEN}");
        assert_eq!(who(Some(&right), None).await, Ok("ops operator".to_owned()));
        let other_case = right.replace('B', "b");
        let told = who(Some(&other_case), None).await;
        assert_eq!(told, Ok("ops operator".to_owned()));
        let ours = format!("Bearer {OURS}");
        assert_eq!(
            who(Some(&ours), None).await,
            Ok("service service".to_owned())
        );
        let wrong = Err(Refusal::WrongToken);
        // Something with two dots is no provider's token where there is no provider.
        for text in ["Bearer 0123456789abcdeX", "Bearer ", "Bearer a.b.c"] {
            assert_eq!(who(Some(text), None).await, wrong, "{text}");
        }
        for nothing in [None, Some("Basic abc"), Some("Bearer")] {
            let refused = who(nothing, None).await;
            assert!(
                matches!(refused, Err(Refusal::Missing { .. })),
                "{nothing:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_certificate_proves_who_sends_no_token() {
        let policy = Some(["CN:policy"].as_slice());
        assert_eq!(who(None, policy).await, Ok("CN:policy service".to_owned()));
        let other = Some(["CN:other"].as_slice());
        assert_eq!(who(None, other).await, Ok("CN:other ".to_owned()));
        let right = format!("Bearer {TOKEN}");
        assert_eq!(
            who(Some(&right), policy).await,
            Ok("ops operator".to_owned())
        );
        let wrong = who(Some("Bearer 0123456789abcdeX"), policy).await;
        assert_eq!(wrong, Err(Refusal::WrongToken), "it makes nothing good");
        let text = who(None, None).await.expect_err("nobody").to_string();
        assert!(
            text.contains("Bearer") && text.contains("certificate"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_certificate_is_good_until_its_end_however_long_its_connection_lasts() {
        let clock = ManualClock::at(Timestamp::from_second(1_800_000_000).expect("a time"));
        let credentials = Credentials {
            token: None,
            config: &config(),
            certificates: true,
            insecure: Insecure::Refused,
        };
        let authenticator =
            Authenticator::new(credentials, clock.clone()).expect("usable settings");
        let shown = Shown {
            names: vec!["CN:policy".to_owned()],
            until: Timestamp::from_second(1_800_000_001).ok(),
        };
        let headers = HeaderMap::new();
        let known = authenticator.authenticate(&headers, Some(&shown)).await;
        assert_eq!(known.expect("it is good").until, shown.until);
        clock.advance(std::time::Duration::from_secs(1));
        let refused = authenticator.authenticate(&headers, Some(&shown)).await;
        assert_eq!(refused, Err(Refusal::CertificateExpired));
    }

    #[tokio::test]
    async fn with_nothing_configured_whoever_calls_may_everything() {
        let credentials = Credentials {
            token: None,
            config: &AuthConfig::default(),
            certificates: false,
            insecure: Insecure::Refused,
        };
        let off =
            Authenticator::new(credentials, SystemClock::shared()).expect("nothing to refuse");
        assert!(off.is_off());
        let principal = off.authenticate(&HeaderMap::new(), None).await;
        assert_eq!(principal, Ok(Principal::local()));
    }
}
