//! Gives modules the tags of their devices that were stored by a version of ours that did not hand them
//! down. After the first start with this version there is nothing to do, and one look says so.
//!
//! What keeps them in step from then on is the writer (`apply/overlay/inherit.rs`).

use std::sync::Arc;
use std::time::Duration;

use service_kit::backoff::{Backoff, Policy};
use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tracing::{info, warn};
use twin::query::Vocabulary;
use twin::{Condition, IdentityKey};

use crate::engine::Engine;
use crate::error::Error;
use crate::search;
use crate::store::{self, Estimates, Search, Selection, Source, Store};

/// Modules looked at once, and the pause between two such pages: devices are to notice nothing.
const PAGE: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);
/// How long a page may take.
const WITHIN: Duration = Duration::from_secs(2);
/// Until it is looked again, while there are modules of other replicas, or of devices that cannot be read.
const AGAIN: Policy = Policy {
    first: Duration::from_mins(1),
    cap: Duration::from_hours(6),
    budget: None,
};

/// The task.
pub struct HandedDown {
    store: Arc<dyn Store>,
    engine: Engine,
    clock: SharedClock,
}

impl HandedDown {
    /// Over this store, by this engine.
    pub fn new(store: Arc<dyn Store>, engine: Engine, clock: SharedClock) -> HandedDown {
        HandedDown {
            store,
            engine,
            clock,
        }
    }

    /// Runs until all modules have them, or shutdown.
    pub async fn run(self, shutdown: ShutdownToken) {
        let mut again = Backoff::new(AGAIN);
        let all = async {
            loop {
                match self.look().await {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) => warn!(
                        error = chain(&error),
                        "modules without the tags of their devices cannot be looked for"
                    ),
                }
                tokio::time::sleep(again.next_delay().unwrap_or(AGAIN.cap)).await;
            }
        };
        // A look that is dropped in the middle goes on after the next start.
        Box::pin(shutdown.run_until(all)).await;
    }

    /// Looks through all modules once; answers how many are left without.
    ///
    /// # Errors
    /// The store failed.
    pub async fn look(&self) -> Result<usize, store::Error> {
        const WITHOUT: &str = "NOT IS_DEFINED(device.tags)";
        let Ok(condition) = Condition::parse_in(WITHOUT, Vocabulary::Query) else {
            warn!(WITHOUT, "a condition of our own cannot be read");
            return Ok(0);
        };
        let (mut given, mut left) = (0_usize, 0_usize);
        let mut after = None;
        loop {
            let search = Search {
                source: Source::Modules,
                condition: condition.scope().clone(),
                now: self.clock.now(),
                after,
                limit: PAGE,
                estimates: Estimates::default(),
            };
            let page = search::pages(&*self.store, search, WITHIN).await?;
            let mut last = None;
            for record in page.records {
                // Modules of one device follow each other, and get them together.
                if last.as_ref() == Some(&record.key.device) {
                    continue;
                }
                match self.hand_down(&record.key).await {
                    Ok(count) => given += count,
                    Err(Error::NotFound(_)) => {}
                    // Its owner hands them down, or whoever takes it over.
                    Err(Error::NotOwned { .. }) => left += 1,
                    Err(error) => {
                        left += 1;
                        warn!(twin = %record.key, error = chain(&error),
                            "the tags of its device are not handed down");
                    }
                }
                last = Some(record.key.device);
            }
            after = page.next;
            if after.is_none() {
                if given > 0 {
                    info!(
                        modules = given,
                        "modules have the tags of their devices now"
                    );
                }
                return Ok(left);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn hand_down(&self, module: &IdentityKey) -> Result<usize, Error> {
        let device = module.device.clone();
        let selection = Selection::Family(device.clone());
        let decided = self.engine.decide(selection, move |overlay, _| {
            overlay.hand_down_again(&device)
        });
        match decided.await {
            Err(Error::Stopping) => Ok(0),
            other => other,
        }
    }
}
