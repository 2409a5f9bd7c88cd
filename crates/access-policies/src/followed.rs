//! The policies as their file says now: a changed file is taken over without a restart, so that a key
//! can be changed, and a policy taken out, under connected programs and devices.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;

use crate::{AccessError, AccessPolicies};

/// The policies of a file. Clones share them.
#[derive(Debug, Clone)]
pub struct Followed {
    path: PathBuf,
    current: Arc<RwLock<Arc<AccessPolicies>>>,
}

impl Followed {
    /// Reads the file, or makes it with the policies that every IoT Hub begins with.
    ///
    /// # Errors
    /// It cannot be made or used.
    pub async fn open(path: PathBuf) -> Result<Self, AccessError> {
        let current = open(path.clone()).await?;
        Ok(Self {
            path,
            current: Arc::new(RwLock::new(Arc::new(current))),
        })
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
        let (path, current) = (self.path.clone(), self.current());
        let read = tokio::task::spawn_blocking(move || AccessPolicies::read(&path)).await;
        let read = read.map_err(|_| AccessError::Random)??;
        if read == *current {
            return Ok(false);
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(read);
        Ok(true)
    }
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
}
