//! Makes a peer that fails again and again wait, or whoever else does too often what costs us.
//!
//! Pure: the time is an argument. Keys cannot be guessed in any number of attempts; this keeps a
//! broken or hostile peer from spending our CPU, twin-store's, and the log. Success costs nothing,
//! so that a whole site may connect through one address.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use service_kit::accounts::make_room;

/// The period of a limit.
const PERIOD: Duration = Duration::from_mins(1);

/// Peers that are remembered. Over it those whose account is even again are forgotten, and if none
/// is, those that owe the least: an attacker with that many addresses must not be able to fill our
/// memory, nor to have us forget who fails all the time.
const PEERS_MAX: usize = 16_384;

/// Allows each peer a number of failures per minute. A peer is an address, an identity, or both.
#[derive(Debug)]
pub(crate) struct Limiter<K> {
    per_minute: u32,
    /// When each peer's account will be even: every failure moves it on by a share of the period.
    even_at: HashMap<K, Instant>,
}

impl<K: Eq + Hash> Limiter<K> {
    /// Allows `per_minute` failures per minute, at least one.
    pub(crate) fn new(per_minute: u32) -> Self {
        Self {
            per_minute: per_minute.max(1),
            even_at: HashMap::new(),
        }
    }

    /// Whether a peer may try now; if not, how long it must wait.
    pub(crate) fn check(&self, peer: &K, now: Instant) -> Result<(), Duration> {
        let Some(even_at) = self.even_at.get(peer) else {
            return Ok(());
        };
        // The account may be overdrawn by one period, less the share of the failure to come.
        let owed = even_at.saturating_duration_since(now) + self.share();
        match owed.checked_sub(PERIOD) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(wait),
        }
    }

    /// Notes a failure.
    pub(crate) fn failed(&mut self, peer: K, now: Instant) {
        if !self.even_at.contains_key(&peer) {
            make_room(&mut self.even_at, PEERS_MAX, now, |even_at| *even_at);
        }
        let share = self.share();
        let even_at = self.even_at.entry(peer).or_insert(now);
        // Failures that were under way together may overdraw; the wait stays within two periods.
        *even_at = ((*even_at).max(now) + share).min(now + 2 * PERIOD);
    }

    /// Takes a failure back that turned out to be none.
    pub(crate) fn forgiven(&mut self, peer: &K) {
        let share = self.share();
        if let Some(even_at) = self.even_at.get_mut(peer)
            && let Some(earlier) = even_at.checked_sub(share)
        {
            *even_at = earlier;
        }
    }

    fn share(&self) -> Duration {
        PERIOD / self.per_minute
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const PEER: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    #[test]
    fn a_peer_may_fail_so_often_and_then_waits() {
        let mut limiter = Limiter::new(6);
        let start = Instant::now();
        for _ in 0..6 {
            assert_eq!(limiter.check(&PEER, start), Ok(()));
            limiter.failed(PEER, start);
        }
        assert_eq!(limiter.check(&PEER, start), Err(Duration::from_secs(10)));
        assert_eq!(
            limiter.check(&None, start),
            Ok(()),
            "others are not concerned"
        );
        assert_eq!(
            limiter.check(&PEER, start + Duration::from_secs(10)),
            Ok(())
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut limiter = Limiter::new(4);
        let now = Instant::now();
        let worst = Some(IpAddr::from([127, 0, 0, 9]));
        for _ in 0..4 {
            limiter.failed(worst, now);
        }
        for index in 0..u32::try_from(3 * PEERS_MAX).unwrap() {
            limiter.failed(Some(IpAddr::from(index.to_be_bytes())), now);
        }
        assert!(limiter.even_at.len() <= PEERS_MAX);
        assert!(limiter.check(&worst, now).is_err(), "it is not forgotten");
    }
}
