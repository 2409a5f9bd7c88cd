//! `AccessService`: tells callers who they are here, which may be another than at twin-store. It
//! decides nothing about them.

use service_kit::auth::{Permission, Role, Via, principal};
use tonic::{Request, Response, Status};
use wire::registry::v1 as proto;
use wire::registry::v1::access_service_server::AccessService;
use wire::time::to_wire;

/// Answers for whoever calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AccessApi;

#[tonic::async_trait]
impl AccessService for AccessApi {
    async fn get_caller(
        &self,
        request: Request<proto::GetCallerRequest>,
    ) -> Result<Response<proto::Caller>, Status> {
        let principal = principal(&request);
        let permissions = Permission::ALL.into_iter();
        let permissions = permissions.filter(|permission| principal.may(*permission));
        Ok(Response::new(proto::Caller {
            roles: principal.roles.iter().map(Role::to_string).collect(),
            permissions: permissions.map(|it| it.name().to_owned()).collect(),
            proven: principal.via != Via::Off,
            expire_time: principal.until.map(to_wire),
            name: principal.name,
        }))
    }
}
