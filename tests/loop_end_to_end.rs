//! The loop on real input: this machine's agent sees a port open, the twin's posture moves, the
//! policy decides, the agent applies and proves it; the port closes and all of it is taken back.
//! With a process per service, and with everything in one process.

use std::net::TcpListener;

use serde_json::{Value, json};
use wire::twin::v1::PatchTwinRequest;

use crate::support::agent::{Agent, listening};
use crate::support::api::{Api, Twin, unexpected_listener};
use crate::support::hub::{Hub, Up};
use crate::support::real_agent::RealAgent;

#[tokio::test(flavor = "multi_thread")]
async fn a_port_opened_on_this_machine_changes_its_agent_with_separate_services() {
    let hub = Hub::start().await;
    let agent = RealAgent::enroll(&hub.api(), &hub.agent_url(), "this-machine", hub.folder()).await;
    the_loop(&hub.api(), "this-machine").await;
    agent.stop().await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_opened_on_this_machine_changes_its_agent_with_everything_in_one_process() {
    let hub = Up::start().await;
    let agent = RealAgent::enroll(&hub.api(), &hub.agent_url(), "this-machine", hub.folder()).await;
    the_loop(&hub.api(), "this-machine").await;
    agent.stop().await;
    hub.stop().await;
}

async fn the_loop(api: &Api, device: &str) {
    let name = format!("devices/{device}/modules/DefenderIotMicroAgent");
    let seen = api
        .twin_until(&name, "the agent's first snapshots", |twin| {
            twin.posture()["listeningPortsSnapshot"]["observedAt"].is_string()
                && !twin.posture()["users"].as_array().is_none_or(Vec::is_empty)
                && twin.posture()["system"].is_object()
                && twin.text("/configuration/state") == "applied"
        })
        .await;
    assert!(
        seen.posture()["agent"]["connected"]
            .as_bool()
            .unwrap_or_default()
    );
    assert_collectors_speak(&seen);
    // Other stories run beside this one and open and close ports of their own, so the condition
    // asks for one port alone.
    let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let mut policy = unexpected_listener();
    policy.when =
        format!("EXISTS(p IN posture.listeningPorts WHERE p.protocol = 'tcp' AND p.port = {port})");
    api.apply(policy).await.expect("the policy is good");

    let applied = api
        .twin_until(&name, "the policy's settings to be applied", |twin| {
            twin.desired()["FileSystem_Paths"] == "/etc"
                && twin.text("/configuration/state") == "applied"
                && twin.count("/configuration/appliedVersion") == twin.0.desired_version
        })
        .await;
    assert_eq!(
        applied.desired()["CollectorsCore_PriorityIntervals"],
        "1,2,5"
    );
    assert_written_by_the_policy(&applied);
    assert_the_timeline_is_whole(&applied);
    let reported = api
        .twin_until(&name, "the agent's report", |twin| {
            twin.reported()["latest_state"] == "success"
        })
        .await;
    assert!(reported.0.reported_version > 1);

    drop(listener);
    let taken_back = api
        .twin_until(&name, "the settings to be taken back", |twin| {
            twin.desired() == json!({})
                && twin.text("/configuration/state") == "applied"
                && twin.count("/configuration/appliedVersion") == twin.0.desired_version
        })
        .await;
    assert!(taken_back.0.desired_version > applied.0.desired_version);
    api.delete_policy("unexpected-listener")
        .await
        .expect("the policy is there");
}

/// Every collector says what it does, and why if it cannot.
fn assert_collectors_speak(twin: &Twin) {
    let posture = twin.posture();
    let collectors = posture["agent"]["collectors"]
        .as_object()
        .expect("collectors")
        .clone();
    for name in [
        "ListeningPorts",
        "LocalUsers",
        "Login",
        "Process",
        "SystemInformation",
    ] {
        assert!(
            collectors.contains_key(name),
            "{name} is missing in {collectors:?}"
        );
    }
    for (name, collector) in collectors {
        let fine = collector["state"] == "running" || collector["state"] == "disabled";
        assert!(
            fine || collector["reason"].is_string(),
            "{name} does not say why: {collector}"
        );
    }
}

fn assert_written_by_the_policy(twin: &Twin) {
    let metadata: Value =
        serde_json::from_str(&twin.0.desired_metadata_json).expect("metadata is JSON");
    let by = &metadata["FileSystem_Paths"]["$lastUpdatedBy"];
    assert_eq!(by, "policy:unexpected-listener@1", "{metadata}");
}

/// All hops are there. Those of the service's clock are in order; the agent's runs on the same
/// machine here.
fn assert_the_timeline_is_whole(twin: &Twin) {
    let posture = twin.posture();
    let timeline = &posture["configuration"]["timeline"];
    let mut before = String::new();
    for hop in [
        "decidedAt",
        "committedAt",
        "pushedAt",
        "appliedAt",
        "acknowledgedAt",
    ] {
        let at = timeline[hop]
            .as_str()
            .unwrap_or_else(|| panic!("no {hop} in {timeline}"));
        let at: jiff::Timestamp = at.parse().expect("an instant");
        let at = format!("{:020}", at.as_microsecond());
        assert!(
            before <= at,
            "{hop} is before the hop before it: {timeline}"
        );
        before = at;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_posture_carries_the_times_of_all_hops_to_the_applied_push() {
    let hub = Hub::start().await;
    let api = hub.api();
    let device = api.device("cam-1").await;
    let request = PatchTwinRequest {
        name: device.twin.clone(),
        tags_patch_json: json!({"allowedPorts": [22]}).to_string(),
        ..Default::default()
    };
    api.patch(request).await.expect("tags are written");
    api.apply(unexpected_listener())
        .await
        .expect("the policy is good");
    let mut agent = Agent::new(hub.agent_url(), device.clone());
    agent.observe(listening(&[22, 8888]));
    agent.deliver(1, async |_| {}).await;
    agent
        .desired_until(|desired| desired["FileSystem_Paths"] == "/etc")
        .await;
    let twin = api
        .twin_until(&device.twin, "the acknowledgement", |twin| {
            twin.text("/configuration/state") == "applied"
                && !twin.text("/configuration/timeline/observedAt").is_empty()
        })
        .await;
    assert_the_timeline_is_whole(&twin);
    let hops = ["observedAt", "receivedAt", "foldedAt", "decidedAt"];
    let times: Vec<String> = hops
        .iter()
        .map(|hop| twin.text(&format!("/configuration/timeline/{hop}")))
        .collect();
    assert!(times.iter().all(|time| !time.is_empty()), "{times:?}");
    let version = twin.0.desired_version;

    // What holds already writes nothing: the same fact again moves no version.
    agent.observe(listening(&[22, 8888]));
    agent.deliver(1, async |_| {}).await;
    api.twin_until(&device.twin, "the second snapshot", |twin| {
        twin.count("/eventCount") == 2
    })
    .await;
    // An operator's leaf is not overwritten, and the rest of the policy stays.
    let request = PatchTwinRequest {
        name: device.twin.clone(),
        desired_patch_json: json!({"FileSystem_Paths": "/opt"}).to_string(),
        operator: "alice".to_owned(),
        ..Default::default()
    };
    let patched = api.patch(request).await.expect("desired is written");
    assert_eq!(patched.0.desired_version, version + 1);
    agent
        .desired_until(|desired| desired["FileSystem_Paths"] == "/opt")
        .await;
    agent.observe(listening(&[22]));
    agent.deliver(1, async |_| {}).await;
    agent
        .desired_until(|desired| *desired == json!({"FileSystem_Paths": "/opt"}))
        .await;
    hub.stop().await;
}
