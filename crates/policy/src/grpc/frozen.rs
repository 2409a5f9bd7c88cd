//! The oscillation guard: which paths are frozen, and thawing them.

use tonic::{Request, Response, Status};
use twin::IdentityKey;
use wire::InvalidField;
use wire::names::{identity_name, parse_identity};
use wire::policy::v1 as proto;
use wire::policy::v1::guard_service_server::GuardService;
use wire::time::to_wire;

use super::{Error, answer, by, page_size};
use crate::evaluate::PolicySet;
use crate::keep::Frozen;
use crate::policies::Policies;
use crate::store::By;

/// Before the place in a page token, so that another form can be told apart later.
const PAGE_TOKEN_PREFIX: &str = "from:";

/// The guard's API.
#[derive(Debug, Clone)]
pub(crate) struct GuardApi {
    policies: Policies,
}

impl GuardApi {
    /// Serves what is frozen under these policies.
    pub(crate) fn new(policies: Policies) -> GuardApi {
        GuardApi { policies }
    }

    fn list(
        &self,
        request: &proto::ListFrozenPathsRequest,
    ) -> Result<proto::ListFrozenPathsResponse, Error> {
        let size = page_size(request.page_size)?;
        let start = match request.page_token.as_str() {
            "" => 0,
            token => token
                .strip_prefix(PAGE_TOKEN_PREFIX)
                .and_then(|place| place.parse::<usize>().ok())
                .ok_or_else(|| InvalidField::new("page_token", "is none that this service gave"))?,
        };
        let set = self.policies.set();
        let total = set.frozen().iter().count();
        let page = set.frozen().iter().skip(start).take(size);
        let end = start.saturating_add(size);
        Ok(proto::ListFrozenPathsResponse {
            frozen_paths: page
                .map(|(twin, one)| print(&identity_name(twin), one))
                .collect(),
            next_page_token: if end < total {
                format!("{PAGE_TOKEN_PREFIX}{end}")
            } else {
                String::new()
            },
            total_size: i32::try_from(total).unwrap_or(i32::MAX),
        })
    }

    async fn thaw(
        &self,
        request: proto::ThawPathsRequest,
        by: By,
    ) -> Result<proto::ThawPathsResponse, Error> {
        let twin = parse_identity("twin", &request.twin)?;
        let path = Some(request.path).filter(|path| !path.is_empty());
        let thawed = self.policies.thaw(twin, path, Some(by)).await?;
        Ok(proto::ThawPathsResponse {
            thawed: i32::try_from(thawed).unwrap_or(i32::MAX),
        })
    }
}

/// The frozen paths of a twin.
pub(super) fn of(policies: &PolicySet, twin: &IdentityKey) -> Vec<proto::FrozenPath> {
    let name = identity_name(twin);
    let frozen = policies.frozen().of(twin).iter();
    frozen.map(|one| print(&name, one)).collect()
}

/// A frozen path of this twin.
fn print(twin: &str, one: &Frozen) -> proto::FrozenPath {
    proto::FrozenPath {
        twin: twin.to_owned(),
        path: one.path.join("."),
        writers: one.writers.clone(),
        freeze_time: Some(to_wire(one.at)),
    }
}

#[tonic::async_trait]
impl GuardService for GuardApi {
    async fn list_frozen_paths(
        &self,
        request: Request<proto::ListFrozenPathsRequest>,
    ) -> Result<Response<proto::ListFrozenPathsResponse>, Status> {
        answer(self.list(request.get_ref()))
    }

    async fn thaw_paths(
        &self,
        request: Request<proto::ThawPathsRequest>,
    ) -> Result<Response<proto::ThawPathsResponse>, Status> {
        let by = by(&request);
        answer(self.thaw(request.into_inner(), by).await)
    }
}
