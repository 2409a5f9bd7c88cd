//! The policy API. Answers come from memory, changes go through the store; what is evaluated for an
//! answer is not carried out.

use std::collections::HashMap;

use service_kit::auth::principal;
use service_kit::status::to_status;
use service_kit::trace;
use tonic::{Request, Response, Status};
use wire::InvalidField;
use wire::policy::v1 as proto;
use wire::policy::v1::policy_service_server::PolicyService;

use crate::counts::Counts;
use crate::metrics::Metrics;
use crate::policies::Policies;
use crate::policy_doc::{Labels, PolicyId, labels};
use crate::progress::Progress;
use crate::resource;
use crate::rollout::{Finding, Guarded};
use crate::schedule::Gate;
use crate::store::{self, Applied, By, StoredPolicy};
use crate::touch::Touch;
use crate::undecided::Undecided;

mod access;
mod actions;
mod configurations;
mod error;
mod explain;
mod freezes;
mod frozen;
mod operations;
mod reevaluations;
mod revisions;
mod rollouts;

pub(crate) use access::AccessApi;
pub(crate) use actions::ActionApi;
pub(crate) use configurations::ConfigurationApi;
use error::Error;
pub(crate) use explain::Explainer;
pub(crate) use freezes::FreezeApi;
pub(crate) use frozen::GuardApi;
pub(crate) use operations::OperationApi;
pub(crate) use reevaluations::ReevaluationApi;
pub(crate) use rollouts::RolloutApi;

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: i32 = 1000;
/// Before the id in a page token, so that another form can be told apart later.
const PAGE_TOKEN_PREFIX: &str = "after:";

/// The policy API over the policies in force.
#[derive(Debug, Clone)]
pub(crate) struct PolicyApi {
    policies: Policies,
    progress: Progress,
    counts: Counts,
    undecided: Undecided,
    incomplete: Undecided,
    explainer: Explainer,
    touch: Touch,
    metrics: Metrics,
}

impl PolicyApi {
    /// Serves these policies.
    pub(crate) fn new(
        policies: Policies,
        progress: Progress,
        counts: Counts,
        (undecided, incomplete): (Undecided, Undecided),
        (explainer, touch): (Explainer, Touch),
        metrics: Metrics,
    ) -> PolicyApi {
        PolicyApi {
            policies,
            progress,
            counts,
            undecided,
            incomplete,
            explainer,
            touch,
            metrics,
        }
    }

    async fn apply(
        &self,
        request: proto::ApplyPolicyRequest,
        by: By,
    ) -> Result<proto::ApplyPolicyResponse, Error> {
        let wire = request
            .policy
            .ok_or_else(|| InvalidField::new("policy", "is required"))?;
        let policy = resource::check(&wire).map_err(Error::Policy)?;
        let note = revisions::check_note(request.note)?;
        let etag = Some(request.etag).filter(|etag| !etag.is_empty());
        let rehearsed = self.policies.rehearse(policy.clone(), etag.clone()).await?;
        self.policies.check_end(&rehearsed).map_err(Error::Policy)?;
        let guarded = guard(&self.policies, &self.touch, &rehearsed).await;
        let guard = guarded.as_ref().map(|guarded| guarded.reason.clone());
        let applied = if request.validate_only {
            rehearsed
        } else {
            self.policies
                .apply(policy, by, (note, guarded), etag)
                .await?
        };
        let stored = &applied.stored;
        let shown = if request.validate_only {
            // Nothing was done, so there is neither progress nor standing to tell of.
            proto::Policy {
                evaluation: None,
                schedule_state: self.policies.schedule_state(stored),
                ..resource::to_wire_policy(stored, proto::Evaluation::default())
            }
        } else {
            tracing::info!(
                policy_id = %stored.policy.id(),
                revision = stored.revision,
                outcome = ?applied.outcome(),
                "policy applied"
            );
            self.count();
            self.shown(stored)
        };
        let before = applied.before.as_ref();
        let changes = before.map(|old| resource::to_wire_changes(old, stored.policy.spec()));
        Ok(proto::ApplyPolicyResponse {
            policy: Some(shown),
            outcome: resource::outcome(applied.outcome()).into(),
            changes: changes.unwrap_or_default(),
            guard: guard.unwrap_or_default(),
        })
    }

    fn get(&self, request: &proto::GetPolicyRequest) -> Result<proto::Policy, Error> {
        let id = parse_name(&request.name)?;
        let stored = self
            .policies
            .get(&id)
            .ok_or_else(|| match self.policies.unreadable(&id) {
                Some(why) => store::Error::Damaged {
                    what: format!("policy {id}: {why}; what it has set stays as it is"),
                },
                None => match self.policies.stray(&id) {
                    Some(told) => store::Error::Damaged {
                        what: format!("twins have {told}, of which it knows nothing; that stays"),
                    },
                    None => store::Error::NotFound { id },
                },
            })?;
        Ok(self.shown(&stored))
    }

