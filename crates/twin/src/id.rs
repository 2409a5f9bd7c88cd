//! The names of devices and modules, valid by construction (spec 2.4).
//!
//! Ids are case-sensitive. They never contain a slash, so `device/module` is unambiguous.

use std::fmt;

use crate::limits::ID_CHARS_MAX;

/// The signs an id may hold beside ASCII letters and digits.
const SIGNS: &str = "-:.+%_#*?!(),=@;$'";

/// The name of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(String);

impl DeviceId {
    /// Accepts 1 to 128 letters, digits and the signs that IoT Hub allows.
    pub fn parse(text: &str) -> Result<DeviceId, IdError> {
        check(text, IdKind::Device)?;
        Ok(DeviceId(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a module below a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(String);

impl ModuleId {
    /// Name of the security module that we create; a micro agent comes with it.
    pub const SECURITY: &'static str = "DefenderIotMicroAgent";

    /// Name of the security module of older agents.
    pub const SECURITY_LEGACY: &'static str = "azureiotsecurity";

    /// Accepts 1 to 128 letters, digits and the signs that IoT Hub allows.
    pub fn parse(text: &str) -> Result<ModuleId, IdError> {
        check(text, IdKind::Module)?;
        Ok(ModuleId(text.to_owned()))
    }

    /// The security module that we create.
    pub fn security() -> ModuleId {
        ModuleId(ModuleId::SECURITY.to_owned())
    }

    /// Whether this is a security module, of our agent or of an older one.
    pub fn is_security(&self) -> bool {
        self.0 == ModuleId::SECURITY || self.0 == ModuleId::SECURITY_LEGACY
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What has a twin: a device, or a module of a device.
///
/// A device sorts directly before its modules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityKey {
    /// The device, or the device that the module belongs to.
    pub device: DeviceId,
    /// The module; none if the device itself is meant.
    pub module: Option<ModuleId>,
}

impl IdentityKey {
    /// The device itself.
    pub fn new_device(device: DeviceId) -> IdentityKey {
        IdentityKey {
            device,
            module: None,
        }
    }

    /// A module of the device.
    pub fn new_module(device: DeviceId, module: ModuleId) -> IdentityKey {
        IdentityKey {
            device,
            module: Some(module),
        }
    }

    /// Reads `device` or `device/module`, the inverse of `Display`.
    pub fn parse_path(text: &str) -> Result<IdentityKey, IdError> {
        match text.split_once('/') {
            None => Ok(IdentityKey::new_device(DeviceId::parse(text)?)),
            Some((device, module)) => Ok(IdentityKey::new_module(
                DeviceId::parse(device)?,
                ModuleId::parse(module)?,
            )),
        }
    }

    /// Whether this is a security module.
    pub fn is_security(&self) -> bool {
        self.module.as_ref().is_some_and(ModuleId::is_security)
    }
}

impl fmt::Display for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module {
            None => write!(f, "{}", self.device),
            Some(module) => write!(f, "{}/{module}", self.device),
        }
    }
}

/// Which kind of id a text was meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// A device id.
    Device,
    /// A module id.
    Module,
}

impl fmt::Display for IdKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IdKind::Device => "device",
            IdKind::Module => "module",
        })
    }
}

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// There is no text at all.
    #[error("the {kind} id is empty: it needs from 1 to {ID_CHARS_MAX} characters")]
    Empty {
        /// What the text was meant to be.
        kind: IdKind,
    },
    /// There is too much of it.
    #[error("the {kind} id has {chars} characters: at most {ID_CHARS_MAX} are allowed")]
    TooLong {
        /// What the text was meant to be.
        kind: IdKind,
        /// Its length in characters.
        chars: usize,
    },
    /// It holds a character that ids may not have.
    #[error(
        "the {kind} id has {found:?} at character {position}: ASCII letters, digits and {SIGNS} are allowed"
    )]
    Character {
        /// What the text was meant to be.
        kind: IdKind,
        /// The first character that is not allowed.
        found: char,
        /// Where it stands, counted in characters from 1.
        position: usize,
    },
}

fn check(text: &str, kind: IdKind) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { kind });
    }
    let chars = text.chars().count();
    if chars > ID_CHARS_MAX {
        return Err(IdError::TooLong { kind, chars });
    }
    for (index, found) in text.chars().enumerate() {
        if !found.is_ascii_alphanumeric() && !SIGNS.contains(found) {
            return Err(IdError::Character {
                kind,
                found,
                position: index + 1,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_allowed_sign_is_accepted() {
        let all = format!("aZ09{SIGNS}");
        assert_eq!(DeviceId::parse(&all).unwrap().as_str(), all);
    }

    #[test]
    fn an_error_names_the_character_its_place_and_what_is_allowed() {
        let error = DeviceId::parse("ab c").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the device id has ' ' at character 3: ASCII letters, digits and -:.+%_#*?!(),=@;$' are allowed"
        );
        let error = IdentityKey::parse_path("d/m/x").unwrap_err();
        assert_eq!(
            error,
            IdError::Character {
                kind: IdKind::Module,
                found: '/',
                position: 2
            }
        );
        assert_eq!(
            IdentityKey::parse_path("d/"),
            Err(IdError::Empty {
                kind: IdKind::Module
            })
        );
        assert!(DeviceId::parse("é").is_err());
    }

    #[test]
    fn length_is_bounded_at_128() {
        assert!(DeviceId::parse(&"x".repeat(128)).is_ok());
        let error = DeviceId::parse(&"x".repeat(129)).unwrap_err();
        assert_eq!(
            error,
            IdError::TooLong {
                kind: IdKind::Device,
                chars: 129
            }
        );
    }

    #[test]
    fn security_modules_of_both_generations_are_known() {
        assert!(ModuleId::security().is_security());
        assert!(
            IdentityKey::parse_path("d/azureiotsecurity")
                .unwrap()
                .is_security()
        );
        assert!(!IdentityKey::parse_path("d/other").unwrap().is_security());
        assert!(
            !IdentityKey::parse_path("DefenderIotMicroAgent")
                .unwrap()
                .is_security()
        );
    }

    #[test]
    fn a_device_sorts_directly_before_its_modules() {
        let mut keys = ["d2", "d1/m", "d1", "d1/a"].map(|p| IdentityKey::parse_path(p).unwrap());
        keys.sort();
        assert_eq!(keys.map(|k| k.to_string()), ["d1", "d1/a", "d1/m", "d2"]);
    }

    proptest! {
        #[test]
        fn a_key_survives_its_path(
            device in "[A-Za-z0-9:.+%_#*?!(),=@;$'-]{1,128}",
            module in proptest::option::of("[A-Za-z0-9:.+%_#*?!(),=@;$'-]{1,128}"),
        ) {
            let key = IdentityKey {
                device: DeviceId::parse(&device).unwrap(),
                module: module.map(|m| ModuleId::parse(&m).unwrap()),
            };
            prop_assert_eq!(IdentityKey::parse_path(&key.to_string()), Ok(key));
        }

        #[test]
        fn any_text_is_accepted_or_refused_with_a_reason(text: String) {
            match DeviceId::parse(&text) {
                Ok(id) => prop_assert_eq!(id.as_str(), text),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
