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
    let answered = requests.send(&mut client, origin).await;
    matched(names, answered, &owner.address)
}

/// The results under the names that they were asked for. A replica that answers other items than those it was given
/// did not do what we asked, or another program does not say what it did: nobody knows of any of them.
fn matched(
    names: Placed<String>,
    answered: Result<Vec<Done>, Status>,
    address: &str,
) -> Placed<Done> {
    let results = answered.and_then(|results| {
        let ours = names.iter().map(|(_, name)| name);
        if ours.eq(results.iter().map(|done| &done.name)) {
            return Ok(results);
        }
        tracing::error!(
            replica = address,
            asked = names.len(),
            answered = results.len(),
            "a replica answered other items of a batch than it was given"
        );
        let problem = format!(
            "the replica at {address} answered {} of {} items, or others; whether it was done is to be \
             read",
            results.len(),
            names.len()
        );
        Err(Status::internal(problem))
    });
    match results {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn done(name: &str) -> Done {
        Done {
            name: name.to_owned(),
            made: None,
            error: None,
        }
    }

    fn names() -> Placed<String> {
        let names = [(4, "devices/a"), (7, "devices/b")];
        names.map(|(place, name)| (place, name.to_owned())).into()
    }

    #[test]
    fn results_come_under_the_places_of_their_items() {
        let answered = vec![done("devices/a"), done("devices/b")];
        let matched = matched(names(), Ok(answered), "http://b:1");
        let places: Vec<_> = matched
            .iter()
            .map(|(place, done)| (*place, &*done.name))
            .collect();
        assert_eq!(places, [(4, "devices/a"), (7, "devices/b")]);
        assert!(matched.iter().all(|(_, done)| done.error.is_none()));
    }

    #[test]
    fn a_replica_that_answers_other_items_is_named_for_each() {
        for answered in [
            vec![],
            vec![done("devices/a")],
            vec![done("devices/b"), done("devices/a")],
            vec![done("devices/a"), done("devices/b"), done("devices/c")],
        ] {
            let matched = matched(names(), Ok(answered), "http://b:1");
            assert_eq!(matched.len(), 2, "none is missing");
            for ((place, done), (expected, name)) in matched.iter().zip(names()) {
                let error = done.error.as_ref().expect("it failed");
                assert_eq!((*place, &done.name), (expected, &name));
                assert_eq!(error.code, i32::from(tonic::Code::Internal));
                assert!(error.message.contains("http://b:1"), "{}", error.message);
            }
        }
    }
}
