//! Notices that a revision is missing on the way back: each names the one before it. Pure.

use twin::Revision;

use crate::error::Error;
use crate::record::Damaged;
use crate::store::HistoryEntry;

/// Why a walk back did not come to its end.
pub(super) enum Ended {
    /// There is no way there.
    Here(Error),
    /// What should be next is not there: a revision is missing, or others were put together between two
    /// readings, and then a walk from the beginning finds its way.
    Gap(Damaged),
}

impl<E: Into<Error>> From<E> for Ended {
    fn from(error: E) -> Ended {
        Ended::Here(error.into())
    }
}

/// Compares what stands before a revision with what should, if both know.
#[derive(Default)]
pub(super) struct Link(pub(super) Option<Revision>);

impl Link {
    pub(super) fn follow(&mut self, entry: &HistoryEntry) -> Result<(), Ended> {
        let expected = self.0.filter(|expected| *expected != entry.revision);
        // What an older program wrote tells nothing, and it wrote not of every change.
        if let Some(expected) = expected.filter(|_| entry.previous.is_some()) {
            return Err(Ended::Gap(Damaged {
                key: entry.key.to_string(),
                part: "history",
                problem: format!("revision {expected} is missing, so nobody knows what was before"),
            }));
        }
        self.0 = entry.previous.filter(|before| *before != Revision::ZERO);
        Ok(())
    }
}
