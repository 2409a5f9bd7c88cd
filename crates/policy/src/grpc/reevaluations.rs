//! The API of re-evaluations: reads what is asked, has it done, and prints it.

use std::time::Duration;

use service_kit::error::{Classified, Kind, Violation};
use service_kit::status::to_status;
use thiserror::Error;
use tonic::{Request, Response, Status};
use uuid::Uuid;
use wire::InvalidField;
use wire::policy::v1 as proto;
use wire::policy::v1::reevaluation::State as WireState;
use wire::policy::v1::reevaluation_service_server::ReevaluationService;
use wire::time::to_wire;

use super::{by, page_size, parse_policy};
use crate::evaluate::PolicySet;
use crate::policies::Policies;
use crate::policy_doc::PolicyId;
use crate::reevaluation::Reevaluations;
use crate::store::{self, By, Range, ReevaluationError, State, StoredReevaluation};

/// How long a caller waits who does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// How long one may wait.
const WAIT_MAX: Duration = Duration::from_mins(5);
/// How long one who cancels waits for the end.
const CANCELLED_WITHIN: Duration = Duration::from_secs(5);
/// Before the number in a page token, so that another form can be told apart later.
const PAGE_TOKEN_PREFIX: &str = "below:";

/// Begins, shows and ends re-evaluations.
#[derive(Debug, Clone)]
pub(crate) struct ReevaluationApi {
    policies: Policies,
    jobs: Reevaluations,
}

impl ReevaluationApi {
    /// Serves these.
    pub(crate) fn new(policies: Policies, jobs: Reevaluations) -> ReevaluationApi {
        ReevaluationApi { policies, jobs }
    }

    async fn start(
        &self,
        request: proto::StartReevaluationRequest,
        by: By,
    ) -> Result<proto::Reevaluation, Error> {
        let request_id = request.request_id;
        if !request_id.is_empty() && Uuid::parse_str(&request_id).is_err() {
            let problem = format!("is {request_id:?}; allowed is a UUID");
            return Err(InvalidField::new("request_id", problem).into());
        }
        let range = match request.policy.as_str() {
            "" => Range {
                policy: None,
                filter: String::new(),
            },
            name => {
                let id = parse_policy("policy", name)?;
                let policy = self.policies.get(&id);
                let policy = policy.ok_or_else(|| store::Error::NotFound { id: id.clone() })?;
                Range {
                    policy: Some(id),
                    filter: PolicySet::new(policy.in_force()).filter(),
                }
            }
        };
        let begun = self.jobs.begin(range, request_id, by).await?;
        tracing::info!(
            reevaluation = begun.number,
            policy = begun.range.policy.as_ref().map_or("all", PolicyId::as_str),
            actor = begun.actor,
            "a re-evaluation was asked for"
        );
        Ok(print(&begun))
    }

    pub(super) async fn get(&self, name: &str) -> Result<proto::Reevaluation, Error> {
        Ok(print(&self.jobs.get(number(name)?).await?))
    }

    pub(super) async fn list(
        &self,
        request: &proto::ListReevaluationsRequest,
    ) -> Result<proto::ListReevaluationsResponse, Error> {
        let size = page_size(request.page_size)?;
        let below = match request.page_token.as_str() {
            "" => None,
            token => {
                let number = token
                    .strip_prefix(PAGE_TOKEN_PREFIX)
                    .and_then(|number| number.parse().ok());
                let problem = "is none that this service gave";
                Some(number.ok_or_else(|| InvalidField::new("page_token", problem))?)
            }
        };
        // One more than asked shows whether there is another page.
        let mut found = self.jobs.list(below, size + 1).await?;
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some(last) if more => format!("{PAGE_TOKEN_PREFIX}{}", last.number),
            Some(_) | None => String::new(),
        };
        Ok(proto::ListReevaluationsResponse {
            reevaluations: found.iter().map(print).collect(),
            next_page_token,
        })
    }

    pub(super) async fn wait(
        &self,
        request: &proto::WaitReevaluationRequest,
    ) -> Result<proto::Reevaluation, Error> {
        let number = number(&request.name)?;
        self.ended_or_now(number, wait_of(request.timeout)?).await
    }

    pub(super) async fn cancel(&self, name: &str, by: By) -> Result<proto::Reevaluation, Error> {
        let number = number(name)?;
        self.jobs.cancel(number, by).await?;
        tracing::info!(reevaluation = number, "a re-evaluation was cancelled");
        self.ended_or_now(number, CANCELLED_WITHIN).await
    }

    async fn ended_or_now(
        &self,
        number: u64,
        within: Duration,
    ) -> Result<proto::Reevaluation, Error> {
        let ended = tokio::time::timeout(within, self.jobs.ended(number)).await;
        Ok(print(&match ended {
            Ok(ended) => ended?,
            Err(_) => self.jobs.get(number).await?,
        }))
    }
}

