//! The rollout API: answers come from memory and the store, orders go through the store.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use service_kit::clock::SharedClock;
use service_kit::status::to_status;
use tonic::{Request, Response, Status};
use wire::InvalidField;
use wire::policy::v1 as proto;
use wire::policy::v1::rollout_service_server::RolloutService;

use super::{by, page_size};
use crate::counts::Counts;
use crate::policies::Policies;
use crate::policy_doc::PolicyId;
use crate::resource::rollout::print_rollout;
use crate::rollout::Order;
use crate::standstill::Standstill;
use crate::store::{self, By, StoredPolicy, StoredRollout};

mod error;
mod orders;

use error::Error;
use orders::Asked;

/// Between two looks at the counts of a watched rollout.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Stands for any policy, and for the revision in force.
const ANY: &str = "-";
/// Before the place in a page token, so that another form can be told apart later.
const PAGE_TOKEN_PREFIX: &str = "after:";

/// The stream of a watch.
pub(crate) type Watch = Pin<Box<dyn Stream<Item = Result<proto::Rollout, Status>> + Send>>;

/// Shows and directs rollouts.
#[derive(Debug, Clone)]
pub(crate) struct RolloutApi {
    policies: Policies,
    counts: Counts,
    standstill: Standstill,
    clock: SharedClock,
}

impl RolloutApi {
    /// Serves the rollouts of these policies.
    pub(crate) fn new(
        policies: Policies,
        counts: Counts,
        standstill: Standstill,
        clock: SharedClock,
    ) -> RolloutApi {
        RolloutApi {
            policies,
            counts,
            standstill,
            clock,
        }
    }

    pub(super) async fn get(&self, name: &str) -> Result<proto::Rollout, Error> {
        let (id, revision) = self.parse_name(name)?;
        if let Some(policy) = self.policies.get(&id)
            && let Some(stored) = &policy.rollout
            && stored.revision == revision
        {
            let seen = (!stored.rollout.phase.has_ended()).then(|| self.counts.waves(&policy));
            let waits_for = self.waits_for(&policy, stored);
            return Ok(proto::Rollout {
                waits_for,
                ..print_rollout(&id, stored, seen.flatten())
            });
        }
        let stored = self.policies.rollout(id.clone(), revision).await?;
        let stored = stored.ok_or_else(|| absent(&id, revision))?;
        Ok(print_rollout(&id, &stored, None))
    }

    /// Why a rollout that is in force stands still.
    fn waits_for(&self, policy: &StoredPolicy, stored: &StoredRollout) -> String {
        self.standstill.why(policy, stored).unwrap_or_default()
    }

    pub(super) async fn list(
        &self,
        request: &proto::ListRolloutsRequest,
    ) -> Result<proto::ListRolloutsResponse, Error> {
        let only = match request.parent.strip_prefix("policies/") {
            Some(ANY) => None,
            None if request.parent.is_empty() => None,
            Some(_) | None => Some(super::parse_policy("parent", &request.parent)?),
        };
        let size = page_size(request.page_size)?;
        let after = page_start(&request.page_token)?;
        // One more than asked shows whether there is another page.
        let mut found = if request.in_force_only {
            let of_policies = self
                .policies
                .rollouts_in_force(only.as_ref(), after, size + 1);
            of_policies.into_iter().collect()
        } else {
            self.policies.rollouts(only, after, size + 1).await?
        };
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some((id, last)) if more => format!("{PAGE_TOKEN_PREFIX}{id}:{}", last.revision),
            Some(_) | None => String::new(),
        };
        let rollouts = found.iter().map(|(id, stored)| self.shown(id, stored));
        Ok(proto::ListRolloutsResponse {
            rollouts: rollouts.collect(),
            next_page_token,
        })
    }

    /// A rollout with what is counted of it, if it is in force.
    fn shown(&self, id: &PolicyId, stored: &StoredRollout) -> proto::Rollout {
        let policy = self.policies.get(id).filter(|policy| {
            let current = policy.rollout.as_ref();
            current.is_some_and(|current| current.revision == stored.revision)
                && !stored.rollout.phase.has_ended()
        });
        let waits_for = policy.as_ref().map(|policy| self.waits_for(policy, stored));
        let seen = policy.and_then(|policy| self.counts.waves(&policy));
        proto::Rollout {
            waits_for: waits_for.unwrap_or_default(),
            ..print_rollout(id, stored, seen)
        }
    }

    /// Takes the revision back from every device that has it.
    pub(super) async fn abort(&self, name: String, by: By) -> Result<proto::Rollout, Error> {
        let asked = Asked::new((name, String::new(), String::new()), by);
        self.direct(Order::Abort, asked).await
    }

    /// Reads `policies/{policy}/rollouts/{revision}`.
    fn parse_name(&self, name: &str) -> Result<(PolicyId, u64), Error> {
        const ALLOWED: &str = "\"policies/{policy}/rollouts/{revision}\", where the revision may \
                               be `-` for the one in force";
        let wrong = || InvalidField::new("name", format!("is {name:?}; allowed is {ALLOWED}"));
        let rest = name.strip_prefix("policies/").ok_or_else(wrong)?;
        let (id, revision) = rest.split_once("/rollouts/").ok_or_else(wrong)?;
        let id = PolicyId::parse(id).map_err(|problem| InvalidField::new("name", problem))?;
        if revision != ANY {
            let revision = revision.parse().map_err(|_| wrong())?;
            return Ok((id, revision));
        }
        let policy = self.policies.get(&id);
        let policy = policy.ok_or_else(|| store::Error::NotFound { id: id.clone() })?;
        let rollout = policy.rollout.ok_or(Error::NoRollout { id: id.clone() })?;
        Ok((id, rollout.revision))
    }

    async fn watch(&self, name: String) -> Result<Watch, Error> {
        let first = self.get(&name).await?;
        // From here on it is this revision, whatever becomes of the policy.
        let name = first.name.clone();
        let state = (self.clone(), name, Some(first), None::<proto::Rollout>);
        let events = futures::stream::try_unfold(state, |(api, name, next, last)| async move {
            let mut next = next;
            loop {
                if let Some(now) = next.take()
                    && last.as_ref() != Some(&now)
                {
                    return Ok(Some((now.clone(), (api, name, None, Some(now)))));
                }
                if last.as_ref().is_some_and(has_ended) {
                    return Ok(None);
                }
                tokio::time::sleep(LOOK_EVERY).await;
                next = Some(api.get(&name).await.map_err(|error| to_status(&error))?);
            }
        });
        Ok(Box::pin(events))
    }
}

