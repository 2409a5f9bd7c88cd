//! Carries one decision out: asks twin-store to make a twin hold the settings of policies.
//!
//! The loop makes no decision beyond trying again: when the twin changed in between it is read and
//! decided on afresh, with the policies that are in force then.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use service_kit::backoff::{Backoff, Policy};
use service_kit::clock::SharedClock;
use service_kit::shutdown::ShutdownToken;
use service_kit::trace;
use tracing::{Instrument, debug, field};
use twin::{IdentityKey, PolicyWrite};
use wire::names::identity_name;
use wire::time::to_wire;
use wire::twin::v1::{ApplyPolicySettingsRequest, PolicySettings, Timeline};

use crate::evaluate::{Decided, Decision, Part, PolicySet, decide};
use crate::guard::Guard;
use crate::metrics::Metrics;
use crate::policies::Policies;
use crate::rejects::{Reason, Rejected, Rejects};
use crate::twin_document::TwinDocument;
use crate::twin_store::{Failure, TwinStore};
use crate::undecided::Undecided;

mod fights;
mod wanted;

pub(crate) use fights::touches;
use wanted::{Made, frozen};

/// Between decisions on a twin that others write to as well.
const CONFLICTS: Policy = Policy {
    first: Duration::from_millis(5),
    cap: Duration::from_millis(200),
    budget: Some(8),
};

/// A twin to look at.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    /// The twin.
    pub twin: TwinDocument,
    /// What started the loop, as far as known.
    pub timeline: Timeline,
    /// Trace context of what started it.
    pub traceparent: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Everything held; at most a call that found so was made.
    Held,
    /// The twin was written.
    Changed,
    /// The twin is gone.
    Gone,
    /// Others keep writing to the twin. Their writes come as changes, and are looked at then.
    Superseded,
    /// The settings cannot be on this twin; it was rejected.
    Rejected,
    /// twin-store failed on this twin; it must be looked at again later.
    Unfinished,
    /// The service stops; it must be looked at again after the start.
    Stopped,
}

impl Effect {
    /// The label of the metric.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Effect::Held => "held",
            Effect::Changed => "changed",
            Effect::Gone => "gone",
            Effect::Superseded => "superseded",
            Effect::Rejected => "rejected",
            Effect::Unfinished => "unfinished",
            Effect::Stopped => "stopped",
        }
    }
}

/// The handle. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    policies: Policies,
    twins: TwinStore,
    rejects: Rejects,
    undecided: Undecided,
    incomplete: Undecided,
    guard: Guard,
    clock: SharedClock,
    metrics: Metrics,
    shutdown: ShutdownToken,
}

impl Writer {
    /// Writes what these policies want.
    pub(crate) fn new(
        policies: Policies,
        twins: TwinStore,
        rejects: Rejects,
        (undecided, incomplete, guard): (Undecided, Undecided, Guard),
        clock: SharedClock,
        metrics: Metrics,
        shutdown: ShutdownToken,
    ) -> Writer {
        Writer {
            policies,
            twins,
            rejects,
            undecided,
            incomplete,
            guard,
            clock,
            metrics,
            shutdown,
        }
    }

    /// Looks at a twin and writes to it if it must be.
    pub(crate) async fn carry_out(&self, work: Work) -> Effect {
        let (decided, set) = self.decide(&work.twin);
        let unknown = &decided.unknown;
        self.policies.note_strays(work.twin.key(), unknown).await;
        // Most twins hold; they cost neither a call nor a span.
        let effect = if holds(&decided, &work.twin) {
            Effect::Held
        } else {
            let span = tracing::info_span!(
                "policy decide",
                twin = %work.twin.key(),
                trace_id = field::Empty,
            );
            if let Some(traceparent) = &work.traceparent {
                trace::set_parent(&span, traceparent);
            }
            if let Some(id) = trace::trace_id(&span) {
                span.record("trace_id", id);
            }
            self.perform(work, (decided, set)).instrument(span).await
        };
        self.metrics.count(effect.as_str());
        effect
    }

    async fn perform(&self, work: Work, made: Made) -> Effect {
        let (mut decided, mut set) = made;
        let name = identity_name(work.twin.key());
        let mut twin = work.twin;
        let mut conflicts = Backoff::new(CONFLICTS);
        loop {
            let decided_at = self.clock.now();
            let written = if is_noted(&decided, &twin) {
                Ok(Effect::Held)
            } else {
                let times = (&work.timeline, decided_at);
                self.write(&twin, (&decided, &set), times).await
            };
            match (written, decided.decision) {
                (Ok(_), Decision::Breaks(violations)) => {
                    let message = violations.to_string();
                    let reason = Reason::SettingsBreakLimit;
                    return self.reject(&twin, reason, message).await;
                }
                (Ok(Effect::Changed), Decision::Write(writes)) => {
                    self.watch(&twin, &writes, decided_at).await;
                    return Effect::Changed;
                }
                (Ok(effect), Decision::Holds | Decision::Write(_)) => return effect,
                (Err(Failure::Conflict), _) => {}
                (Err(failure), _) => return self.give_up(&twin, failure).await,
            }
            self.metrics.conflicts.inc();
            let Some(delay) = conflicts.next_delay() else {
                return Effect::Superseded;
            };
            if self
                .shutdown
                .run_until(tokio::time::sleep(delay))
                .await
                .is_none()
            {
                return Effect::Stopped;
            }
            let fresh = match self.twins.get(&name).await {
                Ok(fresh) => fresh,
                Err(failure) => return self.give_up(&twin, failure).await,
            };
            twin = match TwinDocument::from_wire(&fresh) {
                Ok(fresh) => fresh,
                Err(error) => {
                    return self
                        .reject(&twin, Reason::InvalidTwin, error.to_string())
                        .await;
                }
            };
            (decided, set) = self.decide(&twin);
        }
    }

