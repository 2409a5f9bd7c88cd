//! The security twin as values: identities, the document of an identity, how it is merged,
//! who wrote which leaf, and the language in which conditions over it are written.
//!
//! Everything here is pure. This crate never reads a clock, draws a random number, logs, does
//! input or output, or knows that a network or a store exists: time is an argument, and every
//! function gives the same result for the same arguments, on every replica and in every replay.
//!
//! Reading order for a newcomer:
//! [`id`] → [`version`] → [`writer`] → [`limits`] → [`section`] (one of tags, desired, reported)
//! → [`settings`] (what policies make of a desired section) → [`twin`] → [`query`].

pub mod id;
pub mod partition;
pub mod version;
pub mod writer;

pub mod code;
pub mod configuration;
pub mod limits;
pub mod validate;

pub mod merge;
pub mod metadata;
pub mod parse;
pub mod patch;
pub mod plug_and_play;
pub mod section;
pub mod settings;
pub mod twin;

pub mod query;

#[cfg(test)]
mod testing;

pub use code::ErrorCode;
pub use configuration::{ConfigurationStates, ConfigurationStatus};
pub use id::{DeviceId, IdError, IdentityKey, ModuleId};
pub use metadata::{MetadataError, NodeMeta, Stamp};
pub use parse::{duplicate_key, parse_document};
pub use partition::{Partition, PartitionCount, partition_of};
pub use query::{Condition, QueryError, Statement, TwinView};
pub use section::{Section, SectionKind};
pub use settings::{
    LostLeaf, PolicyChange, PolicyOutcome, PolicyWrite, apply_policy_settings, validate_settings,
};
pub use twin::{PolicyApplied, Twin, TwinError, TwinPatch, TwinWrite};
pub use validate::{Rule, Violation, ViolationKind, Violations};
pub use version::{Etag, Revision, Version};
pub use writer::{Writer, WriterError};

/// A JSON object, as every section of a twin is one.
pub type Map = serde_json::Map<String, serde_json::Value>;
