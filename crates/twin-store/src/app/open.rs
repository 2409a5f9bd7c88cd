//! Opens the store that the configuration names, and the master keys beside it.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use super::AppError;
use crate::config::{Config, StoreKind};
use crate::secrets::Sealer;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{self, Store};

/// The data are the owner's alone.
const FOLDER_MODE: u32 = 0o700;

/// The store and what seals the secrets in it. SQLite gets its folder and its first master key
/// here; a database's key must be there already.
pub(super) async fn store(config: &Config) -> Result<(Arc<dyn Store>, Arc<Sealer>), AppError> {
    let (folder, kind) = (config.data_dir.clone(), config.store);
    let master_keys = config.master_keys();
    let opened = tokio::task::spawn_blocking(move || {
        let sqlite = match kind {
            StoreKind::Sqlite => {
                make_folder(&folder)?;
                Some(SqliteStore::open(&folder)?)
            }
            StoreKind::Postgres => {
                // One that was made here would be another one than the other replicas have.
                master_keys.must_exist()?;
                None
            }
        };
        Ok::<_, AppError>((sqlite, Sealer::open(&master_keys)?))
    })
    .await
    .map_err(|_| store::Error::Closed)?;
    let (sqlite, sealer) = opened?;
    let store: Arc<dyn Store> = match sqlite {
        Some(store) => Arc::new(store),
        None => Arc::new(PostgresStore::open(&config.postgres).await?),
    };
    Ok((store, Arc::new(sealer)))
}

fn make_folder(folder: &Path) -> Result<(), AppError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
        .map_err(|source| AppError::Folder {
            path: folder.to_owned(),
            source,
        })
}
