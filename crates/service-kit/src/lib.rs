//! What every service of Twinward shares, so that each of them starts, reports, fails and stops
//! the same way.
//!
//! This crate knows nothing of devices, twins or policies, of the bus or of any store, and of no
//! gRPC service but health and reflection. It holds the only places of the tree that read the
//! clock ([`clock`]), read the environment ([`config`]) and spawn ([`tasks`]).
//!
//! A service reads: [`config`] → [`telemetry`] → [`health`], [`metrics`], [`tasks`] → [`server`]
//! and [`admin`] → [`shutdown::run_until_shutdown`].

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

pub mod admin;
pub mod auth;
pub mod client;
pub mod rpc;
pub mod server;
pub mod tls;
