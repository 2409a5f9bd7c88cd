//! Drift: a device that had applied a configuration and does not run on it any more, because somebody
//! changed it there, or because the agent went back by itself. Pure.
//!
//! The same settings are pushed again under a new version, a few times and ever more rarely. If that does
//! not help, somebody has to look at the device. The count survives what made it rise: a device that
//! drifts again soon after it was put right goes on where it was, so that two who fight over a setting
//! make no storm.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{ConfigurationState, PushState, Timeline, Transition};
use crate::{limits, time};

/// Pushes before it is given up.
pub const PUSHES_MAX: u32 = 3;
/// Each push waits so many times as long as the one before.
const SLOWER: i32 = 6;
/// A question whether settings may be pushed again stays with the twin; so long until it is asked once more.
const ASK_AGAIN: SignedDuration = SignedDuration::from_hours(24);
/// A device that stayed as it should be for so long after a push begins anew.
const CALM: SignedDuration = SignedDuration::from_hours(24);

/// How far the settings were pushed again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Drift {
    /// Since when the device is not as it said.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Which properties, as IoT Plug and Play has them; none: the whole section.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<String>,
    /// How often the settings were pushed again.
    pub pushes: u32,
    /// When that was last.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub pushed_at: Option<Timestamp>,
    /// When it was asked whether that may be done again, since the device is not as it said; whose settings
    /// they are has to say so.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub push_asked_at: Option<Timestamp>,
}

impl Drift {
    /// Whether there is nothing to tell.
    pub(super) fn is_nothing(&self) -> bool {
        *self == Drift::default()
    }
}

impl ConfigurationState {
    /// The device says that it had applied the newest version and has something else now.
    pub fn drifted(&mut self, properties: Vec<String>, at: Timestamp) -> Transition {
        match self.state {
            PushState::Applied | PushState::Drifted => {}
            PushState::None
            | PushState::Pending
            | PushState::Rejected
            | PushState::TimedOut
            | PushState::Reverted => return Transition::Unchanged,
        }
        let properties: Vec<String> = properties
            .into_iter()
            .take(limits::INVALID_FIELDS_MAX)
            .map(|property| crate::posture::cut(&property, limits::NAME_BYTES_MAX))
            .collect();
        if self.state == PushState::Drifted && self.drift.properties == properties {
            return Transition::Unchanged;
        }
        if self.state != PushState::Drifted {
            self.state = PushState::Drifted;
            self.at = Some(at);
            self.note_drift(at);
        }
        self.reason = Some(format!(
            "the device has another value of {}",
            properties.join(", ")
        ));
        self.drift.properties = properties;
        Transition::Changed
    }

    /// The device is not as it said from now on.
    pub(super) fn note_drift(&mut self, at: Timestamp) {
        let last = self.drift.pushed_at;
        if last.is_some_and(|last| at.duration_since(last) >= CALM) {
            self.drift = Drift::default();
        }
        self.drift.since = Some(at);
        self.drift.push_asked_at = None;
        self.drift.properties = Vec::new();
    }

    /// Whether the device does not run on what it had applied.
    pub fn is_drifted(&self) -> bool {
        matches!(self.state, PushState::Drifted | PushState::Reverted)
    }

    /// Whether pushing again has not helped.
    pub fn is_given_up(&self) -> bool {
        self.is_drifted() && self.drift.pushes >= PUSHES_MAX
    }

    /// When the settings are to be pushed again, if the first time is after `first`; none: not.
    pub fn push_due(&self, first: SignedDuration) -> Option<Timestamp> {
        if !self.is_drifted() || self.is_given_up() {
            return None;
        }
        let wait = first.checked_mul(SLOWER.pow(self.drift.pushes))?;
        self.at?.checked_add(wait).ok()
    }

    /// When it is to be asked whether the settings may be pushed again, if the first time is after `first`;
    /// none: not. Whoever is asked looks again by itself when what held it back is over, so it is asked again
    /// only for want of an answer, and rarely: each time is a revision of the twin.
    pub fn ask_due(&self, first: SignedDuration) -> Option<Timestamp> {
        let due = self.push_due(first)?;
        match self.drift.push_asked_at {
            None => Some(due),
            Some(asked) => asked.checked_add(ASK_AGAIN).ok(),
        }
    }

    /// It was asked.
    pub fn ask(&mut self, at: Timestamp) {
        self.drift.push_asked_at = Some(at);
    }

    /// Whether it was asked, and nothing came of it yet.
    pub fn is_asked(&self) -> bool {
        self.is_drifted() && self.drift.push_asked_at.is_some()
    }

