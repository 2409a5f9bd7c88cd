//! Channels to the gRPC services of others: lazy, with timeouts, keep-alive and TLS, and with what
//! every call carries: the trace, and the token if there is one.
//!
//! With `https`, certificate files are read at each connection, so that renewed ones need no
//! restart.
//!
//! Whether to try a failed call again is the caller's decision ([`crate::backoff`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Uri;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::auth::{AdminToken, AuthError};
use crate::config::{Problems, SpelledOut, Validate};
use crate::secret::Secret;
use crate::tls::client::{ClientSide, HTTP2};
use crate::tls::{ClientTls, TlsError};
use crate::trace;
use crate::units::Duration;

/// The port of `https` where a URL names none.
const HTTPS_PORT: u16 = 443;

/// What generated clients are built on: `TwinServiceClient::new(client::connect(&config)?)`.
pub type Connection = InterceptedService<Channel, Outgoing>;

/// How to reach a gRPC service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// `http://host:port` or `https://host:port`.
    pub url: String,
    /// Whom to believe and as whom to show ourselves, for `https`.
    pub tls: ClientTls,
    /// The service's token. Unset (default): none is sent.
    pub token: Option<Secret>,
    /// File with the token, read for each call: one that lasts for minutes can be renewed while a
    /// watch goes on. Goes before `token`. Unset (default): there is none.
    pub token_file: Option<PathBuf>,
    /// How long connecting may take (5 s).
    pub connect_timeout: Duration,
    /// How long a call may take until its answer begins, unless the call asks for less (10 s).
    /// The messages of a stream are not limited.
    pub call_timeout: Duration,
    /// How often an idle connection is tested (20 s). Firewalls forget silent connections after
    /// some minutes, and a peer that lost power does not say so.
    pub keep_alive: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:0".to_owned(),
            tls: ClientTls::default(),
            token: None,
            token_file: None,
            connect_timeout: Duration::secs(5),
            call_timeout: Duration::secs(10),
            keep_alive: Duration::secs(20),
        }
    }
}

impl ClientConfig {
    /// The defaults for this URL.
    #[must_use]
    pub fn to(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }
}

impl Validate for ClientConfig {
    fn validate(&self, problems: &mut Problems) {
        problems.require(
            endpoint_url(&self.url),
            "url",
            "must be http://host:port or https://…",
        );
        problems.nested("tls", &self.tls);
        if let Some(Err(error)) = self.token.clone().map(AdminToken::new) {
            problems.add("token", error.to_string());
        }
        for (key, value) in [
            ("connect_timeout", self.connect_timeout),
            ("call_timeout", self.call_timeout),
            ("keep_alive", self.keep_alive),
        ] {
            problems.require(!value.is_zero(), key, "must be longer than nothing");
        }
    }
}

fn endpoint_url(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
    })
}

/// How to reach another service of the hub, as services spell it out: `twin_store_url` and so on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceAddress {
    /// Where it serves gRPC, `http://host:port` or `https://host:port`.
    pub url: String,
    /// PEM file of the authority that signed its certificate. Unset (default): the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our own certificate, if it asks who we are. Unset (default): none is shown.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of our certificate. Needed if and only if there is a certificate.
    pub key_file: Option<PathBuf>,
    /// Bearer token that it asks for. Empty (default): none is sent.
    pub token: Secret,
}

impl Default for ServiceAddress {
    /// twin-store's, which the others need.
    fn default() -> Self {
        Self::at("http://127.0.0.1:8430")
    }
}

impl ServiceAddress {
    /// How services spell out where twin-store is.
    pub const KEYS_OF_TWIN_STORE: SpelledOut = SpelledOut {
        prefix: "twin_store_",
        field: "twin_store",
    };

    /// How services spell out where the policy service is.
    pub const KEYS_OF_POLICY: SpelledOut = SpelledOut {
        prefix: "policy_",
        field: "policy",
    };
    /// Where the policy service listens if nobody says.
    pub const POLICY_URL: &'static str = "http://127.0.0.1:8440";

    /// How services spell out where ingestion is.
    pub const KEYS_OF_INGESTION: SpelledOut = SpelledOut {
        prefix: "ingestion_",
        field: "ingestion",
    };

    /// The defaults for this URL.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            token: Secret::default(),
        }
    }

    /// What a channel is made of.
    pub fn client(&self) -> ClientConfig {
        ClientConfig {
            tls: ClientTls {
                ca_file: self.ca_file.clone(),
                cert_file: self.cert_file.clone(),
                key_file: self.key_file.clone(),
                domain: None,
            },
            token: (!self.token.is_empty()).then(|| self.token.clone()),
            ..ClientConfig::to(&self.url)
        }
    }
}

impl Validate for ServiceAddress {
    fn validate(&self, problems: &mut Problems) {
        let client = self.client();
        problems.spelled_out("", &client.tls);
        ClientConfig {
            // Checked above, under the names that it has here.
            tls: ClientTls::default(),
            ..client
        }
        .validate(problems);
    }
}

