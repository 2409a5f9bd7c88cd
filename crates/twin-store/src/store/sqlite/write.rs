//! What a commit writes into the embedded store.

use rusqlite::{Connection, Params, Transaction, TransactionBehavior, params};
use twin::{IdentityKey, Revision};

use super::entries::Entries;
use super::indexes::Indexes;
use super::read::is_of_damage;
use super::{engine, module_text, nanoseconds, quarantine, spoilt, trails};
use crate::store::quarantine::Note;
use crate::store::row::{self, change, sums};
use crate::store::{
    AuditEntry, Commit, EnrollmentToken, EnrollmentUse, Error, IndexEntry, PartitionState, Upsert,
    failpoint,
};

/// Writes a commit, whole or not at all; notes what damage keeps from being changed.
pub(super) fn commit(
    connection: &mut Connection,
    commit: &Commit,
    indexes: &Indexes,
    notes: &mut Vec<Note>,
) -> Result<(), Error> {
    match try_to_commit(connection, commit, Care::Together, notes) {
        // Nothing of it was written: the engine says so before the end of the transaction.
        Err(error) if is_of_damage(&error) => {
            spoilt::commit(connection, commit, indexes, error, notes)
        }
        done => done,
    }
}

/// What becomes of entries of an index that cannot be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// They fail everything.
    Together,
    /// They stay, and are noted. It costs a savepoint each.
    Apart,
}

pub(super) fn try_to_commit(
    connection: &mut Connection,
    commit: &Commit,
    care: Care,
    notes: &mut Vec<Note>,
) -> Result<(), Error> {
    let transaction = begin(connection)?;
    failpoint::hit("commit.begun");
    for state in &commit.partitions {
        fence(&transaction, state)?;
    }
    failpoint::hit("commit.fenced");
    write_all(&transaction, commit, care, notes)?;
    failpoint::hit("commit.written");
    transaction.commit().map_err(engine("commit"))?;
    failpoint::hit("commit.durable");
    Ok(())
}

/// Writes everything of a commit but where its partitions stand.
pub(super) fn write_all(
    transaction: &Transaction<'_>,
    commit: &Commit,
    care: Care,
    notes: &mut Vec<Note>,
) -> Result<(), Error> {
    let mut entries = Entries {
        transaction,
        care,
        notes,
    };
    if quarantine::any(transaction)? {
        let upserts = commit.upserts.iter().map(|upsert| &upsert.record.key);
        for key in upserts.chain(&commit.deletes) {
            if quarantine::clear(transaction, key)? {
                entries.remove_all(key)?;
            }
        }
    }
    for written in &commit.upserts {
        upsert(&mut entries, written)?;
    }
    for key in &commit.deletes {
        delete(&mut entries, key)?;
    }
    failpoint::hit("commit.twins");
    log(transaction, commit)?;
    for entry in &commit.history {
        trails::keep(transaction, entry, commit.coalesce_within)?;
    }
    for entry in &commit.audit {
        audit(transaction, entry)?;
    }
    for token in &commit.tokens {
        enrollment_token(transaction, token)?;
    }
    for use_of in &commit.enrollments {
        execute(
            transaction,
            "keep the use of an enrolment token",
            "INSERT INTO enrollments (hash, device_id, nonce, checksum) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (hash, device_id) DO NOTHING",
            params![
                use_of.hash,
                use_of.device.as_str(),
                use_of.nonce,
                sums::enrollment(&use_of.hash, use_of.device.as_str(), &use_of.nonce)
            ],
        )?;
    }
    unexhausted(transaction, &commit.enrollments)?;
    super::operations::write(transaction, commit)?;
    super::provisioning::write(transaction, &commit.provisioning)
}

/// A transaction that holds the write lock from the start, so that a fence read in it stays true.
pub(super) fn begin(connection: &mut Connection) -> Result<Transaction<'_>, Error> {
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(engine("begin a transaction"))
}

/// Does something as a whole or not at all; a failure of it leaves the transaction as it was.
pub(super) fn whole<T>(
    transaction: &Transaction<'_>,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<Result<T, Error>, Error> {
    let mark = |sql| execute(transaction, "set what fails apart", sql, []);
    mark("SAVEPOINT whole")?;
    let done = work();
    if done.is_err() {
        mark("ROLLBACK TO whole")?;
    }
    mark("RELEASE whole")?;
    Ok(done)
}

/// Runs one statement, compiled once per connection; answers the number of rows it changed.
pub(super) fn execute(
    transaction: &Transaction<'_>,
    action: &'static str,
    sql: &str,
    parameters: impl Params,
) -> Result<usize, Error> {
    transaction
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(parameters))
        .map_err(engine(action))
}

