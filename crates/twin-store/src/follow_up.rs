//! Follows up pushes of configurations that connected devices leave unanswered: after a time they
//! count as timed out, for searches, policies and rollouts alike, because the state is written.
//!
//! It looks through the twins with a pending push again and again, by index and a little at a time, and
//! keeps nothing between two looks: whatever is due stays due, so a restart or another owner of the
//! partition loses nothing. What is due is decided in `apply` once more, by the one writer.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tracing::{debug, warn};
use twin::query::Vocabulary;
use twin::{Condition, IdentityKey};

use crate::apply::twins;
use crate::engine::Engine;
use crate::error::Error;
use crate::record::Record;
use crate::store::{self, Estimates, Search, Selection, Source, Store};

/// Whose push may be due. A device that is away is asked for nothing.
const PENDING: &str = "posture.configuration.state = 'pending' AND connectionState = 'Connected'";
/// Twins looked at at once, and the pause between two such pages: some thousand a second at most, so
/// that a push to the whole fleet costs the store a few percent of its time.
const PAGE: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked at least and at most; between, a tenth of the time that devices have.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(500);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(15);

/// The task that follows up.
pub struct FollowUp {
    store: Arc<dyn Store>,
    engine: Engine,
    clock: SharedClock,
    within: SignedDuration,
    every: Duration,
}

impl FollowUp {
    /// With so much time for devices to answer.
    pub fn new(
        store: Arc<dyn Store>,
        engine: Engine,
        clock: SharedClock,
        within: Duration,
    ) -> FollowUp {
        FollowUp {
            store,
            engine,
            clock,
            // What is longer is never over.
            within: SignedDuration::try_from(within).unwrap_or(SignedDuration::MAX),
            every: (within / 10).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX),
        }
    }

    /// Runs until shutdown. A failure is said and tried again: nothing is lost by waiting.
    pub async fn run(self, shutdown: ShutdownToken) {
        let Ok(condition) = Condition::parse_in(PENDING, Vocabulary::Query) else {
            warn!(condition = PENDING, "a condition of our own cannot be read");
            return;
        };
        let looks = async {
            loop {
                tokio::time::sleep(self.every).await;
                if let Err(error) = self.look(&condition).await {
                    warn!(error = chain(&error), "pending pushes cannot be read");
                }
            }
        };
        // A look that is dropped in the middle has lost nothing.
        shutdown.run_until(looks).await;
    }

    /// Looks at every push that is pending.
    async fn look(&self, condition: &Condition) -> Result<(), store::Error> {
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
                self.time_out(record.key.clone()).await;
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
        let agent = &record.posture.agent;
        let configuration = &record.posture.configuration;
        let since = configuration.awaited_since(agent.connected_at);
        let now = self.clock.now();
        agent.connected
            && since.is_some_and(|since| now.duration_since(since) >= self.within)
            && self.engine.logs().contains_key(&partition)
    }

    async fn time_out(&self, key: IdentityKey) {
        let within = self.within;
        let selection = Selection::One(key.clone());
        let of = key.clone();
        let decided = self.engine.decide(selection, move |overlay, now| {
            twins::time_out(overlay, &of, within, now)
        });
        match decided.await {
            Ok(true) => debug!(twin = %key, "a push timed out"),
            // It answered, went away or was deleted meanwhile, or the partition is another's by now.
            Ok(false) | Err(Error::NotFound(_) | Error::NotOwned { .. } | Error::Stopping) => {}
            Err(error) => {
                warn!(twin = %key, error = chain(&error), "a push cannot be marked as timed out");
            }
        }
    }
}
