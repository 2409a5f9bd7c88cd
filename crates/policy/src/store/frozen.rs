//! Frozen paths as they are kept. They go with the change of a policy that wrote there, in its
//! transaction; the sweep that such a change wants is what writes there again.

use jiff::Timestamp;
use rusqlite::{Transaction, params};
use serde_json::json;
use twin::{IdentityKey, Writer};
use wire::names::identity_name;

use super::audit::{self, By};
use super::row::instant;
use super::sqlite::{Engine, raise_sweep};
use super::{Error, Store, SweepNumber, Unreadable};
use crate::configuration_doc::ConfigurationId;
use crate::keep::{Frozen, FrozenSet};

/// Frozen paths of a hub. What would go beyond goes on going back and forth, and is logged.
pub(crate) const FROZEN_MAX: usize = 10_000;

/// Thawed paths that an entry of the audit log names.
const THAWED_NAMED_MAX: usize = 20;
/// Bytes of each, as twins tell of it.
const THAWED_BYTES_MAX: usize = 512;

impl Store {
    /// Freezes paths of a twin, as many as there is room for, and answers how many; `then` is told them, under the
    /// terms of [`Store::apply`].
    pub(crate) async fn freeze(
        &self,
        twin: IdentityKey,
        paths: Vec<Frozen>,
        then: impl FnOnce(&IdentityKey, Vec<Frozen>) + Send + 'static,
    ) -> Result<usize, Error> {
        self.run(move |engine| {
            let frozen = engine.freeze(&twin, paths)?;
            let count = frozen.len();
            then(&twin, frozen);
            Ok(count)
        })
        .await
    }

    /// Thaws a path of a twin, or all of them, and wants a sweep if there were any. If somebody said so it is
    /// noted for the audit log, in the same transaction. `then` is told all
    /// that are frozen and that sweep, under the terms of [`Store::apply`].
    pub(crate) async fn thaw(
        &self,
        twin: IdentityKey,
        path: Option<String>,
        by: Option<(Timestamp, By)>,
        then: impl FnOnce(FrozenSet, SweepNumber) + Send + 'static,
    ) -> Result<usize, Error> {
        self.run(move |engine| {
            let (thawed, left) = engine.thaw(&twin, path.as_deref(), by.as_ref())?;
            if let Some((left, sweep)) = left {
                then(left, sweep);
            }
            Ok(thawed)
        })
        .await
    }
}

impl Engine {
    fn freeze(&mut self, twin: &IdentityKey, mut paths: Vec<Frozen>) -> Result<Vec<Frozen>, Error> {
        const ACTION: &str = "freeze a path";
        let transaction = self.begin(ACTION)?;
        let known: i64 = transaction
            .query_row("SELECT count(*) FROM frozen_paths", [], |row| row.get(0))
            .map_err(failed(ACTION))?;
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        paths.truncate(FROZEN_MAX.saturating_sub(known));
        for one in &paths {
            write(&transaction, twin, one)?;
        }
        transaction.commit().map_err(failed(ACTION))?;
        Ok(paths)
    }

    fn thaw(
        &mut self,
        twin: &IdentityKey,
        path: Option<&str>,
        by: Option<&(Timestamp, By)>,
    ) -> Result<(usize, Option<(FrozenSet, SweepNumber)>), Error> {
        const ACTION: &str = "thaw a path";
        let transaction = self.begin(ACTION)?;
        let mut thawed = Vec::new();
        for one in read(&transaction)?.of(twin) {
            if path.is_none_or(|path| one.path.join(".") == path) {
                forget(&transaction, twin, one)?;
                let path = one.path.join(".");
                let end = path.floor_char_boundary(THAWED_BYTES_MAX.min(path.len()));
                thawed.push(json!({ "path": path[..end], "writers": one.writers }));
            }
        }
        let count = thawed.len();
        if count == 0 {
            return Ok((0, None));
        }
        if let Some((at, by)) = by {
            // A twin may have more frozen paths than an entry holds.
            thawed.truncate(THAWED_NAMED_MAX);
            let detail = json!({ "thawed": count, "paths": thawed });
            let name = identity_name(twin);
            audit::note_detail(&transaction, "path.thaw", &name, &detail, (*at, by))?;
        }
        let sweep = raise_sweep(&transaction)?;
        let all = read(&transaction)?;
        transaction.commit().map_err(failed(ACTION))?;
        Ok((count, Some((all, sweep))))
    }
}

fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |source| Error::Engine { action, source }
}

/// Thaws what a policy or configuration of this name wrote to, because it is another one now.
pub(super) fn thaw_of(transaction: &Transaction<'_>, name: &str) -> Result<(), Error> {
    for (twin, one) in read(transaction)?.iter() {
        if one.is_of(name) {
            forget(transaction, twin, one)?;
        }
    }
    Ok(())
}

/// The same of a configuration, and the sweep that carries out what it is now.
pub(super) fn sweep_of_configuration(
    transaction: &Transaction<'_>,
    id: &ConfigurationId,
) -> Result<SweepNumber, Error> {
    thaw_of(transaction, &format!("{}{id}", Writer::CONFIGURATION))?;
    raise_sweep(transaction)
}

/// Reads all of them, and notes how many cannot be read.
pub(super) fn load(
    transaction: &Transaction<'_>,
    unreadable: &mut Unreadable,
) -> Result<FrozenSet, Error> {
    let (found, damaged) = read_rows(transaction)?;
    if let [first, ..] = damaged.as_slice() {
        let count = damaged.len();
        unreadable.other(format!(
            "{count} frozen paths, which are not frozen now; one of them: {first}"
        ));
    }
    Ok(found)
}

/// Reads those that can be read.
fn read(transaction: &Transaction<'_>) -> Result<FrozenSet, Error> {
    Ok(read_rows(transaction)?.0)
}

/// Reads all of them, and what is wrong with others.
fn read_rows(transaction: &Transaction<'_>) -> Result<(FrozenSet, Vec<String>), Error> {
    const ACTION: &str = "read frozen paths";
    let mut rows = transaction
        .prepare("SELECT twin, path, writers, freeze_time FROM frozen_paths")
        .map_err(failed(ACTION))?;
    let rows = rows
        .query_map([], |row| {
            let texts = [row.get::<_, String>(0), row.get(1), row.get(2), row.get(3)];
            Ok(parse(texts))
        })
        .map_err(failed(ACTION))?;
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for row in rows {
        match row.map_err(failed(ACTION))? {
            Ok(one) => found.push(one),
            Err(problem) => damaged.push(problem),
        }
    }
    Ok((FrozenSet::new(found), damaged))
}

fn parse(texts: [rusqlite::Result<String>; 4]) -> Result<(IdentityKey, Frozen), String> {
    let [twin, path, writers, at] = texts.map(|text| text.map_err(|error| error.to_string()));
    let twin = IdentityKey::parse_path(&twin?).map_err(|error| error.to_string())?;
    let list = |text: String| serde_json::from_str(&text).map_err(|error| error.to_string());
    let one = Frozen {
        path: list(path?)?,
        writers: list(writers?)?,
        at: instant(&at?).map_err(|error| error.to_string())?,
    };
    Ok((twin, one))
}

fn key_of(one: &Frozen) -> String {
    serde_json::json!(one.path).to_string()
}

fn write(transaction: &Transaction<'_>, twin: &IdentityKey, one: &Frozen) -> Result<(), Error> {
    let writers = serde_json::json!(one.writers).to_string();
    let at: Timestamp = one.at;
    transaction
        .execute(
            "INSERT OR REPLACE INTO frozen_paths VALUES (?1, ?2, ?3, ?4)",
            params![twin.to_string(), key_of(one), writers, at.to_string()],
        )
        .map(|_| ())
        .map_err(failed("freeze a path"))
}

fn forget(transaction: &Transaction<'_>, twin: &IdentityKey, one: &Frozen) -> Result<(), Error> {
    transaction
        .execute(
            "DELETE FROM frozen_paths WHERE twin = ?1 AND path = ?2",
            params![twin.to_string(), key_of(one)],
        )
        .map(|_| ())
        .map_err(failed("thaw a path"))
}
