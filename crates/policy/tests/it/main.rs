//! The policy service against a real NATS server, and a twin-store that really applies settings.
//!
//! Each test has its own server, its own folder and its own ports, and waits for conditions.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test owns its tasks, may read the clock, and ends with a panic when it cannot go on"
)]

mod actions;
mod api;
mod configurations;
mod damaged;
mod device_tags;
mod follow;
mod foresee;
mod frozen;
mod gates;
mod guard;
mod hours;
mod labels;
mod lost;
mod operations;
mod orders;
mod reevaluations;
mod templates;
mod trouble;
mod twin_store;
mod undecided;
mod world;
