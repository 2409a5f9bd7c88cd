//! `twinward-agent status`: what the data directory says, also while an agent runs on it. Changes
//! nothing.

use std::fmt::Write as _;
use std::path::Path;

use posture::Lane;
use serde_json::{Value, json};

use crate::configuration::{self, Outcome, Store};
use crate::identity;
use crate::spool::{self, LaneStatus};

/// Why the status cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The identity cannot be read.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The spool cannot be read.
    #[error(transparent)]
    Spool(#[from] spool::Error),
    /// The configuration cannot be read.
    #[error(transparent)]
    Configuration(#[from] configuration::Error),
}

/// What an agent's data directory says.
#[derive(Debug)]
pub struct Status {
    identity: Option<(String, String)>,
    decision: Option<configuration::Decision>,
    confirmed: bool,
    lanes: Vec<(Lane, Option<LaneStatus>)>,
}

/// Reads the status from a data directory.
pub fn read(data_dir: &Path) -> Result<Status, Error> {
    let identity = identity::load(data_dir, &identity::Sources::default())?.map(|found| {
        (
            wire::names::identity_name(found.identity()),
            found.host_name().to_owned(),
        )
    });
    let name = identity.as_ref().map_or("", |(name, _)| name.as_str());
    let store = Store::open(data_dir, name)?;
    let mut lanes = Vec::new();
    for lane in Lane::ALL {
        lanes.push((lane, spool::inspect(&data_dir.join("spool"), lane)?));
    }
    Ok(Status {
        identity,
        decision: store.decision().cloned(),
        confirmed: store.is_confirmed(),
        lanes,
    })
}

impl Status {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{name:<15} {value}");
        };
        match &self.identity {
            Some((name, host)) => {
                line("identity", name);
                line("hub", host);
            }
            None => line(
                "identity",
                "none yet; give a connection string or an enrolment token",
            ),
        }
        match &self.decision {
            Some(decision) => {
                let outcome = match &decision.outcome {
                    Outcome::Applied => "applied".to_owned(),
                    Outcome::Rejected { reason, .. } => format!("rejected: {reason}"),
                    Outcome::Reverted { reason, running } => {
                        format!("taken back, version {running} is in force: {reason}")
                    }
                };
                let told = if self.confirmed {
                    "the hub knows"
                } else {
                    "the hub may not know yet"
                };
                line(
                    "configuration",
                    &format!("version {} {outcome}; {told}", decision.version),
                );
            }
            None => line("configuration", "defaults; none was pushed yet"),
        }
        for (lane, status) in &self.lanes {
            let name = format!("spool {lane}");
            match status {
                Some(it) => line(
                    &name,
                    &format!(
                        "{} waiting ({} bytes), {} dropped, through {}",
                        it.waiting_count, it.waiting_bytes, it.dropped_total, it.durable_through
                    ),
                ),
                None => line(&name, "not there yet"),
            }
        }
        text
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let lanes: serde_json::Map<String, Value> = self
            .lanes
            .iter()
            .filter_map(|(lane, status)| {
                let it = status.as_ref()?;
                let value = json!({
                    "epoch": it.epoch.to_string(),
                    "waiting": it.waiting_count,
                    "waitingBytes": it.waiting_bytes,
                    "dropped": it.dropped_total,
                    "floor": it.floor.0,
                    "durableThrough": it.durable_through.0,
                });
                Some((lane.to_string(), value))
            })
            .collect();
        let decision = self.decision.as_ref().map(|decision| {
            let (state, reason) = match &decision.outcome {
                Outcome::Applied => ("applied", None),
                Outcome::Rejected { reason, .. } => ("rejected", Some(reason)),
                Outcome::Reverted { reason, .. } => ("reverted", Some(reason)),
            };
            json!({ "version": decision.version, "state": state, "reason": reason, "confirmed": self.confirmed })
        });
        json!({
            "identity": self.identity.as_ref().map(|(name, _)| name),
            "hub": self.identity.as_ref().map(|(_, host)| host),
            "configuration": decision,
            "spool": lanes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{Options, Spool};

    #[test]
    fn an_empty_directory_has_a_status_and_stays_empty() {
        let dir = tempfile::tempdir().unwrap();
        let status = read(dir.path()).unwrap();
        assert!(status.to_text().contains("none yet"));
        assert_eq!(status.to_json()["identity"], Value::Null);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_spool_in_use_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::with_bytes_max(1_000_000);
        let mut spool = Spool::open(&dir.path().join("spool"), options).unwrap();
        for _ in 0..3 {
            spool.append(Lane::High, b"event").unwrap();
        }
        spool.sync().unwrap();
        spool
            .acknowledge(Lane::High, crate::spool::Sequence(1))
            .unwrap();
        spool.sync().unwrap();
        let status = read(dir.path()).unwrap().to_json();
        assert_eq!(status["spool"]["high"]["waiting"], 2);
        assert_eq!(status["spool"]["high"]["durableThrough"], 3);
        assert_eq!(status["spool"]["low"]["waiting"], 0);
    }
}