/// Why a channel cannot be made. (That the peer is away shows in the calls, not here.)
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL cannot be used.
    #[error("`{url}` is no URL of a gRPC service")]
    Url {
        /// The configured URL.
        url: String,
        /// What tonic says.
        #[source]
        source: tonic::transport::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] AuthError),
}

/// Makes a channel that connects with the first call and again whenever the connection is lost.
/// To be called inside the runtime.
pub fn connect(config: &ClientConfig) -> Result<Connection, ClientError> {
    let outgoing = if let Some(path) = &config.token_file {
        Outgoing::with_file(path)
    } else {
        let token = config.token.clone().map(AdminToken::new).transpose()?;
        Outgoing::new(token.as_ref())
    };
    Ok(InterceptedService::new(channel(config)?, outgoing))
}

/// The same, for calls that carry nothing of ours.
pub fn channel(config: &ClientConfig) -> Result<Channel, ClientError> {
    let url_error = |source| ClientError::Url {
        url: config.url.clone(),
        source,
    };
    let endpoint = |url: String| {
        Ok::<_, ClientError>(
            Endpoint::from_shared(url)
                .map_err(url_error)?
                .connect_timeout(config.connect_timeout.get())
                .timeout(config.call_timeout.get())
                .tcp_nodelay(true)
                .http2_keep_alive_interval(config.keep_alive.get())
                .keep_alive_timeout(config.keep_alive.get())
                .keep_alive_while_idle(true),
        )
    };
    let Some(rest) = config.url.strip_prefix("https://") else {
        return Ok(endpoint(config.url.clone())?.connect_lazy());
    };
    // Tonic fixes the certificates of an `https` endpoint when it is made. Ours are looked at with
    // each connection, hence a connector of our own, and an endpoint that asks for no other TLS.
    let endpoint = endpoint(format!("http://{rest}"))?;
    let plain = endpoint.uri().clone();
    let host = plain.host().unwrap_or_default();
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let port = plain.port_u16().unwrap_or(HTTPS_PORT);
    let tls = ClientSide::load(&config.tls, &host, HTTP2)?;
    let connector = tower::service_fn(move |_: Uri| {
        let (tls, host) = (tls.clone(), host.clone());
        async move {
            let tcp = TcpStream::connect((&*host, port)).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, io::Error>(TokioIo::new(tls.secure(tcp).await?))
        }
    });
    // What calls say they are for; a proxy in between may look at it.
    let origin = config.url.parse().unwrap_or(plain);
    Ok(endpoint
        .origin(origin)
        .connect_with_connector_lazy(connector))
}

/// Adds the trace and the token to every call.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    authorization: Option<MetadataValue<Ascii>>,
    file: Option<Arc<Path>>,
}

impl Outgoing {
    /// Sends this token, if there is one.
    #[must_use]
    pub fn new(token: Option<&AdminToken>) -> Self {
        Self {
            authorization: token.and_then(authorization),
            file: None,
        }
    }

    /// Sends the token that is in this file at the time of each call.
    #[must_use]
    pub fn with_file(path: &Path) -> Self {
        Self {
            authorization: None,
            file: Some(path.into()),
        }
    }
}

fn authorization(token: &AdminToken) -> Option<MetadataValue<Ascii>> {
    let mut value: MetadataValue<Ascii> = token.header().expose().parse().ok()?;
    // Keeps it out of debug output and out of HTTP/2's compression table.
    value.set_sensitive(true);
    Some(value)
}

/// The token in a file, which is some hundred bytes long: reading it takes microseconds.
fn read(path: &Path) -> Result<Option<MetadataValue<Ascii>>, Status> {
    let unusable = |problem: String| {
        let problem = format!(
            "the token file {} cannot be used: {problem}",
            path.display()
        );
        Status::unauthenticated(problem)
    };
    let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    let token = AdminToken::new(Secret::new(text.trim()));
    let token = token.map_err(|error| unusable(error.to_string()))?;
    Ok(authorization(&token))
}

impl Interceptor for Outgoing {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        trace::inject_metadata(request.metadata_mut());
        let authorization = match &self.file {
            Some(path) => read(path)?,
            None => self.authorization.clone(),
        };
        if let Some(value) = authorization {
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(outgoing: &mut Outgoing) -> Result<String, Status> {
        let request = outgoing.call(Request::new(()))?;
        let value = request.metadata().get("authorization");
        let text = value.and_then(|value| value.to_str().ok());
        Ok(text.unwrap_or_default().to_owned())
    }

    #[test]
    fn a_token_that_is_renewed_in_its_file_is_the_one_that_is_sent() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let mut outgoing = Outgoing::with_file(&path);
        let absent = sent(&mut outgoing).expect_err("there is no file");
        assert!(absent.message().contains("token file"), "{absent}");
        for token in ["0123456789abcdef", "fedcba9876543210"] {
            std::fs::write(&path, format!("{token}\n")).expect("written");
            assert_eq!(
                sent(&mut outgoing).expect("sent"),
                format!("Bearer {token}")
            );
        }
        std::fs::write(&path, "short").expect("written");
        assert!(sent(&mut outgoing).is_err());
    }
}
