//! Searches decided to the end: what a store finds, evaluated again in memory.
//!
//! A store may answer more than what matches ([`crate::store::Plan::residual`]). Lists, queries and
//! whoever else looks for twins come through here, so that all of them mean the same by a condition.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use twin::query::{
    Attribute, Datum, LazyPosture, LazySection, LazyTwin, Lookup, Path, Root, Scope,
};
use twin::{IdentityKey, ModuleId};

use crate::lookup;
use crate::record::{Damaged, Record};
use crate::store::{Error, RawRecord, Search, Store};

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
    let mut turn = Turn::begin();
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
            turn.share().await;
        }
        found.next.clone_from(&page.next);
        if page.next.is_none() || found.records.len() >= wanted || began.elapsed() >= within {
            return Ok(found);
        }
        search.after = page.next;
    }
}

/// Gives every twin that is searched for to `each`, in the order of their keys, until that is enough
/// for it. Answers what could not be read. `paths` are all that `each` looks at beside the condition:
/// of most twins only a few values are wanted, and only those are parsed.
///
/// # Errors
/// The store failed, or `each` did.
pub async fn each<E: From<Error>>(
    store: &dyn Store,
    search: Search,
    paths: &BTreeSet<Path>,
    mut each: impl FnMut(Seen<'_>) -> Result<Next, E> + Send,
) -> Result<Vec<Damaged>, E> {
    let mut search = search;
    let mut damaged = Vec::new();
    search.limit = CHUNK;
    let condition = match &search.condition {
        Scope::Everything | Scope::Nothing => BTreeSet::new(),
        Scope::Where(expr) => expr.paths(),
    };
    let is_shallow = paths.iter().chain(&condition).all(is_in_column);
    let mut turn = Turn::begin();
    loop {
        let page = store.scan(search.clone()).await?;
        damaged.extend(page.damaged);
        for raw in page.records {
            let next = if is_shallow {
                let twin = of_raw(&raw);
                see(&search, &raw, &twin, &mut each)?
            } else {
                match raw.clone().parse() {
                    Ok(record) => see(&search, &raw, &lookup::of_record(&record), &mut each)?,
                    Err(problem) => Err(problem),
                }
            };
            match next {
                Ok(Next::Go) => {}
                Ok(Next::Enough) => return Ok(damaged),
                Err(problem) => damaged.push(problem),
            }
            turn.share().await;
        }
        let Some(next) = page.next else {
            return Ok(damaged);
        };
        search.after = Some(next);
    }
}

/// The time that one call has a worker for itself while it judges twins.
const TURN: Duration = Duration::from_micros(500);

/// Lets others have the worker from time to time. Judging a twin takes microseconds, but a twin may be
/// made to take milliseconds; then its limit in time would pass unnoticed as well.
pub struct Turn(Instant);

impl Turn {
    /// Begins.
    pub fn begin() -> Turn {
        Turn(Instant::now())
    }

    /// Lets others go on if it is time. To be called after each twin.
    pub async fn share(&mut self) {
        if self.0.elapsed() >= TURN {
            tokio::task::yield_now().await;
            self.0 = Instant::now();
        }
    }
}

/// A twin that was found.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// The whole of it, not parsed.
    pub raw: &'a RawRecord,
    /// What a query asks.
    pub twin: &'a dyn Lookup,
}

fn see<'a, A, E>(
    search: &Search,
    raw: &'a RawRecord,
    twin: &LazyTwin<'a, A>,
    each: &mut impl FnMut(Seen<'_>) -> Result<Next, E>,
) -> Result<Result<Next, Damaged>, E>
where
    A: Fn(Attribute) -> Datum<'a>,
{
    let next = if search.condition.holds_at(twin, search.now) {
        each(Seen { raw, twin })?
    } else {
        Next::Go
    };
    // Whatever was looked at and could not be read was undefined, and has to be told of.
    Ok(lookup::undamaged(&raw.key().to_string(), twin).map(|()| next))
}

/// Whether a path leads into a column of a row, so that the rest need not be parsed.
fn is_in_column(path: &Path) -> bool {
    match &path.root {
        Root::Tags | Root::Desired | Root::Reported => {
            path.keys.first().is_some_and(|key| !key.starts_with('$'))
        }
        Root::Posture | Root::Variable { .. } => true,
        // They are in the rest of the row.
        Root::DeviceTags => false,
        Root::Attribute(attribute) => matches!(
            attribute,
            Attribute::DeviceId | Attribute::ModuleId | Attribute::Status
        ),
    }
}

/// A row as a query sees it that keeps to [`is_in_column`].
fn of_raw<'a>(raw: &'a RawRecord) -> LazyTwin<'a, impl Fn(Attribute) -> Datum<'a>> {
    LazyTwin {
        attributes: move |attribute| match attribute {
            Attribute::DeviceId => Datum::text(raw.key().device.as_str()),
            Attribute::ModuleId => {
                Datum::optional_text(raw.key().module.as_ref().map(ModuleId::as_str))
            }
            Attribute::Status => Datum::text(raw.status()),
            _ => Datum::Undefined,
        },
        tags: LazySection::new(raw.tags(), "", 0),
        desired: LazySection::new(raw.desired(), "", 0),
        reported: LazySection::new(raw.reported(), "", 0),
        posture: LazyPosture::from_text(raw.posture()),
        device_tags: None,
        undecided: false.into(),
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
