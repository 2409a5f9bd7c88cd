//! The agent's configuration: what a desired section means, and the last good one on disk.
//!
//! [`decide`] (`verdict`) is pure: it says what a desired section changes. [`Store`] keeps the outcome, so that an
//! agent without a network runs on the last good configuration, and an answer that may have been lost
//! is given again. A version older than one decided on is refused: within one generation of the identity
//! versions never go down. An identity that was deleted and created again is another generation, whose
//! versions start again, so what was decided for the one before counts no more. A new configuration is on
//! trial (`trial`) until the service was heard of long enough.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use posture::AgentConfiguration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::files::{self, Readers};

pub(crate) mod trial;
mod verdict;

use trial::Trial;
pub(crate) use verdict::{Verdict, decide, reported};

const FILE: &str = "config.json";

/// What a version of the desired section came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is in force.
    Applied,
    /// It is not, and nothing of it is.
    Rejected {
        /// What is wrong, in one sentence.
        reason: String,
        /// The keys that are wrong, if it is about keys.
        invalid_fields: Vec<String>,
    },
    /// It was in force, and an older one is again.
    Reverted {
        /// Why, in one sentence.
        reason: String,
        /// The version in force; 0: the defaults, before any.
        running: u64,
    },
}

/// A decision on a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) version: u64,
    pub(crate) outcome: Outcome,
    pub(crate) decided_at: Timestamp,
}

/// Why the stored configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read or written.
    #[error("cannot {action} the configuration in {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The last good configuration and the last decision, on disk.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    identity: String,
    /// Whether a new configuration is on trial.
    tries: bool,
    /// Which start of the machine this is, as the kernel names it.
    boot_id: String,
    kept: Kept,
}

/// What is on disk.
#[derive(Debug, Clone)]
struct Kept {
    /// Empty until the service has said it.
    generation_id: String,
    applied: Map<String, Value>,
    /// The version of `applied`; 0: none of this generation.
    applied_version: u64,
    decision: Option<Decision>,
    confirmed: bool,
    trial: Option<Trial>,
}

/// The form on disk. Fields are only added.
#[derive(Serialize, Deserialize)]
struct StoreFile {
    /// Whose twin this is from; another identity's versions mean nothing.
    identity: String,
    /// Which generation of it the decision is about.
    #[serde(default)]
    generation_id: String,
    /// The desired section in force.
    applied: Map<String, Value>,
    /// 0 when nothing was decided in this generation.
    decided_version: u64,
    decided_at: String,
    /// Absent when it was applied.
    rejection: Option<RejectionFile>,
    /// The version in force, if the agent went back from the decided one: then that is the reason above.
    #[serde(default)]
    reverted_to: Option<u64>,
    /// The version in force; absent in files from before it was kept.
    #[serde(default)]
    applied_version: u64,
    /// What is in force on trial, and what was before it.
    #[serde(default)]
    trial: Option<Trial>,
    /// Whether the service has the decision for sure.
    confirmed: bool,
}

#[derive(Serialize, Deserialize)]
struct RejectionFile {
    reason: String,
    invalid_fields: Vec<String>,
}

impl Store {
    /// Opens the store of an identity. What cannot be understood is set aside: an agent on its
    /// defaults is better than none, and the service sends the section again.
    pub(crate) fn open(data_dir: &Path, identity: &str) -> Result<Self, Error> {
        let path = data_dir.join(FILE);
        let mut store = Self {
            path,
            identity: identity.to_owned(),
            tries: false,
            boot_id: String::new(),
            kept: Kept {
                generation_id: String::new(),
                applied: Map::new(),
                applied_version: 0,
                decision: None,
                confirmed: true,
                trial: None,
            },
        };
        let read = files::read_if_present(&store.path);
        let Some(text) = read.map_err(|source| store.error("read", source))? else {
            return Ok(store);
        };
        match serde_json::from_slice::<StoreFile>(&text) {
            Ok(file) if file.identity == identity => store.take(file),
            Ok(_) => {
                tracing::info!("the stored configuration is another identity's; starting anew");
            }
            Err(error) => {
                tracing::warn!(%error, path = %store.path.display(), "the stored configuration cannot be read; starting on defaults");
            }
        }
        Ok(store)
    }

