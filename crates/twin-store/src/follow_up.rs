//! Follows up pushes of configurations to connected devices: one that is left unanswered for too long is
//! timed out, and one that a device did not stay with is pushed again; where policies have set something,
//! the policy service is asked for that. Searches, policies and rollouts all see it alike, because the state
//! is written.
//!
//! It looks through the twins concerned again and again, by index and a little at a time, and keeps
//! nothing between two looks: whatever is due stays due, so a restart or another owner of the partition
//! loses nothing. What is due is decided in `apply` once more, by the one writer.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use posture::configuration::PushState;
use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tracing::{info, warn};
use twin::query::Vocabulary;
use twin::{Condition, IdentityKey, Version};

use crate::apply::pushes::{self, Again};
use crate::engine::Engine;
use crate::error::Error;
use crate::record::Record;
use crate::store::{self, Estimates, Search, Selection, Source, Store};

/// What may be due. A device that is away is asked for nothing.
const STATES: [PushState; 3] = [PushState::Pending, PushState::Drifted, PushState::Reverted];
/// Twins looked at at once, and the pause between two such pages: some thousand a second at most, so
/// that a push to the whole fleet costs the store a few percent of its time.
const PAGE: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked at least and at most; between, a tenth of the shorter of the times.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(500);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(15);

/// The task that follows up.
pub struct FollowUp {
    store: Arc<dyn Store>,
    engine: Engine,
    clock: SharedClock,
    within: SignedDuration,
    push_after: SignedDuration,
    every: Duration,
}

impl FollowUp {
    /// With so much time for devices to answer, and so long until settings are pushed again; zero: never.
    pub fn new(
        store: Arc<dyn Store>,
        engine: Engine,
        clock: SharedClock,
        within: Duration,
        push_after: Duration,
    ) -> FollowUp {
        // What is longer is never over.
        let signed = |time| SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        let shorter = if push_after.is_zero() {
            within
        } else {
            within.min(push_after)
        };
        FollowUp {
            store,
            engine,
            clock,
            within: signed(within),
            push_after: signed(push_after),
            every: (shorter / 10).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX),
        }
    }

    /// Runs until shutdown. A failure is said and tried again: nothing is lost by waiting.
    pub async fn run(self, shutdown: ShutdownToken) {
        let looks = async {
            loop {
                tokio::time::sleep(self.every).await;
                for state in STATES {
                    if let Err(error) = self.look(state).await {
                        warn!(
                            error = chain(&error),
                            state = state.as_str(),
                            "pushes to be followed up cannot be read"
                        );
                    }
                }
            }
        };
        // A look that is dropped in the middle has lost nothing.
        shutdown.run_until(looks).await;
    }

    /// Looks at every push that stands so.
    async fn look(&self, state: PushState) -> Result<(), store::Error> {
        let condition = format!(
            "posture.configuration.state = '{}' AND connectionState = 'Connected'",
            state.as_str()
        );
        let Ok(condition) = Condition::parse_in(&condition, Vocabulary::Query) else {
            warn!(condition, "a condition of our own cannot be read");
            return Ok(());
        };
        let mut after = None;
        loop {
            let search = Search {
                source: Source::All,
                condition: condition.scope().clone(),
                now: self.clock.now(),
                after,
                limit: PAGE,
                estimates: Estimates::default(),
            };
            let page = self.store.search(search).await?;
            for record in page.records.iter().filter(|record| self.is_due(record)) {
                self.follow_up(record.key.clone()).await;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether this replica is to write something about it.
    fn is_due(&self, record: &Record) -> bool {
        let partition = self.engine.partition(&record.key);
        record.posture.agent.connected
            && self
                .due_at(record)
                .is_some_and(|due| due <= self.clock.now())
            && self.engine.logs().contains_key(&partition)
    }

    fn due_at(&self, record: &Record) -> Option<Timestamp> {
        let configuration = &record.posture.configuration;
        let connected_at = record.posture.agent.connected_at;
        match configuration.awaited_since(connected_at) {
            Some(_) if record.twin.desired.version == Version::FIRST => None,
            Some(since) => since.checked_add(self.within).ok(),
            None if self.push_after.is_zero() => None,
            None if pushes::is_of_policies(record) => configuration.ask_due(self.push_after),
            None => configuration.push_due(self.push_after),
        }
    }

    async fn follow_up(&self, key: IdentityKey) {
        let (within, push_after) = (self.within, self.push_after);
        let selection = Selection::One(key.clone());
        let of = key.clone();
        let decided = self.engine.decide(selection, move |overlay, now| {
            if pushes::time_out(overlay, &of, within, now)? {
                return Ok(Some("timed out"));
            }
            if push_after.is_zero() {
                return Ok(None);
            }
            let again = pushes::push_again(overlay, &of, push_after, now)?;
            Ok(again.map(|again| match again {
                Again::Pushed => "made again",
                Again::Asked => "asked for again",
            }))
        });
        match decided.await {
            Ok(Some(what)) => info!(twin = %key, what, "a push was followed up"),
            // It answered, went away or was deleted meanwhile, or the partition is another's by now.
            Ok(None) | Err(Error::NotFound(_) | Error::NotOwned { .. } | Error::Stopping) => {}
            Err(error) => {
                warn!(twin = %key, error = chain(&error), "a push cannot be followed up");
            }
        }
    }
}
