//! What to send next, and what an answer means: the state of a session, without any I/O.
//!
//! Each lane sends what is due in batches, a bounded number of them before the service has
//! acknowledged the first. A new session sends everything again that is not acknowledged; the
//! service knows the sequences. The engine performs what is decided here.

use std::collections::VecDeque;

use posture::Lane;

use crate::lane::PerLane;
use crate::spool::{ReadLimits, Sequence};

/// Batches of a lane that may be unacknowledged: enough to fill the time to the service and its
/// disk and back, few enough to be sent again at no great cost.
const BATCHES_IN_FLIGHT_MAX: usize = 4;

/// Most bytes of events in a batch, whatever the service would take: below the 256 KB that hubs
/// count as one message.
pub(crate) const BATCH_BYTES_MAX: usize = 200 * 1024;

/// Most events in a batch, whatever the service would take.
const BATCH_EVENTS_MAX: usize = 1000;

/// Bytes that a batch takes besides its events' own: sequences, lengths, epoch, trace.
const EVENT_OVERHEAD_BYTES: usize = 16;

/// A session with the service, or the wait for one.
#[derive(Debug, Default)]
pub(crate) struct Session {
    phase: Phase,
    lanes: PerLane<LaneState>,
}

#[derive(Debug, Default, Clone, Copy)]
enum Phase {
    /// No session, or the service has not answered `hello`.
    #[default]
    Closed,
    /// The service takes batches within these limits.
    Open(ReadLimits),
}

#[derive(Debug, Default)]
struct LaneState {
    /// Everything at or below may be sent.
    due: Sequence,
    /// Everything at or below was sent in this session, or acknowledged before it.
    sent: Sequence,
    /// The last sequence of each unacknowledged batch, oldest first.
    in_flight: VecDeque<Sequence>,
}

/// A batch to send: events after one sequence and through another, within limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchPlan {
    pub(crate) after: Sequence,
    pub(crate) through: Sequence,
    pub(crate) limits: ReadLimits,
}

/// What the service takes, as it said. 0 means that it did not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ServiceLimits {
    pub(crate) batch_bytes: u32,
    pub(crate) batch_events: u32,
}

impl Session {
    /// Everything of a lane at or below `through` may be sent.
    pub(crate) fn due(&mut self, lane: Lane, through: Sequence) {
        let state = &mut self.lanes[lane];
        state.due = state.due.max(through);
    }

    /// The service has answered `hello`: batches may be sent.
    pub(crate) fn opened(&mut self, limits: ServiceLimits) {
        let at_most = |ours: usize, theirs: u32| match usize::try_from(theirs) {
            Ok(theirs) if theirs > 0 => ours.min(theirs),
            _ => ours,
        };
        let events = at_most(BATCH_EVENTS_MAX, limits.batch_events);
        // Half of what the service takes at most, so that what surrounds the events fits too.
        let bytes = at_most(BATCH_BYTES_MAX, limits.batch_bytes / 2);
        let bytes = bytes.saturating_sub(events * EVENT_OVERHEAD_BYTES).max(1);
        self.phase = Phase::Open(ReadLimits { bytes, events });
    }

