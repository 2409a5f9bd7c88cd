//! Settings follow what twins are: on change, after policies change, and back.

use serde_json::json;
use wire::policy::v1 as proto;

use crate::twin_store::{TRACE_ID, listening};
use crate::world::{MODULE, PARTITIONS, SAMPLE, SETTLE, World};

fn watched() -> serde_json::Value {
    json!({"CollectorsCore_PriorityIntervals": "1,2,5", "FileSystem_Paths": "/etc"})
}

#[tokio::test]
async fn settings_come_with_the_posture_and_go_with_it() {
    let world = World::start().await;
    world.apply(SAMPLE).await;
    world
        .twins
        .create(MODULE, json!({"allowedPorts": [22]}), listening(&[22]))
        .await;
    world.twins.fold(MODULE, listening(&[22, 4444])).await;
    world.wait_desired(MODULE, watched()).await;
    assert_eq!(
        world.twins.writer(MODULE, "FileSystem_Paths"),
        "policy:unexpected-listener@1"
    );

    world.twins.fold(MODULE, listening(&[22])).await;
    world.wait_desired(MODULE, json!({})).await;

    let calls = world.twins.calls();
    let sizes: Vec<usize> = calls
        .iter()
        .map(|call| call.request.policies.len())
        .collect();
    assert_eq!(
        sizes,
        [1, 0],
        "one call to set, one to take back, none in between"
    );
    for call in &calls {
        assert!(
            call.traceparent.contains(TRACE_ID),
            "the trace goes on: {}",
            call.traceparent
        );
        let times = call.request.timeline.unwrap();
        assert!(times.observe_time.is_some() && times.fold_time.is_some());
        assert!(times.decide_time.is_some());
    }
}

#[tokio::test]
async fn a_policy_that_holds_makes_no_call() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(SAMPLE).await;
    world
        .twins
        .create(MODULE, json!({"allowedPorts": []}), listening(&[1]))
        .await;
    world.wait_desired(MODULE, watched()).await;
    assert_eq!(world.calls_for(MODULE), 1);
    for port in 2..20 {
        world.twins.fold(MODULE, listening(&[port])).await;
        world.twins.report(MODULE, json!({"beat": port})).await;
    }
    world.settle().await;
    assert_eq!(world.calls_for(MODULE), 1);
    assert_eq!(world.twins.desired_version(MODULE), 2);
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("twinward_policy_evaluations_total{result=\"held\"}"),
        "{metrics}"
    );
    assert!(metrics.contains("twinward_policy_policies 2"), "{metrics}");
}

#[tokio::test]
async fn a_new_policy_reaches_the_twins_there_are_and_leaves_them_when_deleted() {
    let world = World::start().await;
    let names: Vec<String> = (0..10).map(|n| format!("devices/d{n}/modules/m")).collect();
    for name in &names {
        world.twins.create(name, json!({}), json!({})).await;
    }
    world
        .twins
        .operate(&names[0], None, Some(json!({"x": "mine", "y": 1})))
        .await;
    let answers = world
        .apply("kind: Policy\nname: all\ntarget: '*'\nsettings: {x: theirs, deep: {z: 1}}\n")
        .await;
    assert_eq!(
        answers[0].outcome(),
        proto::apply_policy_response::Outcome::Created
    );
    let evaluation = world.wait_evaluated("all").await;
    assert_eq!(
        (evaluation.twins_evaluated, evaluation.twins_failed),
        (10, 0)
    );
    for name in &names[1..] {
        assert_eq!(
            world.twins.desired(name),
            json!({"x": "theirs", "deep": {"z": 1}})
        );
    }
    let mixed = json!({"x": "mine", "y": 1, "deep": {"z": 1}});
    assert_eq!(
        world.twins.desired(&names[0]),
        mixed,
        "an operator's leaf stays"
    );

    world.delete_policy("all").await;
    for name in &names[1..] {
        world.wait_desired(name, json!({})).await;
    }
    world
        .wait_desired(&names[0], json!({"x": "mine", "y": 1}))
        .await;
}

#[tokio::test]
async fn the_next_policy_comes_through_when_the_first_goes() {
    let world = World::start().await;
    world.twins.create(MODULE, json!({}), json!({})).await;
    world
        .apply(
            "kind: Policy\nname: low\ntarget: '*'\npriority: 1\nsettings: {x: low, only: 1}\n---\n\
             kind: Policy\nname: high\ntarget: '*'\npriority: 2\nsettings: {x: high}\n",
        )
        .await;
    world
        .wait_desired(MODULE, json!({"x": "high", "only": 1}))
        .await;
    world.delete_policy("high").await;
    world
        .wait_desired(MODULE, json!({"x": "low", "only": 1}))
        .await;
    assert_eq!(world.twins.writer(MODULE, "x"), "policy:low@1");
}

