//! Who is it? Proves the identity behind a call from the SAS token in its metadata.
//!
//! The token names the identity; the identity's keys come from twin-store, through a cache. A proof
//! is kept for as long as the session lives and proven again when the identity changes. Failures
//! are counted by reason and logged; a token or a key never is.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iot_hub::{SasError, SasResource, SasToken, SymmetricKey};
use jiff::Timestamp;
use service_kit::clock::SharedClock;
use service_kit::error::{Classified, IotHubCode, Kind};
use tonic::metadata::MetadataMap;
use twin::IdentityKey;
use wire::registry::v1 as registry;

use crate::auth::cache::{Cache, Credentials, Finding, Standing};
use crate::auth::limiter::Limiter;
use crate::metrics::Metrics;
use crate::twins::{Refused, TwinStore};

mod cache;
pub(crate) mod limiter;

/// Where the token stands in a call's metadata.
const AUTHORIZATION: &str = "authorization";

/// Why somebody is not let in. The texts go to the peer: they tell what to mend, never a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    /// There is no token.
    #[error(
        "the call has no `authorization` metadata; a SAS token of the device or module is needed"
    )]
    Missing,
    /// The token cannot be read, has expired, is for another host, or was made with another key.
    #[error(transparent)]
    Token(#[from] SasError),
    /// The token is for something that is neither device nor module.
    #[error(
        "the SAS token is for {resource}; needed is {{host}}/devices/{{device}} or \
         {{host}}/devices/{{device}}/modules/{{module}}"
    )]
    NoIdentity {
        /// What it is for.
        resource: String,
    },
    /// There is no such identity (any more).
    #[error("{identity} is not registered here, or was deleted")]
    Unknown {
        /// Which one.
        identity: IdentityKey,
    },
    /// The identity was deleted and created again since the session began.
    #[error("{identity} was created again; its keys have changed")]
    CreatedAgain {
        /// Which one.
        identity: IdentityKey,
    },
    /// An operator disabled it.
    #[error("{identity} is disabled")]
    Disabled {
        /// Which one.
        identity: IdentityKey,
    },
    /// The peer failed too often.
    #[error("too many failures from this address; try again in {} s", .wait.as_secs() + 1)]
    TooManyFailures {
        /// How long it must wait.
        wait: Duration,
    },
    /// Twin-store did not answer, so nobody can be proven.
    #[error("credentials cannot be checked at the moment")]
    Unavailable(#[source] Refused),
}

impl AuthError {
    /// The stable code of the failure.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Missing => "TOKEN_MISSING",
            Self::Token(error) => match error {
                SasError::Expired { .. } => "TOKEN_EXPIRED",
                SasError::WrongResource { .. } => "TOKEN_FOR_ANOTHER_HOST",
                SasError::WrongSignature => "WRONG_KEY",
                SasError::NotASasToken
                | SasError::TooLong { .. }
                | SasError::MissingField { .. }
                | SasError::RepeatedField { .. }
                | SasError::MalformedField { .. } => "TOKEN_MALFORMED",
            },
            Self::NoIdentity { .. } => "TOKEN_WITHOUT_IDENTITY",
            Self::Unknown { .. } => "IDENTITY_NOT_FOUND",
            Self::CreatedAgain { .. } => "IDENTITY_CREATED_AGAIN",
            Self::Disabled { .. } => "IDENTITY_DISABLED",
            Self::TooManyFailures { .. } => "TOO_MANY_FAILURES",
            Self::Unavailable(_) => "CREDENTIALS_UNAVAILABLE",
        }
    }

    /// Whether it counts against the peer.
    fn is_the_peers_fault(&self) -> bool {
        match self {
            Self::Missing
            | Self::Token(_)
            | Self::NoIdentity { .. }
            | Self::Unknown { .. }
            | Self::CreatedAgain { .. }
            | Self::Disabled { .. } => true,
            Self::TooManyFailures { .. } | Self::Unavailable(_) => false,
        }
    }
}

