//! The HTTP listener for probes and metrics: `/livez`, `/readyz`, `/healthz` and `/metrics`.
//!
//! It shows nothing secret and changes nothing, so it has neither TLS nor a token; which network
//! may reach it is for the operator to say by its address.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::config::{Problems, Validate};
use crate::health::Health;
use crate::metrics::{self, Registry};
use crate::tasks::{OnFailure, Tasks};

/// The listener for probes and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address and port. Port 0 takes a free one, which the log names.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }
}

impl Validate for AdminConfig {
    fn validate(&self, _problems: &mut Problems) {}
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for probes and metrics")]
pub struct AdminError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// A listener that is bound and not yet serving.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl AdminServer {
    /// Binds the address.
    pub async fn bind(config: &AdminConfig) -> Result<Self, AdminError> {
        let error = |source| AdminError {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, address })
    }

    /// The address the listener really has.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the supervisor is told to stop.
    pub fn serve(self, tasks: &Tasks, health: Health, registry: Registry) {
        let app = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readiness))
            .route("/healthz", get(readiness))
            .route("/metrics", get(metrics_page))
            .with_state((health, registry));
        let shutdown = tasks.shutdown_token();
        tracing::info!(address = %self.address, "probes and metrics are served");
        tasks.spawn("admin server", OnFailure::StopService, async move {
            axum::serve(self.listener, app)
                .with_graceful_shutdown(shutdown.triggered_owned())
                .await
        });
    }
}

/// What `/readyz` answers.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    #[serde(flatten)]
    report: crate::health::Report,
}

async fn readiness(State((health, _)): State<(Health, Registry)>) -> Response {
    let report = health.report();
    let body = Readiness {
        ready: report.is_ready(),
        report,
    };
    let status = if body.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    match serde_json::to_string_pretty(&body) {
        Ok(json) => (
            status,
            [(header::CONTENT_TYPE, "application/json")],
            json + "\n",
        )
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn metrics_page(State((_, registry)): State<(Health, Registry)>) -> Response {
    match registry.encode() {
        Ok(page) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
