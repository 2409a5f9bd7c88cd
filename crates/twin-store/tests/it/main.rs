//! twin-store as its callers see it: a real service on a real NATS server, spoken to over gRPC.

mod answers;
mod audit_log;
mod bulk;
mod changes;
mod commands;
mod damage;
mod database;
mod enrollment;
mod fleet;
mod forms;
mod history;
mod informer;
mod jobs;
mod lifecycle;
mod messages;
mod modules;
mod provisioning;
mod query;
mod registry;
mod repeats;
mod replicas;
mod service;
mod telemetry;
mod twins;
mod watch;
mod writes;
