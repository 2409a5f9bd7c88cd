//! How a PostgreSQL is reached: what the operator wrote, checked and completed.
//!
//! Nothing is sent across a network in plain text unless the operator says so: a URL without a word
//! on TLS gets TLS, except on this machine.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use service_kit::config::{Problems, SpelledOut, Validate};
use service_kit::error::chain;
use service_kit::secret::Secret;
use service_kit::tls::{self, ClientTls, TlsError};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long a connection may take to be made.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A statement that takes longer is given up by the server: the longest we run read a page or write
/// a group, and take milliseconds.
const STATEMENT_WITHIN_MS: u32 = 10_000;
/// How long a statement waits for a lock; locks are held for the length of one commit.
const LOCK_WITHIN_MS: u32 = 5_000;
/// A transaction in which nothing happens for so long belongs to a replica that hangs; its locks
/// would keep others from taking its partitions.
const IDLE_WITHIN_MS: u32 = 5_000;
/// Network that swallows everything is noticed after this.
const SILENCE: Duration = Duration::from_secs(10);

/// Where the database is and how it is spoken to; spelled out as `postgres_url` and so on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresSettings {
    /// `postgresql://user:password@host:port/database`, with several `host:port` between commas if
    /// the database moves between them; the one that takes writes is used. Without a word on TLS it
    /// is used for other machines and not for this one: `sslmode=disable` allows plain text to
    /// another machine, `sslmode=require` (the same as `verify-full` here) asks for TLS on this one.
    /// A pooler in between must keep sessions, not transactions. Empty (default): there is none.
    pub url: Secret,
    /// PEM file of the authority that signed the server's certificate; asks for TLS on this machine,
    /// too. Unset (default): the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our own certificate, if the server asks for one. Unset (default): none.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of our certificate. Needed if and only if there is a certificate.
    pub key_file: Option<PathBuf>,
    /// Connections of this replica at most, 2 to 100. One commits, one claims, the rest read. The
    /// server's `max_connections` has to hold those of all replicas. Default 10.
    pub connections: u16,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        Self::at("")
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The URL cannot be read. The driver's words do not repeat it, so they tell no password.
    #[error("is no URL of a PostgreSQL database, postgresql://user:password@host/name")]
    Url(#[source] tokio_postgres::Error),
    /// The URL leaves out what must be there.
    #[error("names no {0}; write postgresql://user:password@host/name")]
    Incomplete(&'static str),
    /// The files for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl PostgresSettings {
    /// How the service spells it out.
    pub const KEYS: SpelledOut = SpelledOut {
        prefix: "postgres_",
        field: "postgres",
    };

    /// The defaults for this database.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: Secret::new(url),
            ca_file: None,
            cert_file: None,
            key_file: None,
            connections: 10,
        }
    }

    /// Checks the URL without touching a file or the network.
    ///
    /// # Errors
    /// What is wrong with it, without the password.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.config().map(drop)
    }

    /// The driver's configuration.
    pub(super) fn config(&self) -> Result<Config, SettingsError> {
        // What other programs call a checked certificate; ours is always checked.
        let url = self
            .url
            .expose()
            .replace("sslmode=verify-full", "sslmode=require");
        let mut config: Config = url.parse().map_err(SettingsError::Url)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(SettingsError::Incomplete("host"));
        }
        if config.get_user().is_none() {
            return Err(SettingsError::Incomplete("user"));
        }
        if config.get_dbname().is_none() {
            return Err(SettingsError::Incomplete("database"));
        }
        let mode = self.mode(&config);
        let options = format!(
            "{} -c statement_timeout={STATEMENT_WITHIN_MS} -c lock_timeout={LOCK_WITHIN_MS} \
             -c idle_in_transaction_session_timeout={IDLE_WITHIN_MS} -c jit=off",
            config.get_options().unwrap_or_default()
        );
        config
            .ssl_mode(mode)
            .options(options.trim_start())
            .application_name("twin-store")
            .connect_timeout(CONNECT_WITHIN)
            .tcp_user_timeout(SILENCE)
            .keepalives_idle(SILENCE)
            // Of several servers, the one that takes writes.
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        Ok(config)
    }

    fn mode(&self, config: &Config) -> SslMode {
        let here = config
            .get_hostaddrs()
            .iter()
            .all(std::net::IpAddr::is_loopback)
            && config.get_hosts().iter().all(is_here);
        match config.get_ssl_mode() {
            SslMode::Disable => SslMode::Disable,
            // The default of the driver: TLS if the server happens to offer it, checked or not.
            SslMode::Prefer if here && self.ca_file.is_none() => SslMode::Disable,
            _ => SslMode::Require,
        }
    }

    /// What does TLS; it reads the files.
    pub(super) fn tls(&self) -> Result<MakeRustlsConnect, SettingsError> {
        let files = ClientTls {
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            domain: None,
        };
        Ok(MakeRustlsConnect::new(tls::connector(&files)?))
    }
}

