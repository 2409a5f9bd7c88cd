//! Reading the audit log by time: what is asked for, and the statements that both stores run for it.
//!
//! A reading looks at a bounded number of entries and goes on behind the last one; what one index
//! does not decide is decided on the entries read. It never walks a chain: verifying does.

use jiff::Timestamp;
use twin::Partition;

use super::{AuditEntry, OrHole};

/// Entries that an index by a text finds are few when they are fewer than this; then they are put in
/// order, and no other index is needed. More are read in an order that an index has.
pub(super) const FEW: i64 = 1000;

/// Which audit entries to read, of all chains, in the order of their times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditRead {
    /// The newest first, or the oldest.
    pub newest_first: bool,
    /// Only those committed at or after this time.
    pub from: Option<Timestamp>,
    /// Only those committed before this time.
    pub to: Option<Timestamp>,
    /// Only those of this actor.
    pub actor: Option<String>,
    /// Only those of this action.
    pub action: Option<String>,
    /// Only those of this resource and of what is below it.
    pub resource: Option<String>,
    /// Behind which entry to begin, in this order; none: with the first.
    pub after: Option<AuditPlace>,
    /// Entries looked at, at most.
    pub limit: u32,
    /// The index that an earlier reading of the same list chose; none: it is chosen, which takes a count.
    pub by: Option<By>,
}

/// A place in the order of times. Entries of one time stand in the order of their chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditPlace {
    /// When.
    pub at: Timestamp,
    /// Of which chain.
    pub partition: Partition,
    /// The place there.
    pub sequence: u64,
}

/// What a reading of the audit log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFound {
    /// In order. One that cannot be read is told whatever was asked for.
    pub entries: Vec<OrHole<AuditEntry, (Partition, u64)>>,
    /// The last one looked at, if there may be more behind it.
    pub next: Option<AuditPlace>,
    /// How many were looked at.
    pub looked_at: usize,
    /// The index that they were found by; none if the store has none.
    pub by: Option<By>,
}

impl AuditRead {
    /// Whether an entry is asked for; its place is not looked at.
    pub fn wants(&self, entry: &AuditEntry) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        is(&self.actor, &entry.actor)
            && is(&self.action, &entry.action)
            && self
                .resource
                .as_deref()
                .is_none_or(|resource| is_at_or_below(resource, &entry.resource))
            && self.from.is_none_or(|from| entry.at >= from)
            && self.to.is_none_or(|to| entry.at < to)
    }
}

/// Whether a resource is another one, or below it.
fn is_at_or_below(above: &str, resource: &str) -> bool {
    resource
        .strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// By which index to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Of times.
    Time,
    /// Of actors, in the order of times.
    Actor,
    /// Of actions, in the order of times.
    Action,
    /// Of resources. Of entries that are few.
    Resource,
}

/// What of a reading an index could decide, the narrowest as a rule first.
pub(super) fn filters(read: &AuditRead) -> impl Iterator<Item = (By, &str)> {
    [
        (By::Resource, &read.resource),
        (By::Action, &read.action),
        (By::Actor, &read.actor),
    ]
    .into_iter()
    .filter_map(|(by, text)| Some((by, text.as_deref()?)))
}

/// The index to read by, when of none of the filters the entries are few: one that has them in order.
pub(super) fn ordered(read: &AuditRead) -> By {
    let mut filters = filters(read).map(|(by, _)| by);
    filters.find(|by| *by != By::Resource).unwrap_or(By::Time)
}

/// Texts below a resource: behind the first, before the second.
pub(super) fn below(resource: &str) -> [String; 2] {
    // The character behind `/`.
    [format!("{resource}/"), format!("{resource}0")]
}

/// The statement that counts what an index finds, up to [`FEW`]. Parameters: [`FEW`], then those of
/// [`select`] from the sixth. `parameter` makes a placeholder; `bytewise` is what makes texts be
/// compared byte by byte.
pub(super) fn count(by: By, parameter: fn(usize) -> String, bytewise: &str) -> String {
    let p = parameter;
    let sources = sources(by, |number| p(number - 4), bytewise, "1");
    format!(
        "SELECT count(*) FROM (SELECT 1 FROM ({sources}) AS f LIMIT {})",
        p(1)
    ) + " AS few"
}

