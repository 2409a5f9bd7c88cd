//! The data directory of `up`: who uses it, and the secrets made at the first start.
//!
//! ```text
//! up.lock            held while `up` runs; two may not share a directory
//! admin.token        opens every service, mode 0600
//! twinward.env       addresses and token, while everything is serving
//! certs/             authority and certificate for devices, unless one is configured
//! nats/              configuration, token, port, log and JetStream's files
//! twin-store/        twins.db and the master key
//! policy/            policy.db
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use service_kit::secret::Secret;
use uuid::Uuid;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::private_file;

/// A data directory that no other process uses.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// Held until this is dropped, or the process ends in whatever way.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is not there, and claims it.
    pub(super) fn claim(path: &Path) -> Result<Self, Failure> {
        let cannot = |error: io::Error| {
            Failure::new(
                Kind::Failed,
                format!("cannot use the data directory {}", path.display()),
            )
            .because(error)
            .advise("--data-dir names another")
        };
        private_file::create_directory(path).map_err(cannot)?;
        // Absolute, because it goes into files that others read from elsewhere.
        let path = path.canonicalize().map_err(cannot)?;
        let lock_path = path.join("up.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(cannot)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Failure::new(
                Kind::Conflict,
                format!("another `twinward up` uses {}", path.display()),
            )
            .advise("stop it, or name another directory with --data-dir")),
            Err(TryLockError::Error(error)) => Err(cannot(error)),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory inside, made if it is not there.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.path.join(name);
        private_file::create_directory(&path).map_err(|error| {
            Failure::new(Kind::Failed, format!("cannot create {}", path.display())).because(error)
        })?;
        Ok(path)
    }

    /// A secret that is made at the first start and stays the same from then on.
    pub(super) fn secret(&self, name: &str) -> Result<Secret, Failure> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(
                    Failure::new(Kind::Failed, format!("cannot read {}", path.display()))
                        .because(error),
                );
            }
        }
        // Two times 122 random bits, from the operating system.
        let text = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        private_file::replace(&path, format!("{text}\n").as_bytes()).map_err(|error| {
            Failure::new(Kind::Failed, format!("cannot write {}", path.display())).because(error)
        })?;
        Ok(Secret::new(text))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_is_used_by_one_process_and_free_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = DataDir::claim(&path).unwrap();
        let failure = DataDir::claim(&path).unwrap_err();
        assert_eq!(failure.kind(), Kind::Conflict);
        assert!(
            failure.render().contains("--data-dir"),
            "{}",
            failure.render()
        );
        drop(first);
        DataDir::claim(&path).unwrap();
    }

    #[test]
    fn a_secret_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::claim(dir.path()).unwrap();
        let first = data.secret("admin.token").unwrap();
        assert_eq!(first.expose().len(), 64);
        assert_eq!(data.secret("admin.token").unwrap(), first);
        assert_ne!(data.secret("other").unwrap(), first);
        let mode = fs::metadata(data.path().join("admin.token"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
