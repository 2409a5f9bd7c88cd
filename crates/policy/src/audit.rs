//! Brings what people changed into the audit log of the hub, which twin-store keeps: one log, one
//! chain of hashes to verify, whoever serves the change.
//!
//! Entries wait in the store, written with their change, and go in their order. One that comes twice
//! is known there by its id. It never drops one: what twin-store refuses for good goes to `REJECTS`, so that
//! it holds up nothing behind it.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use service_kit::shutdown::ShutdownToken;
use tokio::sync::Notify;
use wire::registry::v1::RecordAuditEntryRequest;
use wire::time::to_wire;

use crate::rejects::{Reason, Rejected, Rejects};
use crate::store::{self, AuditEntry, Store};
use crate::twin_store::{Failure, TwinStore};

/// How long to wait after twin-store failed on an entry, which only an operator can mend.
const FAILED_PAUSE: Duration = Duration::from_mins(1);

/// Delivers entries until the service stops.
pub(crate) async fn deliver(
    store: Store,
    (twins, rejects): (TwinStore, Rejects),
    noted: Arc<Notify>,
    shutdown: ShutdownToken,
) -> Result<(), store::Error> {
    loop {
        let Some(entry) = store.next_audit_entry().await? else {
            match shutdown.run_until(noted.notified()).await {
                Some(()) => continue,
                None => return Ok(()),
            }
        };
        let request = request(&entry);
        match twins.record(&request).await {
            Ok(()) => store.audit_entry_done(entry.number).await?,
            Err(Failure::Stopped) => return Ok(()),
            // The same request would be refused for ever.
            Err(failure @ (Failure::Refused(_) | Failure::Conflict | Failure::Gone)) => {
                let rejected = Rejected {
                    id: format!("audit/{}", entry.request_id),
                    source: request.resource.clone(),
                    reason: Reason::AuditRefused,
                    message: failure.to_string(),
                    traceparent: None,
                    original: request.encode_to_vec().into(),
                };
                if !rejects.put(rejected).await {
                    return Ok(());
                }
                store.audit_entry_done(entry.number).await?;
            }
            Err(failure @ Failure::Unfinished(_)) => {
                let policy_id = entry.policy_id;
                tracing::error!(policy_id, error = %failure, "an audit entry is not taken");
                let pause = tokio::time::sleep(FAILED_PAUSE);
                if shutdown.run_until(pause).await.is_none() {
                    return Ok(());
                }
            }
        }
    }
}

fn request(entry: &AuditEntry) -> RecordAuditEntryRequest {
    let id = &entry.policy_id;
    let resource = match entry.action.split_once('.') {
        Some(("configuration", _)) => format!("configurations/{id}"),
        Some(("freeze", _)) => format!("freezes/{id}"),
        Some(("reevaluation", _)) => format!("reevaluations/{id}"),
        // A twin's whole name.
        Some(("path", _)) => id.clone(),
        Some(_) | None => format!("policies/{id}"),
    };
    RecordAuditEntryRequest {
        request_id: entry.request_id.clone(),
        actor: entry.actor.clone(),
        action: entry.action.clone(),
        resource,
        change_time: Some(to_wire(entry.at)),
        detail_json: entry.detail.clone(),
        trace_parent: entry.trace_parent.clone(),
    }
}
