//! The SQL of the store; see [`crate::store`] for keys and protocol.

use std::collections::BTreeMap;
use std::path::Path;

use bus::Sequence;
use jiff::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::audit::{self, AuditEntry};
use super::row::{PolicyRow, number, select_policies, stored, write_position};
use super::unreadable::Unreadable;
use super::{Contents, Error, FILE_NAME, POLICIES_MAX, SweepCounts, SweepNumber, SweepState};
use super::{configurations, deletion, freezes, frozen, mend, strays};
use crate::policy_doc::PolicyId;

/// Forward-only; the number of a migration is its place here, kept in `user_version`.
const MIGRATIONS: [&str; 11] = [
    include_str!("../../migrations/0001_policies.sql"),
    include_str!("../../migrations/0002_audit.sql"),
    include_str!("../../migrations/0003_configurations.sql"),
    include_str!("../../migrations/0004_authors.sql"),
    include_str!("../../migrations/0005_rollouts.sql"),
    include_str!("../../migrations/0006_configurations_in_force.sql"),
    include_str!("../../migrations/0007_freezes.sql"),
    include_str!("../../migrations/0008_frozen.sql"),
    include_str!("../../migrations/0009_reevaluations.sql"),
    include_str!("../../migrations/0010_actions.sql"),
    include_str!("../../migrations/0011_strays.sql"),
];

/// One connection to `policy.db`.
#[derive(Debug)]
pub(super) struct Engine {
    connection: Connection,
}

impl Engine {
    pub(super) fn open(folder: &Path) -> Result<Engine, Error> {
        std::fs::create_dir_all(folder).map_err(|source| Error::Folder {
            path: folder.display().to_string(),
            source,
        })?;
        let failed = |source| Error::Engine {
            action: "open its file",
            source,
        };
        let mut connection = Connection::open(folder.join(FILE_NAME)).map_err(failed)?;
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(failed)?;
        connection
            .pragma_update(None, "synchronous", "FULL")
            .map_err(failed)?;
        migrate(&mut connection)?;
        Ok(Engine { connection })
    }

    pub(super) fn load(&mut self, now: Timestamp) -> Result<Contents, Error> {
        let failed = |source| Error::Engine {
            action: "read its contents",
            source,
        };
        let transaction = self.begin("read its contents")?;
        let mut policies = Vec::new();
        let mut unreadable = Unreadable::default();
        {
            let mut rows = transaction
                .prepare(&select_policies("WHERE NOT p.deleted ORDER BY p.policy_id"))
                .map_err(failed)?;
            let rows = rows
                .query_map([], |row| {
                    Ok((row.get::<_, String>(0), PolicyRow::read(row)))
                })
                .map_err(failed)?;
            for row in rows {
                let (id, row) = row.map_err(failed)?;
                let policy = row.map_err(failed);
                match policy.and_then(|row| row.into_policy(&transaction)) {
                    Ok(policy) => policies.push(policy),
                    Err(error) => {
                        let text = id.unwrap_or_default();
                        unreadable.policy(PolicyId::parse(&text).ok(), &text, error)?;
                    }
                }
            }
        }
        deletion::find_lost(&transaction, &mut unreadable)?;
        let positions = mend::positions(&transaction)?;
        let configurations = configurations::all(&transaction, &mut unreadable)?;
        let given = strays::given(&transaction)?;
        let strays = strays::open(&transaction, &given, &mut unreadable)?;
        let mut sweep = mend::sweep_state(&transaction)?;
        if !strays.is_empty() {
            // On which twins they stand is nowhere but there.
            sweep.wanted = raise_sweep(&transaction)?;
        }
        let freezes = freezes::load(&transaction, now, &mut unreadable)?;
        let frozen = frozen::load(&transaction, &mut unreadable)?;
        transaction.commit().map_err(failed)?;
        Ok(Contents {
            policies,
            configurations,
            freezes,
            positions,
            sweep,
            frozen,
            unreadable,
            given,
            strays,
        })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn next_audit_entry(&mut self) -> Result<Option<AuditEntry>, Error> {
        audit::next(&self.connection)
    }

    pub(super) fn audit_entry_done(&mut self, number: i64) -> Result<(), Error> {
        audit::done(&self.connection, number)
    }

    pub(super) fn save_positions(
        &mut self,
        positions: &BTreeMap<u16, Sequence>,
    ) -> Result<(), Error> {
        const ACTION: &str = "write positions";
        let transaction = self.begin(ACTION)?;
        for (partition, sequence) in positions {
            write_position(&transaction, *partition, *sequence)?;
        }
        transaction.commit().map_err(|source| Error::Engine {
            action: ACTION,
            source,
        })
    }

    pub(super) fn want_sweep(
        &mut self,
        skipped: Option<(u16, Sequence)>,
    ) -> Result<SweepNumber, Error> {
        const ACTION: &str = "want a sweep";
        let transaction = self.begin(ACTION)?;
        let sweep = raise_sweep(&transaction)?;
        if let Some((partition, after)) = skipped {
            write_position(&transaction, partition, after)?;
        }
        transaction.commit().map_err(|source| Error::Engine {
            action: ACTION,
            source,
        })?;
        Ok(sweep)
    }

    pub(super) fn sweep_done(
        &mut self,
        sweep: SweepNumber,
        counts: SweepCounts,
    ) -> Result<(), Error> {
        let statement = "UPDATE state SET sweep_done = ?1, twins_evaluated = ?2,
                         twins_changed = ?3, twins_failed = ?4 WHERE sweep_done < ?1";
        let values = [sweep.get(), counts.evaluated, counts.changed, counts.failed].map(stored);
        self.connection
            .execute(statement, values)
            .map(|_| ())
            .map_err(|source| Error::Engine {
                action: "note a sweep",
                source,
            })
    }

    /// Takes the write lock at once: a transaction that reads first and writes later could fail in
    /// the middle.
    pub(super) fn begin(&mut self, action: &'static str) -> Result<Transaction<'_>, Error> {
        self.connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|source| Error::Engine { action, source })
    }
}

fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let failed = |source| Error::Engine {
        action: "migrate its schema",
        source,
    };
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let found: i64 = transaction
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)?;
    if found > known {
        return Err(Error::Newer { found, known });
    }
    let done = usize::try_from(found).map_err(|_| Error::Damaged {
        what: format!("schema version {found}"),
    })?;
    for migration in &MIGRATIONS[done..] {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction
        .pragma_update(None, "user_version", known)
        .map_err(failed)?;
    transaction.commit().map_err(failed)
}

