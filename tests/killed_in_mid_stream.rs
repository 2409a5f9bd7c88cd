//! kill -9 of each process in turn while events flow and configuration is pushed: afterwards every
//! acknowledged event is in the posture exactly once, no push is lost, no version went down.

use std::time::Duration;

use serde_json::{Value, json};
use wire::twin::v1::PatchTwinRequest;

use crate::support::SOON;
use crate::support::agent::{Agent, failed_login, listening};
use crate::support::api::{Api, Device, Twin, recent_files, unexpected_listener, whole};
use crate::support::hub::{Hub, Part, Up};
use crate::support::real_agent::RealAgent;

/// Events of a story: enough that each kill falls into the middle of the stream.
const EVENTS: u64 = 600;
/// Events of one batch.
const BATCH: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn ingestion_is_killed() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    story(hub.api(), hub.agent_url(), async || {
        hub.kill_and_restart(Part::Ingestion).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twin_store_is_killed() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    story(hub.api(), hub.agent_url(), async || {
        hub.kill_and_restart(Part::TwinStore).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nats_server_is_killed() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    story(hub.api(), hub.agent_url(), async || {
        hub.nats.kill();
        hub.nats.restart().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_them_are_killed_one_after_the_other() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    story(hub.api(), hub.agent_url(), async || {
        hub.kill_and_restart(Part::TwinStore).await;
        hub.nats.kill();
        hub.nats.restart().await;
        hub.kill_and_restart(Part::Policy).await;
        hub.kill_and_restart(Part::Ingestion).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_one_process_is_killed_and_its_nats_server_with_it() {
    let mut hub = Up::start().await;
    hub.process.allow("");
    story(hub.api(), hub.agent_url(), async || {
        hub.process.kill();
        hub.restart().await;
        hub.process.allow("");
    })
    .await;
}

/// The policy service is killed twice: with the fact that asks for settings under its hands, and
/// away altogether while the fact ends.
#[tokio::test(flavor = "multi_thread")]
async fn policy_is_killed() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let device = api.device("cam-1").await;
    let request = PatchTwinRequest {
        name: device.twin.clone(),
        tags_patch_json: json!({"allowedPorts": [22]}).to_string(),
        ..Default::default()
    };
    let before = api.patch(request).await.expect("tags are written");
    let before = before.0.desired_version;
    api.apply(unexpected_listener())
        .await
        .expect("the policy is good");

    let mut agent = Agent::new(hub.agent_url(), device.clone());
    let logins = EVENTS / 3;
    for _ in 0..logins {
        agent.observe(failed_login());
    }
    agent.observe(listening(&[22, 8888]));
    for _ in 0..logins {
        agent.observe(failed_login());
    }
    let mut killed = false;
    agent
        .deliver(BATCH, async |acknowledged| {
            if acknowledged > logins && !killed {
                killed = true;
                // The port was acknowledged this moment: policy is about to hear of it.
                hub.kill_and_restart(Part::Policy).await;
            }
        })
        .await;
    assert!(killed, "the blow fell");
    let settings = json!({
        "CollectorsCore_PriorityIntervals": "1,2,5",
        "FileSystem_Paths": "/etc",
    });
    agent.desired_until(|desired| *desired == settings).await;
    let twin = applied(&api, &device, before + 1).await;
    assert_eq!(twin.desired(), settings);
    let metadata: Value =
        serde_json::from_str(&twin.0.desired_metadata_json).expect("metadata is JSON");
    for key in ["CollectorsCore_PriorityIntervals", "FileSystem_Paths"] {
        assert_eq!(
            metadata[key]["$lastUpdatedBy"], "policy:unexpected-listener@1",
            "{metadata}"
        );
    }

    hub.policy.kill();
    agent.observe(listening(&[22]));
    agent.deliver(BATCH, async |_| {}).await;
    let observed = agent.observed();
    let twin = api
        .twin_until(&device.twin, "the closed port", |twin| {
            twin.count("/eventCount") >= observed
        })
        .await;
    assert_eq!(twin.desired(), settings, "nobody is there to decide");
    hub.kill_and_restart(Part::Policy).await;
    agent.desired_until(|desired| *desired == json!({})).await;
    let twin = applied(&api, &device, before + 2).await;
    assert_eq!(twin.desired(), json!({}));
    assert_eq!(agent.acknowledged, observed);
    assert_eq!(twin.count("/eventCount"), observed, "exactly once");
    assert_eq!(twin.count("/delivery/high/received"), observed);
    assert_eq!(twin.count("/delivery/high/missing"), 0);
    assert_eq!(twin.count("/logins/failed"), 2 * logins);
}

/// Waits until the agent has proven its configuration, which is to be of this version.
async fn applied(api: &Api, device: &Device, version: u64) -> Twin {
    let twin = api
        .twin_until(&device.twin, "the push to be proven", |twin| {
            twin.count("/configuration/appliedVersion") >= version
                && twin.text("/configuration/state") == "applied"
        })
        .await;
    assert_eq!(twin.0.desired_version, version, "written once");
    twin
}

/// Files that the real agent sees appear before it is killed, and as many after.
const FILES: u64 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn the_real_agent_is_killed() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let watched = hub.folder().join("watched");
    std::fs::create_dir(&watched).expect("a folder");
    let mut agent = RealAgent::enroll(&api, &hub.agent_url(), "cam-1", hub.folder()).await;
    agent.process.allow("");
    let name = "devices/cam-1/modules/DefenderIotMicroAgent";
    api.twin_until(name, "the agent to be enrolled", |_| true)
        .await;
    let request = PatchTwinRequest {
        name: name.to_owned(),
        desired_patch_json: json!({
            "FileSystem_Paths": watched.display().to_string(),
            "FileSystem_CacheSize": 100_000,
            "CollectorsCore_PriorityIntervals": "0.05,0.05,0.05",
        })
        .to_string(),
        ..Default::default()
    };
    let version = api.patch(request).await.expect("desired is written");
    let version = version.0.desired_version;
    api.twin_until(name, "the agent to watch the folder", |twin| {
        twin.count("/configuration/appliedVersion") == version
    })
    .await;
    let write = |name: String| std::fs::write(watched.join(name), b"x").expect("a file");
    for round in 0..3 {
        let before = api.twin(name).await.expect("a twin");
        for number in 0..FILES / 3 {
            write(format!("before-{round}-{number:06}"));
        }
        // The last round's are still coming in when the blow falls.
        api.twin_until(name, "the first files of this round", |twin| {
            twin.count("/files/created") > before.count("/files/created")
        })
        .await;
    }
    agent.process.kill();
    let mut agent = RealAgent::again(&hub.agent_url(), hub.folder());
    agent.process.allow("");

    // One lane keeps its order: with the newest probe, all that was spooled before it has come.
    let mut probe = 0;
    let seen = testkit::wait_for("the agent to watch again", SOON, async || {
        probe += 1;
        let file = format!("probe-{probe:06}");
        write(file.clone());
        let look = api.twin_until(name, "the probe", |twin| recent_files(twin).contains(&file));
        tokio::time::timeout(Duration::from_secs(2), look)
            .await
            .ok()
    })
    .await;
    let created = seen.count("/files/created");
    for number in 0..FILES {
        write(format!("after-{number:06}"));
    }
    let twin = api
        .twin_until(name, "the files and whole lanes", |twin| {
            twin.count("/files/created") >= created + FILES
                && whole(twin, "high")
                && whole(twin, "medium")
                && whole(twin, "low")
        })
        .await;
    assert_eq!(
        twin.count("/files/created"),
        created + FILES,
        "each file once: {}",
        twin.posture()
    );
    agent.stop().await;
    hub.stop().await;
}

/// Streams, has `kill` do its work in the middle, and checks what is left.
async fn story(api: Api, agent_url: String, kill: impl AsyncFnOnce()) {
    let device = api.device("cam-1").await;
    let mut agent = Agent::new(agent_url, device.clone());
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
                kill().await;
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
