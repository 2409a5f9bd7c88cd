//! The file of the policies, which only its owner may read: how it is made and read.

use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use iot_hub::{KeyError, SymmetricKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{AccessPolicies, AccessPolicy, Right};

/// IoT Hub's limit of policies per hub.
const POLICIES_MAX: usize = 16;
/// A folder with keys is its owner's alone.
const FOLDER_MODE: u32 = 0o700;

/// What IoT Hub makes with every hub (spec §5.3).
const BUILT_IN: [(&str, &[Right]); 5] = [
    (
        "iothubowner",
        &[
            Right::RegistryRead,
            Right::RegistryWrite,
            Right::ServiceConnect,
            Right::DeviceConnect,
        ],
    ),
    ("service", &[Right::ServiceConnect]),
    ("device", &[Right::DeviceConnect]),
    ("registryRead", &[Right::RegistryRead]),
    (
        "registryReadWrite",
        &[Right::RegistryRead, Right::RegistryWrite],
    ),
];

/// Why the policies cannot be used. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file cannot be read or made.
    #[error("cannot {what} the access policies {}", path.display())]
    File {
        /// `read` or `make`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML of the right form.
    #[error("the access policies {} cannot be read: {problem}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the line, which may hold a key.
        problem: String,
    },
    /// A policy's key cannot be used.
    #[error("the {which} of the access policy `{policy}` cannot be used")]
    Key {
        /// The policy.
        policy: String,
        /// `primary_key` or `secondary_key`.
        which: &'static str,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for the keys of access policies")]
    Random,
}

impl AccessError {
    /// Whether the file is not there.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            Self::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Form { .. } | Self::Key { .. } | Self::Random => false,
        }
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    policy: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    rights: Vec<Right>,
    primary_key: Zeroizing<String>,
    secondary_key: Zeroizing<String>,
}

impl AccessPolicies {
    /// Reads the file, or makes it with the five policies that every IoT Hub begins with. Blocks.
    ///
    /// # Errors
    /// It cannot be made or used.
    pub fn open(path: &Path) -> Result<Self, AccessError> {
        let file_error = |what, source| AccessError::File {
            what,
            path: path.to_owned(),
            source,
        };
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &Zeroizing::new(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = fresh()?;
                match make(path, &text) {
                    Ok(()) => Self::parse(path, &text),
                    // Another replica was faster; its keys count.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        let text = std::fs::read_to_string(path);
                        let text = text.map_err(|source| file_error("read", source))?;
                        Self::parse(path, &Zeroizing::new(text))
                    }
                    Err(source) => Err(file_error("make", source)),
                }
            }
            Err(source) => Err(file_error("read", source)),
        }
    }

    /// Reads the file. Blocks.
    ///
    /// # Errors
    /// It is not there, or cannot be used.
    pub(crate) fn read(path: &Path) -> Result<Self, AccessError> {
        let text = std::fs::read_to_string(path).map_err(|source| AccessError::File {
            what: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &Zeroizing::new(text))
    }

    fn parse(path: &Path, text: &str) -> Result<Self, AccessError> {
        let form = |problem: String| AccessError::Form {
            path: path.to_owned(),
            problem,
        };
        let document: Document =
            toml::from_str(text).map_err(|error| form(error.message().to_owned()))?;
        let mut policies: Vec<AccessPolicy> = Vec::with_capacity(document.policy.len());
        if document.policy.len() > POLICIES_MAX {
            return Err(form(format!("a hub has at most {POLICIES_MAX} policies")));
        }
        for entry in document.policy {
            if policies.iter().any(|policy| policy.name == entry.name) {
                return Err(form(format!("the policy `{}` is there twice", entry.name)));
            }
            let key = |which, text: &str| {
                SymmetricKey::parse(text).map_err(|source| AccessError::Key {
                    policy: entry.name.clone(),
                    which,
                    source,
                })
            };
            policies.push(AccessPolicy {
                primary: key("primary_key", &entry.primary_key)?,
                secondary: key("secondary_key", &entry.secondary_key)?,
                name: entry.name,
                rights: entry.rights,
            });
        }
        Ok(Self(policies))
    }
}

fn fresh() -> Result<Zeroizing<String>, AccessError> {
    let random = SystemRandom::new();
    let key = || {
        let mut bytes = Zeroizing::new([0; 32]);
        random
            .fill(bytes.as_mut())
            .map_err(|_| AccessError::Random)?;
        Ok(SymmetricKey::generate(*bytes).to_base64())
    };
    let policy = BUILT_IN
        .into_iter()
        .map(|(name, rights)| {
            Ok(Entry {
                name: name.to_owned(),
                rights: rights.to_vec(),
                primary_key: key()?,
                secondary_key: key()?,
            })
        })
        .collect::<Result<_, AccessError>>()?;
    let mut text = Zeroizing::new(String::from(
        "# Shared access policies of this hub, in IoT Hub's sense. Whoever has a key has its rights.\n\
         # Keys are base64 of 16 to 64 bytes. A changed file is taken over within half a minute.\n\n",
    ));
    let body = toml::to_string_pretty(&Document { policy }).map(Zeroizing::new);
    text.push_str(&body.map_err(|_| AccessError::Random)?);
    Ok(text)
}

/// Puts the file there as a whole, unless there is one already.
fn make(path: &Path, text: &str) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)?;
    // Only its owner may read it, from the first moment.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_first_start_makes_keys_that_the_next_one_finds() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new").join("access-policies.toml");
        let first = AccessPolicies::open(&path).expect("made");
        let again = AccessPolicies::open(&path).expect("read");
        for (name, rights) in BUILT_IN {
            let (first, again) = (first.named(name), again.named(name));
            let (first, again) = (first.expect("made"), again.expect("read"));
            let (first_text, again_text) =
                (first.connection_string("h"), again.connection_string("h"));
            assert_eq!(first_text, again_text);
            assert_eq!(again.rights, rights);
        }
        let mode = std::fs::metadata(&path)
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_bad_file_is_named_without_its_keys() {
        let path = Path::new("policies.toml");
        let entry = |name: &str, key: &str| {
            format!(
                "[[policy]]\nname = '{name}'\nrights = ['RegistryRead']\n\
                 primary_key = '{key}'\nsecondary_key = '{key}'\n"
            )
        };
        let good = "MDEyMzQ1Njc4OWFiY2RlZg==";
        for (text, wanted) in [
            (
                entry("a", "c2hvcnQ="),
                "the primary_key of the access policy `a`",
            ),
            (entry("a", good) + &entry("a", good), "`a` is there twice"),
            ("policy = 7".to_owned(), "invalid type"),
            (
                entry("a", good).replace("RegistryRead", "All"),
                "unknown variant `All`",
            ),
        ] {
            let error = AccessPolicies::parse(path, &text).expect_err(wanted);
            let text = service_kit::error::chain(&error);
            assert!(text.contains(wanted), "{text}");
            assert!(!text.contains(good) && !text.contains("c2hvcnQ"), "{text}");
        }
    }
}
