//! The agent's data directory: where it is, that nobody else reads it, and that one agent uses it.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use service_kit::config;

use crate::app::Error;

const ROOT_DATA_DIR: &str = "/var/lib/twinward-agent";

/// The directory that was given, or the default one of this user.
pub(crate) fn chosen(given: Option<PathBuf>) -> Result<PathBuf, Error> {
    if let Some(given) = given {
        return Ok(given);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(ROOT_DATA_DIR));
    }
    let state = config::env_var("XDG_STATE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(config::env_var("HOME")?).join(".local/state"));
    state
        .or_else(home)
        .map(|dir| dir.join("twinward-agent"))
        .ok_or(Error::NoDataDir)
}

/// Finds the data directory and makes it, for its owner alone, when it is not there.
pub(crate) fn create(given: Option<PathBuf>) -> Result<PathBuf, Error> {
    let path = chosen(given)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .map_err(|source| Error::DataDir {
            path: path.clone(),
            source,
        })?;
    Ok(path)
}

/// Two agents on one spool would number different events alike. The lock ends with the process.
pub(crate) fn lock(data_dir: &Path) -> Result<File, Error> {
    let path = data_dir.join("lock");
    let file = File::create(path).map_err(|source| Error::DataDir {
        path: data_dir.to_owned(),
        source,
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked {
            path: data_dir.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(Error::DataDir {
            path: data_dir.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_data_directory_serves_one_agent_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = create(Some(dir.path().join("a/b"))).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let first = lock(&path).unwrap();
        assert!(matches!(lock(&path), Err(Error::Locked { .. })));
        drop(first);
        assert!(lock(&path).is_ok());
    }
}
