//! Follows the logs and the chains of audit entries.

use prost::Message as _;
use twin::{Partition, Revision};
use wire::bus::v1::TwinChange;

use super::fields::hash;
use super::{Checker, Fields, Standing};
use crate::store::AuditEntry;
use crate::store::row::change;
use crate::store::row::history::instant;

/// Changes between two that are logged: all of one commit at most.
const UNLOGGED_MAX: u64 = 100_000;

impl Checker {
    pub(super) fn log(&mut self, row: &Fields<'_>) -> Result<(), String> {
        let (index, revision) = (row.number(0), row.number(1));
        let (partition, standing) = self.standing(index)?;
        let expected = standing.logged + 1;
        standing.logged = standing.logged.max(revision);
        let change = change::open(partition, Revision::new(revision), row.bytes(2))
            .ok_or("its checksum does not match")?;
        if revision < expected || revision - expected > UNLOGGED_MAX {
            return Err(format!(
                "it should be change {expected}: the log has a gap before it, or forgot it"
            ));
        }
        // A commit that changes a twin several times logs the last change of it, which names the others.
        standing.unlogged.extend(expected..revision);
        if !standing.unlogged.is_empty() {
            // One that cannot be read names none, and the gap is told at the end.
            let change = TwinChange::decode(change).unwrap_or_default();
            for earlier in change.earlier_revisions {
                standing.unlogged.remove(&earlier);
            }
        }
        if revision > standing.revision {
            return Err(format!(
                "the last change of its partition is {}",
                standing.revision
            ));
        }
        Ok(())
    }

    fn standing(&mut self, index: u64) -> Result<(Partition, &mut Standing), String> {
        let missing = || "there is no such partition".to_owned();
        let partition = u16::try_from(index)
            .ok()
            .zip(self.count)
            .and_then(|(index, count)| Partition::new(index, count).ok())
            .ok_or_else(missing)?;
        let standing = self.partitions.get_mut(&index).ok_or_else(missing)?;
        Ok((partition, standing))
    }

    pub(super) fn audit(&mut self, row: &Fields<'_>) -> Result<(), String> {
        let (partition, standing) = self.standing(row.number(0))?;
        let entry = AuditEntry {
            partition,
            sequence: row.number(1),
            at: instant(row.integer(2)),
            actor: row.text(3).to_owned(),
            action: row.text(4).to_owned(),
            resource: row.text(5).to_owned(),
            detail: row.text(6).to_owned(),
            trace_parent: row.optional(7),
            hash: hash(row.bytes(8), "hash")?,
        };
        // Behind a break every entry would be noted.
        if standing.broken {
            return Ok(());
        }
        standing.walk.step(&entry).map_err(|broken| {
            standing.broken = true;
            broken.to_string()
        })
    }
}
