//! Decides when a session looks at the desired section, and when the section goes to the agent.
//!
//! Pure. Delivery is level-triggered: a hint, a slow tick and the start of a session all ask the
//! same question, "is the twin's version another one than the agent's?", so losing a hint costs
//! time only. Versions that are sent never go down within a session.

use std::collections::VecDeque;

use jiff::Timestamp;
use wire::agent::v1::DesiredConfiguration;

/// Versions whose time of push is remembered until they are acknowledged. An agent acknowledges in
/// order, so more than a few open ones mean that it does not acknowledge at all.
const PUSH_TIMES_MAX: usize = 16;

/// What a session knows about the delivery of its desired section.
#[derive(Debug, Default)]
pub(crate) struct Pusher {
    /// The version the agent said it had decided on; until then nothing is fetched.
    agent_version: Option<u64>,
    /// The highest version given to the agent in this session.
    sent: Option<u64>,
    /// A fetch is on its way.
    fetching: bool,
    /// Something happened since that fetch began, so its answer may be old.
    again: bool,
    /// A section that waits for the agent's stream to take it; a newer one replaces it.
    waiting: Option<DesiredConfiguration>,
    /// When each version was given to the agent's stream.
    times: VecDeque<(u64, Timestamp)>,
}

/// Whether the desired section should be fetched now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Fetch {
    /// Yes.
    Now,
    /// No: nothing to learn, or a fetch is on its way.
    No,
}

impl Pusher {
    /// The agent said which version it decided on last.
    pub(crate) fn on_hello(&mut self, applied_desired_version: u64) -> Fetch {
        self.agent_version = Some(applied_desired_version);
        self.look()
    }

    /// Somebody says that the section has this version now; 0 when it is not known.
    pub(crate) fn on_hint(&mut self, version: u64) -> Fetch {
        let known = self
            .sent
            .max(self.waiting.as_ref().map(|section| section.version));
        if version != 0 && known.is_some_and(|known| version <= known) {
            return Fetch::No;
        }
        self.look()
    }

    /// It is time to look again.
    pub(crate) fn on_tick(&mut self) -> Fetch {
        self.look()
    }

    /// The fetch failed; the next tick asks again.
    pub(crate) fn on_failure(&mut self) {
        self.fetching = false;
        self.again = false;
    }

    /// The fetch brought this section.
    pub(crate) fn on_section(&mut self, section: DesiredConfiguration) -> Fetch {
        self.fetching = false;
        if self.is_news(section.version) {
            self.waiting = Some(section);
        }
        if std::mem::take(&mut self.again) {
            self.look()
        } else {
            Fetch::No
        }
    }

    /// The section to give to the agent's stream now, if there is one.
    pub(crate) fn take(&mut self, now: Timestamp) -> Option<DesiredConfiguration> {
        let section = self.waiting.take()?;
        debug_assert!(
            self.sent.is_none_or(|sent| sent < section.version),
            "versions only rise"
        );
        self.sent = Some(section.version);
        if self.times.len() == PUSH_TIMES_MAX {
            self.times.pop_front();
        }
        self.times.push_back((section.version, now));
        Some(section)
    }

    /// Whether a section waits for the agent's stream.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// When a version was given to the agent's stream, if that was in this session.
    pub(crate) fn time_of(&self, version: u64) -> Option<Timestamp> {
        self.times
            .iter()
            .rev()
            .find(|(pushed, _)| *pushed == version)
            .map(|(_, time)| *time)
    }

    fn look(&mut self) -> Fetch {
        if self.agent_version.is_none() {
            return Fetch::No;
        }
        if self.fetching {
            self.again = true;
            return Fetch::No;
        }
        self.fetching = true;
        Fetch::Now
    }