impl Validate for PostgresSettings {
    fn validate(&self, problems: &mut Problems) {
        if let Err(error) = self.check() {
            problems.require(false, "url", chain(&error));
        }
        problems.require(
            self.cert_file.is_some() == self.key_file.is_some(),
            "key_file",
            "is needed together with cert_file",
        );
        problems.require(
            (2..=100).contains(&self.connections),
            "connections",
            "must be 2 to 100",
        );
    }
}

/// Whether a host is this machine.
fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_mode(url: &str, mode: SslMode) {
        let config = PostgresSettings::at(url).config().expect("a good URL");
        assert_eq!(config.get_ssl_mode(), mode, "{url}");
    }

    #[test]
    fn plain_text_stays_on_this_machine_unless_it_is_asked_for() {
        check_mode("postgresql://u:p@127.0.0.1/d", SslMode::Disable);
        check_mode("postgresql://u@localhost:1234/d", SslMode::Disable);
        check_mode("postgresql://u@%2Frun%2Fpostgresql/d", SslMode::Disable);
        check_mode(
            "postgresql://u:p@localhost/d?sslmode=require",
            SslMode::Require,
        );
        check_mode("postgresql://u:p@db.example/d", SslMode::Require);
        check_mode(
            "postgresql://u:p@db.example/d?sslmode=verify-full",
            SslMode::Require,
        );
        check_mode("postgresql://u:p@localhost,db.example/d", SslMode::Require);
        check_mode(
            "postgresql://u:p@db.example/d?sslmode=disable",
            SslMode::Disable,
        );
        let named = PostgresSettings {
            ca_file: Some("ca.pem".into()),
            ..PostgresSettings::at("postgresql://u:p@127.0.0.1/d")
        };
        let config = named.config().expect("a good URL");
        assert_eq!(config.get_ssl_mode(), SslMode::Require);
    }

    #[test]
    fn what_is_missing_is_named_and_no_password_is_told() {
        for (url, word) in [
            ("postgresql://secret@/d", "host"),
            ("postgresql://localhost/d", "user"),
            ("postgresql://u:secret@localhost", "database"),
            ("postgresql://u:secret@localhost:port/d", "URL"),
            ("secret", "URL"),
        ] {
            let error = PostgresSettings::at(url).check().expect_err(url);
            let source = std::error::Error::source(&error);
            let text = format!("{error} {:?}", source.map(ToString::to_string));
            assert!(text.contains(word), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn the_url_may_set_other_options() {
        let url = "postgresql://u@localhost/d?options=-c%20search_path%3Dtwinward";
        let config = PostgresSettings::at(url).config().expect("a good URL");
        let options = config.get_options().expect("ours at least");
        assert!(
            options.starts_with("-c search_path=twinward -c statement_timeout="),
            "{options}"
        );
    }
}