/// Moves a partition, unless another process has taken it.
fn fence(transaction: &Transaction<'_>, state: &PartitionState) -> Result<(), Error> {
    let moved = execute(
        transaction,
        "move a partition",
        "UPDATE partitions SET position = ?3, revision = ?4, published = ?5, audit_sequence = ?6,
             audit_hash = ?7
         WHERE partition = ?1 AND epoch = ?2",
        params![
            state.partition.get(),
            state.epoch.0.cast_signed(),
            state.position.cast_signed(),
            number(state.revision),
            number(state.published),
            state.audit.sequence.cast_signed(),
            state.audit.hash,
        ],
    )?;
    if moved == 1 {
        Ok(())
    } else {
        Err(Error::Fenced {
            partition: state.partition,
        })
    }
}

fn upsert(entries: &mut Entries<'_>, written: &Upsert) -> Result<(), Error> {
    let transaction = entries.transaction;
    let record = &written.record;
    let row = row::encode(record).map_err(engine("encode a twin"))?;
    let (device, module) = (record.key.device.as_str(), module_text(&record.key));
    execute(
        transaction,
        "write a twin",
        "INSERT INTO twins (device_id, module_id, revision, status, tags, desired, reported,
             posture, body, opaque, checksum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (device_id, module_id) DO UPDATE SET
             revision = excluded.revision, status = excluded.status, tags = excluded.tags,
             desired = excluded.desired, reported = excluded.reported,
             posture = excluded.posture, body = excluded.body, opaque = excluded.opaque,
             checksum = excluded.checksum",
        params![
            device,
            module,
            row.revision.cast_signed(),
            row.status,
            row.tags,
            row.desired,
            row.reported,
            row.posture,
            row.body,
            row.opaque,
            row.checksum
        ],
    )?;
    for entry in &written.index_remove {
        entries.remove(&record.key, entry)?;
    }
    for IndexEntry { path, value } in &written.index_add {
        execute(
            transaction,
            "write an index entry",
            "INSERT INTO twin_index (path, value, device_id, module_id) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
            params![path, value, device, module],
        )?;
    }
    Ok(())
}

fn delete(entries: &mut Entries<'_>, key: &IdentityKey) -> Result<(), Error> {
    execute(
        entries.transaction,
        "delete a twin",
        "DELETE FROM twins WHERE device_id = ?1 AND module_id = ?2",
        params![key.device.as_str(), module_text(key)],
    )?;
    entries.remove_all(key)
}

fn log(transaction: &Transaction<'_>, commit: &Commit) -> Result<(), Error> {
    for entry in &commit.log {
        let sealed = change::seal(entry.partition, entry.revision, &entry.change);
        execute(
            transaction,
            "log a change",
            "INSERT INTO log (partition, revision, change) VALUES (?1, ?2, ?3)",
            params![entry.partition.get(), number(entry.revision), sealed],
        )?;
    }
    for (partition, through) in &commit.trim_log {
        execute(
            transaction,
            "move the floor of the log",
            "UPDATE partitions SET log_floor = max(log_floor, min(?2, revision))
             WHERE partition = ?1",
            params![partition.get(), number(*through)],
        )?;
        execute(
            transaction,
            "trim the log",
            "DELETE FROM log WHERE partition = ?1 AND revision <= ?2",
            params![partition.get(), number(*through)],
        )?;
    }
    Ok(())
}

fn audit(transaction: &Transaction<'_>, entry: &AuditEntry) -> Result<(), Error> {
    execute(
        transaction,
        "write an audit entry",
        "INSERT INTO audit (partition, sequence, at, actor, action, resource, detail,
             trace_parent, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            entry.partition.get(),
            entry.sequence.cast_signed(),
            nanoseconds(entry.at)?,
            entry.actor,
            entry.action,
            entry.resource,
            entry.detail,
            entry.trace_parent,
            entry.hash
        ],
    )?;
    Ok(())
}

fn enrollment_token(transaction: &Transaction<'_>, token: &EnrollmentToken) -> Result<(), Error> {
    let device = token.device.as_ref().map_or("", twin::DeviceId::as_str);
    let expires_at = token.expires_at.as_second();
    execute(
        transaction,
        "keep an enrolment token",
        "INSERT INTO enrollment_tokens (hash, device_id, expires_at, uses_max, checksum)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            token.hash,
            device,
            expires_at,
            token.uses_max,
            sums::token(&token.hash, device, expires_at, token.uses_max.into())
        ],
    )?;
    Ok(())
}

/// Makes sure that no token was used more often than it may. Only a second process on the same file
/// could have used it meanwhile.
fn unexhausted(transaction: &Transaction<'_>, uses: &[EnrollmentUse]) -> Result<(), Error> {
    for use_of in uses {
        let overused: bool = transaction
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM enrollment_tokens AS t WHERE t.hash = ?1 AND t.uses_max <
                     (SELECT count(*) FROM enrollments AS e WHERE e.hash = t.hash))",
            )
            .and_then(|mut statement| statement.query_row(params![use_of.hash], |row| row.get(0)))
            .map_err(engine("count the uses of an enrolment token"))?;
        if overused {
            return Err(Error::TokenUsedUp);
        }
    }
    Ok(())
}

/// A revision as the rows have it.
pub(super) fn number(revision: Revision) -> i64 {
    revision.get().cast_signed()
}
