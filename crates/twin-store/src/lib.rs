//! The sole owner of identities and twins.
//!
//! Consumes: admitted telemetry (`TELEMETRY_n`), requests over gRPC (`registry/v1`, `twin/v1`).
//! Produces: changes of twins (`TWINS_n`), push and identity hints (core NATS), rejects.
//! Owns: registry, credentials, enrolment tokens, twins, postures, the position in the telemetry.
//!
//! A request or a batch of events becomes a decision (`apply`, pure), which the one writer
//! (`engine`) runs with others on loaded records and commits at once; then it is answered, and
//! `outbox` publishes what changed. It knows no device connection, no policy, and no other
//! service's store.

pub mod app;
pub mod apply;
pub mod audit;
pub mod config;
pub mod consumer;
pub mod encode;
pub mod engine;
pub mod error;
pub mod follow_up;
mod forward;
pub mod grpc;
pub mod handed_down;
mod hex;
pub mod history;
pub mod index;
pub mod lookup;
pub mod metrics;
pub mod operations;
pub mod outbox;
mod partitions;
mod permissions;
pub mod presence;
pub mod provisioning;
pub mod record;
pub mod search;
pub mod secrets;
pub mod store;
pub mod upkeep;

#[cfg(test)]
mod testing;

pub use app::{Addresses, App};
pub use config::Config;
