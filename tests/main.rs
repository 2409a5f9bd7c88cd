//! Whole-system stories: real processes, real NATS, real sockets; one file each.
//!
//! Every program is started as an operator starts it, and an unexpected WARN or ERROR line in its
//! log fails the story. Nothing waits for luck: conditions with deadlines throughout.

#![allow(clippy::disallowed_methods)] // tests read the clock and spawn as they like

mod support;

mod agent_methods;
mod agent_watchdog;
mod bad_input;
mod bulk_over_a_kill;
mod commands;
mod configurations;
mod created_again;
mod devices;
mod enrollment;
mod killed_in_mid_stream;
mod loop_end_to_end;
mod node;
mod odd_packets;
mod odd_requests;
mod offline_agent;
mod one_trace;
mod oscillation;
mod policy_actions;
mod policy_counts;
mod presence;
mod provisioning;
mod replicas;
mod rest;
mod rest_bearer;
mod rest_details;
mod restored;
mod rollout_fleet;
mod rollout_gates;
mod rollouts;
mod security_messages;
mod shutdown;
mod stale_owner;
mod unread_watches;
mod websocket;
mod who_may_call;
