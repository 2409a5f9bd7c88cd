//! Two replicas of twin-store on one PostgreSQL share the partitions. One is killed in the middle of
//! the stream: the other goes on within seconds, and no event is lost or taken twice. Writes may go to
//! either at any time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use client::{Event, Tuning, Watch, What};
use futures::future::join_all;
use serde_json::json;
use testkit::wait_for;
use wire::twin::v1::PatchTwinRequest;

use crate::support::SOON;
use crate::support::agent::{Agent, failed_login};
use crate::support::api::{Api, Device};
use crate::support::fleet::{Fleet, PARTITIONS};

/// Devices of the story: enough that every partition has some.
const DEVICES: usize = 8;
/// Events of each.
const EVENTS: u64 = 150;
/// Events of one batch.
const BATCH: usize = 5;
/// How long the end of a replica may be felt.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_is_killed_and_comes_back() {
    let mut fleet = Fleet::start().await;
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        devices.push(fleet.api(number % 2).device(&format!("cam-{number}")).await);
    }
    everything_can_be_written(&fleet.api(0), &devices, "first").await;
    everything_can_be_written(&fleet.api(1), &devices, "second").await;
    for replica in [0, 1] {
        let forwarded = r#"calls_forwarded_total{outcome="answered"}"#;
        let forwarded = fleet.metric(replica, forwarded).await;
        assert!(forwarded.is_some_and(|count| count != "0"), "{replica}");
    }

    for replica in [0, 1] {
        a_watch_sees_what_the_other_writes(&fleet, replica, &devices).await;
    }

    // The second is killed in the middle of the stream, and then the first.
    for (round, victim) in [(1, 1), (2, 0)] {
        let survivor = 1 - victim;
        let url = fleet.agent_url();
        let streams = devices.iter().map(|device| stream(url.clone(), device));
        let streams = join_all(streams);
        let api = fleet.api(survivor);
        let blow = async {
            let enough = EVENTS / 3 + (round - 1) * EVENTS;
            wait_for("the stream to flow", SOON, async || {
                let twin = api.twin(&devices[0].twin).await.ok()?;
                (twin.count("/eventCount") >= enough).then_some(())
            })
            .await;
            fleet.replicas[survivor].allow("");
            fleet.replicas[victim].allow("");
            fleet.replicas[victim].kill();
            let killed = Instant::now();
            let note = format!("round {round}");
            everything_can_be_written(&api, &devices, &note).await;
            let all = PARTITIONS.to_string();
            wait_for(
                "the survivor to own everything",
                TAKEN_OVER_WITHIN,
                async || {
                    let owned = fleet.metric(survivor, "partitions_owned").await?;
                    (owned == all).then_some(())
                },
            )
            .await;
            let took = killed.elapsed();
            assert!(took < TAKEN_OVER_WITHIN, "it took {took:?}");
        };
        tokio::join!(streams, blow);
        for device in &devices {
            let expected = EVENTS * round;
            let twin = api
                .twin_until(&device.twin, "every event in the posture", |twin| {
                    twin.count("/eventCount") >= expected
                })
                .await;
            let posture = twin.posture();
            assert_eq!(
                twin.count("/eventCount"),
                expected,
                "exactly once: {posture}"
            );
            assert_eq!(twin.count("/logins/failed"), expected, "{posture}");
            assert_eq!(twin.count("/delivery/high/missing"), 0, "{posture}");
        }

        fleet.start_again(victim);
        fleet.shared_out(&[PARTITIONS / 2, PARTITIONS / 2]).await;
        let note = format!("after round {round}");
        everything_can_be_written(&fleet.api(victim), &devices, &note).await;
    }

    // One that is asked to end hands its partitions over at once and without a complaint.
    let leaving = fleet.replicas.remove(1);
    leaving.stop(SOON).await;
    let everything = PARTITIONS.to_string();
    wait_for("the hand-over", Duration::from_secs(4), async || {
        let owned = fleet.metric(0, "partitions_owned").await?;
        (owned == everything).then_some(())
    })
    .await;
    everything_can_be_written(&fleet.api(0), &devices, "alone").await;
}

/// Watches on one replica while every device is written to through the other, which also owns half
/// of them.
async fn a_watch_sees_what_the_other_writes(fleet: &Fleet, replica: usize, devices: &[Device]) {
    let what = What {
        changes_only: true,
        ..What::default()
    };
    let mut watch = Watch::new(fleet.api(replica).twins, what, Tuning::default());
    let mut next = async || {
        let event = tokio::time::timeout(SOON, watch.next()).await;
        event.expect("it tells in time").expect("it is not refused")
    };
    // From its first bookmark on nothing is missed.
    while next().await != Event::Bookmark {}
    let note = format!("watched on {replica}");
    everything_can_be_written(&fleet.api(1 - replica), devices, &note).await;
    let mut missing: BTreeSet<_> = devices.iter().map(|device| device.twin.clone()).collect();
    while !missing.is_empty() {
        if let Event::Twin { twin, .. } = next().await
            && twin.tags_json.contains(&note)
        {
            missing.remove(&twin.name);
        }
    }
}

/// Sends the events of a device, as another agent each time.
async fn stream(agent_url: String, device: &Device) {
    let mut agent = Agent::new(agent_url, device.clone());
    for _ in 0..EVENTS {
        agent.observe(failed_login());
    }
    agent.deliver(BATCH, async |_| {}).await;
    assert_eq!(agent.acknowledged, EVENTS);
}

/// A write to every device through one replica; each is read back.
async fn everything_can_be_written(api: &Api, devices: &[Device], note: &str) {
    for device in devices {
        let request = || PatchTwinRequest {
            name: device.twin.clone(),
            tags_patch_json: json!({ "note": note }).to_string(),
            ..Default::default()
        };
        // A call that was under way at the replica that died is in doubt, and says so; the same patch
        // may be sent again.
        let written = wait_for("the write", TAKEN_OVER_WITHIN, async || {
            match api.patch(request()).await {
                Ok(twin) => Some(twin),
                Err(status) if status.code() == tonic::Code::Unavailable => None,
                Err(status) => panic!("{}: {status}", device.twin),
            }
        })
        .await;
        assert!(
            written.0.tags_json.contains(note),
            "{}",
            written.0.tags_json
        );
    }
}
