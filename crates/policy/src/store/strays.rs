//! What stands on twins and was never given by this file; see [`crate::stray`].

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::row::{number, stored};
use super::sqlite::{Engine, raise_sweep};
use super::{Error, Store, SweepNumber, Unreadable};
use crate::configuration_doc::ConfigurationId;
use crate::policy_doc::PolicyId;
use crate::stray::Given;

impl Store {
    /// Notes the newest revision of a policy that was seen on a twin and never given, and wants a sweep that
    /// finds all of them; `then` is told its number, under the terms of [`Store::apply`].
    pub(crate) async fn note_stray(
        &self,
        id: PolicyId,
        revision: u64,
        then: impl FnOnce(SweepNumber) + Send + 'static,
    ) -> Result<(), Error> {
        self.run(move |engine| {
            then(engine.note_stray(&id, revision)?);
            Ok(())
        })
        .await
    }
}

impl Engine {
    fn note_stray(&mut self, id: &PolicyId, revision: u64) -> Result<SweepNumber, Error> {
        const ACTION: &str = "note what stands on twins";
        let transaction = self.begin(ACTION)?;
        let statement = "INSERT INTO strays VALUES (?1, ?2) ON CONFLICT (policy_id)
                         DO UPDATE SET revision = max(revision, excluded.revision)";
        transaction
            .execute(statement, params![id.as_str(), stored(revision)])
            .map_err(failed(ACTION))?;
        let sweep = raise_sweep(&transaction)?;
        transaction.commit().map_err(failed(ACTION))?;
        Ok(sweep)
    }
}

/// All revisions that were ever given.
pub(super) fn given(transaction: &Transaction<'_>) -> Result<Given, Error> {
    const ACTION: &str = "read what was given";
    let mut given = Given::default();
    let mut read = |statement: &str, note: &mut dyn FnMut(&mut Given, &str, u64)| {
        let mut rows = transaction.prepare(statement).map_err(failed(ACTION))?;
        let mut rows = rows.query([]).map_err(failed(ACTION))?;
        while let Some(row) = rows.next().map_err(failed(ACTION))? {
            // What is damaged here is told by who reads the row itself.
            let both = (row.get::<_, String>(0), row.get::<_, i64>(1));
            if let (Ok(id), Ok(revision)) = both
                && let Ok(revision) = number("a revision", revision)
            {
                note(&mut given, &id, revision);
            }
        }
        Ok::<_, Error>(())
    };
    read(
        "SELECT policy_id, revision FROM revisions",
        &mut |given, id, revision| {
            if let Ok(id) = PolicyId::parse(id) {
                given.give(&id, revision);
            }
        },
    )?;
    read(
        "SELECT policy_id, revision FROM policies WHERE deleted",
        &mut |given, id, revision| {
            if let Ok(id) = PolicyId::parse(id) {
                given.delete(&id, revision);
            }
        },
    )?;
    read(
        "SELECT configuration_id, 0 FROM configurations",
        &mut |given, id, _| {
            if let Ok(id) = ConfigurationId::parse(id) {
                given.meet(&PolicyId::of_configuration(&id));
            }
        },
    )?;
    Ok(given)
}

/// Those that nobody has said anything of yet.
pub(super) fn open(
    transaction: &Transaction<'_>,
    given: &Given,
    unreadable: &mut Unreadable,
) -> Result<BTreeMap<PolicyId, u64>, Error> {
    const ACTION: &str = "read what stands on twins";
    let mut open = BTreeMap::new();
    let mut rows = transaction
        .prepare("SELECT policy_id, revision FROM strays")
        .map_err(failed(ACTION))?;
    let mut rows = rows.query([]).map_err(failed(ACTION))?;
    while let Some(row) = rows.next().map_err(failed(ACTION))? {
        let id = row.get::<_, String>(0).ok();
        let id = id.as_deref().and_then(parse);
        let revision = row.get::<_, i64>(1).ok();
        let revision = revision.and_then(|revision| number("a revision", revision).ok());
        match (id, revision) {
            (Some(id), Some(revision)) if given.is_behind(&id, revision) => {
                open.insert(id, revision);
            }
            (Some(_), Some(_)) => {}
            // The twins say it again when they are looked at.
            _ => unreadable.other("a note of what stands on twins".to_owned()),
        }
    }
    Ok(open)
}

/// The newest revision of a policy that was seen on a twin and never given; 0: none.
pub(super) fn newest(transaction: &Transaction<'_>, id: &PolicyId) -> Result<u64, Error> {
    let found = transaction
        .query_row(
            "SELECT revision FROM strays WHERE policy_id = ?1",
            [id.as_str()],
            |row| Ok(row.get::<_, i64>(0).ok()),
        )
        .optional()
        .map_err(failed("read what stands on twins"))?;
    let found = found.flatten();
    Ok(found
        .and_then(|revision| number("a revision", revision).ok())
        .unwrap_or(0))
}

fn parse(text: &str) -> Option<PolicyId> {
    match text.strip_prefix(twin::Writer::CONFIGURATION) {
        Some(id) => {
            let id = ConfigurationId::parse(id).ok()?;
            Some(PolicyId::of_configuration(&id))
        }
        None => PolicyId::parse(text).ok(),
    }
}

fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |source| Error::Engine { action, source }
}
