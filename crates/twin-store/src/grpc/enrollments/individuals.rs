//! How many enrolments of single devices there are, so that there are no more than the setting allows.
//!
//! Enrolments are made by whoever owns the first partition, one at a time, so that counting them once
//! and adding what is made since is exact. Removals are seen when the hub seems full: then they are
//! counted anew.

use std::sync::{Mutex, PoisonError};

use crate::engine::{Engine, Tenure};
use crate::error::Error;
use crate::provisioning::ProvisioningError;
use crate::store::Store;

/// What was counted, and when.
#[derive(Debug, Clone, Copy)]
struct Counted {
    tenure: Tenure,
    count: u64,
}

/// The enrolments of single devices, counted.
#[derive(Debug)]
pub(crate) struct Individuals {
    /// The setting `enrollments_max`.
    max: u64,
    counted: Mutex<Option<Counted>>,
}

impl Individuals {
    /// Nothing is counted yet.
    pub(crate) fn new(max: u64) -> Individuals {
        Individuals {
            max,
            counted: Mutex::new(None),
        }
    }

    fn known(&self) -> Option<Counted> {
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, counted: Counted) {
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted);
    }

    /// Counts unless it is known that there is room.
    pub(super) async fn count(&self, engine: &Engine, store: &dyn Store) -> Result<(), Error> {
        let tenure = engine.tenure();
        let known = self.known();
        if known.is_some_and(|known| known.tenure == tenure && known.count < self.max) {
            return Ok(());
        }
        let count = store.individual_enrollments().await?;
        self.set(Counted { tenure, count });
        Ok(())
    }

    /// Whether one more may be made; decided by the one writer.
    pub(super) fn admit(&self) -> Result<(), Error> {
        if self.known().is_none_or(|known| known.count < self.max) {
            return Ok(());
        }
        Err(ProvisioningError::TooManyIndividuals { allowed: self.max }.into())
    }

    /// Notes that one was made.
    pub(super) fn made(&self) {
        if let Some(known) = self.known() {
            self.set(Counted {
                count: known.count.saturating_add(1),
                ..known
            });
        }
    }
}
