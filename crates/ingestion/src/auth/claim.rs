//! What somebody shows to be let in, before anybody has judged it. Pure.

use iot_hub::SasToken;
use iot_hub::mqtt::ConnectName;
use jiff::Timestamp;
use tonic::metadata::MetadataMap;
use twin::IdentityKey;

use super::AuthError;
use super::proof::check_time;

/// Where the token stands in a call's metadata.
const AUTHORIZATION: &str = "authorization";

/// Who somebody says it is, and what is to prove that.
pub(super) enum Claim<'a> {
    /// A token.
    Token(IdentityKey, SasToken),
    /// The certificates that the handshake has shown.
    Certificates {
        /// Who connects.
        identity: IdentityKey,
        /// Its own, in DER form.
        own: &'a [u8],
        /// All of them, its own first.
        chain: &'a [Vec<u8>],
    },
}

impl<'a> Claim<'a> {
    /// Of whoever makes a call: who it is says its token.
    pub(super) fn of_call(metadata: &MetadataMap, now: Timestamp) -> Result<Self, AuthError> {
        let text = metadata.get(AUTHORIZATION).ok_or(AuthError::Missing)?;
        // What is not ASCII is no token; the parser says so in its own words.
        let token = SasToken::parse(text.to_str().unwrap_or_default())?;
        let identity = token.identity().ok_or_else(|| AuthError::NoIdentity {
            resource: crate::text::shorten(token.resource().to_string(), 256),
        })?;
        Self::by_token(identity, token, now)
    }

    /// Of whoever connects by MQTT: the password, or without one the certificate.
    pub(super) fn of_device(
        name: &ConnectName,
        password: Option<&[u8]>,
        certificates: &'a [Vec<u8>],
        host: &str,
        now: Timestamp,
    ) -> Result<Self, AuthError> {
        if !name.is_for(host) {
            return Err(AuthError::WrongHost {
                found: crate::text::shorten(name.host.clone(), 256),
                host: host.to_owned(),
            });
        }
        let identity = name.identity.clone();
        match (password, certificates.first()) {
            (Some(password), _) => {
                let text = std::str::from_utf8(password).unwrap_or_default();
                let token = SasToken::parse(text)?;
                // One of a policy may be for all that stands below its resource.
                if token.policy().is_none() && token.identity().as_ref() != Some(&identity) {
                    return Err(AuthError::AnotherIdentity { identity });
                }
                Self::by_token(identity, token, now)
            }
            (None, Some(own)) => Ok(Self::Certificates {
                identity,
                own,
                chain: certificates,
            }),
            (None, None) => Err(AuthError::NothingShown),
        }
    }

    /// Before anybody is asked: an expired token needs no keys to be refused.
    fn by_token(identity: IdentityKey, token: SasToken, now: Timestamp) -> Result<Self, AuthError> {
        check_time(&token, now)?;
        Ok(Self::Token(identity, token))
    }

    /// Who it says it is.
    pub(super) fn identity(&self) -> &IdentityKey {
        match self {
            Self::Token(identity, _) | Self::Certificates { identity, .. } => identity,
        }
    }
}
