//! The part of a batch that another replica does.

use service_kit::error::Classified as _;
use service_kit::status::RemoteError;
use tonic::Status;
use tonic::transport::Channel;
use wire::registry::v1 as proto;
use wire::registry::v1::registry_service_client::RegistryServiceClient;

use super::{Done, Made, Named, Placed};
use crate::grpc::peers::{Origin, Owner};

/// An item as it came, to be passed on.
pub(super) enum Raw {
    CreateDevice(proto::CreateDeviceRequest),
    UpdateDevice(proto::UpdateDeviceRequest),
    DeleteDevice(proto::DeleteDeviceRequest),
    CreateModule(proto::CreateModuleRequest),
    UpdateModule(proto::UpdateModuleRequest),
    DeleteModule(proto::DeleteModuleRequest),
}

/// Items of a batch that are of one kind, as all of one batch are.
#[derive(Default)]
struct Requests {
    create_devices: Vec<proto::CreateDeviceRequest>,
    update_devices: Vec<proto::UpdateDeviceRequest>,
    delete_devices: Vec<proto::DeleteDeviceRequest>,
    create_modules: Vec<proto::CreateModuleRequest>,
    update_modules: Vec<proto::UpdateModuleRequest>,
    delete_modules: Vec<proto::DeleteModuleRequest>,
}

/// Has another replica do its part. If it cannot be asked, each of the items says so.
pub(super) async fn pass_on(origin: &Origin, owner: Owner, items: Placed<Named>) -> Placed<Done> {
    let mut client = RegistryServiceClient::new(owner.channel);
    let mut requests = Requests::default();
    let mut names = Vec::new();
    for (place, named) in items {
        names.push((place, named.name));
        match named.raw {
            Raw::CreateDevice(request) => requests.create_devices.push(request),
            Raw::UpdateDevice(request) => requests.update_devices.push(request),
            Raw::DeleteDevice(request) => requests.delete_devices.push(request),
            Raw::CreateModule(request) => requests.create_modules.push(request),
            Raw::UpdateModule(request) => requests.update_modules.push(request),
            Raw::DeleteModule(request) => requests.delete_modules.push(request),
        }
    }
    match requests.send(&mut client, origin).await {
        Ok(results) => names
            .into_iter()
            .zip(results)
            .map(|((place, _), done)| (place, done))
            .collect(),
        Err(status) => names
            .into_iter()
            .map(|(place, name)| (place, refused(name, &status)))
            .collect(),
    }
}

impl Requests {
    async fn send(
        self,
        client: &mut RegistryServiceClient<Channel>,
        origin: &Origin,
    ) -> Result<Vec<Done>, Status> {
        if !self.create_devices.is_empty() {
            let requests = self.create_devices;
            let batch = proto::BatchCreateDevicesRequest { requests };
            let answer = client.batch_create_devices(origin.request(batch)).await?;
            return Ok(devices(answer.into_inner()));
        }
        if !self.update_devices.is_empty() {
            let requests = self.update_devices;
            let batch = proto::BatchUpdateDevicesRequest { requests };
            let answer = client.batch_update_devices(origin.request(batch)).await?;
            return Ok(devices(answer.into_inner()));
        }
        if !self.delete_devices.is_empty() {
            let requests = self.delete_devices;
            let batch = proto::BatchDeleteDevicesRequest { requests };
            let answer = client.batch_delete_devices(origin.request(batch)).await?;
            return Ok(devices(answer.into_inner()));
        }
        if !self.create_modules.is_empty() {
            let requests = self.create_modules;
            let batch = proto::BatchCreateModulesRequest { requests };
            let answer = client.batch_create_modules(origin.request(batch)).await?;
            return Ok(modules(answer.into_inner()));
        }
        if !self.update_modules.is_empty() {
            let requests = self.update_modules;
            let batch = proto::BatchUpdateModulesRequest { requests };
            let answer = client.batch_update_modules(origin.request(batch)).await?;
            return Ok(modules(answer.into_inner()));
        }
        let requests = self.delete_modules;
        let batch = proto::BatchDeleteModulesRequest { requests };
        let answer = client.batch_delete_modules(origin.request(batch)).await?;
        Ok(modules(answer.into_inner()))
    }
}

fn devices(answer: proto::BatchDevicesResponse) -> Vec<Done> {
    let done = |result: proto::BatchDeviceResult| Done {
        name: result.name,
        made: result.device.map(Made::Device),
        error: result.error,
    };
    answer.results.into_iter().map(done).collect()
}

fn modules(answer: proto::BatchModulesResponse) -> Vec<Done> {
    let done = |result: proto::BatchModuleResult| Done {
        name: result.name,
        made: result.module.map(Made::Module),
        error: result.error,
    };
    answer.results.into_iter().map(done).collect()
}

/// The result of an item whose call was refused as a whole.
fn refused(name: String, status: &Status) -> Done {
    let error = RemoteError::from(status.clone());
    Done {
        name,
        made: None,
        error: Some(proto::BatchError {
            code: status.code().into(),
            reason: error.reason().to_owned(),
            message: status.message().to_owned(),
            iot_hub_code: i32::try_from(error.iot_hub().number()).unwrap_or_default(),
        }),
    }
}
