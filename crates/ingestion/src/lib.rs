//! The door for agents: proves who connects, admits or rejects every event with a reason, makes
//! admitted events durable before it acknowledges them, and hands changed configurations down.
//!
//! - **Consumes**: gRPC `agent/v1` from agents; core NATS `push.*`, `identity.*` and `session.*`
//!   hints; gRPC `CredentialService` and `DeviceTwinService` of twin-store.
//! - **Produces**: `TELEMETRY_{p}` (admitted events and session notices), `REJECTS` (events that
//!   could not be used), `session.{token}` notices to the other instances.
//! - **Owns**: nothing durable. What it knows of identities is a cache, and what it holds of
//!   batches is held by the agent too until it is acknowledged.
//!
//! Modules in reading order: [`config`], [`app`] (build and run), `admit` and `session` (the pure
//! decisions), `auth` (who is it), `outbox` (the way to the bus), `twins` (the way to twin-store),
//! `grpc` (the door), [`error`], `metrics`.

pub mod app;
pub mod config;
pub mod error;

pub use app::{Addresses, App};
pub use config::{Config, Limits};
pub use error::Error;
