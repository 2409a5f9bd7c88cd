//! The kit with real sockets: gRPC and HTTP servers, clients, signals.

mod admin;
mod balancers;
mod bouncer;
mod connections;
mod grpc;
mod malformed;
mod mutual_tls;
mod oidc;
mod roles;
mod signals;
mod streams;
mod support;
mod telemetry;
mod tls;
