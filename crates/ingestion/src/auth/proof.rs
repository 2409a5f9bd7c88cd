//! What proves an identity, for as long as its session lives.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use iot_hub::{SasError, SasToken, Thumbprints};
use jiff::Timestamp;
use twin::IdentityKey;

use crate::auth::{AuthError, certificate};

/// A proven identity.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    /// Who it is.
    pub(crate) identity: IdentityKey,
    /// Which generation of the id.
    pub(crate) generation_id: String,
    pub(super) evidence: Evidence,
}

/// What was shown.
#[derive(Debug, Clone)]
pub(super) enum Evidence {
    /// A token of one of its keys.
    Token(SasToken),
    /// A certificate whose key it has.
    Certificate(Thumbprints),
    /// A certificate that an authority of ours has signed for the identity, and whose key it has.
    Signed {
        /// When it ends.
        until: Timestamp,
        /// What was shown, for authorities that are trusted later.
        chain: Arc<[Vec<u8>]>,
        /// Which authorities have judged it last. Copies share it, so that the chain is verified once
        /// by each.
        edition: Arc<AtomicU64>,
    },
}

impl Proof {
    /// When the proof ends, with the skew allowed to the agent's clock.
    pub(crate) fn ends_at(&self) -> Timestamp {
        match &self.evidence {
            Evidence::Token(token) => token
                .expires_at()
                .saturating_add(iot_hub::sas::CLOCK_SKEW)
                .unwrap_or(Timestamp::MAX),
            Evidence::Certificate(_) => Timestamp::MAX,
            Evidence::Signed { until, .. } => *until,
        }
    }

    /// The shared access policy of the hub that has vouched for it; none: the identity itself has.
    pub(crate) fn policy(&self) -> Option<&str> {
        match &self.evidence {
            Evidence::Token(token) => token.policy(),
            Evidence::Certificate(_) | Evidence::Signed { .. } => None,
        }
    }

    /// Of which kind it is: few words, for a counter.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.evidence {
            Evidence::Token(token) if token.policy().is_some() => "POLICY",
            Evidence::Token(_) => "KEY",
            Evidence::Certificate(_) | Evidence::Signed { .. } => "CERTIFICATE",
        }
    }

    /// By what it is, for the log: `key`, `policy:<name>` or `certificate`.
    pub(crate) fn by(&self) -> String {
        match self.policy() {
            Some(policy) => format!("policy:{policy}"),
            None => self.kind().to_lowercase(),
        }
    }

    /// Whether the proof's time is over.
    pub(crate) fn check_time(&self, now: Timestamp) -> Result<(), AuthError> {
        match &self.evidence {
            Evidence::Token(token) => check_time(token, now),
            Evidence::Certificate(_) => Ok(()),
            Evidence::Signed { until, .. } => certificate::check_time(&self.identity, *until, now),
        }
    }
}

/// Whether a token's time is over.
pub(super) fn check_time(token: &SasToken, now: Timestamp) -> Result<(), AuthError> {
    if token.is_expired(now) {
        return Err(SasError::Expired {
            expired_at: token.expires_at(),
            now,
        }
        .into());
    }
    Ok(())
}
