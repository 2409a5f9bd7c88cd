//! The connections of a listener: how many there are, and which of them have proven to belong here.
//!
//! Whoever reaches the port can connect and say nothing, so a connection has a while to prove
//! itself, and only so many may be unproven: when there are too many, the oldest makes room, since
//! who belongs here proves it within milliseconds. Whoever is being answered is not silent, though
//! the answer may take a while when a whole fleet connects: such a connection is not late, and makes
//! room last. Proven is who made a call that its service let in; who only asks for health stays as
//! long as nobody needs the place.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use futures::task::AtomicWaker;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::accounts::network_of;
use crate::auth::Shown;
use crate::config::{Problems, Validate};
use crate::metrics::{Counter, Gauge, Scope};
use crate::units::Duration;

mod asking;

pub(crate) use asking::Asking;

/// How many of the oldest are looked at for one that waits for no answer. Looking at all of them
/// with every connection would help whoever floods us.
const LOOK_AT: usize = 64;

/// How many may connect, and how soon they must prove themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionLimits {
    /// Most connections at the same time. Over it an unproven one makes room, or else the new one
    /// is closed. Default 65536.
    pub max: u32,
    /// Most connections that have not proven themselves yet; over it the oldest of them is closed.
    /// Default 1024.
    pub unproven_max: u32,
    /// Most unproven connections of one address; over it new ones of that address are closed at once,
    /// so that it leaves room for others. Default 512: half of all.
    pub address_unproven_max: u32,
    /// How long a new connection may take until its first call is let in, the TLS handshake
    /// included and our own answers not. Default 10s.
    pub prove_within: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max: 65_536,
            unproven_max: 1024,
            address_unproven_max: 512,
            prove_within: Duration::secs(10),
        }
    }
}

impl Validate for ConnectionLimits {
    fn validate(&self, problems: &mut Problems) {
        problems.require(self.max > 0, "max", "must be at least 1");
        problems.require(self.unproven_max > 0, "unproven_max", "must be at least 1");
        let some = self.address_unproven_max > 0;
        problems.require(some, "address_unproven_max", "must be at least 1");
        let patient = !self.prove_within.is_zero();
        problems.require(patient, "prove_within", "must be longer than nothing");
    }
}

#[derive(Debug, Clone)]
struct Metrics {
    open: Gauge,
    closed: Counter,
}

/// The connections of one listener.
#[derive(Debug)]
pub(crate) struct Connections {
    limits: ConnectionLimits,
    open: AtomicUsize,
    unproven: Mutex<Unproven>,
    metrics: OnceLock<Metrics>,
}

#[derive(Debug, Default)]
struct Unproven {
    next: u64,
    /// Oldest first.
    peers: BTreeMap<u64, (IpAddr, Weak<Peer>)>,
    /// How many of them each address has, of IPv6 each network.
    of_address: HashMap<IpAddr, u32>,
    /// The others, which are only looked for when all are cut.
    proven: BTreeMap<u64, Weak<Peer>>,
}

impl Unproven {
    fn enter(&mut self, peer: &Arc<Peer>) {
        let address = network_of(peer.address.ip());
        *self.of_address.entry(address).or_default() += 1;
        self.peers.insert(peer.id, (address, Arc::downgrade(peer)));
    }

    /// Takes one out, whatever became of it.
    fn leave(&mut self, id: u64) -> Option<Weak<Peer>> {
        let (address, peer) = self.peers.remove(&id)?;
        if let Entry::Occupied(mut count) = self.of_address.entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(peer)
    }

    /// Who makes room: the oldest that waits for no answer, or else the oldest.
    fn first_to_go(&self) -> Option<u64> {
        let idle = self.peers.iter().take(LOOK_AT).find(|(_, (_, peer))| {
            peer.upgrade()
                .is_none_or(|peer| peer.calls.load(Ordering::Acquire) == 0)
        });
        idle.or_else(|| self.peers.first_key_value())
            .map(|(id, _)| *id)
    }
}