    fn take(&mut self, file: StoreFile) {
        let outcome = match (file.rejection, file.reverted_to) {
            (None, _) => Outcome::Applied,
            (Some(RejectionFile { reason, .. }), Some(running)) => {
                Outcome::Reverted { reason, running }
            }
            (Some(rejection), None) => Outcome::Rejected {
                reason: rejection.reason,
                invalid_fields: rejection.invalid_fields,
            },
        };
        let kept = &mut self.kept;
        // A file from before this was kept says it when the last version was applied.
        let applied_last = outcome == Outcome::Applied && file.applied_version == 0;
        kept.applied_version = if applied_last {
            file.decided_version
        } else {
            file.applied_version
        };
        kept.generation_id = file.generation_id;
        kept.applied = file.applied;
        kept.confirmed = file.confirmed;
        kept.trial = file.trial;
        kept.decision = (file.decided_version > 0).then(|| Decision {
            version: file.decided_version,
            outcome,
            decided_at: file.decided_at.parse().unwrap_or(Timestamp::UNIX_EPOCH),
        });
    }

    /// From now on a new configuration is on trial. The name of the machine's start tells an agent that was
    /// killed from a machine that was switched off.
    pub(crate) fn try_out(&mut self, boot_id: String) {
        self.tries = true;
        self.boot_id = boot_id;
    }

    /// The generation of the identity that decisions are about; empty when it is not known.
    pub(crate) fn generation_id(&self) -> &str {
        &self.kept.generation_id
    }

    /// The service says which generation of the identity this is. Answers whether it is another one:
    /// then nothing is decided yet, and what was in force stays so until the first decision. Holds in
    /// memory also after an error; the next start then learns it anew.
    pub(crate) fn enter_generation(&mut self, generation_id: &str) -> Result<bool, Error> {
        if generation_id.is_empty() || generation_id == self.kept.generation_id {
            return Ok(false);
        }
        let mut kept = self.kept.clone();
        // One that was never told is taken for this one: it is from an agent that did not ask.
        let another = !kept.generation_id.is_empty();
        generation_id.clone_into(&mut kept.generation_id);
        if another {
            kept.decision = None;
            kept.confirmed = true;
            kept.applied_version = 0;
            // There is nothing to go back to that has a number here.
            kept.trial = None;
        }
        self.kept = kept.clone();
        self.save(kept)?;
        Ok(another)
    }

    /// The configuration in force. One that this version of the agent no longer understands gives
    /// way to the defaults.
    pub(crate) fn configuration(&self) -> AgentConfiguration {
        AgentConfiguration::parse(&self.kept.applied).unwrap_or_else(|invalid| {
            tracing::warn!(
                ?invalid,
                "the stored configuration is no longer valid; using defaults"
            );
            AgentConfiguration::default()
        })
    }

    pub(crate) fn decision(&self) -> Option<&Decision> {
        self.kept.decision.as_ref()
    }

