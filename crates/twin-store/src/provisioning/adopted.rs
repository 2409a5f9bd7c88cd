//! An enrolment whose devices a group takes over: the one that an operator meant, and none that is made
//! under its name later.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::key_of;
use crate::record::EnrolledBy;
use crate::store::ProvisioningKey;

/// An enrolment whose devices a group takes over, once it is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// As the operator wrote it.
    pub name: String,
    /// What has been seen of it.
    pub seen: Option<Seen>,
}

/// What there was when an operator named it. None in what was written before this was kept: then all
/// that have ever had the name are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The enrolment that had the name then, if there was one.
    pub generation: Option<String>,
    /// When that was: devices that had come by the name until then are meant in any case.
    pub at: Timestamp,
}

impl Adopted {
    /// One that is yet to be looked at.
    pub fn unseen(name: String) -> Self {
        Self { name, seen: None }
    }

    /// Its row; ids of single devices are compared without case.
    pub fn key(&self) -> Option<ProvisioningKey> {
        key_of(&self.name)
    }

    /// Whether it is the one that a device came by, last at `last_at`.
    pub fn is(&self, by: &EnrolledBy, last_at: Timestamp) -> bool {
        let is_named = match (self.key(), key_of(&by.name)) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (None, _) | (_, None) => false,
        };
        let is_meant = self.seen.as_ref().is_none_or(|seen| {
            let is_that = seen.generation.is_some() && seen.generation == by.generation;
            is_that || last_at <= seen.at
        });
        is_named && is_meant
    }
}

/// As a row has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Body {
    /// As it was written before anything was seen.
    Name(String),
    /// With what was seen.
    Seen {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generation: Option<String>,
        at: String,
    },
}

impl Body {
    pub(super) fn of(adopted: &Adopted) -> Self {
        let name = adopted.name.clone();
        match &adopted.seen {
            None => Self::Name(name),
            Some(Seen { generation, at }) => Self::Seen {
                name,
                generation: generation.clone(),
                at: at.to_string(),
            },
        }
    }

    pub(super) fn read(self) -> Result<Adopted, String> {
        match self {
            Self::Name(name) => Ok(Adopted::unseen(name)),
            Self::Seen {
                name,
                generation,
                at,
            } => {
                let at = at.parse().map_err(|error: jiff::Error| error.to_string())?;
                let seen = Some(Seen { generation, at });
                Ok(Adopted { name, seen })
            }
        }
    }
}
