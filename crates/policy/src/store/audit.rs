//! Entries for the audit log, from the change to their delivery.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde_json::json;

use super::Error;

/// Contents up to here stand in an entry; of a longer one the revision is named, which keeps it.
const CONTENT_BYTES_MAX: usize = 48 * 1024;

/// Who changes a policy or a configuration.
#[derive(Debug, Clone)]
pub(crate) struct By {
    /// `operator:<name>`
    pub(crate) actor: String,
    /// A fresh UUID, by which an entry is known that comes again.
    pub(crate) request_id: String,
    /// W3C trace context; empty: none.
    pub(crate) trace_parent: String,
}

/// What is to be in the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditEntry {
    /// Its place among all.
    pub(crate) number: i64,
    /// By which it is known when it comes again.
    pub(crate) request_id: String,
    /// `operator:<name>`
    pub(crate) actor: String,
    /// `policy.`, `configuration.`, `rollout.`, `freeze.`, `reevaluation.` or `path.`, and then what was done.
    pub(crate) action: String,
    /// Of which policy, configuration or freeze; of a path the name of its twin.
    pub(crate) policy_id: String,
    /// JSON.
    pub(crate) detail: String,
    /// When it was changed.
    pub(crate) at: Timestamp,
    /// W3C trace context; empty: none.
    pub(crate) trace_parent: String,
}

/// Writes an entry in the transaction of its change.
pub(super) fn note(
    transaction: &Transaction<'_>,
    action: &str,
    id: &str,
    what: (u64, Option<&str>),
    when: (Timestamp, &By),
) -> Result<(), Error> {
    note_why(transaction, action, id, what, "", when)
}

/// [`note`] with what the author said about it; empty: nothing.
pub(super) fn note_why(
    transaction: &Transaction<'_>,
    action: &str,
    id: &str,
    (revision, content): (u64, Option<&str>),
    why: &str,
    (at, by): (Timestamp, &By),
) -> Result<(), Error> {
    let mut detail = json!({ "revision": revision });
    if !why.is_empty() {
        detail["note"] = why.into();
    }
    if let Some(content) = content.filter(|content| content.len() <= CONTENT_BYTES_MAX)
        && let Ok(content) = serde_json::from_str::<serde_json::Value>(content)
    {
        detail["content"] = content;
    }
    note_detail(transaction, action, id, &detail, (at, by))
}

/// [`note`] with another detail.
pub(super) fn note_detail(
    transaction: &Transaction<'_>,
    action: &str,
    id: &str,
    detail: &serde_json::Value,
    (at, by): (Timestamp, &By),
) -> Result<(), Error> {
    let statement = "INSERT INTO audit_entries
                     (request_id, actor, action, policy_id, detail, change_time, trace_parent)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let values = params![
        by.request_id,
        by.actor,
        action,
        id,
        detail.to_string(),
        at.to_string(),
        by.trace_parent,
    ];
    transaction
        .execute(statement, values)
        .map(|_| ())
        .map_err(failed("note who changed a policy"))
}

/// The oldest entry that is not delivered. Of a damaged one as much is delivered as can be read: it must hold
/// up nothing behind it.
pub(super) fn next(connection: &Connection) -> Result<Option<AuditEntry>, Error> {
    let statement = "SELECT number, request_id, actor, action, policy_id, detail, change_time,
                     trace_parent FROM audit_entries ORDER BY number LIMIT 1";
    let read = |row: &Row<'_>| {
        let text = |column| {
            let value = row.get_ref(column)?;
            let bytes = value.as_bytes_or_null().ok().flatten().unwrap_or_default();
            Ok::<_, rusqlite::Error>(String::from_utf8_lossy(bytes).into_owned())
        };
        let entry = AuditEntry {
            number: row.get(0)?,
            request_id: text(1)?,
            actor: text(2)?,
            action: text(3)?,
            policy_id: text(4)?,
            detail: text(5)?,
            at: Timestamp::UNIX_EPOCH,
            trace_parent: text(7)?,
        };
        Ok((entry, text(6)?))
    };
    let found = connection.query_row(statement, [], read).optional();
    let Some((entry, at)) = found.map_err(failed("read an audit entry"))? else {
        return Ok(None);
    };
    let at = at.parse().unwrap_or_else(|_| {
        let number = entry.number;
        tracing::error!(number, at, "the time of an audit entry cannot be read");
        Timestamp::UNIX_EPOCH
    });
    Ok(Some(AuditEntry { at, ..entry }))
}

/// Forgets an entry that is delivered.
pub(super) fn done(connection: &Connection, number: i64) -> Result<(), Error> {
    connection
        .execute("DELETE FROM audit_entries WHERE number = ?1", [number])
        .map(|_| ())
        .map_err(failed("forget an audit entry"))
}

fn failed(action: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |source| Error::Engine { action, source }
}
