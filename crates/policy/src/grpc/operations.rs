//! Rollouts and re-evaluations in the one form of operations: what their own services answer, printed anew.
//!
//! It keeps nothing and decides nothing: names are taken apart, and whoever serves the resource is asked.

use std::time::Duration;

use service_kit::status::to_status;
use tonic::{Request, Response, Status};
use wire::InvalidField;
use wire::policy::v1 as proto;
use wire::policy::v1::operation_service_server::OperationService;
use wire::policy::v1::reevaluation::State as ReevaluationState;
use wire::policy::v1::rollout::Phase;
use wire::twin::v1::{
    CancelOperationRequest, GetOperationRequest, ListOperationsRequest, ListOperationsResponse,
    Operation, OperationState, WaitOperationRequest,
};

use super::error::Error;
use super::reevaluations::wait_of;
use super::{ReevaluationApi, RolloutApi, by, page_size};
use crate::policy_doc::PolicyId;
use crate::store::By;

const ROLLOUT: &str = "operations/rollout.";
const REEVALUATION: &str = "operations/reevaluation.";
/// Before the place in a page token: which list it is a place of.
const OF_REEVALUATIONS: &str = "reevaluations:";
const OF_ROLLOUTS: &str = "rollouts:";
/// Between two looks at a rollout that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Shows operations.
#[derive(Debug, Clone)]
pub(crate) struct OperationApi {
    reevaluations: ReevaluationApi,
    rollouts: RolloutApi,
}

/// What an operation is of, by the name that its own service knows.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Reevaluation(String),
    Rollout(String),
}

impl Target {
    fn parse(name: &str) -> Result<Target, InvalidField> {
        if let Some(number) = name.strip_prefix(REEVALUATION) {
            return Ok(Target::Reevaluation(format!("reevaluations/{number}")));
        }
        let rollout = name.strip_prefix(ROLLOUT);
        // Ids of policies may have dots, revisions have none.
        let rollout = rollout.and_then(|rest| rest.rsplit_once('.'));
        let rollout = rollout.filter(|(id, revision)| {
            PolicyId::parse(id).is_ok() && revision.bytes().all(|digit| digit.is_ascii_digit())
        });
        let (id, revision) = rollout.ok_or_else(|| {
            let problem = format!(
                "is {name:?}; allowed are \"{ROLLOUT}{{policy}}.{{revision}}\" and \
                 \"{REEVALUATION}{{number}}\""
            );
            InvalidField::new("name", problem)
        })?;
        Ok(Target::Rollout(format!(
            "policies/{id}/rollouts/{revision}"
        )))
    }
}

impl OperationApi {
    /// Serves what these serve.
    pub(crate) fn new(reevaluations: ReevaluationApi, rollouts: RolloutApi) -> OperationApi {
        OperationApi {
            reevaluations,
            rollouts,
        }
    }

    async fn get(&self, name: &str) -> Result<Operation, Status> {
        Ok(match target(name)? {
            Target::Reevaluation(name) => {
                let found = self.reevaluations.get(&name).await;
                of_reevaluation(&found.map_err(|error| to_status(&error))?)
            }
            Target::Rollout(name) => {
                let found = self.rollouts.get(&name).await;
                of_rollout(&found.map_err(|error| to_status(&error))?)
            }
        })
    }

    async fn wait(&self, request: &WaitOperationRequest) -> Result<Operation, Status> {
        let timeout = request.timeout;
        if let Target::Reevaluation(name) = target(&request.name)? {
            let request = proto::WaitReevaluationRequest { name, timeout };
            let found = self.reevaluations.wait(&request).await;
            return Ok(of_reevaluation(&found.map_err(|error| to_status(&error))?));
        }
        let timeout = wait_of(timeout).map_err(|wrong| to_status(&Error::from(wrong)))?;
        let until = tokio::time::Instant::now() + timeout;
        loop {
            let now = self.get(&request.name).await?;
            if now.end_time.is_some() || tokio::time::Instant::now() >= until {
                return Ok(now);
            }
            let next = tokio::time::Instant::now() + LOOK_EVERY;
            tokio::time::sleep_until(next.min(until)).await;
        }
    }

