//! Places that strangers take for a while, shared out among the networks that they come from: so many
//! there are, one network has not all of them, and those that wait are served network by network.
//! However many come from one network, somebody from another waits for a turn and not behind them.
//!
//! It knows nobody, and not what the places are for. Whoever has a thousand networks has a thousand
//! turns; what all of them may have waiting is bounded as well.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::accounts::network_of;

/// Of what others have left one network may have this part at most, so that something is left for the
/// next one; more only if its bound is a larger part of all.
const PART: usize = 8;

/// So many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Of all.
    pub all: usize,
    /// Of one network.
    pub of_network: usize,
}

impl Bounds {
    /// The part that one network may have of what others have left. With nobody else there it comes to
    /// its bound.
    fn part(self) -> usize {
        let part = self.all.checked_div(self.of_network).unwrap_or(PART);
        part.clamp(1, PART)
    }

    /// Somebody else counts them.
    pub const NONE: Self = Self {
        all: usize::MAX,
        of_network: usize::MAX,
    };
}

/// There is no room, for this network at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowded;

/// Whose a place is: an address, and of IPv6 its network; none: it is not known.
type Network = Option<IpAddr>;

/// Something of which there is so much, counted by whose it is. Clones share the count.
#[derive(Debug, Clone)]
pub struct Shares {
    bounds: Bounds,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<Network, usize>,
}

/// One of them; given back when dropped.
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct Share {
    network: Network,
    taken: Arc<Mutex<Taken>>,
}

impl Shares {
    /// All of them are there.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            taken: Arc::default(),
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// All are taken, or the network has what one may have: its bound, and while others have much,
    /// a part of what they have left.
    pub fn take(&self, address: Option<IpAddr>) -> Result<Share, Crowded> {
        let network = address.map(network_of);
        let mut taken = lock(&self.taken);
        let left = self.bounds.all.saturating_sub(taken.all);
        if left == 0 {
            return Err(Crowded);
        }
        let of_network = taken.of.entry(network).or_default();
        let left_to_it = left + *of_network;
        let most = left_to_it / self.bounds.part();
        let most = most.min(self.bounds.of_network).max(1);
        if *of_network >= most {
            return Err(Crowded);
        }
        *of_network += 1;
        taken.all += 1;
        Ok(Share {
            network,
            taken: Arc::clone(&self.taken),
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        if let Some(of_network) = taken.of.get_mut(&self.network) {
            *of_network -= 1;
            if *of_network == 0 {
                taken.of.remove(&self.network);
            }
        }
    }
}

/// The places.
#[derive(Debug)]
pub struct Places {
    free: Semaphore,
    of_network: usize,
    waiting: Shares,
    lanes: Mutex<HashMap<Network, Weak<Lane>>>,
}

/// A network's way to the places.
#[derive(Debug)]
struct Lane {
    /// Whose turn it is, of those that wait here: one of each network stands in the queue of all.
    turn: Semaphore,
    /// What the network has not taken of its part.
    part: Arc<Semaphore>,
}

/// Somebody who uses a lane. With the last one the lane goes.
#[derive(Debug)]
struct Member<'a> {
    places: &'a Places,
    network: Network,
    lane: Option<Arc<Lane>>,
}

/// A place; given back when dropped.
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct Place<'a> {
    // In the order in which they are given back.
    _permit: SemaphorePermit<'a>,
    _part: OwnedSemaphorePermit,
    _member: Member<'a>,
}

impl Places {
    /// All are free. `waiting` bounds those who wait for one.
    pub fn new(places: Bounds, waiting: Bounds) -> Self {
        Self {
            free: Semaphore::new(places.all.min(Semaphore::MAX_PERMITS)),
            of_network: places.of_network.min(Semaphore::MAX_PERMITS),
            waiting: Shares::new(waiting),
            lanes: Mutex::default(),
        }
    }

    /// Takes a place when it is the network's turn; within a network, first come, first served. Safe
    /// to cancel.
    ///
    /// # Errors
    /// Too many wait already.
    pub async fn take(&self, address: Option<IpAddr>) -> Result<Place<'_>, Crowded> {
        let waiting = self.waiting.take(address)?;
        let member = self.member(address.map(network_of));
        let lane = member.lane.clone().ok_or(Crowded)?;
        // None of them is ever closed.
        let turn = lane.turn.acquire().await.map_err(|_| Crowded)?;
        let part = Arc::clone(&lane.part).acquire_owned().await;
        let part = part.map_err(|_| Crowded)?;
        let place = self.free.acquire().await.map_err(|_| Crowded)?;
        drop(turn);
        drop(waiting);
        Ok(Place {
            _permit: place,
            _part: part,
            _member: member,
        })
    }

    fn member(&self, network: Network) -> Member<'_> {
        let mut lanes = lock(&self.lanes);
        let known = lanes.get(&network).and_then(Weak::upgrade);
        let lane = known.unwrap_or_else(|| {
            let lane = Arc::new(Lane {
                turn: Semaphore::new(1),
                part: Arc::new(Semaphore::new(self.of_network)),
            });
            lanes.insert(network, Arc::downgrade(&lane));
            lane
        });
        Member {
            places: self,
            network,
            lane: Some(lane),
        }
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.lane = None;
        let mut lanes = lock(&self.places.lanes);
        let last = |lane: &Weak<Lane>| lane.strong_count() == 0;
        if lanes.get(&self.network).is_some_and(last) {
            lanes.remove(&self.network);
        }
    }
}

