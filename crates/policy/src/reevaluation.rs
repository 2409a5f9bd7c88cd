//! Re-evaluations that somebody asked for: begun, told of, waited for and ended. The work is the
//! `walk`'s.
//!
//! How far the running one is is told from memory, what has to outlive a crash from the store: it is
//! kept every second, and goes on from there.

use std::sync::Arc;

use service_kit::clock::SharedClock;
use tokio::sync::{Notify, watch};

use crate::store::{self, By, Range, ReevaluationError, Store, StoredReevaluation};

mod walk;

pub(crate) use walk::Walker;

/// What is known in memory.
#[derive(Debug, Default)]
struct Present {
    /// The one that is worked on, as it is now.
    running: Option<StoredReevaluation>,
    /// It is to end.
    cancelling: bool,
}

/// The handle. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Reevaluations {
    store: Store,
    clock: SharedClock,
    present: Arc<watch::Sender<Present>>,
    /// Told when there is something new for the audit log.
    noted: Arc<Notify>,
}

impl Reevaluations {
    /// Takes over what the store holds.
    pub(crate) fn new(store: Store, clock: SharedClock, noted: Arc<Notify>) -> Reevaluations {
        Reevaluations {
            store,
            clock,
            present: Arc::default(),
            noted,
        }
    }

    /// Begins one, or answers what the same request began before.
    pub(crate) async fn begin(
        &self,
        range: Range,
        request_id: String,
        by: By,
    ) -> Result<StoredReevaluation, ReevaluationError> {
        let when = (self.clock.now(), by);
        let begun = self
            .store
            .begin_reevaluation(range, request_id, when)
            .await?;
        self.noted.notify_one();
        self.present.send_modify(|_| {});
        self.get(begun.number).await
    }

    /// Where one stands.
    pub(crate) async fn get(&self, number: u64) -> Result<StoredReevaluation, ReevaluationError> {
        if let Some(running) = self.running(number) {
            return Ok(running);
        }
        self.store.reevaluation(number).await
    }

    /// At most `limit` of them below a number, the newest first.
    pub(crate) async fn list(
        &self,
        below: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredReevaluation>, store::Error> {
        let mut found = self.store.reevaluations(below, limit).await?;
        for one in &mut found {
            if let Some(running) = self.running(one.number) {
                *one = running;
            }
        }
        Ok(found)
    }

    /// Waits until one has ended. May be dropped at any time.
    pub(crate) async fn ended(&self, number: u64) -> Result<StoredReevaluation, ReevaluationError> {
        let mut present = self.present.subscribe();
        loop {
            present.borrow_and_update();
            let one = self.get(number).await?;
            if one.state.has_ended() || present.changed().await.is_err() {
                return Ok(one);
            }
        }
    }

    /// Has one end; it may be under way still when this answers.
    pub(crate) async fn cancel(
        &self,
        number: u64,
        by: By,
    ) -> Result<StoredReevaluation, ReevaluationError> {
        let when = (self.clock.now(), by);
        let cancelled = self.store.cancel_reevaluation(number, when).await?;
        self.noted.notify_one();
        self.present.send_modify(|present| {
            let running = present.running.as_ref();
            if running.is_some_and(|running| running.number == number) {
                present.cancelling = true;
            }
        });
        Ok(cancelled)
    }

    fn running(&self, number: u64) -> Option<StoredReevaluation> {
        let present = self.present.borrow();
        let running = present.running.as_ref();
        running.filter(|one| one.number == number).cloned()
    }

    /// One is worked on, and is so now.
    fn show(&self, one: &StoredReevaluation) {
        self.present.send_modify(|present| {
            let running = present.running.as_ref();
            if running.is_none_or(|running| running.number != one.number) {
                present.cancelling = one.cancelling;
            }
            present.running = Some(one.clone());
        });
    }

    /// Somebody wants the one that is worked on to end.
    fn is_cancelling(&self) -> bool {
        self.present.borrow().cancelling
    }

    /// Waits until somebody does. May be dropped at any time.
    async fn cancelled(&self) {
        let mut present = self.present.subscribe();
        if present.wait_for(|now| now.cancelling).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// None is worked on any more.
    fn rest(&self) {
        self.present
            .send_modify(|present| *present = Present::default());
    }
}
