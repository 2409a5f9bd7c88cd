//! `AuditService`: reads and verifies the chains of administrative changes, and takes entries of
//! other services into them.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};
use twin::Partition;
use wire::registry::v1 as proto;
use wire::registry::v1::audit_service_server::AuditService;

use super::caller::Caller;
use super::{Api, refuse};
use crate::error::Error;

mod list;
mod record;
mod verify;

/// Entries read from the store at once.
const CHUNK: u32 = 1000;

impl Api {
    /// Every partition of the hub, in order.
    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        let heads: BTreeMap<_, _> = self.store.heads().await?;
        Ok(heads.into_keys().collect())
    }
}

#[tonic::async_trait]
impl AuditService for Api {
    async fn list_audit_entries(
        &self,
        request: Request<proto::ListAuditEntriesRequest>,
    ) -> Result<Response<proto::ListAuditEntriesResponse>, Status> {
        self.audit_page(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn verify_audit(
        &self,
        request: Request<proto::VerifyAuditRequest>,
    ) -> Result<Response<proto::VerifyAuditResponse>, Status> {
        self.verified(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn record_audit_entry(
        &self,
        request: Request<proto::RecordAuditEntryRequest>,
    ) -> Result<Response<proto::RecordAuditEntryResponse>, Status> {
        let caller = Caller::of(&request);
        self.record(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }
}
