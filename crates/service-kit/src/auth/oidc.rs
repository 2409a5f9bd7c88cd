//! Tokens of an OIDC provider: JSON Web Tokens (RFC 7519), signed with one of its published keys.
//!
//! A token is good if a key of the provider signed it with an algorithm that fits that key, if it
//! is meant for us, and if its time has come and not passed. Everything else in it is believed
//! then: who the caller is, and which roles it has.
//!
//! [`keys`] and [`claims`] decide and touch nothing; [`source`] fetches; [`cache`] remembers.

mod cache;
mod claims;
mod keys;
mod ring_provider;
mod source;

use std::sync::Arc;

use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};

use crate::auth::config::AuthConfig;
use crate::auth::refusal::Refusal;
use crate::auth::{AuthError, Insecure, Principal};
use crate::clock::SharedClock;
use crate::health::Health;
use crate::shutdown::ShutdownToken;

use cache::{KeyCache, NoKey};
use claims::ClaimRules;
use source::Source;

pub(super) use claims::{RoleMap, TokenProblem};
pub(super) use source::url_problem;

/// The longest token that is looked at. Tokens with many groups have some thousand bytes; HTTP/2
/// takes headers of 16 KiB by default.
const TOKEN_LEN_MAX: usize = 16 * 1024;

/// Knows the tokens of one provider.
#[derive(Debug)]
pub(super) struct Oidc {
    keys: Arc<KeyCache>,
    rules: ClaimRules,
    clock: SharedClock,
}

impl Oidc {
    /// Reads the settings; `None` if there is no provider. Keys in a file are read at once and
    /// must be usable; a provider need not be up yet.
    pub(super) fn new(
        config: &AuthConfig,
        insecure: Insecure,
        clock: SharedClock,
    ) -> Result<Option<Self>, AuthError> {
        let Some(rules) = ClaimRules::read(config)? else {
            return Ok(None);
        };
        ring_provider::install();
        let source = Source::read(config, insecure)?;
        let keys = KeyCache::new(source, config.oidc_keys_refresh.get())?;
        Ok(Some(Self {
            keys: Arc::new(keys),
            rules,
            clock,
        }))
    }

    /// Keeps the keys fresh until told to stop.
    pub(super) fn follow(
        &self,
        shutdown: ShutdownToken,
        health: &Health,
    ) -> impl Future<Output = ()> + use<> {
        Arc::clone(&self.keys).follow(shutdown, health.component("oidc"))
    }

    /// True if this may be a token of a provider at all.
    pub(super) fn could_be(token: &[u8]) -> bool {
        token.split(|byte| *byte == b'.').count() == 3
    }

    /// Whose token it is.
    pub(super) async fn principal(&self, token: &[u8]) -> Result<Principal, Refusal> {
        let claims = self.verified(token).await?;
        self.rules
            .principal(&claims, self.clock.now())
            .map_err(Refusal::Token)
    }

    /// What a token says, once its signature is known to be the provider's.
    async fn verified(&self, token: &[u8]) -> Result<Map<String, Value>, Refusal> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(Refusal::Token(TokenProblem::Malformed));
        }
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| Refusal::Token(TokenProblem::Malformed))?;
        // What is critical must be understood, and we understand nothing beyond the standard.
        if header.crit.is_some() {
            return Err(Refusal::Token(TokenProblem::Malformed));
        }
        if !keys::ALGORITHMS.contains(&header.alg) {
            return Err(Refusal::Token(TokenProblem::Algorithm));
        }
        let key = self
            .keys
            .find(header.kid.as_deref(), header.alg)
            .await
            .map_err(|none| match none {
                NoKey::Unknown => Refusal::Token(TokenProblem::UnknownKey),
                NoKey::ProviderAway => Refusal::ProviderAway,
            })?;
        jsonwebtoken::decode(token, &key, &signature_only(header.alg))
            .map(|token| token.claims)
            .map_err(|_| Refusal::Token(TokenProblem::Signature))
    }
}

/// The library checks the signature; what the claims must be is checked in [`claims`], with the
/// time of our own clock.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}
