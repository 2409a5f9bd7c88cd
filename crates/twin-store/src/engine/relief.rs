//! What the writer does now and then: it notes what was published, lets the log go that nobody needs any
//! more, and looks how many identities there are.

use std::collections::BTreeMap;

use twin::Revision;

use super::Writer;
use crate::apply::Outcome;
use crate::store::{self, Commit, PartitionState};

impl Writer {
    /// Notes how far was published, and forgets what the log need not hold any more.
    pub(super) async fn relieve(&mut self) -> Result<(), store::Error> {
        let nothing = Outcome::default();
        let (mut commit, _) = self.prepare(nothing, &BTreeMap::new(), self.clock.now())?;
        self.trim_log(&mut commit);
        self.commit(commit).await?;
        self.population = self.store.population().await?;
        Ok(())
    }

    /// Published changes beyond those that are kept for watchers go.
    fn trim_log(&mut self, commit: &mut Commit) {
        let mut states = self.states.clone();
        states.extend(
            commit
                .partitions
                .iter()
                .map(|state| (state.partition, *state)),
        );
        for (partition, state) in states {
            let kept = state.revision.get().saturating_sub(self.keep.log_changes);
            let through = Revision::new(kept).min(state.published);
            let trimmed = self.trimmed.entry(partition).or_default();
            if through <= *trimmed {
                continue;
            }
            *trimmed = through;
            commit.trim_log.push((partition, through));
            let known = |other: &PartitionState| other.partition == partition;
            if !commit.partitions.iter().any(known) {
                commit.partitions.push(state);
            }
        }
    }
}
