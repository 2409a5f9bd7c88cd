//! Conflicts, failures, poison and holes: each is survived, and nothing else suffers.

use bus::{Outgoing, Reject};
use serde_json::json;
use testkit::wait_for;
use tonic::Status;
use twin::{DeviceId, PartitionCount, partition_of};
use wire::subjects::{twins_stream, twins_subject};

use crate::twin_store::listening;
use crate::world::{MODULE, PARTITIONS, SAMPLE, SOON, World};

const ALL: &str = "kind: Policy\nname: p\ntarget: '*'\nsettings: {x: 1}\n";

#[tokio::test]
async fn a_conflict_is_decided_afresh() {
    let world = World::start().await;
    world.apply(ALL).await;
    world.wait_evaluated("p").await;
    // An operator claims the leaf between the decision and the write.
    world.twins.interfere_next(json!({"x": "mine", "y": 2}));
    world.twins.create(MODULE, json!({}), json!({})).await;
    world
        .wait_desired(MODULE, json!({"x": "mine", "y": 2}))
        .await;
    let metrics = wait_for("the conflict to be counted", SOON, async || {
        Some(world.metrics().await).filter(|page| page.contains("conflicts_total 1"))
    });
    metrics.await;
    assert_eq!(
        world.calls_for(MODULE),
        1,
        "afresh there is nothing to write"
    );

    world.twins.interfere_next(json!({"z": 3}));
    world
        .twins
        .operate(MODULE, None, Some(json!({"x": null})))
        .await;
    world
        .wait_desired(MODULE, json!({"x": 1, "y": 2, "z": 3}))
        .await;
}

#[tokio::test]
async fn a_partition_waits_while_twin_store_is_away() {
    let mut world = World::start().await;
    world.apply(SAMPLE).await;
    world
        .twins
        .create(MODULE, json!({"allowedPorts": []}), listening(&[]))
        .await;
    world.wait_evaluated("unexpected-listener").await;
    world.twins.set_away(true);
    world.twins.fold(MODULE, listening(&[1])).await;
    wait_for("twin-store to be missed", SOON, async || {
        Some(world.page("/readyz").await).filter(|page| page.contains("on holiday"))
    })
    .await;
    // Neither a stop nor the absence loses the change.
    world.stop_service().await;
    world.start_service().await;
    world.twins.set_away(false);
    let settings = json!({"CollectorsCore_PriorityIntervals": "1,2,5", "FileSystem_Paths": "/etc"});
    world.wait_desired(MODULE, settings).await;
}

#[tokio::test]
async fn a_failing_call_is_tried_again() {
    let world = World::start().await;
    world.apply(ALL).await;
    world.wait_evaluated("p").await;
    for status in [
        Status::internal("a bug"),
        Status::unavailable("x"),
        Status::cancelled("late"),
    ] {
        world.twins.fail_next(status);
    }
    world.twins.create(MODULE, json!({}), json!({})).await;
    world.wait_desired(MODULE, json!({"x": 1})).await;
    assert_eq!(world.calls_for(MODULE), 4);
}

#[tokio::test]
async fn settings_that_a_twin_cannot_take_fail_for_it_alone() {
    let world = World::start().await;
    let text = |letter: char| letter.to_string().repeat(4000);
    let settings = json!({"x": text('x'), "y": text('y')});
    world
        .apply(&format!(
            "kind: Policy\nname: big\ntarget: '*'\nsettings: {settings}\n"
        ))
        .await;
    world.wait_evaluated("big").await;
    let full: serde_json::Map<_, _> = ('a'..='g')
        .map(|letter| (letter.to_string(), json!(text(letter))))
        .collect();
    let other = "devices/other/modules/m";
    world
        .twins
        .create("devices/full/modules/m", json!({}), json!({}))
        .await;
    world
        .wait_desired("devices/full/modules/m", settings.clone())
        .await;
    // The operator's share grows until both do not fit; policies must not stand in its way.
    world.delete_policy("big").await;
    world
        .wait_desired("devices/full/modules/m", json!({}))
        .await;
    world
        .twins
        .operate("devices/full/modules/m", None, Some(full.clone().into()))
        .await;
    world
        .apply(&format!(
            "kind: Policy\nname: big\ntarget: '*'\nsettings: {settings}\n"
        ))
        .await;
    world.twins.create(other, json!({}), json!({})).await;
    world.wait_desired(other, settings).await;
    let evaluation = world.wait_evaluated("big").await;
    assert_eq!(evaluation.twins_failed, 1);
    let rejects = world.rejects(1).await;
    assert_eq!(
        rejects[0].headers.get(Reject::CODE),
        Some("SETTINGS_BREAK_LIMIT")
    );
    assert_eq!(
        rejects[0].headers.get(Reject::SOURCE),
        Some("devices/full/modules/m")
    );
    assert_eq!(world.twins.desired("devices/full/modules/m"), json!(full));
}

