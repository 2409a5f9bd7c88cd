//! `RegistryService`: devices and modules.

use tonic::{Request, Response, Status};
use twin::IdentityKey;
use wire::InvalidField;
use wire::registry::v1 as proto;
use wire::registry::v1::registry_service_server::RegistryService;

use super::caller::Caller;
use super::identity::Show;
use super::twin_writes::content_condition;
use super::{Api, device, module, refuse};
use crate::error::Error;
use crate::record::Status as RecordStatus;

mod batch;
mod devices;
mod module_lists;
mod modules;
mod read;
mod upkeep;

use devices::Condition;

/// Of a status reason (spec iot-hub-twins §1.1).
const STATUS_REASON_MAX: usize = 128;

fn given_status(status: i32) -> Result<Option<RecordStatus>, Error> {
    match proto::Status::try_from(status) {
        Ok(proto::Status::Unspecified) => Ok(None),
        Ok(proto::Status::Enabled) => Ok(Some(RecordStatus::Enabled)),
        Ok(proto::Status::Disabled) => Ok(Some(RecordStatus::Disabled)),
        Err(_) => {
            Err(InvalidField::new("status", format!("{status} is none that is known")).into())
        }
    }
}

fn status_reason(text: String) -> Result<String, Error> {
    let count = text.chars().count();
    if count > STATUS_REASON_MAX {
        let problem = format!("has {count} characters; at most {STATUS_REASON_MAX} are allowed");
        return Err(InvalidField::new("status_reason", problem).into());
    }
    Ok(text)
}

/// Reads the condition under which a call changes an identity.
fn only_if(text: &str) -> Result<Condition, Error> {
    Ok(Condition(content_condition(text)?))
}

/// Answers a call with what a method of [`Api`] made of it.
fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(refuse)
}

#[tonic::async_trait]
impl RegistryService for Api {
    async fn create_device(
        &self,
        request: Request<proto::CreateDeviceRequest>,
    ) -> Result<Response<proto::Device>, Status> {
        let caller = Caller::of(&request);
        answer(self.create(&caller, request.into_inner()).await)
    }

    async fn get_device(
        &self,
        request: Request<proto::GetDeviceRequest>,
    ) -> Result<Response<proto::Device>, Status> {
        let asked = request.get_ref();
        let show = Show::permitted(&request, asked.view, asked.read_mask.as_ref())?;
        let id = device("name", &asked.name).map_err(refuse)?;
        let record = self
            .read(IdentityKey::new_device(id))
            .await
            .map_err(refuse)?;
        answer(show.one(&self.sealer, &record))
    }

    async fn list_devices(
        &self,
        request: Request<proto::ListDevicesRequest>,
    ) -> Result<Response<proto::ListDevicesResponse>, Status> {
        let asked = request.get_ref();
        let show = Show::permitted(&request, asked.view, asked.read_mask.as_ref())?;
        answer(self.list(request.into_inner(), show).await)
    }

    async fn batch_get_devices(
        &self,
        request: Request<proto::BatchGetDevicesRequest>,
    ) -> Result<Response<proto::BatchGetDevicesResponse>, Status> {
        let asked = request.get_ref();
        let show = Show::permitted(&request, asked.view, asked.read_mask.as_ref())?;
        answer(self.batch_get(request.into_inner(), show).await)
    }

    async fn update_device(
        &self,
        request: Request<proto::UpdateDeviceRequest>,
    ) -> Result<Response<proto::Device>, Status> {
        let caller = Caller::of(&request);
        answer(self.update(&caller, request.into_inner()).await)
    }

    async fn delete_device(
        &self,
        request: Request<proto::DeleteDeviceRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let asked = batch::read_delete(&caller, &request).map_err(refuse)?;
        answer(self.delete(asked).await)
    }

    async fn create_module(
        &self,
        request: Request<proto::CreateModuleRequest>,
    ) -> Result<Response<proto::Module>, Status> {
        let caller = Caller::of(&request);
        answer(self.add_module(&caller, request.into_inner()).await)
    }

    async fn get_module(
        &self,
        request: Request<proto::GetModuleRequest>,
    ) -> Result<Response<proto::Module>, Status> {
        let asked = request.get_ref();
        let show = Show::permitted(&request, asked.view, asked.read_mask.as_ref())?;
        let key = module("name", &asked.name).map_err(refuse)?;
        let record = self.read(key).await.map_err(refuse)?;
        answer(show.one(&self.sealer, &record))
    }

    async fn list_modules(
        &self,
        request: Request<proto::ListModulesRequest>,
    ) -> Result<Response<proto::ListModulesResponse>, Status> {
        let asked = request.get_ref();
        let show = Show::permitted(&request, asked.view, asked.read_mask.as_ref())?;
        answer(self.list_of_modules(request.into_inner(), show).await)
    }

