//! IoT Hub's service REST API over the services' gRPC: back-end programs and the Azure service SDKs
//! change a host name and a CA file, nothing else (spec iot-hub-twins §6–8).
//!
//! Devices that come to its port by MQTT over WebSocket it carries to ingestion.
//!
//! Consumes: twin-store's registry, twin, query and device command services, ingestion's links. Produces: nothing. Owns: nothing; the
//! shared access policies of the hub lie in a file. It decides no rule of identities or twins: what may be is
//! twin-store's to say, and this crate only says it in IoT Hub's words.

pub mod access;
pub mod app;
pub mod config;

mod bodies;
mod error;
mod headers;
mod hub;
mod metrics;
pub mod rates;
mod registrations;
mod rest;
mod route;
mod websocket;

pub use app::{Addresses, App, AppError};
pub use config::Config;
