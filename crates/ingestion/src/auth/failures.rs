//! Who has failed too often, and how what they show is looked at all the same.
//!
//! An address stands for a whole site, so whoever is behind it with a proof that holds is let in
//! however often others there have failed, also those who guess this very identity's key. What is
//! refused is what fails, and what that costs is bounded: a token of an identity that is known is
//! judged at once, for one HMAC; whatever somebody else has to be asked for waits its turn among
//! `Suspects`. It proves nothing itself.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use service_kit::accounts::network_of;
use service_kit::suspects::{Crowded, Suspects};
use twin::IdentityKey;

use super::limiter::Limiter;
use super::{AuthError, lock};
use crate::config::Limits;

/// The accounts of those that fail.
pub(super) struct Failures {
    of_address: Mutex<Limiter<Option<IpAddr>>>,
    /// Of each identity from each address, so that one that is wrong takes nothing from the others
    /// behind its address, and nobody can lock an identity out from elsewhere.
    of_identity: Mutex<Limiter<(Option<IpAddr>, IdentityKey)>>,
    suspects: Suspects,
    /// Of which addresses the log has said so lately.
    told: Mutex<Limiter<Option<IpAddr>>>,
}

/// How somebody who shows a proof stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    /// Of the address.
    of_address: Option<Duration>,
    /// Of the identity from there.
    of_identity: Option<Duration>,
}

impl Account {
    /// How long it would have to wait if it failed; none: it has not failed too often.
    pub(super) fn wait(self) -> Option<Duration> {
        self.of_address.max(self.of_identity)
    }

    /// Whether it has failed too often; then its proof may wait for a while.
    pub(crate) fn is_suspect(self) -> bool {
        self.wait().is_some()
    }
}

impl Failures {
    /// Nobody has failed.
    pub(super) fn new(limits: &Limits) -> Self {
        let of_address = Limiter::new(limits.auth_failures_per_minute);
        let of_identity = Limiter::new(limits.identity_failures_per_minute);
        Self {
            of_address: Mutex::new(of_address),
            of_identity: Mutex::new(of_identity),
            suspects: Suspects::default(),
            told: Mutex::new(Limiter::new(1)),
        }
    }

    /// How an address stands, and an identity from there where identities are counted.
    pub(super) fn account(
        &self,
        peer: Option<IpAddr>,
        identity: Option<&IdentityKey>,
        now: Instant,
    ) -> Account {
        let peer = peer.map(network_of);
        let of_identity = identity.and_then(|identity| {
            let both = (peer, identity.clone());
            lock(&self.of_identity).check(&both, now).err()
        });
        Account {
            of_address: lock(&self.of_address).check(&peer, now).err(),
            of_identity,
        }
    }

    /// Looks at a proof of somebody who has failed too often, when its turn comes.
    pub(super) async fn look<T>(
        &self,
        peer: Option<IpAddr>,
        wait: Duration,
        proving: impl Future<Output = Result<T, AuthError>>,
    ) -> Result<T, AuthError> {
        match self.suspects.look(peer, proving).await {
            Ok(outcome) => outcome,
            Err(Crowded) => Err(AuthError::TooManyFailures { wait }),
        }
    }

    /// Charges whoever failed. Whoever guesses one identity's key pays for it as that identity, and
    /// once it is over that limit no more as the address: others are behind it.
    pub(super) fn charge(
        &self,
        account: Account,
        peer: Option<IpAddr>,
        identity: Option<&IdentityKey>,
        now: Instant,
    ) {
        let peer = peer.map(network_of);
        if account.of_identity.is_none() {
            lock(&self.of_address).failed(peer, now);
        }
        if let Some(identity) = identity {
            lock(&self.of_identity).failed((peer, identity.clone()), now);
        }
    }

    /// Whether the log is to say that an address fails without end: it has not lately.
    pub(super) fn tells(&self, peer: Option<IpAddr>, now: Instant) -> bool {
        let peer = peer.map(network_of);
        let mut told = lock(&self.told);
        let tells = told.check(&peer, now).is_ok();
        if tells {
            told.failed(peer, now);
        }
        tells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    #[test]
    fn guesses_of_one_identity_take_nothing_from_its_address_and_nothing_elsewhere() {
        let failures = Failures::new(&Limits {
            auth_failures_per_minute: 4,
            identity_failures_per_minute: 3,
            ..Limits::default()
        });
        let now = Instant::now();
        let key = |path: &str| IdentityKey::parse_path(path).unwrap();
        let (guessed, other) = (key("guessed"), key("other"));
        let account = |peer, identity| failures.account(peer, Some(identity), now);
        for _ in 0..100 {
            let standing = account(HERE, &guessed);
            failures.charge(standing, HERE, Some(&guessed), now);
        }
        assert!(account(HERE, &guessed).wait().is_some());
        assert_eq!(account(HERE, &other).wait(), None);
        let there = Some(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(account(there, &guessed).wait(), None);
        assert_eq!(failures.account(HERE, None, now).wait(), None);
        // Failures of others count for the address, and then for all behind it.
        let standing = account(HERE, &other);
        failures.charge(standing, HERE, Some(&other), now);
        assert!(account(HERE, &key("third")).wait().is_some());
    }

    #[test]
    fn the_log_tells_of_an_address_once_a_minute() {
        let failures = Failures::new(&Limits::default());
        let now = Instant::now();
        assert!(failures.tells(HERE, now));
        assert!(!failures.tells(HERE, now + Duration::from_secs(30)));
        assert!(failures.tells(None, now));
        assert!(failures.tells(HERE, now + Duration::from_mins(1)));
    }
}
