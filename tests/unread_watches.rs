//! Watches that nobody reads cost twin-store a bounded piece of memory and hold up nobody; who reads
//! on later is told each twin as it is, not everything that happened.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use service_kit::client::{ClientConfig, connect};
use service_kit::secret::Secret;
use tonic::Streaming;
use wire::registry::v1::CreateDeviceRequest;
use wire::twin::v1::twin_service_client::TwinServiceClient;
use wire::twin::v1::watch_twins_response::Event;
use wire::twin::v1::{PatchTwinRequest, WatchTwinsRequest, WatchTwinsResponse};

use crate::support::SOON;
use crate::support::api::Api;
use crate::support::hub::{Hub, Part, TOKEN};

const DEVICES: usize = 16;
const WATCHES: usize = 40;
/// Rounds before memory is first looked at, so that what is kept for all watches together is full.
const FIRST: u64 = 60;
/// The last round.
const LAST: u64 = 120;
/// What the watches may grow by together: a fifth of what they would hold if each of them kept what was
/// written between the two looks (60 rounds of 16 twins with 24 KB each, for 40 of them: 920 MB).
const GROWTH_MAX: u64 = 184 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_nobody_reads_cost_little_and_hold_up_nobody() {
    let mut hub = Hub::start().await;
    let api = hub.api();
    for number in 0..DEVICES {
        let request = CreateDeviceRequest {
            device_id: device(number),
            ..Default::default()
        };
        api.registry
            .clone()
            .create_device(request)
            .await
            .expect("the device is made");
    }
    // Each on a connection of its own, and each read once, so that it is known to have begun.
    let mut unread = Vec::new();
    for _ in 0..WATCHES {
        let mut watch = watch(&hub).await;
        next(&mut watch).await;
        unread.push(watch);
    }
    let mut read = watch(&hub).await;

    for round in 1..=FIRST {
        write(&api, round).await;
    }
    until_all_are_at(&mut read, FIRST).await;
    let before = resident(&mut hub);
    for round in FIRST + 1..=LAST {
        write(&api, round).await;
    }
    // Who reads is told all along.
    until_all_are_at(&mut read, LAST).await;
    let growth = resident(&mut hub).saturating_sub(before);
    assert!(
        growth < GROWTH_MAX,
        "it grew by {growth} bytes from {before} for {WATCHES} watches that nobody reads"
    );
    // Who reads on after all comes to what is, by fewer steps than there were.
    let mut late = unread.pop().expect("many watches");
    let told = until_all_are_at(&mut late, LAST).await;
    let written = usize::try_from(LAST).expect("few rounds") * DEVICES;
    assert!(told < written / 2, "{told} messages for {written} writes");
    hub.stop().await;
}

fn device(number: usize) -> String {
    format!("camera-{number}")
}

async fn watch(hub: &Hub) -> Streaming<WatchTwinsResponse> {
    let config = ClientConfig {
        token: Some(Secret::new(TOKEN)),
        ..ClientConfig::to(hub.url(Part::TwinStore))
    };
    let mut twins = TwinServiceClient::new(connect(&config).expect("a usable URL"));
    let watch = twins.watch_twins(WatchTwinsRequest::default()).await;
    watch.expect("a watch").into_inner()
}

/// Gives every device another 24 KB, and says in which round.
async fn write(api: &Api, round: u64) {
    // Of values of 4 KB at most, and other ones each time.
    let text = format!("{round:04}").repeat(1000);
    for number in 0..DEVICES {
        let values: BTreeMap<_, _> = (0..6).map(|part| (format!("part{part}"), &text)).collect();
        let request = PatchTwinRequest {
            name: format!("devices/{}", device(number)),
            desired_patch_json: json!({ "round": round, "values": values }).to_string(),
            ..Default::default()
        };
        api.patch(request).await.expect("it is written");
    }
}

async fn next(watch: &mut Streaming<WatchTwinsResponse>) -> WatchTwinsResponse {
    let message = tokio::time::timeout(SOON, watch.message()).await;
    let message = message.expect("a message in time");
    message.expect("the watch goes on").expect("it has no end")
}

/// Reads until every device has been shown as of this round; how many twins that took.
async fn until_all_are_at(watch: &mut Streaming<WatchTwinsResponse>, round: u64) -> usize {
    let (mut rounds, mut told) = (BTreeMap::new(), 0);
    while rounds.len() < DEVICES || rounds.values().any(|seen| *seen != Some(round)) {
        let Some(Event::Twin(twin)) = next(watch).await.event else {
            continue;
        };
        told += 1;
        let desired: Value = serde_json::from_str(&twin.desired_json).expect("JSON");
        rounds.insert(twin.name, desired["round"].as_u64());
    }
    told
}

/// Bytes of memory that twin-store holds.
fn resident(hub: &mut Hub) -> u64 {
    let pid = i32::try_from(hub.process(Part::TwinStore).pid()).expect("a process id");
    let process = procfs::process::Process::new(pid).expect("it runs");
    let status = process.status().expect("its status is readable");
    status.vmrss.expect("it has memory") * 1024
}