/// The statement that finds places. Parameters: of the place to begin behind its time, partition and
/// sequence; the time that ends it; how many; the text; for a resource what bounds what is below it.
pub(super) fn select(
    by: By,
    newest_first: bool,
    parameter: fn(usize) -> String,
    bytewise: &str,
) -> String {
    let p = parameter;
    let sources = sources(by, p, bytewise, "at, partition, sequence");
    let (behind, within, order) = if newest_first {
        ("<", ">=", "DESC")
    } else {
        (">", "<", "ASC")
    };
    // Of those that are few an engine would rather walk all in their order, than put them in order.
    let (with, from) = match by {
        By::Resource => (
            format!("WITH f AS MATERIALIZED ({sources}) "),
            "f".to_owned(),
        ),
        By::Time | By::Actor | By::Action => (String::new(), format!("({sources}) AS f")),
    };
    format!(
        "{with}SELECT at, partition, sequence FROM {from}
         WHERE (at, partition, sequence) {behind} ({}, {}, {}) AND at {within} {}
         ORDER BY at {order}, partition {order}, sequence {order} LIMIT {}",
        p(1),
        p(2),
        p(3),
        p(4),
        p(5)
    )
}

fn sources(by: By, p: impl Fn(usize) -> String, bytewise: &str, columns: &str) -> String {
    let of = |condition: String| format!("SELECT {columns} FROM audit WHERE {condition}");
    match by {
        By::Time => format!("SELECT {columns} FROM audit"),
        By::Actor => of(format!("actor{bytewise} = {}", p(6))),
        By::Action => of(format!("action{bytewise} = {}", p(6))),
        By::Resource => {
            let column = format!("resource{bytewise}");
            let below = format!("{column} >= {} AND {column} < {}", p(7), p(8));
            format!(
                "{} UNION ALL {}",
                of(format!("{column} = {}", p(6))),
                of(below)
            )
        }
    }
}

/// The place behind which a reading begins, and the time that ends it, as rows have them. Both bounds
/// of time are folded into these two: an engine then begins where the page does, and walks to nothing.
pub(super) fn bounds(read: &AuditRead, nanoseconds: fn(Timestamp) -> Option<i64>) -> Bounds {
    let far = |at: Timestamp| {
        if at < Timestamp::UNIX_EPOCH {
            i64::MIN
        } else {
            i64::MAX
        }
    };
    let row = |at: Timestamp| nanoseconds(at).unwrap_or_else(|| far(at));
    let place = read.after.map(|place| Bounds {
        at: row(place.at),
        partition: i32::from(place.partition.get()),
        sequence: place.sequence.cast_signed(),
        end: 0,
    });
    let key = |bounds: &Bounds| (bounds.at, bounds.partition, bounds.sequence);
    let (begin, end) = if read.newest_first {
        // Everything of an earlier time is before this.
        let to = Bounds {
            at: read.to.map_or(i64::MAX, row),
            partition: -1,
            sequence: -1,
            end: 0,
        };
        let begin = place.into_iter().chain([to]).min_by_key(key);
        (begin.unwrap_or(to), read.from.map_or(i64::MIN, row))
    } else {
        let from = Bounds {
            at: read
                .from
                .map_or(i64::MIN, |from| row(from).saturating_sub(1)),
            partition: i32::MAX,
            sequence: i64::MAX,
            end: 0,
        };
        let begin = place.into_iter().chain([from]).max_by_key(key);
        (begin.unwrap_or(from), read.to.map_or(i64::MAX, row))
    };
    Bounds { end, ..begin }
}

/// See [`bounds`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) at: i64,
    pub(super) partition: i32,
    pub(super) sequence: i64,
    pub(super) end: i64,
}
