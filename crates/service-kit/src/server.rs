//! A service's gRPC server: bound before anything is served, with health, reflection, a span per
//! call, authentication, limits and a graceful end.
//!
//! The limit on the size of a message belongs to each generated service, tonic offers no other
//! place; [`add_services!`](crate::add_services) sets it for all of them at once.

pub mod balancers;
pub(crate) mod connections;
pub mod doorkeeper;
mod follow_health;
mod incoming;
mod strangers;
pub mod web;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tower::Service;

use crate::auth::{
    AdminToken, AuthConfig, AuthError, AuthLayer, Credentials, Permission, Vouching,
};
use crate::clock::SystemClock;
use crate::config::{Problems, Validate};
use crate::health::Health;
use crate::malformed::MalformedLayer;
use crate::metrics::Scope;
use crate::rpc::{RpcMetrics, TraceLayer};
use crate::secret::Secret;
use crate::system;
use crate::tasks::{OnFailure, Tasks};
use crate::tls::{self, ServerTls, TlsError, client::HTTP2, server::ServerSide};
use crate::undetailed::UndetailedLayer;
use crate::units::{ByteSize, Duration};

pub use connections::ConnectionLimits;
pub(crate) use connections::Peer;
pub(crate) use incoming::PeerHandle;

use connections::Connections;
use follow_health::follow_health;
use incoming::Incoming;

/// How a service's gRPC server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcConfig {
    /// Address and port. Port 0 takes a free one, which the log names.
    pub listen: SocketAddr,
    /// The certificate to show. Unset (default): plain text, which only this machine may reach.
    pub tls: Option<ServerTls>,
    /// The token that calls must carry, at least 16 characters. Unset (default): calls need none,
    /// which only this machine may reach.
    pub token: Option<Secret>,
    /// Who else may call, and what whom.
    pub auth: AuthConfig,
    /// Serves other machines even without TLS or token, because something else protects the way
    /// (a service mesh). Default false.
    pub allow_insecure: bool,
    /// How many may connect, and how soon they must prove themselves.
    pub connections: ConnectionLimits,
    /// How long a call may take until its answer begins (30 s). Streams may last.
    pub call_timeout: Duration,
    /// The largest message taken or sent (8 MiB: a full twin is a tenth of that).
    pub max_message: ByteSize,
    /// How often an idle connection is tested (20 s), so that a device that lost power does not
    /// seem connected for hours.
    pub keep_alive: Duration,
    /// How long open streams may go on after the server was told to stop (5 s), before their
    /// connections are cut.
    pub drain: Duration,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            token: None,
            auth: AuthConfig::default(),
            allow_insecure: false,
            connections: ConnectionLimits::default(),
            call_timeout: Duration::secs(30),
            max_message: ByteSize::mib(8),
            keep_alive: Duration::secs(20),
            drain: Duration::secs(5),
        }
    }
}

impl GrpcConfig {
    /// The defaults on this address.
    #[must_use]
    pub fn on(listen: SocketAddr) -> Self {
        Self {
            listen,
            ..Self::default()
        }
    }

    fn asks_for_certificates(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca_file.is_some())
    }
}

impl Validate for GrpcConfig {
    fn validate(&self, problems: &mut Problems) {
        let insecure = self.allow_insecure.into();
        if let Err(error) = tls::check_listener(self.listen, self.tls.as_ref(), insecure) {
            problems.add("tls", error.to_string());
        }
        match self.token.clone().map(AdminToken::new) {
            Some(Err(error)) => problems.add("token", error.to_string()),
            None if !self.auth.is_set()
                && !self.asks_for_certificates()
                && !self.listen.ip().is_loopback()
                && !self.allow_insecure =>
            {
                problems.add(
                    "token",
                    AuthError::OpenToOthers {
                        address: self.listen,
                    }
                    .to_string(),
                );
            }
            Some(Ok(_)) | None => {}
        }
        problems.nested("auth", &self.auth);
        self.auth.check_urls(insecure, problems);
        problems.require(
            self.auth.certificates.is_empty() || self.asks_for_certificates(),
            "auth.certificates",
            "needs the authorities of client certificates: set tls_client_ca_file",
        );
        problems.nested("connections", &self.connections);
        for (key, value) in [
            ("call_timeout", self.call_timeout),
            ("keep_alive", self.keep_alive),
        ] {
            problems.require(!value.is_zero(), key, "must be longer than nothing");
        }
        problems.require(
            self.max_message.get() > 0,
            "max_message",
            "must be more than nothing",
        );
    }
}

/// Why a server cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Authentication cannot be set up.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The file descriptors cannot be read.
    #[error("cannot read the file descriptors for reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// A gRPC server that is bound and not yet serving.
pub struct GrpcServer {
    config: GrpcConfig,
    listener: TcpListener,
    connections: Arc<Connections>,
    tls: Option<Arc<ServerSide>>,
    address: SocketAddr,
    routes: RoutesBuilder,
    names: Vec<String>,
    trace: TraceLayer,
    auth: AuthLayer,
    server: Server,
}

impl std::fmt::Debug for GrpcServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcServer")
            .field("address", &self.address)
            .field("services", &self.names)
            .finish_non_exhaustive()
    }
}

