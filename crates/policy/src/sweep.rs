//! Looks at all twins that may need it, in the background: after a policy changed or was deleted, at
//! the start when that was not finished before, and when changes were missed.
//!
//! twin-store is asked only for twins that a policy applies to or has set something in: on the
//! others there is nothing to do. Their changes come to the consumers, in order and durably, so a
//! cache of all twins here would only be a second copy of what is known already.
//!
//! The consumers go on meanwhile. Both may look at the same twin: whoever comes second finds
//! another desired version and decides afresh. A change of a policy while a sweep runs starts it
//! over, because what it has looked at so far counts for nothing then; but not twice in a row, so that
//! policies that change all the time keep no twin from being looked at.

use std::time::Duration;

use futures::StreamExt;
use prost_types::FieldMask;
use service_kit::backoff::{Backoff, Policy};
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tracing::{info, warn};
use wire::twin::v1::{ListTwinsRequest, ListTwinsResponse};

use crate::look::Looker;
use crate::metrics::Metrics;
use crate::policies::{Policies, Wanted};
use crate::progress::Progress;
use crate::store::{SweepCounts, SweepNumber};
use crate::twin_store::{Failure, TwinStore};
use crate::writer::Effect;

/// Twins of one page; halved when a page of the largest twins does not fit a message.
const PAGE_TWINS: i32 = 100;

/// What a decision is made of.
pub(crate) const TWIN_FIELDS: [&str; 14] = [
    "device_id",
    "module_id",
    "version",
    "status",
    "tags_json",
    "desired_json",
    "desired_version",
    "desired_metadata_json",
    "reported_json",
    "reported_version",
    "posture_json",
    "posture_version",
    "configurations",
    "device_tags_json",
];

/// Before twins that twin-store failed on are tried again, all over: rarely, since it means a full
/// sweep and usually somebody has to mend something first.
const UNFINISHED: Policy = Policy {
    first: Duration::from_mins(1),
    cap: Duration::from_hours(1),
    budget: None,
};

/// What the sweeper works with.
#[derive(Debug)]
pub(crate) struct Sweeper {
    /// What is in force, and which sweeps are wanted.
    pub policies: Policies,
    /// Where twins are read.
    pub twins: TwinStore,
    /// Who looks at a twin.
    pub looker: Looker,
    /// Who is told how far it is.
    pub progress: Progress,
    /// What is counted.
    pub metrics: Metrics,
    /// Twins that are written at the same time.
    pub writes_in_flight: usize,
    /// Ends the sweeper.
    pub shutdown: ShutdownToken,
}

/// What a sweep does when a newer one is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// It ends, so that what changed is everywhere soon.
    StartsOver,
    /// It goes on to its last twin, with the policies as they are by then; the newer one comes after it.
    ToTheEnd,
}

/// How a sweep ended.
enum End {
    Complete(SweepCounts),
    /// A policy changed meanwhile.
    Outdated,
    /// twin-store failed to list.
    Failed,
    Stopped,
}

impl Sweeper {
    /// Works until the service stops.
    pub(crate) async fn run(self) {
        let mut wanted = self.policies.wanted();
        let mut unfinished = Backoff::new(UNFINISHED);
        let mut haste = Haste::StartsOver;
        loop {
            let seen = *wanted.borrow_and_update();
            let done = self.progress.done();
            if seen.last() <= done {
                if self.shutdown.run_until(wanted.changed()).await.is_none() {
                    return;
                }
                continue;
            }
            if seen.now <= done {
                let delay = unfinished.next_delay().unwrap_or(UNFINISHED.cap);
                if !self.wait(delay, seen).await {
                    return;
                }
            }
            // What was wanted while we waited is covered too.
            let sweep = self.policies.wanted().borrow().last();
            match self.sweep(sweep, haste).await {
                End::Complete(counts) => {
                    haste = Haste::StartsOver;
                    if counts.failed == 0 {
                        unfinished = Backoff::new(UNFINISHED);
                    }
                    self.finish(sweep, counts).await;
                }
                // Policies may change for ever faster than all twins are looked at: then the last ones would never be.
                End::Outdated => haste = Haste::ToTheEnd,
                End::Failed => {
                    let delay = unfinished.next_delay().unwrap_or(UNFINISHED.cap);
                    if !self.wait(delay, seen).await {
                        return;
                    }
                }
                End::Stopped => return,
            }
        }
    }