    /// The settings were pushed again under a new version.
    pub fn pushed_again(&mut self, version: u64, at: Timestamp) -> Transition {
        let drift = Drift {
            pushes: self.drift.pushes.saturating_add(1),
            pushed_at: Some(at),
            push_asked_at: None,
            ..self.drift.clone()
        };
        let transition = self.desired_changed(version, at, Timeline::default(), None);
        if transition == Transition::Changed {
            self.drift = drift;
        }
        transition
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AckOutcome, Acknowledgement};
    use super::*;

    const FIRST: SignedDuration = SignedDuration::from_secs(60);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn answer(state: &mut ConfigurationState, version: u64, outcome: AckOutcome, second: i64) {
        let answer = Acknowledgement {
            version,
            outcome,
            at: at(second),
            pushed_at: None,
            applied_at: None,
        };
        assert_eq!(state.acknowledged(&answer), Transition::Changed);
    }

    fn applied() -> ConfigurationState {
        let mut state = ConfigurationState::default();
        state.desired_changed(2, at(0), Timeline::default(), None);
        answer(&mut state, 2, AckOutcome::Applied, 1);
        state
    }

    fn drift(state: &mut ConfigurationState, second: i64) -> Transition {
        state.drifted(vec!["speed".to_owned()], at(second))
    }

    #[test]
    fn it_is_pushed_ever_more_rarely_and_then_given_up() {
        let mut state = applied();
        assert_eq!(state.push_due(FIRST), None);
        let mut now = 100;
        for (version, wait) in [(3, 60), (4, 360), (5, 2160)] {
            assert_eq!(drift(&mut state, now), Transition::Changed);
            assert_eq!(drift(&mut state, now + 1), Transition::Unchanged);
            assert_eq!(state.state, PushState::Drifted);
            assert_eq!(state.push_due(FIRST), Some(at(now + wait)), "{version}");
            now += wait;
            assert_eq!(state.pushed_again(version, at(now)), Transition::Changed);
            assert_eq!(state.state, PushState::Pending);
            answer(&mut state, version, AckOutcome::Applied, now + 1);
            assert!(!state.is_drifted());
            now += 10;
        }
        drift(&mut state, now);
        assert!(state.is_given_up());
        assert_eq!(state.push_due(FIRST), None);
        // Somebody wants something else: that is another matter.
        state.desired_changed(6, at(now + 1), Timeline::default(), None);
        assert_eq!(state.drift, Drift::default());
    }

    #[test]
    fn it_is_asked_for_again_until_it_is_pushed_or_the_device_is_as_it_said() {
        let mut state = applied();
        drift(&mut state, 100);
        assert_eq!(state.ask_due(FIRST), Some(at(160)));
        assert!(!state.is_asked());
        state.ask(at(170));
        assert!(state.is_asked());
        assert_eq!(
            state.ask_due(FIRST),
            Some(at(170 + 86_400)),
            "each time costs a revision"
        );
        // By itself it is right again; what it asks for after another drift is another matter.
        let mut back = state.clone();
        answer(&mut back, 2, AckOutcome::Applied, 180);
        assert!(!back.is_asked());
        drift(&mut back, 200);
        assert!(!back.is_asked());
        assert_eq!(back.ask_due(FIRST), Some(at(260)));

        state.pushed_again(3, at(190));
        answer(&mut state, 3, AckOutcome::Applied, 191);
        drift(&mut state, 195);
        assert!(!state.is_asked());
        assert_eq!(state.ask_due(FIRST), Some(at(195 + 360)));
    }

    #[test]
    fn a_day_of_calm_begins_anew() {
        let mut state = applied();
        drift(&mut state, 100);
        state.pushed_again(3, at(200));
        answer(&mut state, 3, AckOutcome::Applied, 201);
        let mut soon = state.clone();
        drift(&mut soon, 200 + 86_399);
        assert_eq!(soon.drift.pushes, 1);
        drift(&mut state, 200 + 86_400);
        assert_eq!(state.drift.pushes, 0);
    }

    #[test]
    fn an_agent_that_went_back_is_asked_again_as_well() {
        let mut state = applied();
        let back = || AckOutcome::Reverted {
            reason: "cut off".to_owned(),
            running: None,
        };
        answer(&mut state, 2, back(), 50);
        assert_eq!(state.push_due(FIRST), Some(at(110)));
        state.pushed_again(3, at(110));
        answer(&mut state, 3, back(), 120);
        assert_eq!(state.push_due(FIRST), Some(at(480)));
    }

    #[test]
    fn only_what_was_applied_can_drift() {
        let mut state = ConfigurationState::default();
        assert_eq!(drift(&mut state, 1), Transition::Unchanged);
        state.desired_changed(2, at(2), Timeline::default(), None);
        assert_eq!(drift(&mut state, 3), Transition::Unchanged);
    }
}
