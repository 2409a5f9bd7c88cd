//! Twins that could not be read: said once, noted for operators, and forgotten when the twin is
//! written or removed as a whole. The damaged row itself stays where it is, as evidence.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Transaction, params};
use twin::IdentityKey;

use super::write::{begin, execute};
use super::{engine, module_text};
use crate::record::Damaged;
use crate::store::Error;

/// Keys that this process has noted already, so that a twin which is read often is noted once.
#[derive(Clone, Default)]
pub(super) struct Noted(Arc<Mutex<BTreeSet<String>>>);

impl Noted {
    /// What of it is not noted yet.
    pub(super) fn fresh(&self, mut damaged: Vec<Damaged>) -> Vec<Damaged> {
        if !damaged.is_empty() {
            let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            damaged.retain(|one| noted.insert(one.key.clone()));
        }
        damaged
    }

    /// Forgets keys that were written as a whole.
    pub(super) fn forget<'k>(&self, keys: impl Iterator<Item = &'k IdentityKey>) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !noted.is_empty() {
            for key in keys {
                noted.remove(&key.to_string());
            }
        }
    }
}

/// Notes damaged twins and says so, once for each.
pub(super) fn note(connection: &mut Connection, damaged: &[Damaged]) -> Result<(), Error> {
    let transaction = begin(connection)?;
    for one in damaged {
        let (device, module) = one.key.split_once('/').unwrap_or((&one.key, ""));
        let fresh = execute(
            &transaction,
            "note a damaged twin",
            "INSERT INTO quarantine (device_id, module_id, found_at, problem)
             VALUES (?1, ?2, unixepoch() * 1000000000, ?3) ON CONFLICT DO NOTHING",
            params![device, module, format!("{}: {}", one.part, one.problem)],
        )?;
        if fresh > 0 {
            tracing::error!(error = %one, "a stored twin is damaged; see `twinward store verify`");
        }
    }
    transaction.commit().map_err(engine("note a damaged twin"))
}

/// The twins that are noted.
pub(super) fn list(connection: &Connection) -> Result<Vec<Damaged>, Error> {
    let action = "list damaged twins";
    let mut statement = connection
        .prepare_cached(
            "SELECT device_id, module_id, problem FROM quarantine ORDER BY device_id, module_id",
        )
        .map_err(engine(action))?;
    let rows = statement
        .query_map([], |row| {
            let (device, module): (String, String) = (row.get(0)?, row.get(1)?);
            Ok(Damaged {
                key: match module.as_str() {
                    "" => device,
                    module => format!("{device}/{module}"),
                },
                part: "row",
                problem: row.get(2)?,
            })
        })
        .map_err(engine(action))?;
    rows.collect::<Result<_, _>>().map_err(engine(action))
}

/// Whether anything is noted; asked once in each commit.
pub(super) fn any(transaction: &Transaction<'_>) -> Result<bool, Error> {
    transaction
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM quarantine)")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(engine("look for damaged twins"))
}

/// Forgets that a twin was damaged. Its entries of the index go, too: whoever writes the twin anew
/// could not know which there were.
pub(super) fn clear(transaction: &Transaction<'_>, key: &IdentityKey) -> Result<(), Error> {
    let action = "forget that a twin was damaged";
    let key = params![key.device.as_str(), module_text(key)];
    let noted = execute(
        transaction,
        action,
        "DELETE FROM quarantine WHERE device_id = ?1 AND module_id = ?2",
        key,
    )?;
    if noted > 0 {
        let sql = "DELETE FROM twin_index WHERE device_id = ?1 AND module_id = ?2";
        execute(transaction, action, sql, key)?;
    }
    Ok(())
}
