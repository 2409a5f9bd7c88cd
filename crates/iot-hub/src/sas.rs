//! SAS tokens: `SharedAccessSignature sr={resource}&sig={signature}&se={expiry}[&skn={policy}]`.
//!
//! A token proves that its maker had a key, for one resource and until an instant. Which keys are
//! tried is the caller's choice, from the identity or the policy ([`SasToken::policy`]) it claims.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use twin::IdentityKey;

use crate::key::SymmetricKey;
use crate::percent;

mod resource;

pub use self::resource::SasResource;

const PREFIX: &str = "SharedAccessSignature ";

/// How far a device's clock may be behind ours: a token is accepted this long after its expiry, as
/// in IoT Hub's shared constants.
pub const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Longest token accepted. An escaped resource with two ids of 128 characters needs under 1 KiB; the
/// rest is room for odd encoders, and a bound on what a stranger can make us hash.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// A token as received or made. Parsing it proves nothing; [`SasToken::verify`] does.
#[derive(Clone, PartialEq, Eq)]
pub struct SasToken {
    /// The resource exactly as it stands in the token: the signature covers this text, and encoders
    /// differ, so it is never encoded again.
    raw_resource: String,
    resource: SasResource,
    signature: Vec<u8>,
    /// As it stands in the token, for the same reason.
    raw_expiry: String,
    expires_at: Timestamp,
    policy: Option<String>,
}

