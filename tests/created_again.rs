//! A device is deleted and created again while its agent keeps its files: desired versions start
//! again, and the agent follows them although it had decided on higher ones.

use serde_json::json;
use wire::registry::v1::DeleteDeviceRequest;
use wire::twin::v1::PatchTwinRequest;

use crate::support::api::{Api, Device};
use crate::support::hub::Hub;
use crate::support::real_agent::RealAgent;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_device_was_created_again_follows_the_new_one() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let device = api.device("cam-1").await;
    let agent = run(&hub, &device);
    for medium in [2, 3, 4] {
        follow(&api, &device.twin, medium).await;
    }
    agent.stop().await;

    let request = DeleteDeviceRequest {
        name: "devices/cam-1".to_owned(),
        ..Default::default()
    };
    let deleted = api.registry.clone().delete_device(request).await;
    deleted.expect("the device is deleted");
    let device = api.device("cam-1").await;
    // Version 2 of the new twin: the agent knows version 4 of the old one.
    let agent = run(&hub, &device);
    follow(&api, &device.twin, 5).await;
    // What the old twin received is not missing on the new one.
    let twin = api
        .twin_until(&device.twin, "events of the same spool", |twin| {
            twin.count("/delivery/high/received") > 0
        })
        .await;
    let [last, received] =
        ["lastSequence", "received"].map(|name| twin.count(&format!("/delivery/high/{name}")));
    assert!(
        last > received,
        "the spool goes on where it was: {}",
        twin.posture()
    );
    assert_eq!(
        twin.count("/delivery/high/missing"),
        0,
        "{}",
        twin.posture()
    );
    agent.stop().await;
    hub.stop().await;
}

fn run(hub: &Hub, device: &Device) -> RealAgent {
    let Device {
        device_id,
        module_id,
        key,
        ..
    } = device;
    let text = format!(
        "HostName=localhost;DeviceId={device_id};ModuleId={module_id};SharedAccessKey={key}"
    );
    RealAgent::again_with(&hub.agent_url(), hub.folder(), |builder| {
        builder
            .env("TWINWARD_AGENT__CONNECTION_STRING", text)
            .allow("")
    })
}

async fn follow(api: &Api, name: &str, medium: u32) {
    let request = PatchTwinRequest {
        name: name.to_owned(),
        desired_patch_json: json!({ "CollectorsCore_PriorityIntervals": format!("1,{medium},9") })
            .to_string(),
        ..Default::default()
    };
    let version = api.patch(request).await.expect("desired is written");
    let version = version.0.desired_version;
    api.twin_until(name, "the agent to apply the version", |twin| {
        twin.text("/configuration/state") == "applied"
            && twin.count("/configuration/appliedVersion") == version
    })
    .await;
}
