//! Explanations and previews on the wire: twins are read from twin-store for each question, and
//! nothing is written.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use jiff::Timestamp;
use prost_types::FieldMask;
use service_kit::clock::SharedClock;
use service_kit::status::{RemoteError, to_status};
use tonic::{Code, Status};
use twin::Violations;
use wire::InvalidField;
use wire::names::{identity_name, parse_identity};
use wire::policy::v1 as proto;
use wire::twin::v1::{ListTwinsRequest, Twin};

use super::Error;
use crate::actions::Actions;
use crate::evaluate::PolicySet;
use crate::explain::{self, Explanation, Leaf, Overruled, Reason, State};
use crate::policies::Policies;
use crate::policy_doc::{Policy, PolicyId};
use crate::preview::{self, End, LeafChange};
use crate::resource;
use crate::store::Applied;
use crate::sweep::TWIN_FIELDS;
use crate::touch::Touch;
use crate::twin_document::TwinDocument;
use crate::twin_store::TwinStore;

mod forecast;
mod judged;
mod waves;

use forecast::print_forecast;
use judged::print_judged;
use waves::Waves;

/// Twins of a page of a preview: what it holds at a time. Halved when a page of the largest twins
/// does not fit a message.
const PAGE_TWINS: i32 = 100;

/// The stream of a preview.
pub(crate) type Preview =
    Pin<Box<dyn Stream<Item = Result<proto::PreviewPolicyResponse, Status>> + Send>>;

/// Answers questions about single twins and about drafts.
#[derive(Debug, Clone)]
pub(crate) struct Explainer {
    policies: Policies,
    twins: TwinStore,
    actions: Actions,
    touch: Touch,
    clock: SharedClock,
}

impl Explainer {
    /// Explains by these policies and the twins of twin-store.
    pub(crate) fn new(
        policies: Policies,
        twins: TwinStore,
        actions: Actions,
        touch: Touch,
        clock: SharedClock,
    ) -> Explainer {
        Explainer {
            policies,
            twins,
            actions,
            touch,
            clock,
        }
    }

    /// Why a twin holds what it holds.
    pub(super) async fn explain(
        &self,
        request: &proto::ExplainTwinRequest,
    ) -> Result<proto::ExplainTwinResponse, Error> {
        let key = parse_identity("name", &request.name)?;
        let twin = self.twins.get_now(&identity_name(&key)).await;
        let document = read(&twin.map_err(away)?)?;
        let explanation = explain::explain(&self.policies.set(), &document, self.clock.now());
        let mut answer = print(identity_name(&key), &document, &explanation);
        answer.frozen = super::frozen::of(&self.policies.set(), &key);
        Ok(answer)
    }

    /// What a draft would do, twin by twin, and the sum of it last.
    pub(super) async fn preview(
        &self,
        request: proto::PreviewPolicyRequest,
    ) -> Result<Preview, Error> {
        let wire = request
            .policy
            .ok_or_else(|| InvalidField::new("policy", "is required"))?;
        let policy = resource::check(&wire).map_err(Error::Policy)?;
        let present = self.policies.set();
        let applied = self.policies.rehearse(policy, None).await?;
        // What applying it would refuse is not foreseen.
        self.policies.check_end(&applied).map_err(Error::Policy)?;
        let guarded = super::guard(&self.policies, &self.touch, &applied).await;
        let waves = Waves::of(&self.policies, &applied, guarded);
        let scan = Scan::new(self.clone(), present, &applied, waves);
        let events = futures::stream::try_unfold(scan, |scan| async {
            let next = Box::pin(scan.next());
            next.await.map_err(|error| to_status(&error))
        });
        Ok(Box::pin(events))
    }
}

/// A preview on its way through the twins.
struct Scan {
    explainer: Explainer,
    /// What was in force at the beginning.
    present: Arc<PolicySet>,
    after: PolicySet,
    id: PolicyId,
    revision: u64,
    draft: Policy,
    at: Timestamp,
    request: ListTwinsRequest,
    /// What is known and not sent: of one page at most.
    ready: VecDeque<proto::TwinPreview>,
    sum: proto::PreviewSummary,
    /// In which the draft would spread; none: it would not, or everywhere at once.
    waves: Option<Waves>,
    stage: Stage,
}

