//! `RegistryService`: devices and modules.

use tonic::{Request, Response, Status};
use twin::{IdentityKey, ModuleId};
use wire::InvalidField;
use wire::registry::v1 as proto;
use wire::registry::v1::registry_service_server::RegistryService;

use super::identity::View;
use super::{
    Api, cause, device, device_id, etag, module, page_size, page_start, page_token, refuse,
    report_damaged,
};
use crate::apply::devices;
use crate::error::Error;
use crate::record::{Record, Status as RecordStatus};
use crate::store::{self, Loaded, Selection, Source, everything};

/// Of a status reason (spec iot-hub-twins §1.1).
const STATUS_REASON_MAX: usize = 128;

impl Api {
    async fn read(&self, key: IdentityKey) -> Result<Record, Error> {
        self.store
            .get(key.clone())
            .await?
            .ok_or(Error::NotFound(key))
    }

    async fn create(&self, request: proto::CreateDeviceRequest) -> Result<proto::Device, Error> {
        let id = device_id(&request.device_id)?;
        let key = IdentityKey::new_device(id.clone());
        let status = match given_status(request.status)? {
            None | Some(RecordStatus::Enabled) => RecordStatus::Enabled,
            Some(RecordStatus::Disabled) => RecordStatus::Disabled,
        };
        let reason = status_reason(request.status_reason)?;
        let identity = self.new_identity(&key, request.keys, status, reason)?;
        let security_module = if request.create_security_module {
            let key = IdentityKey::new_module(id.clone(), ModuleId::security());
            Some(self.new_identity(&key, None, status, String::new())?)
        } else {
            None
        };
        let cause = cause();
        let record = self
            .engine
            .decide(Selection::Family(id.clone()), move |overlay, now| {
                devices::create_device(overlay, &id, identity, security_module, now, &cause)
            })
            .await?;
        self.device_message(&record, View::Full)
    }

    async fn list(
        &self,
        request: proto::ListDevicesRequest,
    ) -> Result<proto::ListDevicesResponse, Error> {
        let size = page_size(request.page_size)?;
        let after = page_start(&request.page_token)?;
        let page = self
            .store
            .search(everything(Source::Devices, after, size, self.clock.now()))
            .await?;
        report_damaged(&page.damaged);
        let devices = page
            .records
            .iter()
            .map(|record| self.device_message(record, View::Basic))
            .collect::<Result<_, _>>()?;
        Ok(proto::ListDevicesResponse {
            devices,
            next_page_token: page_token(page.next.as_ref()),
        })
    }

    async fn update(&self, request: proto::UpdateDeviceRequest) -> Result<proto::Device, Error> {
        let id = device("name", &request.name)?;
        let status = given_status(request.status)?.ok_or_else(|| {
            InvalidField::new("status", "must be STATUS_ENABLED or STATUS_DISABLED")
        })?;
        let reason = status_reason(request.status_reason)?;
        let (etag, cause) = (etag(&request.etag), cause());
        let record = self
            .engine
            .decide(Selection::Family(id.clone()), move |overlay, now| {
                devices::set_status(overlay, &id, status, &reason, etag.as_deref(), now, &cause)
            })
            .await?;
        self.device_message(&record, View::Basic)
    }

    async fn delete(&self, key: IdentityKey, expected: Option<String>) -> Result<(), Error> {
        let cause = cause();
        self.engine
            .decide(Selection::Family(key.device.clone()), move |overlay, _| {
                devices::delete(overlay, &key, expected.as_deref(), &cause)
            })
            .await
    }

    async fn add_module(
        &self,
        request: proto::CreateModuleRequest,
    ) -> Result<proto::Module, Error> {
        let parent = device("parent", &request.parent)?;
        let id = ModuleId::parse(&request.module_id)
            .map_err(|error| InvalidField::new("module_id", error))?;
        let key = IdentityKey::new_module(parent.clone(), id);
        let identity =
            self.new_identity(&key, request.keys, RecordStatus::Enabled, String::new())?;
        let cause = cause();
        let record = self
            .engine
            .decide(Selection::Family(parent), move |overlay, now| {
                devices::create_module(overlay, &key, identity, now, &cause)
            })
            .await?;
        self.module_message(&record, View::Full)
    }

