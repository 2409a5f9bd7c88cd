//! Who the agent is: its connection string, in a key file that only its owner may read.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use iot_hub::connection_string::{ConnectionString, ConnectionStringError};
use service_kit::secret::Secret;

use crate::files::{self, Readers};

/// The key file in the data directory.
const KEY_FILE: &str = "connection_string";

/// Permission bits of anybody but the owner.
const OTHERS: u32 = 0o077;

/// Where a connection string may come from, besides the key file.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The connection string itself.
    pub connection_string: Option<Secret>,
    /// A file that holds it.
    pub connection_string_file: Option<PathBuf>,
}

/// Why the agent cannot know who it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("cannot {action} the key file {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others may read the key.
    #[error(
        "the key file {} may be read by others (mode {mode:03o}); mend it with: chmod 600 {}",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The text is no connection string.
    #[error("the connection string from {origin} cannot be used")]
    Invalid {
        /// Where it came from.
        origin: String,
        /// What is wrong with it.
        source: ConnectionStringError,
    },
}

/// Finds the connection string: the one given, else the one in the given file, else the key file of
/// an earlier run. One that was given is kept in the key file, so that the next start needs nothing.
/// `None` when there is none anywhere.
pub fn load(data_dir: &Path, sources: &Sources) -> Result<Option<ConnectionString>, Error> {
    if let Some(text) = &sources.connection_string {
        let found = parse(text.expose(), || {
            "the command line or environment".to_owned()
        })?;
        store(data_dir, &found)?;
        return Ok(Some(found));
    }
    if let Some(path) = &sources.connection_string_file {
        let Some(found) = read(path)? else {
            let source = io::ErrorKind::NotFound.into();
            return Err(Error::File {
                action: "read",
                path: path.clone(),
                source,
            });
        };
        store(data_dir, &found)?;
        return Ok(Some(found));
    }
    read(&data_dir.join(KEY_FILE))
}

/// Keeps a connection string in the key file.
pub fn store(data_dir: &Path, connection_string: &ConnectionString) -> Result<(), Error> {
    let path = data_dir.join(KEY_FILE);
    if read(&path).is_ok_and(|kept| kept.as_ref() == Some(connection_string)) {
        return Ok(());
    }
    let text = connection_string.to_secret_string();
    files::replace(&path, text.as_bytes(), Readers::Owner).map_err(|source| Error::File {
        action: "write",
        path,
        source,
    })
}

/// Reads a key file; `None` when there is none. One that others may read is refused, because the key
/// in it must be taken for known.
fn read(path: &Path) -> Result<Option<ConnectionString>, Error> {
    let file_error = |source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let Some(bytes) = files::read_if_present(path).map_err(file_error)? else {
        return Ok(None);
    };
    let mode = fs::metadata(path).map_err(file_error)?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(Error::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let text = Secret::new(String::from_utf8_lossy(&bytes).into_owned());
    parse(text.expose(), || path.display().to_string()).map(Some)
}

fn parse(text: &str, origin: impl FnOnce() -> String) -> Result<ConnectionString, Error> {
    ConnectionString::parse(text.trim()).map_err(|source| Error::Invalid {
        origin: origin(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "HostName=hub.example;DeviceId=d;ModuleId=DefenderIotMicroAgent;SharedAccessKey=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_given_connection_string_is_kept_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path(), &Sources::default()).unwrap().is_none());
        let given = Sources {
            connection_string: Some(Secret::new(TEXT)),
            ..Sources::default()
        };
        let found = load(dir.path(), &given).unwrap().unwrap();
        assert_eq!(found.identity().device.as_str(), "d");
        assert_eq!(mode(&dir.path().join(KEY_FILE)), 0o600);
        assert_eq!(load(dir.path(), &Sources::default()).unwrap(), Some(found));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_way_to_mend_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("given");
        fs::write(&path, TEXT).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let sources = Sources {
            connection_string_file: Some(path.clone()),
            ..Sources::default()
        };
        let error = load(dir.path(), &sources).unwrap_err();
        assert!(matches!(error, Error::Exposed { mode: 0o640, .. }));
        assert!(
            error
                .to_string()
                .contains(&format!("chmod 600 {}", path.display())),
            "{error}"
        );

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(load(dir.path(), &sources).unwrap().is_some());
    }

    #[test]
    fn what_is_no_connection_string_is_said_without_repeating_it() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Some(Secret::new("HostName=hub;SharedAccessKey=hunter2"));
        let sources = Sources {
            connection_string: secret,
            ..Sources::default()
        };
        let error = load(dir.path(), &sources).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn a_missing_given_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let sources = Sources {
            connection_string_file: Some(dir.path().join("absent")),
            ..Sources::default()
        };
        assert!(matches!(
            load(dir.path(), &sources),
            Err(Error::File { .. })
        ));
    }
}
