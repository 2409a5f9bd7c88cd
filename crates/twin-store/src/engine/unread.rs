//! What the writer does when the store cannot be read.

use service_kit::error::chain;
use tracing::error;

use super::{Answer, Work, Writer};
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

    /// The same of what follows from decisions that were made already: none of them is written.
    pub(super) fn unheard(
        &self,
        answers: Vec<Answer>,
        failure: store::Error,
    ) -> Result<(), store::Error> {
        if self.sharing.is_some() || matches!(failure, store::Error::Closed) {
            drop(answers);
            return Err(failure);
        }
        error!(error = chain(&failure), "the store cannot be read");
        for answer in answers {
            answer(Err(unreadable(&failure)));
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
