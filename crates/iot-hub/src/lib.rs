//! IoT Hub's wire as values: shared keys, SAS tokens, connection strings, thumbprints of
//! certificates, MQTT's names and topics, direct methods, security messages, provisioning, error
//! bodies.
//!
//! Pure: no sockets, no clock, no randomness; the time and random bytes are arguments. It decides
//! whether a token proves possession of a key for a resource; which keys an identity has, and what
//! it may do with them, is for its callers to know.
//!
//! Secrets never print: [`SymmetricKey`] and everything that holds one redact themselves, and no
//! error carries a key, a signature or a text that may be one.

pub mod connection_string;
pub mod error_body;
pub mod key;
pub mod message;
pub mod method;
pub mod mqtt;
pub mod percent;
pub mod provisioning;
pub mod sas;
pub mod security;
pub mod thumbprint;

pub use crate::connection_string::{ConnectionString, ConnectionStringError};
pub use crate::error_body::ErrorBody;
pub use crate::key::{KeyError, SymmetricKey};
pub use crate::method::{MethodName, MethodNameError};
pub use crate::provisioning::RegistrationId;
pub use crate::sas::{SasError, SasResource, SasToken};
pub use crate::thumbprint::Thumbprints;
