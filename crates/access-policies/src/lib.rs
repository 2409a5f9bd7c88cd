//! IoT Hub's shared access policies: names with rights and keys, in a file that the doors share.
//!
//! A token that names a policy (`skn`) proves that its maker has a key of it. What the policy then
//! opens is for the doors to say: the gateway asks for the rights of a call, ingestion for
//! `DeviceConnect`. It knows no identity and no call.

use iot_hub::SymmetricKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

mod file;
mod followed;

pub use file::AccessError;
pub use followed::Followed;

/// What a shared access policy allows (spec §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Right {
    /// Reading identities.
    RegistryRead,
    /// Writing identities.
    RegistryWrite,
    /// Twins, queries, methods, jobs and messages to devices.
    ServiceConnect,
    /// Acting as a device.
    DeviceConnect,
}

impl Right {
    /// As IoT Hub calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RegistryRead => "RegistryRead",
            Self::RegistryWrite => "RegistryWrite",
            Self::ServiceConnect => "ServiceConnect",
            Self::DeviceConnect => "DeviceConnect",
        }
    }
}

/// A policy: a name, what it allows, and two keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessPolicy {
    name: String,
    rights: Vec<Right>,
    primary: SymmetricKey,
    secondary: SymmetricKey,
}

impl AccessPolicy {
    /// Its name, `skn` in tokens.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it allows.
    pub fn rights(&self) -> &[Right] {
        &self.rights
    }

    /// Whether it allows that.
    pub fn allows(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }

    /// Either opens.
    pub fn keys(&self) -> Vec<&SymmetricKey> {
        vec![&self.primary, &self.secondary]
    }

    /// What back-end programs are given: `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…`.
    pub fn connection_string(&self, host: &str) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "HostName={host};SharedAccessKeyName={};SharedAccessKey={}",
            self.name,
            *self.primary.to_base64()
        ))
    }
}

/// All policies of the hub.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessPolicies(Vec<AccessPolicy>);

impl AccessPolicies {
    /// All of them, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &AccessPolicy> {
        self.0.iter()
    }

    /// Those that allow something, and nothing of the others: who needs no more has no other keys.
    #[must_use]
    pub fn with(mut self, right: Right) -> Self {
        self.0.retain(|policy| policy.allows(right));
        self
    }

    /// A policy by its name.
    pub fn named(&self, name: &str) -> Option<&AccessPolicy> {
        self.0.iter().find(|policy| policy.name == name)
    }
}
