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
pub mod postgres;
pub mod process;
pub mod wait;

pub use certs::TestCerts;
pub use nats::{NatsOptions, NatsServer, Sync};
pub use oidc::{OidcProvider, SigningKey};
pub use postgres::{Database, PostgresOptions, PostgresServer};
pub use process::{Process, ProcessBuilder, workspace_binary};
pub use wait::{wait_for, wait_for_blocking};

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// A TCP port on loopback that was free a moment ago.
///
/// Another process may take it before the caller does; prefer binding port 0 and reading the real
/// address. This is for programs that can only be told a number.
pub fn free_port() -> u16 {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    TcpListener::bind(any)
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
        .port()
}
