//! `RegistryService`: devices and modules.

use tonic::{Request, Response, Status};
use twin::IdentityKey;
use wire::InvalidField;
use wire::registry::v1 as proto;
use wire::registry::v1::registry_service_server::RegistryService;

use super::caller::Caller;
use super::filter::Filter;
use super::identity::{View, device_message, module_message};
use super::repeatable::Repeatable;
use super::{Api, device, module, page_size, page_start, page_token, refuse, report_damaged};
use crate::error::Error;
use crate::record::{Record, Status as RecordStatus};
use crate::store::{Search, Source};

mod batch;
mod devices;
mod modules;
mod upkeep;

use devices::Delete;

/// Of a status reason (spec iot-hub-twins §1.1).
const STATUS_REASON_MAX: usize = 128;
/// Devices looked at for one page of a filtered list, so that a call ends in time whatever the
/// filter; a page may then be short, or empty with a token.
const SCAN_MAX: usize = 5000;

impl Api {
    async fn read(&self, key: IdentityKey) -> Result<Record, Error> {
        self.store
            .get(key.clone())
            .await?
            .ok_or(Error::NotFound(key))
    }

    async fn list(
        &self,
        request: proto::ListDevicesRequest,
        view: View,
    ) -> Result<proto::ListDevicesResponse, Error> {
        let size = page_size(request.page_size)?;
        let filter = Filter::parse("filter", &request.filter)?;
        let mut after = page_start(&request.page_token)?;
        let mut answer = proto::ListDevicesResponse::default();
        let mut looked_at = 0;
        loop {
            let page = self
                .store
                .search(Search {
                    source: Source::Devices,
                    condition: filter.scope(),
                    now: self.clock.now(),
                    after,
                    limit: size,
                })
                .await?;
            report_damaged(&page.damaged);
            looked_at += page.records.len();
            for record in &page.records {
                match filter.passes(record, self.clock.now()) {
                    Ok(true) => answer
                        .devices
                        .push(device_message(&self.sealer, record, view)?),
                    Ok(false) => {}
                    Err(damaged) => report_damaged(&[damaged]),
                }
                if answer.devices.len() >= size as usize {
                    // It may turn out that nothing follows; an empty last page is allowed.
                    let last = page
                        .records
                        .last()
                        .is_some_and(|last| last.key == record.key);
                    let next = if last {
                        page.next.as_ref()
                    } else {
                        Some(&record.key)
                    };
                    answer.next_page_token = page_token(next);
                    return Ok(answer);
                }
            }
            after = page.next;
            if after.is_none() || looked_at >= SCAN_MAX {
                answer.next_page_token = page_token(after.as_ref());
                return Ok(answer);
            }
        }
    }
}

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
        let view = View::permitted(&request, request.get_ref().view)?;
        let id = device("name", &request.get_ref().name).map_err(refuse)?;
        let record = self
            .read(IdentityKey::new_device(id))
            .await
            .map_err(refuse)?;
        answer(device_message(&self.sealer, &record, view))
    }

    async fn list_devices(
        &self,
        request: Request<proto::ListDevicesRequest>,
    ) -> Result<Response<proto::ListDevicesResponse>, Status> {
        let view = View::permitted(&request, request.get_ref().view)?;
        answer(self.list(request.into_inner(), view).await)
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
        let view = View::permitted(&request, request.get_ref().view)?;
        let key = module("name", &request.get_ref().name).map_err(refuse)?;
        let record = self.read(key).await.map_err(refuse)?;
        answer(module_message(&self.sealer, &record, view))
    }

    async fn list_modules(
        &self,
        request: Request<proto::ListModulesRequest>,
    ) -> Result<Response<proto::ListModulesResponse>, Status> {
        answer(self.modules_of(request.into_inner()).await)
    }

    async fn delete_module(
        &self,
        request: Request<proto::DeleteModuleRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let key = module("name", &request.name).map_err(refuse)?;
        let id = &request.request_id;
        let repeatable = Repeatable::read("DeleteModule", &caller, id, &request).map_err(refuse)?;
        let asked = Delete::read(&caller, key, &request.etag, id, repeatable);
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
