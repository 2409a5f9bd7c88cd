//! What a connection to the bus needs to know. It reads neither the environment nor files.

use std::fmt;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::time::Duration;

/// How and as whom to reach the NATS servers.
#[derive(Clone, Debug)]
pub struct BusConfig {
    /// Servers to try, each `nats://host:port` or `tls://host:port`. At least one.
    pub servers: Vec<String>,
    /// Name shown in the server's connection list, so an operator finds the service behind it.
    pub name: String,
    /// Who we are to the server.
    pub credentials: Credentials,
    /// Transport security; `None` leaves it to the scheme of the address (`tls://` requires it).
    pub tls: Option<Tls>,
    /// Copies of each stream that [`Bus::ensure_streams`](crate::Bus::ensure_streams) asks for.
    pub replicas: Replicas,
    /// How long [`Bus::connect`](crate::Bus::connect) keeps trying before it reports failure.
    /// Services and server often start together, so the first refusal must not be fatal.
    pub connect_within: Duration,
}

impl BusConfig {
    /// A connection without credentials to one server: the embedded server on loopback, and tests.
    pub fn local(url: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            servers: vec![url.into()],
            name: name.into(),
            credentials: Credentials::None,
            tls: None,
            replicas: Replicas::ONE,
            connect_within: Duration::from_secs(10),
        }
    }
}

/// Who the service is to the NATS server.
#[derive(Clone, Default)]
pub enum Credentials {
    /// No authentication.
    #[default]
    None,
    /// A `.creds` file with a JWT and an nkey seed.
    File(PathBuf),
    /// A shared token.
    Token(String),
    /// User and password.
    User {
        /// User name.
        name: String,
        /// Password; never printed.
        password: String,
    },
}

impl fmt::Debug for Credentials {
    /// Prints the kind alone: tokens and passwords must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Token(_) => f.write_str("Token(redacted)"),
            Self::User { name, .. } => f.debug_struct("User").field("name", name).finish(),
        }
    }
}

/// Transport security of the connection.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// PEM file of the authority that signed the server's certificate; `None` uses the system's.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and key (PEM files), when the server asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Number of copies of a stream: one on a single server, three or five in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas(NonZeroU8);

impl Replicas {
    /// One copy: a single server.
    pub const ONE: Self = Self(NonZeroU8::MIN);

    /// `None` unless `count` is 1, 3 or 5: an even number of voters costs a server and survives
    /// no more failures.
    pub const fn new(count: u8) -> Option<Self> {
        match (count, NonZeroU8::new(count)) {
            (1 | 3 | 5, Some(count)) => Some(Self(count)),
            _ => None,
        }
    }

    /// The number of copies.
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_odd_replica_counts_up_to_five_exist() {
        let accepted: Vec<u8> = (0..=9)
            .filter_map(Replicas::new)
            .map(Replicas::get)
            .collect();
        assert_eq!(accepted, [1, 3, 5]);
    }

    #[test]
    fn secrets_do_not_print() {
        let token = format!("{:?}", Credentials::Token("hunter2".into()));
        let user = Credentials::User {
            name: "svc".into(),
            password: "hunter2".into(),
        };
        assert!(!token.contains("hunter2"), "{token}");
        assert!(!format!("{user:?}").contains("hunter2"));
    }
}
