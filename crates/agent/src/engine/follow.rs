//! The engine's half of a configuration: follows the desired section, and answers for it until the
//! service has the answer. Whether one stays is `trial`'s.
//!
//! Before it: `exchange` (messages) and `configuration` (what a section means). An answer that the
//! service could not pass on is given again, because a twin that waits for it would show a pending
//! configuration for ever.

use std::time::Duration;

use serde_json::{Map, Value};
use service_kit::backoff::{Backoff, Policy};
use service_kit::error::chain;
use tokio::task::block_in_place;
use tokio::time::Instant;
use uuid::Uuid;
use wire::agent::v1::acknowledge_desired::Outcome as WireOutcome;
use wire::agent::v1::open_session_request::Message as Outgoing;
use wire::agent::v1::{
    AcknowledgeDesired, DesiredConfiguration, MessageError, PatchReported, ReportedPatched,
};

use super::{AGENT_VERSION, Engine};
use crate::collectors::driver::Request;
use crate::collectors::set::Audience;
use crate::configuration::{self, Decision, Outcome, Verdict};

/// How soon an answer is given again that the service could not pass on.
const ANSWER_AGAIN: Policy = Policy {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(30),
    budget: None,
};

/// The answer to the last decision, on its way within one session.
#[derive(Debug)]
pub(super) struct Answer {
    /// The reported patch that proves, when answered, that the acknowledgement before it arrived;
    /// none when the service said that one of the two did not.
    report_request: Option<String>,
    trace_parent: String,
    again_at: Option<Instant>,
    backoff: Backoff,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            report_request: None,
            trace_parent: String::new(),
            again_at: None,
            backoff: Backoff::new(ANSWER_AGAIN),
        }
    }
}

