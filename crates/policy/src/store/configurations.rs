//! Configurations in the store: one row for each id, written with its audit entry in one
//! transaction. A deleted one stays as a row, so that an etag never fits another content.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::audit::{self, By};
use super::row::{instant, number, stored};
use super::sqlite::{next_created_order, raise_sweep};
use super::{Error, Store, SweepNumber, Unreadable, frozen};
use crate::configuration_doc::{ConfigurationId, ConfigurationSpec};
use crate::evaluate::ActivePolicy;
use crate::policy_doc::{Policy, PolicyId};
use crate::schedule::Gate;

mod error;

pub(crate) use error::ConfigurationError;

/// Configurations of a hub, as IoT Hub allows them.
pub(crate) const CONFIGURATIONS_MAX: u64 = 100;

/// A configuration as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredConfiguration {
    /// Its name.
    pub id: ConfigurationId,
    /// What it says.
    pub spec: ConfigurationSpec,
    /// Rises with each change and is never given twice to one id.
    pub revision: u64,
    /// Its place in the order of creation, which it shares with policies.
    pub created_order: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl StoredConfiguration {
    /// What an evaluation needs of it; none if there is nothing to carry out.
    pub(crate) fn active(&self) -> Option<ActivePolicy> {
        let (target, settings) = self.spec.work()?;
        Some(ActivePolicy {
            policy: Policy::of_configuration(&self.id, target, self.spec.priority, settings),
            revision: self.revision,
            created_order: self.created_order,
            stage: None,
            gate: Gate::Open,
        })
    }

    /// Whether the same is to be carried out.
    pub(crate) fn works_like(&self, other: &StoredConfiguration) -> bool {
        self.spec.target_condition == other.spec.target_condition
            && self.spec.priority == other.spec.priority
            && self.spec.content == other.spec.content
    }
}

/// A change of what configurations want.
#[derive(Debug)]
pub(crate) struct ConfigurationChange {
    /// Which one.
    pub id: ConfigurationId,
    /// What it is now; none: it is deleted.
    pub now: Option<StoredConfiguration>,
    /// The sweep that carries it out; none: there is nothing to carry out.
    pub sweep: Option<SweepNumber>,
}

type Result<T> = std::result::Result<T, ConfigurationError>;

impl Store {
    /// Creates a configuration. `then` is told under the terms of [`Store::apply`].
    pub(crate) async fn create_configuration(
        &self,
        id: ConfigurationId,
        spec: ConfigurationSpec,
        (at, by): (Timestamp, By),
        then: impl FnOnce(ConfigurationChange) + Send + 'static,
    ) -> Result<StoredConfiguration> {
        self.run(move |engine| {
            let transaction = engine.begin("create a configuration")?;
            let before = read(&transaction, &id)?;
            let last = match before {
                Some((_, deleted)) if !deleted => {
                    return Err(ConfigurationError::Exists(id));
                }
                Some((before, _)) => before.revision,
                None => 0,
            };
            let count = "SELECT count(*) FROM configurations WHERE NOT deleted";
            let count = transaction.query_row(count, [], |row| row.get::<_, i64>(0));
            let count = count.map_err(failed("count configurations"))?;
            if number("a count", count)? >= CONFIGURATIONS_MAX {
                return Err(ConfigurationError::TooMany);
            }
            let new = StoredConfiguration {
                id,
                spec,
                revision: last + 1,
                created_order: next_created_order(&transaction)?,
                created_at: at,
                updated_at: at,
            };
            let sweep = raise_sweep(&transaction)?;
            write(transaction, &new, "configuration.create", &by)?;
            then(ConfigurationChange::to(&new, Some(sweep)));
            Ok(new)
        })
        .await
    }

    /// Replaces what may change of a configuration, if it is still at `expected`. `then` is told under
    /// the terms of [`Store::apply`].
    pub(crate) async fn update_configuration(
        &self,
        id: ConfigurationId,
        mut spec: ConfigurationSpec,
        expected: Option<u64>,
        (at, by): (Timestamp, By),
        then: impl FnOnce(ConfigurationChange) + Send + 'static,
    ) -> Result<StoredConfiguration> {
        self.run(move |engine| {
            let transaction = engine.begin("update a configuration")?;
            let before = present(&transaction, &id, expected)?;
            if spec.content.is_none() {
                spec.content.clone_from(&before.spec.content);
            }
            if let Some(part) = before.spec.changed_for_ever(&spec) {
                return Err(ConfigurationError::Immutable { id, part });
            }
            let new = StoredConfiguration {
                spec,
                revision: before.revision + 1,
                updated_at: at,
                ..before.clone()
            };
            // Better labels are not a reason to look at a whole fleet.
            let sweep = if new.works_like(&before) {
                None
            } else {
                Some(frozen::sweep_of_configuration(&transaction, &id)?)
            };
            write(transaction, &new, "configuration.update", &by)?;
            then(ConfigurationChange::to(&new, sweep));
            Ok(new)
        })
        .await
    }