    /// Waits, or until a sweep is wanted at once; false if the service stops.
    async fn wait(&self, delay: Duration, seen: Wanted) -> bool {
        let mut wanted = self.policies.wanted();
        let urgent = wanted.wait_for(|wanted| wanted.now > seen.now);
        self.shutdown
            .run_until(tokio::time::timeout(delay, urgent))
            .await
            .is_some()
    }

    async fn finish(&self, sweep: SweepNumber, counts: SweepCounts) {
        self.metrics.sweeps.inc();
        self.progress.complete(sweep, counts);
        info!(
            sweep = sweep.get(),
            evaluated = counts.evaluated,
            changed = counts.changed,
            failed = counts.failed,
            "all twins evaluated"
        );
        // If this is lost the sweep is done once more after the next start, which is harmless.
        if let Err(error) = self.policies.sweep_done(sweep, counts).await {
            warn!(
                error = chain(&error),
                "cannot note that all twins were evaluated"
            );
        }
    }

    async fn sweep(&self, sweep: SweepNumber, haste: Haste) -> End {
        info!(
            sweep = sweep.get(),
            policies = self.policies.set().len(),
            "evaluating all twins"
        );
        let wanted = self.policies.wanted();
        let mut counts = SweepCounts::default();
        let mut unfinished = 0_u64;
        // A policy that changes from here on starts the sweep over.
        let mut request = ListTwinsRequest {
            page_size: PAGE_TWINS,
            filter: self.policies.set().filter(),
            read_mask: Some(FieldMask {
                paths: TWIN_FIELDS.map(str::to_owned).to_vec(),
            }),
            ..ListTwinsRequest::default()
        };
        self.progress.running(sweep, counts);
        let round = self.looker.actions.sweep_begins().await;
        loop {
            if haste == Haste::StartsOver && wanted.borrow().now > sweep {
                return End::Outdated;
            }
            let page = match self.page(&mut request).await {
                Ok(page) => page,
                Err(Failure::Stopped) => return End::Stopped,
                Err(failure) => {
                    warn!(
                        error = chain(&failure),
                        "cannot list twins; trying again later"
                    );
                    return End::Failed;
                }
            };
            let mut effects = futures::stream::iter(page.twins)
                .map(|twin| self.looker.look(twin))
                .buffer_unordered(self.writes_in_flight);
            while let Some(effect) = effects.next().await {
                match effect {
                    Effect::Stopped => return End::Stopped,
                    Effect::Held | Effect::Gone | Effect::Superseded => {}
                    Effect::Changed => counts.changed += 1,
                    Effect::Rejected => counts.failed += 1,
                    Effect::Unfinished => {
                        counts.failed += 1;
                        unfinished += 1;
                    }
                }
                counts.evaluated += 1;
            }
            self.metrics
                .sweep_twins
                .set(i64::try_from(counts.evaluated).unwrap_or(i64::MAX));
            self.progress.running(sweep, counts);
            if page.next_page_token.is_empty() {
                if unfinished > 0 {
                    self.again_later(unfinished).await;
                }
                self.looker.actions.swept(round).await;
                return End::Complete(counts);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Wants another sweep, for twins that twin-store failed on.
    async fn again_later(&self, twins: u64) {
        warn!(
            twins,
            "twin-store failed on twins; all are evaluated again later"
        );
        if let Err(error) = self.policies.twins_unfinished().await {
            warn!(error = chain(&error), "cannot note unfinished twins");
        }
    }

    /// Reads a page; a smaller one if it does not fit a message.
    async fn page(&self, request: &mut ListTwinsRequest) -> Result<ListTwinsResponse, Failure> {
        loop {
            match self.twins.list(request).await {
                Err(Failure::Refused(_)) if request.page_size > 1 => request.page_size /= 2,
                other => return other,
            }
        }
    }
}
