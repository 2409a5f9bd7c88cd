//! Commits of the shared store that come upon damage: what cannot be written is found, got around or told of.

use deadpool_postgres::{Client, Transaction};
use futures::try_join;
use service_kit::error::chain;

use super::apart::{Care, each, part, sparing};
use super::read::is_of_damage;
use super::write::{history, move_and_log, records, rest, try_to_commit};
use super::{engine, trails};
use crate::store::quarantine::Note;
use crate::store::spoilt::{Piece, pieces, together, without};
use crate::store::{Commit, Error};

/// Writes a commit that has failed because of damage; it answers that failure if nothing helps.
pub(super) async fn commit(
    client: &mut Client,
    commit: &Commit,
    failure: Error,
) -> Result<Vec<Note>, Error> {
    let pieces = pieces(commit);
    let failed = Box::pin(failing(client, &pieces)).await?;
    let mut notes = Vec::new();
    let mut unwritable = Vec::new();
    let mut left_out = Vec::new();
    for (piece, error) in failed {
        let (note, loaded) = piece.told(&chain(&error));
        if let Some(loaded) = loaded {
            unwritable.push(loaded);
            continue;
        }
        notes.push(note);
        left_out.push(piece.of.clone());
    }
    if !unwritable.is_empty() {
        return Err(Error::Unwritable(unwritable));
    }
    if left_out.is_empty() {
        return Err(failure);
    }
    let commit = without(commit, &left_out);
    match Box::pin(try_to_commit(client, &commit, Care::Apart)).await {
        Ok(found) => {
            notes.extend(found);
            Ok(notes)
        }
        Err(error) if is_of_damage(&error) => Err(failure),
        Err(error) => Err(error),
    }
}

/// Those that damage keeps from being written, each with what the server says. Nothing of it stays written.
async fn failing<'p>(
    client: &mut Client,
    pieces: &'p [Piece],
) -> Result<Vec<(&'p Piece, Error)>, Error> {
    let action = "look what of a commit cannot be written";
    let transaction = client.transaction().await.map_err(engine(action))?;
    sparing(&transaction).await?;
    let tried = each(&transaction, Care::Apart, pieces, |range| {
        write(&transaction, together(part(pieces, range)))
    });
    let failed = Box::pin(tried).await?.failed;
    transaction.rollback().await.map_err(engine(action))?;
    let failed = failed.into_iter();
    Ok(failed
        .filter_map(|(number, error)| Some((pieces.get(number)?, error)))
        .collect())
}

/// Writes everything of a commit but where its partitions stand.
async fn write(transaction: &Transaction<'_>, commit: Commit) -> Result<(), Error> {
    let last = trails::last_routine(transaction, &commit, Care::Apart).await?;
    try_join!(
        records(transaction, &commit),
        move_and_log(transaction, &commit),
        history(transaction, &commit, Some(last)),
        rest(transaction, &commit),
    )?;
    Ok(())
}
