//! Sets apart what the server cannot read, so that it fails nothing beside it.
//!
//! Statements serve many rows or identities at once, and the server, which does not say which of them is damaged,
//! fails all. So they are run together first, which costs nothing more; only where damage fails them, once more in
//! ever smaller parts, each behind a savepoint. It never decides what becomes of what is set apart.

use std::ops::Range;

use deadpool_postgres::Transaction;

use super::engine;
use super::read::is_of_damage;
use crate::store::Error;

/// Instants that are stepped over at once: each takes some sixty small statements to be found.
const HOLES_MAX: usize = 16;

/// How statements that serve many are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// All at once: damage of one fails all.
    Together,
    /// In ever smaller parts where damage fails them.
    Apart,
}

/// Does something as a whole or not at all; a failure of it leaves the transaction as it was.
pub(super) async fn whole<T>(
    transaction: &Transaction<'_>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<Result<T, Error>, Error> {
    let action = "set what fails apart";
    let mark = transaction.batch_execute("SAVEPOINT whole").await;
    mark.map_err(engine(action))?;
    let done = work.await;
    let end = match &done {
        Ok(_) => "RELEASE SAVEPOINT whole",
        Err(_) => "ROLLBACK TO SAVEPOINT whole; RELEASE SAVEPOINT whole",
    };
    let ended = transaction.batch_execute(end).await;
    ended.map_err(engine(action))?;
    Ok(done)
}

/// Has the server read no more than it is asked for: in a small table it goes through all pages otherwise, and one
/// that is damaged fails everything.
pub(super) async fn sparing(transaction: &Transaction<'_>) -> Result<(), Error> {
    let action = "read no more than is asked for";
    let settings = transaction.batch_execute(
        "SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_seqscan = off;
         SET LOCAL enable_bitmapscan = off; SET LOCAL enable_hashjoin = off;
         SET LOCAL enable_mergejoin = off",
    );
    settings.await.map_err(engine(action))
}

/// What came of many.
#[derive(Debug)]
pub(super) struct Parts<T> {
    /// By the parts that were done together, in their order.
    pub(super) done: Vec<(Range<usize>, T)>,
    /// Which of them damage keeps from being done.
    pub(super) failed: Vec<(usize, Error)>,
}

/// Does something with each of `items`, whose [`part`]s it is told: with all at once, and with care in halves and halves
/// of them where damage fails it, down to single ones.
///
/// # Errors
/// Anything but damage; together also damage.
pub(super) async fn each<I, T, F>(
    transaction: &Transaction<'_>,
    care: Care,
    items: &[I],
    work: impl Fn(Range<usize>) -> F,
) -> Result<Parts<T>, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut parts = Parts {
        done: Vec::new(),
        failed: Vec::new(),
    };
    // Those that come first are at its end.
    let mut open: Vec<_> = std::iter::once(0..items.len()).collect();
    while let Some(range) = open.pop() {
        if range.is_empty() {
            continue;
        }
        let done = match care {
            Care::Together => Box::pin(work(range.clone())).await,
            Care::Apart => whole(transaction, Box::pin(work(range.clone()))).await?,
        };
        match done {
            Ok(done) => parts.done.push((range, done)),
            Err(error) if care == Care::Together || !is_of_damage(&error) => return Err(error),
            Err(error) if range.len() == 1 => parts.failed.push((range.start, error)),
            Err(_) => {
                let middle = range.start.midpoint(range.end);
                open.extend([middle..range.end, range.start..middle]);
            }
        }
    }
    Ok(parts)
}

/// A part of many.
pub(super) fn part<I>(items: &[I], range: Range<usize>) -> &[I] {
    items.get(range).unwrap_or_default()
}

/// What was found in the order of times.
#[derive(Debug)]
pub(super) struct Found<T> {
    pub(super) rows: Vec<T>,
    /// Instants at which something is that cannot be read, and why.
    pub(super) holes: Vec<(i64, Error)>,
    /// Where to go on, if not all of the time was looked at: it has too many holes.
    pub(super) rest: Option<i64>,
}

impl<T> Found<T> {
    /// Behind the last hole.
    pub(super) fn beyond(&self) -> Option<i64> {
        self.holes.last().map(|(at, _)| at.saturating_add(1))
    }
}

/// Reads up to so many rows in the order of their times. With care, where damage fails the reading, the time is
/// halved until the instant is found that cannot be read, and it is stepped over.
///
/// # Errors
/// Anything but damage; together also damage.
pub(super) async fn in_time<T, F>(
    transaction: &Transaction<'_>,
    care: Care,
    time: Range<i64>,
    most: usize,
    read: impl Fn(Range<i64>, usize) -> F,
) -> Result<Found<T>, Error>
where
    F: Future<Output = Result<Vec<T>, Error>>,
{
    let mut found = Found {
        rows: Vec::new(),
        holes: Vec::new(),
        rest: None,
    };
    if care == Care::Together {
        found.rows = read(time, most).await?;
        return Ok(found);
    }
    let mut low = time.start;
    while low < time.end && found.rows.len() < most {
        // All before `low` is read, or stepped over; `high` is where reading fails before, if it does.
        let (mut high, mut why) = (time.end, None);
        loop {
            let until = match why {
                None => high,
                Some(_) if high.abs_diff(low) <= 1 => break,
                Some(_) => low.midpoint(high),
            };
            let left = most - found.rows.len();
            match whole(transaction, Box::pin(read(low..until, left))).await? {
                Ok(rows) => {
                    found.rows.extend(rows);
                    low = until;
                    if why.is_none() || found.rows.len() >= most {
                        return Ok(found);
                    }
                }
                Err(error) if is_of_damage(&error) => (high, why) = (until, Some(error)),
                Err(error) => return Err(error),
            }
        }
        found.holes.extend(why.map(|why| (low, why)));
        low = high;
        if found.holes.len() == HOLES_MAX {
            found.rest = Some(low);
            return Ok(found);
        }
    }
    Ok(found)
}
