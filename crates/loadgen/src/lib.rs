//! What the programs of this crate share: where the hub is, devices on it, a client of MQTT, durations.
//!
//! Nothing here judges a hub; each program does that for itself.

pub mod devices;
pub mod files;
pub mod hub;
pub mod latency;
pub mod mqtt;
pub mod probe;
pub mod process;
pub mod twins;
