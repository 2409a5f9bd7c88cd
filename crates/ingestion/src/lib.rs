//! The door for agents: proves who connects, admits or rejects every event with a reason, makes
//! admitted events durable before it acknowledges them, and hands changed configurations down.
//!
//! - **Consumes**: gRPC `agent/v1` from agents; MQTT 3.1.1 of IoT Hub from devices; core NATS `push.*`, `identity.*` and `session.*`
//!   hints, `find-session` and `method.{instance}` questions; gRPC `CredentialService` and `DeviceTwinService` of twin-store.
//! - **Produces**: `TELEMETRY_{p}` (admitted events and session notices), `REJECTS` (events that
//!   could not be used), `APPLICATION` (what devices send for others), `session.{token}` notices to
//!   the other instances.
//! - **Owns**: `MQTT_SESSIONS`, what devices have subscribed to; nothing else is durable. What it knows of identities is a cache, and what it holds of
//!   batches is held by the agent too until it is acknowledged.
//!
//! Modules in reading order: [`config`], [`app`] (build and run); the pure decisions `admit` (which
//! events), `push` (which configuration, when) and `session` (what a message leads to); `auth` (who
//! is it); `outbox`, `inlet` and `rejects` (the way to the bus and its back-pressure); `twins` (the
//! way to twin-store); `sessions` and `nursery` (which are open, who runs them); `hints`,
//! `looking` and `backlog` (what others say, and all sessions are to do); `alive` and `farewells` (what others are told of this run and of ends);
//! `methods` (what others ask of devices); `grpc` and `mqtt` (the doors); [`error`], `metrics`.

pub mod app;
pub mod config;
pub mod error;

mod admissions;
mod admit;
mod alive;
mod auth;
mod backlog;
mod farewells;
mod grpc;
mod hints;
mod inlet;
mod looking;
mod looks;
mod methods;
mod metrics;
mod mqtt;
mod notice;
mod nursery;
mod outbox;
mod permissions;
mod push;
mod rejects;
mod session;
mod sessions;
mod text;
mod twins;

pub use app::{Addresses, App};
pub use config::{Config, Limits};
pub use error::Error;
