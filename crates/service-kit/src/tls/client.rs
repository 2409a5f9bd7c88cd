//! The client's side: whom it believes, and the certificate it shows.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::chain;
use crate::tls::{ClientTls, Pair, TlsError, VERSIONS, authorities, provider, read};

/// What HTTP/2 is called when the protocol is agreed on.
pub(crate) const HTTP2: &[u8] = b"h2";
/// What HTTP/1.1 is called.
pub(crate) const HTTP1: &[u8] = b"http/1.1";

#[derive(Debug, PartialEq, Eq)]
struct Files {
    authorities: Option<Vec<u8>>,
    pair: Option<Pair>,
}

impl Files {
    fn read(settings: &ClientTls) -> Result<Self, TlsError> {
        let authorities = settings
            .ca_file
            .as_ref()
            .map(|path| read("authorities", path))
            .transpose()?;
        let pair = match (&settings.cert_file, &settings.key_file) {
            (Some(cert), Some(key)) => Some(Pair::read(cert, key)?),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(TlsError::HalfAPair),
        };
        Ok(Self { authorities, pair })
    }

    fn config(
        &self,
        settings: &ClientTls,
        protocol: Option<&[u8]>,
    ) -> Result<ClientConfig, TlsError> {
        let roots = match (&settings.ca_file, &self.authorities) {
            (Some(path), Some(pem)) => Arc::new(authorities("authorities", path, pem)?),
            (None, _) | (_, None) => system_authorities()?,
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)?
            .with_root_certificates(roots);
        let mut config = match (&settings.cert_file, &settings.key_file, &self.pair) {
            (Some(cert), Some(key), Some(pair)) => {
                let (certs, parsed) = pair.parse(cert, key)?;
                let unusable = |source| TlsError::Pair {
                    cert: cert.clone(),
                    key: key.clone(),
                    source,
                };
                builder
                    .with_client_auth_cert(certs, parsed)
                    .map_err(unusable)?
            }
            (None, _, _) | (_, None, _) | (_, _, None) => builder.with_no_client_auth(),
        };
        config.alpn_protocols.extend(protocol.map(<[u8]>::to_vec));
        Ok(config)
    }
}

/// For a library that speaks rustls itself, and a protocol that is not agreed on by name. The files
/// are read once.
///
/// # Errors
/// A file cannot be read or used.
pub fn connector(settings: &ClientTls) -> Result<ClientConfig, TlsError> {
    Files::read(settings)?.config(settings, None)
}

/// The authorities this system believes. Read once: it is a long list.
fn system_authorities() -> Result<Arc<RootCertStore>, TlsError> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = SYSTEM.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let loaded = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(loaded.certs);
        Arc::new(roots)
    });
    if roots.is_empty() {
        return Err(TlsError::NoSystemAuthorities);
    }
    Ok(Arc::clone(roots))
}

/// Makes connections to one server secure.
#[derive(Debug)]
pub(crate) struct ClientSide {
    settings: ClientTls,
    name: ServerName<'static>,
    protocol: &'static [u8],
    current: Mutex<(Files, Arc<ClientConfig>)>,
}

impl ClientSide {
    /// Reads the files, which must be usable. `host` is the URL's.
    pub(crate) fn load(
        settings: &ClientTls,
        host: &str,
        protocol: &'static [u8],
    ) -> Result<Arc<Self>, TlsError> {
        let name = settings.domain.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name {
            name: name.to_owned(),
        })?;
        let files = Files::read(settings)?;
        let config = Arc::new(files.config(settings, Some(protocol))?);
        Ok(Arc::new(Self {
            settings: settings.clone(),
            name,
            protocol,
            current: Mutex::new((files, config)),
        }))
    }

    /// Shakes hands over a connection, with the files as they are now.
    pub(crate) async fn secure(
        self: Arc<Self>,
        tcp: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let this = Arc::clone(&self);
        let config = tokio::task::spawn_blocking(move || this.fresh())
            .await
            .map_err(io::Error::other)?;
        let stream = TlsConnector::from(config)
            .connect(self.name.clone(), tcp)
            .await?;
        let agreed = stream.get_ref().1.alpn_protocol();
        // Servers of HTTP/1.1 often say nothing; for HTTP/2 it must be said.
        if self.protocol == HTTP2 && agreed != Some(HTTP2) {
            return Err(io::Error::other(
                "the server does not speak HTTP/2 over TLS",
            ));
        }
        Ok(stream)
    }

    /// What the files hold now; if that is not usable, what they held before. Blocks.
    pub(super) fn fresh(&self) -> Arc<ClientConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let renewed = Files::read(&self.settings).and_then(|files| {
            if files == current.0 {
                return Ok(None);
            }
            let config = files.config(&self.settings, Some(self.protocol))?;
            Ok(Some((files, Arc::new(config))))
        });
        match renewed {
            Ok(Some(renewed)) => {
                tracing::info!("renewed certificate files taken over for our connections");
                *current = renewed;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(
                error = chain(&error),
                "certificate files are not usable; the former stay in use"
            ),
        }
        Arc::clone(&current.1)
    }
}
