//! Shared keys of identities and policies.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Fewest bytes of a key (IoT Hub's rule).
pub const KEY_BYTES_MIN: usize = 16;

/// Most bytes of a key (IoT Hub's rule).
pub const KEY_BYTES_MAX: usize = 64;

/// A shared key: base64 outside, 16 to 64 bytes inside. Wiped from memory when dropped; never printed
/// but through [`SymmetricKey::to_base64`].
#[derive(Clone)]
pub struct SymmetricKey(Zeroizing<Vec<u8>>);

/// Why a text is not a key. Says nothing of the text, which may be a key with a typing mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64.
    #[error("the key is not base64 (standard alphabet, with padding)")]
    NotBase64,
    /// Too short or too long.
    #[error("the key decodes to {bytes} bytes, allowed are {KEY_BYTES_MIN} to {KEY_BYTES_MAX}")]
    Length {
        /// Bytes it decodes to.
        bytes: usize,
    },
}

impl SymmetricKey {
    /// Reads a key in base64.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text).map_err(|_| KeyError::NotBase64)?;
        Self::from_bytes(Zeroizing::new(bytes))
    }

    /// Makes a key of bytes at hand, such as decrypted ones.
    pub fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&bytes.len()) {
            return Err(KeyError::Length { bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// Makes a new key of random bytes. The caller draws them, from a secure source.
    pub fn generate(random: [u8; 32]) -> Self {
        let random = Zeroizing::new(random);
        Self(Zeroizing::new(random.to_vec()))
    }

    /// The key in base64: for the one who may have it, such as a new device's installer.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }

    /// The key's bytes: for encryption at rest.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The HMAC-SHA256 of a message.
    pub(crate) fn sign(&self, message: &[u8]) -> hmac::Tag {
        hmac::sign(&self.hmac_key(), message)
    }

    /// Whether a tag is the HMAC-SHA256 of a message, in constant time.
    pub(crate) fn verifies(&self, message: &[u8], tag: &[u8]) -> bool {
        hmac::verify(&self.hmac_key(), message, tag).is_ok()
    }

    fn hmac_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl PartialEq for SymmetricKey {
    /// In constant time for keys of one length.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for SymmetricKey {}

impl fmt::Debug for SymmetricKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SymmetricKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_never_prints() {
        let key = SymmetricKey::generate(*b"0123456789abcdef0123456789abcdef");
        let text = key.to_base64();
        assert_eq!(
            text.as_str(),
            "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
        );
        assert_eq!(SymmetricKey::parse(&text), Ok(key.clone()));
        assert_eq!(format!("{key:?}"), "SymmetricKey(redacted)");
        assert_ne!(key, SymmetricKey::generate([7; 32]));
    }

    #[test]
    fn keys_of_wrong_form_or_length_are_refused() {
        let of = |length| STANDARD.encode(vec![1; length]);
        assert_eq!(
            SymmetricKey::parse(&of(15)),
            Err(KeyError::Length { bytes: 15 })
        );
        assert!(SymmetricKey::parse(&of(16)).is_ok());
        assert!(SymmetricKey::parse(&of(64)).is_ok());
        assert_eq!(
            SymmetricKey::parse(&of(65)),
            Err(KeyError::Length { bytes: 65 })
        );
        for text in ["not base64!", "MDEy MzQ1", "MDEyMzQ1Njc4OWFiY2RlZg"] {
            assert_eq!(SymmetricKey::parse(text), Err(KeyError::NotBase64));
        }
        assert_eq!(SymmetricKey::parse(""), Err(KeyError::Length { bytes: 0 }));
    }
}