impl Connections {
    pub(crate) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            open: AtomicUsize::new(0),
            unproven: Mutex::default(),
            metrics: OnceLock::new(),
        })
    }

    pub(crate) fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    /// Counts them under the service's name, and the name of what is served on them (`grpc`).
    pub(crate) fn measure(&self, scope: &Scope, door: &str) {
        let _ = self.metrics.set(Metrics {
            open: scope.gauge(
                &format!("{door}_connections"),
                "Connections to this door that are open",
            ),
            closed: scope.counter(
                &format!("{door}_connections_closed"),
                "Connections to this door closed because they did not prove themselves",
            ),
        });
    }

    /// Takes a new connection in; `None` if there is no room for it.
    pub(crate) fn admit(self: &Arc<Self>, address: SocketAddr) -> Option<Arc<Peer>> {
        let mut unproven = self.unproven();
        let of_address = unproven.of_address.get(&network_of(address.ip()));
        if of_address.is_some_and(|count| *count >= self.limits.address_unproven_max) {
            drop(unproven);
            self.count_closed();
            return None;
        }
        let full = self.open.load(Ordering::Relaxed) >= as_len(self.limits.max);
        if full || unproven.peers.len() >= as_len(self.limits.unproven_max) {
            let Some(id) = unproven.first_to_go() else {
                drop(unproven);
                self.count_closed();
                return None;
            };
            if let Some(peer) = unproven.leave(id).and_then(|peer| peer.upgrade()) {
                peer.evict();
            }
        }
        let id = unproven.next;
        unproven.next += 1;
        let peer = Arc::new(Peer {
            id,
            address,
            connections: Arc::clone(self),
            standing: AtomicU8::new(Standing::SILENT),
            calls: AtomicU32::new(0),
            waker: AtomicWaker::new(),
            certificate: OnceLock::new(),
            chain: OnceLock::new(),
            reported: AtomicBool::new(false),
        });
        unproven.enter(&peer);
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        drop(unproven);
        self.show_open(open);
        Some(peer)
    }

    /// Closes all of them, whatever goes on there. A stream whose client does not read would never
    /// end by itself: nobody asks it for its next message.
    pub(crate) fn cut(&self) {
        let unproven = self.unproven();
        for peer in unproven
            .peers
            .values()
            .map(|(_, peer)| peer)
            .chain(unproven.proven.values())
        {
            if let Some(peer) = peer.upgrade() {
                peer.cut();
            }
        }
    }

    fn forget(&self, id: u64) {
        let mut unproven = self.unproven();
        unproven.leave(id);
        unproven.proven.remove(&id);
    }

    pub(super) fn count_closed(&self) {
        if let Some(metrics) = self.metrics.get() {
            metrics.closed.inc();
        }
    }

    fn show_open(&self, open: usize) {
        if let Some(metrics) = self.metrics.get() {
            metrics.open.set(i64::try_from(open).unwrap_or(i64::MAX));
        }
    }

    fn unproven(&self) -> MutexGuard<'_, Unproven> {
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn as_len(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// How far a connection has come.
struct Standing;

impl Standing {
    /// It has made no call that was let in.
    const SILENT: u8 = 0;
    /// It has made a call that anybody may make.
    const SPOKE: u8 = 1;
    /// It has made a call that was let in.
    const PROVEN: u8 = 2;
    /// It made room for another.
    const EVICTED: u8 = 3;
    /// The service stops.
    const CUT: u8 = 4;
}

/// Who is at the other end of a connection. Lives as long as the connection and its calls.
#[derive(Debug)]
pub(crate) struct Peer {
    id: u64,
    address: SocketAddr,
    connections: Arc<Connections>,
    standing: AtomicU8,
    /// Calls that are being answered.
    calls: AtomicU32,
    /// Wakes whoever reads the connection, to see that it was evicted.
    waker: AtomicWaker,
    /// The client's certificate; set with the handshake if it showed one.
    certificate: OnceLock<Shown>,
    /// All that it showed, in DER form, its own first; of listeners that let others judge it.
    chain: OnceLock<Vec<Vec<u8>>>,
    reported: AtomicBool,
}

impl Peer {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that the client has shown, if it has.
    pub(crate) fn certificate(&self) -> Option<&Shown> {
        self.certificate.get()
    }

    pub(crate) fn shown(&self, certificate: Shown) {
        let _ = self.certificate.set(certificate);
    }

    /// All certificates that the client has shown, unjudged; none if nobody here judges them.
    pub(crate) fn chain(&self) -> &[Vec<u8>] {
        self.chain.get().map_or(&[], Vec::as_slice)
    }

    pub(crate) fn keep_chain(&self, chain: &[CertificateDer<'_>]) {
        let _ = self.chain.set(chain.iter().map(|it| it.to_vec()).collect());
    }

    /// How long it may take until it has proven itself.
    pub(crate) fn prove_within(&self) -> std::time::Duration {
        self.connections.limits.prove_within.get()
    }

    /// It has made a call that anybody may make: it is no longer in a hurry, and still the first
    /// to make room.
    pub(crate) fn spoke(&self) {
        let (from, to) = (Standing::SILENT, Standing::SPOKE);
        let _ = self
            .standing
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    /// It has made a call that was let in.
    pub(crate) fn proven(&self) {
        if self.standing.load(Ordering::Acquire) >= Standing::PROVEN {
            return;
        }
        let mut unproven = self.connections.unproven();
        self.standing.store(Standing::PROVEN, Ordering::Release);
        if let Some(peer) = unproven.leave(self.id) {
            unproven.proven.insert(self.id, peer);
        }
    }

    /// A call of it is being answered for as long as the answer's guard lives.
    pub(crate) fn asks(self: &Arc<Self>) -> Asking {
        self.calls.fetch_add(1, Ordering::AcqRel);
        let (peer, awaits_us) = (Arc::clone(self), AtomicBool::new(true));
        Asking { peer, awaits_us }
    }

    pub(super) fn waits_for_an_answer(&self) -> bool {
        self.calls.load(Ordering::Acquire) > 0
    }

    fn evict(&self) {
        self.standing.store(Standing::EVICTED, Ordering::Release);
        self.waker.wake();
    }

    fn cut(&self) {
        self.standing.store(Standing::CUT, Ordering::Release);
        self.waker.wake();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.standing.load(Ordering::Acquire) == Standing::CUT
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.standing.load(Ordering::Acquire) == Standing::SILENT
    }

    pub(super) fn is_proven(&self) -> bool {
        self.standing.load(Ordering::Acquire) == Standing::PROVEN
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.standing.load(Ordering::Acquire) == Standing::EVICTED
    }

    pub(super) fn waker(&self) -> &AtomicWaker {
        &self.waker
    }

    /// The connection is closed because it did not prove itself. Counts it once.
    pub(super) fn closed_unproven(&self) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            self.connections.count_closed();
            tracing::debug!(peer = %self.address, "connection closed: it did not prove itself");
        }
    }

    /// The connection is gone (its calls may still be running).
    pub(super) fn gone(&self) {
        self.connections.forget(self.id);
        let open = self.connections.open.fetch_sub(1, Ordering::Relaxed) - 1;
        self.connections.show_open(open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(max: u32, unproven_max: u32) -> Arc<Connections> {
        Connections::new(ConnectionLimits {
            max,
            unproven_max,
            ..ConnectionLimits::default()
        })
    }

    fn admit(connections: &Arc<Connections>) -> Option<Arc<Peer>> {
        connections.admit("127.0.0.1:1".parse().expect("an address"))
    }

    #[test]
    fn the_oldest_that_has_not_proven_itself_makes_room() {
        let all = connections(100, 2);
        let proven = admit(&all).expect("room");
        proven.proven();
        let (first, second) = (admit(&all).expect("room"), admit(&all).expect("room"));
        first.spoke();
        let third = admit(&all).expect("room");
        assert!(first.is_evicted(), "asking for health proves nothing");
        assert!(!proven.is_evicted() && !second.is_evicted() && !third.is_evicted());
    }

    #[test]
    fn an_address_has_so_many_unproven_ones_and_leaves_room_for_others() {
        let all = Connections::new(ConnectionLimits {
            address_unproven_max: 2,
            ..ConnectionLimits::default()
        });
        let (first, _second) = (admit(&all).expect("room"), admit(&all).expect("room"));
        assert!(admit(&all).is_none(), "there are two of it");
        let other = all.admit("127.0.0.2:1".parse().expect("an address"));
        assert!(other.is_some());
        first.proven();
        let third = admit(&all).expect("the first is proven");
        assert!(admit(&all).is_none());
        third.gone();
        assert!(admit(&all).is_some(), "the third is gone");
    }

    #[test]
    fn who_is_evicted_or_leaves_is_counted_no_more() {
        let all = connections(10, 2);
        let peers: Vec<_> = (0..9).map(|_| admit(&all).expect("room")).collect();
        let counted = |all: &Connections| all.unproven().of_address.values().sum::<u32>();
        assert_eq!(counted(&all), 2);
        for peer in &peers {
            peer.gone();
        }
        assert_eq!(counted(&all), 0);
        assert!(all.unproven().of_address.is_empty());
    }

    #[test]
    fn who_waits_for_an_answer_makes_room_last() {
        let all = connections(100, 2);
        let (first, second) = (admit(&all).expect("room"), admit(&all).expect("room"));
        let asking = first.asks();
        let third = admit(&all).expect("room");
        assert!(second.is_evicted() && !first.is_evicted());
        let _also = third.asks();
        let fourth = admit(&all).expect("room");
        assert!(first.is_evicted(), "all wait, and it is the oldest");
        drop(asking);
        assert!(!first.waits_for_an_answer() && third.waits_for_an_answer());
        assert!(!fourth.is_evicted());
    }

    #[test]
    fn who_does_not_send_the_rest_of_its_call_waits_for_nothing() {
        let all = connections(100, 2);
        let peer = admit(&all).expect("room");
        let asking = peer.asks();
        for awaits in [true, true, false, false, true] {
            asking.awaits_the_client(awaits);
            assert_eq!(peer.waits_for_an_answer(), !awaits);
        }
        drop(asking);
        assert_eq!(peer.calls.load(Ordering::Acquire), 0);
        drop(peer.asks());
        assert_eq!(peer.calls.load(Ordering::Acquire), 0);
    }

    #[test]
    fn when_all_are_proven_and_there_are_too_many_a_new_one_is_not_let_in() {
        let all = connections(2, 2);
        let peers = [admit(&all).expect("room"), admit(&all).expect("room")];
        peers[0].proven();
        // The other one makes room, but its connection is not gone yet.
        assert!(admit(&all).is_some());
        assert!(peers[1].is_evicted());
        let last = admit(&all).expect("the one just let in makes room");
        last.proven();
        assert!(admit(&all).is_none());
        for _ in 0..3 {
            last.gone();
        }
        assert!(admit(&all).is_some(), "there is room again");
    }

    #[test]
    fn what_was_evicted_cannot_prove_itself_any_more() {
        let all = connections(10, 1);
        let first = admit(&all).expect("room");
        let _second = admit(&all).expect("room");
        first.proven();
        assert!(first.is_evicted());
    }
}
