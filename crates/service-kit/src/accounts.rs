//! Accounts of peers whose doings are counted: whose they are, and which go when there are too many.
//!
//! Pure. What is counted, and what follows of it, is for its users to know.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

/// Bits of an IPv6 address that name a network: whoever has one has them all.
const NETWORK_BITS: u32 = 64;

/// Of this share of the accounts room is made at once, so that whoever fills them pays for looking
/// through all of them, and not each newcomer.
const SHARE: usize = 4;

/// Whose account an address counts for: its own, and of IPv6 that of its network, because a single
/// host has as many addresses there as it likes.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => {
            let bits = u128::from(v6) & (u128::MAX << (128 - NETWORK_BITS));
            IpAddr::V6(Ipv6Addr::from(bits))
        }
    }
}

/// Makes room for one more account if there are `max`: those go that are even again, and if that is
/// none, a quarter of all, those that owe the least. So a crowd of peers that each did something
/// once takes nothing from what is known of one that does it all the time.
pub fn make_room<K: Eq + Hash, A, S: BuildHasher>(
    accounts: &mut HashMap<K, A, S>,
    max: usize,
    now: Instant,
    even_at: impl Fn(&A) -> Instant,
) {
    if accounts.len() < max {
        return;
    }
    accounts.retain(|_, account| even_at(account) > now);
    if accounts.len() < max || accounts.is_empty() {
        return;
    }
    let mut all: Vec<Instant> = accounts.values().map(&even_at).collect();
    let mut left = (all.len() / SHARE).max(1);
    let (_, pivot, _) = all.select_nth_unstable(left - 1);
    let pivot = *pivot;
    accounts.retain(|_, account| {
        let goes = left > 0 && even_at(account) <= pivot;
        if goes {
            left -= 1;
        }
        !goes
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_have_one_account() {
        let of = |text: &str| network_of(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn those_go_that_are_even_or_owe_the_least() {
        let now = Instant::now();
        let owing = |seconds: u64| now + Duration::from_secs(seconds);
        let mut accounts: HashMap<u64, Instant> = (1..=100).map(|it| (it, owing(it))).collect();
        make_room(&mut accounts, 101, now, |at| *at);
        assert_eq!(accounts.len(), 100, "there is room");
        make_room(&mut accounts, 100, now, |at| *at);
        assert_eq!(accounts.len(), 75);
        assert!((26..=100).all(|it| accounts.contains_key(&it)));
        make_room(&mut accounts, 75, owing(90), |at| *at);
        assert_eq!(accounts.len(), 10, "the others are even");
    }

    #[test]
    fn of_many_that_owe_the_same_not_all_go() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut accounts: HashMap<u64, Instant> = (0..8).map(|it| (it, later)).collect();
        make_room(&mut accounts, 8, now, |at| *at);
        assert_eq!(accounts.len(), 6);
        let mut accounts = HashMap::from([(1, later)]);
        make_room(&mut accounts, 1, now, |at| *at);
        assert!(accounts.is_empty());
    }
}
