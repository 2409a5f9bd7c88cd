//! The provider's keys as they were last fetched. They are fetched anew every now and then, so
//! that withdrawn ones are forgotten, and when a token names one that is not known, so that new
//! ones are known at once. While the provider is away, the last ones stay in use.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::auth::AuthError;
use crate::auth::oidc::keys::KeySet;
use crate::auth::oidc::source::{Source, SourceError};
use crate::backoff::{Backoff, Policy};
use crate::error::chain;
use crate::health::Component;
use crate::shutdown::ShutdownToken;

/// How often unknown keys may make us ask the provider. Anybody can send tokens that name keys
/// which do not exist.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How soon to try again after the provider did not answer.
const AWAY: Policy = Policy {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(30),
    budget: None,
};

/// Why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The provider publishes none by that name.
    Unknown,
    /// The provider could not be asked.
    ProviderAway,
}

/// The keys of one provider.
#[derive(Debug)]
pub(super) struct KeyCache {
    source: Source,
    refresh: Duration,
    keys: RwLock<Option<Arc<KeySet>>>,
    /// When an unknown key last made us ask. Held while asking, so that many calls ask once.
    asked: Mutex<Option<Instant>>,
}

impl KeyCache {
    /// Keys in a file are read at once and must be usable.
    pub(super) fn new(source: Source, refresh: Duration) -> Result<Self, AuthError> {
        let keys = match source.load_file() {
            None => None,
            Some(Ok(keys)) => Some(Arc::new(keys)),
            Some(Err(error)) => {
                return Err(AuthError::Setting {
                    key: "oidc_jwks_file",
                    problem: chain(&error),
                });
            }
        };
        Ok(Self {
            source,
            refresh,
            keys: RwLock::new(keys),
            asked: Mutex::new(None),
        })
    }

    /// The key that a token names.
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey, NoKey> {
        if let Some(key) = self.known(id, algorithm) {
            return Ok(key);
        }
        let mut asked = self.asked.lock().await;
        // Somebody else may have asked meanwhile.
        if let Some(key) = self.known(id, algorithm) {
            return Ok(key);
        }
        if asked.is_some_and(|at| at.elapsed() < ASK_AGAIN_AFTER) {
            return Err(match self.current() {
                Some(_) => NoKey::Unknown,
                None => NoKey::ProviderAway,
            });
        }
        let first = self.current().is_none();
        let outcome = self.reload().await;
        // The keys that a call found missing because none had been fetched yet were not unknown.
        if !first || outcome.is_err() {
            *asked = Some(Instant::now());
        }
        drop(asked);
        match outcome {
            Ok(()) => self.known(id, algorithm).ok_or(NoKey::Unknown),
            Err(error) => {
                tracing::warn!(error = chain(&error), "OIDC keys cannot be fetched");
                Err(NoKey::ProviderAway)
            }
        }
    }

    /// Fetches the keys every now and then, until told to stop. Callers by other means need no
    /// keys, so their absence degrades the service and no more.
    pub(super) async fn follow(self: Arc<Self>, shutdown: ShutdownToken, health: Component) {
        let mut backoff = Backoff::new(AWAY);
        // The same trouble is said once.
        let mut known = String::new();
        let mut wait = Duration::ZERO;
        if self.current().is_some() {
            health.serving();
            wait = self.refresh;
        }
        while shutdown.run_until(tokio::time::sleep(wait)).await.is_some() {
            let Some(outcome) = shutdown.run_until(self.reload()).await else {
                return;
            };
            match outcome {
                Ok(()) => {
                    health.serving();
                    if !known.is_empty() {
                        tracing::info!("OIDC keys are fetched again");
                    }
                    known.clear();
                    backoff = Backoff::new(AWAY);
                    wait = self.refresh;
                }
                Err(error) => {
                    let problem = chain(&error);
                    if problem != known {
                        tracing::warn!(
                            error = problem,
                            have_former = self.current().is_some(),
                            "OIDC keys cannot be fetched"
                        );
                    }
                    health.degraded(format!("OIDC keys cannot be fetched: {problem}"));
                    known = problem;
                    wait = backoff.next_delay().unwrap_or(self.refresh);
                }
            }
        }
    }

    async fn reload(&self) -> Result<(), SourceError> {
        let keys = Arc::new(self.source.load().await?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys);
        Ok(())
    }

    fn known(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        self.current()?.find(id, algorithm)
    }

    fn current(&self) -> Option<Arc<KeySet>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.clone()
    }
}
