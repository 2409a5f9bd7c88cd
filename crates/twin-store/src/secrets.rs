//! Keys at rest: sealed with AES-256-GCM under a master key that lives in a file of its own.
//!
//! A sealed value is bound to the identity and generation it belongs to, so that a row copied to
//! another identity does not open its door. Nothing here ever prints a key.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use service_kit::secret::Secret;
use zeroize::Zeroizing;

use crate::hex;
use crate::store::failpoint;

/// Length of the master key.
const MASTER_KEY_BYTES: usize = 32;
/// The master key's file: readable by its owner alone.
const KEY_FILE_MODE: u32 = 0o600;
/// Any of these bits lets somebody else read or change the file.
const FOREIGN_BITS: u32 = 0o077;

/// What a sealed value begins with.
const FORM: &str = "v1.";
/// What the hash that names a master key begins with.
const KEY_NAME: &[u8] = b"twinward master key";
/// What is signed with a master key to make the secret that replicas know each other by.
const REPLICA_SECRET: &[u8] = b"twinward replicas know each other";
/// Bytes of the name of a master key; a hub has a handful of them over the years.
const KEY_ID_BYTES: usize = 4;

/// A secret as it lies in the store: `v1.<master key>.<base64 of nonce and ciphertext>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub(crate) String);

impl Sealed {
    /// The name of the master key, and the rest.
    fn parts(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix(FORM)?.split_once('.')
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[sealed]")
    }
}

/// Why a secret cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file of the master key cannot be used.
    #[error("cannot use the master key file {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is absent where none may be made.
    #[error(
        "the master key file {path} is absent, and replicas that share a database need the same \
         one; make it once (`openssl rand -base64 32`, mode 0600) and give it to all"
    )]
    FileAbsent {
        /// Which file.
        path: PathBuf,
    },
    /// The file is open to others.
    #[error("the master key file {path} has mode {mode:03o}; run `chmod 600 {path}`")]
    FileMode {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file holds something else.
    #[error("the master key file {path} must hold base64 of exactly 32 bytes")]
    FileContent {
        /// Which file.
        path: PathBuf,
    },
    /// The setting holds something else.
    #[error("the setting `master_key` must hold base64 of exactly 32 bytes")]
    Given,
    /// A value was sealed with a master key that is not known.
    #[error(
        "a stored key is sealed with the master key {id}, which is not known; \
         add its file to `previous_master_key_files`"
    )]
    UnknownKey {
        /// The name of the master key.
        id: String,
    },
    /// The machine gives no random bytes.
    #[error("the operating system gave no random bytes")]
    Random,
    /// A sealed value cannot be opened.
    #[error("a stored key cannot be opened; it is damaged or belongs to another identity")]
    Open,
}

/// Where master keys come from.
#[derive(Debug, Clone, Default)]
pub struct MasterKeys {
    /// The present one itself, base64; empty: it is in `file`.
    pub present: Secret,
    /// File of the present one; made when absent.
    pub file: PathBuf,
    /// Files of former ones, which open what was sealed before.
    pub former_files: Vec<PathBuf>,
}

impl MasterKeys {
    /// Refuses to have a key made that is not there yet.
    ///
    /// # Errors
    /// No key is given, and its file is absent.
    pub fn must_exist(&self) -> Result<(), SecretError> {
        if !self.present.is_empty() || self.file.is_file() {
            return Ok(());
        }
        Err(SecretError::FileAbsent {
            path: self.file.clone(),
        })
    }
}

/// One master key with the name that sealed values carry.
struct MasterKey {
    id: String,
    key: LessSafeKey,
    /// Made of the key, and nothing can be learnt from it about the key.
    replica_secret: Zeroizing<[u8; 32]>,
}

/// Seals and opens secrets. A sealed value names its master key, so that one can be changed for
/// another without a moment in which a device cannot connect.
pub struct Sealer {
    present: MasterKey,
    former: Vec<MasterKey>,
    random: SystemRandom,
}

impl Sealer {
    /// Takes the master key as given, or reads it from its file, or makes both at the first start.
    ///
    /// # Errors
    /// A file cannot be used, is open to others, or holds something else; or the key given is none.
    pub fn open(keys: &MasterKeys) -> Result<Sealer, SecretError> {
        let random = SystemRandom::new();
        let present = if keys.present.is_empty() {
            make_if_absent(&keys.file, &random)?;
            MasterKey::from_file(&keys.file)?
        } else {
            MasterKey::parse(keys.present.expose()).ok_or(SecretError::Given)?
        };
        let former = keys
            .former_files
            .iter()
            .map(|path| MasterKey::from_file(path))
            .collect::<Result<_, _>>()?;
        Ok(Sealer {
            present,
            former,
            random,
        })
    }