    /// Whether the service has the last decision for sure.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.kept.confirmed
    }

    /// Keeps a decision, with the section it put into force if it did. After an error everything is
    /// as before.
    pub(crate) fn record(
        &mut self,
        decision: Decision,
        applied: Option<Map<String, Value>>,
    ) -> Result<(), Error> {
        let mut kept = self.kept.clone();
        if let Some(applied) = applied {
            kept.trial = self.trial_of(decision.version, &applied);
            kept.applied_version = decision.version;
            kept.applied = applied;
        }
        kept.decision = Some(decision);
        kept.confirmed = false;
        self.save(kept)
    }

    /// The service has the last decision.
    pub(crate) fn confirm(&mut self) -> Result<(), Error> {
        if self.kept.decision.is_none() || self.kept.confirmed {
            self.kept.confirmed = true;
            return Ok(());
        }
        let mut kept = self.kept.clone();
        kept.confirmed = true;
        self.save(kept)
    }

    /// Makes this durable, then in force here.
    fn save(&mut self, kept: Kept) -> Result<(), Error> {
        let decision = kept.decision.as_ref();
        let (rejection, reverted_to) = match decision.map(|decision| &decision.outcome) {
            None | Some(Outcome::Applied) => (None, None),
            Some(Outcome::Rejected {
                reason,
                invalid_fields,
            }) => {
                let rejection = RejectionFile {
                    reason: reason.clone(),
                    invalid_fields: invalid_fields.clone(),
                };
                (Some(rejection), None)
            }
            Some(Outcome::Reverted { reason, running }) => {
                let rejection = RejectionFile {
                    reason: reason.clone(),
                    invalid_fields: Vec::new(),
                };
                (Some(rejection), Some(*running))
            }
        };
        let file = StoreFile {
            identity: self.identity.clone(),
            generation_id: kept.generation_id.clone(),
            applied: kept.applied.clone(),
            decided_version: decision.map_or(0, |decision| decision.version),
            decided_at: decision
                .map_or(Timestamp::UNIX_EPOCH, |decision| decision.decided_at)
                .to_string(),
            rejection,
            reverted_to,
            applied_version: kept.applied_version,
            trial: kept.trial.clone(),
            confirmed: kept.confirmed,
        };
        serde_json::to_vec_pretty(&file)
            .map_err(io::Error::from)
            .and_then(|text| files::replace(&self.path, &text, Readers::Owner))
            .map_err(|source| self.error("write", source))?;
        self.kept = kept;
        Ok(())
    }

    fn error(&self, action: &'static str, source: io::Error) -> Error {
        Error::File {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

/// Removes what is stored, for an identity whose twin may have begun anew.
pub(crate) fn forget(data_dir: &Path) -> Result<(), Error> {
    let path = data_dir.join(FILE);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::File {
            action: "remove",
            path,
            source,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(version: u64) -> Decision {
        Decision {
            version,
            outcome: Outcome::Applied,
            decided_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn document(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    const SHORT: &str = r#"{"CollectorsCore_PriorityIntervals":"1,5,10"}"#;

    #[test]
    fn a_newer_valid_section_is_applied_whole() {
        let Verdict::Apply { configuration, .. } = decide(Some(&decision(3)), 4, SHORT) else {
            panic!("not applied");
        };
        assert_eq!(configuration.priority_intervals.high.as_secs(), 60);
    }

    #[test]
    fn one_wrong_key_refuses_everything_and_is_named() {
        let text = r#"{"CollectorsCore_PriorityIntervals":"30,120","Process_Mode":1}"#;
        let Verdict::Reject(Outcome::Rejected {
            reason,
            invalid_fields,
        }) = decide(None, 4, text)
        else {
            panic!("not rejected");
        };
        assert_eq!(invalid_fields, ["CollectorsCore_PriorityIntervals"]);
        assert!(
            reason.contains("CollectorsCore_PriorityIntervals"),
            "{reason}"
        );
        assert!(matches!(decide(None, 4, "[]"), Verdict::Reject(_)));
    }

    #[test]
    fn versions_never_go_down_and_the_same_one_is_answered_again() {
        assert_eq!(decide(Some(&decision(4)), 4, SHORT), Verdict::Repeat);
        assert!(matches!(
            decide(Some(&decision(4)), 3, SHORT),
            Verdict::Stale(_)
        ));
    }

    #[test]
    fn the_last_good_configuration_survives_a_restart_and_a_rejection() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), "devices/d").unwrap();
        assert_eq!(store.configuration(), AgentConfiguration::default());
        store.record(decision(4), Some(document(SHORT))).unwrap();
        store.confirm().unwrap();
        let rejected = Decision {
            version: 5,
            outcome: Outcome::Rejected {
                reason: "no".to_owned(),
                invalid_fields: vec!["Process_Mode".to_owned()],
            },
            decided_at: "2026-01-02T03:04:05.678Z".parse().unwrap(),
        };
        store.record(rejected.clone(), None).unwrap();

        let store = Store::open(dir.path(), "devices/d").unwrap();
        assert_eq!(store.configuration().priority_intervals.high.as_secs(), 60);
        assert_eq!(store.decision(), Some(&rejected));
        assert!(!store.is_confirmed());
        let other = Store::open(dir.path(), "devices/e").unwrap();
        assert_eq!(other.decision(), None);
    }

    #[test]
    fn another_generation_of_the_identity_starts_its_versions_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), "devices/d").unwrap();
        assert!(!store.enter_generation("one").unwrap());
        store.record(decision(7), Some(document(SHORT))).unwrap();
        assert!(!store.enter_generation("one").unwrap());
        assert!(!store.enter_generation("").unwrap());
        assert_eq!(store.decision(), Some(&decision(7)));

        assert!(store.enter_generation("two").unwrap());
        for store in [store, Store::open(dir.path(), "devices/d").unwrap()] {
            assert_eq!(store.decision(), None);
            assert!(store.is_confirmed());
            assert_eq!(store.generation_id(), "two");
            assert_eq!(
                store.configuration().priority_intervals.high.as_secs(),
                60,
                "the last good one stays in force"
            );
            assert!(matches!(
                decide(store.decision(), 1, SHORT),
                Verdict::Apply { .. }
            ));
        }
    }

    #[test]
    fn a_damaged_file_gives_way_to_defaults() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let store = Store::open(dir.path(), "devices/d").unwrap();
        assert_eq!(store.configuration(), AgentConfiguration::default());
    }

    #[test]
    fn the_report_is_the_micro_agents() {
        let mut decision = decision(1);
        assert_eq!(
            reported(&decision, "1.0"),
            serde_json::json!({
                "latest_state": "success", "latest_invalid_fields": null, "agent_version": "1.0"
            })
        );
        decision.outcome = Outcome::Rejected {
            reason: String::new(),
            invalid_fields: vec!["A".to_owned()],
        };
        let patch = reported(&decision, "1.0");
        assert_eq!(patch["latest_state"], "failed");
        assert_eq!(patch["latest_invalid_fields"], serde_json::json!(["A"]));
    }
}
