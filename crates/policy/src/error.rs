//! Why the service cannot start or had to stop. What a call answers is in `grpc`.

use service_kit::config::Problem;
use thiserror::Error;

/// A failure of the service itself, as opposed to one of a call.
#[derive(Debug, Error)]
pub enum Error {
    /// The configuration is wrong; every problem is listed.
    #[error("the configuration of the policy service is wrong: {}", list(problems))]
    Config {
        /// Key, what was found and what is allowed.
        problems: Vec<Problem>,
    },
    /// The policy API cannot be served.
    #[error("cannot serve the policy API")]
    Server(#[from] service_kit::server::ServerError),
    /// Health and metrics cannot be served.
    #[error("cannot serve health and metrics")]
    Admin(#[from] service_kit::admin::AdminError),
    /// The store cannot be opened or read.
    #[error("cannot open the policy store")]
    Store(#[from] crate::store::Error),
    /// NATS cannot be used.
    #[error("cannot use the bus")]
    Bus(#[from] bus::ConnectError),
    /// A stream cannot be made.
    #[error("cannot prepare the streams")]
    Streams(#[from] bus::EnsureError),
    /// twin-store's address cannot be used.
    #[error("cannot make a connection to twin-store")]
    TwinStore(#[from] service_kit::client::ClientError),
    /// A part failed that the service cannot do without, or it did not stop in time.
    #[error("the policy service did not end well")]
    Run(#[from] service_kit::shutdown::RunError),
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("; ")
}
