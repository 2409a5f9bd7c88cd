//! Where the configurations of IoT Hub stand on a twin.

use std::collections::BTreeMap;

/// Where a configuration stands on a twin that its target condition takes (spec 9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigurationStatus {
    /// Nothing of what it wants is there.
    Targeted,
    /// What it wants is there, or a part of it.
    Applied,
}

/// The configurations that target a twin, by their ids.
pub type ConfigurationStates = BTreeMap<String, ConfigurationStatus>;

impl ConfigurationStatus {
    /// As twins and queries show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ConfigurationStatus::Targeted => "Targeted",
            ConfigurationStatus::Applied => "Applied",
        }
    }

    /// Reads what [`ConfigurationStatus::as_str`] wrote.
    pub fn parse(text: &str) -> Option<ConfigurationStatus> {
        match text {
            "Targeted" => Some(ConfigurationStatus::Targeted),
            "Applied" => Some(ConfigurationStatus::Applied),
            _ => None,
        }
    }
}
