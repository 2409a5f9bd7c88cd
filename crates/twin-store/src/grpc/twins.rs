//! `TwinService`: twins for operators and other services.

use prost::Message as _;
use serde_json::Value;
use tonic::{Request, Response, Status};
use twin::query::Scope;
use twin::{Condition, Map, TwinView};
use wire::InvalidField;
use wire::twin::v1 as proto;
use wire::twin::v1::twin_service_server::TwinService;

use super::caller::Caller;
use super::watch::{self, Watch};
use super::{Api, identity, page_size, page_start, page_token, refuse, report_damaged};
use crate::encode;
use crate::error::Error;
use crate::record::{Damaged, Record};
use crate::store::{Search, Source};

/// Twins read from the store at once.
const CHUNK: u32 = 256;
/// Bytes after which a page ends early. With one more twin it stays below the 4 MiB that gRPC
/// clients take when nobody tells them otherwise.
const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Twins looked at for one page of a filtered list, so that a call ends in time whatever the
/// filter; a page may then be short, or empty with a token.
const SCAN_MAX: u32 = 5000;

/// Which twins a caller asks for.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    /// All.
    All,
    /// Those for which a condition holds.
    Where(Box<Condition>),
}

impl Filter {
    pub(super) fn parse(text: &str) -> Result<Filter, Error> {
        if text.trim().is_empty() {
            return Ok(Filter::All);
        }
        let condition =
            Condition::parse(text).map_err(|error| InvalidField::new("filter", error))?;
        Ok(Filter::Where(Box::new(condition)))
    }

    /// What a store is asked.
    pub(super) fn scope(&self) -> Scope {
        match self {
            Filter::All => Scope::Everything,
            Filter::Where(condition) => condition.scope().clone(),
        }
    }

    /// The twin as a message, if it passes.
    pub(super) fn show(&self, record: &Record) -> Result<Option<proto::Twin>, Damaged> {
        if !self.passes(record)? {
            return Ok(None);
        }
        encode::twin(record).map(Some)
    }

    /// Whether a twin passes.
    pub(super) fn passes(&self, record: &Record) -> Result<bool, Damaged> {
        let Filter::Where(condition) = self else {
            return Ok(true);
        };
        let document = |part: &'static str, text: &str| -> Result<Map, Damaged> {
            serde_json::from_str(text).map_err(|error| Damaged {
                key: record.key.to_string(),
                part,
                problem: error.to_string(),
            })
        };
        let tags = document("tags", &record.twin.tags.document)?;
        let desired = document("properties.desired", &record.twin.desired.document)?;
        let reported = document("properties.reported", &record.twin.reported.document)?;
        let posture = serde_json::to_value(&record.posture).unwrap_or(Value::Null);
        Ok(condition.matches(&TwinView {
            device_id: record.key.device.as_str(),
            module_id: record.key.module.as_ref().map(twin::ModuleId::as_str),
            status: record.identity.status.as_str(),
            tags: &tags,
            desired: &desired,
            desired_version: record.twin.desired.version.get(),
            reported: &reported,
            reported_version: record.twin.reported.version.get(),
            posture: &posture,
        }))
    }
}

impl Api {
    async fn one(&self, request: proto::GetTwinRequest) -> Result<proto::Twin, Error> {
        let key = identity("name", &request.name)?;
        let record = self
            .store
            .get(key.clone())
            .await?
            .ok_or(Error::NotFound(key))?;
        Ok(encode::twin(&record)?)
    }

    async fn page(
        &self,
        request: proto::ListTwinsRequest,
    ) -> Result<proto::ListTwinsResponse, Error> {
        let size = page_size(request.page_size)? as usize;
        let filter = Filter::parse(&request.filter)?;
        let mut after = page_start(&request.page_token)?;
        let mut twins = Vec::new();
        let (mut scanned, mut bytes) = (0, 0);
        loop {
            let page = self
                .store
                .search(Search {
                    source: Source::All,
                    condition: filter.scope(),
                    now: self.clock.now(),
                    after,
                    limit: CHUNK,
                })
                .await?;
            report_damaged(&page.damaged);
            for record in &page.records {
                let twin = match filter.show(record) {
                    Ok(Some(twin)) => twin,
                    Ok(None) => continue,
                    Err(damaged) => {
                        report_damaged(&[damaged]);
                        continue;
                    }
                };
                bytes += twin.encoded_len();
                twins.push(twin);
                if twins.len() >= size || bytes >= PAGE_BYTES {
                    // It may turn out that nothing follows; an empty last page is allowed.
                    return Ok(proto::ListTwinsResponse {
                        damaged: Vec::new(),
                        twins,
                        next_page_token: page_token(Some(&record.key)),
                    });
                }
            }
            scanned += CHUNK;
            after = page.next;
            if after.is_none() || scanned >= SCAN_MAX {
                return Ok(proto::ListTwinsResponse {
                    damaged: Vec::new(),
                    twins,
                    next_page_token: page_token(after.as_ref()),
                });
            }
        }
    }
}

#[tonic::async_trait]
impl TwinService for Api {
    type WatchTwinsStream = Watch;

    async fn get_twin(
        &self,
        request: Request<proto::GetTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        self.one(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn list_twins(
        &self,
        request: Request<proto::ListTwinsRequest>,
    ) -> Result<Response<proto::ListTwinsResponse>, Status> {
        self.page(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn patch_twin(
        &self,
        request: Request<proto::PatchTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        let caller = Caller::of(&request);
        self.patch(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn batch_get_twins(
        &self,
        _request: Request<proto::BatchGetTwinsRequest>,
    ) -> Result<Response<proto::BatchGetTwinsResponse>, Status> {
        Err(Status::unimplemented("under construction"))
    }

    async fn replace_twin(
        &self,
        request: Request<proto::ReplaceTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        let caller = Caller::of(&request);
        self.replace(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn watch_twins(
        &self,
        request: Request<proto::WatchTwinsRequest>,
    ) -> Result<Response<Watch>, Status> {
        watch::open(self, &request.into_inner())
            .map(Response::new)
            .map_err(refuse)
    }
}
