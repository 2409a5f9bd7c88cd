//! Devices that are registered on a hub and prove themselves with their keys.

use anyhow::{Context as _, Result};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use iot_hub::key::SymmetricKey;
use iot_hub::sas::{SasResource, SasToken};
use jiff::SignedDuration;
use service_kit::clock::{Clock as _, SystemClock};
use tonic::Code;
use twin::{DeviceId, IdentityKey};
use wire::registry::v1 as api;
use wire::registry::v1::registry_service_client::RegistryServiceClient;
use wire::twin::v1 as twin_api;
use wire::twin::v1::twin_service_client::TwinServiceClient;

use crate::hub::Hub;

/// Longer than any run.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// Requests under way at once: enough to keep the writer's group commits filled.
const AT_ONCE: usize = 64;

/// One device with its key.
#[derive(Debug, Clone)]
pub struct Device {
    /// Counted from 0.
    pub index: u32,
    /// Who it is.
    pub identity: IdentityKey,
    key: SymmetricKey,
}

impl Device {
    /// Its id, which is also the client's id in MQTT.
    pub fn id(&self) -> &str {
        self.identity.device.as_str()
    }

    /// A token for its own resources, good for longer than any run.
    pub fn token(&self, host: &str) -> String {
        let resource = SasResource::of_identity(host, &self.identity);
        SasToken::sign(resource, &self.key, SystemClock.now() + TOKEN_LIFE).to_string()
    }
}

/// Registers so many devices, in order of their numbers. Those that are there already are used.
pub async fn register(hub: &Hub, prefix: &str, count: u32) -> Result<Vec<Device>> {
    let store = hub.service(&hub.twin_store_url)?;
    let devices = (0..count).map(|index| {
        let registry = RegistryServiceClient::new(store.clone());
        let name = format!("{prefix}-{index:05}");
        async move {
            device(registry, index, &name)
                .await
                .with_context(|| format!("cannot register {name}"))
        }
    });
    stream::iter(devices).buffered(AT_ONCE).try_collect().await
}

type Registry = RegistryServiceClient<service_kit::client::Connection>;

async fn device(mut registry: Registry, index: u32, name: &str) -> Result<Device> {
    let device = DeviceId::parse(name).context("the prefix makes no device ids")?;
    let identity = IdentityKey {
        device,
        module: None,
    };
    let request = api::CreateDeviceRequest {
        device_id: name.to_owned(),
        ..Default::default()
    };
    let made = match registry.create_device(request).await {
        Ok(made) => made.into_inner(),
        Err(status) if status.code() == Code::AlreadyExists => {
            let request = api::GetDeviceRequest {
                name: wire::names::identity_name(&identity),
                view: api::IdentityView::Full.into(),
                read_mask: None,
            };
            let found = registry.get_device(request).await;
            found.context("reading its key")?.into_inner()
        }
        Err(status) => return Err(status).context("creating it"),
    };
    let keys = made.keys.context("the answer has no keys")?;
    let key = SymmetricKey::parse(&keys.primary).context("the answer's key")?;
    Ok(Device {
        index,
        identity,
        key,
    })
}

/// Merges the same patch into the desired section of each device's twin.
pub async fn patch_desired(hub: &Hub, devices: &[Device], patch_json: &str) -> Result<()> {
    let store = hub.service(&hub.twin_store_url)?;
    let requests: Vec<_> = devices
        .iter()
        .map(|device| twin_api::PatchTwinRequest {
            name: wire::names::identity_name(&device.identity),
            desired_patch_json: patch_json.to_owned(),
            ..Default::default()
        })
        .collect();
    let writes = requests.into_iter().map(|request| {
        let mut twins = TwinServiceClient::new(store.clone());
        async move {
            let written = twins.patch_twin(request).await;
            written.map(|_| ()).context("writing the desired section")
        }
    });
    stream::iter(writes)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}