impl Classified for AuthError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing
            | Self::Token(_)
            | Self::NoIdentity { .. }
            | Self::CreatedAgain { .. } => Kind::Unauthenticated,
            Self::Unknown { .. } => Kind::NotFound,
            Self::Disabled { .. } => Kind::PermissionDenied,
            Self::TooManyFailures { .. } => Kind::ResourceExhausted,
            Self::Unavailable(_) => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &str {
        self.code()
    }

    fn iot_hub(&self) -> IotHubCode {
        match self {
            Self::Unknown { identity } if identity.module.is_some() => {
                IotHubCode::new(404_010, "ModuleNotFound")
            }
            Self::Unknown { .. }
            | Self::Missing
            | Self::Token(_)
            | Self::NoIdentity { .. }
            | Self::CreatedAgain { .. }
            | Self::Disabled { .. }
            | Self::TooManyFailures { .. }
            | Self::Unavailable(_) => self.kind().iot_hub(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyFailures { wait } => Some(*wait),
            Self::Missing
            | Self::Token(_)
            | Self::NoIdentity { .. }
            | Self::Unknown { .. }
            | Self::CreatedAgain { .. }
            | Self::Disabled { .. }
            | Self::Unavailable(_) => None,
        }
    }
}

/// A proven identity.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    /// Who it is.
    pub(crate) identity: IdentityKey,
    /// Which generation of the id.
    pub(crate) generation_id: String,
    token: SasToken,
}

impl Proof {
    /// When the proof ends, with the skew allowed to the agent's clock.
    pub(crate) fn ends_at(&self) -> Timestamp {
        self.token
            .expires_at()
            .saturating_add(iot_hub::sas::CLOCK_SKEW)
            .unwrap_or(Timestamp::MAX)
    }

    /// Whether the proof's time is over.
    pub(crate) fn check_time(&self, now: Timestamp) -> Result<(), AuthError> {
        if self.token.is_expired(now) {
            return Err(SasError::Expired {
                expired_at: self.token.expires_at(),
                now,
            }
            .into());
        }
        Ok(())
    }
}

/// Proves identities. Clones share the cache.
#[derive(Clone)]
pub(crate) struct Authenticator {
    shared: Arc<Shared>,
}

struct Shared {
    host: String,
    store: TwinStore,
    clock: SharedClock,
    metrics: Metrics,
    cache: Mutex<Cache>,
    limiter: Mutex<Limiter>,
}

impl Authenticator {
    /// Proves tokens for the hub's host name.
    pub(crate) fn new(
        host: String,
        failures_per_minute: u32,
        store: TwinStore,
        clock: SharedClock,
        metrics: Metrics,
    ) -> Self {
        let limiter = Mutex::new(Limiter::new(failures_per_minute));
        let cache = Mutex::default();
        Self {
            shared: Arc::new(Shared {
                host,
                store,
                clock,
                metrics,
                cache,
                limiter,
            }),
        }
    }

    /// Proves who makes a call.
    pub(crate) async fn authenticate(
        &self,
        metadata: &MetadataMap,
        peer: Option<IpAddr>,
    ) -> Result<Proof, AuthError> {
        let limited = lock(&self.shared.limiter).check(peer, self.shared.clock.monotonic());
        let outcome = match limited {
            Err(wait) => Err(AuthError::TooManyFailures { wait }),
            Ok(()) => self.prove(metadata).await,
        };
        if let Err(error) = &outcome {
            self.note_failure(error, peer);
        }
        outcome
    }

    /// Proves again what was proven before, after the identity changed.
    pub(crate) async fn prove_again(&self, proof: &Proof) -> Result<(), AuthError> {
        let credentials = self.credentials(&proof.identity).await?;
        if credentials.generation_id != proof.generation_id {
            return Err(AuthError::CreatedAgain {
                identity: proof.identity.clone(),
            });
        }
        self.check(&proof.token, &proof.identity, &credentials)
    }

