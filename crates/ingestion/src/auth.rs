//! Who is it? Proves the identity behind a call from the SAS token in its metadata, and behind a
//! CONNECT of MQTT from its password or its client certificate.
//!
//! What proves an identity comes from twin-store, through a cache. A proof
//! is kept for as long as the session lives and proven again when the identity changes. Failures
//! are counted by reason and logged; a token or a key never is.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use access_policies::Followed;
use iot_hub::mqtt::ConnectName;
use iot_hub::{SasResource, SasToken, SymmetricKey, Thumbprints};
use service_kit::accounts::network_of;
use service_kit::clock::SharedClock;
use service_kit::error::{Classified, Kind};
use service_kit::log_budget::LogBudget;
use service_kit::suspects::{Crowded, Suspects};
use tonic::metadata::MetadataMap;
use twin::IdentityKey;

use crate::auth::cache::{Cache, Credentials, Finding, Standing};
use crate::auth::limiter::Limiter;
use crate::auth::proof::check_time;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::twins::TwinStore;

mod cache;
mod certificate;
mod error;
pub(crate) mod limiter;
mod noted;
mod policy;
mod proof;
mod registering;
mod trusted;

pub(crate) use error::AuthError;
use proof::Evidence;
pub(crate) use proof::Proof;
pub(crate) use trusted::Trusted;

/// Where the token stands in a call's metadata.
const AUTHORIZATION: &str = "authorization";

/// Proves identities. Clones share the cache.
#[derive(Clone)]
pub(crate) struct Authenticator {
    shared: Arc<Shared>,
}

struct Shared {
    host: String,
    /// Who may sign certificates of devices.
    authorities: Option<Trusted>,
    /// The hub's shared access policies, if their tokens open this door.
    policies: Option<Followed>,
    store: TwinStore,
    clock: SharedClock,
    metrics: Metrics,
    cache: Mutex<Cache>,
    limiter: Mutex<Limiter<Option<IpAddr>>>,
    /// From addresses that have failed too often.
    suspects: Suspects,
    /// Of which addresses the log has said so lately.
    told: Mutex<Limiter<Option<IpAddr>>>,
    /// Lines of the log that failures may have.
    lines: LogBudget,
    /// Of each identity from each address, so that one that is wrong takes nothing from the others
    /// behind its address, and nobody can lock an identity out from elsewhere.
    of_identity: Mutex<Limiter<(Option<IpAddr>, IdentityKey)>>,
    /// Sessions that an identity begins: only what is proven counts.
    connects: Mutex<Limiter<IdentityKey>>,
}

impl Authenticator {
    /// Proves tokens for the hub's host name.
    pub(crate) fn new(
        host: String,
        (authorities, policies): (Option<Trusted>, Option<Followed>),
        limits: &Limits,
        store: TwinStore,
        clock: SharedClock,
        metrics: Metrics,
    ) -> Self {
        let limiter = Mutex::new(Limiter::new(limits.auth_failures_per_minute));
        let of_identity = Limiter::new(limits.identity_failures_per_minute);
        let connects = Limiter::new(limits.identity_connects_per_minute);
        let cache = Mutex::default();
        Self {
            shared: Arc::new(Shared {
                host,
                authorities,
                policies,
                store,
                clock,
                metrics,
                cache,
                limiter,
                suspects: Suspects::default(),
                told: Mutex::new(Limiter::new(1)),
                lines: LogBudget::default(),
                of_identity: Mutex::new(of_identity),
                connects: Mutex::new(connects),
            }),
        }
    }

    /// Proves who makes a call.
    pub(crate) async fn authenticate(
        &self,
        metadata: &MetadataMap,
        peer: Option<IpAddr>,
    ) -> Result<Proof, AuthError> {
        self.limited(peer, self.prove(metadata)).await
    }

    /// Proves who connects by MQTT: with the password, or without one with the certificate.
    pub(crate) async fn authenticate_device(
        &self,
        name: &ConnectName,
        password: Option<&[u8]>,
        certificates: &[Vec<u8>],
        peer: Option<IpAddr>,
    ) -> Result<Proof, AuthError> {
        let both = (peer.map(network_of), name.identity.clone());
        let now = self.shared.clock.monotonic();
        if let Err(wait) = lock(&self.shared.of_identity).check(&both, now) {
            let error = AuthError::TooManyFailures { wait };
            self.note_failure(&error, peer);
            return Err(error);
        }
        let proving = self.prove_device(name, password, certificates);
        let outcome = self.limited(peer, proving).await;
        if outcome.as_ref().is_err_and(AuthError::is_the_peers_fault) {
            let now = self.shared.clock.monotonic();
            lock(&self.shared.of_identity).failed(both, now);
        }
        outcome
    }

    /// Notes that a proven identity begins a session by MQTT; answers how long it must wait if it
    /// does that too often.
    pub(crate) fn connects(&self, identity: &IdentityKey) -> Result<(), Duration> {
        let now = self.shared.clock.monotonic();
        let mut connects = lock(&self.shared.connects);
        connects.check(identity, now)?;
        connects.failed(identity.clone(), now);
        Ok(())
    }

