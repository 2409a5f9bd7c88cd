//! How many calls of a policy may begin and be under way. Pure, but for where it begins.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::policy_doc::PolicyId;
use crate::store::{self, Store};

/// The time over which calls are counted.
const WINDOW: SignedDuration = SignedDuration::from_mins(1);

/// What every policy has called lately, and calls now.
#[derive(Debug, Default)]
pub(crate) struct Limits(BTreeMap<PolicyId, OfPolicy>);

#[derive(Debug, Default)]
struct OfPolicy {
    /// When calls began, within the window.
    begun: VecDeque<Timestamp>,
    /// Calls that are being prepared.
    preparing: usize,
    /// Calls that wait for their answers.
    under_way: usize,
}

/// Whether one more may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// It may.
    Now,
    /// At this time.
    At(Timestamp),
    /// When one of those ends that are under way.
    WhenOneEnds,
}

impl Limits {
    /// Counts what began before a restart: it is no way around a limit.
    pub(crate) async fn load(store: &Store, now: Timestamp) -> Result<Limits, store::Error> {
        let since = now.checked_sub(WINDOW).unwrap_or(Timestamp::MIN);
        let mut begun = store.actions_begun_since(since).await?;
        begun.sort_by_key(|(_, at)| *at);
        let mut limits = Limits::default();
        for (policy, at) in begun {
            limits.of(&policy).begun.push_back(at);
        }
        Ok(limits)
    }

    fn of(&mut self, policy: &PolicyId) -> &mut OfPolicy {
        self.0.entry(policy.clone()).or_default()
    }

    /// Whether one more call of a policy may be prepared.
    pub(crate) fn room(
        &mut self,
        policy: &PolicyId,
        (per_minute, in_flight): (usize, usize),
        now: Timestamp,
    ) -> Room {
        let of_policy = self.of(policy);
        while let Some(oldest) = of_policy.begun.front()
            && ends(*oldest) <= now
        {
            of_policy.begun.pop_front();
        }
        let (preparing, begun) = (of_policy.preparing, of_policy.begun.len());
        if preparing + of_policy.under_way >= in_flight {
            return Room::WhenOneEnds;
        }
        if preparing + begun < per_minute {
            return Room::Now;
        }
        // With fewer than that begun, what is prepared decides.
        let first_to_end = begun.checked_sub(per_minute);
        match first_to_end.and_then(|index| of_policy.begun.get(index)) {
            Some(at) => Room::At(ends(*at)),
            None => Room::WhenOneEnds,
        }
    }

    /// One is being prepared.
    pub(crate) fn prepare(&mut self, policy: &PolicyId) {
        self.of(policy).preparing += 1;
    }

    /// One that was prepared is not called.
    pub(crate) fn release(&mut self, policy: &PolicyId) {
        let of_policy = self.of(policy);
        of_policy.preparing = of_policy.preparing.saturating_sub(1);
    }

    /// One that was prepared is called.
    pub(crate) fn begin(&mut self, policy: &PolicyId, now: Timestamp) {
        self.release(policy);
        let of_policy = self.of(policy);
        of_policy.under_way += 1;
        of_policy.begun.push_back(now);
    }

    /// A call has ended; if nothing was sent it does not count.
    pub(crate) fn end(&mut self, policy: &PolicyId, was_sent: bool) {
        let of_policy = self.of(policy);
        of_policy.under_way = of_policy.under_way.saturating_sub(1);
        if !was_sent {
            of_policy.begun.pop_back();
        }
    }
}

fn ends(begun: Timestamp) -> Timestamp {
    begun.checked_add(WINDOW).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_begin_in_any_minute_and_no_more_wait_at_a_time_than_the_policy_says() {
        let id = PolicyId::parse("p").unwrap();
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        let mut limits = Limits::default();
        for second in [0, 1] {
            assert_eq!(limits.room(&id, (2, 2), at(second)), Room::Now);
            limits.prepare(&id);
            limits.begin(&id, at(second));
        }
        assert_eq!(limits.room(&id, (2, 2), at(2)), Room::WhenOneEnds);
        limits.end(&id, true);
        assert_eq!(limits.room(&id, (2, 2), at(3)), Room::At(at(60)));
        assert_eq!(limits.room(&id, (2, 2), at(60)), Room::Now);
        limits.prepare(&id);
        // What is prepared counts as begun.
        assert_eq!(limits.room(&id, (2, 5), at(60)), Room::WhenOneEnds);
        limits.begin(&id, at(60));
        assert_eq!(limits.room(&id, (2, 5), at(60)), Room::At(at(61)));
        // What never went out counts for nothing.
        limits.end(&id, false);
        assert_eq!(limits.room(&id, (2, 5), at(60)), Room::Now);
        // Another policy has its own.
        let other = PolicyId::parse("q").unwrap();
        assert_eq!(limits.room(&other, (1, 1), at(60)), Room::Now);
    }
}
