//! Connection strings of devices and modules:
//! `HostName=…;DeviceId=…[;ModuleId=…];SharedAccessKey=…`.
//!
//! Only what our agent and command line need: a key of the identity itself. Certificates, ready-made
//! signatures and service policies are refused by name rather than passed over, because a program
//! that drops half of its credentials fails far from the cause.

use std::fmt;

use twin::{DeviceId, IdError, IdentityKey, ModuleId};

use crate::key::{KeyError, SymmetricKey};

/// Most bytes of a connection string: every field at its own limit, with room.
pub const CONNECTION_STRING_BYTES_MAX: usize = 2048;

/// Most bytes of a host name with its port: DNS allows 253.
pub const HOST_BYTES_MAX: usize = 260;

/// Where an identity connects to, who it is, and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString {
    host_name: String,
    identity: IdentityKey,
    key: SymmetricKey,
}

/// Why a text is no connection string. Names the key of the field, never its secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionStringError {
    /// Longer than [`CONNECTION_STRING_BYTES_MAX`].
    #[error("the connection string has {bytes} bytes, allowed are {CONNECTION_STRING_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A part between semicolons has no equals sign. Its text is not told: it may be a key.
    #[error("part {part} of the connection string is not Key=Value")]
    NotKeyValue {
        /// Which part, from 1.
        part: usize,
    },
    /// A field is not there.
    #[error("the connection string has no {key}")]
    Missing {
        /// The field.
        key: &'static str,
    },
    /// A field is there twice.
    #[error("the connection string has {key} twice")]
    Repeated {
        /// The field.
        key: &'static str,
    },
    /// A field that other hubs or credentials use and that is not supported here.
    #[error(
        "the connection string has {key}, which is not supported: use a SharedAccessKey of the device or module"
    )]
    Unsupported {
        /// The field.
        key: &'static str,
    },
    /// A field that nobody knows.
    #[error(
        "part {part} of the connection string has an unknown key; known are HostName, DeviceId, ModuleId and SharedAccessKey"
    )]
    Unknown {
        /// Which part, from 1.
        part: usize,
    },
    /// No host name, or one with signs that none has.
    #[error(
        "HostName is malformed: want a host name or address with an optional :port, at most {HOST_BYTES_MAX} bytes"
    )]
    HostName,
    /// An id is malformed.
    #[error("{key} is malformed")]
    Id {
        /// The field.
        key: &'static str,
        /// What is wrong with it.
        source: IdError,
    },
    /// An id that a connection string cannot carry.
    #[error("{key} contains a semicolon, which separates the fields of a connection string")]
    Semicolon {
        /// The field.
        key: &'static str,
    },
    /// The key is malformed.
    #[error("SharedAccessKey is malformed")]
    Key {
        /// What is wrong with it.
        source: KeyError,
    },
}

impl ConnectionString {
    /// Puts one together.
    pub fn new(
        host_name: &str,
        identity: IdentityKey,
        key: SymmetricKey,
    ) -> Result<Self, ConnectionStringError> {
        if !is_host(host_name) {
            return Err(ConnectionStringError::HostName);
        }
        // IoT Hub allows the sign in ids, and its connection strings have no escape for it.
        let module = identity.module.as_ref().map(ModuleId::as_str);
        for (key, id) in [
            (DEVICE_ID, identity.device.as_str()),
            (MODULE_ID, module.unwrap_or_default()),
        ] {
            if id.contains(';') {
                return Err(ConnectionStringError::Semicolon { key });
            }
        }
        Ok(Self {
            host_name: host_name.to_owned(),
            identity,
            key,
        })
    }

    /// Reads one. Fields come in any order; their keys are compared without case, as the SDKs do.
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        let text = text.trim();
        if text.len() > CONNECTION_STRING_BYTES_MAX {
            return Err(ConnectionStringError::TooLong { bytes: text.len() });
        }
        let (mut host_name, mut device, mut module, mut key) = (None, None, None, None);
        for (index, field) in text.split(';').enumerate() {
            let part = index + 1;
            if field.trim().is_empty() {
                continue;
            }
            // At the first sign only: keys in base64 end in some.
            let (name, value) = field
                .split_once('=')
                .ok_or(ConnectionStringError::NotKeyValue { part })?;
            let (name, place) = match name.trim().to_ascii_lowercase().as_str() {
                "hostname" => (HOST_NAME, &mut host_name),
                "deviceid" => (DEVICE_ID, &mut device),
                "moduleid" => (MODULE_ID, &mut module),
                "sharedaccesskey" => (SHARED_ACCESS_KEY, &mut key),
                other => return Err(refused(other, part)),
            };
            if place.replace(value.trim()).is_some() {
                return Err(ConnectionStringError::Repeated { key: name });
            }
        }
        let missing = |key| ConnectionStringError::Missing { key };
        let host_name = host_name.ok_or(missing(HOST_NAME))?;
        let device = device.ok_or(missing(DEVICE_ID))?;
        let key = key.ok_or(missing(SHARED_ACCESS_KEY))?;
        let id = |key| move |source| ConnectionStringError::Id { key, source };
        let identity = IdentityKey {
            device: DeviceId::parse(device).map_err(id(DEVICE_ID))?,
            module: module
                .map(ModuleId::parse)
                .transpose()
                .map_err(id(MODULE_ID))?,
        };
        let key =
            SymmetricKey::parse(key).map_err(|source| ConnectionStringError::Key { source })?;
        Self::new(host_name, identity, key)
    }

    /// The host, with its port if one was given.
    pub fn host_name(&self) -> &str {
        &self.host_name
    }

    /// Whom the key belongs to.
    pub fn identity(&self) -> &IdentityKey {
        &self.identity
    }

    /// The key.
    pub fn key(&self) -> &SymmetricKey {
        &self.key
    }

    /// The whole text, key included: for the file or screen of the one who may have it.
    pub fn to_secret_string(&self) -> zeroize::Zeroizing<String> {
        let module = match &self.identity.module {
            Some(module) => format!(";{MODULE_ID}={module}"),
            None => String::new(),
        };
        zeroize::Zeroizing::new(format!(
            "{HOST_NAME}={};{DEVICE_ID}={}{module};{SHARED_ACCESS_KEY}={}",
            self.host_name,
            self.identity.device,
            self.key.to_base64().as_str()
        ))
    }
}

const HOST_NAME: &str = "HostName";
const DEVICE_ID: &str = "DeviceId";
const MODULE_ID: &str = "ModuleId";
const SHARED_ACCESS_KEY: &str = "SharedAccessKey";

/// The error for a key that is not ours. An unknown key's own text is not told: where a value lost
/// its key, it may be a secret.
fn refused(key: &str, part: usize) -> ConnectionStringError {
    let key = match key {
        "sharedaccesskeyname" => "SharedAccessKeyName",
        "sharedaccesssignature" => "SharedAccessSignature",
        "gatewayhostname" => "GatewayHostName",
        "x509" => "x509",
        _ => return ConnectionStringError::Unknown { part },
    };
    ConnectionStringError::Unsupported { key }
}

/// Letters, digits and the signs of names, addresses and ports.
fn is_host(text: &str) -> bool {
    (1..=HOST_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionString")
            .field("host_name", &self.host_name)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