    /// Deletes a configuration, if it is still at `expected`. `then` is told under the terms of
    /// [`Store::apply`].
    pub(crate) async fn delete_configuration(
        &self,
        id: ConfigurationId,
        expected: Option<u64>,
        (at, by): (Timestamp, By),
        then: impl FnOnce(ConfigurationChange) + Send + 'static,
    ) -> Result<()> {
        self.run(move |engine| {
            let transaction = engine.begin("delete a configuration")?;
            let revision = match present(&transaction, &id, expected) {
                Ok(before) => before.revision,
                // What nobody can read can at least be taken out.
                Err(ConfigurationError::Store(error))
                    if error.is_of_row() && expected.is_none() =>
                {
                    0
                }
                Err(error) => return Err(error),
            };
            let statement = "UPDATE configurations SET deleted = 1, update_time = ?2
                             WHERE configuration_id = ?1";
            transaction
                .execute(statement, params![id.as_str(), at.to_string()])
                .map_err(failed("delete a configuration"))?;
            let sweep = frozen::sweep_of_configuration(&transaction, &id)?;
            let what = (revision, None);
            let action = "configuration.delete";
            audit::note(&transaction, action, id.as_str(), what, (at, &by))?;
            transaction
                .commit()
                .map_err(failed("delete a configuration"))?;
            then(ConfigurationChange {
                id,
                now: None,
                sweep: Some(sweep),
            });
            Ok(())
        })
        .await
    }
}

impl ConfigurationChange {
    fn to(new: &StoredConfiguration, sweep: Option<SweepNumber>) -> ConfigurationChange {
        ConfigurationChange {
            id: new.id.clone(),
            now: Some(new.clone()),
            sweep,
        }
    }
}

/// All that are not deleted, in the order of their ids.
pub(super) fn all(
    connection: &Connection,
    unreadable: &mut Unreadable,
) -> std::result::Result<Vec<StoredConfiguration>, Error> {
    let mut rows = connection
        .prepare(&select("WHERE NOT deleted ORDER BY configuration_id"))
        .map_err(failed("read configurations"))?;
    let rows = rows
        .query_map([], |row| Ok((row.get::<_, String>(0), Raw::read(row))))
        .map_err(failed("read configurations"))?;
    let mut all = Vec::new();
    for row in rows {
        let (id, row) = row.map_err(failed("read configurations"))?;
        let row = row.map_err(failed("read configurations"));
        match row.and_then(Raw::checked) {
            Ok((configuration, _)) => all.push(configuration),
            Err(error) => {
                let text = id.unwrap_or_default();
                let id = ConfigurationId::parse(&text).ok();
                let id = id.as_ref().map(PolicyId::of_configuration);
                unreadable.policy(id, &text, error)?;
            }
        }
    }
    Ok(all)
}

/// A row as it stands.
struct Raw {
    id: String,
    revision: i64,
    body: String,
    created_at: String,
    updated_at: String,
    deleted: bool,
    created_order: i64,
}

fn select(rest: &str) -> String {
    format!(
        "SELECT configuration_id, revision, body, create_time, update_time, deleted,
                created_order
         FROM configurations {rest}"
    )
}

impl Raw {
    fn read(row: &Row<'_>) -> rusqlite::Result<Raw> {
        Ok(Raw {
            id: row.get(0)?,
            revision: row.get(1)?,
            body: row.get(2)?,
            created_at: row.get(3)?,
            updated_at: row.get(4)?,
            deleted: row.get(5)?,
            created_order: row.get(6)?,
        })
    }

    /// The configuration, and whether it is deleted.
    fn checked(self) -> std::result::Result<(StoredConfiguration, bool), Error> {
        let damaged = |problem: String| Error::Damaged {
            what: format!("the configuration {:?}: {problem}", self.id),
        };
        let id = ConfigurationId::parse(&self.id).map_err(damaged)?;
        let spec = serde_json::from_str(&self.body).map_err(|error| damaged(error.to_string()))?;
        let configuration = StoredConfiguration {
            id,
            spec,
            revision: number("a revision", self.revision)?,
            created_order: number("an order of creation", self.created_order)?,
            created_at: instant(&self.created_at)?,
            updated_at: instant(&self.updated_at)?,
        };
        Ok((configuration, self.deleted))
    }
}

fn read(
    connection: &Connection,
    id: &ConfigurationId,
) -> std::result::Result<Option<(StoredConfiguration, bool)>, Error> {
    connection
        .query_row(
            &select("WHERE configuration_id = ?1"),
            [id.as_str()],
            Raw::read,
        )
        .optional()
        .map_err(failed("read a configuration"))?
        .map(Raw::checked)
        .transpose()
}

/// The configuration, if there is one and it is still at `expected`.
fn present(
    connection: &Connection,
    id: &ConfigurationId,
    expected: Option<u64>,
) -> Result<StoredConfiguration> {
    let found = match read(connection, id)? {
        Some((found, deleted)) if !deleted => found,
        Some(_) | None => return Err(ConfigurationError::NotFound(id.clone())),
    };
    if expected.is_some_and(|expected| expected != found.revision) {
        return Err(ConfigurationError::Changed {
            id: id.clone(),
            found: found.revision,
        });
    }
    Ok(found)
}

fn write(
    transaction: Transaction<'_>,
    new: &StoredConfiguration,
    action: &str,
    by: &By,
) -> std::result::Result<(), Error> {
    // Texts, numbers and JSON objects: nothing that JSON cannot say.
    let body = serde_json::to_string(&new.spec).unwrap_or_default();
    let statement = "INSERT OR REPLACE INTO configurations
                     (configuration_id, revision, body, create_time, update_time, deleted,
                      created_order)
                     VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6)";
    let values = params![
        new.id.as_str(),
        stored(new.revision),
        body,
        new.created_at.to_string(),
        new.updated_at.to_string(),
        stored(new.created_order),
    ];
    transaction
        .execute(statement, values)
        .map_err(failed("write a configuration"))?;
    let what = (new.revision, Some(&*body));
    let when = (new.updated_at, by);
    audit::note(&transaction, action, new.id.as_str(), what, when)?;
    transaction
        .commit()
        .map_err(failed("write a configuration"))
}

fn failed(action: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |source| Error::Engine { action, source }
}
