//! kill -9 of each process in turn while events flow and configuration is pushed: afterwards every
//! acknowledged event is in the posture exactly once, no push is lost, no version went down.

use serde_json::json;
use wire::twin::v1::PatchTwinRequest;

use crate::support::agent::{Agent, failed_login};
use crate::support::api::{Api, Device};
use crate::support::hub::{Hub, Part};

/// Events of a story: enough that each kill falls into the middle of the stream.
const EVENTS: u64 = 600;
/// Events of one batch.
const BATCH: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn ingestion_is_killed() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    story(&mut hub, async |hub| {
        hub.kill_and_restart(Part::Ingestion).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twin_store_is_killed() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    story(&mut hub, async |hub| {
        hub.kill_and_restart(Part::TwinStore).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_is_killed() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    story(&mut hub, async |hub| {
        hub.kill_and_restart(Part::Policy).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nats_server_is_killed() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    story(&mut hub, async |hub| {
        hub.nats.kill();
        hub.nats.restart().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_them_are_killed_one_after_the_other() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    story(&mut hub, async |hub| {
        hub.kill_and_restart(Part::TwinStore).await;
        hub.nats.kill();
        hub.nats.restart().await;
        hub.kill_and_restart(Part::Policy).await;
        hub.kill_and_restart(Part::Ingestion).await;
    })
    .await;
}

/// Streams, has `kill` do its work in the middle, and checks what is left.
async fn story(hub: &mut Hub, kill: impl AsyncFnOnce(&mut Hub)) {
    let api = hub.api();
    let device = api.device("cam-1").await;
    let mut agent = Agent::new(hub.agent_url(), device.clone());
    for _ in 0..EVENTS {
        agent.observe(failed_login());
    }
    let mut kill = Some(kill);
    agent
        .deliver(BATCH, async |acknowledged| {
            if acknowledged >= EVENTS / 3
                && let Some(kill) = kill.take()
            {
                // A push that is on its way when the blow falls.
                let version = desire(&api, &device, "before").await;
                assert!(version > 1);
                kill(hub).await;
            }
        })
        .await;
    assert!(kill.is_none(), "the blow fell");
    assert_eq!(agent.acknowledged, agent.observed());
    let twin = api
        .twin_until(
            &device.twin,
            "every acknowledged event in the posture",
            |twin| twin.count("/eventCount") >= EVENTS,
        )
        .await;
    assert_eq!(
        twin.count("/eventCount"),
        EVENTS,
        "exactly once: {}",
        twin.posture()
    );
    assert_eq!(twin.count("/delivery/high/received"), EVENTS);
    assert_eq!(twin.count("/delivery/high/missing"), 0);
    assert_eq!(twin.count("/logins/failed"), EVENTS);

    agent
        .desired_until(|desired| desired["note"] == "before")
        .await;
    let version = desire(&api, &device, "after").await;
    agent
        .desired_until(|desired| desired["note"] == "after")
        .await;
    let twin = api
        .twin_until(&device.twin, "the push to be proven", |twin| {
            twin.text("/configuration/state") == "applied"
        })
        .await;
    assert_eq!(twin.count("/configuration/appliedVersion"), version);
    assert_eq!(twin.0.desired_version, version, "written twice and no more");
    assert_eq!(twin.count("/eventCount"), EVENTS, "and still exactly once");
}

async fn desire(api: &Api, device: &Device, note: &str) -> u64 {
    let request = PatchTwinRequest {
        name: device.twin.clone(),
        desired_patch_json: json!({ "note": note }).to_string(),
        ..Default::default()
    };
    api.patch(request)
        .await
        .expect("desired is written")
        .0
        .desired_version
}
