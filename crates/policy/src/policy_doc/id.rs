//! The name of a policy.

use std::fmt;

use twin::Writer;

use crate::configuration_doc::ConfigurationId;

/// Characters of a policy's id: it stands in every leaf's metadata as `policy:<id>@<revision>`.
pub const ID_CHARS_MAX: usize = 128;

/// The name of a policy: lower-case letters, digits, `-`, `_`, `.`, starting with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(String);

impl PolicyId {
    /// Accepts 1 to 128 of the allowed characters; the error says what was found and what is allowed.
    pub fn parse(text: &str) -> Result<PolicyId, String> {
        const ALLOWED: &str = "1 to 128 lower-case letters, digits, `-`, `_` and `.`, starting \
                               with a letter or a digit";
        if text.is_empty() {
            return Err(format!("is empty; allowed are {ALLOWED}"));
        }
        let chars = text.chars().count();
        if chars > ID_CHARS_MAX {
            return Err(format!("has {chars} characters; allowed are {ALLOWED}"));
        }
        for (index, found) in text.chars().enumerate() {
            let plain = found.is_ascii_lowercase() || found.is_ascii_digit();
            if !plain && (index == 0 || !"-_.".contains(found)) {
                let place = index + 1;
                return Err(format!(
                    "has {found:?} at character {place}; allowed are {ALLOWED}"
                ));
            }
        }
        Ok(PolicyId(text.to_owned()))
    }

    /// The name of a configuration of IoT Hub among policies. No policy's id has a colon, so it is
    /// nobody else's.
    pub(crate) fn of_configuration(id: &ConfigurationId) -> PolicyId {
        PolicyId(format!("{}{id}", Writer::CONFIGURATION))
    }

    /// Whether it names a configuration.
    pub(crate) fn is_of_configuration(&self) -> bool {
        self.0.starts_with(Writer::CONFIGURATION)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