#[tokio::test]
async fn what_twin_store_refuses_fails_for_that_twin_alone() {
    let world = World::start().await;
    world.apply(ALL).await;
    world.wait_evaluated("p").await;
    world
        .twins
        .fail_next(Status::invalid_argument("not on a Sunday"));
    world.twins.create(MODULE, json!({}), json!({})).await;
    let rejects = world.rejects(1).await;
    assert_eq!(
        rejects[0].headers.get(Reject::CODE),
        Some("SETTINGS_REFUSED")
    );
    let reason = rejects[0].headers.get(Reject::REASON).unwrap();
    assert!(reason.contains("not on a Sunday"), "{reason}");
    // Any later change is a new chance.
    world
        .twins
        .operate(MODULE, Some(json!({"a": 1})), None)
        .await;
    world
        .twins
        .operate(MODULE, None, Some(json!({"o": 1})))
        .await;
    world.wait_desired(MODULE, json!({"x": 1, "o": 1})).await;
}

#[tokio::test]
async fn a_broken_twin_does_not_stop_the_others_of_its_partition() {
    let world = World::start().await;
    world.apply(ALL).await;
    world.wait_evaluated("p").await;
    // Modules of one device share a partition.
    let (broken, beside, behind) = (
        "devices/d/modules/broken",
        "devices/d/modules/beside",
        "devices/d/modules/behind",
    );
    world.twins.break_twin(broken);
    world.twins.create(broken, json!({}), json!({})).await;
    world.twins.create(beside, json!({}), json!({})).await;
    wait_for("the broken twin to be tried", SOON, async || {
        (world.calls_for(broken) > 0).then_some(())
    })
    .await;
    world.twins.create(behind, json!({}), json!({})).await;
    world.wait_desired(beside, json!({"x": 1})).await;
    world.wait_desired(behind, json!({"x": 1})).await;
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("evaluations_total{result=\"unfinished\"} 1"),
        "{metrics}"
    );
    assert_eq!(world.twins.desired(broken), json!({}));
}

#[tokio::test]
async fn poison_goes_to_rejects_and_the_partition_goes_on() {
    let world = World::start().await;
    world.apply(ALL).await;
    let partition = partition_of(
        &DeviceId::parse("cam-1").unwrap(),
        PartitionCount::new(PARTITIONS).unwrap(),
    );
    let poison = Outgoing::new(twins_subject(partition), b"\xffno protobuf".to_vec());
    world.bus.publish(poison).await.unwrap();
    world.twins.create(MODULE, json!({}), json!({})).await;
    world.wait_desired(MODULE, json!({"x": 1})).await;
    let rejects = world.rejects(1).await;
    assert_eq!(rejects[0].subject, "rejects.policy");
    assert_eq!(
        rejects[0].headers.get(Reject::CODE),
        Some("UNDECODABLE_MESSAGE")
    );
    let stream = twins_stream(partition);
    assert_eq!(
        rejects[0].headers.get(Reject::SOURCE),
        Some(format!("{stream}/1").as_str())
    );
    assert_eq!(&rejects[0].payload[..], b"\xffno protobuf");
}

#[tokio::test]
async fn changes_that_are_gone_are_made_up_for_by_looking_at_everything() {
    let mut world = World::start().await;
    world.apply(SAMPLE).await;
    world
        .twins
        .create(MODULE, json!({"allowedPorts": []}), listening(&[]))
        .await;
    world.wait_evaluated("unexpected-listener").await;
    world.stop_service().await;
    world.twins.fold(MODULE, listening(&[1])).await;
    let partition = partition_of(
        &DeviceId::parse("cam-1").unwrap(),
        PartitionCount::new(PARTITIONS).unwrap(),
    );
    let stream = twins_stream(partition);
    let last = world.bus.last_sequence(&stream).await.unwrap();
    world.bus.trim(&stream, last).await.unwrap();
    world.start_service().await;
    let settings = json!({"CollectorsCore_PriorityIntervals": "1,2,5", "FileSystem_Paths": "/etc"});
    world.wait_desired(MODULE, settings).await;
}

#[tokio::test]
async fn a_killed_nats_server_is_survived() {
    let mut world = World::start().await;
    world.apply(SAMPLE).await;
    world
        .twins
        .create(MODULE, json!({"allowedPorts": []}), listening(&[]))
        .await;
    world.wait_evaluated("unexpected-listener").await;
    world.nats.restart().await;
    world.twins.fold(MODULE, listening(&[1])).await;
    let settings = json!({"CollectorsCore_PriorityIntervals": "1,2,5", "FileSystem_Paths": "/etc"});
    world.wait_desired(MODULE, settings).await;
}

#[tokio::test]
async fn an_audit_entry_that_is_refused_holds_up_none_behind_it() {
    let world = World::start().await;
    world.twins.refuse_entries_of("policies/odd");
    let policy = |id: &str| format!("kind: Policy\nname: {id}\ntarget: '*'\nsettings: {{x: 1}}\n");
    world.apply(&policy("odd")).await;
    world.apply(&policy("even")).await;
    wait_for("the entry behind it", SOON, async || {
        let recorded = world.twins.recorded();
        let mut entries = recorded.iter();
        entries
            .any(|entry| entry.resource == "policies/even")
            .then_some(())
    })
    .await;
    let rejects = world.rejects(1).await;
    assert_eq!(
        rejects[0].headers.get(Reject::CODE),
        Some("AUDIT_ENTRY_REFUSED")
    );
    assert_eq!(rejects[0].headers.get(Reject::SOURCE), Some("policies/odd"));
}
