//! A configuration on trial: in force, and not proved yet to leave the service within reach.
//!
//! A new configuration that cuts the device off could never be mended from afar. So the one before it is
//! kept beside it until the service was heard of late enough; if it is not, the agent goes back by itself
//! and says so when it can. [`Watch`] is pure and says what to do when; what it has to do survives a kill
//! and a reboot with the rest of the store.
//!
//! A version that was gone back from is not tried again: only a newer one is. Whether it was the
//! configuration's fault the agent cannot know, so the service decides when to ask for it again.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{Decision, Error, Outcome, Store};

/// How often an agent may start on trial before it goes back at once: a configuration may as well have
/// it killed again and again, always before its time was over.
const STARTS_MAX: u32 = 5;

/// How often it may be killed on trial, in whichever way it was in touch with the service before: a
/// configuration that has it killed (memory, a fault) may let it say a word each time.
const KILLS_MAX: u32 = 5;

/// Questions within the time in which the service must be heard of: one may be lost.
const QUESTIONS: u32 = 4;

/// The configuration before the one on trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    /// The version on trial.
    pub(super) version: u64,
    /// The version before it; 0: there was none.
    pub(super) last_good_version: u64,
    /// Its document.
    pub(super) last_good: Map<String, Value>,
    /// So many times the agent has started on trial, without a word of the service since.
    #[serde(default)]
    pub(super) starts: u32,
    /// So many times the agent was killed on trial while the machine went on.
    #[serde(default)]
    pub(super) kills: u32,
    /// The start of the machine in which the agent last ran on trial, as the kernel names it; empty when
    /// it names none.
    #[serde(default)]
    pub(super) boot_id: String,
    /// The agent was told to stop since. Absent in files from before kills were counted, which count none.
    #[serde(default = "told_to_stop")]
    pub(super) stopped: bool,
}

fn told_to_stop() -> bool {
    true
}

impl Store {
    /// The version on trial, if one is.
    pub(crate) fn on_trial(&self) -> Option<u64> {
        self.kept.trial.as_ref().map(|trial| trial.version)
    }

    /// What is on trial once `document` is applied as `version`.
    pub(super) fn trial_of(&self, version: u64, document: &Map<String, Value>) -> Option<Trial> {
        if !self.tries || *document == self.kept.applied {
            // What is in force already is as good as it was; on trial, it stays so under the new number.
            return self
                .kept
                .trial
                .clone()
                .map(|trial| Trial { version, ..trial });
        }
        let (last_good_version, last_good) = match &self.kept.trial {
            Some(trial) => (trial.last_good_version, trial.last_good.clone()),
            None => (self.kept.applied_version, self.kept.applied.clone()),
        };
        Some(Trial {
            version,
            last_good_version,
            last_good,
            starts: 0,
            kills: 0,
            boot_id: self.boot_id.clone(),
            stopped: false,
        })
    }

    /// The agent starts, and has put nothing into force yet: what is on trial may be what kills it.
    pub(crate) fn start_on_trial(&mut self) -> Result<Start, Error> {
        let Some(mut trial) = self.kept.trial.clone() else {
            return Ok(Start::GoOn);
        };
        trial.starts += 1;
        // A machine that was switched off, as a device that wakes for a minute is, killed the agent without
        // the configuration's doing. Where the kernel does not say, nobody can tell.
        if !trial.stopped && trial.boot_id == self.boot_id {
            trial.kills += 1;
        }
        trial.stopped = false;
        trial.boot_id.clone_from(&self.boot_id);
        let start = if trial.kills > KILLS_MAX {
            Start::KilledTooOften
        } else if trial.starts > STARTS_MAX {
            Start::UnheardTooOften
        } else {
            Start::GoOn
        };
        let mut kept = self.kept.clone();
        kept.trial = Some(trial);
        self.save(kept)?;
        Ok(start)
    }

    /// The agent was told to stop: its end is no fault of the configuration.
    pub(crate) fn stop_on_trial(&mut self) -> Result<(), Error> {
        let mut kept = self.kept.clone();
        let Some(trial) = &mut kept.trial else {
            return Ok(());
        };
        trial.stopped = true;
        self.save(kept)
    }

    /// Whether starts on trial are counted that the service was not heard of after.
    pub(crate) fn has_started_unheard(&self) -> bool {
        self.kept
            .trial
            .as_ref()
            .is_some_and(|trial| trial.starts > 0)
    }

    /// The service was heard of: the starts until then were no fault of the configuration. Devices that wake
    /// for a minute, and people who start the agent anew, make many.
    pub(crate) fn hear_on_trial(&mut self) -> Result<(), Error> {
        let mut kept = self.kept.clone();
        if let Some(trial) = &mut kept.trial {
            trial.starts = 0;
        }
        self.save(kept)
    }

    /// The configuration in force has proved good.
    pub(crate) fn prove(&mut self) -> Result<(), Error> {
        let mut kept = self.kept.clone();
        kept.trial = None;
        self.save(kept)
    }

