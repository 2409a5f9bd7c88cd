//! What became of the calls that policies make.

use tonic::{Request, Response, Status};
use wire::InvalidField;
use wire::names::identity_name;
use wire::policy::v1 as proto;
use wire::policy::v1::action_call::Outcome;
use wire::policy::v1::action_service_server::ActionService;
use wire::time::to_wire;

use super::{Error, answer, page_size, parse_policy};
use crate::actions::{ActionKey, Actions, Place, State};
use crate::resource;
use crate::store::{ActionOutcome, ActionQuery, ActionResult, Store};

/// Before the number in a page token, so that another form can be told apart later.
const PAGE_TOKEN_PREFIX: &str = "before:";

/// What is pending, on one page.
const PENDING_MAX: usize = 1000;

/// The API of actions.
#[derive(Debug, Clone)]
pub(crate) struct ActionApi {
    actions: Actions,
    store: Store,
}

impl ActionApi {
    /// Serves what these have called.
    pub(crate) fn new(actions: Actions, store: Store) -> ActionApi {
        ActionApi { actions, store }
    }

    async fn list(
        &self,
        request: &proto::ListActionCallsRequest,
    ) -> Result<proto::ListActionCallsResponse, Error> {
        let policy = parse_policy("parent", &request.parent)?;
        let size = page_size(request.page_size)?;
        let before = match request.page_token.as_str() {
            "" => None,
            token => {
                let number = token.strip_prefix(PAGE_TOKEN_PREFIX);
                let number = number.and_then(|number| number.parse().ok());
                let problem = "is none that this service gave";
                Some(number.ok_or_else(|| InvalidField::new("page_token", problem))?)
            }
        };
        let device = match request.device_id.as_str() {
            "" => String::new(),
            id => twin::DeviceId::parse(id)
                .map_err(|error| InvalidField::new("device_id", error))?
                .to_string(),
        };
        let asked = Outcome::try_from(request.outcome).map_err(|_| {
            let problem = format!("is {}, which is none", request.outcome);
            InvalidField::new("outcome", problem)
        })?;
        let (mut pending, mut pending_count) = (Vec::new(), 0);
        if before.is_none() {
            let (found, all) = self.actions.pending(&policy, &device, PENDING_MAX).await;
            pending_count = u64::try_from(all).unwrap_or(u64::MAX);
            pending = found
                .iter()
                .map(|(key, place)| print_pending(key, place))
                .filter(|call| asked == Outcome::Unspecified || call.outcome() == asked)
                .collect();
        }
        let outcome = match asked {
            Outcome::Unspecified => None,
            Outcome::Due | Outcome::Calling => {
                return Ok(proto::ListActionCallsResponse {
                    pending,
                    pending_count,
                    ..proto::ListActionCallsResponse::default()
                });
            }
            Outcome::Succeeded => Some(ActionOutcome::Succeeded),
            Outcome::Failed => Some(ActionOutcome::Failed),
            Outcome::Unanswered => Some(ActionOutcome::Unanswered),
            Outcome::Unknown => Some(ActionOutcome::Unknown),
            Outcome::Expired => Some(ActionOutcome::Expired),
        };
        let query = ActionQuery {
            policy,
            device,
            outcome,
            before,
            // One more than asked shows whether there is another page.
            limit: size + 1,
        };
        let mut found = self.store.action_results(query).await?;
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some((number, _)) if more => format!("{PAGE_TOKEN_PREFIX}{number}"),
            Some(_) | None => String::new(),
        };
        Ok(proto::ListActionCallsResponse {
            pending,
            pending_count,
            calls: found.iter().map(|(_, result)| print(result)).collect(),
            next_page_token,
        })
    }
}

fn print_pending(key: &ActionKey, place: &Place) -> proto::ActionCall {
    let (outcome, revision, due, begun) = match place.state {
        State::Calling {
            due,
            revision,
            begun,
            ..
        } => (Outcome::Calling, revision, Some(due), Some(begun)),
        State::Due(due) => (Outcome::Due, place.revision, Some(due), None),
        State::Idle | State::Waiting { .. } => (Outcome::Unspecified, place.revision, None, None),
    };
    proto::ActionCall {
        policy: resource::name(&key.id.policy),
        policy_revision: revision,
        action: key.id.action.clone(),
        twin: identity_name(&key.twin),
        cause: place.cause,
        outcome: outcome.into(),
        begin_time: begun.map(to_wire),
        due_time: due.map(|due| to_wire(due.since)),
        ..proto::ActionCall::default()
    }
}

fn print(result: &ActionResult) -> proto::ActionCall {
    let outcome = match result.outcome {
        ActionOutcome::Succeeded => Outcome::Succeeded,
        ActionOutcome::Failed => Outcome::Failed,
        ActionOutcome::Unanswered => Outcome::Unanswered,
        ActionOutcome::Unknown => Outcome::Unknown,
        ActionOutcome::Expired => Outcome::Expired,
    };
    proto::ActionCall {
        policy: resource::name(&result.key.id.policy),
        policy_revision: result.revision,
        action: result.key.id.action.clone(),
        twin: identity_name(&result.key.twin),
        cause: result.cause,
        outcome: outcome.into(),
        status: result.status,
        payload_json: result.payload.clone(),
        error: result.error.clone(),
        begin_time: result.begun.map(to_wire),
        end_time: Some(to_wire(result.ended)),
        due_time: None,
    }
}

#[tonic::async_trait]
impl ActionService for ActionApi {
    async fn list_action_calls(
        &self,
        request: Request<proto::ListActionCallsRequest>,
    ) -> Result<Response<proto::ListActionCallsResponse>, Status> {
        answer(self.list(request.get_ref()).await)
    }
}