    fn is_news(&self, version: u64) -> bool {
        let known = self
            .sent
            .max(self.waiting.as_ref().map(|section| section.version));
        match known {
            Some(known) => version > known,
            // The first of the session goes out whenever it differs, also downwards: an agent that
            // moved here from another hub may know a higher version than ours.
            None => self.agent_version != Some(version),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn section(version: u64) -> DesiredConfiguration {
        DesiredConfiguration {
            version,
            ..DesiredConfiguration::default()
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_session_starts_with_the_section_only_if_versions_differ() {
        let mut same = Pusher::default();
        assert_eq!(same.on_hello(4), Fetch::Now);
        assert_eq!(same.on_section(section(4)), Fetch::No);
        assert_eq!(same.take(at(1)), None);

        for twin in [3, 5] {
            let mut differs = Pusher::default();
            assert_eq!(differs.on_hello(4), Fetch::Now);
            assert_eq!(differs.on_section(section(twin)), Fetch::No);
            assert_eq!(differs.take(at(1)), Some(section(twin)));
        }
    }

    #[test]
    fn hints_during_a_fetch_become_one_more_fetch() {
        let mut pusher = Pusher::default();
        assert_eq!(
            pusher.on_hint(9),
            Fetch::No,
            "nothing is known of the agent yet"
        );
        assert_eq!(pusher.on_hello(0), Fetch::Now);
        assert_eq!(pusher.on_hint(2), Fetch::No);
        assert_eq!(pusher.on_hint(3), Fetch::No);
        assert_eq!(pusher.on_section(section(2)), Fetch::Now);
        assert_eq!(pusher.on_section(section(3)), Fetch::No);
        assert_eq!(
            pusher.take(at(1)),
            Some(section(3)),
            "the newer replaced the waiting one"
        );
        assert_eq!(pusher.on_hint(3), Fetch::No, "it has been sent");
        assert_eq!(pusher.on_hint(4), Fetch::Now);
    }

    #[test]
    fn the_time_of_a_push_is_remembered_by_version() {
        let mut pusher = Pusher::default();
        let _ = pusher.on_hello(0);
        for version in 1..=20 {
            let _ = pusher.on_section(section(version));
            pusher.take(at(i64::try_from(version).unwrap()));
        }
        assert_eq!(pusher.time_of(20), Some(at(20)));
        assert_eq!(pusher.time_of(4), None, "only the last few are kept");
        assert_eq!(pusher.time_of(21), None);
    }

    #[test]
    fn a_failed_fetch_is_repeated_by_the_next_tick() {
        let mut pusher = Pusher::default();
        assert_eq!(pusher.on_hello(0), Fetch::Now);
        pusher.on_failure();
        assert_eq!(pusher.on_tick(), Fetch::Now);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Hint(u64),
        Tick,
        Section(u64),
        Failure,
        Take,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..10_u64).prop_map(Step::Hint),
            Just(Step::Tick),
            (0..10_u64).prop_map(Step::Section),
            Just(Step::Failure),
            Just(Step::Take),
        ]
    }

    proptest! {
        #[test]
        fn versions_sent_only_rise_and_fetches_never_overlap(
            hello in 0..10_u64,
            steps in prop::collection::vec(any_step(), 0..60),
        ) {
            let mut pusher = Pusher::default();
            let mut open = 0_i32;
            let mut count = |fetch| if fetch == Fetch::Now { open += 1 };
            count(pusher.on_hello(hello));
            let mut sent: Vec<u64> = Vec::new();
            let mut overlap = false;
            for step in steps {
                match step {
                    Step::Hint(version) => {
                        let fetch = pusher.on_hint(version);
                        overlap |= fetch == Fetch::Now && open > 0;
                        open += i32::from(fetch == Fetch::Now);
                    }
                    Step::Tick => {
                        let fetch = pusher.on_tick();
                        overlap |= fetch == Fetch::Now && open > 0;
                        open += i32::from(fetch == Fetch::Now);
                    }
                    Step::Section(version) if open > 0 => {
                        open -= 1;
                        open += i32::from(pusher.on_section(section(version)) == Fetch::Now);
                    }
                    Step::Failure if open > 0 => {
                        open -= 1;
                        pusher.on_failure();
                    }
                    Step::Section(_) | Step::Failure => {}
                    Step::Take => sent.extend(pusher.take(at(0)).map(|section| section.version)),
                }
            }
            prop_assert!(!overlap);
            prop_assert!(sent.windows(2).all(|pair| pair[0] < pair[1]), "{sent:?}");
        }
    }
}
