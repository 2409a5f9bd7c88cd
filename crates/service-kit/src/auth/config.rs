//! What an operator says about who may call.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::auth::certificate::CertificateMap;
use crate::auth::oidc::{RoleMap, url_problem};
use crate::auth::{AdminToken, Insecure, Role};
use crate::config::{Problems, Validate};
use crate::secret::Secret;
use crate::units::Duration;

/// Who may call a gRPC API: the table `[auth]` of a service. With nothing set, and without the
/// service's `token`, authorisation is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// What the holder of the service's `token` is called in history and audit. Default `admin`.
    pub token_name: String,
    /// The roles of whoever holds the service's `token`: some of `reader`, `operator`, `admin`,
    /// `service`. Default `["admin", "service"]`, so that one token is enough for a small hub.
    #[serde(deserialize_with = "one_or_more")]
    pub token_roles: Vec<Role>,
    /// A second token, for our own services alone: its holder is called `service` and has the role
    /// `service`. At least 16 characters. Unset (default): there is none.
    pub service_token: Option<Secret>,
    /// Who shows which client certificate, as `NAME=ROLE` or `NAME=ROLE+ROLE`. A name is `CN:` and
    /// the common name, or `DNS:`, `URI:` or `EMAIL:` and an alternative name; the first name in
    /// the certificate that is listed decides. Needs the client authorities of the listener; a
    /// certificate that is not listed has no roles. Default none.
    #[serde(deserialize_with = "one_or_more")]
    pub certificates: Vec<String>,
    /// The OIDC provider whose tokens are accepted: the `iss` of its tokens, and the address where
    /// it describes itself. `https://…`; `http` only on this machine or with `allow_insecure`.
    /// Unset (default): no such tokens are accepted.
    pub oidc_issuer: Option<String>,
    /// What tokens must be meant for: one of these stands in their `aud`. Needed with
    /// `oidc_issuer`.
    #[serde(deserialize_with = "one_or_more")]
    pub oidc_audience: Vec<String>,
    /// Where the provider publishes its keys. Unset (default): where its description says.
    pub oidc_jwks_url: Option<String>,
    /// File with the provider's keys, for hubs that cannot reach it. Goes before `oidc_jwks_url`.
    /// Read again every `oidc_keys_refresh`. Unset (default): they are fetched.
    pub oidc_jwks_file: Option<PathBuf>,
    /// PEM file of the authority that signed the provider's certificate. Unset (default): the
    /// system's.
    pub oidc_ca_file: Option<PathBuf>,
    /// Where tokens name the bearer's roles: the name of a claim, or a path into claims
    /// (`realm_access.roles`). A list, or words with spaces between them. Default `roles`.
    pub oidc_roles_claim: String,
    /// Where tokens name the bearer, for history and audit. Default `sub`: other names may be
    /// given to somebody else one day.
    pub oidc_name_claim: String,
    /// What the provider's roles or groups mean here, as `GROUP=ROLE` or `GROUP=ROLE+ROLE`.
    /// Others mean nothing then. Default none: `reader`, `operator`, `admin` and `service` mean
    /// themselves.
    #[serde(deserialize_with = "one_or_more")]
    pub oidc_roles: Vec<String>,
    /// How far the provider's clock may be from ours. Default 30s.
    pub oidc_clock_skew: Duration,
    /// How often its keys are fetched, so that withdrawn ones are forgotten. Default 5min; new
    /// ones are fetched when a token names them.
    pub oidc_keys_refresh: Duration,
}

impl AuthConfig {
    /// True if somebody can prove itself by it, whatever the listener has beside it.
    pub(crate) fn is_set(&self) -> bool {
        self.service_token.is_some() || self.oidc_issuer.is_some()
    }

    /// Addresses that keys may not be fetched from.
    pub(crate) fn check_urls(&self, insecure: Insecure, problems: &mut Problems) {
        let fetched = self.oidc_jwks_file.is_none();
        let described = fetched && self.oidc_jwks_url.is_none();
        for (key, url, used) in [
            ("auth.oidc_issuer", &self.oidc_issuer, described),
            ("auth.oidc_jwks_url", &self.oidc_jwks_url, fetched),
        ] {
            if let Some(url) = url.as_deref().filter(|_| used)
                && let Some(problem) = url_problem(url, insecure)
            {
                problems.add(key, problem);
            }
        }
    }
}

/// One item, items with commas between them, or a list.
fn one_or_more<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    struct OneOrMore<T>(PhantomData<T>);

    impl<'de, T: DeserializeOwned> Visitor<'de> for OneOrMore<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text or a list of texts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            let items = text.split(',').map(str::trim).filter(|it| !it.is_empty());
            items
                .map(|it| T::deserialize(it.into_deserializer()))
                .collect()
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut read = Vec::new();
            while let Some(item) = items.next_element()? {
                read.push(item);
            }
            Ok(read)
        }
    }

    deserializer.deserialize_any(OneOrMore(PhantomData))
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            token_name: "admin".to_owned(),
            token_roles: vec![Role::Admin, Role::Service],
            service_token: None,
            certificates: Vec::new(),
            oidc_issuer: None,
            oidc_audience: Vec::new(),
            oidc_jwks_url: None,
            oidc_jwks_file: None,
            oidc_ca_file: None,
            oidc_roles_claim: "roles".to_owned(),
            oidc_name_claim: "sub".to_owned(),
            oidc_roles: Vec::new(),
            oidc_clock_skew: Duration::secs(30),
            oidc_keys_refresh: Duration::secs(300),
        }
    }
}

impl Validate for AuthConfig {
    fn validate(&self, problems: &mut Problems) {
        let named = !self.token_name.trim().is_empty();
        problems.require(named, "token_name", "must not be empty");
        problems.require(
            !self.token_roles.is_empty(),
            "token_roles",
            "must name at least one of reader, operator, admin, service",
        );
        if let Some(Err(error)) = self.service_token.clone().map(AdminToken::new) {
            problems.add("service_token", error.to_string());
        }
        if let Err(error) = CertificateMap::read(&self.certificates) {
            problems.add("certificates", error.to_string());
        }
        if let Err(problem) = RoleMap::read(&self.oidc_roles) {
            problems.add("oidc_roles", problem);
        }
        problems.require(
            self.oidc_issuer.is_none() || !self.oidc_audience.is_empty(),
            "oidc_audience",
            "is needed together with oidc_issuer: tokens for others must not open this hub",
        );
        for (key, set) in [
            ("oidc_jwks_url", self.oidc_jwks_url.is_some()),
            ("oidc_jwks_file", self.oidc_jwks_file.is_some()),
        ] {
            let needed = !set || self.oidc_issuer.is_some();
            problems.require(needed, key, "needs oidc_issuer: whose keys are they?");
        }
        for (key, claim) in [
            ("oidc_roles_claim", &self.oidc_roles_claim),
            ("oidc_name_claim", &self.oidc_name_claim),
        ] {
            problems.require(!claim.is_empty(), key, "must name a claim");
        }
        let patient = !self.oidc_keys_refresh.is_zero();
        problems.require(patient, "oidc_keys_refresh", "must be longer than nothing");
    }
}