    async fn limited<T>(
        &self,
        peer: Option<IpAddr>,
        proving: impl Future<Output = Result<T, AuthError>>,
    ) -> Result<T, AuthError> {
        let account = peer.map(network_of);
        let limited = lock(&self.shared.limiter).check(&account, self.shared.clock.monotonic());
        let outcome = match limited {
            Err(wait) => match self.shared.suspects.look(proving).await {
                Ok(Ok(proven)) => Ok(proven),
                Ok(Err(error)) if !error.is_the_peers_fault() => Err(error),
                Ok(Err(_)) | Err(Crowded) => Err(AuthError::TooManyFailures { wait }),
            },
            Ok(()) => proving.await,
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
        self.check(&proof.evidence, &proof.identity, &credentials)
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
        self.prove_token(identity, token).await
    }

    async fn prove_device(
        &self,
        name: &ConnectName,
        password: Option<&[u8]>,
        certificates: &[Vec<u8>],
    ) -> Result<Proof, AuthError> {
        let host = &self.shared.host;
        if !name.is_for(host) {
            return Err(AuthError::WrongHost {
                found: crate::text::shorten(name.host.clone(), 256),
                host: host.clone(),
            });
        }
        let identity = name.identity.clone();
        match (password, certificates.first()) {
            (Some(password), _) => {
                let text = std::str::from_utf8(password).unwrap_or_default();
                let token = SasToken::parse(text)?;
                // One of a policy may be for all that stands below its resource.
                if token.policy().is_none() && token.identity().as_ref() != Some(&identity) {
                    return Err(AuthError::AnotherIdentity { identity });
                }
                self.prove_token(identity, token).await
            }
            (None, Some(certificate)) => {
                let credentials = self.credentials(&identity).await?;
                let evidence = if credentials.by_authority {
                    self.signed(&identity, certificates)?
                } else {
                    Evidence::Certificate(Thumbprints::of(certificate))
                };
                self.prove_evidence(identity, evidence, &credentials)
            }
            (None, None) => Err(AuthError::NothingShown),
        }
    }

    /// That an authority of ours has signed what was shown, for this identity and for now.
    fn signed(&self, identity: &IdentityKey, chain: &[Vec<u8>]) -> Result<Evidence, AuthError> {
        let trusted = self.shared.authorities.as_ref();
        let trusted = trusted.ok_or_else(|| AuthError::NoAuthorities {
            identity: identity.clone(),
        })?;
        let current = trusted.current();
        let now = self.shared.clock.now();
        Ok(Evidence::Signed {
            until: certificate::check(&current.authorities, identity, chain, now)?,
            chain: chain.into(),
            edition: Arc::new(AtomicU64::new(current.edition)),
        })
    }

    async fn prove_token(
        &self,
        identity: IdentityKey,
        token: SasToken,
    ) -> Result<Proof, AuthError> {
        // Before anybody is asked: an expired token needs no keys to be refused.
        check_time(&token, self.shared.clock.now())?;
        let credentials = self.credentials(&identity).await?;
        self.prove_evidence(identity, Evidence::Token(token), &credentials)
    }

    fn prove_evidence(
        &self,
        identity: IdentityKey,
        evidence: Evidence,
        credentials: &Credentials,
    ) -> Result<Proof, AuthError> {
        self.check(&evidence, &identity, credentials)?;
        Ok(Proof {
            identity,
            generation_id: credentials.generation_id.clone(),
            evidence,
        })
    }

    fn check(
        &self,
        evidence: &Evidence,
        identity: &IdentityKey,
        credentials: &Credentials,
    ) -> Result<(), AuthError> {
        match evidence {
            Evidence::Token(token) => {
                let wanted = SasResource::of_identity(&self.shared.host, identity);
                let now = self.shared.clock.now();
                if let Some(policy) = token.policy() {
                    policy::verify(self.shared.policies.as_ref(), policy, token, &wanted, now)?;
                } else {
                    let keys: Vec<&SymmetricKey> = credentials.keys.iter().collect();
                    token.verify(&wanted, &keys, now)?;
                }
            }
            Evidence::Certificate(shown) => {
                if !credentials.thumbprints.iter().any(|it| shown.are(it)) {
                    return Err(AuthError::WrongCertificate {
                        identity: identity.clone(),
                        thumbprint: shown.sha256().to_owned(),
                    });
                }
            }
            Evidence::Signed {
                until,
                chain,
                edition,
            } => {
                certificate::check_time(identity, *until, self.shared.clock.now())?;
                let trusted = self.shared.authorities.as_ref();
                let current = trusted.map(|trusted| trusted.current().edition);
                if let Some(current) = current
                    && current != edition.load(Ordering::Relaxed)
                {
                    self.signed(identity, chain)?;
                    // These have judged it, and need not do so again with each look.
                    edition.store(current, Ordering::Relaxed);
                }
                if !credentials.by_authority {
                    return Err(AuthError::NotByAuthority {
                        identity: identity.clone(),
                    });
                }
            }
        }
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
            Ok(credentials) => Ok(Some(Arc::new(cache::read(identity, credentials)))),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(AuthError::Unavailable(error)),
        }
    }
}

/// The guarded values are changed in one step each, so a panic elsewhere cannot leave them torn.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