enum Stage {
    MoreTwins,
    NoMoreTwins,
    Ended,
}

impl Scan {
    fn new(
        explainer: Explainer,
        present: Arc<PolicySet>,
        applied: &Applied,
        waves: Option<Waves>,
    ) -> Scan {
        let draft = applied.stored.active();
        let id = draft.policy.id().clone();
        let after = present.with(draft.clone());
        // Of other twins the draft changes nothing: it neither applies to them nor did before.
        let before = present
            .policies()
            .filter(|active| *active.policy.id() == id);
        let before = before.map(|active| (**active).clone());
        let concerned = PolicySet::new(before.chain([draft])).targets();
        let request = ListTwinsRequest {
            page_size: PAGE_TWINS,
            filter: concerned,
            read_mask: Some(FieldMask {
                paths: TWIN_FIELDS.map(str::to_owned).to_vec(),
            }),
            ..ListTwinsRequest::default()
        };
        let draft = applied.stored.policy.clone();
        let actions = draft.actions().iter().map(|action| proto::ActionPreview {
            action: action.spec().name.clone(),
            method: action.spec().method.clone(),
            twins: 0,
        });
        let sum = proto::PreviewSummary {
            revision: applied.stored.revision,
            outcome: resource::outcome(applied.outcome()).into(),
            actions: actions.collect(),
            schedule_state: explainer.policies.schedule_state(&applied.stored),
            ..proto::PreviewSummary::default()
        };
        let at = explainer.clock.now();
        Scan {
            explainer,
            present,
            after,
            id,
            revision: applied.stored.effective_revision,
            draft,
            at,
            request,
            ready: VecDeque::new(),
            sum,
            waves,
            stage: Stage::MoreTwins,
        }
    }

    /// The next event and the rest; none behind the last.
    async fn next(mut self) -> Result<Option<(proto::PreviewPolicyResponse, Scan)>, Error> {
        use proto::preview_policy_response::Event;
        loop {
            if let Some(twin) = self.ready.pop_front() {
                return Ok(Some((event(Event::Twin(twin)), self)));
            }
            match self.stage {
                Stage::MoreTwins => self.page().await?,
                Stage::NoMoreTwins => {
                    self.stage = Stage::Ended;
                    if let Some(waves) = self.waves.take() {
                        let planned = waves.plan(&self.explainer.touch).await;
                        (self.sum.waves, self.sum.guard) = planned;
                    }
                    let now = self.explainer.policies.set();
                    self.sum.policies_changed = !Arc::ptr_eq(&now, &self.present);
                    return Ok(Some((event(Event::Summary(self.sum.clone())), self)));
                }
                Stage::Ended => return Ok(None),
            }
        }
    }

    async fn page(&mut self) -> Result<(), Error> {
        let page = loop {
            match self.explainer.twins.list_now(&self.request).await {
                Err(status) if is_too_large(&status) && self.request.page_size > 1 => {
                    self.request.page_size /= 2;
                }
                Err(status) => return Err(away(status)),
                Ok(page) => break page,
            }
        };
        for twin in &page.twins {
            self.look_at(twin).await;
        }
        if page.next_page_token.is_empty() {
            self.stage = Stage::NoMoreTwins;
        }
        self.request.page_token = page.next_page_token;
        Ok(())
    }

