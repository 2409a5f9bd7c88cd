//! Removes from the embedded store answers, operations and tokens that nobody needs any more.
//!
//! Each kind by itself: damage of one keeps none of the others. All rows of a kind go with one statement; only where
//! damage fails it, in ever smaller parts, down to the rows that cannot be removed, which are noted and stay.

use jiff::{SignedDuration, Timestamp};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Transaction, params, params_from_iter};
use service_kit::error::chain;

use super::{before, count};
use crate::store::maintain::Table;
use crate::store::quarantine::{NOTES_MAX, Note, UNFIT, UNWRITABLE};
use crate::store::sqlite::engine;
use crate::store::sqlite::indexes::{Indexes, is_of_index};
use crate::store::sqlite::read::is_of_damage;
use crate::store::sqlite::write::{begin, execute};
use crate::store::{Error, Retention, failpoint};

/// Expired enrolment tokens are forgotten this long after, so that one which a decision under way
/// has just accepted is still there.
const EXPIRED_GRACE: SignedDuration = SignedDuration::from_hours(1);

/// Rows that are to go.
struct Due {
    table: Table,
    action: &'static str,
    /// Selects so many (`?2`) keys of rows that are older than an instant (`?1`).
    select: &'static str,
}

const ANSWERS: Due = Due {
    table: Table::Requests,
    action: "forget old answers",
    select: "SELECT id FROM requests WHERE at < ?1 ORDER BY at LIMIT ?2",
};
const RESULTS: Due = Due {
    table: Table::Results,
    action: "forget results of old operations",
    select: "SELECT r.operation, r.device_id, r.module_id
         FROM operations o JOIN operation_results r ON r.operation = o.id
         WHERE o.ended = 1 AND o.at < ?1 LIMIT ?2",
};
const OPERATIONS: Due = Due {
    table: Table::Operations,
    action: "forget old operations",
    select: "SELECT o.id FROM operations o WHERE o.ended = 1 AND o.at < ?1
         AND NOT EXISTS (SELECT 1 FROM operation_results r WHERE r.operation = o.id) LIMIT ?2",
};
const USES: Due = Due {
    table: Table::Enrollments,
    action: "forget uses of expired enrolment tokens",
    select: "SELECT e.hash, e.device_id
         FROM enrollment_tokens t JOIN enrollments e ON e.hash = t.hash
         WHERE t.expires_at < ?1 LIMIT ?2",
};
const TOKENS: Due = Due {
    table: Table::Tokens,
    action: "forget expired enrolment tokens",
    select: "SELECT t.hash FROM enrollment_tokens t WHERE t.expires_at < ?1
         AND NOT EXISTS (SELECT 1 FROM enrollments e WHERE e.hash = t.hash) LIMIT ?2",
};

/// What went.
pub(super) struct Rest {
    pub(super) requests: u64,
    pub(super) operations: u64,
    /// Whether there is more.
    pub(super) more: bool,
}

/// Removes a bounded amount of each kind; of operations the results first, and of tokens the uses: there may be a
/// million. What it fails to remove keeps nothing else.
pub(super) fn rest(
    connection: &mut Connection,
    retention: &Retention,
    indexes: &Indexes,
    notes: &mut Vec<Note>,
) -> Result<Rest, Error> {
    let old = before(retention, retention.operation_age);
    let expired = retention.now.saturating_sub(EXPIRED_GRACE);
    let expired = expired.unwrap_or(Timestamp::MIN).as_second();
    let answered = before(retention, retention.request_age);
    let due = [
        (ANSWERS, answered),
        (RESULTS, old),
        (OPERATIONS, old),
        (USES, expired),
        (TOKENS, expired),
    ];
    let removed = due.map(|(due, old)| {
        let mut forget = Forget {
            due,
            old,
            most: retention.batch,
            notes,
        };
        forget.all(connection, indexes)
    });
    let [requests, results, operations, uses, tokens] = removed;
    let (requests, results, operations) = (requests?, results?, operations?);
    let (uses, tokens) = (uses?, tokens?);
    let kinds = [requests, results, operations, uses, tokens];
    Ok(Rest {
        requests,
        operations,
        more: kinds
            .into_iter()
            .any(|removed| removed >= u64::from(retention.batch)),
    })
}

