//! Decides which revisions must not be restored, because a twin cannot be rewound past what is
//! missing. Everything at and below the hole goes, as a retention would have it; a revision that lacks
//! the one before it, which it names, stands at a hole. Those of an older program name none. Pure; takes the revisions in the order of a dump, and keeps only the last.

use super::{Revisions, Row, Value};

/// Columns of a revision.
const DEVICE: usize = 0;
const MODULE: usize = 1;
const REVISION: usize = 2;
const FIRST_REVISION: usize = 3;
const ROUTINE: usize = 11;

/// Follows the revisions of one identity after another.
#[derive(Debug, Default)]
pub(super) struct Past {
    last: Option<Revisions>,
}

impl Past {
    /// A sound revision.
    pub(super) fn kept(&mut self, row: &Row) {
        self.last = revisions(row);
    }

    /// A damaged one, whose identity had no change behind `newest`: what goes with it. None if not
    /// even its identity can be read.
    pub(super) fn damaged(&mut self, row: &Row, newest: i64) -> Option<Revisions> {
        let mut lost = revisions(row)?;
        let before = self.last.take().filter(|before| before.is_of(&lost));
        // Its own number may be what is damaged. It is not if it is the first that the row holds, as of
        // every one that was not put together of several; otherwise nobody knows where the hole is.
        let first = integer(row, FIRST_REVISION);
        let is_joined = integer(row, ROUTINE) == Some(1);
        if first == Some(lost.through) || (is_joined && first < Some(lost.through)) {
            let below = before.map_or(0, |before| before.through);
            lost.through = lost.through.max(below);
        } else {
            lost.through = newest;
        }
        self.last = Some(lost.clone());
        Some(lost)
    }

    /// Nothing more can be read: of the last identity newer revisions may be missing than were read.
    pub(super) fn broken(&mut self) -> Option<Revisions> {
        self.last.take()
    }
}

impl Revisions {
    fn is_of(&self, other: &Revisions) -> bool {
        (&self.device, &self.module) == (&other.device, &other.module)
    }
}

fn revisions(row: &Row) -> Option<Revisions> {
    let text = |column: usize| match row.values.get(column) {
        Some(Value::Text(text)) => Some(text.clone()),
        Some(Value::Null | Value::Integer(_) | Value::Bytes(_)) | None => None,
    };
    Some(Revisions {
        device: text(DEVICE)?,
        module: text(MODULE)?,
        through: integer(row, REVISION)?,
    })
}

fn integer(row: &Row, column: usize) -> Option<i64> {
    match row.values.get(column) {
        Some(Value::Integer(number)) => Some(*number),
        Some(Value::Null | Value::Text(_) | Value::Bytes(_)) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Table;
    use super::*;

    const LAST: i64 = 99;

    fn row(device: &str, first: i64, revision: i64) -> Row {
        Row {
            table: Table::History,
            values: vec![
                Value::Text(device.to_owned()),
                Value::Text(String::new()),
                Value::Integer(revision),
                Value::Integer(first),
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Integer(0),
            ],
        }
    }

    fn of(device: &str, through: i64) -> Revisions {
        Revisions {
            device: device.to_owned(),
            module: String::new(),
            through,
        }
    }

    #[test]
    fn what_is_below_a_hole_goes_with_it() {
        let mut past = Past::default();
        past.kept(&row("a", 3, 3));
        assert_eq!(past.damaged(&row("a", 5, 5), LAST), Some(of("a", 5)));
        // One whose number sank still stands behind those before it.
        assert_eq!(past.damaged(&row("a", 2, 2), LAST), Some(of("a", 5)));
        assert_eq!(past.damaged(&row("b", 2, 2), LAST), Some(of("b", 2)));
    }

    #[test]
    fn a_hole_at_an_unknown_place_takes_everything() {
        let mut past = Past::default();
        assert_eq!(past.damaged(&row("a", 4, 5), LAST), Some(of("a", LAST)));
        let mut joined = row("a", 4, 5);
        joined.values[ROUTINE] = Value::Integer(1);
        assert_eq!(
            past.damaged(&joined, LAST),
            Some(of("a", LAST)),
            "of the one before"
        );
        let mut past = Past::default();
        assert_eq!(past.damaged(&joined, LAST), Some(of("a", 5)));
        let mut torn = row("a", 4, 4);
        torn.values[DEVICE] = Value::Bytes(vec![0xff]);
        assert_eq!(past.damaged(&torn, LAST), None);
    }

    #[test]
    fn where_the_table_breaks_off_the_last_identity_has_no_past() {
        let mut past = Past::default();
        assert_eq!(past.broken(), None);
        past.kept(&row("a", 3, 3));
        past.kept(&row("b", 7, 8));
        assert_eq!(past.broken(), Some(of("b", 8)));
    }
}
