//! Builds the service (all listeners bound, everything it needs reached) and runs it until it is
//! told to stop.

use std::net::SocketAddr;

use service_kit::clock::SharedClock;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::Error;

/// Where the service really listens; differs from the configuration when that says port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The agents' door (gRPC).
    pub grpc: SocketAddr,
    /// Health and metrics (HTTP).
    pub admin: SocketAddr,
}

/// Ingestion, ready to run.
pub struct App {
    addresses: Addresses,
}

impl App {
    /// Checks the configuration, binds the listeners, connects to the bus and makes sure of the
    /// streams. Twin-store need not be up yet: agents are answered UNAVAILABLE until it is.
    pub async fn build(config: Config, clock: SharedClock) -> Result<Self, Error> {
        let _ = (config, clock);
        Err(Error::Unfinished)
    }

    /// Where the service listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `shutdown` is cancelled, then drains and returns: no new connections, sessions
    /// end with UNAVAILABLE, what was taken in is published, all within `drain_within`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        shutdown.cancelled().await;
        Ok(())
    }
}
