//! What one address may have at the listener: connections per minute, and connections without a
//! CONNACK at the same time. So whoever reaches the port cannot take all the room there is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::auth::limiter::Limiter;
use crate::config::Limits;

/// The addresses. Clones share them.
#[derive(Clone)]
pub(super) struct Addresses {
    shared: Arc<Mutex<Shared>>,
    unproven_max: u32,
}

struct Shared {
    connects: Limiter<IpAddr>,
    /// Of those that have some. There are never more than unproven connections.
    unproven: HashMap<IpAddr, u32>,
}

/// A place among the unproven connections of an address; given back when dropped.
pub(super) struct Place {
    addresses: Addresses,
    address: IpAddr,
}

impl Addresses {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            shared: Arc::new(Mutex::new(Shared {
                connects: Limiter::new(limits.address_connects_per_minute),
                unproven: HashMap::new(),
            })),
            unproven_max: limits.address_unproven_max,
        }
    }

    /// A place for a new connection; `None`: the address has had too many, or has too many.
    pub(super) fn arrive(&self, address: IpAddr, now: Instant) -> Option<Place> {
        let mut shared = self.lock();
        shared.connects.check(&address, now).ok()?;
        let count = shared.unproven.get(&address).copied().unwrap_or(0);
        if count >= self.unproven_max {
            return None;
        }
        shared.connects.failed(address, now);
        shared.unproven.insert(address, count + 1);
        drop(shared);
        Some(Place {
            addresses: self.clone(),
            address,
        })
    }

    /// The guarded values are changed in steps that cannot panic in between.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shared = self.addresses.lock();
        match shared.unproven.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => {
                shared.unproven.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let addresses = Addresses::new(&Limits {
            address_unproven_max: 2,
            ..Limits::default()
        });
        let now = Instant::now();
        let [one, other] = [[127, 0, 0, 1], [127, 0, 0, 2]].map(IpAddr::from);
        let first = addresses.arrive(one, now).expect("room");
        let _second = addresses.arrive(one, now).expect("room");
        assert!(addresses.arrive(one, now).is_none());
        assert!(addresses.arrive(other, now).is_some(), "others have theirs");
        drop(first);
        assert!(addresses.arrive(one, now).is_some());
        assert!(
            !addresses.lock().unproven.contains_key(&other),
            "nothing is kept"
        );
    }

    #[test]
    fn an_address_connects_so_often_in_a_minute() {
        let addresses = Addresses::new(&Limits {
            address_connects_per_minute: 3,
            ..Limits::default()
        });
        let (now, address) = (Instant::now(), IpAddr::from([127, 0, 0, 1]));
        for _ in 0..3 {
            assert!(addresses.arrive(address, now).is_some());
        }
        assert!(addresses.arrive(address, now).is_none());
        let later = now + Duration::from_secs(20);
        assert!(addresses.arrive(address, later).is_some());
    }
}
