//! Commits of the embedded store that come upon damage: it is mended, got around, or told of.

use std::collections::BTreeSet;

use rusqlite::Connection;
use service_kit::error::chain;

use super::indexes::{Indexes, is_of_index};
use super::read::is_of_damage;
use super::write::{Care, begin, try_to_commit, write_all};
use crate::store::quarantine::Note;
use crate::store::spoilt::{Piece, pieces, without};
use crate::store::{Commit, Error};

/// Writes a commit that has failed because of damage; it answers that failure if nothing helps.
pub(super) fn commit(
    connection: &mut Connection,
    commit: &Commit,
    indexes: &Indexes,
    failure: Error,
    notes: &mut Vec<Note>,
) -> Result<(), Error> {
    let pieces = pieces(commit);
    let failed = failing(connection, &pieces, Care::Together)?;
    let unfit = failed.iter().filter(|(_, error)| is_of_index(error));
    let tables: BTreeSet<_> = unfit.filter_map(|(piece, _)| piece.table()).collect();
    for table in tables {
        indexes.mend(connection, table)?;
    }
    match try_to_commit(connection, commit, Care::Together, notes) {
        Err(error) if is_of_damage(&error) => {}
        done => return done,
    }
    let failed = failing(connection, &pieces, Care::Apart)?;
    let mut unwritable = Vec::new();
    let mut left_out = Vec::new();
    for (piece, error) in failed {
        let (note, loaded) = piece.told(&chain(&error));
        notes.push(note);
        match loaded {
            Some(loaded) => unwritable.push(loaded),
            None => left_out.push(piece.of.clone()),
        }
    }
    if !unwritable.is_empty() {
        return Err(Error::Unwritable(unwritable));
    }
    let commit = without(commit, &left_out);
    match try_to_commit(connection, &commit, Care::Apart, notes) {
        Err(error) if is_of_damage(&error) => Err(failure),
        done => done,
    }
}

/// Those that damage keeps from being written, each with what the engine says.
fn failing<'p>(
    connection: &mut Connection,
    pieces: &'p [Piece],
    care: Care,
) -> Result<Vec<(&'p Piece, Error)>, Error> {
    let mut failed = Vec::new();
    for piece in pieces {
        // It ends with the transaction undone.
        let transaction = begin(connection)?;
        match write_all(&transaction, &piece.commit, care, &mut Vec::new()) {
            Ok(()) | Err(Error::TokenUsedUp) => {}
            Err(error) if is_of_damage(&error) => failed.push((piece, error)),
            Err(error) => return Err(error),
        }
    }
    Ok(failed)
}
