//! Ingestion against a real NATS server, a real gRPC connection on both sides, and a twin-store
//! that is a real gRPC server with a map for a store. (The real twin-store is in the system tests.)

#![allow(clippy::disallowed_methods)] // tests spawn their servers and read the clock themselves

mod agent;
mod authentication;
mod delivery;
mod enrolment;
mod fake_store;
mod hub;
mod lifecycle;
mod pushes;
mod raw;
mod requests;
