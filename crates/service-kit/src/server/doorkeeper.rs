//! The bounds of connections (`server/connections.rs`) for a door that speaks another protocol than
//! ours: who is unproven for longest makes room, whoever is at the door.
//!
//! It never sees a byte; the door says when a guest has proven itself and when it waits for us.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use super::connections::{Asking, ConnectionLimits, Connections, Peer};

/// Counts the connections of a door. Clones share the count.
#[derive(Debug, Clone)]
pub struct Doorkeeper {
    connections: Arc<Connections>,
}

/// A connection that was let as far as the door; it is counted until it is dropped.
#[derive(Debug)]
pub struct Guest {
    peer: Arc<Peer>,
}

/// A guest waits for us for as long as this lives, and makes room last.
#[derive(Debug)]
#[must_use = "the guest waits for as long as this lives"]
pub struct Awaited {
    _asking: Asking,
}

impl Doorkeeper {
    /// Nobody is there yet.
    pub fn new(limits: ConnectionLimits) -> Self {
        Self {
            connections: Connections::new(limits),
        }
    }

    /// Takes a connection in; `None` if there is no room for it. The oldest one that is unproven may
    /// have made room.
    pub fn admit(&self, address: SocketAddr) -> Option<Guest> {
        let peer = self.connections.admit(address)?;
        Some(Guest { peer })
    }
}

impl Guest {
    /// It has proven that it belongs here: it stays.
    pub fn proven(&self) {
        self.peer.proven();
    }

    /// It waits for something that we do.
    pub fn waits(&self) -> Awaited {
        Awaited {
            _asking: self.peer.asks(),
        }
    }

    /// Resolves when it has to make room for another. Safe to cancel; for one task at a time.
    pub async fn makes_room(&self) {
        poll_fn(|cx| {
            self.peer.waker().register(cx.waker());
            if self.peer.is_evicted() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.peer.gone();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_guest_that_is_unproven_and_not_awaited_makes_room() {
        let doorkeeper = Doorkeeper::new(ConnectionLimits {
            max: 10,
            unproven_max: 2,
            ..ConnectionLimits::default()
        });
        let admit = || {
            let address = SocketAddr::from(([127, 0, 0, 1], 1));
            doorkeeper.admit(address).expect("there is room")
        };
        let makes_room = |guest: &Guest| guest.makes_room().now_or_never().is_some();
        let proven = admit();
        proven.proven();
        let (awaited, silent) = (admit(), admit());
        let waits = awaited.waits();
        let third = admit();
        assert!(makes_room(&silent));
        assert!(!makes_room(&proven) && !makes_room(&awaited) && !makes_room(&third));
        drop(waits);
        let _fourth = admit();
        assert!(makes_room(&awaited) && !makes_room(&third));
    }

    #[test]
    fn who_leaves_gives_its_place_back() {
        let doorkeeper = Doorkeeper::new(ConnectionLimits {
            address_unproven_max: 1,
            ..ConnectionLimits::default()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let guest = doorkeeper.admit(address);
        assert!(guest.is_some() && doorkeeper.admit(address).is_none());
        drop(guest);
        assert!(doorkeeper.admit(address).is_some());
    }
}
