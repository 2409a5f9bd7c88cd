//! Who is it? Proves the identity behind a call from the SAS token in its metadata, and behind a
//! CONNECT of MQTT from its password or its client certificate.
//!
//! What proves an identity comes from twin-store, through a cache. A proof
//! is kept for as long as the session lives and proven again when the identity changes. Failures
//! are counted by reason and logged; a token or a key never is.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use access_policies::Followed;
use iot_hub::mqtt::ConnectName;
use iot_hub::{SasResource, SymmetricKey, Thumbprints};
use service_kit::clock::SharedClock;
use service_kit::error::{Classified, Kind};
use service_kit::log_budget::LogBudget;
use twin::IdentityKey;

use crate::auth::cache::{Cache, Credentials, Finding, Standing};
use crate::auth::claim::Claim;
use crate::auth::failures::{Account, Failures};
use crate::auth::limiter::Limiter;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::twins::TwinStore;

mod cache;
mod calling;
mod certificate;
mod claim;
mod error;
mod failures;
pub(crate) mod limiter;
mod noted;
mod policy;
mod proof;
mod registering;
mod signed;
mod trusted;
mod verdicts;

pub(crate) use error::{AuthError, CROWDED_FOR};
use proof::Evidence;
pub(crate) use proof::Proof;
pub(crate) use trusted::Trusted;
use verdicts::Verdicts;

/// Who shows a proof.
#[derive(Clone, Copy)]
struct Who<'a> {
    peer: Option<IpAddr>,
    /// Who it says it is, where identities are counted.
    identity: Option<&'a IdentityKey>,
    account: Account,
}

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
    verdicts: Mutex<Verdicts>,
    failures: Failures,
    /// Lines of the log that failures may have.
    lines: LogBudget,
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
                verdicts: Mutex::default(),
                failures: Failures::new(limits),
                lines: LogBudget::default(),
                connects: Mutex::new(connects),
            }),
        }
    }

    /// Proves who connects by MQTT: with the password, or without one with the certificate. How it
    /// stands is the caller's to have asked, so that what that one does and what is done here agree.
    pub(crate) async fn authenticate_device(
        &self,
        name: &ConnectName,
        password: Option<&[u8]>,
        certificates: &[Vec<u8>],
        (peer, account): (IpAddr, Account),
    ) -> Result<Proof, AuthError> {
        let (host, now) = (&self.shared.host, self.shared.clock.now());
        let claim = Claim::of_device(name, password, certificates, host, now);
        let who = Who {
            peer: Some(peer),
            identity: Some(&name.identity),
            account,
        };
        self.judge(claim, who).await
    }

    /// How a device stands at its address now.
    pub(crate) fn account(&self, identity: &IdentityKey, peer: IpAddr) -> Account {
        let now = self.shared.clock.monotonic();
        let failures = &self.shared.failures;
        failures.account(Some(peer), Some(identity), now)
    }

    /// Somebody of whom the address is known, if that.
    fn anybody(&self, peer: Option<IpAddr>) -> Who<'static> {
        let now = self.shared.clock.monotonic();
        Who {
            peer,
            identity: None,
            account: self.shared.failures.account(peer, None, now),
        }
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

    /// Whoever has failed too often is looked at as well: what holds is let in, what fails is told to
    /// wait and pays for it.
    async fn judge(
        &self,
        claim: Result<Claim<'_>, AuthError>,
        who: Who<'_>,
    ) -> Result<Proof, AuthError> {
        let proving = |wait: Option<Duration>| async move {
            let claim = claim?;
            let Some(wait) = wait else {
                return self.prove(claim).await;
            };
            if let Some(credentials) = self.at_hand(&claim) {
                return self.prove_claim(claim, &*credentials?);
            }
            let proving = self.prove(claim);
            self.shared.failures.look(who.peer, wait, proving).await
        };
        self.charging(who, proving).await
    }

    /// Has somebody prove something, who is told for how long it would have to wait otherwise, and
    /// charges what is its own fault.
    async fn charging<T, F: Future<Output = Result<T, AuthError>>>(
        &self,
        who: Who<'_>,
        proving: impl FnOnce(Option<Duration>) -> F,
    ) -> Result<T, AuthError> {
        let (failures, account) = (&self.shared.failures, who.account);
        let error = match proving(account.wait()).await {
            Ok(proven) => return Ok(proven),
            Err(error) => error,
        };
        let mut told = error;
        if told.is_the_peers_fault() {
            let now = self.shared.clock.monotonic();
            failures.charge(account, who.peer, who.identity, now);
            if let Some(wait) = account.wait() {
                told = AuthError::TooManyFailures { wait };
            }
        }
        self.note_failure(&told, who.peer);
        Err(told)
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

    async fn prove(&self, claim: Claim<'_>) -> Result<Proof, AuthError> {
        let credentials = self.credentials(claim.identity()).await?;
        self.prove_claim(claim, &credentials)
    }

    /// What a claim is judged by, if nobody has to be asked and it costs next to nothing.
    fn at_hand(&self, claim: &Claim<'_>) -> Option<Result<Arc<Credentials>, AuthError>> {
        let identity = claim.identity();
        let now = self.shared.clock.monotonic();
        let found = lock(&self.shared.cache).find(identity, now)?;
        let is_cheap = match (claim, &found) {
            (Claim::Token(..), _) | (Claim::Certificates { .. }, None) => true,
            // Signatures of a chain are not, unless they were verified before.
            (Claim::Certificates { chain, .. }, Some(credentials)) => {
                !credentials.by_authority || self.is_known_to_be_signed(identity, chain)
            }
        };
        is_cheap.then(|| {
            found.ok_or_else(|| AuthError::Unknown {
                identity: identity.clone(),
            })
        })
    }

    fn prove_claim(&self, claim: Claim<'_>, credentials: &Credentials) -> Result<Proof, AuthError> {
        let (identity, evidence) = match claim {
            Claim::Token(identity, token) => (identity, Evidence::Token(token)),
            Claim::Certificates {
                identity,
                own,
                chain,
            } => {
                let evidence = if credentials.by_authority {
                    self.signed(&identity, chain)?
                } else {
                    Evidence::Certificate(Thumbprints::of(own))
                };
                (identity, evidence)
            }
        };
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
