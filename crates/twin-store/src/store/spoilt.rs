//! A commit in pieces, to find out which of them damage keeps from being written.
//!
//! A store that comes upon damage fails the whole commit and does not say because of what. So each piece is tried by
//! itself, and undone; what is left can be written, and of the others whoever decides on them is told that they are
//! damaged ([`super::Error::Unwritable`]). Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use twin::{DeviceId, IdentityKey, Partition, Revision};

use super::maintain::Table;
use super::quarantine::{Note, UNWRITABLE, name_of};
use super::{Commit, Loaded, OperationResultRow, ProvisioningWrite, Selection};
use crate::record::Damaged;

/// What a piece is of.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Of {
    /// Something that decisions load: who decides on it is to know.
    Selection(Selection),
    /// What an operation did to a twin; it is written without it.
    Result(OperationResultRow),
    /// The part of a log that is to go; it stays.
    Log(Partition, Revision),
}

/// A piece of a commit, to be tried by itself.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) of: Of,
    pub(super) commit: Commit,
}

impl Piece {
    /// The table whose indexes it may have come upon.
    pub(super) fn table(&self) -> Option<Table> {
        match &self.of {
            Of::Selection(Selection::One(_) | Selection::Family(_)) => Some(Table::Index),
            Of::Selection(Selection::Request(_)) => Some(Table::Requests),
            Of::Selection(Selection::Operation(_) | Selection::Running) => Some(Table::Operations),
            Of::Selection(
                Selection::Token(..) | Selection::Provisioning(_) | Selection::Groups,
            )
            | Of::Result(_)
            | Of::Log(..) => None,
        }
    }

    /// What is noted of it, and what those are told who decide on it.
    pub(super) fn told(&self, why: &str) -> (Note, Option<Loaded>) {
        let problem = format!("{UNWRITABLE}: {why}");
        let damaged = |key, part| Damaged {
            key,
            part,
            problem: problem.clone(),
        };
        match &self.of {
            Of::Selection(selection) => {
                let (key, part) = name_of(selection);
                let loaded = Loaded::Damaged(selection.clone(), damaged(key, part));
                let mut note = Note::of_loaded(&loaded).unwrap_or_else(|| Note {
                    table: Table::Twins,
                    key: Vec::new(),
                    problem: String::new(),
                });
                note.problem = problem;
                (note, Some(loaded))
            }
            Of::Result(row) => {
                let mut note =
                    Note::of_result(&row.operation, &damaged(row.key.to_string(), "row"));
                note.problem = problem;
                (note, None)
            }
            Of::Log(partition, through) => {
                let mut note = Note::of_change(*partition, *through);
                note.problem = problem;
                (note, None)
            }
        }
    }
}

/// The pieces of a commit. Routine revisions are not put together in them. What belongs to partitions as a whole (where
/// they stand, what is added to their logs and to the audit log) is in none: without it nothing is written.
pub(super) fn pieces(commit: &Commit) -> Vec<Piece> {
    let mut twins: BTreeMap<IdentityKey, Commit> = BTreeMap::new();
    for upsert in &commit.upserts {
        let piece = twins.entry(upsert.record.key.clone()).or_default();
        piece.upserts.push(upsert.clone());
    }
    for key in &commit.deletes {
        let piece = twins.entry(key.clone()).or_default();
        piece.deletes.push(key.clone());
    }
    for entry in &commit.history {
        let piece = twins.entry(entry.key.clone()).or_default();
        piece.history.push(entry.clone());
    }
    let twins = twins.into_iter();
    let mut pieces: Vec<Piece> = twins
        .map(|(key, commit)| piece(Selection::One(key), commit))
        .collect();
    // A new token is another one the next time, for whichever device it is.
    pieces.extend(commit.tokens.iter().filter_map(|token| {
        let device = token.device.clone();
        let device = device.or_else(|| DeviceId::parse("any").ok())?;
        let commit = Commit {
            tokens: vec![token.clone()],
            ..Commit::default()
        };
        Some(piece(Selection::Token(token.hash, device), commit))
    }));
    pieces.extend(commit.enrollments.iter().map(|use_of| {
        let selection = Selection::Token(use_of.hash, use_of.device.clone());
        let enrollments = vec![use_of.clone()];
        let commit = Commit {
            enrollments,
            ..Commit::default()
        };
        piece(selection, commit)
    }));
    pieces.extend(commit.requests.iter().map(|answer| {
        let requests = vec![answer.clone()];
        let commit = Commit {
            requests,
            ..Commit::default()
        };
        piece(Selection::Request(answer.id.clone()), commit)
    }));
    pieces.extend(commit.operations.iter().map(|row| {
        let operations = vec![row.clone()];
        let commit = Commit {
            operations,
            ..Commit::default()
        };
        piece(Selection::Operation(row.id.clone()), commit)
    }));
    pieces.extend(commit.provisioning.iter().map(|write: &ProvisioningWrite| {
        let provisioning = vec![write.clone()];
        let commit = Commit {
            provisioning,
            ..Commit::default()
        };
        piece(Selection::Provisioning(write.key().clone()), commit)
    }));
    pieces.extend(commit.results.iter().map(|row| Piece {
        of: Of::Result(row.clone()),
        commit: Commit {
            results: vec![row.clone()],
            ..Commit::default()
        },
    }));
    pieces.extend(commit.trim_log.iter().map(|(partition, through)| Piece {
        of: Of::Log(*partition, *through),
        commit: Commit {
            trim_log: vec![(*partition, *through)],
            ..Commit::default()
        },
    }));
    pieces
}

