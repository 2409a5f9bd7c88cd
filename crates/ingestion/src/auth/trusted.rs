//! The authorities that are trusted with devices, as their file says now: a renewed file is taken over
//! without a restart, so that an authority that is not to be trusted any more can be taken out.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use service_kit::tls::authorities::Authorities;

use crate::error::Error;

/// Authorities that may be trusted, as in IoT Hub: each is tried for every certificate.
const AUTHORITIES_MAX: usize = 25;

/// What a file holds.
#[derive(Debug, Clone)]
pub(crate) struct Trusted {
    path: PathBuf,
    current: Arc<RwLock<Current>>,
}

/// The authorities, and what tells them from others.
#[derive(Debug, Clone)]
pub(super) struct Current {
    pub(super) authorities: Authorities,
    /// How often they have changed.
    pub(super) edition: u64,
    pem: Arc<str>,
}

impl Trusted {
    /// Reads the file, which must be usable.
    pub(crate) async fn read(path: PathBuf) -> Result<Self, Error> {
        let pem = read(&path).await;
        let parsed = pem.and_then(|pem| Ok((parse(&pem)?, pem)));
        let (authorities, pem) = match parsed {
            Ok(parsed) => parsed,
            Err(problem) => return Err(Error::DeviceAuthorities { path, problem }),
        };
        let current = Current {
            authorities,
            edition: 0,
            pem: pem.into(),
        };
        Ok(Self {
            path,
            current: Arc::new(RwLock::new(current)),
        })
    }

    /// What is trusted now.
    pub(super) fn current(&self) -> Current {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Looks at the file every now and then, until told to stop. What cannot be used changes nothing:
    /// a file that is just being written must not lock all devices out.
    pub(crate) async fn follow(self, every: Duration, shutdown: ShutdownToken) {
        // The same trouble is said once, not every half minute.
        let mut known = String::new();
        while shutdown
            .run_until(tokio::time::sleep(every))
            .await
            .is_some()
        {
            match self.look().await {
                Ok(changed) => {
                    known.clear();
                    if let Some(count) = changed {
                        let path = self.path.display();
                        tracing::info!(%path, count, "authorities of devices taken over");
                    }
                }
                Err(error) => {
                    let problem = chain(&error);
                    if problem != known {
                        tracing::warn!(error = problem, "the former ones stay in use");
                    }
                    known = problem;
                }
            }
        }
    }

    /// Takes the file over if it has changed; then how many there are.
    async fn look(&self) -> Result<Option<usize>, Error> {
        let unusable = |problem| Error::DeviceAuthorities {
            path: self.path.clone(),
            problem,
        };
        let pem = read(&self.path).await.map_err(unusable)?;
        if *self.current().pem == *pem {
            return Ok(None);
        }
        let authorities = parse(&pem).map_err(unusable)?;
        let count = authorities.count();
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Current {
            authorities,
            edition: current.edition + 1,
            pem: pem.into(),
        };
        Ok(Some(count))
    }
}

async fn read(path: &PathBuf) -> Result<String, String> {
    let read = tokio::fs::read_to_string(path).await;
    read.map_err(|error| error.to_string())
}

fn parse(pem: &str) -> Result<Authorities, String> {
    let authorities = Authorities::parse(pem).map_err(|error| error.to_string())?;
    match authorities.count() {
        count if count > AUTHORITIES_MAX => Err(format!(
            "it holds {count} certificates; at most {AUTHORITIES_MAX} are allowed"
        )),
        _ => Ok(authorities),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().pem()
    }

    #[tokio::test]
    async fn a_changed_file_is_taken_over_and_a_bad_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("authorities.pem");
        std::fs::write(&path, authority()).unwrap();
        let trusted = Trusted::read(path.clone()).await.unwrap();
        assert_eq!(trusted.look().await.unwrap(), None);
        std::fs::write(&path, authority() + &authority()).unwrap();
        assert_eq!(trusted.look().await.unwrap(), Some(2));
        for bad in ["", "no certificate", &authority().repeat(26)] {
            std::fs::write(&path, bad).unwrap();
            let error = chain(&trusted.look().await.unwrap_err());
            assert!(error.contains("authorities.pem"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(trusted.look().await.is_err());
        let current = trusted.current();
        assert_eq!((current.authorities.count(), current.edition), (2, 1));
    }
}