    async fn look_at(&mut self, twin: &Twin) {
        let document = match TwinDocument::from_wire(twin) {
            Ok(document) => document,
            Err(problem) => {
                self.sum.twins_failed += 1;
                self.ready.push_back(proto::TwinPreview {
                    name: twin.name.clone(),
                    violations: vec![format!("the twin cannot be read: {problem}")],
                    ..proto::TwinPreview::default()
                });
                return;
            }
        };
        if let Some(waves) = &mut self.waves {
            waves.count(&document);
        }
        let forecast = preview::forecast(&self.after, &self.id, &document, self.at);
        let count = |is: bool| u64::from(is);
        let sum = &mut self.sum;
        sum.twins_matched += count(forecast.applies);
        sum.twins_written += count(!forecast.changes.is_empty());
        sum.twins_changed += count(forecast.changes.iter().any(LeafChange::is_of_value));
        sum.twins_incomplete += count(forecast.incomplete.is_some());
        sum.twins_overruled += count(!forecast.overruled.is_empty());
        match forecast.end {
            End::Settled => {}
            End::Breaks(_) => sum.twins_failed += 1,
            End::Unsettled => sum.twins_unsettled += 1,
        }
        let calls = if forecast.applies {
            self.calls(&document).await
        } else {
            Vec::new()
        };
        let told = print_forecast(identity_name(document.key()), forecast, calls);
        if let Some(told) = told {
            self.ready.push_back(told);
        }
    }
}

impl Scan {
    /// The actions of the draft that would be called of a twin to which it applies.
    async fn calls(&mut self, twin: &TwinDocument) -> Vec<String> {
        let mut calls = Vec::new();
        for (action, sum) in self.draft.actions().iter().zip(&mut self.sum.actions) {
            let policy = (&self.id, self.revision);
            let actions = &self.explainer.actions;
            if actions.would_call(twin.key(), policy, action).await {
                sum.twins += 1;
                calls.push(action.spec().name.clone());
            }
        }
        calls
    }
}

fn event(event: proto::preview_policy_response::Event) -> proto::PreviewPolicyResponse {
    proto::PreviewPolicyResponse { event: Some(event) }
}

fn print(
    name: String,
    twin: &TwinDocument,
    explanation: &Explanation,
) -> proto::ExplainTwinResponse {
    use proto::explain_twin_response::State as Wire;
    let (state, violations) = match &explanation.state {
        State::Settled => (Wire::Settled, Vec::new()),
        State::Pending => (Wire::Pending, Vec::new()),
        State::Rejected(violations) => (Wire::Rejected, print_violations(violations)),
    };
    proto::ExplainTwinResponse {
        name,
        desired_version: twin.desired().version().get(),
        state: state.into(),
        violations,
        leaves: explanation.leaves.iter().map(print_leaf).collect(),
        policies: explanation.policies.iter().map(print_judged).collect(),
        frozen: Vec::new(),
    }
}

fn print_leaf(leaf: &Leaf) -> proto::ExplainedLeaf {
    proto::ExplainedLeaf {
        path: leaf.path.join("."),
        value_json: leaf.value.to_string(),
        writer: leaf.writer.to_string(),
        version: leaf.version,
        pending: leaf.pending,
        overruled: leaf.overruled.iter().map(print_overruled).collect(),
    }
}

fn print_overruled(lost: &Overruled) -> proto::OverruledSetting {
    use proto::overruled_setting::Reason as Wire;
    let reason = match lost.reason {
        Reason::Operator => Wire::Operator,
        Reason::Priority => Wire::Priority,
        Reason::CreatedLater => Wire::CreatedLater,
    };
    proto::OverruledSetting {
        policy_id: lost.policy_id.clone(),
        policy_revision: lost.revision,
        path: lost.path.join("."),
        value_json: lost.value.to_string(),
        reason: reason.into(),
        same_value: lost.same_value,
    }
}

fn print_violations(violations: &Violations) -> Vec<String> {
    let mut texts: Vec<String> = violations.list().iter().map(ToString::to_string).collect();
    let more = violations.count() - texts.len();
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts
}

fn read(twin: &Twin) -> Result<TwinDocument, Error> {
    TwinDocument::from_wire(twin).map_err(|problem| Error::DamagedTwin {
        name: twin.name.clone(),
        problem,
    })
}

/// A page that does not fit a message.
fn is_too_large(status: &Status) -> bool {
    matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted)
}

fn away(status: Status) -> Error {
    Error::TwinStore(Box::new(RemoteError::from(status)))
}