fn piece(selection: Selection, commit: Commit) -> Piece {
    Piece {
        of: Of::Selection(selection),
        commit,
    }
}

/// Pieces as one commit.
pub(super) fn together(pieces: &[Piece]) -> Commit {
    let mut all = Commit::default();
    for Piece { commit, .. } in pieces {
        all.upserts.extend(commit.upserts.iter().cloned());
        all.deletes.extend(commit.deletes.iter().cloned());
        all.history.extend(commit.history.iter().cloned());
        all.tokens.extend(commit.tokens.iter().cloned());
        all.enrollments.extend(commit.enrollments.iter().cloned());
        all.requests.extend(commit.requests.iter().cloned());
        all.operations.extend(commit.operations.iter().cloned());
        all.provisioning.extend(commit.provisioning.iter().cloned());
        all.results.extend(commit.results.iter().cloned());
        all.trim_log.extend(commit.trim_log.iter().copied());
    }
    all
}

/// A commit without what can be left out of it, and with nothing put together with what is there.
pub(super) fn without(commit: &Commit, failed: &[Of]) -> Commit {
    let mut left = commit.clone();
    left.coalesce_within = Duration::ZERO;
    left.results
        .retain(|row| !failed.contains(&Of::Result(row.clone())));
    left.trim_log
        .retain(|(partition, through)| !failed.contains(&Of::Log(*partition, *through)));
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sample;

    #[test]
    fn the_pieces_of_a_commit_are_all_of_it_but_what_belongs_to_partitions() {
        let whole = Commit {
            tokens: sample::tokens(),
            enrollments: sample::enrollments(),
            requests: sample::answers(),
            operations: sample::operations(),
            results: sample::results(),
            provisioning: sample::provisioning(),
            deletes: vec![crate::testing::key("gone")],
            history: vec![sample::revision(&crate::testing::key("d"), 1)],
            ..Commit::default()
        };
        let pieces = pieces(&whole);
        assert_eq!(pieces.len(), 10);
        let mut again = together(&pieces);
        let mut whole = whole;
        for commit in [&mut again, &mut whole] {
            let key = |write: &ProvisioningWrite| write.key().clone();
            commit.provisioning.sort_by_key(key);
        }
        assert_eq!(format!("{again:?}"), format!("{whole:?}"));
    }

    #[test]
    fn what_can_be_left_out_is_left_out_and_nothing_else() {
        let result = sample::results().remove(0);
        let commit = Commit {
            results: sample::results(),
            requests: sample::answers(),
            coalesce_within: Duration::from_hours(1),
            ..Commit::default()
        };
        let left = without(&commit, &[Of::Result(result)]);
        assert_eq!((left.results.len(), left.requests.len()), (0, 1));
        assert_eq!(left.coalesce_within, Duration::ZERO);
    }
}
