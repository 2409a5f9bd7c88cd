//! What is asked of the hub, as a back end does it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use loadgen::hub::Hub;
use prost_types::FieldMask;
use serde_json::Value;
use service_kit::client::Connection;
use wire::policy::v1 as policy;
use wire::policy::v1::policy_service_client::PolicyServiceClient;
use wire::policy::v1::rollout_service_client::RolloutServiceClient;
use wire::twin::v1 as twin;
use wire::twin::v1::twin_query_service_client::TwinQueryServiceClient;
use wire::twin::v1::twin_service_client::TwinServiceClient;

use crate::agent::SETTING;

/// The policy that is rolled out.
const POLICY: &str = "rollout-bench";
/// Twins of one page.
const PAGE: i32 = 1000;

/// The desired section of a twin: its version, and the setting.
pub(crate) type Desired = (u64, Option<i64>);

/// The services.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    policies: PolicyServiceClient<Connection>,
    rollouts: RolloutServiceClient<Connection>,
    queries: TwinQueryServiceClient<Connection>,
    twins: TwinServiceClient<Connection>,
}

impl Api {
    /// Of this hub.
    pub(crate) fn of(hub: &Hub) -> Result<Api> {
        let policy = hub.service(&hub.policy_url)?;
        let store = hub.service(&hub.twin_store_url)?;
        Ok(Api {
            policies: PolicyServiceClient::new(policy.clone()),
            rollouts: RolloutServiceClient::new(policy),
            queries: TwinQueryServiceClient::new(store.clone()),
            twins: TwinServiceClient::new(store),
        })
    }

    /// Applies a revision that sets the level on the twins of a prefix.
    pub(crate) async fn apply(
        &self,
        prefix: &str,
        level: i64,
        strategy: policy::RolloutStrategy,
    ) -> Result<()> {
        let policy = policy::Policy {
            policy_id: POLICY.to_owned(),
            scope: policy::Scope::Devices.into(),
            target: format!("STARTSWITH(deviceId, '{prefix}-')"),
            settings_json: serde_json::json!({ SETTING: level }).to_string(),
            rollout: Some(strategy),
            ..Default::default()
        };
        let request = policy::ApplyPolicyRequest {
            policy: Some(policy),
            ..Default::default()
        };
        let answer = self.policies.clone().apply_policy(request).await;
        answer.map(|_| ()).context("cannot apply the policy")
    }

    /// On how many twins the policy stands how.
    pub(crate) async fn status(&self) -> Result<policy::PolicyStatus> {
        let request = policy::GetPolicyRequest {
            name: format!("policies/{POLICY}"),
        };
        let answer = self.policies.clone().get_policy(request).await;
        let policy = answer.context("cannot read the policy")?.into_inner();
        policy.status.context("the policy has no status")
    }

    /// The rollout of its newest revision.
    pub(crate) async fn rollout(&self) -> Result<policy::Rollout> {
        let request = policy::GetRolloutRequest {
            name: format!("policies/{POLICY}/rollouts/-"),
        };
        let answer = self.rollouts.clone().get_rollout(request).await;
        Ok(answer.context("cannot read the rollout")?.into_inner())
    }

    /// What a query counts as `found`.
    pub(crate) async fn count(&self, query: &str) -> Result<u64> {
        let request = twin::QueryTwinsRequest {
            query: query.to_owned(),
            ..Default::default()
        };
        let answer = self.queries.clone().query_twins(request).await;
        let rows = answer.context("cannot count")?.into_inner().rows_json;
        let row: Value = serde_json::from_str(rows.first().context("no row")?)?;
        row["found"].as_u64().context("no number")
    }

    /// The desired sections of the twins of a prefix, by the devices' ids.
    pub(crate) async fn desired(&self, prefix: &str) -> Result<BTreeMap<String, Desired>> {
        let fields = ["device_id", "desired_json", "desired_version"];
        let mut request = twin::ListTwinsRequest {
            page_size: PAGE,
            filter: format!("STARTSWITH(deviceId, '{prefix}-') AND NOT IS_DEFINED(moduleId)"),
            read_mask: Some(FieldMask {
                paths: fields.map(str::to_owned).to_vec(),
            }),
            ..Default::default()
        };
        let mut found = BTreeMap::new();
        loop {
            let answer = self.twins.clone().list_twins(request.clone()).await;
            let page = answer.context("cannot list twins")?.into_inner();
            for twin in page.twins {
                let document: Value = serde_json::from_str(&twin.desired_json)?;
                let desired = (twin.desired_version, document[SETTING].as_i64());
                found.insert(twin.device_id, desired);
            }
            if page.next_page_token.is_empty() {
                return Ok(found);
            }
            request.page_token = page.next_page_token;
        }
    }
}