pub(super) fn check_room(transaction: &Transaction<'_>) -> Result<(), Error> {
    let count: i64 = transaction
        .query_row(
            "SELECT count(*) FROM policies WHERE NOT deleted",
            [],
            |row| row.get(0),
        )
        .map_err(|source| Error::Engine {
            action: "count policies",
            source,
        })?;
    match usize::try_from(count) {
        Ok(count) if count < POLICIES_MAX => Ok(()),
        Ok(_) | Err(_) => Err(Error::TooMany),
    }
}

pub(super) fn raise_sweep(transaction: &Transaction<'_>) -> Result<SweepNumber, Error> {
    let statement = "UPDATE state SET sweep_wanted = sweep_wanted + 1 RETURNING sweep_wanted";
    let wanted = transaction
        .query_row(statement, [], |row| row.get(0))
        .map_err(|source| Error::Engine {
            action: "want a sweep",
            source,
        })?;
    Ok(SweepNumber::new(number("a sweep", wanted)?))
}

pub(super) fn next_created_order(transaction: &Transaction<'_>) -> Result<u64, Error> {
    let statement =
        "UPDATE state SET last_created_order = last_created_order + 1 RETURNING last_created_order";
    let order = transaction
        .query_row(statement, [], |row| row.get(0))
        .map_err(|source| Error::Engine {
            action: "number a policy",
            source,
        })?;
    number("an order of creation", order)
}

pub(super) fn read_sweep(transaction: &Transaction<'_>) -> Result<SweepState, Error> {
    let statement = "SELECT sweep_wanted, sweep_done, twins_evaluated, twins_changed, twins_failed
                     FROM state";
    let [wanted, done, evaluated, changed, failed] = transaction
        .query_row(statement, [], |row| {
            Ok([
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get::<_, i64>(4)?,
            ])
        })
        .map_err(|source| Error::Engine {
            action: "read its state",
            source,
        })?;
    Ok(SweepState {
        wanted: SweepNumber::new(number("a sweep", wanted)?),
        done: SweepNumber::new(number("a sweep", done)?),
        counts: SweepCounts {
            evaluated: number("a count", evaluated)?,
            changed: number("a count", changed)?,
            failed: number("a count", failed)?,
        },
    })
}
