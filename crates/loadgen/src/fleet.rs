//! Makes what the run needs on the hub: devices with keys, the allowed ports of those that measure
//! the loop, and the policy that answers them. Safe to repeat: what is there is used.

use anyhow::{Context as _, Result};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use iot_hub::key::SymmetricKey;
use loadgen::hub::Hub;
use tonic::Code;
use twin::{DeviceId, IdentityKey, ModuleId};
use wire::policy::v1 as policy_api;
use wire::policy::v1::policy_service_client::PolicyServiceClient;
use wire::registry::v1 as api;
use wire::registry::v1::registry_service_client::RegistryServiceClient;
use wire::twin::v1 as twin_api;
use wire::twin::v1::twin_service_client::TwinServiceClient;

use crate::args::Arguments;
use crate::events::ALLOWED_PORT;

/// The security module of a device.
const MODULE: &str = "DefenderIotMicroAgent";
/// The policy that this program applies.
const POLICY: &str = "loadgen-unexpected-listener";
/// A leaf of its settings: it is in the desired section while, and only while, the policy applies.
pub(crate) const SETTING: &str = "CollectorsCore_PriorityIntervals";
/// Requests under way at once: enough to keep the writer's group commits filled.
const AT_ONCE: usize = 64;

/// One identity with its key.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) index: u32,
    pub(crate) identity: IdentityKey,
    pub(crate) key: SymmetricKey,
    /// Whether it measures the loop.
    pub(crate) loops: bool,
}

/// Makes the devices, in order of their numbers.
pub(crate) async fn prepare(hub: &Hub, arguments: &Arguments) -> Result<Vec<Member>> {
    if arguments.loop_agents > 0 {
        apply_policy(hub).await?;
    }
    let store = hub.service(&hub.twin_store_url)?;
    let members = (0..arguments.agents).map(|index| {
        let registry = RegistryServiceClient::new(store.clone());
        let twins = TwinServiceClient::new(store.clone());
        let loops = index < arguments.loop_agents;
        let name = format!("{}-{index:05}", arguments.prefix);
        async move {
            let member = member(registry, index, &name, loops)
                .await
                .with_context(|| format!("cannot prepare device {name}"))?;
            if loops {
                allow_ports(twins, &member).await?;
            }
            anyhow::Ok(member)
        }
    });
    stream::iter(members).buffered(AT_ONCE).try_collect().await
}

type Registry = RegistryServiceClient<service_kit::client::Connection>;
type Twins = TwinServiceClient<service_kit::client::Connection>;

async fn member(mut registry: Registry, index: u32, name: &str, loops: bool) -> Result<Member> {
    let device = DeviceId::parse(name).context("--prefix makes no device ids")?;
    let module = ModuleId::parse(MODULE).context("the module's id")?;
    let identity = IdentityKey {
        device,
        module: Some(module),
    };
    let request = api::CreateDeviceRequest {
        device_id: name.to_owned(),
        create_security_module: true,
        ..Default::default()
    };
    match registry.create_device(request).await {
        Ok(_) => {}
        Err(status) if status.code() == Code::AlreadyExists => {}
        Err(status) => return Err(status).context("creating the device"),
    }
    let request = api::GetModuleRequest {
        name: wire::names::identity_name(&identity),
        view: api::IdentityView::Full.into(),
        read_mask: None,
    };
    let answer = registry
        .get_module(request)
        .await
        .context("reading the module's key")?;
    let keys = answer.into_inner().keys.context("the answer has no keys")?;
    let key = SymmetricKey::parse(&keys.primary).context("the answer's key")?;
    Ok(Member {
        index,
        identity,
        key,
        loops,
    })
}

async fn allow_ports(mut twins: Twins, member: &Member) -> Result<()> {
    let tags = serde_json::json!({ "loadgen": true, "allowedPorts": [ALLOWED_PORT] });
    let request = twin_api::PatchTwinRequest {
        name: wire::names::identity_name(&member.identity),
        tags_patch_json: tags.to_string(),
        operator: "loadgen".to_owned(),
        ..Default::default()
    };
    twins
        .patch_twin(request)
        .await
        .context("writing the allowed ports")?;
    Ok(())
}

/// The sample policy, for the twins of this program alone.
async fn apply_policy(hub: &Hub) -> Result<()> {
    let mut policies = PolicyServiceClient::new(hub.service(&hub.policy_url)?);
    let policy = policy_api::Policy {
        policy_id: POLICY.to_owned(),
        description: "Simulated agents: answers an unexpected listener.".to_owned(),
        scope: policy_api::Scope::Modules.into(),
        target: format!("moduleId = '{MODULE}' AND tags.loadgen = true"),
        when: "EXISTS(p IN posture.listeningPorts WHERE p.protocol = 'tcp' AND p.port NIN \
               tags.allowedPorts)"
            .to_owned(),
        priority: 100,
        settings_json: serde_json::json!({ SETTING: "1,2,5", "FileSystem_Paths": "/etc" })
            .to_string(),
        ..Default::default()
    };
    let request = policy_api::ApplyPolicyRequest {
        policy: Some(policy),
        validate_only: false,
        note: String::new(),
        etag: String::new(),
    };
    policies
        .apply_policy(request)
        .await
        .context("cannot apply the policy")?;
    Ok(())
}
