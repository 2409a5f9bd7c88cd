//! The device side of Twinward for Linux: `twinward-agent`.
//!
//! Consumes: the machine (procfs, netlink, inotify, login records, account files) and the desired
//! section of its own twin. Produces: security events, reported properties and acknowledgements.
//! Owns: its data directory (key, last good configuration, spool).
//! It reaches nothing but its own twin and its own events, and it decides nothing about policy.

mod collectors;
mod files;
pub mod lane;
pub mod spool;
