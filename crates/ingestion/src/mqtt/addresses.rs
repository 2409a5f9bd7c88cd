//! How often one address may connect to the listener without being let in, so that whoever reaches the
//! port cannot keep it busy alone, and a site whose devices come back at the same time is not stopped.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use service_kit::accounts::network_of;

use crate::auth::limiter::Limiter;
use crate::config::Limits;

/// The addresses. Clones share them.
#[derive(Clone)]
pub(super) struct Addresses {
    connects: Arc<Mutex<Limiter<IpAddr>>>,
}

impl Addresses {
    pub(super) fn new(limits: &Limits) -> Self {
        let connects = Limiter::new(limits.address_connects_per_minute);
        Self {
            connects: Arc::new(Mutex::new(connects)),
        }
    }

    /// Whether another connection of the address may be taken in.
    pub(super) fn may_arrive(&self, address: IpAddr, now: Instant) -> bool {
        self.lock().check(&network_of(address), now).is_ok()
    }

    /// One was.
    pub(super) fn arrived(&self, address: IpAddr, now: Instant) {
        self.lock().failed(network_of(address), now);
    }

    /// One was let in: it counts no more.
    pub(super) fn let_in(&self, address: IpAddr) {
        self.lock().forgiven(&network_of(address));
    }

    /// The guarded values are changed in steps that cannot panic in between.
    fn lock(&self) -> MutexGuard<'_, Limiter<IpAddr>> {
        self.connects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_address_connects_so_often_in_a_minute() {
        let addresses = Addresses::new(&Limits {
            address_connects_per_minute: 3,
            ..Limits::default()
        });
        let (now, address) = (Instant::now(), IpAddr::from([127, 0, 0, 1]));
        for _ in 0..3 {
            assert!(addresses.may_arrive(address, now));
            addresses.arrived(address, now);
        }
        assert!(!addresses.may_arrive(address, now));
        let other = IpAddr::from([127, 0, 0, 2]);
        assert!(addresses.may_arrive(other, now), "others have theirs");
        let later = now + Duration::from_secs(20);
        assert!(addresses.may_arrive(address, later));
    }

    #[test]
    fn who_is_let_in_does_not_count() {
        let addresses = Addresses::new(&Limits {
            address_connects_per_minute: 3,
            ..Limits::default()
        });
        let (now, address) = (Instant::now(), IpAddr::from([127, 0, 0, 1]));
        addresses.let_in(address);
        for _ in 0..100 {
            assert!(addresses.may_arrive(address, now));
            addresses.arrived(address, now);
            addresses.let_in(address);
        }
        for _ in 0..3 {
            assert!(addresses.may_arrive(address, now));
            addresses.arrived(address, now);
        }
        assert!(!addresses.may_arrive(address, now), "no more than before");
    }
}
