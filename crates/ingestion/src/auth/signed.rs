//! Chains of certificates that are to be signed by an authority of ours: judged, or known from before.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use twin::IdentityKey;

use super::proof::Evidence;
use super::verdicts::Chain;
use super::{AuthError, Authenticator, certificate, lock};

impl Authenticator {
    /// That an authority of ours has signed what was shown, for this identity and for now.
    pub(super) fn signed(
        &self,
        identity: &IdentityKey,
        chain: &[Vec<u8>],
    ) -> Result<Evidence, AuthError> {
        let trusted = self.shared.authorities.as_ref();
        let trusted = trusted.ok_or_else(|| AuthError::NoAuthorities {
            identity: identity.clone(),
        })?;
        let (shown, monotonic) = (Chain::of(chain), self.shared.clock.monotonic());
        let current = trusted.current();
        let edition = current.edition;
        let known = lock(&self.shared.verdicts).find(identity, &shown, edition, monotonic);
        let until = if let Some(until) = known {
            until
        } else {
            let now = self.shared.clock.now();
            let until = certificate::check(&current.authorities, identity, chain, now)?;
            let verdict = (edition, until);
            let mut verdicts = lock(&self.shared.verdicts);
            verdicts.remember(identity.clone(), shown, verdict, monotonic);
            until
        };
        Ok(Evidence::Signed {
            until,
            chain: chain.into(),
            edition: Arc::new(AtomicU64::new(edition)),
        })
    }

    /// Whether that is known without verifying a signature.
    pub(super) fn is_known_to_be_signed(&self, identity: &IdentityKey, chain: &[Vec<u8>]) -> bool {
        let Some(trusted) = self.shared.authorities.as_ref() else {
            // That there are none is known, too.
            return true;
        };
        let (shown, edition) = (Chain::of(chain), trusted.current().edition);
        let verdicts = lock(&self.shared.verdicts);
        let now = self.shared.clock.monotonic();
        verdicts.find(identity, &shown, edition, now).is_some()
    }
}
