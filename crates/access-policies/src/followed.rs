//! The policies as their file says now: a changed file is taken over without a restart, so that a key
//! can be changed, and a policy taken out, under connected programs and devices.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;

use crate::{AccessError, AccessPolicies, Right};

/// The policies of a file. Clones share them.
#[derive(Debug, Clone)]
pub struct Followed {
    path: PathBuf,
    /// Of policies without this right nothing is kept.
    only: Option<Right>,
    /// Whether the file has been read.
    is_there: Arc<AtomicBool>,
    current: Arc<RwLock<Arc<AccessPolicies>>>,
}

impl Followed {
    /// Reads the file, or makes it with the policies that every IoT Hub begins with.
    ///
    /// # Errors
    /// It cannot be made or used.
    pub async fn open(path: PathBuf) -> Result<Self, AccessError> {
        let current = open(path.clone()).await?;
        Ok(Self::new(path, None, Some(current)))
    }

    /// Reads the file, which somebody else makes, and keeps the policies that allow something. If it is
    /// not there, there are none until it comes.
    ///
    /// # Errors
    /// It is there and cannot be used.
    pub async fn only(path: PathBuf, right: Right) -> Result<Self, AccessError> {
        let current = match read(path.clone(), Some(right)).await {
            Ok(current) => Some(current),
            Err(error) if error.is_missing() => {
                let path = path.display();
                tracing::warn!(
                    %path,
                    "there are no access policies: tokens of them are refused until the file is there"
                );
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self::new(path, Some(right), current))
    }

    fn new(path: PathBuf, only: Option<Right>, current: Option<AccessPolicies>) -> Self {
        Self {
            path,
            only,
            is_there: Arc::new(AtomicBool::new(current.is_some())),
            current: Arc::new(RwLock::new(Arc::new(current.unwrap_or_default()))),
        }
    }

    /// Whether the file has ever been read. If not, nobody knows which policies there are.
    pub fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Acquire)
    }

    /// What is in force now.
    pub fn current(&self) -> Arc<AccessPolicies> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// Looks at the file every now and then, until told to stop, and tells of each change. What
    /// cannot be used changes nothing: a file that is just being written must not lock everybody out.
    pub async fn follow(self, every: Duration, shutdown: ShutdownToken, changed: impl Fn()) {
        // The same trouble is said once, not every half minute.
        let mut known = String::new();
        while shutdown
            .run_until(tokio::time::sleep(every))
            .await
            .is_some()
        {
            match self.look().await {
                Ok(is_new) => {
                    known.clear();
                    if is_new {
                        let path = self.path.display();
                        tracing::info!(%path, "access policies taken over");
                        changed();
                    }
                }
                // That was said at the beginning.
                Err(error) if !self.is_there() && error.is_missing() => {}
                Err(error) => {
                    let problem = chain(&error);
                    if problem != known {
                        tracing::warn!(error = problem, "the former access policies stay in use");
                    }
                    known = problem;
                }
            }
        }
    }

    /// Takes the file over if it says something else; whether it did.
    async fn look(&self) -> Result<bool, AccessError> {
        let read = read(self.path.clone(), self.only).await?;
        let was_there = self.is_there();
        if was_there && read == *self.current() {
            return Ok(false);
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(read);
        drop(current);
        self.is_there.store(true, Ordering::Release);
        Ok(true)
    }
}

async fn read(path: PathBuf, only: Option<Right>) -> Result<AccessPolicies, AccessError> {
    let read = tokio::task::spawn_blocking(move || AccessPolicies::read(&path)).await;
    // It does not panic, and nobody cancels it.
    let read = read.map_err(|_| AccessError::Random)??;
    Ok(match only {
        Some(right) => read.with(right),
        None => read,
    })
}

async fn open(path: PathBuf) -> Result<AccessPolicies, AccessError> {
    let opened = tokio::task::spawn_blocking(move || AccessPolicies::open(&path)).await;
    // It does not panic, and nobody cancels it.
    opened.map_err(|_| AccessError::Random)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_changed_file_is_taken_over_and_a_bad_one_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("policies.toml");
        let followed = Followed::open(path.clone()).await.expect("made");
        let first = followed.current();
        assert!(!followed.look().await.expect("the same"));

        let text = std::fs::read_to_string(&path).expect("text");
        let cut = text.rfind("[[policy]]").expect("a policy");
        std::fs::write(&path, &text[..cut]).expect("written");
        assert!(followed.look().await.expect("another"));
        assert_eq!(followed.current().iter().count(), first.iter().count() - 1);

        std::fs::write(&path, "policy = 7").expect("written");
        assert!(followed.look().await.is_err());
        std::fs::remove_file(&path).expect("removed");
        assert!(followed.look().await.is_err(), "it is not made anew");
        assert_eq!(followed.current().iter().count(), first.iter().count() - 1);
    }

    #[tokio::test]
    async fn who_only_reads_makes_no_file_and_keeps_no_key_that_it_does_not_need() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("policies.toml");
        let right = Right::DeviceConnect;
        let reader = Followed::only(path.clone(), right).await.expect("none");
        assert!(!reader.is_there() && !path.exists());
        assert!(reader.look().await.is_err(), "still none");

        let all = Followed::open(path.clone()).await.expect("made").current();
        assert!(reader.look().await.expect("it is there"));
        assert!(reader.is_there());
        for policy in all.iter() {
            let kept = reader.current().named(policy.name()).is_some();
            assert_eq!(kept, policy.allows(right), "{}", policy.name());
        }
        assert!(!reader.look().await.expect("the same"));

        std::fs::write(&path, "policy = 7").expect("written");
        assert!(Followed::only(path, right).await.is_err(), "spoilt");
    }
}
