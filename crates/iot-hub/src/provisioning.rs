//! The Device Provisioning Service's wire as values: registration ids, derived keys, the user name of
//! a CONNECT, topics, bodies.
//!
//! Pure, as everything here: which enrolment a registration belongs to is for others to know.

use std::fmt;

use ring::hmac;
use zeroize::Zeroizing;

use crate::key::SymmetricKey;
use crate::sas::SasResource;

mod body;
mod topic;

pub use self::body::{Assigned, assigning, refusal, registration_of};
pub use self::topic::{ProvisioningName, ProvisioningTopic, answer_topic};

/// Longest id.
pub const REGISTRATION_ID_MAX: usize = 128;

/// The name under which a device registers, or that of an enrolment: 1 to 128 letters, digits, `-`,
/// `.`, `_` and `:`, ending in a letter, a digit or `-`. Every one of them can be a device's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistrationId(String);

/// Why a text is no registration id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no registration id: allowed are 1 to 128 letters, digits, '-', '.', '_' and ':', with a \
     letter, a digit or '-' at the end"
)]
pub struct RegistrationIdError;

impl RegistrationId {
    /// Reads an id.
    ///
    /// # Errors
    /// It is too long, or holds what none may.
    pub fn parse(text: &str) -> Result<Self, RegistrationIdError> {
        let allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
        let ends_well = text
            .bytes()
            .last()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if text.len() <= REGISTRATION_ID_MAX && ends_well && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(RegistrationIdError)
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// By which two spellings of one id are equal: case does not count.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }

    /// What a token for this registration is for.
    pub fn resource(&self, id_scope: &str) -> SasResource {
        SasResource::of_path(id_scope, &format!("registrations/{}", self.0))
    }
}

impl fmt::Display for RegistrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SymmetricKey {
    /// The key of one device of a group whose key this is.
    #[must_use]
    pub fn derive(&self, registration: &RegistrationId) -> SymmetricKey {
        let tag: hmac::Tag = self.sign(registration.as_str().as_bytes());
        let bytes = Zeroizing::new(tag.as_ref().to_vec());
        SymmetricKey::from_bytes(bytes).expect("a SHA-256 is as long as a key may be")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SasToken;

    #[test]
    fn a_derived_key_is_the_one_of_the_documentation() {
        let group = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==";
        let group = SymmetricKey::parse(group).unwrap();
        let id = RegistrationId::parse("sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6").unwrap();
        assert_eq!(
            group.derive(&id).to_base64().as_str(),
            "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="
        );
    }

    #[test]
    fn ids_have_the_form_that_the_service_allows() {
        for good in ["a", "A-1", "x.y_z:1-", &"a".repeat(128)] {
            assert_eq!(RegistrationId::parse(good).unwrap().as_str(), good);
            twin::DeviceId::parse(good).expect("it can be a device's id");
        }
        for bad in [
            "",
            "a.",
            "a_",
            "a:",
            "a b",
            "a/b",
            "ä",
            "a#",
            &"a".repeat(129),
        ] {
            assert_eq!(
                RegistrationId::parse(bad),
                Err(RegistrationIdError),
                "{bad}"
            );
        }
        assert_eq!(RegistrationId::parse("SN-1").unwrap().folded(), "sn-1");
    }

    #[test]
    fn tokens_of_every_sdk_are_for_the_registration() {
        let id = RegistrationId::parse("sn:1").unwrap();
        let wanted = id.resource("0ne00AB");
        let key = SymmetricKey::generate([3; 32]);
        let expires_at = "2030-01-01T00:00:00Z".parse().unwrap();
        let now = "2029-01-01T00:00:00Z".parse().unwrap();
        // As Python has it, with every sign escaped and no policy.
        let token = SasToken::sign(wanted.clone(), &key, expires_at).to_string();
        assert!(
            token.contains("sr=0ne00ab%2Fregistrations%2Fsn%3A1"),
            "{token}"
        );
        let parsed = SasToken::parse(&token).unwrap();
        assert_eq!(parsed.verify(&wanted, &[&key], now), Ok(()));
        // As the documentation has it.
        let named = SasToken::parse(&format!("{token}&skn=registration")).unwrap();
        assert_eq!(named.verify(&wanted, &[&key], now), Ok(()));
        let other = RegistrationId::parse("sn:2").unwrap().resource("0ne00AB");
        assert!(named.verify(&other, &[&key], now).is_err());
        let scope = id.resource("0ne00AC");
        assert!(named.verify(&scope, &[&key], now).is_err());
    }
}
