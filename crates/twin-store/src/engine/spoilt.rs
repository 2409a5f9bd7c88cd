//! What the store has said cannot be written, because it or what lies beside it is damaged.
//!
//! Decisions are told of it as of any other damaged row, so that they leave it alone and the rest of their commit can
//! be written. It is tried again after a while: somebody may have mended it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use twin::DeviceId;

use super::{Answer, Writer};
use crate::error::Error;
use crate::record::Damaged;
use crate::store::{self, Loaded, Selection};

/// It is tried again after so long: each time, the commit that comes upon it has to be decided on once more.
const AGAIN_AFTER: Duration = Duration::from_hours(1);
/// That is told apart; a store with more of it is to be restored.
const SPOILT_MAX: usize = 1000;

/// What cannot be written.
#[derive(Debug, Default)]
pub(super) struct Spoilt(BTreeMap<Selection, (Damaged, Instant)>);

/// What became of what a store has said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Decisions are told of it from now on.
    New,
    /// They were told before, and have tried all the same.
    Known(Damaged),
    /// There is too much of it.
    TooMuch,
}

impl Spoilt {
    /// Keeps what the store has said.
    pub(super) fn keep(&mut self, said: Vec<Loaded>) -> Kept {
        let now = Instant::now();
        self.0
            .retain(|_, (_, since)| now.saturating_duration_since(*since) < AGAIN_AFTER);
        let mut kept = None;
        for one in said {
            let Loaded::Damaged(selection, damaged) = one else {
                continue;
            };
            let before = self.0.insert(selection, (damaged.clone(), now));
            match before {
                None => kept = Some(Kept::New),
                Some(_) => {
                    kept.get_or_insert(Kept::Known(damaged));
                }
            }
        }
        match kept {
            Some(_) if self.0.len() > SPOILT_MAX => Kept::TooMuch,
            Some(kept) => kept,
            None => Kept::TooMuch,
        }
    }

    /// Has what cannot be written loaded as damaged.
    pub(super) fn mark<'s>(
        &self,
        asked: impl Iterator<Item = &'s Selection>,
        loaded: &mut Vec<Loaded>,
    ) {
        if self.0.is_empty() {
            return;
        }
        loaded.retain(|one| of(one).is_none_or(|selection| !self.0.contains_key(&selection)));
        for asked in asked {
            let found = self
                .0
                .iter()
                .filter(|(selection, _)| covers(asked, selection));
            loaded.extend(found.map(|(selection, (damaged, _))| {
                Loaded::Damaged(selection.clone(), damaged.clone())
            }));
        }
    }
}

/// Whether one selection has what another one has.
fn covers(asked: &Selection, one: &Selection) -> bool {
    let is_of = |device: &DeviceId| matches!(one, Selection::One(key) if key.device == *device);
    match asked {
        Selection::Family(device) => is_of(device),
        Selection::One(_)
        | Selection::Token(..)
        | Selection::Request(_)
        | Selection::Operation(_)
        | Selection::Provisioning(_) => asked == one,
        // Of what goes on, and of groups, the rest is there.
        Selection::Running | Selection::Groups => false,
    }
}

/// What selects just this one.
fn of(loaded: &Loaded) -> Option<Selection> {
    Some(match loaded {
        Loaded::Whole(record) => Selection::One(record.key.clone()),
        Loaded::Token(device, state) => Selection::Token(state.token.hash, device.clone()),
        Loaded::Request(answer) => Selection::Request(answer.id.clone()),
        Loaded::Operation(row) => Selection::Operation(row.id.clone()),
        Loaded::Provisioning(row) => Selection::Provisioning(row.key.clone()),
        Loaded::Damaged(..) => return None,
    })
}

impl Writer {
    /// Reads what decisions need; what cannot be written is damaged to them.
    pub(super) async fn load(
        &self,
        selections: Vec<Selection>,
    ) -> Result<Vec<Loaded>, store::Error> {
        let mut loaded = self.store.load_to_write(selections.clone()).await?;
        self.spoilt.mark(selections.iter(), &mut loaded);
        Ok(loaded)
    }

    /// Some of a commit cannot be written, and nothing of it was.
    pub(super) fn refused(
        &mut self,
        answers: Vec<Answer>,
        said: Vec<Loaded>,
    ) -> Result<(), store::Error> {
        let failure = store::Error::Unwritable(said.clone());
        let kept = self.spoilt.keep(said);
        for answer in answers {
            answer(Err(match &kept {
                // The next time it is decided on without that.
                Kept::New => Error::Overtaken,
                Kept::Known(damaged) => Error::Damaged(damaged.clone()),
                Kept::TooMuch => Error::Stopping,
            }));
        }
        if kept == Kept::TooMuch {
            return Err(failure);
        }
        Ok(())
    }
}