    /// Puts the last good configuration into force again, as the answer to the newest version decided
    /// on. After an error everything is as before.
    pub(crate) fn go_back(&mut self, reason: String, at: Timestamp) -> Result<(), Error> {
        let Some(trial) = self.kept.trial.clone() else {
            return Ok(());
        };
        let decided = self.kept.decision.as_ref();
        let version = decided.map_or(trial.version, |decided| decided.version);
        let mut kept = self.kept.clone();
        kept.applied = trial.last_good;
        kept.applied_version = trial.last_good_version;
        kept.trial = None;
        kept.confirmed = false;
        kept.decision = Some(Decision {
            version,
            outcome: Outcome::Reverted {
                reason,
                running: trial.last_good_version,
            },
            decided_at: at,
        });
        self.save(kept)
    }
}

/// What a start on trial leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The trial goes on.
    GoOn,
    /// The agent has started too often without a word of the service between.
    UnheardTooOften,
    /// It was killed too often.
    KilledTooOften,
}

/// What is to be done about a configuration on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing yet.
    Wait,
    /// Ask the service for a sign of life.
    Ask,
    /// It has proved good.
    Prove,
    /// The service was not heard of for too long.
    GoBack,
}

/// The clock of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watch {
    /// So long the service may be silent.
    patience: Duration,
    /// When the configuration was applied, or the agent started on it.
    begun: Instant,
    /// When the service was last heard of since.
    heard: Instant,
    /// When it was last asked for a sign.
    asked: Instant,
}

impl Watch {
    /// A trial begins.
    pub(crate) fn begin(patience: Duration, now: Instant) -> Watch {
        Watch {
            patience,
            begun: now,
            heard: now,
            asked: now,
        }
    }