    async fn modules_of(
        &self,
        request: proto::ListModulesRequest,
    ) -> Result<proto::ListModulesResponse, Error> {
        let device = device("parent", &request.parent)?;
        // Also for a device whose own record is damaged, hence no `?` on anything but its absence.
        match self.read(IdentityKey::new_device(device.clone())).await {
            Ok(_) | Err(Error::Store(store::Error::Damaged(_))) => {}
            Err(error) => return Err(error),
        }
        let loaded = self.store.load(vec![Selection::Family(device)]).await?;
        let mut modules = Vec::new();
        for record in loaded {
            match record {
                Loaded::Whole(record) if record.key.module.is_some() => {
                    modules.push(self.module_message(&record, View::Basic)?);
                }
                Loaded::Damaged(_, damaged) => report_damaged(&[damaged]),
                Loaded::Whole(_)
                | Loaded::Token(..)
                | Loaded::Request(_)
                | Loaded::Operation(_) => {}
            }
        }
        Ok(proto::ListModulesResponse { modules })
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

#[tonic::async_trait]
impl RegistryService for Api {
    async fn create_device(
        &self,
        request: Request<proto::CreateDeviceRequest>,
    ) -> Result<Response<proto::Device>, Status> {
        self.create(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn get_device(
        &self,
        request: Request<proto::GetDeviceRequest>,
    ) -> Result<Response<proto::Device>, Status> {
        let view = View::permitted(&request, request.get_ref().view)?;
        let request = request.into_inner();
        let id = device("name", &request.name).map_err(refuse)?;
        let record = self
            .read(IdentityKey::new_device(id))
            .await
            .map_err(refuse)?;
        self.device_message(&record, view)
            .map(Response::new)
            .map_err(refuse)
    }

    async fn list_devices(
        &self,
        request: Request<proto::ListDevicesRequest>,
    ) -> Result<Response<proto::ListDevicesResponse>, Status> {
        self.list(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn update_device(
        &self,
        request: Request<proto::UpdateDeviceRequest>,
    ) -> Result<Response<proto::Device>, Status> {
        self.update(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn delete_device(
        &self,
        request: Request<proto::DeleteDeviceRequest>,
    ) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        let id = device("name", &request.name).map_err(refuse)?;
        self.delete(IdentityKey::new_device(id), etag(&request.etag))
            .await
            .map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn create_module(
        &self,
        request: Request<proto::CreateModuleRequest>,
    ) -> Result<Response<proto::Module>, Status> {
        self.add_module(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn get_module(
        &self,
        request: Request<proto::GetModuleRequest>,
    ) -> Result<Response<proto::Module>, Status> {
        let view = View::permitted(&request, request.get_ref().view)?;
        let request = request.into_inner();
        let key = module("name", &request.name).map_err(refuse)?;
        let record = self.read(key).await.map_err(refuse)?;
        self.module_message(&record, view)
            .map(Response::new)
            .map_err(refuse)
    }

    async fn list_modules(
        &self,
        request: Request<proto::ListModulesRequest>,
    ) -> Result<Response<proto::ListModulesResponse>, Status> {
        self.modules_of(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn delete_module(
        &self,
        request: Request<proto::DeleteModuleRequest>,
    ) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        let key = module("name", &request.name).map_err(refuse)?;
        self.delete(key, etag(&request.etag))
            .await
            .map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn create_enrollment_token(
        &self,
        request: Request<proto::CreateEnrollmentTokenRequest>,
    ) -> Result<Response<proto::CreateEnrollmentTokenResponse>, Status> {
        self.new_token(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn update_module(
        &self,
        _request: Request<proto::UpdateModuleRequest>,
    ) -> Result<Response<proto::Module>, Status> {
        Err(Status::unimplemented("under construction"))
    }

    async fn rotate_keys(
        &self,
        _request: Request<proto::RotateKeysRequest>,
    ) -> Result<Response<proto::RotateKeysResponse>, Status> {
        Err(Status::unimplemented("under construction"))
    }

    async fn batch_create_devices(
        &self,
        _request: Request<proto::BatchCreateDevicesRequest>,
    ) -> Result<Response<proto::BatchDevicesResponse>, Status> {
        Err(Status::unimplemented("under construction"))
    }

    async fn batch_update_devices(
        &self,
        _request: Request<proto::BatchUpdateDevicesRequest>,
    ) -> Result<Response<proto::BatchDevicesResponse>, Status> {
        Err(Status::unimplemented("under construction"))
    }

    async fn batch_delete_devices(
        &self,
        _request: Request<proto::BatchDeleteDevicesRequest>,
    ) -> Result<Response<proto::BatchDevicesResponse>, Status> {
        Err(Status::unimplemented("under construction"))
    }

    async fn ensure_security_modules(
        &self,
        _request: Request<proto::EnsureSecurityModulesRequest>,
    ) -> Result<Response<proto::EnsureSecurityModulesResponse>, Status> {
        Err(Status::unimplemented("under construction"))
    }

    async fn reseal_secrets(
        &self,
        _request: Request<proto::ResealSecretsRequest>,
    ) -> Result<Response<proto::ResealSecretsResponse>, Status> {
        Err(Status::unimplemented("under construction"))
    }

    async fn get_registry_statistics(
        &self,
        _request: Request<proto::GetRegistryStatisticsRequest>,
    ) -> Result<Response<proto::RegistryStatistics>, Status> {
        Err(Status::unimplemented("under construction"))
    }
}
