//! Proofs from addresses that have failed too often: one that holds is let in all the same, because
//! a site, a load balancer or a whole fleet may be behind one address, with one that is broken or
//! hostile among them.
//!
//! What the failing ones may cost is bounded: so many are looked at at once, each that fails keeps
//! its place for a while, and so many wait. A network has neither all places nor all of the waiting
//! ones, and waits for its own turn ([`crate::places`]), so that those who guess at one address cost
//! nobody anything elsewhere. It knows no proof.

use std::net::IpAddr;
use std::time::Duration;

use crate::places::{Bounds, Places};

pub use crate::places::Crowded;

/// Proofs that are looked at at the same time; of one network one less, for whoever comes from another.
const AT_ONCE: Bounds = Bounds {
    all: 4,
    of_network: 3,
};

/// How long one that failed keeps its place: a hundred failures a second in all.
const KEPT: Duration = Duration::from_millis(40);

/// Proofs that may wait: the last of all would wait for some ten seconds, the last of one network for
/// two, and shaking hands and proving may take ten.
const WAITING_MAX: Bounds = Bounds {
    all: 1024,
    of_network: 96,
};

/// The places.
#[derive(Debug)]
pub struct Suspects {
    places: Places,
}

impl Default for Suspects {
    fn default() -> Self {
        Self {
            places: Places::new(AT_ONCE, WAITING_MAX),
        }
    }
}

impl Suspects {
    /// Looks at a proof when its turn comes, and answers what came of it.
    ///
    /// # Errors
    /// Too many wait already, of its network or of all.
    pub async fn look<T, E>(
        &self,
        address: Option<IpAddr>,
        proving: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Crowded> {
        let _place = self.places.take(address).await?;
        let outcome = proving.await;
        if outcome.is_err() {
            tokio::time::sleep(KEPT).await;
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt;

    use super::*;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    const THERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));

    #[tokio::test(start_paused = true)]
    async fn failures_take_their_time_and_what_holds_passes_between_them() {
        let suspects = Suspects::default();
        let begin = tokio::time::Instant::now();
        let failing = futures::future::join_all(
            (0..6).map(|_| suspects.look(HERE, ready(Err::<(), _>("wrong")))),
        );
        let held = suspects.look(HERE, ready(Ok::<_, &str>(1)));
        let (failed, held) = tokio::join!(failing, held);
        assert!(failed.iter().all(|it| *it == Ok(Err("wrong"))));
        assert_eq!(held, Ok(Ok(1)));
        assert_eq!(begin.elapsed(), 2 * KEPT, "three at a time");
    }

    /// Proofs that come to no end, until so many wait that the next is told so.
    fn crowd(
        suspects: &Suspects,
        address: Option<IpAddr>,
    ) -> Vec<impl Future<Output = Result<Result<(), ()>, Crowded>> + Unpin + use<'_>> {
        let mut crowd = Vec::new();
        loop {
            let mut next = Box::pin(suspects.look(address, pending::<Result<(), ()>>()));
            match (&mut next).now_or_never() {
                None => crowd.push(next),
                Some(told) => {
                    assert_eq!(told, Err(Crowded));
                    return crowd;
                }
            }
        }
    }

    #[tokio::test]
    async fn a_network_that_is_crowded_keeps_nobody_elsewhere_waiting() {
        let suspects = Suspects::default();
        let mut here = crowd(&suspects, HERE);
        let looked_at = AT_ONCE.of_network;
        assert_eq!(here.len(), looked_at + WAITING_MAX.of_network);
        let there = suspects.look(THERE, ready(Ok::<_, ()>(())));
        assert_eq!(there.now_or_never(), Some(Ok(Ok(()))), "at once");
        // One that hangs up makes room for the next.
        here.pop();
        let mut next = Box::pin(suspects.look(HERE, ready(Ok::<_, ()>(()))));
        assert_eq!((&mut next).now_or_never(), None, "it waits for its turn");
        let more = suspects.look(HERE, ready(Ok::<_, ()>(())));
        assert_eq!(more.now_or_never(), Some(Err(Crowded)));
    }

    #[tokio::test]
    async fn many_networks_that_are_crowded_leave_room_to_wait_for_one_more() {
        let suspects = Suspects::default();
        let network = |last| Some(IpAddr::from([10, 0, 0, last]));
        let crowds: Vec<_> = (1..=30).map(|it| crowd(&suspects, network(it))).collect();
        assert!(crowds.iter().all(|crowd| crowd.len() > 1));
        let mut last = Box::pin(suspects.look(HERE, ready(Ok::<_, ()>(()))));
        assert_eq!((&mut last).now_or_never(), None, "it waits for its turn");
    }
}
