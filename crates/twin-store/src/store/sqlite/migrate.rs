//! The schema of the embedded store, and how an older one becomes the present one.

use rusqlite::{Connection, TransactionBehavior};

use super::engine;
use crate::store::{Error, failpoint};

/// Forward-only; the position in the list is the schema's number.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/0001_twins.sql"),
    include_str!("../../../migrations/0002_operations.sql"),
    include_str!("../../../migrations/0003_damage.sql"),
    include_str!("../../../migrations/0004_population.sql"),
    include_str!("../../../migrations/0005_provisioning.sql"),
    include_str!("../../../migrations/0006_searched.sql"),
    include_str!("../../../migrations/0007_audit_order.sql"),
    include_str!("../../../migrations/0008_history_links.sql"),
    include_str!("../../../migrations/0009_configurations.sql"),
    include_str!("../../../migrations/0010_inherited.sql"),
];

/// Brings the schema up to date.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Exclusive)
        .map_err(engine("lock its file"))?;
    let found: i64 = transaction
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(engine("read its schema"))?;
    if found > known {
        return Err(Error::Newer { found, known });
    }
    let done = usize::try_from(found).unwrap_or(0);
    for migration in MIGRATIONS.iter().skip(done) {
        transaction
            .execute_batch(migration)
            .map_err(engine("migrate its schema"))?;
    }
    transaction
        .pragma_update(None, "user_version", known)
        .map_err(engine("migrate its schema"))?;
    failpoint::hit("migrate.written");
    transaction.commit().map_err(engine("migrate its schema"))?;
    failpoint::hit("migrate.durable");
    Ok(())
}
