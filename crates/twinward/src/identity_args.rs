//! How a person names a device or a module on the command line.

#![allow(
    clippy::doc_markdown,
    reason = "comments on arguments are help texts, which show backticks as they are"
)]

use clap::Args;
use twin::{DeviceId, IdError, IdentityKey, ModuleId};
use wire::names;

/// One device.
#[derive(Debug, Args)]
pub(crate) struct DeviceArg {
    /// Id of the device
    #[arg(value_name = "DEVICE", value_parser = device)]
    pub(crate) device: DeviceId,
}

/// One module of a device.
#[derive(Debug, Args)]
pub(crate) struct ModuleArg {
    /// Id of the device
    #[arg(value_name = "DEVICE", value_parser = device)]
    pub(crate) device: DeviceId,
    /// Id of the module; the security module is called DefenderIotMicroAgent
    #[arg(value_name = "MODULE", value_parser = module)]
    pub(crate) module: ModuleId,
}

impl ModuleArg {
    /// The module as an identity.
    pub(crate) fn key(&self) -> IdentityKey {
        IdentityKey::new_module(self.device.clone(), self.module.clone())
    }
}

/// A device or a module, for what both have: a twin.
#[derive(Debug, Args)]
pub(crate) struct IdentityArg {
    /// DEVICE, or DEVICE/MODULE, or a resource name as errors and JSON show it
    #[arg(value_name = "IDENTITY", value_parser = identity)]
    pub(crate) identity: IdentityKey,
    /// The security module of DEVICE, short for DEVICE/DefenderIotMicroAgent
    #[arg(short, long)]
    pub(crate) security: bool,
}

impl IdentityArg {
    /// The identity that is meant.
    pub(crate) fn key(&self) -> IdentityKey {
        resolve(&self.identity, self.security)
    }
}

/// Applies `--security`; a module that was named stays what was named.
pub(crate) fn resolve(identity: &IdentityKey, security: bool) -> IdentityKey {
    match (&identity.module, security) {
        (None, true) => IdentityKey::new_module(identity.device.clone(), ModuleId::security()),
        (Some(_), _) | (None, false) => identity.clone(),
    }
}

/// Reads `d`, `d/m`, `devices/d` or `devices/d/modules/m`. What looks like a resource name is one,
/// since people paste them from messages.
pub(crate) fn identity(text: &str) -> Result<IdentityKey, String> {
    if text.starts_with("devices/") {
        return names::parse_identity("name", text).map_err(|error| error.problem);
    }
    IdentityKey::parse_path(text).map_err(|error| error.to_string())
}

/// Reads a device id; the error says what is allowed.
pub(crate) fn device(text: &str) -> Result<DeviceId, IdError> {
    DeviceId::parse(text)
}

fn module(text: &str) -> Result<ModuleId, IdError> {
    ModuleId::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_may_be_pasted_from_a_message() {
        for (text, path) in [
            ("cam", "cam"),
            ("cam/agent", "cam/agent"),
            ("devices/cam", "cam"),
            ("devices/cam/modules/agent", "cam/agent"),
        ] {
            assert_eq!(identity(text).unwrap().to_string(), path);
        }
        assert!(
            identity("devices/cam/agent")
                .unwrap_err()
                .contains("devices/{device}")
        );
    }
}
