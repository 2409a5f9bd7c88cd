//! Ingestion against a real NATS server, a real gRPC connection on both sides, and a twin-store
//! that is a real gRPC server with a map for a store. (The real twin-store is in the system tests.)

// Tests spawn their servers and read the clock themselves; what fails in their helpers fails them.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod agent;
mod agents_crowds;
mod announcements;
mod authentication;
mod delivery;
mod device_messages;
mod enrolment;
mod fake_store;
mod hub;
mod lifecycle;
mod methods;
mod mqtt;
mod mqtt_authority;
mod mqtt_balancers;
mod mqtt_client;
mod mqtt_crowds;
mod mqtt_goodbye;
mod mqtt_limits;
mod mqtt_log;
mod mqtt_policies;
mod mqtt_security;
mod provisioning;
mod pushes;
mod raw;
mod requests;
mod tracing_context;