/// Why a token is refused. Says nothing of keys and signatures.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SasError {
    /// It does not begin with `SharedAccessSignature `.
    #[error("not a SAS token: it does not begin with \"SharedAccessSignature \"")]
    NotASasToken,
    /// It is longer than [`TOKEN_BYTES_MAX`].
    #[error("the SAS token has {bytes} bytes, allowed are {TOKEN_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A field is not there.
    #[error("the SAS token has no field {field}")]
    MissingField {
        /// The field: `sr`, `sig` or `se`.
        field: &'static str,
    },
    /// A field is there twice.
    #[error("the SAS token has the field {field} twice")]
    RepeatedField {
        /// The field.
        field: &'static str,
    },
    /// A field cannot be read.
    #[error("the SAS token's field {field} is malformed: want {wanted}")]
    MalformedField {
        /// The field.
        field: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// Its time is over.
    #[error("the SAS token expired at {expired_at}; here it is {now}")]
    Expired {
        /// The token's expiry.
        expired_at: Timestamp,
        /// Our time.
        now: Timestamp,
    },
    /// It is for something else.
    #[error("the SAS token is for {found}, not for {wanted}")]
    WrongResource {
        /// What it is for.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// None of the keys made it.
    #[error("the SAS token's signature was not made with a key of this identity or policy")]
    WrongSignature,
}

impl SasToken {
    /// Reads a token. Fields are found by name in any order and case; unknown ones are passed over.
    pub fn parse(text: &str) -> Result<Self, SasError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(SasError::TooLong { bytes: text.len() });
        }
        let fields = text.strip_prefix(PREFIX).ok_or(SasError::NotASasToken)?;
        let (mut sr, mut sig, mut se, mut skn) = (None, None, None, None);
        for field in fields.split('&') {
            let Some((name, value)) = field.split_once('=') else {
                continue;
            };
            let (field, place) = match name.trim().to_ascii_lowercase().as_str() {
                "sr" => ("sr", &mut sr),
                "sig" => ("sig", &mut sig),
                "se" => ("se", &mut se),
                "skn" => ("skn", &mut skn),
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(SasError::RepeatedField { field });
            }
        }
        let missing = |field| SasError::MissingField { field };
        let raw_resource = sr.ok_or(missing("sr"))?;
        let raw_signature = sig.ok_or(missing("sig"))?;
        let raw_expiry = se.ok_or(missing("se"))?;

        Ok(Self {
            raw_resource: raw_resource.to_owned(),
            resource: SasResource::parse(raw_resource).ok_or(SasError::MalformedField {
                field: "sr",
                wanted: "a percent-encoded host with an optional path",
            })?,
            signature: percent::decode(raw_signature)
                .and_then(|base64| STANDARD.decode(base64).ok())
                .ok_or(SasError::MalformedField {
                    field: "sig",
                    wanted: "percent-encoded base64",
                })?,
            raw_expiry: raw_expiry.to_owned(),
            expires_at: raw_expiry
                .parse()
                .ok()
                .and_then(|seconds| Timestamp::from_second(seconds).ok())
                .ok_or(SasError::MalformedField {
                    field: "se",
                    wanted: "seconds since 1970 as a decimal number",
                })?,
            // An empty name is what some SDKs write for none.
            policy: match skn.filter(|name| !name.is_empty()) {
                None => None,
                Some(name) => Some(percent::decode(name).ok_or(SasError::MalformedField {
                    field: "skn",
                    wanted: "a percent-encoded policy name",
                })?),
            },
        })
    }

    /// Makes a token for a resource, good until the whole second of `expires_at`.
    pub fn sign(resource: SasResource, key: &SymmetricKey, expires_at: Timestamp) -> Self {
        let seconds = expires_at.as_second();
        let raw_resource = percent::encode(&resource.to_string());
        let raw_expiry = seconds.to_string();
        let signature = key.sign(message(&raw_resource, &raw_expiry).as_bytes());
        Self {
            raw_resource,
            resource,
            signature: signature.as_ref().to_vec(),
            raw_expiry,
            expires_at: Timestamp::from_second(seconds)
                .expect("the seconds of a timestamp are a timestamp"),
            policy: None,
        }
    }

    /// Verifies that one of the keys made this token, that it has not expired, and that it is for
    /// `wanted`; with a policy's key, for `wanted` or what stands above it. An identity has a primary
    /// and a secondary key; either serves.
    pub fn verify(
        &self,
        wanted: &SasResource,
        keys: &[&SymmetricKey],
        now: Timestamp,
    ) -> Result<(), SasError> {
        let message = message(&self.raw_resource, &self.raw_expiry);
        // Every key is tried, whichever fits, so that the time tells nothing.
        let mut made_by_one = false;
        for key in keys {
            made_by_one |= key.verifies(message.as_bytes(), &self.signature);
        }
        if !made_by_one {
            return Err(SasError::WrongSignature);
        }
        if self.is_expired(now) {
            return Err(SasError::Expired {
                expired_at: self.expires_at,
                now,
            });
        }
        // A policy's key may serve everything below its resource; an identity's own key proves that
        // identity and nothing wider.
        let serves = match &self.policy {
            Some(_) => self.resource.covers(wanted),
            None => self.resource == *wanted,
        };
        if !serves {
            return Err(SasError::WrongResource {
                found: self.resource.to_string(),
                wanted: wanted.to_string(),
            });
        }
        Ok(())
    }

    /// Whether its time is over, with [`CLOCK_SKEW`] allowed. A session ends when it is.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now.duration_since(self.expires_at) >= CLOCK_SKEW
    }

    /// When it expires, without skew.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// What it is for, as claimed.
    pub fn resource(&self) -> &SasResource {
        &self.resource
    }

    /// The identity it is for, as claimed; none if it is for a host, a prefix, or no valid id.
    pub fn identity(&self) -> Option<IdentityKey> {
        self.resource.identity()
    }

    /// The policy whose key it claims; none if it claims the identity's own.
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }
}

fn message(raw_resource: &str, raw_expiry: &str) -> String {
    format!("{raw_resource}\n{raw_expiry}")
}

impl fmt::Display for SasToken {
    /// The token itself. It is a credential until it expires: print it only into a request.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PREFIX}sr={}&sig={}&se={}",
            self.raw_resource,
            percent::encode(&STANDARD.encode(&self.signature)),
            self.raw_expiry
        )?;
        match &self.policy {
            Some(policy) => write!(f, "&skn={}", percent::encode(policy)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SasToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SasToken")
            .field("resource", &self.resource)
            .field("expires_at", &self.expires_at)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