    /// An identity changed: what is known of it is worth nothing.
    pub(crate) fn forget(&self, identity: &IdentityKey) {
        lock(&self.shared.cache).forget(identity);
    }

    async fn prove(&self, metadata: &MetadataMap) -> Result<Proof, AuthError> {
        let text = metadata.get(AUTHORIZATION).ok_or(AuthError::Missing)?;
        // What is not ASCII is no token; the parser says so in its own words.
        let token = SasToken::parse(text.to_str().unwrap_or_default())?;
        let identity = token.identity().ok_or_else(|| AuthError::NoIdentity {
            resource: crate::text::shorten(token.resource().to_string(), 256),
        })?;
        // Before anybody is asked: an expired token needs no keys to be refused.
        let now = self.shared.clock.now();
        if token.is_expired(now) {
            return Err(SasError::Expired {
                expired_at: token.expires_at(),
                now,
            }
            .into());
        }
        let credentials = self.credentials(&identity).await?;
        self.check(&token, &identity, &credentials)?;
        Ok(Proof {
            identity,
            generation_id: credentials.generation_id.clone(),
            token,
        })
    }

    fn check(
        &self,
        token: &SasToken,
        identity: &IdentityKey,
        credentials: &Credentials,
    ) -> Result<(), AuthError> {
        let wanted = SasResource::of_identity(&self.shared.host, identity);
        let keys: Vec<&SymmetricKey> = credentials.keys.iter().collect();
        token.verify(&wanted, &keys, self.shared.clock.now())?;
        // Only whoever has the key is told how the identity stands.
        match credentials.standing {
            Standing::Enabled => Ok(()),
            Standing::Disabled => Err(AuthError::Disabled {
                identity: identity.clone(),
            }),
        }
    }

    async fn credentials(&self, identity: &IdentityKey) -> Result<Arc<Credentials>, AuthError> {
        let (found, ticket) = {
            let cache = lock(&self.shared.cache);
            (
                cache.find(identity, self.shared.clock.monotonic()),
                cache.ticket(),
            )
        };
        let finding = if let Some(finding) = found {
            finding
        } else {
            let finding = self.fetch(identity).await?;
            let now = self.shared.clock.monotonic();
            lock(&self.shared.cache).remember(ticket, identity.clone(), finding.clone(), now);
            finding
        };
        finding.ok_or_else(|| AuthError::Unknown {
            identity: identity.clone(),
        })
    }

    async fn fetch(&self, identity: &IdentityKey) -> Result<Finding, AuthError> {
        match self.shared.store.credentials(identity).await {
            Ok(credentials) => Ok(Some(Arc::new(read(identity, credentials)))),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(AuthError::Unavailable(error)),
        }
    }

    fn note_failure(&self, error: &AuthError, peer: Option<IpAddr>) {
        self.shared.metrics.auth_failure(error.code());
        if error.is_the_peers_fault() {
            lock(&self.shared.limiter).failed(peer, self.shared.clock.monotonic());
        }
        tracing::info!(
            peer = peer.map(tracing::field::display),
            reason = error.code(),
            error = service_kit::error::chain(error),
            "agent was not let in"
        );
    }
}

/// A key that cannot be read opens nothing; the other one may.
fn read(identity: &IdentityKey, credentials: registry::Credentials) -> Credentials {
    let standing = match credentials.status() {
        registry::Status::Enabled => Standing::Enabled,
        registry::Status::Disabled | registry::Status::Unspecified => Standing::Disabled,
    };
    let pair = credentials.keys.unwrap_or_default();
    let mut keys = Vec::with_capacity(2);
    for text in [pair.primary, pair.secondary] {
        if text.is_empty() {
            continue;
        }
        match SymmetricKey::parse(&text) {
            Ok(key) => keys.push(key),
            Err(error) => tracing::error!(%identity, %error, "twin-store has an unusable key"),
        }
    }
    Credentials {
        generation_id: credentials.generation_id,
        standing,
        keys,
    }
}

/// The guarded values are changed in one step each, so a panic elsewhere cannot leave them torn.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
