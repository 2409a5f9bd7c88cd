//! The policy service: decides which desired settings policies put on which twins.
//!
//! - **Consumes** `TWINS_{p}`, the changes of twins (from twin-store, over NATS). Each change carries
//!   the whole twin, so nothing is polled. For the counts of `PolicyStatus` it watches twin-store and
//!   keeps a small entry per twin (`counts`); no decision is made of them.
//! - **Produces** calls of twin-store's `ApplyPolicySettings`, with the version the decision was made
//!   on; `REJECTS` for what it cannot use.
//! - **Owns** `policy.db`: policies, their revisions, and how far each `TWINS_{p}` was read.
//! - **Serves** `twinward.policy.v1.PolicyService`.
//!
//! It never talks to a device, never writes a twin itself, and knows no detail of how twin-store
//! keeps it. The rule of what a policy may overwrite lives in `twin::settings`; here it is only asked.
//!
//! Reading order: `policy_doc` (what a policy is) → `content_diff` (how two differ) → `file` and `resource` (how people and programs
//! write one) → `evaluate` (the decision, pure), `keep` (what stays as it is), `lean` (the short way to nothing to do), `explain` and `preview` (what it says of a twin and of a
//! draft) → `store` → `policies` (the present set) → `writer`
//! (one decision carried out), `guard` (leaves that go back and forth) → `gather`, `batches` and `consumer` (on change) and `sweep` (everything, in the
//! background), `reevaluation` (everything, because somebody asked); `actions` (methods that policies call); `rollout` (how a revision spreads, pure), `counts`, `planning` and `rollouts` (what brings it
//! forward) → `grpc` → `app`.

pub mod configuration_doc;
pub mod policy_doc;
pub mod rollout;
pub mod schedule;

pub mod assess;
pub mod content_diff;
pub mod file;
pub mod resource;

mod active;
mod configured;
mod evaluate;
mod explain;
mod interest;
mod keep;
mod lean;
mod preview;
mod standing;
mod standstill;
mod stray;
mod twin_document;

mod store;

mod actions;
mod counts;
mod edges;
mod planning;
mod policies;
mod progress;
mod rollouts;
mod touch;

mod audit;
mod rejects;
mod twin_store;
mod undecided;
mod writer;

mod batches;
mod busy;
mod consumer;
mod gather;
mod guard;
mod look;
mod positions;
mod reevaluation;
mod sweep;

mod grpc;
mod permissions;

pub mod app;
pub mod config;
pub mod error;
mod membership;
mod metrics;

#[cfg(test)]
mod model;

pub use app::{Addresses, App};
pub use config::Config;
pub use error::Error;
pub use store::Error as StoreError;
