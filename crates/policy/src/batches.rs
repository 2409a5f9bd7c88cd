//! What is done with a batch of changes of one partition: the newest state of each twin is looked at
//! once, and the position moves when all of it has taken effect.
//!
//! The hop before is `consumer`, which reads the stream; here nobody knows NATS.

use std::collections::BTreeSet;

use bus::Sequence;
use bytes::Bytes;
use futures::StreamExt;
use service_kit::backoff::{Attempt, Policy, retry};
use service_kit::shutdown::ShutdownToken;
use tracing::info;
use twin::{IdentityKey, Partition};

use crate::actions::Actions;
use crate::busy::Busy;
use crate::gather::{Candidate, gather};
use crate::lean::Glance;
use crate::metrics::Metrics;
use crate::policies::Policies;
use crate::positions::Positions;
use crate::rejects::{Reason, Rejected, Rejects};
use crate::store;
use crate::twin_document::{TwinDocument, may_ask_for_push, scope_of};
use crate::writer::{Effect, Work, Writer};

/// What batches are worked off with.
#[derive(Debug, Clone)]
pub(crate) struct Batches {
    /// What is in force.
    pub policies: Policies,
    /// Who writes.
    pub writer: Writer,
    /// Who calls.
    pub actions: Actions,
    /// Where poison goes.
    pub rejects: Rejects,
    /// Where positions go.
    pub positions: Positions,
    /// What is counted.
    pub metrics: Metrics,
    /// Twins that are written at the same time.
    pub writes_in_flight: usize,
    /// Who waits for this to be done.
    pub busy: Busy,
    /// Ends the work.
    pub shutdown: ShutdownToken,
}

impl Batches {
    /// Evaluates a batch; false if the service stopped before all of it had taken effect.
    pub(crate) async fn take<'a>(
        &self,
        partition: Partition,
        stream: &str,
        messages: impl ExactSizeIterator<Item = (Sequence, &'a Bytes)> + Clone,
    ) -> bool {
        let Some((last, _)) = messages.clone().last() else {
            return true;
        };
        let _at_work = self.busy.begin();
        self.metrics
            .messages
            .inc_by(u64::try_from(messages.len()).unwrap_or(u64::MAX));
        let gathered = gather(stream, messages);
        for rejected in gathered.rejected {
            if !self.rejects.put(rejected).await {
                return false;
            }
        }
        for (twin, revision) in gathered.gone {
            if !self.forget(&twin).await || !self.actions.gone(&twin, revision).await {
                return false;
            }
        }
        if let Some(restored) = gathered.restored
            && !self.look_at_all(partition, restored).await
        {
            return false;
        }
        let effects: BTreeSet<bool> = futures::stream::iter(gathered.candidates)
            .map(|candidate| self.evaluate(candidate))
            .buffer_unordered(self.writes_in_flight)
            .collect()
            .await;
        if effects.contains(&false) {
            return false;
        }
        self.positions.advance(partition.get(), last);
        true
    }

    /// Looks at one changed twin; false if it must be looked at again after a stop.
    async fn evaluate(&self, candidate: Candidate) -> bool {
        let twin = &candidate.twin;
        if !self.actions.observe(twin, Some(candidate.changed)).await {
            return false;
        }
        let set = self.policies.set();
        let key = wire::names::identity_from_ids(&twin.device_id, &twin.module_id);
        let concerned = match &key {
            Ok(key) => {
                let scope = scope_of(key);
                set.is_concerned(scope, candidate.changed) || may_ask_for_push(twin)
            }
            // Parsing below says what is wrong with it.
            Err(_) => true,
        };
        if !concerned {
            self.metrics.count("skipped");
            return true;
        }
        // Of what nobody knew before, the whole decision says that it is known now.
        let is_sure = key.is_ok_and(|key| !self.writer.is_unsure_of(&key));
        if is_sure && self.is_settled(set.glance(twin, candidate.changed)) {
            return true;
        }
        let traceparent = Some(candidate.traceparent).filter(|text| !text.is_empty());
        let twin = match TwinDocument::from_wire(twin) {
            Ok(twin) => twin,
            Err(error) => {
                let rejected = Rejected {
                    id: candidate.source.clone(),
                    source: format!("{} in {}", candidate.twin.name, candidate.source),
                    reason: Reason::InvalidTwin,
                    message: error.to_string(),
                    traceparent,
                    original: prost::Message::encode_to_vec(&candidate.twin).into(),
                };
                return self.rejects.put(rejected).await;
            }
        };
        if is_sure && self.is_settled(set.look(&twin, candidate.changed)) {
            return true;
        }
        let work = Work {
            twin,
            timeline: candidate.timeline,
            traceparent,
        };
        match self.writer.carry_out(work).await {
            Effect::Held
            | Effect::Changed
            | Effect::Gone
            | Effect::Superseded
            | Effect::Rejected => true,
            Effect::Unfinished => {
                self.persist("want a sweep", || self.policies.twins_unfinished())
                    .await
            }
            Effect::Stopped => false,
        }
    }

    /// A twin is gone: what was frozen of it is not of the one that may be created again. False if the
    /// service stopped before that was noted.
    async fn forget(&self, twin: &IdentityKey) -> bool {
        if self.policies.set().frozen().of(twin).is_empty() {
            return true;
        }
        self.persist("forget frozen paths", || async {
            self.policies
                .thaw(twin.clone(), None, None)
                .await
                .map(|_| ())
        })
        .await
    }

    /// Counts a short look; true if there is nothing to do.
    fn is_settled(&self, glance: Glance) -> bool {
        let judged = u64::try_from(glance.judged).unwrap_or(u64::MAX);
        self.metrics.judged.inc_by(judged);
        if glance.settled {
            self.metrics.count(Effect::Held.as_str());
        }
        glance.settled
    }

    /// Notes that changes were missed, durably, before anything behind them is read.
    pub(crate) async fn skip_to(&self, partition: Partition, after: Sequence) -> bool {
        let partition = partition.get();
        self.positions.advance(partition, after);
        self.persist("note missed changes", || {
            self.policies.changes_missed(partition, after)
        })
        .await
    }

    /// The store was restored: what was told of twins may not be so any more. False if the service
    /// stopped before that was noted.
    async fn look_at_all(&self, partition: Partition, restored: Sequence) -> bool {
        info!(%partition, %restored, "twin-store was restored; every twin is looked at");
        let partition = partition.get();
        // What stands before it in the batch needs no reading after a stop: the sweep covers it.
        let before = Sequence::new(restored.get().saturating_sub(1));
        self.persist("note a restore", || {
            self.policies.changes_missed(partition, before)
        })
        .await
    }

    /// Writes to our own store until it works; false if the service stopped before.
    async fn persist<F>(&self, operation: &'static str, write: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<(), store::Error>>,
    {
        retry(operation, Policy::FOREVER, &self.shutdown, || async {
            write().await.map_err(Attempt::Again)
        })
        .await
        .is_ok()
    }
}
