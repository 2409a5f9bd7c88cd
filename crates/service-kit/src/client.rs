//! Channels to the gRPC services of others: lazy, with timeouts, keep-alive and TLS, and with what
//! every call carries: the trace, and the token if there is one.
//!
//! Whether to try a failed call again is the caller's decision ([`crate::backoff`]).

use serde::{Deserialize, Serialize};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::auth::{AdminToken, AuthError};
use crate::config::{Problems, Validate};
use crate::secret::Secret;
use crate::tls::{self, ClientTls, TlsError};
use crate::trace;
use crate::units::Duration;

/// What generated clients are built on: `TwinServiceClient::new(client::connect(&config)?)`.
pub type Connection = InterceptedService<Channel, Outgoing>;

/// How to reach a gRPC service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// `http://host:port` or `https://host:port`.
    pub url: String,
    /// Whom to believe, for `https`.
    pub tls: ClientTls,
    /// The service's token. Unset (default): none is sent.
    pub token: Option<Secret>,
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
        let believes = !self.url.starts_with("https://") || self.tls.ca_file.is_some();
        problems.require(believes, "tls.ca_file", "is needed for an https URL");
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
    let url_error = |source| ClientError::Url {
        url: config.url.clone(),
        source,
    };
    let mut endpoint = Endpoint::from_shared(config.url.clone())
        .map_err(url_error)?
        .connect_timeout(config.connect_timeout.get())
        .timeout(config.call_timeout.get())
        .tcp_nodelay(true)
        .http2_keep_alive_interval(config.keep_alive.get())
        .keep_alive_timeout(config.keep_alive.get())
        .keep_alive_while_idle(true);
    if let Some(tls) = tls::client_config(&config.url, &config.tls)? {
        endpoint = endpoint.tls_config(tls).map_err(url_error)?;
    }
    let token = config.token.clone().map(AdminToken::new).transpose()?;
    Ok(InterceptedService::new(
        endpoint.connect_lazy(),
        Outgoing::new(token.as_ref()),
    ))
}

/// Adds the trace and the token to every call.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    authorization: Option<MetadataValue<Ascii>>,
}

impl Outgoing {
    /// Sends this token, if there is one.
    #[must_use]
    pub fn new(token: Option<&AdminToken>) -> Self {
        let authorization = token.and_then(|token| {
            let mut value: MetadataValue<Ascii> = token.header().expose().parse().ok()?;
            // Keeps it out of debug output and out of HTTP/2's compression table.
            value.set_sensitive(true);
            Some(value)
        });
        Self { authorization }
    }
}

impl Interceptor for Outgoing {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        trace::inject_metadata(request.metadata_mut());
        if let Some(value) = &self.authorization {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}
