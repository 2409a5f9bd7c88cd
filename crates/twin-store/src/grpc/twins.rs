//! `TwinService`: twins for operators and other services.

use tonic::{Request, Response, Status};
use wire::twin::v1 as proto;
use wire::twin::v1::twin_service_server::TwinService;

use super::caller::Caller;
use super::watch::{self, Watch};
use super::{Api, refuse};

mod read;

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
        request: Request<proto::BatchGetTwinsRequest>,
    ) -> Result<Response<proto::BatchGetTwinsResponse>, Status> {
        self.some(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
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
        watch::open(self, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }
}
