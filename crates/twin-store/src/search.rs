//! Searches decided to the end: what a store finds, evaluated again in memory.
//!
//! A store may answer more than what matches ([`crate::store::Plan::residual`]). Lists, queries and
//! whoever else looks for twins come through here, so that all of them mean the same by a condition.

use std::time::Duration;

use tokio::time::Instant;
use twin::IdentityKey;
use twin::query::{Attribute, Datum, LazyTwin, Scope};

use crate::lookup;
use crate::record::{Damaged, Record};
use crate::store::{Error, Search, Store};

/// Records read at once. At most some 100 KiB each, they bound the memory of a search.
pub const CHUNK: u32 = 256;

/// A page of what was searched for.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The records, in the order of their keys.
    pub records: Vec<Record>,
    /// What could not be read on the way, and may have been meant.
    pub damaged: Vec<Damaged>,
    /// Behind which key the next page starts; none after the last.
    pub next: Option<IdentityKey>,
}

/// Reads a page of at most `search.limit` records. It ends early, with fewer records or none, once
/// `within` has passed, so that a call comes back in time whatever its condition.
///
/// # Errors
/// The store failed.
pub async fn pages(store: &dyn Store, search: Search, within: Duration) -> Result<Found, Error> {
    let began = Instant::now();
    let wanted = usize::try_from(search.limit).unwrap_or(usize::MAX);
    let mut search = search;
    let mut found = Found::default();
    loop {
        let left = wanted.saturating_sub(found.records.len());
        search.limit = u32::try_from(left).unwrap_or(u32::MAX).min(CHUNK);
        let page = store.search(search.clone()).await?;
        found.damaged.extend(page.damaged);
        for record in page.records {
            match decide(&search, &record) {
                Ok(true) => found.records.push(record),
                Ok(false) => {}
                Err(damaged) => found.damaged.push(damaged),
            }
        }
        found.next.clone_from(&page.next);
        if page.next.is_none() || found.records.len() >= wanted || began.elapsed() >= within {
            return Ok(found);
        }
        search.after = page.next;
    }
}

/// Gives every record that is searched for to `each`, in the order of their keys, until that is
/// enough for it. Answers what could not be read.
///
/// # Errors
/// The store failed, or `each` did.
pub async fn each<E: From<Error>>(
    store: &dyn Store,
    search: Search,
    mut each: impl FnMut(Record) -> Result<Next, E> + Send,
) -> Result<Vec<Damaged>, E> {
    let mut search = search;
    let mut damaged = Vec::new();
    search.limit = CHUNK;
    loop {
        let page = store.search(search.clone()).await?;
        damaged.extend(page.damaged);
        for record in page.records {
            match decide(&search, &record) {
                Ok(false) => {}
                Ok(true) => match each(record)? {
                    Next::Go => {}
                    Next::Enough => return Ok(damaged),
                },
                Err(problem) => damaged.push(problem),
            }
        }
        let Some(next) = page.next else {
            return Ok(damaged);
        };
        search.after = Some(next);
    }
}

/// Whether more records are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// They are.
    Go,
    /// They are not.
    Enough,
}

/// Whether the condition of a search holds for a record that the store has found.
///
/// # Errors
/// A part of the record that the condition looks at cannot be read.
pub fn decide(search: &Search, record: &Record) -> Result<bool, Damaged> {
    match &search.condition {
        Scope::Everything => Ok(true),
        Scope::Nothing => Ok(false),
        Scope::Where(_) => {
            let twin = lookup::of_record(record);
            let holds = search.condition.holds_at(&twin, search.now);
            whole(record, &twin)?;
            Ok(holds)
        }
    }
}

/// Refuses a twin of which a part was looked at and could not be read.
///
/// # Errors
/// Names the part.
pub fn whole<'a, A>(record: &Record, twin: &LazyTwin<'a, A>) -> Result<(), Damaged>
where
    A: Fn(Attribute) -> Datum<'a>,
{
    lookup::undamaged(&record.key.to_string(), twin)
}
