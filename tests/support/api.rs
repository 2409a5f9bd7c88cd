//! The gRPC APIs as an operator's program calls them.

use serde_json::Value;
use service_kit::client::{ClientConfig, Connection, connect};
use service_kit::secret::Secret;
use testkit::wait_for;
use tonic::Status;
use wire::policy::v1 as policy;
use wire::policy::v1::policy_service_client::PolicyServiceClient;
use wire::policy::v1::rollout_service_client::RolloutServiceClient;
use wire::registry::v1 as registry;
use wire::registry::v1::audit_service_client::AuditServiceClient;
use wire::registry::v1::registry_service_client::RegistryServiceClient;
use wire::twin::v1 as twin;
use wire::twin::v1::twin_bulk_service_client::TwinBulkServiceClient;
use wire::twin::v1::twin_service_client::TwinServiceClient;

use super::SOON;

/// Clients of all APIs.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) registry: RegistryServiceClient<Connection>,
    pub(crate) audit: AuditServiceClient<Connection>,
    pub(crate) twins: TwinServiceClient<Connection>,
    pub(crate) bulk: TwinBulkServiceClient<Connection>,
    pub(crate) policies: PolicyServiceClient<Connection>,
    pub(crate) rollouts: RolloutServiceClient<Connection>,
}

/// A device with the credentials of its security module.
#[derive(Debug, Clone)]
#[allow(clippy::struct_field_names)] // ids are called so everywhere
pub(crate) struct Device {
    /// `devices/{device}/modules/DefenderIotMicroAgent`
    pub(crate) twin: String,
    pub(crate) device_id: String,
    pub(crate) module_id: String,
    pub(crate) key: String,
}

impl Api {
    pub(crate) fn new(twin_store_url: &str, policy_url: &str, token: &str) -> Api {
        let channel = |url: &str| {
            let config = ClientConfig {
                token: Some(Secret::new(token)),
                ..ClientConfig::to(url)
            };
            connect(&config).expect("a usable URL")
        };
        Api::over(&channel(twin_store_url), &channel(policy_url))
    }

    /// Over channels that say by themselves who calls.
    pub(crate) fn over(twin_store: &Connection, policy: &Connection) -> Api {
        Api {
            registry: RegistryServiceClient::new(twin_store.clone()),
            audit: AuditServiceClient::new(twin_store.clone()),
            twins: TwinServiceClient::new(twin_store.clone()),
            bulk: TwinBulkServiceClient::new(twin_store.clone()),
            policies: PolicyServiceClient::new(policy.clone()),
            rollouts: RolloutServiceClient::new(policy.clone()),
        }
    }

    /// The newest entries of the audit log of an action.
    pub(crate) async fn audited(&self, action: &str) -> Vec<registry::AuditEntry> {
        let request = registry::ListAuditEntriesRequest {
            action: action.to_owned(),
            order: registry::AuditOrder::NewestFirst.into(),
            ..Default::default()
        };
        let listed = self.audit.clone().list_audit_entries(request).await;
        listed.expect("the audit log is read").into_inner().entries
    }

    /// Whether the chains of the audit log are whole; they are short in these stories.
    pub(crate) async fn audit_is_whole(&self) -> bool {
        let request = registry::VerifyAuditRequest::default();
        let verified = self.audit.clone().verify_audit(request).await;
        let verified = verified.expect("the audit log is walked").into_inner();
        verified.whole && !verified.more
    }

    /// Makes a device with its security module.
    pub(crate) async fn device(&self, id: &str) -> Device {
        let request = registry::CreateDeviceRequest {
            device_id: id.to_owned(),
            create_security_module: true,
            ..Default::default()
        };
        self.registry
            .clone()
            .create_device(request)
            .await
            .expect("the device is made");
        let twin = format!("devices/{id}/modules/DefenderIotMicroAgent");
        let request = registry::GetModuleRequest {
            name: twin.clone(),
            view: registry::IdentityView::Full.into(),
            ..Default::default()
        };
        let module = self
            .registry
            .clone()
            .get_module(request)
            .await
            .expect("it has a module");
        let module = module.into_inner();
        Device {
            twin,
            device_id: id.to_owned(),
            module_id: module.module_id,
            key: module.keys.expect("the keys were asked for").primary,
        }
    }

    /// Reads a twin.
    pub(crate) async fn twin(&self, name: &str) -> Result<Twin, Status> {
        let request = twin::GetTwinRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        Ok(Twin(
            self.twins.clone().get_twin(request).await?.into_inner(),
        ))
    }

