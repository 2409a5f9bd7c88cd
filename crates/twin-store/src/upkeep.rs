//! Keeps the store from growing without bound: forgets what is older than it has to be kept, and puts
//! routine revisions together that are no longer young.
//!
//! A little at a time, so that writers hardly wait. Nothing depends on when it runs: whatever is
//! due stays due. It runs beside the writer and touches nothing that a commit needs.

use std::sync::Arc;
use std::time::Duration;

use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tracing::{debug, warn};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::{Retention, Store, Trimmed};

/// How often it is looked for what is due.
const INTERVAL: Duration = Duration::from_mins(1);
/// Between two pieces of work, so that writers come in between.
const PAUSE: Duration = Duration::from_millis(50);
/// Rows of each kind removed at once: a few milliseconds of the store's time.
const BATCH: u32 = 500;
/// How long an answer to a request is remembered: the contract says an hour at least.
const REQUEST_AGE: Duration = Duration::from_hours(2);
/// How long an operation that ended can be asked for, as IoT Hub's jobs (spec iot-hub-twins §2.6).
const OPERATION_AGE: Duration = Duration::from_hours(30 * 24);

/// The task that forgets.
pub struct Upkeep {
    store: Arc<dyn Store>,
    clock: SharedClock,
    metrics: Metrics,
    history_age: Duration,
    history_count: u32,
    history_span: Duration,
    history_every: Duration,
}

impl Upkeep {
    /// As the configuration says.
    pub fn new(
        store: Arc<dyn Store>,
        clock: SharedClock,
        metrics: Metrics,
        config: &Config,
    ) -> Upkeep {
        Upkeep {
            store,
            clock,
            metrics,
            history_age: config.history_age.get(),
            history_count: config.history_count,
            history_span: config.history_coalesce.get(),
            history_every: config.history_every.get(),
        }
    }

    /// Runs until shutdown. A failure is said and tried again: nothing is lost by waiting.
    pub async fn run(self, shutdown: ShutdownToken) {
        let mut wait = Duration::ZERO;
        while shutdown.run_until(tokio::time::sleep(wait)).await.is_some() {
            self.count_damaged().await;
            wait = match self.trim_once().await {
                Ok(trimmed) if trimmed.more => PAUSE,
                Ok(_) => INTERVAL,
                Err(error) => {
                    warn!(error = chain(&error), "old revisions cannot be removed");
                    INTERVAL
                }
            };
        }
    }

    /// Shows how many twins were found damaged; each was said once when it was found.
    async fn count_damaged(&self) {
        match self.store.damaged().await {
            Ok(damaged) => self.metrics.damaged(damaged.len()),
            Err(error) => warn!(error = chain(&error), "damaged twins cannot be counted"),
        }
    }

    /// Removes one piece of what is due.
    ///
    /// # Errors
    /// The store failed.
    pub async fn trim_once(&self) -> Result<Trimmed, crate::store::Error> {
        let trimmed = self
            .store
            .trim(Retention {
                now: self.clock.now(),
                history_age: self.history_age,
                history_count: self.history_count,
                history_span: self.history_span,
                history_every: self.history_every,
                request_age: REQUEST_AGE,
                operation_age: OPERATION_AGE,
                batch: BATCH,
            })
            .await?;
        if trimmed != Trimmed::default() {
            debug!(
                revisions = trimmed.revisions,
                joined = trimmed.joined,
                written = trimmed.written,
                requests = trimmed.requests,
                operations = trimmed.operations,
                "forgot what was due"
            );
        }
        Ok(trimmed)
    }
}
