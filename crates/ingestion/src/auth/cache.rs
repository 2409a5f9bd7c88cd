//! What is known of identities for a short while, so that a reconnect storm does not ask twin-store
//! twice for each agent.
//!
//! Pure: the time is an argument, and fetching is the caller's. An entry goes when its identity is
//! hinted to have changed, and after a minute in any case, because hints may be lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iot_hub::SymmetricKey;
use twin::IdentityKey;
use wire::registry::v1 as registry;

/// How long credentials are trusted: an identity that was disabled, with its hint lost, can
/// connect for this much longer.
const KNOWN_KEPT: Duration = Duration::from_mins(1);

/// How long it is remembered that an identity does not exist. Short, because its creation sends no
/// hint that we would wait for.
const MISSING_KEPT: Duration = Duration::from_secs(3);

/// Identities that are remembered, about 500 bytes each. Over it new ones are asked for each time.
const ENTRIES_MAX: usize = 100_000;

/// How often a full cache is searched for what is out of date.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// Whether an identity may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may.
    Enabled,
    /// An operator forbade it.
    Disabled,
}

/// What proves an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// Changes when an id is deleted and created again.
    pub(crate) generation_id: String,
    /// Whether it may connect.
    pub(crate) standing: Standing,
    /// Either opens the door.
    pub(crate) keys: Vec<SymmetricKey>,
    /// Of the certificates that do, in hex.
    pub(crate) thumbprints: Vec<String>,
    /// Certificates do that an authority of ours has signed for it.
    pub(crate) by_authority: bool,
}

/// What is known of an identity; `None`: that it does not exist.
pub(crate) type Finding = Option<Arc<Credentials>>;

/// Taken before a fetch, so that an answer that was overtaken by a hint is not kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket(u64);

/// The cache.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// Ordered, so that the modules of a device are found without looking at all others.
    entries: BTreeMap<IdentityKey, (Finding, Instant)>,
    /// Counts [`Cache::forget`].
    forgotten: u64,
    pruned_at: Option<Instant>,
}

impl Cache {
    /// What is known; `None` if it has to be fetched.
    pub(crate) fn find(&self, identity: &IdentityKey, now: Instant) -> Option<Finding> {
        let (finding, until) = self.entries.get(identity)?;
        (now < *until).then(|| finding.clone())
    }

    /// To be taken before a fetch begins.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.forgotten)
    }

    /// Remembers what a fetch found, unless something was forgotten while it was under way.
    pub(crate) fn remember(
        &mut self,
        ticket: Ticket,
        identity: IdentityKey,
        finding: Finding,
        now: Instant,
    ) {
        if ticket.0 != self.forgotten {
            return;
        }
        let due = self
            .pruned_at
            .is_none_or(|at| now.saturating_duration_since(at) >= PRUNE_EVERY);
        if self.entries.len() >= ENTRIES_MAX && due {
            self.pruned_at = Some(now);
            self.entries.retain(|_, (_, until)| now < *until);
        }
        if self.entries.len() >= ENTRIES_MAX {
            return;
        }
        let kept = if finding.is_some() {
            KNOWN_KEPT
        } else {
            MISSING_KEPT
        };
        self.entries.insert(identity, (finding, now + kept));
    }

    /// Forgets all of them.
    pub(crate) fn forget_all(&mut self) {
        self.forgotten += 1;
        self.entries.clear();
    }

    /// Forgets an identity; with a device, its modules too, as they share its standing.
    pub(crate) fn forget(&mut self, identity: &IdentityKey) {
        self.forgotten += 1;
        if identity.module.is_some() {
            self.entries.remove(identity);
        } else {
            // A device sorts directly before its modules.
            let behind = self.entries.range(identity..);
            let of_device = behind.take_while(|(key, _)| key.device == identity.device);
            let of_device: Vec<_> = of_device.map(|(key, _)| key.clone()).collect();
            for key in of_device {
                self.entries.remove(&key);
            }
        }
    }
}

/// A key that cannot be read opens nothing; the other one may.
pub(super) fn read(identity: &IdentityKey, credentials: registry::Credentials) -> Credentials {
    let standing = match credentials.status() {
        registry::Status::Enabled => Standing::Enabled,
        registry::Status::Disabled | registry::Status::Unspecified => Standing::Disabled,
    };
    let by_authority =
        credentials.authentication_type() == registry::AuthenticationType::CertificateAuthority;
    let pair = credentials.keys.unwrap_or_default();
    let mut keys = Vec::with_capacity(2);
    for text in [pair.primary, pair.secondary] {
        if text.is_empty() {
            continue;
        }
        match SymmetricKey::parse(&text) {
            Ok(key) => keys.push(key),
            Err(error) => tracing::error!(%identity, %error, "twin-store has an unusable key"),
        }
    }
    let registered = credentials.thumbprints.unwrap_or_default();
    let thumbprints = [registered.primary, registered.secondary]
        .into_iter()
        .filter(|thumbprint| !thumbprint.is_empty())
        .collect();
    Credentials {
        by_authority,
        generation_id: credentials.generation_id,
        standing,
        keys,
        thumbprints,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> IdentityKey {
        IdentityKey::parse_path(path).unwrap()
    }

    #[allow(clippy::unnecessary_wraps)] // the form that a fetch brings
    fn found() -> Finding {
        Some(Arc::new(Credentials {
            generation_id: "1".to_owned(),
            standing: Standing::Enabled,
            keys: vec![SymmetricKey::generate([7; 32])],
            thumbprints: Vec::new(),
            by_authority: false,
        }))
    }

    #[test]
    fn entries_go_after_their_time() {
        let mut cache = Cache::default();
        let start = Instant::now();
        cache.remember(cache.ticket(), key("d/m"), found(), start);
        cache.remember(cache.ticket(), key("e/m"), None, start);
        assert_eq!(cache.find(&key("d/m"), start), Some(found()));
        assert_eq!(cache.find(&key("e/m"), start), Some(None));
        assert_eq!(cache.find(&key("f/m"), start), None);
        assert_eq!(cache.find(&key("e/m"), start + MISSING_KEPT), None);
        assert!(cache.find(&key("d/m"), start + MISSING_KEPT).is_some());
        assert_eq!(cache.find(&key("d/m"), start + KNOWN_KEPT), None);
    }

    #[test]
    fn a_hint_forgets_the_identity_and_below_a_device_its_modules() {
        let mut cache = Cache::default();
        let now = Instant::now();
        for path in ["d", "d/m", "e/m"] {
            cache.remember(cache.ticket(), key(path), found(), now);
        }
        cache.forget(&key("d"));
        assert_eq!(cache.find(&key("d/m"), now), None);
        cache.forget(&key("e/m"));
        assert_eq!(cache.find(&key("e/m"), now), None);
    }

    #[test]
    fn an_answer_that_a_hint_overtook_is_not_kept() {
        let mut cache = Cache::default();
        let now = Instant::now();
        let ticket = cache.ticket();
        cache.forget(&key("d/m"));
        cache.remember(ticket, key("d/m"), found(), now);
        assert_eq!(cache.find(&key("d/m"), now), None);
    }
}