    async fn delete_module(
        &self,
        request: Request<proto::DeleteModuleRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request);
        let asked = modules::read_delete(&caller, &request.into_inner()).map_err(refuse)?;
        answer(self.delete(asked).await)
    }

    async fn create_enrollment_token(
        &self,
        request: Request<proto::CreateEnrollmentTokenRequest>,
    ) -> Result<Response<proto::CreateEnrollmentTokenResponse>, Status> {
        let caller = Caller::of(&request);
        answer(self.new_token(&caller, request.into_inner()).await)
    }

    async fn update_module(
        &self,
        request: Request<proto::UpdateModuleRequest>,
    ) -> Result<Response<proto::Module>, Status> {
        let caller = Caller::of(&request);
        answer(self.change_module(&caller, request.into_inner()).await)
    }

    async fn rotate_keys(
        &self,
        request: Request<proto::RotateKeysRequest>,
    ) -> Result<Response<proto::RotateKeysResponse>, Status> {
        let caller = Caller::of(&request);
        answer(self.rotate(&caller, request.into_inner()).await)
    }

    async fn batch_create_devices(
        &self,
        request: Request<proto::BatchCreateDevicesRequest>,
    ) -> Result<Response<proto::BatchDevicesResponse>, Status> {
        let (caller, origin) = (Caller::of(&request), self.origin(&request));
        answer(
            self.batch_create(&caller, &origin, request.into_inner())
                .await,
        )
    }

    async fn batch_update_devices(
        &self,
        request: Request<proto::BatchUpdateDevicesRequest>,
    ) -> Result<Response<proto::BatchDevicesResponse>, Status> {
        let (caller, origin) = (Caller::of(&request), self.origin(&request));
        answer(
            self.batch_update(&caller, &origin, request.into_inner())
                .await,
        )
    }

    async fn batch_delete_devices(
        &self,
        request: Request<proto::BatchDeleteDevicesRequest>,
    ) -> Result<Response<proto::BatchDevicesResponse>, Status> {
        let (caller, origin) = (Caller::of(&request), self.origin(&request));
        answer(
            self.batch_delete(&caller, &origin, request.into_inner())
                .await,
        )
    }

    async fn batch_get_modules(
        &self,
        request: Request<proto::BatchGetModulesRequest>,
    ) -> Result<Response<proto::BatchGetModulesResponse>, Status> {
        let asked = request.get_ref();
        let show = Show::permitted(&request, asked.view, asked.read_mask.as_ref())?;
        answer(self.batch_get_modules(request.into_inner(), show).await)
    }

    async fn batch_create_modules(
        &self,
        request: Request<proto::BatchCreateModulesRequest>,
    ) -> Result<Response<proto::BatchModulesResponse>, Status> {
        let (caller, origin) = (Caller::of(&request), self.origin(&request));
        let request = request.into_inner();
        answer(self.batch_create_modules(&caller, &origin, request).await)
    }

    async fn batch_update_modules(
        &self,
        request: Request<proto::BatchUpdateModulesRequest>,
    ) -> Result<Response<proto::BatchModulesResponse>, Status> {
        let (caller, origin) = (Caller::of(&request), self.origin(&request));
        let request = request.into_inner();
        answer(self.batch_update_modules(&caller, &origin, request).await)
    }

    async fn batch_delete_modules(
        &self,
        request: Request<proto::BatchDeleteModulesRequest>,
    ) -> Result<Response<proto::BatchModulesResponse>, Status> {
        let (caller, origin) = (Caller::of(&request), self.origin(&request));
        let request = request.into_inner();
        answer(self.batch_delete_modules(&caller, &origin, request).await)
    }

    async fn ensure_security_modules(
        &self,
        request: Request<proto::EnsureSecurityModulesRequest>,
    ) -> Result<Response<proto::EnsureSecurityModulesResponse>, Status> {
        let (caller, origin) = (Caller::of(&request), self.origin(&request));
        answer(
            self.ensure_modules(&caller, &origin, request.into_inner())
                .await,
        )
    }

    async fn reseal_secrets(
        &self,
        request: Request<proto::ResealSecretsRequest>,
    ) -> Result<Response<proto::ResealSecretsResponse>, Status> {
        let (caller, origin) = (Caller::of(&request), self.origin(&request));
        answer(self.reseal(&caller, &origin, request.into_inner()).await)
    }

    async fn get_registry_statistics(
        &self,
        request: Request<proto::GetRegistryStatisticsRequest>,
    ) -> Result<Response<proto::RegistryStatistics>, Status> {
        let proto::GetRegistryStatisticsRequest {} = request.into_inner();
        answer(self.statistics().await)
    }
}
