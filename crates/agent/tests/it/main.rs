//! The agent's binary against a door that records what it is told. That the real door understands
//! the agent is the business of the system tests; here it is about the agent's own promises.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows tests by their attribute, and these helpers have none"
)]

mod door;
mod offline;
mod session;
mod trial;
