//! The services as this program sees them: a name, a configuration, something to build and
//! run. Running one alone and running all together go through here.

use std::error::Error;
use std::net::SocketAddr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use service_kit::clock::SharedClock;
use service_kit::config::{ConfigError, Validate};
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;

use crate::exit::Kind;
use crate::failure::Failure;

/// Any error of a service.
pub(crate) type ServiceError = Box<dyn Error + Send + Sync>;

/// Where a service really listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// gRPC; REST, of the gateway.
    pub(crate) grpc: SocketAddr,
    /// Health and metrics.
    pub(crate) admin: SocketAddr,
}

/// A service that has been built: its listeners are bound, and it can run.
pub(crate) trait Service: Sized {
    /// As on the command line, in configuration files and in logs.
    const NAME: &'static str;
    /// What it can be told.
    type Config: Default + Serialize + DeserializeOwned + Validate;

    /// Binds and connects.
    async fn build(config: Self::Config, clock: SharedClock) -> Result<Self, ServiceError>;
    /// Where it listens.
    fn addresses(&self) -> Addresses;
    /// Serves until it is told to stop.
    async fn run(self, shutdown: ShutdownToken) -> Result<(), ServiceError>;
}

macro_rules! service {
    ($name:literal, $library:ident, $door:ident) => {
        impl Service for $library::App {
            const NAME: &'static str = $name;
            type Config = $library::Config;

            async fn build(config: Self::Config, clock: SharedClock) -> Result<Self, ServiceError> {
                Ok($library::App::build(config, clock).await?)
            }

            fn addresses(&self) -> Addresses {
                let addresses = $library::App::addresses(self);
                Addresses {
                    grpc: addresses.$door,
                    admin: addresses.admin,
                }
            }

            async fn run(self, shutdown: ShutdownToken) -> Result<(), ServiceError> {
                Ok($library::App::run(self, shutdown).await?)
            }
        }
    };
}

service!("ingestion", ingestion, grpc);
service!("twin-store", twin_store, grpc);
service!("policy", policy, grpc);
service!("gateway", gateway, rest);

/// Says that a service cannot be built or has failed.
pub(crate) fn failed(service: &str, what: &str, error: &ServiceError) -> Failure {
    Failure::new(Kind::Failed, format!("{service} {what}")).because(chain(&**error))
}

/// Shows every problem of a configuration on a line of its own.
pub(crate) fn unusable(service: &str, error: &ConfigError) -> Failure {
    let mut failure = Failure::new(
        Kind::Invalid,
        format!("the configuration of {service} cannot be used"),
    );
    for problem in error.problems() {
        failure = failure.detail(problem.to_string());
    }
    failure.advise("--print-config shows the configuration in effect, once it can be read")
}