    /// Whether a policy was undecided on a twin, or could not be filled in for it, when that was last
    /// decided on.
    pub(crate) fn is_unsure_of(&self, twin: &IdentityKey) -> bool {
        self.undecided.knows(twin) || self.incomplete.knows(twin)
    }

    fn decide(&self, twin: &TwinDocument) -> Made {
        let set = self.policies.set();
        let judged = u64::try_from(set.count(twin.scope())).unwrap_or(u64::MAX);
        self.metrics.judged.inc_by(judged);
        let decided = decide(&set, twin, self.clock.now());
        let found = u64::try_from(decided.undecided.len()).unwrap_or(u64::MAX);
        self.metrics.undecided.inc_by(found);
        self.undecided.note(twin.key(), &decided.undecided);
        let incomplete = decided.incomplete.iter();
        let incomplete: Vec<_> = incomplete
            .filter_map(|active| {
                let why = active.incomplete(twin)?;
                Some((Arc::clone(active), why))
            })
            .collect();
        self.incomplete.note(twin.key(), &incomplete);
        (decided, set)
    }

    async fn write(
        &self,
        twin: &TwinDocument,
        (decided, set): (&Decided, &Arc<PolicySet>),
        (timeline, decided_at): (&Timeline, Timestamp),
    ) -> Result<Effect, Failure> {
        let writes = match &decided.decision {
            Decision::Write(writes) => Some(writes),
            Decision::Holds | Decision::Breaks(_) => None,
        };
        let request = ApplyPolicySettingsRequest {
            name: identity_name(twin.key()),
            expected_desired_version: twin.desired().version().get(),
            policies: writes.into_iter().flatten().map(settings).collect(),
            configurations: wire::configurations::to_wire(&decided.configurations),
            keep_settings: writes.is_none(),
            frozen: frozen(set, twin),
            push_again: decided.push_again,
            timeline: Some(Timeline {
                decide_time: Some(to_wire(decided_at)),
                ..*timeline
            }),
        };
        self.measure_decision(timeline, decided_at);
        let started = self.clock.monotonic();
        let is_wanted = || self.is_still_wanted(twin, (decided, set));
        let response = self.twins.apply(&request, is_wanted).await?;
        let took = self.clock.monotonic().saturating_duration_since(started);
        self.metrics.write_seconds.observe(took.as_secs_f64());
        for lost in &response.lost {
            debug!(
                twin = request.name,
                path = lost.path,
                policy_id = lost.policy_id,
                owner = lost.owner,
                "a setting is kept by somebody else"
            );
        }
        if !response.changed {
            return Ok(Effect::Held);
        }
        debug!(
            twin = request.name,
            desired_version = response.desired_version,
            policies = request.policies.len(),
            "settings of policies written"
        );
        Ok(Effect::Changed)
    }

    /// From the fold of what started the loop to the decision, if it was an event.
    fn measure_decision(&self, timeline: &Timeline, decided_at: Timestamp) {
        if let Ok(Some(folded_at)) = wire::time::optional("fold_time", timeline.fold_time) {
            let took = decided_at.duration_since(folded_at).as_secs_f64();
            self.metrics.decide_seconds.observe(took.max(0.0));
        }
    }

    async fn give_up(&self, twin: &TwinDocument, failure: Failure) -> Effect {
        match failure {
            // A conflict outside of a write cannot be; what changed comes as a change.
            Failure::Conflict => Effect::Superseded,
            Failure::Gone => {
                self.undecided.note(twin.key(), &[] as &[(_, Part)]);
                self.incomplete.note(twin.key(), &[] as &[(_, Part)]);
                Effect::Gone
            }
            Failure::Refused(message) => self.reject(twin, Reason::SettingsRefused, message).await,
            Failure::Unfinished(_) => Effect::Unfinished,
            Failure::Stopped => Effect::Stopped,
        }
    }

    async fn reject(&self, twin: &TwinDocument, reason: Reason, message: String) -> Effect {
        let name = identity_name(twin.key());
        let rejected = Rejected {
            id: format!("{name}/{}/{}", twin.desired().version(), reason.as_str()),
            source: name,
            reason,
            message,
            traceparent: trace::current_traceparent(),
            original: Bytes::new(),
        };
        if self.rejects.put(rejected).await {
            Effect::Rejected
        } else {
            Effect::Stopped
        }
    }
}

/// Whether there is nothing to do.
fn holds(decided: &Decided, twin: &TwinDocument) -> bool {
    matches!(decided.decision, Decision::Holds) && is_noted(decided, twin)
}

/// Whether there is nothing to write: neither settings, nor where configurations stand, nor once more what is there.
fn is_noted(decided: &Decided, twin: &TwinDocument) -> bool {
    let settings = matches!(decided.decision, Decision::Write(_));
    !settings && !decided.push_again && decided.configurations == *twin.configurations()
}

fn settings(write: &PolicyWrite) -> PolicySettings {
    PolicySettings {
        policy_id: write.policy.clone(),
        policy_revision: write.revision,
        settings_json: Value::Object(write.settings.clone()).to_string(),
    }
}