#[tokio::test]
async fn an_operator_comes_before_policies_and_lets_them_in_again() {
    let world = World::start().await;
    world.twins.create(MODULE, json!({}), json!({})).await;
    world
        .apply("kind: Policy\nname: p\ntarget: '*'\nsettings: {x: 1}\n")
        .await;
    world.wait_desired(MODULE, json!({"x": 1})).await;
    world
        .twins
        .operate(MODULE, None, Some(json!({"x": 2})))
        .await;
    world
        .apply("kind: Policy\nname: p\ntarget: '*'\nsettings: {x: 3, y: 3}\n")
        .await;
    world.wait_desired(MODULE, json!({"x": 2, "y": 3})).await;
    world
        .twins
        .operate(MODULE, None, Some(json!({"x": null})))
        .await;
    world.wait_desired(MODULE, json!({"x": 3, "y": 3})).await;
}

#[tokio::test]
async fn a_new_revision_replaces_what_the_old_one_set() {
    let world = World::start().await;
    world.twins.create(MODULE, json!({}), json!({})).await;
    world
        .apply("kind: Policy\nname: p\ntarget: '*'\nsettings: {x: 1, y: 1}\n")
        .await;
    world.wait_desired(MODULE, json!({"x": 1, "y": 1})).await;
    let calls = world.calls_for(MODULE);
    world
        .apply("kind: Policy\nname: p\ndescription: d\ntarget: '*'\nsettings: {x: 1, y: 1}\n")
        .await;
    assert_eq!(world.policy("p").await.revision, 2);
    assert!(
        world.policy("p").await.evaluation.unwrap().complete,
        "words alone change no twin"
    );
    assert_eq!(world.calls_for(MODULE), calls);
    world
        .apply("kind: Policy\nname: p\ntarget: '*'\nsettings: {x: 2}\n")
        .await;
    world.wait_desired(MODULE, json!({"x": 2})).await;
    assert_eq!(world.twins.writer(MODULE, "x"), "policy:p@3");
}

#[tokio::test]
async fn after_a_restart_it_goes_on_where_it_was() {
    let mut world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(SAMPLE).await;
    world
        .twins
        .create(MODULE, json!({"allowedPorts": []}), listening(&[]))
        .await;
    world.settle().await;
    world.stop_service().await;
    world.twins.fold(MODULE, listening(&[4444])).await;
    world.start_service().await;
    world.wait_desired(MODULE, watched()).await;
    let metrics = world.metrics().await;
    // The change made meanwhile and the echo of the write, and of each partition what settling
    // left behind its last write: the echo and the deletion. The creations before it were read.
    let read = metric(&metrics, "twinward_policy_messages_total");
    let left = 2 * u64::from(PARTITIONS);
    assert!((1..=2 + left).contains(&read), "{read} messages were read");
    let evaluation = world
        .policy("unexpected-listener")
        .await
        .evaluation
        .unwrap();
    assert!(
        evaluation.complete,
        "the sweep was complete before and is not repeated"
    );
    assert_eq!(metric(&metrics, "twinward_policy_sweeps_total"), 0);
}

#[tokio::test]
async fn a_sweep_that_was_cut_off_is_done_after_the_restart() {
    let mut world = World::start().await;
    world.twins.create(MODULE, json!({}), json!({})).await;
    world.twins.set_away(true);
    world
        .apply("kind: Policy\nname: p\ntarget: '*'\nsettings: {x: 1}\n")
        .await;
    assert!(!world.policy("p").await.evaluation.unwrap().complete);
    world.stop_service().await;
    world.twins.set_away(false);
    world.start_service().await;
    world.wait_desired(MODULE, json!({"x": 1})).await;
    world.wait_evaluated("p").await;
}

#[tokio::test]
async fn a_deleted_twin_is_left_alone() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(SAMPLE).await;
    world.twins.set_away(true);
    world
        .twins
        .create(MODULE, json!({"allowedPorts": []}), listening(&[1]))
        .await;
    world.twins.delete(MODULE).await;
    world.twins.set_away(false);
    world.settle().await;
    let ready = world.page("/readyz").await;
    assert!(
        ready.starts_with("HTTP/1.1 200") && !ready.contains("on holiday"),
        "{ready}"
    );
    assert!(
        world.rejects_now().await.is_empty(),
        "nothing is wrong about it"
    );
}

fn metric(page: &str, name: &str) -> u64 {
    let line = page
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}
