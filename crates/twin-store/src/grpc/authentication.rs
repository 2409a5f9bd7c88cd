//! How an identity is to prove itself, as requests say it: checked here, sealed for the identity.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use iot_hub::SymmetricKey;
use twin::IdentityKey;
use wire::InvalidField;
use wire::registry::v1 as proto;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::provisioning::Credentials;
use crate::record::{Authentication, Record};
use crate::secrets::{Sealed, Sealer};

/// Random bytes of a key, as IoT Hub makes them.
const KEY_BYTES: usize = 32;
/// Hex digits of a SHA-1 thumbprint.
const SHA1_DIGITS: usize = 40;
/// Hex digits of a SHA-256 thumbprint.
const SHA256_DIGITS: usize = 64;

/// The ways to prove oneself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sas,
    SelfSigned,
    CertificateAuthority,
    None,
}

/// Two keys that a caller chose.
pub(super) struct Keys {
    pub(super) primary: Zeroizing<String>,
    pub(super) secondary: Zeroizing<String>,
}

/// How an identity is to prove itself, as a request says it.
pub(super) struct Wanted {
    kind: Option<Kind>,
    keys: Option<Keys>,
    thumbprints: Option<(String, Option<String>)>,
}

impl Wanted {
    /// Reads the fields that creating and updating requests have in common.
    pub(super) fn read(
        kind: i32,
        keys: Option<proto::SymmetricKeys>,
        thumbprints: Option<&proto::Thumbprints>,
    ) -> Result<Wanted, Error> {
        let keys = keys.map(given_keys).transpose()?;
        let thumbprints = thumbprints.map(given_thumbprints).transpose()?;
        Ok(Wanted {
            kind: given_kind(kind)?,
            keys,
            thumbprints,
        })
    }

    /// Fresh keys: what an identity gets when nobody says otherwise.
    pub(super) fn fresh_keys() -> Wanted {
        Wanted {
            kind: None,
            keys: None,
            thumbprints: None,
        }
    }

    /// What a device has proven that registers by an enrolment.
    pub(super) fn proven(credentials: Credentials) -> Wanted {
        match credentials {
            Credentials::Keys(primary, secondary) => Wanted {
                kind: Some(Kind::Sas),
                keys: Some(Keys { primary, secondary }),
                thumbprints: None,
            },
            Credentials::Thumbprints(primary, secondary) => Wanted {
                kind: Some(Kind::SelfSigned),
                keys: None,
                thumbprints: Some((primary, secondary)),
            },
        }
    }

    /// Whether the request says nothing of it.
    pub(super) fn is_empty(&self) -> bool {
        self.kind.is_none() && self.keys.is_none() && self.thumbprints.is_none()
    }

    /// What a new identity gets.
    pub(super) fn for_new(
        self,
        sealer: &Sealer,
        key: &IdentityKey,
        generation_id: &str,
    ) -> Result<Authentication, Error> {
        self.resolve(sealer, &owner(key, generation_id), None)
    }

    /// What an identity that is there gets.
    pub(super) fn for_record(
        self,
        sealer: &Sealer,
        record: &Record,
    ) -> Result<Authentication, Error> {
        let owner = owner(&record.key, &record.identity.generation_id);
        self.resolve(sealer, &owner, Some(&record.identity.authentication))
    }

    fn resolve(
        self,
        sealer: &Sealer,
        owner: &str,
        current: Option<&Authentication>,
    ) -> Result<Authentication, Error> {
        let kind = self
            .kind
            .unwrap_or_else(|| current.map_or(Kind::Sas, Kind::of));
        let only = |field: &str, kind: &str| -> Error {
            InvalidField::new(field, format!("is allowed only with {kind}")).into()
        };
        if self.keys.is_some() && kind != Kind::Sas {
            return Err(only("keys", "AUTHENTICATION_TYPE_SAS"));
        }
        if self.thumbprints.is_some() && kind != Kind::SelfSigned {
            return Err(only("thumbprints", "AUTHENTICATION_TYPE_SELF_SIGNED"));
        }
        match (kind, current) {
            (Kind::Sas, Some(sas @ Authentication::Sas { .. })) if self.keys.is_none() => {
                Ok(sas.clone())
            }
            (Kind::Sas, _) => {
                let (primary, secondary) = match self.keys {
                    Some(keys) => (keys.primary, keys.secondary),
                    None => (new_key(sealer)?, new_key(sealer)?),
                };
                Ok(Authentication::Sas {
                    primary: sealer.seal(owner, &primary)?,
                    secondary: sealer.seal(owner, &secondary)?,
                })
            }
            (Kind::SelfSigned, current) => match (self.thumbprints, current) {
                (Some((primary, secondary)), _) => {
                    Ok(Authentication::SelfSigned { primary, secondary })
                }
                (None, Some(own @ Authentication::SelfSigned { .. })) => Ok(own.clone()),
                (None, _) => {
                    let problem = "is required with AUTHENTICATION_TYPE_SELF_SIGNED";
                    Err(InvalidField::new("thumbprints", problem).into())
                }
            },
            (Kind::CertificateAuthority, _) => Ok(Authentication::CertificateAuthority),
            (Kind::None, _) => Ok(Authentication::None),
        }
    }
}

