//! Checks that a database is fit, and brings its tables up to date.

use deadpool_postgres::{Client, Transaction};

use super::{Error, engine, execute, query, query_in};
use crate::store::failpoint;

/// Forward-only; the position in the list is the schema's number.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/postgres/0001_twins.sql"),
    include_str!("../../../migrations/postgres/0002_operations.sql"),
    include_str!("../../../migrations/postgres/0003_damage.sql"),
    include_str!("../../../migrations/postgres/0004_population.sql"),
    include_str!("../../../migrations/postgres/0005_provisioning.sql"),
    include_str!("../../../migrations/postgres/0006_searched.sql"),
    include_str!("../../../migrations/postgres/0007_audit_order.sql"),
    include_str!("../../../migrations/postgres/0008_history_links.sql"),
    include_str!("../../../migrations/postgres/0009_configurations.sql"),
    include_str!("../../../migrations/postgres/0010_inherited.sql"),
];
/// The oldest server: older ones are out of their makers' care by the end of 2026.
const OLDEST: i32 = 15;
/// `server_version_num` is the version times this, plus the minor one.
const VERSION_UNIT: i32 = 10_000;
/// Name of the advisory lock that lets one replica migrate at a time: "twinward" as a number.
pub(super) const LOCK: i64 = 0x7477_696e_7761_7264;
/// Name of the fact that says how far the tables are.
pub(super) const SCHEMA: &str = "schema";

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(
        "the server is PostgreSQL {found}, at least {OLDEST} is needed; upgrade it, or name another \
         in postgres_url"
    )]
    Old { found: String },
    #[error(
        "the database has the encoding {found}, and only UTF8 holds every text; make another with \
         CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
    )]
    Encoding { found: String },
}

/// The number of the schema that this program makes.
pub(super) fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Checks the database and migrates it.
pub(super) async fn migrate(client: &mut Client) -> Result<(), Error> {
    check(client).await?;
    let action = "migrate its schema";
    let transaction = client.transaction().await.map_err(engine(action))?;
    // Replicas that start together wait here for the first; a migration of much data takes its time.
    transaction
        .batch_execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        .await
        .map_err(engine(action))?;
    execute(
        &transaction,
        action,
        "SELECT pg_advisory_xact_lock($1)",
        &[&LOCK],
    )
    .await?;
    let found = schema(&transaction).await?;
    let known = known();
    if found > known {
        return Err(Error::Newer { found, known });
    }
    if found == known {
        return Ok(());
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction
            .batch_execute(migration)
            .await
            .map_err(engine(action))?;
    }
    execute(
        &transaction,
        action,
        "INSERT INTO facts (name, value) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        &[&SCHEMA, &known.to_string()],
    )
    .await?;
    failpoint::hit("migrate.written");
    transaction.commit().await.map_err(engine(action))?;
    failpoint::hit("migrate.durable");
    tracing::info!(
        from = found,
        to = known,
        "the database's schema was migrated"
    );
    Ok(())
}

async fn check(client: &Client) -> Result<(), Error> {
    let action = "look at the server";
    let rows = query(
        client,
        action,
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
             current_setting('server_encoding'), current_setting('fsync'),
             current_setting('data_checksums')",
        &[],
    )
    .await?;
    let row = rows.first().ok_or(Error::Closed)?;
    let number: i32 = row.try_get(0).map_err(engine(action))?;
    let text = |column| row.try_get::<_, String>(column).map_err(engine(action));
    if number / VERSION_UNIT < OLDEST {
        let unfit = Unfit::Old { found: text(1)? };
        return Err(engine("use the database")(unfit));
    }
    let found = text(2)?;
    if found != "UTF8" {
        return Err(engine("use the database")(Unfit::Encoding { found }));
    }
    if text(3)? != "on" {
        tracing::warn!(
            "the database runs with fsync off: a power cut there loses acknowledged writes"
        );
    }
    // Rows have checksums of their own, but nothing else tells that an older version of a row came
    // back, because a bit flipped in what the server keeps beside it.
    if text(4)? != "on" {
        tracing::warn!(
            "the database has no checksums of its pages, so not all damage is found; stop it and run \
             pg_checksums --enable"
        );
    }
    Ok(())
}

/// The number of the schema; 0 in an empty database. The table of facts says it, and is therefore in
/// no migration.
async fn schema(transaction: &Transaction<'_>) -> Result<i64, Error> {
    let action = "read its schema";
    // To ask first saves the notice that a table exists already.
    let there = query_in(
        transaction,
        action,
        "SELECT to_regclass('facts') IS NOT NULL",
        &[],
    )
    .await?;
    let there = there.first().is_some_and(|row| row.get(0));
    if !there {
        transaction
            .batch_execute(
                "CREATE TABLE facts (name TEXT COLLATE \"C\" NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
            )
            .await
            .map_err(engine(action))?;
        return Ok(0);
    }
    let rows = query_in(
        transaction,
        action,
        "SELECT value FROM facts WHERE name = $1",
        &[&SCHEMA],
    )
    .await?;
    let Some(row) = rows.first() else {
        return Ok(0);
    };
    let text: String = row.try_get(0).map_err(engine(action))?;
    text.parse().map_err(engine(action))
}
