//! Has all sessions look again, some at a time: each look asks twin-store and the bus, and what all of
//! them ask at once stands before what anybody else wants.
//!
//! It decides nothing about single sessions, and not when they have to look (`hints`, `app`).

use std::time::Duration;

use service_kit::shutdown::ShutdownToken;
use tokio::time::MissedTickBehavior;

use crate::sessions::Sessions;

/// All have looked after so many steps, ten seconds: sooner than they would by themselves, and 50,000 ask
/// for 5,000 twins a second.
const STEPS: usize = 100;
/// The time between two of them.
const EVERY: Duration = Duration::from_millis(100);
/// So many may do so at once in any case.
const AT_ONCE: usize = 100;

/// What all sessions are to do.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Look whether something has changed or come.
    pub(crate) looks: bool,
    /// Say to other instances that they are here.
    pub(crate) announces: bool,
}

impl Wish {
    /// Both of them.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            looks: self.looks || other.looks,
            announces: self.announces || other.announces,
        }
    }
}

/// Passes on what is wished, until told to stop. What is wished meanwhile comes after it, for all.
pub(crate) async fn run(sessions: Sessions, shutdown: ShutdownToken) {
    while let Some(wish) = shutdown.run_until(sessions.wished()).await {
        let mut pace = tokio::time::interval(EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = None;
        loop {
            if shutdown.run_until(pace.tick()).await.is_none() {
                return;
            }
            let many = AT_ONCE.max(sessions.count() / STEPS);
            last = sessions.pass_on(wish, last.as_ref(), many);
            if last.is_none() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use jiff::Timestamp;
    use twin::IdentityKey;

    use super::*;
    use crate::sessions::Place;

    const COUNT: usize = 10_000;

    fn open(sessions: &Sessions, count: usize) -> Vec<Place> {
        let key = |number: usize| IdentityKey::parse_path(&format!("d{number}")).unwrap();
        let open = |number| sessions.open(key(number), Timestamp::UNIX_EPOCH).unwrap();
        (0..count).map(open).collect()
    }

    /// Who has been told since this was asked last.
    fn told(places: &[Place]) -> usize {
        let mail = places.iter().map(|place| place.mailbox().take());
        let told = mail.filter_map(FutureExt::now_or_never);
        told.filter(|mail| mail.desired == Some(0) && mail.messages)
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn all_look_again_some_at_a_time_and_once_more_if_that_is_wished_meanwhile() {
        let sessions = Sessions::new(COUNT, "a");
        let places = open(&sessions, COUNT);
        let stop = ShutdownToken::new();
        let mut running = Box::pin(run(sessions.clone(), stop.clone()));
        sessions.look_again();
        let (mut steps, mut all) = (0, 0);
        while all < COUNT {
            assert!((&mut running).now_or_never().is_none());
            let some = told(&places);
            assert!((1..=COUNT / STEPS).contains(&some), "step {steps}: {some}");
            (steps, all) = (steps + 1, all + some);
            if steps == STEPS / 2 {
                sessions.look_quietly();
            }
            tokio::time::advance(EVERY).await;
        }
        assert_eq!(steps, STEPS);
        let mut again = 0;
        for _ in 0..=STEPS {
            assert!((&mut running).now_or_never().is_none());
            again += told(&places);
            tokio::time::advance(EVERY).await;
        }
        assert_eq!(again, COUNT, "each once more");
        assert!((&mut running).now_or_never().is_none());
        assert_eq!(told(&places), 0, "and that is all");
        stop.trigger();
        running.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_look_at_once() {
        let sessions = Sessions::new(AT_ONCE, "a");
        let places = open(&sessions, AT_ONCE);
        sessions.look_again();
        let mut running = Box::pin(run(sessions, ShutdownToken::new()));
        assert!((&mut running).now_or_never().is_none());
        assert_eq!(told(&places), AT_ONCE);
    }

    #[tokio::test]
    async fn those_by_policy_prove_themselves_at_once_however_many_have_to_look_before() {
        let sessions = Sessions::new(COUNT, "a");
        let places = open(&sessions, COUNT);
        let last = places.last().expect("some").mailbox();
        last.is_by_policy();
        sessions.look_again();
        sessions.policies_changed();
        let mail = last.take().now_or_never().expect("it is told at once");
        assert!(mail.identity_changed);
        let others = places.iter().map(|place| place.mailbox().take());
        assert_eq!(others.filter_map(FutureExt::now_or_never).count(), 0);
    }
}
