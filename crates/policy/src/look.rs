//! Looks at one twin as a whole, for whoever goes over many of them: sweeps and re-evaluations. What
//! changed is not known, so all policies are judged; but what nobody sets anything in is not parsed.

use wire::twin::v1::{Timeline, Twin};

use crate::actions::Actions;
use crate::metrics::Metrics;
use crate::policies::Policies;
use crate::rejects::{Reason, Rejected, Rejects};
use crate::twin_document::TwinDocument;
use crate::writer::{Effect, Work, Writer};

/// What a twin is looked at with.
#[derive(Debug, Clone)]
pub(crate) struct Looker {
    /// What is in force.
    pub policies: Policies,
    /// Who writes.
    pub writer: Writer,
    /// Who calls.
    pub actions: Actions,
    /// Where twins go that cannot be parsed.
    pub rejects: Rejects,
    /// What is counted.
    pub metrics: Metrics,
}

impl Looker {
    /// Looks at a twin and has it written if it must be.
    pub(crate) async fn look(&self, twin: Twin) -> Effect {
        if !self.actions.observe(&twin, None).await {
            return Effect::Stopped;
        }
        let key = wire::names::identity_from_ids(&twin.device_id, &twin.module_id);
        // Of what nobody knew before, the whole decision says that it is known now.
        if key.is_ok_and(|key| !self.writer.is_unsure_of(&key)) {
            let glance = self.policies.set().glance_whole(&twin);
            let judged = u64::try_from(glance.judged).unwrap_or(u64::MAX);
            self.metrics.judged.inc_by(judged);
            if glance.settled {
                self.metrics.count(Effect::Held.as_str());
                return Effect::Held;
            }
        }
        let document = match TwinDocument::from_wire(&twin) {
            Ok(document) => document,
            Err(error) => {
                let rejected = Rejected {
                    id: format!("{}/{}", twin.name, twin.version),
                    source: twin.name.clone(),
                    reason: Reason::InvalidTwin,
                    message: error.to_string(),
                    traceparent: None,
                    original: prost::Message::encode_to_vec(&twin).into(),
                };
                return if self.rejects.put(rejected).await {
                    Effect::Rejected
                } else {
                    Effect::Stopped
                };
            }
        };
        // No event started it, so there is neither a timeline nor a trace to continue.
        let work = Work {
            twin: document,
            timeline: Timeline::default(),
            traceparent: None,
        };
        self.writer.carry_out(work).await
    }
}