impl Engine {
    /// The service says which generation of the identity this is.
    pub(super) fn enter_generation(&mut self, generation_id: &str) {
        match block_in_place(|| self.store.enter_generation(generation_id)) {
            Ok(false) => {}
            Ok(true) => tracing::info!(
                generation_id,
                "the identity was deleted and created again; its configuration starts anew"
            ),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "cannot note which generation of the identity this is"
            ),
        }
    }

    /// First flushes, then applies, then reports: what was seen under the old configuration is sent
    /// before anything of the new one.
    pub(super) async fn on_desired(&mut self, desired: DesiredConfiguration) {
        let version = desired.version;
        let verdict = configuration::decide(self.store.decision(), version, &desired.document_json);
        match verdict {
            Verdict::Repeat => {
                self.answer_last_decision(&desired.trace_parent);
            }
            Verdict::Stale(outcome) => {
                tracing::warn!(?outcome, "an older configuration is refused");
                let decision = Decision {
                    version,
                    outcome,
                    decided_at: self.clock.now(),
                };
                self.acknowledge(&decision, &desired.trace_parent);
            }
            Verdict::Reject(outcome) => {
                tracing::warn!(
                    ?outcome,
                    "the configuration is not valid; the last good one stays"
                );
                if self.keep(version, outcome, None, &desired.trace_parent) {
                    self.answer_last_decision(&desired.trace_parent);
                }
            }
            Verdict::Apply {
                configuration,
                document,
            } => {
                self.gather(Audience::All, Request::Flush).await;
                self.commit();
                self.all_due();
                self.pump();
                if !self.keep(
                    version,
                    Outcome::Applied,
                    Some(document),
                    &desired.trace_parent,
                ) {
                    return;
                }
                let started = self.switch_to(*configuration);
                tracing::info!(?started, "configuration applied");
                self.watch_trial();
                self.answer_last_decision(&desired.trace_parent);
                self.gather(Audience::Named(&started), Request::Snapshot)
                    .await;
                // What the new configuration saw first is sent at once, so that its effect shows.
                self.commit();
                self.all_due();
            }
        }
    }

    /// Keeps a decision on disk. One that cannot be kept is refused: it would be forgotten with the
    /// next start, and an acknowledgement would have been a lie.
    fn keep(
        &mut self,
        version: u64,
        outcome: Outcome,
        applied: Option<Map<String, Value>>,
        trace_parent: &str,
    ) -> bool {
        let decided_at = self.clock.now();
        let decision = Decision {
            version,
            outcome,
            decided_at,
        };
        let Err(error) = block_in_place(|| self.store.record(decision, applied)) else {
            return true;
        };
        tracing::error!(
            error = chain(&error),
            version,
            "the configuration cannot be kept"
        );
        let reason = format!(
            "the configuration cannot be kept on disk: {}",
            chain(&error)
        );
        let outcome = Outcome::Rejected {
            reason,
            invalid_fields: Vec::new(),
        };
        self.acknowledge(
            &Decision {
                version,
                outcome,
                decided_at,
            },
            trace_parent,
        );
        false
    }

    fn confirm(&mut self) {
        if let Err(error) = block_in_place(|| self.store.confirm()) {
            // The answer is then given once more.
            tracing::warn!(
                error = chain(&error),
                "cannot note that a configuration is confirmed"
            );
        }
    }

    /// Acknowledges the last decision and reports it. The acknowledgement goes first and the service
    /// takes one after the other, so that the answer to the report proves that both arrived, unless
    /// the service said that one of them did not.
    pub(super) fn answer_last_decision(&mut self, trace_parent: &str) {
        let Some(decision) = self.store.decision().cloned() else {
            return;
        };
        self.acknowledge(&decision, trace_parent);
        let request_id = Uuid::new_v4().to_string();
        let patch = configuration::reported(&decision, AGENT_VERSION);
        self.send(Outgoing::PatchReported(PatchReported {
            request_id: request_id.clone(),
            patch_json: patch.to_string(),
        }));
        if let Some(outbound) = &mut self.state.outbound {
            let answer = &mut outbound.answer;
            answer.report_request = Some(request_id);
            answer.again_at = None;
            trace_parent.clone_into(&mut answer.trace_parent);
        }
    }

    pub(super) fn on_reported(&mut self, patched: &ReportedPatched) {
        if self.is_report(&patched.request_id) {
            self.confirm();
        }
    }

    /// A message was refused that may have been the acknowledgement, which has no id, or the report.
    pub(super) fn on_refused_answer(&mut self, error: &MessageError) {
        let report = self.is_report(&error.request_id);
        if !report && !error.request_id.is_empty() {
            return;
        }
        if !error.retryable {
            // A report that can never be accepted must not be repeated with every session.
            if report {
                self.confirm();
            }
            return;
        }
        if self.store.is_confirmed() {
            return;
        }
        if let Some(outbound) = &mut self.state.outbound {
            let answer = &mut outbound.answer;
            answer.report_request = None;
            if answer.again_at.is_none() {
                let delay = answer.backoff.next_delay().unwrap_or(ANSWER_AGAIN.cap);
                answer.again_at = Some(Instant::now() + delay);
            }
        }
    }

    /// Gives the answer again when its time has come.
    pub(super) fn answer_again(&mut self) {
        let Some(outbound) = &mut self.state.outbound else {
            return;
        };
        if outbound
            .answer
            .again_at
            .is_none_or(|at| Instant::now() < at)
        {
            return;
        }
        outbound.answer.again_at = None;
        let trace_parent = outbound.answer.trace_parent.clone();
        self.answer_last_decision(&trace_parent);
    }

    fn acknowledge(&mut self, decision: &Decision, trace_parent: &str) {
        let (outcome, reason, invalid_fields) = match &decision.outcome {
            Outcome::Applied => (WireOutcome::Applied, String::new(), Vec::new()),
            Outcome::Rejected {
                reason,
                invalid_fields,
            } => (
                WireOutcome::Rejected,
                reason.clone(),
                invalid_fields.clone(),
            ),
            Outcome::Reverted { reason, .. } => (WireOutcome::Reverted, reason.clone(), Vec::new()),
        };
        let running_version = match &decision.outcome {
            Outcome::Reverted { running, .. } => *running,
            Outcome::Applied | Outcome::Rejected { .. } => 0,
        };
        self.send(Outgoing::AcknowledgeDesired(AcknowledgeDesired {
            version: decision.version,
            outcome: outcome.into(),
            reason,
            invalid_fields,
            apply_time: Some(wire::time::to_wire(decision.decided_at)),
            trace_parent: trace_parent.to_owned(),
            running_version,
        }));
    }

    fn is_report(&self, request_id: &str) -> bool {
        let outbound = self.state.outbound.as_ref();
        outbound.and_then(|outbound| outbound.answer.report_request.as_deref()) == Some(request_id)
    }
}