    fn status(&self, stored: &StoredPolicy) -> proto::PolicyStatus {
        let told = self
            .undecided
            .of(stored.policy.id(), stored.effective_revision);
        let lacking = self
            .incomplete
            .of(stored.policy.id(), stored.effective_revision);
        proto::PolicyStatus {
            twins_incomplete: lacking.count,
            incomplete_twins: lacking.names,
            twins_undecided: told.count,
            undecided_twins: told.names,
            ..self.counts.of(stored)
        }
    }

    /// A policy with all that is known of it.
    fn shown(&self, stored: &StoredPolicy) -> proto::Policy {
        proto::Policy {
            status: Some(self.status(stored)),
            schedule_state: self.policies.schedule_state(stored),
            ..resource::to_wire_policy(stored, self.progress.of(stored))
        }
    }

    fn list(
        &self,
        request: &proto::ListPoliciesRequest,
    ) -> Result<proto::ListPoliciesResponse, Error> {
        let size = page_size(request.page_size)?;
        let after = page_start(&request.page_token)?;
        // One more than asked shows whether there is another page.
        let wanted = labels_wanted(&request.labels)?;
        let mut found = self.policies.list(after.as_ref(), &wanted, size + 1);
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some(last) if more => format!("{PAGE_TOKEN_PREFIX}{}", last.policy.id()),
            Some(_) | None => String::new(),
        };
        let policies = found.iter().map(|stored| self.shown(stored)).collect();
        Ok(proto::ListPoliciesResponse {
            policies,
            next_page_token,
        })
    }

    async fn delete(&self, request: proto::DeletePolicyRequest, by: By) -> Result<(), Error> {
        let id = parse_name(&request.name)?;
        let expected = Some(request.etag).filter(|etag| !etag.is_empty());
        let known = self.policies.get(&id).filter(|_| !request.force);
        let gate = known.as_ref().map(|stored| self.policies.gate(stored));
        if let Some(Gate::Closed(why)) = gate {
            return Err(Error::Closed { id, why });
        }
        // One that has ended is taken out by that already.
        let is_over = matches!(gate, Some(Gate::Expired(_)));
        if let Some(stored) = known.filter(|_| !is_over) {
            match self.touch.look(&stored.in_force()).await {
                Finding::Fine => {}
                Finding::TooMuch(why) | Finding::Uncounted(why) => {
                    return Err(Error::MassChange { id, why });
                }
            }
        }
        if let Some(why) = self.policies.unreadable(&id).filter(|_| !request.force) {
            let why = format!("it cannot be read, so nobody knows of how many: {why}");
            return Err(Error::MassChange { id, why });
        }
        if let Some(told) = self.policies.stray(&id).filter(|_| !request.force) {
            let why = format!("twins have settings of it that were never given here: {told}");
            return Err(Error::MassChange { id, why });
        }
        let named = id.clone();
        // Counting took a while, in which somebody may have ordered a freeze.
        let still = move |gate: Gate| match gate {
            Gate::Closed(why) if !request.force => Err(Error::Closed { id: named, why }),
            Gate::Closed(_) | Gate::Open | Gate::Expired(_) => Ok(()),
        };
        self.policies
            .delete(id.clone(), expected, by, still)
            .await?;
        tracing::info!(policy_id = %id, "policy deleted");
        self.count();
        Ok(())
    }

    fn count(&self) {
        let count = self.policies.set().len();
        self.metrics
            .policies
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

#[tonic::async_trait]
impl PolicyService for PolicyApi {
    type PreviewPolicyStream = explain::Preview;

    async fn apply_policy(
        &self,
        request: Request<proto::ApplyPolicyRequest>,
    ) -> Result<Response<proto::ApplyPolicyResponse>, Status> {
        let by = by(&request);
        answer(self.apply(request.into_inner(), by).await)
    }

    async fn get_policy(
        &self,
        request: Request<proto::GetPolicyRequest>,
    ) -> Result<Response<proto::Policy>, Status> {
        answer(self.get(request.get_ref()))
    }

    async fn list_policies(
        &self,
        request: Request<proto::ListPoliciesRequest>,
    ) -> Result<Response<proto::ListPoliciesResponse>, Status> {
        answer(self.list(request.get_ref()))
    }

    async fn delete_policy(
        &self,
        request: Request<proto::DeletePolicyRequest>,
    ) -> Result<Response<()>, Status> {
        let by = by(&request);
        answer(self.delete(request.into_inner(), by).await)
    }

    async fn list_policy_revisions(
        &self,
        request: Request<proto::ListPolicyRevisionsRequest>,
    ) -> Result<Response<proto::ListPolicyRevisionsResponse>, Status> {
        answer(revisions::list(&self.policies, request.get_ref()).await)
    }

    async fn get_policy_revision(
        &self,
        request: Request<proto::GetPolicyRevisionRequest>,
    ) -> Result<Response<proto::PolicyRevision>, Status> {
        answer(revisions::get(&self.policies, request.get_ref()).await)
    }

    async fn explain_twin(
        &self,
        request: Request<proto::ExplainTwinRequest>,
    ) -> Result<Response<proto::ExplainTwinResponse>, Status> {
        answer(self.explainer.explain(request.get_ref()).await)
    }

    async fn preview_policy(
        &self,
        request: Request<proto::PreviewPolicyRequest>,
    ) -> Result<Response<Self::PreviewPolicyStream>, Status> {
        answer(self.explainer.preview(request.into_inner()).await)
    }
}

/// What the mass-change guard has to say of a revision; none: nothing.
async fn guard(policies: &Policies, touch: &Touch, rehearsed: &Applied) -> Option<Guarded> {
    let stored = &rehearsed.stored;
    let is_news = rehearsed.outcome() != store::Outcome::Unchanged
        && stored.effective_revision == stored.revision;
    if !is_news || stored.policy.strategy().is_some() {
        return None;
    }
    let present = policies.get(stored.policy.id());
    let present = present.iter().flat_map(StoredPolicy::in_force);
    let both: Vec<_> = present.chain([stored.active()]).collect();
    match touch.look(&both).await {
        Finding::Fine => None,
        Finding::TooMuch(reason) => Some(Guarded {
            reason,
            // A search does not know which twins have what templates name; the plan does.
            counted: stored.policy.template_paths().next().is_none(),
        }),
        Finding::Uncounted(problem) => Some(Guarded {
            reason: format!("its twins could not be counted: {problem}"),
            counted: false,
        }),
    }
}

/// Who makes a call, for the audit log.
fn by<T>(request: &Request<T>) -> By {
    By {
        actor: format!("operator:{}", principal(request).name),
        request_id: uuid::Uuid::now_v7().to_string(),
        trace_parent: trace::current_traceparent().unwrap_or_default(),
    }
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

fn parse_name(name: &str) -> Result<PolicyId, InvalidField> {
    parse_policy("name", name)
}

fn parse_policy(field: &str, name: &str) -> Result<PolicyId, InvalidField> {
    let id = wire::names::parse_policy(field, name)?;
    PolicyId::parse(id).map_err(|problem| InvalidField::new(field, problem))
}

fn page_size(asked: i32) -> Result<usize, InvalidField> {
    if asked == 0 {
        return Ok(PAGE_SIZE_DEFAULT);
    }
    usize::try_from(asked)
        .ok()
        .filter(|_| asked <= PAGE_SIZE_MAX)
        .ok_or_else(|| {
            let problem =
                format!("is {asked}; allowed are 1 to {PAGE_SIZE_MAX}, and 0 for the default");
            InvalidField::new("page_size", problem)
        })
}

/// The labels that are asked for; one that no policy can have is refused, since it is a slip.
fn labels_wanted(asked: &HashMap<String, String>) -> Result<Labels, InvalidField> {
    for (key, value) in asked {
        let fits = labels::check_key(key).and_then(|()| labels::check_value(value));
        fits.map_err(|problem| InvalidField::new("labels", format!("{key:?}: {problem}")))?;
    }
    let labels = asked.iter();
    Ok(labels
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect())
}

fn page_start(token: &str) -> Result<Option<PolicyId>, InvalidField> {
    if token.is_empty() {
        return Ok(None);
    }
    token
        .strip_prefix(PAGE_TOKEN_PREFIX)
        .and_then(|id| PolicyId::parse(id).ok())
        .map(Some)
        .ok_or_else(|| InvalidField::new("page_token", "is not one that this service gave"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_and_tokens_are_checked() {
        assert_eq!(page_size(0).unwrap(), PAGE_SIZE_DEFAULT);
        assert_eq!(page_size(1000).unwrap(), 1000);
        for wrong in [-1, 1001] {
            assert_eq!(page_size(wrong).unwrap_err().field, "page_size");
        }
        assert_eq!(page_start("").unwrap(), None);
        assert_eq!(page_start("after:a").unwrap().unwrap().as_str(), "a");
        for wrong in ["a", "after:", "after:A B"] {
            assert_eq!(page_start(wrong).unwrap_err().field, "page_token");
        }
    }

    #[test]
    fn a_name_has_one_form() {
        assert_eq!(parse_name("policies/a.b").unwrap().as_str(), "a.b");
        for wrong in ["", "a", "policies/", "policies/a/b", "policies/A"] {
            assert_eq!(parse_name(wrong).unwrap_err().field, "name", "{wrong}");
        }
    }
}
