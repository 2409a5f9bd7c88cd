//! The real agent, cut off right after a new configuration: it goes back to the last good one by itself,
//! says so when it is back, and a rollout counts that as a failure.

use serde_json::json;
use wire::policy::v1 as policy;
use wire::policy::v1::rollout::Phase;
use wire::policy::v1::rollout_strategy::{OnFailure, Wave, wave};
use wire::twin::v1::PatchTwinRequest;

use crate::support::SOON;
use crate::support::api::Api;
use crate::support::hub::{Hub, Part};
use crate::support::real_agent::RealAgent;

const NAME: &str = "devices/cam-1/modules/DefenderIotMicroAgent";
/// Long enough for an answer on a busy machine.
const REVERT_AFTER: &str = "6s";
const WENT_BACK: &str = "went back to the last good configuration";
const PROVED: &str = "the configuration has proved good";

async fn desire(api: &Api, high: u32) -> u64 {
    let request = PatchTwinRequest {
        name: NAME.to_owned(),
        desired_patch_json: intervals(high),
        ..Default::default()
    };
    let twin = api.patch(request).await.expect("desired is written");
    twin.0.desired_version
}

fn intervals(high: u32) -> String {
    json!({ "CollectorsCore_PriorityIntervals": format!("{high},500,500") }).to_string()
}

async fn state_until(api: &Api, state: &str, version: u64) -> crate::support::api::Twin {
    api.twin_until(NAME, state, |twin| {
        twin.text("/configuration/state") == state
            && twin.count("/configuration/desiredVersion") == version
    })
    .await
}

async fn phase_until(api: &Api, phase: Phase) -> policy::Rollout {
    testkit::wait_for(phase.as_str_name(), SOON, async || {
        let request = policy::GetRolloutRequest {
            name: "policies/slow/rollouts/-".to_owned(),
        };
        let answer = api.rollouts.clone().get_rollout(request).await;
        let rollout = answer.ok()?.into_inner();
        (rollout.phase() == phase).then_some(rollout)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_cut_off_goes_back_and_says_so_and_the_rollout_is_taken_back() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let careful = |builder: testkit::ProcessBuilder| {
        builder.env("TWINWARD_AGENT__REVERT_AFTER", REVERT_AFTER)
    };
    let mut agent =
        RealAgent::enroll_with(&api, &hub.agent_url(), "cam-1", hub.folder(), careful).await;
    agent.process.allow("");
    api.twin_until(NAME, "the agent to be enrolled", |_| true)
        .await;
    let good = desire(&api, 50).await;
    state_until(&api, "applied", good).await;
    agent.process.wait_for_line(PROVED, SOON).await;

    // An operator's setting that "cuts it off": the service is gone once it is applied.
    let bad = desire(&api, 60).await;
    state_until(&api, "applied", bad).await;
    hub.process(Part::Ingestion).kill();
    agent.process.wait_for_line(WENT_BACK, SOON).await;
    hub.kill_and_restart(Part::Ingestion).await;
    let told = state_until(&api, "reverted", bad).await;
    assert_eq!(told.count("/configuration/appliedVersion"), good);
    let reason = told.text("/configuration/reason");
    assert!(reason.contains("was not heard of"), "{reason}");
    // The report is a message of its own, behind the answer.
    api.twin_until(NAME, "the report", |twin| {
        twin.reported()["latest_state"] == "failed"
    })
    .await;
    let good = desire(&api, 50).await;
    state_until(&api, "applied", good).await;

    // The same by a policy's rollout, and the agent dies while it is cut off.
    let rollout = policy::RolloutStrategy {
        waves: vec![Wave {
            twins: Some(wave::Twins::Percent(50)),
        }],
        soak: std::time::Duration::from_hours(1).try_into().ok(),
        on_failure: OnFailure::Rollback.into(),
        ..Default::default()
    };
    let slow = policy::Policy {
        policy_id: "slow".to_owned(),
        scope: policy::Scope::Modules.into(),
        target: "*".to_owned(),
        settings_json: json!({ "Process_CacheSize": 77 }).to_string(),
        rollout: Some(rollout),
        ..Default::default()
    };
    api.apply(slow).await.expect("a good policy");
    phase_until(&api, Phase::Soaking).await;
    hub.process(Part::Ingestion).kill();
    agent.process.kill();
    let mut agent = RealAgent::again_with(&hub.agent_url(), hub.folder(), careful);
    agent.process.allow("");
    agent.process.wait_for_line(WENT_BACK, SOON).await;
    hub.kill_and_restart(Part::Ingestion).await;
    let failed = phase_until(&api, Phase::RolledBack).await;
    assert!(failed.reason.contains("1 went back"), "{}", failed.reason);
    // What the agent has is what it gets again.
    let twin = api
        .twin_until(NAME, "the setting to be taken back", |twin| {
            twin.desired()["Process_CacheSize"].is_null()
                && twin.text("/configuration/state") == "applied"
        })
        .await;
    assert_eq!(
        twin.desired()["CollectorsCore_PriorityIntervals"],
        "50,500,500"
    );
    agent.stop().await;
    hub.stop().await;
}