    async fn cancel(&self, name: &str, by: By) -> Result<Operation, Status> {
        Ok(match target(name)? {
            Target::Reevaluation(name) => {
                let ended = self.reevaluations.cancel(&name, by).await;
                of_reevaluation(&ended.map_err(|error| to_status(&error))?)
            }
            Target::Rollout(rollout) => {
                let before = self.get(name).await?;
                if before.end_time.is_some() {
                    return Ok(before);
                }
                let aborted = self.rollouts.abort(rollout, by).await;
                of_rollout(&aborted.map_err(|error| to_status(&error))?)
            }
        })
    }

    async fn list(&self, request: ListOperationsRequest) -> Result<ListOperationsResponse, Status> {
        let refuse = |wrong: InvalidField| to_status(&Error::from(wrong));
        let size = page_size(request.page_size).map_err(refuse)?;
        let ListOperationsRequest {
            states,
            actor,
            start_time,
            end_time,
            ..
        } = &request;
        if request.jobs_only {
            return Ok(ListOperationsResponse::default());
        }
        let place = request.page_token.as_str();
        let (mut operations, next_page_token) = if let Some(place) = place.strip_prefix(OF_ROLLOUTS)
        {
            self.page_of_rollouts(size, place).await?
        } else {
            let place = match place {
                "" => "",
                place => place.strip_prefix(OF_REEVALUATIONS).ok_or_else(|| {
                    refuse(InvalidField::new(
                        "page_token",
                        "is none that this service gave",
                    ))
                })?,
            };
            self.page_of_reevaluations(size, place).await?
        };
        operations.retain(|one| {
            let created = one.create_time.map(order);
            (states.is_empty() || states.contains(&one.state))
                && (actor.is_empty() || one.actor == *actor)
                && start_time.is_none_or(|from| created >= Some(order(from)))
                && end_time.is_none_or(|to| created < Some(order(to)))
        });
        Ok(ListOperationsResponse {
            operations,
            next_page_token,
        })
    }

    async fn page_of_reevaluations(
        &self,
        size: usize,
        place: &str,
    ) -> Result<(Vec<Operation>, String), Status> {
        let request = proto::ListReevaluationsRequest {
            page_size: i32::try_from(size).unwrap_or(i32::MAX),
            page_token: place.to_owned(),
        };
        let page = self.reevaluations.list(&request).await;
        let page = page.map_err(|error| to_status(&error))?;
        let operations = page.reevaluations.iter().map(of_reevaluation).collect();
        let next = match page.next_page_token.as_str() {
            "" => OF_ROLLOUTS.to_owned(),
            next => format!("{OF_REEVALUATIONS}{next}"),
        };
        Ok((operations, next))
    }

    async fn page_of_rollouts(
        &self,
        size: usize,
        place: &str,
    ) -> Result<(Vec<Operation>, String), Status> {
        let request = proto::ListRolloutsRequest {
            page_size: i32::try_from(size).unwrap_or(i32::MAX),
            page_token: place.to_owned(),
            ..proto::ListRolloutsRequest::default()
        };
        let page = self.rollouts.list(&request).await;
        let page = page.map_err(|error| to_status(&error))?;
        let operations = page.rollouts.iter().map(of_rollout).collect();
        let next = match page.next_page_token.as_str() {
            "" => String::new(),
            next => format!("{OF_ROLLOUTS}{next}"),
        };
        Ok((operations, next))
    }
}

fn target(name: &str) -> Result<Target, Status> {
    Target::parse(name).map_err(|wrong| to_status(&Error::from(wrong)))
}

fn order(time: prost_types::Timestamp) -> (i64, i32) {
    (time.seconds, time.nanos)
}

fn of_reevaluation(one: &proto::Reevaluation) -> Operation {
    let (state, words) = match one.state() {
        ReevaluationState::Waiting => (OperationState::Running, "waiting"),
        ReevaluationState::Running => (OperationState::Running, "running"),
        ReevaluationState::Succeeded => (OperationState::Succeeded, "succeeded"),
        ReevaluationState::Cancelled => (OperationState::Cancelled, "cancelled"),
        ReevaluationState::Failed => (OperationState::Failed, "failed"),
        ReevaluationState::Unspecified => (OperationState::Unspecified, ""),
    };
    let number = one.name.strip_prefix("reevaluations/").unwrap_or_default();
    Operation {
        name: format!("{REEVALUATION}{number}"),
        state: state.into(),
        // Twins may have come since they were counted.
        total: one.twins_total.unwrap_or_default().max(one.twins_evaluated),
        succeeded: one.twins_evaluated.saturating_sub(one.twins_failed),
        failed: one.twins_failed,
        create_time: one.create_time,
        update_time: one.update_time,
        end_time: one.end_time,
        actor: one.actor.clone(),
        error: one.error.clone(),
        begun: one.state() != ReevaluationState::Waiting,
        target: one.name.clone(),
        stage: words.to_owned(),
        ..Operation::default()
    }
}

