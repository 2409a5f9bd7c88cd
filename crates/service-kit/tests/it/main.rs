//! The kit with real sockets: gRPC and HTTP servers, clients, signals.

mod admin;
mod grpc;
mod signals;
mod support;
mod telemetry;
mod tls;
