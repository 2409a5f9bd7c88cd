//! Thumbprints: how IoT Hub names the certificate of a self-signed identity.

use std::fmt::Write as _;

use ring::digest;

/// SHA-1 and SHA-256 of one certificate in DER form, in upper-case hex. An identity may be
/// registered with either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thumbprints {
    sha1: String,
    sha256: String,
}

impl Thumbprints {
    /// Of a certificate in DER form.
    pub fn of(certificate: &[u8]) -> Self {
        Self {
            // A name and no signature: whoever could make a second certificate of the same SHA-1
            // would have to own the first one's registration too.
            sha1: hex(&digest::digest(
                &digest::SHA1_FOR_LEGACY_USE_ONLY,
                certificate,
            )),
            sha256: hex(&digest::digest(&digest::SHA256, certificate)),
        }
    }

    /// Whether the certificate is the one that was registered with this thumbprint, in either case
    /// and with or without colons.
    pub fn are(&self, registered: &str) -> bool {
        let plain: String = registered
            .chars()
            .filter(|character| !matches!(character, ':' | ' '))
            .map(|character| character.to_ascii_uppercase())
            .collect();
        plain == self.sha256 || plain == self.sha1
    }

    /// The longer one, for logs and for registering.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

fn hex(digest: &digest::Digest) -> String {
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing into a string cannot fail.
            let _ = write!(text, "{byte:02X}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_digest_in_any_spelling_names_the_certificate() {
        let found = Thumbprints::of(b"abc");
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let sha1 = "a9993e364706816aba3e25717850c26c9cd0d89d";
        let pairs: Vec<&str> = (0..40).step_by(2).map(|at| &sha1[at..at + 2]).collect();
        let spelled = pairs.join(":").to_uppercase();
        assert!(found.are(sha256) && found.are(sha1) && found.are(&spelled));
        assert_eq!(found.sha256(), sha256.to_uppercase());
    }

    #[test]
    fn nothing_else_does() {
        let found = Thumbprints::of(b"abc");
        for other in ["", "0123", Thumbprints::of(b"xyz").sha256()] {
            assert!(!found.are(other), "{other}");
        }
    }
}
