//! TLS of gRPC servers and clients, from PEM files, with errors that name the file and the reason.
//!
//! Renewed certificates need no restart: a server looks at its files every now and then
//! ([`ServerTls::reload_every`]), a client reads its own whenever it connects. What cannot be used
//! is reported, and what was read before stays in use.

pub mod authorities;
pub(crate) mod client;
pub mod devices;
pub(crate) mod server;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::VerifierBuilderError;
use rustls::{RootCertStore, SupportedProtocolVersion};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::auth::Insecure;
use crate::config::{Problems, SpelledOut, Validate};
use crate::units::Duration;

pub use client::connector;

/// Both versions that are still safe.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
/// How often a server looks at its files, by default: a renewal is made days ahead.
const RELOAD_EVERY: Duration = Duration::secs(30);

/// The certificate a server shows, and whose it wants to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// PEM file with the server's certificate, then the intermediate ones.
    pub cert_file: PathBuf,
    /// PEM file with the certificate's private key.
    pub key_file: PathBuf,
    /// PEM file with the authorities whose client certificates prove who calls. Unset (default):
    /// clients show none.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// Whether every client must show a certificate of theirs. Default `required`.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// How often the files are looked at for renewed ones (30 s).
    #[serde(default = "reload_every")]
    pub reload_every: Duration,
}

impl ServerTls {
    /// Shows this certificate, and wants to see none.
    #[must_use]
    pub fn new(cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        Self {
            cert_file: cert_file.into(),
            key_file: key_file.into(),
            client_ca_file: None,
            client_auth: ClientAuth::default(),
            reload_every: RELOAD_EVERY,
        }
    }
}

/// The TLS of a listener, as services spell it out: `tls_cert_file` and so on. Nothing set means
/// plain text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerTls {
    /// PEM file with the certificate chain of the listener. Unset (default): no TLS, which is
    /// allowed on loopback only (see `allow_insecure`). A renewed one is taken over by itself.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of the certificate. Needed if and only if there is a certificate.
    pub key_file: Option<PathBuf>,
    /// PEM file with the authorities whose client certificates prove who calls; who is who says
    /// `auth.certificates`. Unset (default): clients show none.
    pub client_ca_file: Option<PathBuf>,
    /// Whether every client must show a certificate of theirs: `required` (default), or `optional`,
    /// where who shows none may prove itself with a token.
    pub client_auth: ClientAuth,
    /// How often the files are looked at for renewed ones. Default 30s.
    pub reload_every: Duration,
}

impl Default for ListenerTls {
    fn default() -> Self {
        Self {
            cert_file: None,
            key_file: None,
            client_ca_file: None,
            client_auth: ClientAuth::default(),
            reload_every: RELOAD_EVERY,
        }
    }
}

impl ListenerTls {
    /// How services spell it out.
    pub const KEYS: SpelledOut = SpelledOut {
        prefix: "tls_",
        field: "tls",
    };

    /// What a server is told.
    pub fn server(&self) -> Option<ServerTls> {
        let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) else {
            return None;
        };
        Some(ServerTls {
            client_ca_file: self.client_ca_file.clone(),
            client_auth: self.client_auth,
            reload_every: self.reload_every,
            ..ServerTls::new(cert, key)
        })
    }
}

impl Validate for ListenerTls {
    fn validate(&self, problems: &mut Problems) {
        problems.require(
            self.cert_file.is_some() == self.key_file.is_some(),
            "key_file",
            "is needed together with cert_file",
        );
        problems.require(
            self.client_ca_file.is_none() || self.cert_file.is_some(),
            "client_ca_file",
            "needs a certificate of our own",
        );
        let patient = !self.reload_every.is_zero();
        problems.require(patient, "reload_every", "must be longer than nothing");
    }
}

fn reload_every() -> Duration {
    RELOAD_EVERY
}