/// One kind of rows that go.
struct Forget<'n> {
    due: Due,
    old: i64,
    most: u32,
    notes: &'n mut Vec<Note>,
}

impl Forget<'_> {
    fn all(&mut self, connection: &mut Connection, indexes: &Indexes) -> Result<u64, Error> {
        let mut done = self.together(connection);
        if done.as_ref().is_err_and(is_of_index) && indexes.mend(connection, self.due.table)? {
            done = self.together(connection);
        }
        match done {
            Err(error) if is_of_damage(&error) => self.apart(connection),
            done => done,
        }
    }

    fn together(&self, connection: &mut Connection) -> Result<u64, Error> {
        let Due {
            table,
            action,
            select,
        } = &self.due;
        let sql = format!(
            "DELETE FROM {} WHERE ({}) IN ({select})",
            table.name(),
            table.key_list()
        );
        let transaction = begin(connection)?;
        let removed = execute(&transaction, action, &sql, params![self.old, self.most])?;
        self.end(transaction)?;
        Ok(count(removed))
    }

    fn end(&self, transaction: Transaction<'_>) -> Result<(), Error> {
        failpoint::hit("trim.written");
        transaction.commit().map_err(engine(self.due.action))?;
        failpoint::hit("trim.durable");
        Ok(())
    }

    /// Removes what can be removed, and notes the rest.
    fn apart(&mut self, connection: &mut Connection) -> Result<u64, Error> {
        let keys = self.keys(connection)?;
        let mut removed = 0;
        // Those that come first are at its end.
        let mut open = vec![&keys[..]];
        while let Some(part) = open.pop() {
            match self.some(connection, part) {
                Ok(some) => removed += some,
                Err(error) if !is_of_damage(&error) => return Err(error),
                Err(error) => match part {
                    [] => {}
                    [key] => self.notes.push(self.note(key, &error)),
                    _ => {
                        let (first, second) = part.split_at(part.len() / 2);
                        open.extend([second, first]);
                    }
                },
            }
        }
        Ok(removed)
    }

    /// The keys of what is to go, and of some more: of those that stay.
    fn keys(&self, connection: &Connection) -> Result<Vec<Vec<Value>>, Error> {
        let Due {
            table,
            action,
            select,
        } = &self.due;
        let columns = table.key_columns();
        let mut statement = connection.prepare_cached(select).map_err(engine(action))?;
        let most = i64::from(self.most) + NOTES_MAX;
        let rows = statement
            .query_map(params![self.old, most], |row| {
                (0..columns)
                    .map(|column| Ok(value(row.get_ref(column)?)))
                    .collect::<Result<Vec<_>, _>>()
            })
            .map_err(engine(action))?;
        rows.collect::<Result<_, _>>().map_err(engine(action))
    }

    /// Removes some rows, all of them or none.
    fn some(&self, connection: &mut Connection, keys: &[Vec<Value>]) -> Result<u64, Error> {
        let table = self.due.table;
        let names = table.columns().iter().take(table.key_columns());
        // Bytes that are no text are compared as what they are.
        let names: Vec<_> = names.map(|(name, _)| format!("{name} = ?")).collect();
        let sql = format!("DELETE FROM {} WHERE {}", table.name(), names.join(" AND "));
        let transaction = begin(connection)?;
        let mut removed = 0;
        for key in keys {
            let key = params_from_iter(key.iter());
            removed += execute(&transaction, self.due.action, &sql, key)?;
        }
        self.end(transaction)?;
        Ok(count(removed))
    }

    fn note(&self, key: &[Value], error: &Error) -> Note {
        let what = if is_of_index(error) {
            UNFIT
        } else {
            UNWRITABLE
        };
        Note {
            table: self.due.table,
            key: key.iter().map(text).collect(),
            problem: format!("{what}, and it stays: {}", chain(error)),
        }
    }
}

/// A value as it is; a text that is none any more finds no row.
fn value(value: ValueRef<'_>) -> Value {
    Value::try_from(value).unwrap_or(Value::Null)
}

/// As notes have it.
fn text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => crate::hex::text(bytes),
        Value::Integer(number) => number.to_string(),
        Value::Null | Value::Real(_) => "\u{fffd}".to_owned(),
    }
}
