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
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// Length of the master key.
const MASTER_KEY_BYTES: usize = 32;
/// The master key's file: readable by its owner alone.
const KEY_FILE_MODE: u32 = 0o600;
/// Any of these bits lets somebody else read or change the file.
const FOREIGN_BITS: u32 = 0o077;

/// A secret as it lies in the store: base64 of nonce and ciphertext.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub(crate) String);

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
    /// The machine gives no random bytes.
    #[error("the operating system gave no random bytes")]
    Random,
    /// A sealed value cannot be opened: damaged, or sealed with another master key.
    #[error("a stored key cannot be opened; it is damaged or the master key is another one")]
    Open,
}

/// Seals and opens secrets.
pub struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Sealer {
    /// Reads the master key from its file, or makes both at the first start.
    ///
    /// # Errors
    /// The file cannot be used, is open to others, or holds something else.
    pub fn open(path: &Path) -> Result<Sealer, SecretError> {
        let file_error = |source| SecretError::File {
            path: path.to_owned(),
            source,
        };
        let random = SystemRandom::new();
        if !path.try_exists().map_err(file_error)? {
            let mut fresh = Zeroizing::new([0_u8; MASTER_KEY_BYTES]);
            random
                .fill(fresh.as_mut_slice())
                .map_err(|_| SecretError::Random)?;
            let text = Zeroizing::new(BASE64_STANDARD.encode(fresh.as_slice()));
            create_synced(path, text.as_bytes()).map_err(file_error)?;
        }
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
        let content_error = || SecretError::FileContent {
            path: path.to_owned(),
        };
        let bytes = Zeroizing::new(
            BASE64_STANDARD
                .decode(text.trim())
                .map_err(|_| content_error())?,
        );
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| content_error())?;
        Ok(Sealer {
            key: LessSafeKey::new(key),
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
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(owner.as_bytes()),
                &mut buffer,
            )
            .map_err(|_| SecretError::Random)?;
        let mut stored = nonce.to_vec();
        stored.append(&mut buffer);
        Ok(Sealed(BASE64_STANDARD.encode(stored)))
    }

    /// Opens what was sealed for `owner`.
    ///
    /// # Errors
    /// It is damaged, belongs to another owner, or was sealed with another master key.
    pub fn open_sealed(
        &self,
        owner: &str,
        sealed: &Sealed,
    ) -> Result<Zeroizing<String>, SecretError> {
        let stored = BASE64_STANDARD
            .decode(&sealed.0)
            .map_err(|_| SecretError::Open)?;
        let (nonce, cipher) = stored
            .split_at_checked(NONCE_LEN)
            .ok_or(SecretError::Open)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SecretError::Open)?;
        let mut buffer = Zeroizing::new(cipher.to_vec());
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(owner.as_bytes()), &mut buffer)
            .map_err(|_| SecretError::Open)?;
        let text = std::str::from_utf8(plain).map_err(|_| SecretError::Open)?;
        Ok(Zeroizing::new(text.to_owned()))
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
    file.sync_all()?;
    let named = std::fs::hard_link(&draft, path);
    std::fs::remove_file(&draft)?;
    match named {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_key_opens_for_its_owner_after_a_restart_and_for_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let sealed = Sealer::open(&path)
            .unwrap()
            .seal("d/m#1", "secret")
            .unwrap();
        assert!(!format!("{sealed:?}").contains(&sealed.0));
        let reopened = Sealer::open(&path).unwrap();
        assert_eq!(*reopened.open_sealed("d/m#1", &sealed).unwrap(), "secret");
        assert!(matches!(
            reopened.open_sealed("d/m#2", &sealed),
            Err(SecretError::Open)
        ));
        for cut in ["", "AAAA", "!"] {
            assert!(matches!(
                reopened.open_sealed("d/m#1", &Sealed(cut.into())),
                Err(SecretError::Open)
            ));
        }
    }

    #[test]
    fn a_master_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        Sealer::open(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Sealer::open(&path).err().unwrap().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_master_key_file_with_other_content_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        create_synced(&path, b"not a key").unwrap();
        assert!(matches!(
            Sealer::open(&path),
            Err(SecretError::FileContent { .. })
        ));
    }
}