    /// Waits until a twin is as a story needs it. Short failures of the service are part of some
    /// stories, so they are waited out.
    pub(crate) async fn twin_until(
        &self,
        name: &str,
        what: &str,
        mut holds: impl FnMut(&Twin) -> bool,
    ) -> Twin {
        let last = std::cell::RefCell::new(None);
        let looking = wait_for(what, SOON, async || {
            let twin = self.twin(name).await.ok()?;
            if holds(&twin) {
                return Some(twin);
            }
            *last.borrow_mut() = Some(twin);
            None
        });
        match tokio::time::timeout(
            SOON.saturating_sub(std::time::Duration::from_secs(1)),
            looking,
        )
        .await
        {
            Ok(twin) => twin,
            Err(elapsed) => panic!(
                "waited in vain for {what} ({elapsed}); the twin is {:#?}",
                last.borrow()
            ),
        }
    }

    /// Merges into tags or desired.
    pub(crate) async fn patch(&self, request: twin::PatchTwinRequest) -> Result<Twin, Status> {
        Ok(Twin(
            self.twins.clone().patch_twin(request).await?.into_inner(),
        ))
    }

    /// Applies a policy and returns it.
    pub(crate) async fn apply(&self, policy: policy::Policy) -> Result<policy::Policy, Status> {
        let request = policy::ApplyPolicyRequest {
            policy: Some(policy),
            validate_only: false,
            note: String::new(),
            etag: String::new(),
        };
        let answer = self
            .policies
            .clone()
            .apply_policy(request)
            .await?
            .into_inner();
        Ok(answer.policy.expect("an applied policy is answered"))
    }

    /// Deletes a policy.
    pub(crate) async fn delete_policy(&self, id: &str) -> Result<(), Status> {
        let request = policy::DeletePolicyRequest {
            name: format!("policies/{id}"),
            etag: String::new(),
            force: false,
        };
        self.policies
            .clone()
            .delete_policy(request)
            .await
            .map(|_| ())
    }
}

/// The policy of most stories: something listens on a TCP port that the tags do not allow.
pub(crate) fn unexpected_listener() -> policy::Policy {
    policy::Policy {
        policy_id: "unexpected-listener".to_owned(),
        scope: policy::Scope::Modules.into(),
        target: "moduleId = 'DefenderIotMicroAgent'".to_owned(),
        when: "EXISTS(p IN posture.listeningPorts WHERE p.protocol = 'tcp' AND p.port NIN tags.allowedPorts)".to_owned(),
        priority: 100,
        settings_json: r#"{"CollectorsCore_PriorityIntervals":"1,2,5","FileSystem_Paths":"/etc"}"#
            .to_owned(),
        ..Default::default()
    }
}

/// A twin with its documents read.
#[derive(Debug, Clone)]
pub(crate) struct Twin(pub(crate) twin::Twin);

impl Twin {
    pub(crate) fn desired(&self) -> Value {
        parse(&self.0.desired_json)
    }

    pub(crate) fn reported(&self) -> Value {
        parse(&self.0.reported_json)
    }

    pub(crate) fn posture(&self) -> Value {
        parse(&self.0.posture_json)
    }

    /// A number of the posture by JSON pointer; 0 if it is not there.
    pub(crate) fn count(&self, pointer: &str) -> u64 {
        self.posture()
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or(0)
    }

    /// A text of the posture by JSON pointer; empty if it is not there.
    pub(crate) fn text(&self, pointer: &str) -> String {
        let posture = self.posture();
        posture
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("documents are JSON")
}

/// Every sequence of the lane is accounted for: received, rejected, or dropped by the agent.
pub(crate) fn whole(twin: &Twin, lane: &str) -> bool {
    let count = |name: &str| twin.count(&format!("/delivery/{lane}/{name}"));
    let last = count("lastSequence");
    let gaps = count("missing") + count("lost");
    last > 0
        && count("received") + count("rejected") + gaps == last
        && gaps == count("droppedByAgent")
}

/// The names, without their folder, of the files that the posture remembers.
pub(crate) fn recent_files(twin: &Twin) -> Vec<String> {
    let posture = twin.posture();
    let recent = posture.pointer("/files/recent").and_then(Value::as_array);
    recent
        .into_iter()
        .flatten()
        .filter_map(|file| file["path"].as_str()?.rsplit('/').next())
        .map(str::to_owned)
        .collect()
}