impl Kind {
    fn of(authentication: &Authentication) -> Kind {
        match authentication {
            Authentication::Sas { .. } => Kind::Sas,
            Authentication::SelfSigned { .. } => Kind::SelfSigned,
            Authentication::CertificateAuthority => Kind::CertificateAuthority,
            Authentication::None => Kind::None,
        }
    }
}

/// A fresh key, sealed for an identity.
pub(super) fn fresh_key(sealer: &Sealer, record: &Record) -> Result<Sealed, Error> {
    let owner = owner(&record.key, &record.identity.generation_id);
    Ok(sealer.seal(&owner, &new_key(sealer)?)?)
}

/// The keys of a record, open; none if it does not prove itself by keys.
pub(super) fn open_keys(
    sealer: &Sealer,
    record: &Record,
) -> Result<Option<proto::SymmetricKeys>, Error> {
    let Authentication::Sas { primary, secondary } = &record.identity.authentication else {
        return Ok(None);
    };
    let owner = owner(&record.key, &record.identity.generation_id);
    Ok(Some(proto::SymmetricKeys {
        primary: sealer.open_sealed(&owner, primary)?.to_string(),
        secondary: sealer.open_sealed(&owner, secondary)?.to_string(),
    }))
}

/// Whether a record proves itself by just these.
pub(super) fn has_credentials(
    sealer: &Sealer,
    record: &Record,
    credentials: &Credentials,
) -> Result<bool, Error> {
    Ok(match (&record.identity.authentication, credentials) {
        (Authentication::Sas { .. }, Credentials::Keys(primary, secondary)) => {
            let keys = open_keys(sealer, record)?;
            keys.is_some_and(|keys| keys.primary == **primary && keys.secondary == **secondary)
        }
        (
            Authentication::SelfSigned { primary, secondary },
            Credentials::Thumbprints(shown, other),
        ) => primary == shown && secondary == other,
        _ => false,
    })
}

/// The same keys of a record, sealed under the present master key; none if they are already, or
/// there are none.
pub(super) fn resealed(sealer: &Sealer, record: &Record) -> Result<Option<Authentication>, Error> {
    let Authentication::Sas { primary, secondary } = &record.identity.authentication else {
        return Ok(None);
    };
    if sealer.is_current(primary) && sealer.is_current(secondary) {
        return Ok(None);
    }
    let owner = owner(&record.key, &record.identity.generation_id);
    let again = |sealed: &Sealed| -> Result<Sealed, Error> {
        let open = sealer.open_sealed(&owner, sealed)?;
        Ok(sealer.seal(&owner, &open)?)
    };
    Ok(Some(Authentication::Sas {
        primary: again(primary)?,
        secondary: again(secondary)?,
    }))
}

/// What a sealed key is bound to.
fn owner(key: &IdentityKey, generation_id: &str) -> String {
    format!("{key}#{generation_id}")
}

pub(super) fn new_key(sealer: &Sealer) -> Result<Zeroizing<String>, Error> {
    let bytes = sealer.random::<KEY_BYTES>()?;
    Ok(Zeroizing::new(BASE64_STANDARD.encode(bytes.as_slice())))
}

fn given_kind(kind: i32) -> Result<Option<Kind>, Error> {
    use proto::AuthenticationType as Type;
    match Type::try_from(kind) {
        Ok(Type::Unspecified) => Ok(None),
        Ok(Type::Sas) => Ok(Some(Kind::Sas)),
        Ok(Type::SelfSigned) => Ok(Some(Kind::SelfSigned)),
        Ok(Type::CertificateAuthority) => Ok(Some(Kind::CertificateAuthority)),
        Ok(Type::None) => Ok(Some(Kind::None)),
        Err(_) => {
            let problem = format!("{kind} is none that is known");
            Err(InvalidField::new("authentication_type", problem).into())
        }
    }
}

pub(super) fn given_keys(keys: proto::SymmetricKeys) -> Result<Keys, Error> {
    let check = |field: &str, text: String| -> Result<Zeroizing<String>, Error> {
        let text = Zeroizing::new(text);
        if text.is_empty() {
            let problem = "is missing; give both keys, or none to have them generated";
            return Err(InvalidField::new(field, problem).into());
        }
        SymmetricKey::parse(&text).map_err(|error| InvalidField::new(field, error))?;
        Ok(text)
    };
    Ok(Keys {
        primary: check("keys.primary", keys.primary)?,
        secondary: check("keys.secondary", keys.secondary)?,
    })
}

pub(super) fn given_thumbprints(
    given: &proto::Thumbprints,
) -> Result<(String, Option<String>), Error> {
    let primary = thumbprint("thumbprints.primary", &given.primary)?;
    let secondary = match given.secondary.as_str() {
        "" => None,
        text => Some(thumbprint("thumbprints.secondary", text)?),
    };
    Ok((primary, secondary))
}

/// Hex of SHA-1 or SHA-256, in upper case, so that two forms of one thumbprint are equal.
fn thumbprint(field: &str, text: &str) -> Result<String, Error> {
    let digits = text.len();
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit())
        || ![SHA1_DIGITS, SHA256_DIGITS].contains(&digits)
    {
        let problem = format!(
            "must be {SHA1_DIGITS} (SHA-1) or {SHA256_DIGITS} (SHA-256) hex digits \
             without separators; it has {digits} characters"
        );
        return Err(InvalidField::new(field, problem).into());
    }
    Ok(text.to_ascii_uppercase())
}

#[cfg(test)]
mod tests;