/// Numbers are changed in one step each, so a panic elsewhere cannot leave them torn.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::future::BoxFuture;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
    fn from(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    fn places(all: usize, of_network: usize) -> Places {
        Places::new(Bounds { all, of_network }, Bounds::NONE)
    }

    /// Some that wait, in the order in which they came.
    type Queue<'a> = Vec<BoxFuture<'a, Result<Place<'a>, Crowded>>>;

    fn queue(places: &Places, address: Option<IpAddr>, count: usize) -> Queue<'_> {
        let mut queue: Queue<'_> = (0..count).map(|_| places.take(address).boxed()).collect();
        for one in &mut queue {
            assert!(one.now_or_never().is_none(), "it waits");
        }
        queue
    }

    fn served<'a>(queue: &mut Queue<'a>) -> Option<Place<'a>> {
        let place = queue.first_mut()?.now_or_never()?;
        drop(queue.remove(0));
        Some(place.expect("a place"))
    }

    #[tokio::test]
    async fn a_crowd_of_one_network_leaves_places_to_others() {
        let places = places(4, 3);
        let held: Vec<_> = (0..3)
            .map(|_| places.take(from(1)).now_or_never())
            .collect();
        assert!(held.iter().all(Option::is_some));
        let _crowd = queue(&places, from(1), 500);
        let other = places.take(from(2)).now_or_never();
        assert!(other.is_some_and(|place| place.is_ok()), "it need not wait");
    }

    #[tokio::test]
    async fn who_waits_is_served_network_by_network() {
        let places = places(1, 1);
        let mut held = places.take(from(9)).await.ok();
        let mut crowd = queue(&places, from(1), 500);
        let mut other = queue(&places, from(2), 2);
        // One of the crowd stood before it, and another comes between.
        for turn in 0..4 {
            drop(held.take());
            let of_crowd = turn % 2 == 0;
            let next = if of_crowd { &mut crowd } else { &mut other };
            held = served(next);
            assert!(held.is_some(), "turn {turn}");
        }
        assert!(other.is_empty());
    }

    #[tokio::test]
    async fn who_hangs_up_gives_everything_back() {
        let places = places(1, 1);
        let held = places.take(from(1)).now_or_never();
        let mut crowd = queue(&places, from(2), 3);
        // The one whose turn it is, and one behind it.
        drop(crowd.remove(0));
        drop(crowd.remove(1));
        drop(held);
        let place = served(&mut crowd).expect("the one that is left");
        assert_eq!(lock(&places.lanes).len(), 1);
        drop(place);
        assert!(lock(&places.lanes).is_empty());
        assert_eq!(places.free.available_permits(), 1);
        assert_eq!(lock(&places.waiting.taken).all, 0);
    }

    #[test]
    fn one_network_alone_has_all_of_its_bound() {
        for (all, of_network) in [
            (512, 64),
            (4096, 2048),
            (1024, 96),
            (usize::MAX, usize::MAX),
        ] {
            let bounds = Bounds { all, of_network };
            let shares = Shares::new(bounds);
            let held = std::iter::from_fn(|| shares.take(from(1)).ok());
            let most = of_network.min(3000);
            assert_eq!(held.take(most).collect::<Vec<_>>().len(), most);
            // The next one has what is left by the same rule.
            let shares = Shares::new(bounds);
            let _first: Vec<_> = (0..most).map(|_| shares.take(from(1))).collect();
            assert!(shares.take(from(2)).is_ok());
        }
    }

    #[test]
    fn one_network_has_its_bound_and_all_have_theirs() {
        let shares = Shares::new(Bounds {
            all: 64,
            of_network: 6,
        });
        let take = |address| shares.take(address);
        let mut held: Vec<_> = (0..6).map(|_| take(from(1)).expect("a share")).collect();
        assert_eq!(take(from(1)).err(), Some(Crowded));
        assert!(take(None).is_ok(), "others have theirs, and give it back");
        // However many networks take what they can, a newcomer finds something.
        for network in 2..20 {
            held.extend(std::iter::from_fn(|| take(from(network)).ok()));
            assert!(take(from(200)).is_ok(), "after {network}");
        }
        held.extend((30..200).map_while(|network| take(from(network)).ok()));
        assert_eq!(held.len(), 64);
        assert_eq!(take(from(250)).err(), Some(Crowded));
        drop(held);
        let left = lock(&shares.taken);
        assert!(left.all == 0 && left.of.is_empty());
    }
}
