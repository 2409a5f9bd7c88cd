//! On how many twins a policy is in force is counted live: as agents answer, as twins come and go, as
//! policies change, and over the death of each service.

use jiff::Timestamp;
use serde_json::json;
use testkit::wait_for;
use wire::agent::v1 as agent;
use wire::agent::v1::acknowledge_desired::Outcome;
use wire::agent::v1::open_session_request::Message as Up;
use wire::agent::v1::open_session_response::Message as Down;
use wire::policy::v1 as policy;
use wire::registry::v1::DeleteDeviceRequest;
use wire::twin::v1::PatchTwinRequest;

use crate::support::SOON;
use crate::support::agent::{Agent, Session, hello, open, sas};
use crate::support::api::{Api, Device};
use crate::support::hub::{Hub, Part};

/// Targeted, applied, pending, rejected.
type Counts = [u64; 4];

#[tokio::test(flavor = "multi_thread")]
async fn counts_follow_agents_twins_policies_and_the_death_of_services() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let mut devices = Vec::new();
    for id in ["willing", "sleeping", "refusing", "elsewhere"] {
        let device = api.device(id).await;
        let site = if id == "elsewhere" { "b" } else { "a" };
        tag(&api, &device, site).await;
        devices.push(device);
    }
    let [willing, sleeping, refusing, elsewhere] = &devices[..] else {
        panic!("four devices")
    };
    api.apply(lamps("on")).await.expect("a good policy");
    counted(&api, [3, 0, 3, 0]).await;

    let mut good = Agent::new(hub.agent_url(), willing.clone());
    good.desired_until(|desired| desired["lamp"] == "on").await;
    counted(&api, [3, 1, 2, 0]).await;
    let _refused = reject(&hub.agent_url(), refusing).await;
    counted(&api, [3, 1, 1, 1]).await;

    tag(&api, elsewhere, "a").await;
    counted(&api, [4, 1, 2, 1]).await;
    tag(&api, sleeping, "b").await;
    counted(&api, [3, 1, 1, 1]).await;
    let rejected = r#"twinward_policy_policy_twins{policy="lamps",standing="rejected"}"#;
    assert_eq!(hub.metric(Part::Policy, rejected).await, Some(1.0));

    // What was counted does not outlive the process, and is counted again.
    let before = Timestamp::now();
    hub.kill_and_restart(Part::Policy).await;
    let since = counted(&api, [3, 1, 1, 1]).await;
    assert!(since > before, "{since} is not after {before}");
    // While twin-store is away nobody can say, and afterwards it is right again.
    let before = Timestamp::now();
    hub.process(Part::TwinStore).kill();
    wait_for("the break to be told", SOON, async || {
        let status = status(&api).await;
        status.in_step_time.is_none().then_some(())
    })
    .await;
    hub.kill_and_restart(Part::TwinStore).await;
    tag(&api, sleeping, "a").await;
    let since = counted(&api, [4, 1, 2, 1]).await;
    assert!(since > before, "{since} is not after {before}");

    // Another revision, which the willing one takes, too; the others have not answered for it.
    api.apply(lamps("off")).await.expect("a good policy");
    good.desired_until(|desired| desired["lamp"] == "off").await;
    counted(&api, [4, 1, 3, 0]).await;
    let request = DeleteDeviceRequest {
        name: format!("devices/{}", willing.device_id),
        ..Default::default()
    };
    let deleted = api.registry.clone().delete_device(request).await;
    deleted.expect("it is there");
    counted(&api, [3, 0, 3, 0]).await;
    api.delete_policy("lamps").await.expect("it is there");
    wait_for("the policy to leave the metrics", SOON, async || {
        hub.metric(Part::Policy, rejected)
            .await
            .is_none()
            .then_some(())
    })
    .await;
    hub.stop().await;
}

fn lamps(state: &str) -> policy::Policy {
    policy::Policy {
        policy_id: "lamps".to_owned(),
        scope: policy::Scope::Modules.into(),
        target: "tags.site = 'a'".to_owned(),
        settings_json: json!({ "lamp": state }).to_string(),
        ..Default::default()
    }
}

async fn tag(api: &Api, device: &Device, site: &str) {
    let request = PatchTwinRequest {
        name: device.twin.clone(),
        tags_patch_json: json!({ "site": site }).to_string(),
        ..Default::default()
    };
    api.patch(request).await.expect("the tags are written");
}

async fn status(api: &Api) -> policy::PolicyStatus {
    let request = policy::GetPolicyRequest {
        name: "policies/lamps".to_owned(),
    };
    let answer = api.policies.clone().get_policy(request).await;
    let policy = answer.expect("the policy is there").into_inner();
    policy.status.expect("a status is always told")
}

/// Waits until the counts are these and in step; since when they are.
async fn counted(api: &Api, expected: Counts) -> Timestamp {
    let last = std::cell::RefCell::new(None);
    let looking = wait_for("the counts", SOON, async || {
        let status = status(api).await;
        let counts = [
            status.twins_targeted,
            status.twins_applied,
            status.twins_pending,
            status.twins_rejected,
        ];
        let since = status.in_step_time.filter(|_| counts == expected);
        *last.borrow_mut() = Some(status);
        wire::time::optional("in_step_time", since).expect("a time")
    });
    // A second before it gives up by itself, to say what there is instead.
    let within = SOON.saturating_sub(std::time::Duration::from_secs(1));
    let found = tokio::time::timeout(within, looking).await;
    found.unwrap_or_else(|_| panic!("waited in vain for {expected:?}: {:?}", last.borrow()))
}

/// A session that has rejected the first desired section with the policy's settings in it, and does
/// not answer for others.
async fn reject(url: &str, device: &Device) -> Session {
    let token = sas(device, std::time::Duration::from_hours(1));
    let mut session = open(url, &token, hello(0)).await.expect("a session");
    loop {
        let message = tokio::time::timeout(SOON, session.down.message()).await;
        let message = message.expect("it comes in time").expect("no failure");
        let Some(Down::Desired(desired)) = message.expect("it goes on").message else {
            continue;
        };
        if !desired.document_json.contains("lamp") {
            continue;
        }
        let answer = Up::AcknowledgeDesired(agent::AcknowledgeDesired {
            version: desired.version,
            outcome: Outcome::Rejected.into(),
            reason: "no lamp".to_owned(),
            ..Default::default()
        });
        let answer = agent::OpenSessionRequest {
            message: Some(answer),
        };
        session.up.send(answer).await.expect("the session is open");
        return session;
    }
}