/// How long a caller wants to wait.
pub(super) fn wait_of(timeout: Option<prost_types::Duration>) -> Result<Duration, InvalidField> {
    let Some(timeout) = timeout else {
        return Ok(WAIT_DEFAULT);
    };
    let timeout = Duration::try_from(timeout).ok();
    timeout
        .filter(|timeout| *timeout <= WAIT_MAX)
        .ok_or_else(|| InvalidField::new("timeout", "is not a length of time up to 5 minutes"))
}

fn number(name: &str) -> Result<u64, InvalidField> {
    let number = name.strip_prefix("reevaluations/");
    let number = number.and_then(|number| number.parse().ok());
    number.ok_or_else(|| {
        let problem = format!("is {name:?}; allowed is \"reevaluations/{{number}}\"");
        InvalidField::new("name", problem)
    })
}

fn print(one: &StoredReevaluation) -> proto::Reevaluation {
    let state = match one.state {
        State::Waiting => WireState::Waiting,
        State::Running => WireState::Running,
        State::Succeeded => WireState::Succeeded,
        State::Cancelled => WireState::Cancelled,
        State::Failed => WireState::Failed,
    };
    let policy = one.range.policy.as_ref();
    proto::Reevaluation {
        name: format!("reevaluations/{}", one.number),
        state: state.into(),
        policy: policy
            .map(|id| format!("policies/{id}"))
            .unwrap_or_default(),
        twins_total: one.total,
        twins_evaluated: one.counts.evaluated,
        twins_changed: one.counts.changed,
        twins_failed: one.counts.failed,
        create_time: Some(to_wire(one.created_at)),
        update_time: Some(to_wire(one.updated_at)),
        end_time: one.ended_at.map(to_wire),
        actor: one.actor.clone(),
        error: one.error.clone(),
    }
}

#[tonic::async_trait]
impl ReevaluationService for ReevaluationApi {
    async fn start_reevaluation(
        &self,
        request: Request<proto::StartReevaluationRequest>,
    ) -> Result<Response<proto::Reevaluation>, Status> {
        let by = by(&request);
        answer(self.start(request.into_inner(), by).await)
    }

    async fn get_reevaluation(
        &self,
        request: Request<proto::GetReevaluationRequest>,
    ) -> Result<Response<proto::Reevaluation>, Status> {
        answer(self.get(&request.get_ref().name).await)
    }

    async fn list_reevaluations(
        &self,
        request: Request<proto::ListReevaluationsRequest>,
    ) -> Result<Response<proto::ListReevaluationsResponse>, Status> {
        answer(self.list(request.get_ref()).await)
    }

    async fn wait_reevaluation(
        &self,
        request: Request<proto::WaitReevaluationRequest>,
    ) -> Result<Response<proto::Reevaluation>, Status> {
        answer(self.wait(request.get_ref()).await)
    }

    async fn cancel_reevaluation(
        &self,
        request: Request<proto::CancelReevaluationRequest>,
    ) -> Result<Response<proto::Reevaluation>, Status> {
        let by = by(&request);
        answer(self.cancel(&request.get_ref().name, by).await)
    }
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

/// Why a call is refused.
#[derive(Debug, Error)]
pub(super) enum Error {
    /// A field of the request is wrong.
    #[error(transparent)]
    Field(#[from] InvalidField),
    /// There is no such re-evaluation, or it is not begun.
    #[error(transparent)]
    Reevaluation(#[from] ReevaluationError),
    /// There is no such policy, or the store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Field(_) => Kind::InvalidArgument,
            Error::Reevaluation(error) => error.kind(),
            Error::Store(error) => error.kind(),
        }
    }

    fn reason(&self) -> &str {
        match self {
            Error::Field(_) => "INVALID_FIELD",
            Error::Reevaluation(error) => error.reason(),
            Error::Store(error) => error.reason(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Error::Field(field) => vec![Violation::new(&field.field, &field.problem)],
            Error::Reevaluation(_) | Error::Store(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_form() {
        assert_eq!(number("reevaluations/12").unwrap(), 12);
        for wrong in [
            "",
            "12",
            "reevaluations/",
            "reevaluations/x",
            "operations/12",
        ] {
            assert_eq!(number(wrong).unwrap_err().field, "name", "{wrong}");
        }
    }
}
