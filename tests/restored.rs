//! A store is lost and restored from a backup that is older than what devices and policies know. The
//! agent takes what was restored although it had decided on more since, and the policies set again
//! what they had set.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use testkit::workspace_binary;
use wire::twin::v1::PatchTwinRequest;

use crate::support::api::{Api, Device, Twin};
use crate::support::hub::{Hub, Part};
use crate::support::real_agent::RealAgent;

const INTERVALS: &str = "CollectorsCore_PriorityIntervals";

#[tokio::test(flavor = "multi_thread")]
async fn devices_and_policies_follow_a_store_that_was_restored() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let device = api.device("cam-1").await;
    let agent = run(&hub, &device);
    follow(&api, &device.twin, 2).await;
    let store = hub.folder().join("twin-store");
    let backup = hub.folder().join("twins.backup");
    maintain(&["store", "backup"], &backup, &store);

    // All of this is lost with the store; the agent and the policy service remember it.
    for medium in [3, 4, 5] {
        follow(&api, &device.twin, medium).await;
    }
    let policy = wire::policy::v1::Policy {
        when: "status = 'enabled'".to_owned(),
        ..crate::support::api::unexpected_listener()
    };
    api.apply(policy).await.expect("the policy is good");
    let lost = applied(&api, &device.twin, "the policy's settings", |twin| {
        twin.desired()["FileSystem_Paths"] == "/etc"
    })
    .await;
    agent.stop().await;
    hub.process(Part::TwinStore).kill();
    for name in ["twins.db", "twins.db-wal", "twins.db-shm"] {
        // The log is not there when it was taken into the file.
        let _gone = std::fs::remove_file(store.join(name));
    }
    maintain(&["store", "restore"], &backup, &store);
    verified(&store);
    hub.kill_and_restart(Part::TwinStore).await;

    // Nobody edits anything.
    let agent = run(&hub, &device);
    let twin = applied(&api, &device.twin, "the policy once more", |twin| {
        twin.desired()["FileSystem_Paths"] == "/etc"
    })
    .await;
    let (known, now) = (lost.0.desired_version, twin.0.desired_version);
    assert!(
        now > known,
        "the agent knew version {known}, restored was {now}"
    );
    follow(&api, &device.twin, 7).await;
    tells_of_itself(&api, &backup).await;
    agent.stop().await;
    hub.stop().await;
}

/// The audit log names who restored what, and its chains are whole.
async fn tells_of_itself(api: &Api, backup: &Path) {
    let entries = api.audited("store.restore").await;
    let [entry] = &entries[..] else {
        panic!("one restore is in the audit log: {entries:?}");
    };
    assert!(entry.actor.starts_with("os:"), "{entry:?}");
    let detail: serde_json::Value = serde_json::from_str(&entry.detail_json).expect("JSON");
    assert_eq!(detail["source"], backup.display().to_string());
    assert_eq!(detail["backup"]["kind"], "sqlite");
    assert!(detail["raised"]["versions"].as_u64() > Some(0), "{detail}");
    assert!(api.audit_is_whole().await);
}

/// Runs a verb on the files of a store.
fn maintain(verb: &[&str], backup: &Path, store: &Path) {
    let done = Command::new(workspace_binary("twinward"))
        .args(verb)
        .arg(backup)
        .arg("--store")
        .arg(store)
        .output()
        .expect("the program runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{verb:?}: {said}");
}

/// Nothing is wrong with what was restored.
fn verified(store: &Path) {
    let done = Command::new(workspace_binary("twinward"))
        .args(["store", "verify", "--store"])
        .arg(store)
        .output()
        .expect("the program runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
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
    let intervals = format!("1,{medium},9");
    let request = PatchTwinRequest {
        name: name.to_owned(),
        desired_patch_json: json!({ INTERVALS: intervals }).to_string(),
        ..Default::default()
    };
    api.patch(request).await.expect("desired is written");
    applied(api, name, &intervals, |twin| {
        twin.desired()[INTERVALS] == intervals
    })
    .await;
}

/// Waits until the agent has applied a section like this.
async fn applied(api: &Api, name: &str, what: &str, is: impl Fn(&Twin) -> bool) -> Twin {
    api.twin_until(name, what, |twin| {
        is(twin)
            && twin.text("/configuration/state") == "applied"
            && twin.count("/configuration/appliedVersion") == twin.0.desired_version
    })
    .await
}