fn of_rollout(one: &proto::Rollout) -> Operation {
    let (state, words) = match one.phase() {
        Phase::Planning => (OperationState::Running, "planning"),
        Phase::AwaitingApproval => (OperationState::Running, "awaiting approval"),
        Phase::Rolling => (OperationState::Running, "rolling"),
        Phase::Soaking => (OperationState::Running, "soaking"),
        Phase::Paused => (OperationState::Running, "paused"),
        Phase::Completed => (OperationState::Succeeded, "completed"),
        Phase::RolledBack => (OperationState::Failed, "rolled back"),
        Phase::Superseded => (OperationState::Cancelled, "superseded"),
        Phase::Unspecified => (OperationState::Unspecified, ""),
    };
    let mut operation = Operation {
        name: format!("{ROLLOUT}{}.{}", one.policy_id, one.revision),
        state: state.into(),
        create_time: one.create_time,
        update_time: one.phase_time,
        end_time: one.phase_time.filter(|_| state != OperationState::Running),
        actor: one.author.clone(),
        begun: one.waves_released > 0,
        target: one.name.clone(),
        stage: words.to_owned(),
        ..Operation::default()
    };
    if state != OperationState::Running && state != OperationState::Succeeded {
        operation.error.clone_from(&one.reason);
    }
    for wave in &one.waves {
        operation.total += wave.twins_planned;
        operation.succeeded += wave.twins_applied;
        operation.failed += wave.twins_rejected
            + wave.twins_timed_out
            + wave.twins_reverted
            + wave.twins_lost
            + wave.twins_incomplete;
        operation.skipped += wave.twins_offline + wave.twins_left;
    }
    operation
}

#[tonic::async_trait]
impl OperationService for OperationApi {
    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.get(&request.get_ref().name).await.map(Response::new)
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        self.list(request.into_inner()).await.map(Response::new)
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.wait(request.get_ref()).await.map(Response::new)
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let by = by(&request);
        let ended = self.cancel(&request.get_ref().name, by).await;
        ended.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_it_is_of() {
        let rollout = Target::parse("operations/rollout.a.b.12").unwrap();
        let named = "policies/a.b/rollouts/12".to_owned();
        assert_eq!(rollout, Target::Rollout(named));
        let reevaluation = Target::parse("operations/reevaluation.3").unwrap();
        let named = "reevaluations/3".to_owned();
        assert_eq!(reevaluation, Target::Reevaluation(named));
        for wrong in [
            "",
            "operations/12",
            "operations/rollout.a",
            "operations/rollout.a.x",
        ] {
            assert_eq!(Target::parse(wrong).unwrap_err().field, "name", "{wrong}");
        }
    }

    #[test]
    fn the_twins_of_all_waves_add_up() {
        let wave = proto::RolloutWave {
            twins_planned: 10,
            twins_applied: 4,
            twins_rejected: 1,
            twins_timed_out: 1,
            twins_lost: 1,
            twins_offline: 2,
            ..proto::RolloutWave::default()
        };
        let rollout = proto::Rollout {
            name: "policies/p/rollouts/3".to_owned(),
            policy_id: "p".to_owned(),
            revision: 3,
            phase: Phase::RolledBack.into(),
            phase_time: Some(prost_types::Timestamp::default()),
            reason: "too many failed".to_owned(),
            waves: vec![wave.clone(), wave],
            ..proto::Rollout::default()
        };
        let operation = of_rollout(&rollout);
        assert_eq!(operation.name, "operations/rollout.p.3");
        assert_eq!(operation.state(), OperationState::Failed);
        assert_eq!(operation.error, "too many failed");
        let counts = [operation.total, operation.succeeded, operation.failed];
        assert_eq!((counts, operation.skipped), ([20, 8, 6], 4));
        assert!(operation.end_time.is_some());
        let paused = of_rollout(&proto::Rollout {
            phase: Phase::Paused.into(),
            ..rollout
        });
        assert_eq!(paused.state(), OperationState::Running);
        assert_eq!((paused.end_time, &*paused.error), (None, ""));
    }
}
