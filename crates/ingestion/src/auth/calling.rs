//! Proofs of calls, of which a connection may have many at once: each takes a place among those for
//! whom twin-store is asked.

use std::net::IpAddr;
use std::time::Duration;

use service_kit::places::{Crowded, Place};
use tonic::metadata::MetadataMap;

use super::claim::Claim;
use super::{AuthError, Authenticator, Proof, Who};
use crate::admissions::Admissions;

impl Authenticator {
    /// Proves who makes a call of the agents' door.
    pub(crate) async fn authenticate(
        &self,
        metadata: &MetadataMap,
        peer: Option<IpAddr>,
        admissions: &Admissions,
    ) -> Result<Proof, AuthError> {
        let (who, place) = self.admitted(peer, admissions).await?;
        let claim = Claim::of_call(metadata, self.shared.clock.now());
        let proof = self.judge(claim, who).await;
        drop(place);
        proof
    }

    /// Has somebody from an address prove something that only twin-store can judge.
    pub(super) async fn limited<T>(
        &self,
        peer: Option<IpAddr>,
        admissions: &Admissions,
        proving: impl Future<Output = Result<T, AuthError>>,
    ) -> Result<T, AuthError> {
        let (who, place) = self.admitted(peer, admissions).await?;
        let proving = |wait: Option<Duration>| async move {
            match wait {
                Some(wait) => self.shared.failures.look(peer, wait, proving).await,
                None => proving.await,
            }
        };
        let proven = self.charging(who, proving).await;
        drop(place);
        proven
    }

    /// A place, and how its holder stands. Whoever has failed too often has none: it waits for its turn
    /// elsewhere, so that nobody stands behind it here. Many come at once and have failed by the time
    /// that it is their turn, so that is asked again.
    async fn admitted<'a>(
        &self,
        peer: Option<IpAddr>,
        admissions: &'a Admissions,
    ) -> Result<(Who<'static>, Option<Place<'a>>), AuthError> {
        let who = self.anybody(peer);
        if who.account.is_suspect() {
            return Ok((who, None));
        }
        let place = admissions.of_call(peer).await.map_err(|Crowded| {
            let error = AuthError::TooManyWaiting;
            self.note_failure(&error, peer);
            error
        })?;
        let who = self.anybody(peer);
        let place = (!who.account.is_suspect()).then_some(place);
        Ok((who, place))
    }
}
