//! The device side of Twinward for Linux: `twinward-agent`.
//!
//! Consumes: the machine (procfs, netlink, inotify, login records, account files) and the desired
//! section of its own twin. Produces: security events, reported properties and acknowledgements.
//! Owns: its data directory (key, last good configuration, spool).
//! It reaches nothing but its own twin and its own events, and it decides nothing about policy.

pub mod app;
pub mod args;
pub mod enroll;
pub mod identity;
pub mod status;

mod collectors;
mod configuration;
mod engine;
mod link;
mod session;

pub mod spool;

mod data_dir;
mod files;
pub mod lane;

pub use collectors::Machine;
