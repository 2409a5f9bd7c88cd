//! Why the service cannot start or had to stop. What a call answers is in `grpc`.

use std::net::SocketAddr;

use service_kit::error::Violation;
use thiserror::Error;

/// A failure of the service itself, as opposed to one of a call.
#[derive(Debug, Error)]
pub enum Error {
    /// The configuration is wrong; every problem is listed.
    #[error(
        "the configuration of the policy service is wrong: {}",
        list(violations)
    )]
    Config {
        /// Field, what was found and what is allowed.
        violations: Vec<Violation>,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A part failed that the service cannot do without, or it did not stop in time.
    #[error("the policy service ended badly")]
    Run(#[from] service_kit::shutdown::RunError),
}

fn list(violations: &[Violation]) -> String {
    let lines: Vec<String> = violations
        .iter()
        .map(|one| format!("{}: {}", one.subject, one.description))
        .collect();
    lines.join("; ")
}