    /// Seals `plain` for `owner`.
    ///
    /// # Errors
    /// The machine gives no random bytes.
    pub fn seal(&self, owner: &str, plain: &str) -> Result<Sealed, SecretError> {
        let mut nonce = [0_u8; NONCE_LEN];
        self.random
            .fill(&mut nonce)
            .map_err(|_| SecretError::Random)?;
        // With room for the tag from the start, or growing would leave an open copy behind.
        let mut buffer = Vec::with_capacity(plain.len() + AES_256_GCM.tag_len());
        buffer.extend_from_slice(plain.as_bytes());
        self.present
            .key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(owner.as_bytes()),
                &mut buffer,
            )
            .map_err(|_| SecretError::Random)?;
        let mut stored = nonce.to_vec();
        stored.append(&mut buffer);
        let text = BASE64_STANDARD.encode(stored);
        Ok(Sealed(format!("{FORM}{}.{text}", self.present.id)))
    }

    /// Opens what was sealed for `owner`, under the present master key or a former one.
    ///
    /// # Errors
    /// It is damaged, belongs to another owner, or was sealed with a master key that is not known.
    pub fn open_sealed(
        &self,
        owner: &str,
        sealed: &Sealed,
    ) -> Result<Zeroizing<String>, SecretError> {
        let (id, text) = sealed.parts().ok_or(SecretError::Open)?;
        let mut known = std::iter::once(&self.present).chain(&self.former);
        let master = known
            .find(|master| master.id == id)
            .ok_or_else(|| SecretError::UnknownKey { id: id.to_owned() })?;
        let stored = BASE64_STANDARD
            .decode(text)
            .map_err(|_| SecretError::Open)?;
        let (nonce, cipher) = stored
            .split_at_checked(NONCE_LEN)
            .ok_or(SecretError::Open)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SecretError::Open)?;
        let mut buffer = Zeroizing::new(cipher.to_vec());
        let plain = master
            .key
            .open_in_place(nonce, Aad::from(owner.as_bytes()), &mut buffer)
            .map_err(|_| SecretError::Open)?;
        let text = std::str::from_utf8(plain).map_err(|_| SecretError::Open)?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// Whether a value is sealed under the present master key.
    pub fn is_current(&self, sealed: &Sealed) -> bool {
        sealed.parts().is_some_and(|(id, _)| id == self.present.id)
    }

    /// By which replicas know each other: whoever shares a store shares its master key. The present
    /// one first, then those of former master keys.
    pub(crate) fn replica_secrets(&self) -> impl Iterator<Item = [u8; 32]> {
        let known = std::iter::once(&self.present).chain(&self.former);
        known.map(|master| *master.replica_secret)
    }

    /// Bytes nobody can guess, for keys and tokens.
    ///
    /// # Errors
    /// The machine gives no random bytes.
    pub fn random<const N: usize>(&self) -> Result<Zeroizing<[u8; N]>, SecretError> {
        let mut bytes = Zeroizing::new([0_u8; N]);
        self.random
            .fill(bytes.as_mut_slice())
            .map_err(|_| SecretError::Random)?;
        Ok(bytes)
    }
}

impl MasterKey {
    fn from_file(path: &Path) -> Result<MasterKey, SecretError> {
        let file_error = |source| SecretError::File {
            path: path.to_owned(),
            source,
        };
        let mode = std::fs::metadata(path)
            .map_err(file_error)?
            .permissions()
            .mode()
            & 0o777;
        if mode & FOREIGN_BITS != 0 {
            return Err(SecretError::FileMode {
                path: path.to_owned(),
                mode,
            });
        }
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(file_error)?);
        MasterKey::parse(&text).ok_or_else(|| SecretError::FileContent {
            path: path.to_owned(),
        })
    }

    fn parse(text: &str) -> Option<MasterKey> {
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(text.trim()).ok()?);
        let key = UnboundKey::new(&AES_256_GCM, &bytes).ok()?;
        // Says which key it is and nothing of the key: a hash of 32 random bytes.
        let mut named = Zeroizing::new(KEY_NAME.to_vec());
        named.extend_from_slice(&bytes);
        let hash = digest::digest(&digest::SHA256, &named);
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), REPLICA_SECRET);
        let mut replica_secret = Zeroizing::new([0; 32]);
        replica_secret.copy_from_slice(derived.as_ref());
        Some(MasterKey {
            id: hex::text(&hash.as_ref()[..KEY_ID_BYTES]),
            key: LessSafeKey::new(key),
            replica_secret,
        })
    }
}

fn make_if_absent(path: &Path, random: &SystemRandom) -> Result<(), SecretError> {
    let file_error = |source| SecretError::File {
        path: path.to_owned(),
        source,
    };
    if path.try_exists().map_err(file_error)? {
        return Ok(());
    }
    let mut fresh = Zeroizing::new([0_u8; MASTER_KEY_BYTES]);
    random
        .fill(fresh.as_mut_slice())
        .map_err(|_| SecretError::Random)?;
    let text = Zeroizing::new(BASE64_STANDARD.encode(fresh.as_slice()));
    create_synced(path, text.as_bytes()).map_err(file_error)
}

/// The file must be there after a power cut, or every sealed key is lost: sync it and its folder.
/// It gets its name when it is whole, and never replaces one that another process made meanwhile.
fn create_synced(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(KEY_FILE_MODE)
        .open(&draft)?;
    file.write_all(content)?;
    failpoint::hit("key.written");
    file.sync_all()?;
    failpoint::hit("key.synced");
    let named = std::fs::hard_link(&draft, path);
    failpoint::hit("key.named");
    std::fs::remove_file(&draft)?;
    match named {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    failpoint::hit("key.durable");
    Ok(())
}

#[cfg(test)]
mod tests;