/// Whether every client must show a certificate, where there are authorities for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// Who shows none is not connected.
    #[default]
    Required,
    /// Who shows none may prove itself with a token.
    Optional,
}

/// Whom a client believes, and as whom it shows itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTls {
    /// PEM file with the authorities that sign the server's certificate. Unset (default): the
    /// system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our own certificate, then the intermediate ones, for servers that ask who we
    /// are. Unset (default): none is shown.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of our certificate. Needed if and only if there is a certificate.
    pub key_file: Option<PathBuf>,
    /// The name the server's certificate must carry. Unset: the host of the URL.
    pub domain: Option<String>,
}

impl ClientTls {
    /// Believes the authorities in this file; shows no certificate.
    #[must_use]
    pub fn believing(ca_file: impl Into<PathBuf>) -> Self {
        Self {
            ca_file: Some(ca_file.into()),
            ..Self::default()
        }
    }
}

impl Validate for ClientTls {
    fn validate(&self, problems: &mut Problems) {
        problems.require(
            self.cert_file.is_some() == self.key_file.is_some(),
            "key_file",
            "is needed together with cert_file",
        );
    }
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read the {what} file {}", path.display())]
    Read {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("the {what} file {} is not usable: {problem}", path.display())]
    Content {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key do not belong together, or cannot be used.
    #[error("the certificate {} and the key {} cannot be used together", cert.display(), key.display())]
    Pair {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What rustls says.
        #[source]
        source: rustls::Error,
    },
    /// The authorities for client certificates cannot be used.
    #[error("the client authorities in {} cannot be used", path.display())]
    ClientAuthorities {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        #[source]
        source: VerifierBuilderError,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("tls.cert_file and tls.key_file are needed together")]
    HalfAPair,
    /// The name of the server cannot stand in a certificate.
    #[error("`{name}` is no name that a certificate could carry")]
    Name {
        /// The host of the URL, or the configured domain.
        name: String,
    },
    /// Plain text would cross the network.
    #[error(
        "refusing to listen on {address} without TLS, because other machines can reach it; set \
         tls.cert_file and tls.key_file, listen on 127.0.0.1, or set allow_insecure = true"
    )]
    InsecureListener {
        /// The configured address.
        address: SocketAddr,
    },
    /// The system has no authorities, and none were configured.
    #[error("this system has no list of authorities; set tls.ca_file: whom should we believe?")]
    NoSystemAuthorities,
    /// The library refuses what should always work.
    #[error("TLS cannot be set up")]
    Library(#[from] rustls::Error),
}

/// The rule for a listener: without TLS it serves this machine only, unless the operator insists.
pub fn check_listener(
    address: SocketAddr,
    tls: Option<&ServerTls>,
    insecure: Insecure,
) -> Result<(), TlsError> {
    if tls.is_some() || address.ip().is_loopback() || insecure == Insecure::Allowed {
        return Ok(());
    }
    Err(TlsError::InsecureListener { address })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A certificate with its key, as they stand in the files.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    cert: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl Pair {
    fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            cert: read("certificate", cert)?,
            key: Zeroizing::new(read("key", key)?),
        })
    }

    fn parse(
        &self,
        cert: &Path,
        key: &Path,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let certs = certificates("certificate", cert, &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| TlsError::Content {
            what: "key",
            path: key.to_owned(),
            problem: format!("no private key in PEM form in it ({error})"),
        })?;
        Ok((certs, key))
    }
}

fn certificates(
    what: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |problem| TlsError::Content {
        what,
        path: path.to_owned(),
        problem,
    };
    let certs = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(error.to_string()))?;
    if certs.is_empty() {
        return Err(content("no certificate in PEM form in it".to_owned()));
    }
    Ok(certs)
}

fn authorities(what: &'static str, path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for cert in certificates(what, path, pem)? {
        roots.add(cert).map_err(|error| TlsError::Content {
            what,
            path: path.to_owned(),
            problem: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
