//! How many twins a search finds, without reading them.

use serde_json::Value;
use tonic::Status;
use wire::twin::v1::QueryTwinsRequest;

use super::TwinStore;

impl TwinStore {
    /// Counts the twins of a search, devices and modules; of an empty one all there are. For a caller
    /// who waits: one attempt, and the answer as it is.
    pub(crate) async fn count(&self, filter: &str) -> Result<u64, Status> {
        let mut sum = 0_u64;
        for source in ["devices", "devices.modules"] {
            let condition = match filter {
                "" => String::new(),
                filter => format!(" WHERE {filter}"),
            };
            let request = QueryTwinsRequest {
                query: format!("SELECT COUNT() AS found FROM {source}{condition}"),
                ..QueryTwinsRequest::default()
            };
            let answer = self.queries.clone().query_twins(request).await?;
            let rows = answer.into_inner().rows_json;
            let row: Option<Value> = rows.first().and_then(|row| serde_json::from_str(row).ok());
            let found = row.and_then(|row| row["found"].as_u64());
            let found = found.ok_or_else(|| Status::internal("twin-store told no number"))?;
            sum = sum.saturating_add(found);
        }
        Ok(sum)
    }
}