impl GrpcServer {
    /// Checks the configuration, reads its files and binds the address. To be called inside the runtime.
    #[expect(
        clippy::unused_async,
        reason = "callers need not change when reading files waits one day"
    )]
    pub async fn bind(config: &GrpcConfig) -> Result<Self, ServerError> {
        let insecure = config.allow_insecure.into();
        tls::check_listener(config.listen, config.tls.as_ref(), insecure)?;
        let credentials = Credentials {
            token: config.token.as_ref(),
            config: &config.auth,
            certificates: config.asks_for_certificates(),
            insecure,
        };
        let auth = AuthLayer::for_listener(credentials, SystemClock::shared(), config.listen)?;
        let server = Server::builder()
            .http2_keepalive_interval(Some(config.keep_alive.get()))
            .http2_keepalive_timeout(Some(config.keep_alive.get()));
        let tls = match &config.tls {
            Some(files) => Some(Arc::new(ServerSide::load(files, HTTP2)?)),
            None => None,
        };
        let bind_error = |source| ServerError::Bind {
            address: config.listen,
            source,
        };
        let listener = system::listen(config.listen).map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        Ok(Self {
            config: config.clone(),
            listener,
            connections: Connections::new(config.connections.clone()),
            tls,
            address,
            routes: RoutesBuilder::default(),
            names: Vec::new(),
            trace: TraceLayer::default(),
            auth,
            server,
        })
    }

    /// The address the server really listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The largest message taken or sent, for the generated services.
    pub fn max_message(&self) -> usize {
        self.config.max_message.as_len()
    }

    /// Adds a service.
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME.to_owned());
        self.routes.add_service(service);
        self
    }

    /// Says which permission each method needs: `/package.Service/Method` and the permission. A
    /// method that is named nowhere is not served.
    #[must_use]
    pub fn rules(mut self, rules: &[(&'static str, Permission)]) -> Self {
        self.auth = self.auth.rules(rules.iter().copied());
        self
    }

    /// Believes other replicas of this service that say for whom they pass a call on.
    #[must_use]
    pub fn vouching(mut self, vouching: Vouching) -> Self {
        self.auth = self.auth.vouching(vouching);
        self
    }

    /// Adds a service whose calls need no rules, because it authenticates its callers itself.
    #[must_use]
    pub fn add_open_service<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.auth = self.auth.open(format!("/{}/", S::NAME));
        self.add_service(service)
    }

    /// Serves reflection for these encoded file descriptors (`wire::FILE_DESCRIPTOR_SET`).
    pub fn reflection(mut self, descriptors: &[u8]) -> Result<Self, ServerError> {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // The older version is what some tools still ask for.
        self.routes
            .add_service(builder().build_v1().map_err(ServerError::Reflection)?);
        self.routes
            .add_service(builder().build_v1alpha().map_err(ServerError::Reflection)?);
        Ok(self)
    }

    /// Measures the calls under the service's name.
    #[must_use]
    pub fn metrics(mut self, scope: &Scope) -> Self {
        self.trace = TraceLayer::measured(RpcMetrics::register(scope));
        self.auth = self.auth.metrics(scope);
        self.connections.measure(scope, "grpc");
        self
    }

    /// Serves until the supervisor is told to stop; then takes no new calls, and ends when the
    /// running ones have, or when the time for that is up. Handlers of streams must end them when
    /// the shutdown token is triggered.
    pub fn serve(mut self, tasks: &Tasks, health: &Health) {
        let (reporter, health_service) = tonic_health::server::health_reporter();
        self.routes.add_service(health_service);
        let shutdown = tasks.shutdown_token();
        let overall = reporter.clone();
        let follow = follow_health(reporter, health.clone(), self.names, shutdown.clone());

        tracing::info!(address = %self.address, tls = self.tls.is_some(), "gRPC is served");
        if let Some(tls) = &self.tls {
            let follow = Arc::clone(tls).follow(shutdown.clone());
            tasks.spawn("certificate files", OnFailure::Log, follow);
        }
        if let Some(upkeep) = self.auth.upkeep(shutdown.clone(), health) {
            tasks.spawn("OIDC keys", OnFailure::StopService, upkeep);
        }
        let connections = Arc::clone(&self.connections);
        let incoming = Incoming::new(self.listener, self.connections, self.tls);
        let serving = self
            .server
            .layer(self.trace)
            .layer(UndetailedLayer {
                within: self.config.call_timeout.get(),
            })
            .layer(MalformedLayer)
            .layer(self.auth)
            .serve_with_incoming_shutdown(
                self.routes.routes(),
                incoming,
                shutdown.triggered_owned(),
            );
        let drain = self.config.drain.get();
        let supervisor = tasks.clone();
        tasks.spawn("grpc server", OnFailure::StopService, async move {
            // A reporter begins with serving, which nobody may see before the parts say so.
            overall
                .set_service_status("", ServingStatus::NotServing)
                .await;
            supervisor.spawn("grpc health", OnFailure::Log, follow);
            let overdue = async {
                shutdown.triggered().await;
                tokio::time::sleep(drain).await;
            };
            tokio::select! {
                ended = serving => ended,
                () = overdue => {
                    tracing::info!("gRPC streams still open are cut");
                    connections.cut();
                    Ok(())
                }
            }
        });
    }
}
