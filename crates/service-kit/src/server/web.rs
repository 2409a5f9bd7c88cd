//! The HTTP/1.1 listener of a service that browsers and SDKs talk to, with or without TLS.
//!
//! It stands on the same ground as the gRPC server: handshakes run in the connection's own task,
//! connections that prove nothing make room, renewed certificates are taken over. What a request
//! needs to be let in is the router's business; it says so by [`Visitor::let_in`].

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body as AxumBody;
use futures::StreamExt as _;
use http::Request;
use hyper::body::Incoming as HyperBody;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::server::Connected as _;
use tower::ServiceExt as _;

use crate::config::{Problems, Validate};
use crate::metrics::Scope;
use crate::server::balancers::Balancers;
use crate::server::connections::Connections;
use crate::server::incoming::{Connection, Incoming};
use crate::server::{ConnectionLimits, PeerHandle, ServerError};
use crate::shutdown::ShutdownToken;
use crate::system;
use crate::tasks::{OnFailure, Tasks};
use crate::tls::client::HTTP1;
use crate::tls::server::{ServerSide, Serves};
use crate::tls::{self, ServerTls};
use crate::units::Duration;

mod body;

use body::Awaited;

/// What hyper keeps of a request's head, at most. The longest URL of IoT Hub's SDKs has two ids of
/// 128 escaped characters; the rest is headers.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How an HTTP listener serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebConfig {
    /// Address and port. Port 0 takes a free one, which the log names.
    pub listen: SocketAddr,
    /// The certificate to show. Unset (default): plain text, which only this machine may reach.
    pub tls: Option<ServerTls>,
    /// Asks clients for a certificate and takes any: whose it is, and what its owner may do, is for
    /// the router to find out ([`Visitor::certificates`]). Default false.
    pub ask_for_certificates: bool,
    /// Serves other machines even without TLS, because something else protects the way. Default
    /// false.
    pub allow_insecure: bool,
    /// How many may connect, and how soon they must prove themselves.
    pub connections: ConnectionLimits,
    /// Load balancers whose connections begin with a header of the PROXY protocol. Default: none.
    pub balancers: Balancers,
    /// How long the head of a request may take to come, once it has begun or the connection waits
    /// for the next (60 s).
    pub head_within: Duration,
    /// How long answers that are under way may take after the server was told to stop (5 s).
    pub drain: Duration,
}

impl Default for WebConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            ask_for_certificates: false,
            allow_insecure: false,
            connections: ConnectionLimits::default(),
            balancers: Balancers::default(),
            head_within: Duration::secs(60),
            drain: Duration::secs(5),
        }
    }
}

impl Validate for WebConfig {
    fn validate(&self, problems: &mut Problems) {
        let insecure = self.allow_insecure.into();
        if let Err(error) = tls::check_listener(self.listen, self.tls.as_ref(), insecure) {
            problems.add("tls", error.to_string());
        }
        problems.nested("connections", &self.connections);
        let patient = !self.head_within.is_zero();
        problems.require(patient, "head_within", "must be longer than nothing");
    }
}

/// Who is at the other end, as an extension of each request.
#[derive(Debug, Clone)]
pub struct Visitor(PeerHandle);

impl Visitor {
    /// The connection has shown that it belongs here, and no longer makes room for others.
    pub fn let_in(&self) {
        self.0.0.proven();
    }

    /// Whether it has shown that.
    pub fn is_let_in(&self) -> bool {
        self.0.0.is_proven()
    }

    /// The certificates that it has shown, in DER form, its own first. It has the key of that one;
    /// nothing else about them was checked. None if they were not asked for.
    pub fn certificates(&self) -> &[Vec<u8>] {
        self.0.0.chain()
    }

    /// Where it comes from.
    pub fn address(&self) -> SocketAddr {
        self.0.0.address()
    }
}

/// An HTTP server that is bound and not yet serving.
#[derive(Debug)]
pub struct WebServer {
    config: WebConfig,
    listener: TcpListener,
    connections: Arc<Connections>,
    tls: Option<Arc<ServerSide>>,
    address: SocketAddr,
}

impl WebServer {
    /// Checks the configuration, reads its files and binds the address. To be called inside the runtime.
    #[expect(
        clippy::unused_async,
        reason = "callers need not change when reading files waits one day"
    )]
    pub async fn bind(config: &WebConfig) -> Result<Self, ServerError> {
        let insecure = config.allow_insecure.into();
        tls::check_listener(config.listen, config.tls.as_ref(), insecure)?;
        let tls = match &config.tls {
            Some(files) => {
                let serves = if config.ask_for_certificates {
                    Serves::Anybody(HTTP1)
                } else {
                    Serves::Callers(HTTP1)
                };
                Some(Arc::new(ServerSide::load_for(serves, files)?))
            }
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
        })
    }

    /// The address the server really listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Counts the connections under the service's name.
    #[must_use]
    pub fn metrics(self, scope: &Scope) -> Self {
        self.connections.measure(scope, "http");
        self
    }

    /// Serves until the supervisor is told to stop; then takes no new requests and ends when the
    /// answers under way have gone out, or when the time for that is up.
    pub fn serve(self, tasks: &Tasks, router: Router) {
        let shutdown = tasks.shutdown_token();
        tracing::info!(address = %self.address, tls = self.tls.is_some(), "HTTP is served");
        if let Some(tls) = &self.tls {
            let follow = Arc::clone(tls).follow(shutdown.clone());
            tasks.spawn("certificate files", OnFailure::Log, follow);
        }
        let incoming = Incoming::new(self.listener, self.connections, self.tls)
            .behind(self.config.balancers.clone());
        let serving = accept(incoming, router, self.config, shutdown);
        tasks.spawn("http server", OnFailure::StopService, serving);
    }
}

async fn accept(
    mut incoming: Incoming,
    router: Router,
    config: WebConfig,
    shutdown: ShutdownToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.triggered() => break,
            // Takes away what has ended, so that the set holds no more than is open.
            Some(_) = connections.join_next() => {}
            Some(accepted) = incoming.next() => {
                if let Ok(connection) = accepted {
                    let serving =
                        serve(connection, router.clone(), config.clone(), shutdown.clone());
                    connections.spawn(serving);
                }
            }
        }
    }
    drop(incoming);
    let rest = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(config.drain.get(), rest)
        .await
        .is_err()
    {
        tracing::info!("HTTP connections still open are cut");
    }
}

/// Serves one connection until its client is done with it, or we stop.
async fn serve(connection: Connection, router: Router, config: WebConfig, stop: ShutdownToken) {
    let peer = connection.connect_info();
    let visitor = Visitor(peer.clone());
    let service = hyper::service::service_fn(move |request: Request<HyperBody>| {
        let (router, visitor) = (router.clone(), visitor.clone());
        let asking = Arc::new(peer.0.asks());
        async move {
            let awaited = |body| AxumBody::new(Awaited::new(body, Arc::downgrade(&asking)));
            let mut request = request.map(awaited);
            request.extensions_mut().insert(visitor);
            let response = router.oneshot(request).await;
            drop(asking);
            response
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_within.get())
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = stop.triggered() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}
