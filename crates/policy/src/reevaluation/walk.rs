//! Goes over the twins of one re-evaluation after the other, and has each looked at.
//!
//! It takes what is left of the service: before each handful of twins it waits for the changes that
//! are being worked off, though never for long, so that it gets on under constant load too. The next
//! page is read while this one is looked at.

use std::time::Duration;

use futures::StreamExt as _;
use prost_types::FieldMask;
use service_kit::backoff::{Attempt, Policy, retry};
use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tokio::time::Instant;
use tracing::{info, warn};
use wire::twin::v1::{ListTwinsRequest, ListTwinsResponse, Twin};

use super::Reevaluations;
use crate::busy::Busy;
use crate::look::Looker;
use crate::policies::Policies;
use crate::store::{self, State, StoredReevaluation, SweepCounts};
use crate::sweep::TWIN_FIELDS;
use crate::twin_store::{Failure, TwinStore};
use crate::writer::Effect;

/// Twins of one page; halved when a page of the largest twins does not fit a message.
const PAGE_TWINS: i32 = 500;
/// Twins that are looked at before others may go first: a few milliseconds.
const HANDFUL: usize = 32;
/// How long changes may hold up a handful: 1,600 twins a second go on whatever comes.
const HELD_UP_MAX: Duration = Duration::from_millis(20);
/// How often what was done is kept: that much is done again after a crash.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// How long the number of twins may take to be counted; it is for people alone.
const COUNT_WITHIN: Duration = Duration::from_secs(10);
/// Before a page is asked for again that twin-store failed on,
const PAGE_AGAIN: Duration = Duration::from_secs(5);
/// and how often in a row before the re-evaluation has failed.
const PAGE_TRIES: usize = 12;

/// What works on re-evaluations.
#[derive(Debug)]
pub(crate) struct Walker {
    /// Which there are.
    pub jobs: Reevaluations,
    /// Who looks at a twin.
    pub looker: Looker,
    /// Where twins are read.
    pub twins: TwinStore,
    /// What is in force.
    pub policies: Policies,
    /// What goes first.
    pub busy: Busy,
    /// What time it is.
    pub clock: SharedClock,
    /// Twins that are written at the same time.
    pub writes_in_flight: usize,
    /// Ends it.
    pub shutdown: ShutdownToken,
}

/// Why the walk does not go on.
enum End {
    /// It came to all twins.
    Complete,
    /// Somebody ended it.
    Cancelled,
    /// It cannot.
    Failed(String),
    /// The service stops.
    Stopped,
}

/// What came of a page.
#[derive(Default)]
struct OfPage {
    counts: SweepCounts,
    /// Twins that must be looked at again later.
    unfinished: u64,
}

impl Walker {
    /// Works until the service stops.
    pub(crate) async fn run(self) {
        let mut present = self.jobs.present.subscribe();
        loop {
            present.borrow_and_update();
            let next = self.persist("begin a re-evaluation", || async {
                let at = self.clock.now();
                self.jobs.store.next_reevaluation(at).await
            });
            let Some(next) = next.await else { return };
            let Some(one) = next else {
                if self.shutdown.run_until(present.changed()).await.is_none() {
                    return;
                }
                continue;
            };
            self.jobs.show(&one);
            let (one, end) = self.walk(one).await;
            if !self.finish(one, end).await {
                return;
            }
            self.jobs.rest();
        }
    }

    /// Keeps how one ended; false if the service stops.
    async fn finish(&self, one: StoredReevaluation, end: End) -> bool {
        let (state, error) = match end {
            End::Stopped => {
                // If this is lost, more is done again after the start.
                if let Err(error) = self.jobs.store.keep_reevaluation(one).await {
                    warn!(error = chain(&error), "cannot keep a re-evaluation");
                }
                return false;
            }
            End::Complete => (State::Succeeded, String::new()),
            End::Cancelled => (State::Cancelled, String::new()),
            End::Failed(error) => (State::Failed, error),
        };
        let now = self.clock.now();
        let ended = StoredReevaluation {
            state,
            error,
            updated_at: now,
            ended_at: Some(now),
            ..one
        };
        info!(
            reevaluation = ended.number,
            state = state.as_str(),
            error = ended.error,
            evaluated = ended.counts.evaluated,
            changed = ended.counts.changed,
            failed = ended.counts.failed,
            "a re-evaluation has ended"
        );
        self.keep(&ended).await.is_some()
    }

