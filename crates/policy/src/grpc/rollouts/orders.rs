//! What people tell rollouts to do, as requests: which rollout is meant, as whoever asks has seen it, and
//! whether its gates would let it go on.

use wire::InvalidField;
use wire::policy::v1 as proto;

use super::{Error, RolloutApi, absent};
use crate::grpc::revisions;
use crate::policy_doc::PolicyId;
use crate::resource::rollout::{etag as print_etag, print_rollout};
use crate::rollout::{Order, Refusal, Rollout, Seen};
use crate::standstill::Look;
use crate::store::{By, Cause, RolloutError};

/// What somebody wants of which rollout.
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) reason: String,
    /// Empty: however it is.
    pub(super) etag: String,
    /// From 1; none: whichever is the last that has begun.
    pub(super) wave: Option<u32>,
    pub(super) by: By,
}

impl Asked {
    pub(super) fn new((name, reason, etag): (String, String, String), by: By) -> Asked {
        Asked {
            name,
            reason,
            etag,
            wave: None,
            by,
        }
    }
}

impl RolloutApi {
    /// Does it, durably, if the rollout stands where it can be done.
    pub(super) async fn direct(&self, order: Order, asked: Asked) -> Result<proto::Rollout, Error> {
        if order == Order::Approve && asked.name.ends_with("/rollouts/-") {
            let problem =
                "names no revision; who approves says which: policies/{policy}/rollouts/{revision}";
            return Err(InvalidField::new("name", problem).into());
        }
        let (id, revision) = self.parse_name(&asked.name)?;
        let reason = revisions::check_note(asked.reason)
            .map_err(|wrong| InvalidField::new("reason", wrong.problem))?;
        let at = self.clock.now();
        let actor = asked.by.actor.clone();
        let cause = Cause {
            action: format!("rollout.{}", order.as_str()),
            by: asked.by,
            at,
        };
        let (wave, etag) = (asked.wave, asked.etag);
        let seen_as = self.seen_as(&id, revision, &etag)?;
        let seen = self.seen(&id, revision);
        let change = move |rollout: &Rollout| {
            if seen_as.is_some_and(|seen_as| seen_as != *rollout) {
                return Err(Refusal::Changed { expected: etag });
            }
            if let Some(wave) = wave
                && usize::try_from(wave) != Ok(rollout.released)
            {
                return Err(Refusal::OtherWave {
                    asked: wave,
                    found: rollout.released,
                });
            }
            let next = rollout.order(order, &actor, &reason, at)?;
            match &seen {
                Some(seen) if order == Order::Resume => next.unless_it_fails(seen, at),
                Some(seen) => Ok(next.ending_with(rollout, &seen.waves)),
                None => Ok(next),
            }
        };
        let changed = self
            .policies
            .change_rollout(id.clone(), revision, cause, change);
        let policy = match changed.await {
            Ok(policy) => policy,
            Err(RolloutError::NotFound { id, revision }) => {
                return Err(self.not_in_force(id, revision).await);
            }
            Err(RolloutError::Refused(refusal)) => return Err(refusal.into()),
            Err(RolloutError::Store(error)) => return Err(error.into()),
        };
        tracing::info!(
            policy_id = %id,
            revision,
            order = order.as_str(),
            "a rollout was directed"
        );
        let stored = policy.rollout.as_ref();
        let stored = stored.ok_or_else(|| absent(&id, revision))?;
        let seen = (!stored.rollout.phase.has_ended()).then(|| self.counts.waves(&policy));
        Ok(print_rollout(&id, stored, seen.flatten()))
    }

    /// The rollout that an etag stands for; none: none was named.
    fn seen_as(&self, id: &PolicyId, revision: u64, etag: &str) -> Result<Option<Rollout>, Error> {
        if etag.is_empty() {
            return Ok(None);
        }
        let stored = self.policies.get(id).and_then(|policy| policy.rollout);
        let stored = stored.filter(|stored| stored.revision == revision);
        match stored {
            Some(stored) if print_etag(&stored) != etag => Err(Error::Refused(Refusal::Changed {
                expected: etag.to_owned(),
            })),
            // That it is not in force is told by the change itself.
            stored => Ok(stored.map(|stored| stored.rollout.clone())),
        }
    }

    /// What is seen of the devices of a rollout in force, to judge it by.
    fn seen(&self, id: &PolicyId, revision: u64) -> Option<Seen> {
        let policy = self.policies.get(id)?;
        let stored = policy.rollout.as_ref()?;
        if stored.revision != revision || stored.rollout.phase.has_ended() {
            return None;
        }
        match self.standstill.look(&policy, stored) {
            Look::Sees(seen) | Look::SeesPartly(seen, _) => Some(seen),
            Look::SeesNothing(_) => None,
        }
    }

    /// Tells a rollout that has ended from one that never was.
    async fn not_in_force(&self, id: PolicyId, revision: u64) -> Error {
        match self.policies.rollout(id.clone(), revision).await {
            Err(error) => error.into(),
            Ok(Some(_)) => Error::NotInForce { id, revision },
            Ok(None) => absent(&id, revision),
        }
    }
}
