//! Who may have twin-store asked for a proof now: so many at once, network by network, so that a crowd
//! at one address stands before nobody elsewhere, at whichever door it comes.
//!
//! It proves nothing, and knows no account (`auth`).

use std::net::IpAddr;

use service_kit::places::{Bounds, Crowded, Place, Places, Shares};

/// Those that are looked up at once. It keeps twin-store and the bus busy; with more at once what
/// others ask of them would stand behind a whole fleet that connects. One network leaves some to the
/// others, however many come from there.
const AT_ONCE: Bounds = Bounds {
    all: 64,
    of_network: 48,
};

/// Calls of the agents' door that may wait; a connection may have many. One network's are as many as
/// connections that it may have there without a proof: a whole fleet may come back behind one address.
/// All of them are some 160 MiB.
const CALLS_MAX: Bounds = Bounds {
    all: 32_768,
    of_network: 16_384,
};

/// The places.
#[derive(Debug)]
pub(crate) struct Admissions {
    places: Places,
    calls: Shares,
}

impl Default for Admissions {
    fn default() -> Self {
        Self {
            // What waits is counted before.
            places: Places::new(AT_ONCE, Bounds::NONE),
            calls: Shares::new(CALLS_MAX),
        }
    }
}

impl Admissions {
    /// A place for a connection, when it is its network's turn: connections are counted elsewhere.
    pub(crate) async fn of_connection(&self, address: IpAddr) -> Option<Place<'_>> {
        self.places.take(Some(address)).await.ok()
    }

    /// A place for a call, when it is its network's turn.
    ///
    /// # Errors
    /// Too many wait already, of its network or of all.
    pub(crate) async fn of_call(&self, address: Option<IpAddr>) -> Result<Place<'_>, Crowded> {
        let waiting = self.calls.take(address)?;
        let place = self.places.take(address).await;
        drop(waiting);
        place
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    // Without a runtime, which would have a task that does much give way.
    #[test]
    fn a_fleet_at_one_address_may_wait_and_more_of_it_is_told_so() {
        let admissions = Admissions::default();
        let (fleet, other) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let held: Vec<_> = (0..AT_ONCE.of_network)
            .map(|_| admissions.of_call(Some(fleet)).now_or_never())
            .collect();
        assert!(held.iter().all(|place| matches!(place, Some(Ok(_)))));
        let mut waiting = Vec::new();
        let told = loop {
            let mut next = Box::pin(admissions.of_call(Some(fleet)));
            match (&mut next).now_or_never() {
                None => waiting.push(next),
                Some(told) => break told.err(),
            }
        };
        assert_eq!(told, Some(Crowded));
        assert_eq!(waiting.len(), CALLS_MAX.of_network);
        let there = admissions.of_call(Some(other)).now_or_never();
        assert!(there.is_some_and(|place| place.is_ok()), "it need not wait");
        // Connections are none of these.
        let connection = admissions.of_connection(fleet).now_or_never();
        assert!(connection.is_none(), "it waits for its turn");
    }
}