    /// Goes on with one; what it is when it does not go on, and why.
    async fn walk(&self, mut one: StoredReevaluation) -> (StoredReevaluation, End) {
        if one.total.is_none() && one.place.is_empty() {
            let counting = self.twins.count(&one.range.filter);
            match tokio::time::timeout(COUNT_WITHIN, counting).await {
                Ok(Ok(total)) => one.total = Some(total),
                Ok(Err(status)) => info!(
                    reevaluation = one.number,
                    problem = status.message(),
                    "its twins are not counted"
                ),
                Err(_) => info!(reevaluation = one.number, "its twins take long to count"),
            }
            self.jobs.show(&one);
        }
        let mut request = ListTwinsRequest {
            page_size: PAGE_TWINS,
            filter: one.range.filter.clone(),
            read_mask: Some(FieldMask {
                paths: TWIN_FIELDS.map(str::to_owned).to_vec(),
            }),
            page_token: one.place.clone(),
        };
        let mut page = match self.page(&mut request).await {
            Ok(page) => page,
            Err(end) => return (one, end),
        };
        let mut kept_at = Instant::now();
        loop {
            request.page_token.clone_from(&page.next_page_token);
            let reading = async {
                if request.page_token.is_empty() {
                    return None;
                }
                Some(self.page(&mut request).await)
            };
            let (looked, next) = tokio::join!(self.look_at(page.twins), reading);
            let (found, cut_short) = looked;
            if let Some(End::Stopped) = cut_short {
                // What was seen of the page is not kept: it is looked at as a whole after the start.
                return (one, End::Stopped);
            }
            one.counts = sum(one.counts, found.counts);
            one.updated_at = self.clock.now();
            // Before the place moves beyond them.
            if found.unfinished > 0 && !self.again_later(found.unfinished).await {
                return (one, End::Stopped);
            }
            if let Some(end) = cut_short {
                return (one, end);
            }
            one.place = std::mem::take(&mut page.next_page_token);
            self.jobs.show(&one);
            page = match next {
                None => return (one, End::Complete),
                Some(Ok(page)) => page,
                Some(Err(end)) => return (one, end),
            };
            if kept_at.elapsed() >= KEEP_EVERY {
                match self.keep(&one).await {
                    None => return (one, End::Stopped),
                    Some(true) => return (one, End::Cancelled),
                    Some(false) => kept_at = Instant::now(),
                }
            }
        }
    }

    /// Has the twins of a page looked at; why not all of them were.
    async fn look_at(&self, twins: Vec<Twin>) -> (OfPage, Option<End>) {
        let mut found = OfPage::default();
        let mut twins = twins.into_iter();
        loop {
            let handful: Vec<Twin> = twins.by_ref().take(HANDFUL).collect();
            if handful.is_empty() {
                return (found, None);
            }
            if self.jobs.is_cancelling() {
                return (found, Some(End::Cancelled));
            }
            let quiet = self.busy.idle(HELD_UP_MAX);
            if self.shutdown.run_until(quiet).await.is_none() {
                return (found, Some(End::Stopped));
            }
            let mut effects = futures::stream::iter(handful)
                .map(|twin| self.looker.look(twin))
                .buffer_unordered(self.writes_in_flight);
            while let Some(effect) = effects.next().await {
                match effect {
                    Effect::Stopped => return (found, Some(End::Stopped)),
                    Effect::Held | Effect::Gone | Effect::Superseded => {}
                    Effect::Changed => found.counts.changed += 1,
                    Effect::Rejected => found.counts.failed += 1,
                    Effect::Unfinished => {
                        found.counts.failed += 1;
                        found.unfinished += 1;
                    }
                }
                found.counts.evaluated += 1;
            }
            // Most twins need no call, so nothing above gave others their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Reads a page; a smaller one if it does not fit a message.
    async fn page(&self, request: &mut ListTwinsRequest) -> Result<ListTwinsResponse, End> {
        let mut tries = 0;
        loop {
            let answer = tokio::select! {
                answer = self.twins.list(request) => answer,
                () = self.jobs.cancelled() => return Err(End::Cancelled),
            };
            let failure = match answer {
                Ok(page) => return Ok(page),
                Err(failure) => failure,
            };
            match failure {
                Failure::Stopped => return Err(End::Stopped),
                Failure::Refused(_) if request.page_size > 1 => request.page_size /= 2,
                Failure::Unfinished(_) if tries < PAGE_TRIES => {
                    tries += 1;
                    let pause = tokio::time::sleep(PAGE_AGAIN);
                    tokio::select! {
                        paused = self.shutdown.run_until(pause) => {
                            paused.ok_or(End::Stopped)?;
                        }
                        () = self.jobs.cancelled() => return Err(End::Cancelled),
                    }
                }
                failure => return Err(End::Failed(chain(&failure))),
            }
        }
    }

    /// Wants a sweep, for twins that twin-store failed on; false if the service stops.
    async fn again_later(&self, twins: u64) -> bool {
        warn!(
            twins,
            "twin-store failed on twins; all are evaluated again later"
        );
        self.persist("want a sweep", || self.policies.twins_unfinished())
            .await
            .is_some()
    }

    /// Keeps where one is; whether somebody wants it to end, none if the service stops.
    async fn keep(&self, one: &StoredReevaluation) -> Option<bool> {
        self.persist("keep a re-evaluation", || {
            self.jobs.store.keep_reevaluation(one.clone())
        })
        .await
    }

    /// Uses our own store until it works; none if the service stopped before.
    async fn persist<T, F>(&self, operation: &'static str, act: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, store::Error>>,
    {
        retry(operation, Policy::FOREVER, &self.shutdown, || async {
            act().await.map_err(Attempt::Again)
        })
        .await
        .ok()
    }
}

fn sum(one: SweepCounts, other: SweepCounts) -> SweepCounts {
    SweepCounts {
        evaluated: one.evaluated + other.evaluated,
        changed: one.changed + other.changed,
        failed: one.failed + other.failed,
    }
}
