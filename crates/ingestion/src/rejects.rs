//! Keeps a sample of rejected events in `REJECTS`, for a person to see what an agent does wrong.
//!
//! A sample, because a broken agent rejects as fast as it sends: each session has a budget, and
//! what does not fit into the queue is counted only. The agent's acknowledgement does not wait for
//! it; it names every rejected event anyway.

use std::time::{Duration, Instant};

use bus::{Bus, Reject};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use twin::IdentityKey;
use wire::names::identity_name;
use wire::subjects::rejects_subject;

use crate::admit::{Admission, Rejection};
use crate::metrics::Metrics;
use crate::mqtt::security::Judged;

/// Rejects that may wait for the bus: mostly at most 64 KiB each, and a whole security message, 256
/// KiB, if it is none.
const QUEUE_MAX: usize = 256;

/// The period of a session's budget.
const PERIOD: Duration = Duration::from_mins(1);

/// Takes rejected events. Clones share the queue.
#[derive(Debug, Clone)]
pub(crate) struct Rejects {
    queue: mpsc::Sender<Reject>,
    metrics: Metrics,
}

/// How many rejected events of one session are kept.
#[derive(Debug)]
pub(crate) struct Budget {
    per_period: u32,
    left: u32,
    began_at: Instant,
}

impl Budget {
    /// A full budget.
    pub(crate) fn new(per_minute: u32, now: Instant) -> Self {
        Self {
            per_period: per_minute,
            left: per_minute,
            began_at: now,
        }
    }

    /// Whether one more may be kept.
    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.began_at) >= PERIOD {
            self.began_at = now;
            self.left = self.per_period;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

impl Rejects {
    /// A queue, and its other end for [`run`].
    pub(crate) fn new(metrics: Metrics) -> (Self, mpsc::Receiver<Reject>) {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        (Self { queue, metrics }, receiver)
    }

    /// Keeps what an admission rejected, within the budget.
    pub(crate) fn keep(
        &self,
        identity: &IdentityKey,
        admission: &Admission,
        trace_parent: &str,
        budget: &mut Budget,
        now: Instant,
    ) {
        for rejection in &admission.rejected {
            self.metrics.event_rejected(rejection.reason.as_str());
            let kept = budget.take(now)
                && self
                    .queue
                    .try_send(reject(identity, admission, rejection, trace_parent))
                    .is_ok();
            if !kept {
                self.metrics.reject_not_kept();
            }
        }
    }
}

impl Rejects {
    /// Keeps what was rejected of a security message, within the budget.
    pub(crate) fn keep_parts(
        &self,
        identity: &IdentityKey,
        judged: &Judged,
        budget: &mut Budget,
        now: Instant,
    ) {
        let (name, key) = (identity_name(identity), judged.key);
        for (index, rejection) in judged.rejections.iter().enumerate() {
            self.metrics.event_rejected(rejection.code);
            let kept = budget.take(now)
                && self
                    .queue
                    .try_send(Reject {
                        subject: rejects_subject("ingestion"),
                        // The same message sent again is kept once.
                        id: format!("{name}/{key}/{index}"),
                        source: format!("{name} security message {key}"),
                        code: rejection.code.to_owned(),
                        reason: rejection.problem.clone(),
                        traceparent: None,
                        original: rejection.original.clone().into(),
                    })
                    .is_ok();
            if !kept {
                self.metrics.reject_not_kept();
            }
        }
    }
}

/// Stores what comes until `stop`, and then what is left. A reject that cannot be stored is given
/// up: it was already told to the agent.
pub(crate) async fn run(bus: Bus, mut queue: mpsc::Receiver<Reject>, stop: CancellationToken) {
    loop {
        let reject = tokio::select! {
            biased;
            // Nothing is lost when the other branch wins: closing keeps what is queued.
            () = stop.cancelled(), if !queue.is_closed() => {
                queue.close();
                continue;
            }
            reject = queue.recv() => reject,
        };
        let Some(reject) = reject else { return };
        if let Err(error) = bus.reject(reject).await {
            tracing::debug!(%error, "a rejected event was not kept");
            // The bus is away; the rest would only hold up the stop.
            if stop.is_cancelled() {
                return;
            }
        }
    }
}

fn reject(
    identity: &IdentityKey,
    admission: &Admission,
    rejection: &Rejection,
    trace_parent: &str,
) -> Reject {
    let name = identity_name(identity);
    let (lane, epoch, sequence) = (admission.lane, admission.epoch, rejection.event.sequence);
    Reject {
        subject: rejects_subject("ingestion"),
        // The same event sent again, as after a lost acknowledgement, is kept once.
        id: format!("{name}/{epoch}/{sequence}"),
        source: format!("{name} lane {lane} epoch {epoch} sequence {sequence}"),
        code: rejection.reason.as_str().to_owned(),
        reason: rejection.message.clone(),
        traceparent: (!trace_parent.is_empty()).then(|| trace_parent.to_owned()),
        original: rejection.event.encode_to_vec().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_filled_again_after_its_period() {
        let start = Instant::now();
        let mut budget = Budget::new(2, start);
        assert_eq!([1, 2, 3].map(|_| budget.take(start)), [true, true, false]);
        assert!(budget.take(start + PERIOD));
        assert!(!Budget::new(0, start).take(start + PERIOD));
    }
}
