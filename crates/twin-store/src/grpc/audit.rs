//! `AuditService`: reads and verifies the chains of administrative changes, and takes entries of
//! other services into them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tonic::{Request, Response, Status};
use twin::Partition;
use wire::InvalidField;
use wire::registry::v1 as proto;
use wire::registry::v1::audit_service_server::AuditService;
use wire::time::{optional, to_wire};

use super::caller::Caller;
use super::{Api, page_size, refuse};
use crate::audit::Walk;
use crate::error::Error;
use crate::hex;
use crate::store::AuditEntry;

mod record;

/// Entries read from the store at once.
const CHUNK: u32 = 1000;
/// Entries looked at for one page, so that a call ends in time whatever is asked for; a page may
/// then be short, or empty with a token.
const SCAN_MAX: usize = 20_000;

/// Where a page begins: behind this entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    partition: u16,
    sequence: u64,
}

/// Which entries a caller asks for.
struct Wanted {
    start: Option<Timestamp>,
    resource: String,
}

impl Wanted {
    fn passes(&self, entry: &AuditEntry) -> bool {
        let resource = self.resource.as_str();
        let below = entry
            .resource
            .strip_prefix(resource)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let late = self.start.is_none_or(|start| entry.at >= start);
        late && (resource.is_empty() || below)
    }
}

impl Api {
    /// Every partition of the hub, in order.
    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        let heads: BTreeMap<_, _> = self.store.heads().await?;
        Ok(heads.into_keys().collect())
    }

    async fn audit_page(
        &self,
        request: proto::ListAuditEntriesRequest,
    ) -> Result<proto::ListAuditEntriesResponse, Error> {
        let size = page_size(request.page_size)? as usize;
        let wanted = Wanted {
            start: optional("start_time", request.start_time)?,
            resource: request.resource,
        };
        let begin = place(&request.page_token)?;
        let mut answer = proto::ListAuditEntriesResponse::default();
        let mut looked_at = 0;
        for partition in self.partitions().await? {
            let mut after = match begin {
                Some(place) if partition.get() < place.partition => continue,
                Some(place) if partition.get() == place.partition => place.sequence,
                Some(_) | None => 0,
            };
            loop {
                let page = self.store.audit(partition, after, CHUNK).await?;
                let Some(last) = page.entries.last() else {
                    break;
                };
                let end = last.sequence;
                for entry in page.entries {
                    after = entry.sequence;
                    looked_at += 1;
                    if wanted.passes(&entry) {
                        answer.entries.push(message(entry));
                    }
                    if answer.entries.len() >= size || looked_at >= SCAN_MAX {
                        answer.next_page_token = format!("{partition}/{after}");
                        return Ok(answer);
                    }
                }
                debug_assert_eq!(after, end, "every entry was looked at");
            }
        }
        Ok(answer)
    }

    async fn verified(&self) -> Result<proto::VerifyAuditResponse, Error> {
        let mut answer = proto::VerifyAuditResponse {
            chains: Vec::new(),
            whole: true,
        };
        for partition in self.partitions().await? {
            let chain = self.chain(partition).await?;
            answer.whole &= chain.broken_at == 0;
            if chain.head_sequence > 0 || chain.broken_at > 0 {
                answer.chains.push(chain);
            }
        }
        Ok(answer)
    }

    async fn chain(&self, partition: Partition) -> Result<proto::AuditChain, Error> {
        let mut walk = Walk::default();
        loop {
            let after = walk.reached().sequence;
            let page = self.store.audit(partition, after, CHUNK).await?;
            let mut broken = page.entries.iter().try_for_each(|entry| walk.step(entry));
            let short = u32::try_from(page.entries.len()).is_ok_and(|read| read < CHUNK);
            if broken.is_ok() && !short {
                continue;
            }
            if broken.is_ok() {
                broken = walk.end(page.head);
            }
            let (broken_at, problem) = match broken {
                Ok(()) => (0, String::new()),
                Err(broken) => (broken.sequence, broken.problem.to_owned()),
            };
            return Ok(proto::AuditChain {
                partition: partition.get().into(),
                entries: walk.reached().sequence,
                head_sequence: page.head.sequence,
                head_hash: hex::text(&page.head.hash),
                broken_at,
                problem,
            });
        }
    }
}

/// A page token is `<partition>/<sequence>`.
fn place(token: &str) -> Result<Option<Place>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = token.split_once('/').and_then(|(partition, sequence)| {
        Some(Place {
            partition: partition.parse().ok()?,
            sequence: sequence.parse().ok()?,
        })
    });
    let problem = "is not one that this service gave";
    parsed
        .map(Some)
        .ok_or_else(|| InvalidField::new("page_token", problem).into())
}

fn message(entry: AuditEntry) -> proto::AuditEntry {
    proto::AuditEntry {
        partition: entry.partition.get().into(),
        sequence: entry.sequence,
        time: Some(to_wire(entry.at)),
        actor: entry.actor,
        action: entry.action,
        resource: entry.resource,
        detail_json: entry.detail,
        trace_parent: entry.trace_parent.unwrap_or_default(),
        hash: hex::text(&entry.hash),
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
        _request: Request<proto::VerifyAuditRequest>,
    ) -> Result<Response<proto::VerifyAuditResponse>, Status> {
        self.verified().await.map(Response::new).map_err(refuse)
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
