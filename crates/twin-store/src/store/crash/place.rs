//! Where a child's store is, and the test's own view of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::store::Store;
use crate::store::maintain::Maintain;
use crate::store::postgres::PostgresRows;
use crate::store::postgres::testing::{open, settings};
use crate::store::sqlite::{SqliteFiles, SqliteStore};

/// A store of either kind.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Folder(PathBuf),
    Database(String),
}

impl Place {
    pub(super) fn print(&self) -> String {
        match self {
            Place::Folder(path) => format!("folder:{}", path.display()),
            Place::Database(url) => format!("database:{url}"),
        }
    }

    pub(super) fn parse(text: &str) -> Place {
        match text.split_once(':').expect("a place") {
            ("folder", path) => Place::Folder(path.into()),
            ("database", url) => Place::Database(url.to_owned()),
            (kind, _) => panic!("what is a {kind}?"),
        }
    }

    pub(super) async fn open(&self) -> Arc<dyn Store> {
        match self {
            Place::Folder(path) => Arc::new(SqliteStore::open(path).expect("it opens")),
            Place::Database(url) => Arc::new(open(url).await),
        }
    }

    pub(super) fn rows(&self) -> Box<dyn Maintain> {
        match self {
            Place::Folder(path) => Box::new(SqliteFiles::new(path)),
            Place::Database(url) => Box::new(PostgresRows::new(settings(url))),
        }
    }

    /// Bytes of its write-ahead log, if it is a file of ours.
    pub(super) fn wal(&self) -> u64 {
        match self {
            Place::Folder(path) => {
                std::fs::metadata(path.join("twins.db-wal")).map_or(0, |wal| wal.len())
            }
            Place::Database(_) => 0,
        }
    }
}

/// A place that nothing has been in yet.
pub(super) struct Fresh {
    pub(super) place: Place,
    _folder: Option<TempDir>,
}

impl Fresh {
    pub(super) fn folder() -> Fresh {
        let folder = tempfile::tempdir().expect("a folder");
        Fresh {
            place: Place::Folder(folder.path().to_owned()),
            _folder: Some(folder),
        }
    }

    pub(super) async fn database() -> Fresh {
        let database = testkit::postgres::database().await;
        Fresh {
            place: Place::Database(database.url()),
            _folder: None,
        }
    }

    /// Changes rows behind the store's back, as a failing disk would.
    pub(super) async fn tamper(&self, sql: &str) {
        match &self.place {
            Place::Folder(path) => crate::store::sqlite::tamper(path, sql, []),
            Place::Database(url) => open(url).await.execute_raw(sql).await,
        }
    }

    /// The folder of an embedded store.
    pub(super) fn path(&self) -> &Path {
        match &self.place {
            Place::Folder(path) => path,
            Place::Database(url) => panic!("{url} is no folder"),
        }
    }
}
