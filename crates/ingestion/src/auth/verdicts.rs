//! Which chains of certificates were found to be signed by an authority of ours, so that a device that
//! comes back is judged at once: verifying signatures costs us, and is not done for whoever comes from
//! where many fail until it is its turn.
//!
//! Pure: the time is an argument. Only what holds is remembered, so that nobody who makes chains up
//! finds room here. The key of the first certificate has been proven by each handshake anew.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use iot_hub::Thumbprints;
use jiff::Timestamp;
use twin::IdentityKey;

/// How long a verdict holds: certificates between the device's and the authority's may end meanwhile,
/// and nobody looks at those again.
const KEPT: Duration = Duration::from_hours(1);

/// Verdicts that are remembered, one of each identity, some 250 bytes each. Over it nothing more is
/// remembered until some are old.
const ENTRIES_MAX: usize = 100_000;

/// How often what is old is looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// A chain as it was shown, in few bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain(String);

impl Chain {
    pub(super) fn of(chain: &[Vec<u8>]) -> Self {
        let mut all = Vec::with_capacity(chain.iter().map(|it| it.len() + 8).sum());
        for certificate in chain {
            // So that two chains are told apart that differ in where one certificate ends.
            all.extend(certificate.len().to_be_bytes());
            all.extend(certificate);
        }
        Self(Thumbprints::of(&all).sha256().to_owned())
    }
}

#[derive(Debug)]
struct Verdict {
    chain: Chain,
    /// Which authorities have judged it.
    edition: u64,
    /// When the device's certificate ends.
    until: Timestamp,
    kept_until: Instant,
}

/// The verdicts.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    of: HashMap<IdentityKey, Verdict>,
    pruned_at: Option<Instant>,
}

impl Verdicts {
    /// When a certificate ends that these authorities were found to have signed for an identity.
    pub(super) fn find(
        &self,
        identity: &IdentityKey,
        chain: &Chain,
        edition: u64,
        now: Instant,
    ) -> Option<Timestamp> {
        let known = self.of.get(identity)?;
        let holds = known.chain == *chain && known.edition == edition && now < known.kept_until;
        holds.then_some(known.until)
    }

    /// Remembers one.
    pub(super) fn remember(
        &mut self,
        identity: IdentityKey,
        chain: Chain,
        (edition, until): (u64, Timestamp),
        now: Instant,
    ) {
        let due = self
            .pruned_at
            .is_none_or(|at| now.saturating_duration_since(at) >= PRUNE_EVERY);
        if self.of.len() >= ENTRIES_MAX && due {
            self.pruned_at = Some(now);
            self.of.retain(|_, known| now < known.kept_until);
        }
        if self.of.len() >= ENTRIES_MAX && !self.of.contains_key(&identity) {
            return;
        }
        let verdict = Verdict {
            chain,
            edition,
            until,
            kept_until: now + KEPT,
        };
        self.of.insert(identity, verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> IdentityKey {
        IdentityKey::parse_path(path).unwrap()
    }

    #[test]
    fn a_verdict_is_of_one_chain_one_identity_and_one_set_of_authorities_for_a_while() {
        let mut verdicts = Verdicts::default();
        let now = Instant::now();
        let shown = [b"own".to_vec(), b"above".to_vec()];
        let chain = || Chain::of(&shown);
        let until = Timestamp::MAX;
        verdicts.remember(key("d"), chain(), (1, until), now);
        assert_eq!(verdicts.find(&key("d"), &chain(), 1, now), Some(until));
        assert_eq!(verdicts.find(&key("d/m"), &chain(), 1, now), None);
        assert_eq!(verdicts.find(&key("d"), &chain(), 2, now), None);
        assert_eq!(verdicts.find(&key("d"), &chain(), 1, now + KEPT), None);
        for other in [
            vec![b"own".to_vec()],
            vec![b"ownabove".to_vec()],
            vec![b"owna".to_vec(), b"bove".to_vec()],
        ] {
            let other = Chain::of(&other);
            assert_eq!(verdicts.find(&key("d"), &other, 1, now), None);
        }
    }

    #[test]
    fn so_many_are_remembered_and_what_is_old_makes_room() {
        let mut verdicts = Verdicts::default();
        let now = Instant::now();
        let chain = || Chain(String::new());
        let verdict = (0, Timestamp::MAX);
        for number in 0..=ENTRIES_MAX {
            verdicts.remember(key(&format!("d{number}")), chain(), verdict, now);
        }
        assert_eq!(verdicts.of.len(), ENTRIES_MAX);
        let last = key(&format!("d{ENTRIES_MAX}"));
        assert_eq!(verdicts.find(&last, &chain(), 0, now), None);
        let later = now + KEPT;
        verdicts.remember(last.clone(), chain(), verdict, later);
        assert!(verdicts.find(&last, &chain(), 0, later).is_some());
    }
}
