//! What IoT Hub means by the names and topics of MQTT 3.1.1.
//!
//! MQTT itself is not here: packets are another's business. This says who connects
//! ([`connect`]) and as which model ([`model`]), what a topic that a device publishes to means and how the topics are spelled that
//! it hears from ([`topic`]), what it may subscribe to ([`filter`]) and what a property bag holds
//! ([`bag`]). Whatever is not said here is no topic of IoT Hub, and closes the connection.

pub mod bag;
pub mod connect;
pub mod filter;
pub mod model;
pub mod topic;

pub use bag::{BagError, PropertyBag};
pub use connect::{ConnectError, ConnectName};
pub use filter::{Filter, FilterKind};
pub use model::is_model_id;
pub use topic::{DeviceTopic, ServiceTopic, TopicError};