    /// The session ended. What is not acknowledged will be sent again.
    pub(crate) fn closed(&mut self, floors: PerLane<Sequence>) {
        self.phase = Phase::Closed;
        for lane in Lane::ALL {
            let state = &mut self.lanes[lane];
            state.sent = floors[lane];
            state.in_flight.clear();
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Whether the service owes an acknowledgement.
    pub(crate) fn awaits_acknowledgement(&self) -> bool {
        Lane::ALL
            .iter()
            .any(|lane| !self.lanes[*lane].in_flight.is_empty())
    }

    /// The next batch of a lane, if one may be sent now.
    pub(crate) fn next_batch(&self, lane: Lane) -> Option<BatchPlan> {
        let Phase::Open(limits) = self.phase else {
            return None;
        };
        let state = &self.lanes[lane];
        if state.sent >= state.due || state.in_flight.len() >= BATCHES_IN_FLIGHT_MAX {
            return None;
        }
        Some(BatchPlan {
            after: state.sent,
            through: state.due,
            limits,
        })
    }

    /// A batch was sent whose last event has this sequence.
    pub(crate) fn batch_sent(&mut self, lane: Lane, last: Sequence) {
        let state = &mut self.lanes[lane];
        debug_assert!(last > state.sent, "a batch moves its lane on");
        state.sent = last;
        state.in_flight.push_back(last);
    }

    /// The spool had nothing left for a planned batch: its events were dropped meanwhile.
    pub(crate) fn nothing_left(&mut self, lane: Lane, plan: BatchPlan) {
        let state = &mut self.lanes[lane];
        state.sent = state.sent.max(plan.through);
    }

    /// The service has everything at or below `through`. Answers what the spool may forget; `None`
    /// when nothing was sent that this could be about.
    pub(crate) fn acknowledged(&mut self, lane: Lane, through: Sequence) -> Option<Sequence> {
        let state = &mut self.lanes[lane];
        // More than was sent cannot have been received.
        let through = through.min(state.sent);
        while state.in_flight.front().is_some_and(|last| *last <= through) {
            state.in_flight.pop_front();
        }
        (through > Sequence(0)).then_some(through)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane::High;

    fn open() -> Session {
        let mut session = Session::default();
        session.opened(ServiceLimits::default());
        session
    }

    fn plan(session: &Session) -> Option<(u64, u64)> {
        session
            .next_batch(LANE)
            .map(|plan| (plan.after.0, plan.through.0))
    }

    #[test]
    fn nothing_is_sent_before_it_is_due_and_the_service_has_answered() {
        let mut session = Session::default();
        session.due(LANE, Sequence(5));
        assert_eq!(plan(&session), None);
        session.opened(ServiceLimits::default());
        assert_eq!(plan(&session), Some((0, 5)));
        session.batch_sent(LANE, Sequence(5));
        assert_eq!(plan(&session), None);
        assert!(session.awaits_acknowledgement());
    }

    #[test]
    fn the_window_closes_and_an_acknowledgement_opens_it() {
        let mut session = open();
        session.due(LANE, Sequence(100));
        for last in 1..=4 {
            assert!(plan(&session).is_some());
            session.batch_sent(LANE, Sequence(last * 10));
        }
        assert_eq!(plan(&session), None);
        // In the middle of the second batch: the first is done, the second is not.
        assert_eq!(session.acknowledged(LANE, Sequence(15)), Some(Sequence(15)));
        assert_eq!(plan(&session), Some((40, 100)));
        session.batch_sent(LANE, Sequence(50));
        assert_eq!(plan(&session), None);
    }

    #[test]
    fn a_new_session_sends_again_what_was_not_acknowledged() {
        let mut session = open();
        session.due(LANE, Sequence(30));
        session.batch_sent(LANE, Sequence(10));
        session.batch_sent(LANE, Sequence(30));
        session.acknowledged(LANE, Sequence(10));
        session.closed(PerLane {
            high: Sequence(10),
            ..PerLane::default()
        });
        assert_eq!(plan(&session), None);
        session.opened(ServiceLimits::default());
        assert_eq!(plan(&session), Some((10, 30)));
    }

    #[test]
    fn an_acknowledgement_of_what_was_not_sent_is_cut_to_what_was() {
        let mut session = open();
        session.due(LANE, Sequence(9));
        assert_eq!(session.acknowledged(LANE, Sequence(9)), None);
        session.batch_sent(LANE, Sequence(4));
        assert_eq!(session.acknowledged(LANE, Sequence(9)), Some(Sequence(4)));
        assert!(!session.awaits_acknowledgement());
        assert_eq!(plan(&session), Some((4, 9)));
    }

    #[test]
    fn a_lane_whose_events_were_dropped_goes_on() {
        let mut session = open();
        session.due(LANE, Sequence(9));
        session.nothing_left(LANE, session.next_batch(LANE).unwrap());
        assert_eq!(plan(&session), None);
        assert!(!session.awaits_acknowledgement());
        session.due(LANE, Sequence(11));
        assert_eq!(plan(&session), Some((9, 11)));
    }

    #[test]
    fn the_smaller_limit_counts() {
        let mut session = Session::default();
        session.due(LANE, Sequence(1));
        session.opened(ServiceLimits {
            batch_bytes: 64 * 1024,
            batch_events: 100,
        });
        let limits = session.next_batch(LANE).unwrap().limits;
        assert_eq!((limits.events, limits.bytes), (100, 32 * 1024 - 1600));
        session.opened(ServiceLimits {
            batch_bytes: u32::MAX,
            batch_events: u32::MAX,
        });
        assert_eq!(
            session.next_batch(LANE).unwrap().limits.events,
            BATCH_EVENTS_MAX
        );
    }
}
