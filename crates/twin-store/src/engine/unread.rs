//! What the writer does when the store cannot be read.

use service_kit::error::chain;
use tracing::error;

use super::{Work, Writer};
use crate::error::Error;
use crate::store;

impl Writer {
    /// What was asked for cannot be read; not damaged rows, which are told of by themselves, but the
    /// engine. Nothing was decided and nothing is in doubt: callers are told, telemetry comes again.
    pub(super) fn unread(
        &self,
        group: Vec<Work>,
        failure: store::Error,
    ) -> Result<(), store::Error> {
        if self.sharing.is_some() || matches!(failure, store::Error::Closed) {
            // Dropping the work drops its answers, and its callers read that as `Stopping`.
            drop(group);
            return Err(failure);
        }
        error!(error = chain(&failure), "the store cannot be read");
        for work in group {
            (work.decide)(Err(unreadable(&failure)))(Ok(()));
        }
        Ok(())
    }
}

/// The error of each of several callers.
fn unreadable(error: &store::Error) -> Error {
    Error::Store(store::Error::Engine {
        action: "read what a decision needs",
        source: chain(error).into(),
    })
}
