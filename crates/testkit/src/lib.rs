//! Real servers and real processes for tests: a test of ours never talks to a stand-in for NATS or
//! PostgreSQL, and a crash in a test is a SIGKILL.
//!
//! Everything here gets a port and a directory of its own and is gone when its value is dropped,
//! so tests run beside each other. Nothing here sleeps for luck: [`wait_for`] looks at a condition
//! until it holds or a deadline passes. It panics with what to do, since its callers are tests.
//!
//! It never appears among a service's own dependencies, only among dev-dependencies.

pub mod certs;
pub mod nats;
pub mod oidc;
mod ports;
pub mod postgres;
pub mod process;
pub mod wait;

pub use certs::TestCerts;
pub use nats::{NatsOptions, NatsServer, Sync};
pub use oidc::{OidcProvider, SigningKey};
pub use ports::free_port;
pub use postgres::{Database, PostgresOptions, PostgresServer};
pub use rustix::process::Signal;

pub use process::{Process, ProcessBuilder, workspace_binary};
pub use wait::{wait_for, wait_for_blocking};
