//! The loop as one agent sees it: a port opens, a configuration comes; the port closes, it goes.
//! Pure: says when to act and what a configuration means.

use std::time::Duration;

/// A configuration that has not come after this never will: the hub looks again every 30 s, and a
/// push that needed that was lost.
const PUSH_WITHIN: Duration = Duration::from_secs(25);

/// Where one agent's loop stands. `I` is an instant of the caller's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn<I> {
    /// The next change of the port is due then; what it will be.
    Resting { until: I, then: Port },
    /// The port was changed; the configuration is on its way.
    Waiting { since: I, port: Port },
}

/// The unexpected port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Open,
    Closed,
}

impl Port {
    fn other(self) -> Self {
        match self {
            Self::Open => Self::Closed,
            Self::Closed => Self::Open,
        }
    }
}

impl<I> Turn<I>
where
    I: Copy + PartialOrd + std::ops::Add<Duration, Output = I> + std::ops::Sub<Output = Duration>,
{
    /// The instant at which something is to be done.
    pub(crate) fn due(&self) -> I {
        match *self {
            Self::Resting { until, .. } => until,
            Self::Waiting { since, .. } => since + PUSH_WITHIN,
        }
    }

    /// A configuration came. `applies`: the policy's settings are in it. Returns how long it took
    /// if it is the one that was waited for.
    pub(crate) fn on_configuration(
        &mut self,
        applies: bool,
        now: I,
        pause: Duration,
    ) -> Option<Duration> {
        let Self::Waiting { since, port } = *self else {
            return None;
        };
        if applies != (port == Port::Open) {
            return None;
        }
        *self = Self::Resting {
            until: now + pause,
            then: port.other(),
        };
        Some(now - since)
    }

    /// The wait is given up: by its deadline or with the session. The next turn makes the
    /// opposite change: whatever the hub holds by then, only that can lead to a push.
    pub(crate) fn give_up(&mut self, now: I, pause: Duration) -> bool {
        let Self::Waiting { port, .. } = *self else {
            return false;
        };
        *self = Self::Resting {
            until: now + pause,
            then: port.other(),
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    #[test]
    fn a_turn_ends_with_the_configuration_it_asked_for_and_the_next_one_is_the_opposite() {
        let start = Instant::now();
        let later = start + Duration::from_millis(30);
        let mut turn = Turn::Waiting {
            since: start,
            port: Port::Open,
        };
        assert_eq!(turn.on_configuration(false, later, PAUSE), None);
        assert_eq!(
            turn.on_configuration(true, later, PAUSE),
            Some(later - start)
        );
        assert_eq!(
            turn,
            Turn::Resting {
                until: later + PAUSE,
                then: Port::Closed
            }
        );
        assert_eq!(
            turn.on_configuration(false, later, PAUSE),
            None,
            "nothing was asked for"
        );
    }

    #[test]
    fn a_wait_that_is_given_up_is_told_from_a_rest() {
        let start = Instant::now();
        let mut turn = Turn::Waiting {
            since: start,
            port: Port::Closed,
        };
        assert_eq!(turn.due(), start + PUSH_WITHIN);
        assert!(turn.give_up(start, PAUSE));
        assert!(!turn.give_up(start, PAUSE));
        assert_eq!(turn.due(), start + PAUSE);
    }
}
