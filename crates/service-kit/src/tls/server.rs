//! The server's side: the certificate it shows now, and how it comes to show a renewed one.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;

use crate::error::chain;
use crate::shutdown::ShutdownToken;
use crate::tls::devices::AnyCertificate;
use crate::tls::{ClientAuth, Pair, ServerTls, TlsError, VERSIONS, authorities, provider, read};

/// Whom a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// Those whom the settings believe, in this protocol.
    Callers(&'static [u8]),
    /// Callers in this protocol, among them devices that show whatever certificate they have.
    Anybody(&'static [u8]),
    /// Devices, which show whatever certificate they have and agree on no protocol.
    Devices,
}

/// What the files hold. Compared as a whole: modification times can be too coarse, and say nothing
/// where the files are links that are set anew.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    pair: Pair,
    client_authorities: Option<Vec<u8>>,
}

impl Files {
    fn read(settings: &ServerTls) -> Result<Self, TlsError> {
        let client_authorities = settings
            .client_ca_file
            .as_ref()
            .map(|path| read("client authorities", path))
            .transpose()?;
        Ok(Self {
            pair: Pair::read(&settings.cert_file, &settings.key_file)?,
            client_authorities,
        })
    }

    fn config(&self, settings: &ServerTls, serves: Serves) -> Result<ServerConfig, TlsError> {
        let (certs, key) = self.pair.parse(&settings.cert_file, &settings.key_file)?;
        let builder =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS)?;
        let builder = match (serves, &settings.client_ca_file, &self.client_authorities) {
            (Serves::Devices | Serves::Anybody(_), _, _) => {
                builder.with_client_cert_verifier(AnyCertificate::new())
            }
            (Serves::Callers(_), Some(path), Some(pem)) => {
                let roots = Arc::new(authorities("client authorities", path, pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = match settings.client_auth {
                    ClientAuth::Required => verifier,
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                };
                let unusable = |source| TlsError::ClientAuthorities {
                    path: path.clone(),
                    source,
                };
                builder.with_client_cert_verifier(verifier.build().map_err(unusable)?)
            }
            (Serves::Callers(_), None, _) | (Serves::Callers(_), _, None) => {
                builder.with_no_client_auth()
            }
        };
        let pair = |source| TlsError::Pair {
            cert: settings.cert_file.clone(),
            key: settings.key_file.clone(),
            source,
        };
        let mut config = builder.with_single_cert(certs, key).map_err(pair)?;
        if let Serves::Callers(protocol) | Serves::Anybody(protocol) = serves {
            config.alpn_protocols.push(protocol.to_vec());
        }
        Ok(config)
    }
}

/// The TLS of a listener, as its files were last usable.
#[derive(Debug)]
pub(crate) struct ServerSide {
    settings: ServerTls,
    serves: Serves,
    current: RwLock<(Files, Arc<ServerConfig>)>,
}

impl ServerSide {
    /// Reads the files, which must be usable. The listener speaks `protocol`.
    pub(crate) fn load(settings: &ServerTls, protocol: &'static [u8]) -> Result<Self, TlsError> {
        Self::load_for(Serves::Callers(protocol), settings)
    }

    /// The same, of a listener for whomever.
    pub(crate) fn load_for(serves: Serves, settings: &ServerTls) -> Result<Self, TlsError> {
        let files = Files::read(settings)?;
        let config = Arc::new(files.config(settings, serves)?);
        Ok(Self {
            settings: settings.clone(),
            serves,
            current: RwLock::new((files, config)),
        })
    }

    /// What the next connection is served with.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current.1)
    }

    /// Whether certificates are asked for that nobody has judged in the handshake.
    pub(crate) fn asks_anybody(&self) -> bool {
        matches!(self.serves, Serves::Anybody(_))
    }

    /// Looks at the files, and takes them over if they changed and are usable. Blocks.
    fn reload(&self) -> Result<bool, TlsError> {
        let files = Files::read(&self.settings)?;
        let same = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            current.0 == files
        };
        if same {
            return Ok(false);
        }
        let config = Arc::new(files.config(&self.settings, self.serves)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (files, config);
        Ok(true)
    }

    /// Looks at the files every now and then, until told to stop.
    pub(crate) async fn follow(self: Arc<Self>, shutdown: ShutdownToken) {
        // The same trouble is said once, not every half minute.
        let mut known = String::new();
        let every = self.settings.reload_every.get();
        while shutdown
            .run_until(tokio::time::sleep(every))
            .await
            .is_some()
        {
            let this = Arc::clone(&self);
            let Ok(outcome) = tokio::task::spawn_blocking(move || this.reload()).await else {
                continue;
            };
            let cert = self.settings.cert_file.display();
            match outcome {
                Ok(changed) => {
                    known.clear();
                    if changed {
                        tracing::info!(%cert, "renewed certificate taken over");
                    }
                }
                Err(error) => {
                    let problem = chain(&error);
                    if problem != known {
                        tracing::warn!(
                            %cert,
                            error = problem,
                            "renewed certificate files are not usable; the former stay in use"
                        );
                    }
                    known = problem;
                }
            }
        }
    }
}