fn has_ended(rollout: &proto::Rollout) -> bool {
    use proto::rollout::Phase;
    match rollout.phase() {
        Phase::Completed | Phase::RolledBack | Phase::Superseded => true,
        Phase::Unspecified
        | Phase::Planning
        | Phase::AwaitingApproval
        | Phase::Rolling
        | Phase::Soaking
        | Phase::Paused => false,
    }
}

fn absent(id: &PolicyId, revision: u64) -> Error {
    Error::NotFound {
        id: id.clone(),
        revision,
    }
}

fn page_start(token: &str) -> Result<Option<(PolicyId, u64)>, InvalidField> {
    if token.is_empty() {
        return Ok(None);
    }
    let place = token.strip_prefix(PAGE_TOKEN_PREFIX);
    place
        .and_then(|place| place.rsplit_once(':'))
        .and_then(|(id, revision)| Some((PolicyId::parse(id).ok()?, revision.parse().ok()?)))
        .map(Some)
        .ok_or_else(|| InvalidField::new("page_token", "is not one that this service gave"))
}

#[tonic::async_trait]
impl RolloutService for RolloutApi {
    type WatchRolloutStream = Watch;

    async fn get_rollout(
        &self,
        request: Request<proto::GetRolloutRequest>,
    ) -> Result<Response<proto::Rollout>, Status> {
        answer(self.get(&request.get_ref().name).await)
    }

    async fn list_rollouts(
        &self,
        request: Request<proto::ListRolloutsRequest>,
    ) -> Result<Response<proto::ListRolloutsResponse>, Status> {
        answer(self.list(request.get_ref()).await)
    }

    async fn watch_rollout(
        &self,
        request: Request<proto::WatchRolloutRequest>,
    ) -> Result<Response<Self::WatchRolloutStream>, Status> {
        answer(self.watch(request.into_inner().name).await)
    }

    async fn approve_rollout(
        &self,
        request: Request<proto::ApproveRolloutRequest>,
    ) -> Result<Response<proto::Rollout>, Status> {
        let (by, it) = (by(&request), request.into_inner());
        let asked = Asked::new((it.name, it.reason, it.etag), by);
        answer(self.direct(Order::Approve, asked).await)
    }

    async fn pause_rollout(
        &self,
        request: Request<proto::PauseRolloutRequest>,
    ) -> Result<Response<proto::Rollout>, Status> {
        let (by, it) = (by(&request), request.into_inner());
        let asked = Asked::new((it.name, it.reason, it.etag), by);
        answer(self.direct(Order::Pause, asked).await)
    }

    async fn resume_rollout(
        &self,
        request: Request<proto::ResumeRolloutRequest>,
    ) -> Result<Response<proto::Rollout>, Status> {
        let (by, it) = (by(&request), request.into_inner());
        let asked = Asked::new((it.name, it.reason, it.etag), by);
        answer(self.direct(Order::Resume, asked).await)
    }

    async fn skip_wave(
        &self,
        request: Request<proto::SkipWaveRequest>,
    ) -> Result<Response<proto::Rollout>, Status> {
        let (by, it) = (by(&request), request.into_inner());
        if it.wave == 0 {
            let problem = "is required: the number of the last wave that has begun, from 1";
            return answer(Err(InvalidField::new("wave", problem).into()));
        }
        let wave = Some(it.wave);
        let asked = Asked::new((it.name, it.reason, it.etag), by);
        answer(self.direct(Order::Skip, Asked { wave, ..asked }).await)
    }

    async fn abort_rollout(
        &self,
        request: Request<proto::AbortRolloutRequest>,
    ) -> Result<Response<proto::Rollout>, Status> {
        let (by, it) = (by(&request), request.into_inner());
        let asked = Asked::new((it.name, it.reason, it.etag), by);
        answer(self.direct(Order::Abort, asked).await)
    }

    async fn retry_rollout(
        &self,
        request: Request<proto::RetryRolloutRequest>,
    ) -> Result<Response<proto::Rollout>, Status> {
        let (by, it) = (by(&request), request.into_inner());
        let asked = Asked::new((it.name, it.reason, it.etag), by);
        answer(self.direct(Order::Retry, asked).await)
    }
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| to_status(&error))
}
