//! What every service of Twinward shares, so that each of them starts, reports, fails and stops
//! the same way.
//!
//! This crate knows nothing of devices, twins or policies, of the bus or of any store, and of no
//! gRPC service but health and reflection. It holds the only places of the tree that read the
//! clock ([`clock`]), read the environment ([`config`]) and spawn ([`tasks`]).
//!
//! A service reads: [`config`] → [`telemetry`] → [`health`], [`metrics`], [`tasks`] → [`server`]
//! and [`admin`] → [`shutdown::run_until_shutdown`].
//!
//! ```no_run
//! use std::error::Error;
//! use std::time::Duration;
//!
//! use serde::{Deserialize, Serialize};
//! use service_kit::admin::{AdminConfig, AdminServer};
//! use service_kit::config::{Loader, Problems, Validate};
//! use service_kit::health::Health;
//! use service_kit::metrics::Registry;
//! use service_kit::server::{GrpcConfig, GrpcServer};
//! use service_kit::shutdown::{self, ShutdownToken};
//! use service_kit::tasks::{OnFailure, Tasks};
//! use service_kit::telemetry::{self, TelemetryConfig};
//!
//! #[derive(Default, Serialize, Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct Config {
//!     grpc: GrpcConfig,
//!     admin: AdminConfig,
//!     telemetry: TelemetryConfig,
//! }
//!
//! impl Validate for Config {
//!     fn validate(&self, problems: &mut Problems) {
//!         problems.nested("grpc", &self.grpc);
//!         problems.nested("telemetry", &self.telemetry);
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn Error>> {
//! let config: Config = Loader::new("demo").file(Some("/etc/twinward/demo.toml")).load()?;
//! let telemetry = telemetry::init(&config.telemetry, "demo")?;
//! let token = ShutdownToken::new();
//! shutdown::on_signals(&token)?;
//!
//! let (tasks, health, registry) = (Tasks::new(token), Health::new(), Registry::new());
//! let grpc = GrpcServer::bind(&config.grpc).await?;
//! let admin = AdminServer::bind(&config.admin).await?;
//!
//! let store = health.component("store");
//! let stop = tasks.shutdown_token();
//! tasks.spawn("writer", OnFailure::StopService, async move {
//!     store.serving();
//!     stop.triggered().await;
//! });
//! admin.serve(&tasks, health.clone(), registry.clone());
//! grpc.metrics(&registry.scope("demo")).serve(&tasks, &health);
//!
//! let deadline = Duration::from_secs(10);
//! let ended = shutdown::run_until_shutdown(&tasks, &health, deadline, || async {}).await;
//! telemetry.shutdown().await;
//! Ok(ended?)
//! # }
//! ```

pub mod clock;
pub mod config;
pub mod secret;
pub mod units;

pub mod error;
pub mod exit;
pub mod http_status;
pub mod status;

pub mod health;
pub mod metrics;
pub mod telemetry;
pub mod trace;

pub mod backoff;
pub mod shutdown;
pub mod tasks;

pub mod accounts;
pub mod admin;
pub mod auth;
pub mod client;
mod https;
pub mod log_budget;
pub mod malformed;
pub mod places;
pub mod rpc;
pub mod server;
pub mod suspects;
pub mod system;
pub mod tls;
mod undetailed;

/// Adds generated gRPC services to a [`server::GrpcServer`], each with the server's limit on the
/// size of messages. (A macro, because what tonic generates shares no trait to set it by.)
#[macro_export]
macro_rules! add_services {
    (through $layer:expr, $server:expr, $($service:expr),+ $(,)?) => {{
        let server: $crate::server::GrpcServer = $server;
        let max = server.max_message();
        server$(.add_service(
            $layer.layer(
                $service
                    .max_decoding_message_size(max)
                    .max_encoding_message_size(max)
            ),
        ))+
    }};
    ($server:expr, $($service:expr),+ $(,)?) => {{
        let server: $crate::server::GrpcServer = $server;
        let max = server.max_message();
        server$(.add_service(
            $service
                .max_decoding_message_size(max)
                .max_encoding_message_size(max),
        ))+
    }};
}
