//! The agent with its network cut for longer than its spool can hold: nothing acknowledged is
//! lost, the oldest events of the lowest lane go, and the twin counts them.

use serde_json::json;
use wire::twin::v1::PatchTwinRequest;

use crate::support::api::{recent_files, whole};
use crate::support::hub::{Hub, Part};
use crate::support::real_agent::RealAgent;

/// The smallest spool that the agent accepts.
const SPOOL_BYTES: &str = "65536";
/// Files to make while it is cut off: with their events, several times the spool.
const FILES: usize = 4000;

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_dropped_from_the_lowest_lane_and_counted() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let watched = hub.folder().join("watched");
    std::fs::create_dir(&watched).expect("a folder");
    let mut agent =
        RealAgent::enroll_with(&api, &hub.agent_url(), "cam-1", hub.folder(), |builder| {
            builder.env("TWINWARD_AGENT__SPOOL_MAX_BYTES", SPOOL_BYTES)
        })
        .await;
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
    let version = api
        .patch(request)
        .await
        .expect("desired is written")
        .0
        .desired_version;
    api.twin_until(name, "the agent to watch the folder", |twin| {
        twin.count("/configuration/appliedVersion") == version
    })
    .await;

    hub.process(Part::Ingestion).kill();
    for number in 0..FILES {
        std::fs::write(watched.join(file_name(number)), b"x").expect("a file");
    }
    // kill -9 of the agent, too: what it had spooled is still there.
    let spool = hub.folder().join("agent").join("spool");
    testkit::wait_for("the spool to overflow", crate::support::SOON, async || {
        let text = std::fs::read(spool.join("low").join("position")).ok()?;
        let position: serde_json::Value = serde_json::from_slice(&text).ok()?;
        position["dropped"].as_u64().filter(|dropped| *dropped > 0)
    })
    .await;
    // What the agent had not spooled yet would go with it, so it is let come to the newest file.
    let newest = file_name(FILES - 1);
    testkit::wait_for(
        "the newest file to be spooled",
        crate::support::SOON,
        async || {
            let files = std::fs::read_dir(spool.join("low")).ok()?;
            let mut texts = files
                .flatten()
                .filter_map(|file| std::fs::read(file.path()).ok());
            texts.any(|text| holds(&text, &newest)).then_some(())
        },
    )
    .await;
    agent.process.kill();
    let mut agent = RealAgent::again_with(&hub.agent_url(), hub.folder(), |builder| {
        builder.env("TWINWARD_AGENT__SPOOL_MAX_BYTES", SPOOL_BYTES)
    });
    agent.process.allow("");
    hub.kill_and_restart(Part::Ingestion).await;

    // What went is the oldest: of the files, the newest arrives.
    let twin = api
        .twin_until(
            name,
            "the spool to be delivered and the drops counted",
            |twin| {
                twin.count("/delivery/low/droppedByAgent") > 0
                    && whole(twin, "low")
                    && whole(twin, "high")
                    && recent_files(twin).contains(&newest)
            },
        )
        .await;
    assert_eq!(
        twin.count("/delivery/high/droppedByAgent"),
        0,
        "{}",
        twin.posture()
    );
    assert_eq!(
        twin.count("/delivery/high/missing"),
        0,
        "{}",
        twin.posture()
    );
    assert!(twin.count("/files/created") < FILES as u64, "some went");
    agent.stop().await;
    hub.stop().await;
}

fn file_name(number: usize) -> String {
    format!("file-with-a-rather-long-name-{number:06}")
}

fn holds(text: &[u8], name: &str) -> bool {
    text.windows(name.len())
        .any(|window| window == name.as_bytes())
}
