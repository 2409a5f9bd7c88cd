//! Opens stores for tests.

use super::{PostgresSettings, PostgresStore};

/// A store on a database of a test.
pub(crate) async fn open(url: &str) -> PostgresStore {
    PostgresStore::open(&settings(url)).await.expect("it opens")
}

/// Settings for it.
pub(crate) fn settings(url: &str) -> PostgresSettings {
    PostgresSettings::at(url)
}

impl PostgresStore {
    /// Runs statements behind the store's back.
    pub(crate) async fn execute_raw(&self, sql: &str) {
        let client = self.connections.get().await;
        client.batch_execute(sql).await.expect("it runs");
    }
}
