//! TLS of gRPC servers and clients, from PEM files, with errors that name the file and the reason.
//!
//! Files are read once, at start; a renewed certificate needs a restart.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};
use zeroize::Zeroizing;

use crate::auth::Insecure;

/// The certificate a server shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// PEM file with the server's certificate, then the intermediate ones.
    pub cert_file: PathBuf,
    /// PEM file with the certificate's private key.
    pub key_file: PathBuf,
    /// PEM file with the authorities whose client certificates are demanded. Unset: clients show
    /// none.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
}

/// Whom a client believes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTls {
    /// PEM file with the authorities that sign the server's certificate. Needed for `https`: the
    /// system's authorities are not consulted, because a hub's services sign for each other.
    pub ca_file: Option<PathBuf>,
    /// The name the server's certificate must carry. Unset: the host of the URL.
    pub domain: Option<String>,
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
    /// Plain text would cross the network.
    #[error(
        "refusing to listen on {address} without TLS, because other machines can reach it; set \
         tls.cert_file and tls.key_file, listen on 127.0.0.1, or set allow_insecure = true"
    )]
    InsecureListener {
        /// The configured address.
        address: SocketAddr,
    },
    /// An `https` URL without authorities to believe.
    #[error("`{url}` needs tls.ca_file: whose signature should be believed?")]
    NoAuthorities {
        /// The configured URL.
        url: String,
    },
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

/// Reads and checks a server's files, for tonic.
pub fn server_config(tls: &ServerTls) -> Result<ServerTlsConfig, TlsError> {
    let cert = read("certificate", &tls.cert_file)?;
    let key = read("key", &tls.key_file)?;
    rustls_config(tls, &cert, &key)?;
    let mut config = ServerTlsConfig::new().identity(Identity::from_pem(&*cert, &*key));
    if let Some(path) = &tls.client_ca_file {
        let authorities = read("client authorities", path)?;
        certificates("client authorities", path, &authorities)?;
        config = config.client_ca_root(Certificate::from_pem(&*authorities));
    }
    Ok(config)
}

/// Reads and checks a client's files, for tonic. `None` for a URL without TLS.
pub fn client_config(url: &str, tls: &ClientTls) -> Result<Option<ClientTlsConfig>, TlsError> {
    if !url.starts_with("https://") {
        return Ok(None);
    }
    let path = tls
        .ca_file
        .as_ref()
        .ok_or_else(|| TlsError::NoAuthorities {
            url: url.to_owned(),
        })?;
    let authorities = read("authorities", path)?;
    certificates("authorities", path, &authorities)?;
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&*authorities));
    if let Some(domain) = &tls.domain {
        config = config.domain_name(domain);
    }
    Ok(Some(config))
}

/// Lets rustls look at the pair. Tonic would find the same faults, but without saying which file.
fn rustls_config(tls: &ServerTls, cert: &[u8], key: &[u8]) -> Result<(), TlsError> {
    let certs = certificates("certificate", &tls.cert_file, cert)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Content {
        what: "key",
        path: tls.key_file.clone(),
        problem: format!("no private key in PEM form in it ({error})"),
    })?;
    let pair = |source| TlsError::Pair {
        cert: tls.cert_file.clone(),
        key: tls.key_file.clone(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(certs, key)
        .map_err(pair)?;
    Ok(())
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

fn read(what: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|source| TlsError::Read {
            what,
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests;