    /// Something came from the service.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The service was asked for a sign.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.asked = now;
    }

    /// What to do now. One word right after the change proves nothing: what cuts the device off may take
    /// a while, so the service must be heard of when all the time is over.
    pub(crate) fn next(&self, now: Instant) -> Next {
        if self.heard.duration_since(self.begun) >= self.patience {
            Next::Prove
        } else if now.duration_since(self.heard) >= self.patience {
            Next::GoBack
        } else if now.duration_since(self.asked.max(self.heard)) >= self.patience / QUESTIONS {
            Next::Ask
        } else {
            Next::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn applied(version: u64) -> Decision {
        Decision {
            version,
            outcome: Outcome::Applied,
            decided_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn open(dir: &tempfile::TempDir) -> Store {
        let mut store = Store::open(dir.path(), "devices/d").unwrap();
        store.try_out(BOOT.to_owned());
        store
    }

    /// As if the machine had been switched off and on.
    fn open_after_power_off(dir: &tempfile::TempDir, boot: u32) -> Store {
        let mut store = Store::open(dir.path(), "devices/d").unwrap();
        store.try_out(format!("boot {boot}"));
        store
    }

    const BOOT: &str = "c0ffee";

    fn long(version: u64) -> Map<String, Value> {
        document(&json!({"CollectorsCore_PriorityIntervals": format!("{version},100,100")}))
    }

    fn minutes(store: &Store) -> u64 {
        store.configuration().priority_intervals.high.as_secs() / 60
    }

    fn go_back(store: &mut Store) {
        let reason = "silence".to_owned();
        store.go_back(reason, Timestamp::UNIX_EPOCH).unwrap();
    }

    #[test]
    fn it_goes_back_to_the_last_that_was_proved_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(&dir);
        store.record(applied(2), Some(long(2))).unwrap();
        assert_eq!(store.on_trial(), Some(2));
        store.prove().unwrap();
        store.record(applied(3), Some(long(3))).unwrap();
        store.confirm().unwrap();
        // A newer one comes before the trial is over: the last good one is still that of 2.
        store.record(applied(4), Some(long(4))).unwrap();

        let mut store = open(&dir);
        assert_eq!((store.on_trial(), minutes(&store)), (Some(4), 4));
        assert_eq!(store.start_on_trial().unwrap(), Start::GoOn);
        go_back(&mut store);
        for store in [store, open(&dir)] {
            assert_eq!((store.on_trial(), minutes(&store)), (None, 2));
            assert!(!store.is_confirmed());
            let decision = store.decision().unwrap();
            assert_eq!(decision.version, 4);
            let running = 2;
            let reason = "silence".to_owned();
            assert_eq!(decision.outcome, Outcome::Reverted { reason, running });
        }
    }

    #[test]
    fn the_first_of_all_gives_way_to_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(&dir);
        store.record(applied(2), Some(long(2))).unwrap();
        go_back(&mut store);
        assert_eq!(minutes(&store), 30);
        assert!(matches!(
            store.decision().unwrap().outcome,
            Outcome::Reverted { running: 0, .. }
        ));
        // Gone back from once, there is nothing to go back from.
        let before = store.decision().cloned();
        go_back(&mut store);
        assert_eq!(store.decision().cloned(), before);
    }

    #[test]
    fn what_is_refused_meanwhile_leaves_the_trial_as_it_is_and_is_answered_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(&dir);
        store.record(applied(2), Some(long(2))).unwrap();
        let refused = Decision {
            version: 3,
            outcome: Outcome::Rejected {
                reason: "no".to_owned(),
                invalid_fields: Vec::new(),
            },
            decided_at: Timestamp::UNIX_EPOCH,
        };
        store.record(refused, None).unwrap();
        assert_eq!(store.on_trial(), Some(2));
        go_back(&mut store);
        assert_eq!(store.decision().unwrap().version, 3);
    }

    #[test]
    fn nothing_is_on_trial_that_changes_nothing_or_if_nobody_wants_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(&dir);
        store.record(applied(2), Some(long(2))).unwrap();
        // The same settings under a new number are as doubtful as before.
        store.record(applied(3), Some(long(2))).unwrap();
        assert_eq!(store.on_trial(), Some(3));
        store.prove().unwrap();
        store.record(applied(4), Some(long(2))).unwrap();
        assert_eq!(store.on_trial(), None);

        let mut careless = Store::open(dir.path(), "devices/d").unwrap();
        careless.record(applied(5), Some(long(5))).unwrap();
        assert_eq!(careless.on_trial(), None);
    }

    fn start(mut store: Store) -> (Store, Start) {
        let start = store.start_on_trial().unwrap();
        (store, start)
    }

    #[test]
    fn starting_again_and_again_is_no_proof() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).record(applied(2), Some(long(2))).unwrap();
        for boot in 0..STARTS_MAX {
            let (_, went) = start(open_after_power_off(&dir, boot));
            assert_eq!(went, Start::GoOn);
        }
        let (_, went) = start(open_after_power_off(&dir, STARTS_MAX));
        assert_eq!(went, Start::UnheardTooOften);
    }

    #[test]
    fn starts_after_which_the_service_was_heard_of_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).record(applied(2), Some(long(2))).unwrap();
        for boot in 0..3 * STARTS_MAX {
            let store = open_after_power_off(&dir, boot);
            assert!(!store.has_started_unheard());
            let (mut store, went) = start(store);
            assert_eq!(went, Start::GoOn);
            assert!(store.has_started_unheard());
            store.hear_on_trial().unwrap();
        }
        // It stays on trial: one word proves nothing.
        assert_eq!(open(&dir).on_trial(), Some(2));
    }

    #[test]
    fn an_agent_that_is_killed_each_time_after_a_word_of_the_service_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).record(applied(2), Some(long(2))).unwrap();
        for _ in 1..=KILLS_MAX {
            let (mut store, went) = start(open(&dir));
            assert_eq!(went, Start::GoOn);
            store.hear_on_trial().unwrap();
        }
        let (mut store, went) = start(open(&dir));
        assert_eq!(went, Start::KilledTooOften);
        go_back(&mut store);
        assert_eq!(start(open(&dir)).1, Start::GoOn);
    }

    #[test]
    fn an_agent_that_is_told_to_stop_is_not_killed() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).record(applied(2), Some(long(2))).unwrap();
        open(&dir).stop_on_trial().unwrap();
        for _ in 0..3 * KILLS_MAX {
            let (mut store, went) = start(open(&dir));
            assert_eq!(went, Start::GoOn);
            store.hear_on_trial().unwrap();
            store.stop_on_trial().unwrap();
        }
        // Nor does a stop forgive what was counted.
        for _ in 1..=KILLS_MAX {
            start(open(&dir)).0.hear_on_trial().unwrap();
        }
        start(open(&dir)).0.stop_on_trial().unwrap();
        assert_eq!(start(open(&dir)).1, Start::GoOn);
        assert_eq!(start(open(&dir)).1, Start::KilledTooOften);
    }

    #[test]
    fn the_service_must_be_heard_of_at_the_end_and_never_be_silent_for_too_long() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut watch = Watch::begin(Duration::from_mins(1), begun);
        assert_eq!(watch.next(after(14)), Next::Wait);
        assert_eq!(watch.next(after(15)), Next::Ask);
        watch.asked(after(15));
        assert_eq!(watch.next(after(29)), Next::Wait);
        assert_eq!(watch.next(after(30)), Next::Ask);
        watch.heard(after(31));
        assert_eq!(watch.next(after(32)), Next::Wait);
        assert_eq!(watch.next(after(90)), Next::Ask);
        assert_eq!(watch.next(after(91)), Next::GoBack);
        let silent = Watch::begin(Duration::from_mins(1), begun);
        assert_eq!(silent.next(after(60)), Next::GoBack);
        watch.heard(after(60));
        assert_eq!(watch.next(after(60)), Next::Prove);
    }
}
