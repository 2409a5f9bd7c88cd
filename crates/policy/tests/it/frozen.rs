//! Settings that go back and forth are frozen, told of, and thawed.

use serde_json::{Value, json};
use testkit::wait_for;
use tonic::Code;
use tonic::transport::Channel;
use wire::policy::v1 as proto;
use wire::policy::v1::guard_service_client::GuardServiceClient;

use crate::world::{MODULE, SETTLE, SOON, World};

/// Each switches the other on and itself off, without end.
const FIGHT: &str = "\
kind: Policy
name: fight-a
target: '*'
when: NOT IS_DEFINED(desired.y)
settings: {x: 1}
---
kind: Policy
name: fight-b
target: '*'
when: IS_DEFINED(desired.x)
settings: {y: 1}
";

/// With this one they agree.
const PEACE: &str = "\
kind: Policy
name: fight-b
target: '*'
settings: {y: 1}
";

async fn guard(world: &World) -> GuardServiceClient<Channel> {
    let url = format!("http://{}", world.addresses().grpc);
    GuardServiceClient::connect(url).await.unwrap()
}

async fn frozen(world: &World) -> Vec<proto::FrozenPath> {
    let request = proto::ListFrozenPathsRequest::default();
    let answer = guard(world).await.list_frozen_paths(request).await;
    answer.unwrap().into_inner().frozen_paths
}

async fn thaw(world: &World, twin: &str, path: &str) -> i32 {
    let request = proto::ThawPathsRequest {
        twin: twin.to_owned(),
        path: path.to_owned(),
    };
    let answer = guard(world).await.thaw_paths(request).await;
    answer.unwrap().into_inner().thawed
}

/// Waits until something is frozen and the twin tells of it.
async fn wait_frozen(world: &World) -> Vec<proto::FrozenPath> {
    wait_for("a path to be frozen and told of", SOON, async || {
        let frozen = frozen(world).await;
        let told = world.twins.posture(MODULE)["configuration"]["frozen"].clone();
        let told = told.as_array().map_or(0, Vec::len);
        (!frozen.is_empty() && told == frozen.len()).then_some(frozen)
    })
    .await
}

/// Waits until the twin tells of nothing frozen.
async fn wait_thawed(world: &World) {
    wait_for("nothing to be frozen", SOON, async || {
        let told = world.twins.posture(MODULE)["configuration"]["frozen"].clone();
        (frozen(world).await.is_empty() && told == json!([])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn two_policies_that_fight_are_stopped_named_and_let_go_when_one_is_another() {
    let mut world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(FIGHT).await;
    world.twins.create(MODULE, json!({}), json!({})).await;
    for path in wait_frozen(&world).await {
        assert_eq!(path.twin, MODULE);
        let mut writers = path.writers.clone();
        writers.sort();
        assert_eq!(
            writers,
            ["policy:fight-a@1", "policy:fight-b@1"],
            "{path:?}"
        );
    }
    // It has come to rest: nothing more is written, whatever comes.
    world.settle().await;
    let (calls, desired) = (world.calls_for(MODULE), world.twins.desired(MODULE));
    world.twins.fold(MODULE, world.twins.posture(MODULE)).await;
    world.settle().await;
    assert_eq!(world.calls_for(MODULE), calls);
    let request = proto::ExplainTwinRequest {
        name: MODULE.to_owned(),
    };
    let explained = world.client().await.explain_twin(request).await.unwrap();
    assert_eq!(explained.into_inner().frozen, frozen(&world).await);

    // It outlives a restart.
    let before = frozen(&world).await;
    world.stop_service().await;
    world.start_service().await;
    assert_eq!(frozen(&world).await, before);
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), desired);
    assert_eq!(world.calls_for(MODULE), calls);

    world.apply(PEACE).await;
    wait_thawed(&world).await;
    world.wait_desired(MODULE, json!({"y": 1})).await;
    world.delete_policy("fight-b").await;
    world.delete_policy("fight-a").await;
    world.wait_desired(MODULE, json!({})).await;
}

#[tokio::test]
async fn a_command_thaws_and_what_still_fights_is_frozen_again() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(FIGHT).await;
    world.twins.create(MODULE, json!({}), json!({})).await;
    let first = wait_frozen(&world).await;
    assert_eq!(thaw(&world, MODULE, "no.such.path").await, 0);
    assert_eq!(thaw(&world, "devices/other", "").await, 0);
    // The other leaf of the fight may have been frozen meanwhile.
    let thawed = thaw(&world, MODULE, "").await;
    assert!(usize::try_from(thawed).unwrap() >= first.len());
    let thaws = wait_for("the audit log", SOON, async || {
        let recorded = world.twins.recorded().into_iter();
        let thaws = recorded.filter(|entry| entry.action == "path.thaw");
        let thaws: Vec<_> = thaws.collect();
        (!thaws.is_empty()).then_some(thaws)
    })
    .await;
    assert_eq!((thaws.len(), &*thaws[0].resource), (1, MODULE));
    assert_eq!(thaws[0].actor, "operator:admin");
    let detail: Value = serde_json::from_str(&thaws[0].detail_json).unwrap();
    assert_eq!(detail["thawed"], thawed, "{detail}");
    assert_eq!(detail["paths"][0]["path"], first[0].path);
    wait_for("it to be frozen anew", SOON, async || {
        let again = frozen(&world).await;
        let is_new = |one: &proto::FrozenPath| !first.contains(one);
        (!again.is_empty() && again.iter().all(is_new)).then_some(())
    })
    .await;
    // Of a twin that is gone nothing is kept.
    world.twins.delete(MODULE).await;
    wait_for("it to be forgotten", SOON, async || {
        frozen(&world).await.is_empty().then_some(())
    })
    .await;
    let request = proto::ThawPathsRequest {
        twin: "cam-1".to_owned(),
        path: String::new(),
    };
    let refused = guard(&world).await.thaw_paths(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_policy_gives_way_to_one_who_takes_out_what_it_sets_again_and_again() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world
        .apply("kind: Policy\nname: sets\ntarget: '*'\nsettings: {x: 1}\n")
        .await;
    world.twins.create(MODULE, json!({}), Value::Null).await;
    for _ in 0..30 {
        if !frozen(&world).await.is_empty() {
            break;
        }
        world.wait_desired(MODULE, json!({"x": 1})).await;
        let calls = world.calls_for(MODULE);
        world
            .twins
            .operate(MODULE, None, Some(json!({"x": null})))
            .await;
        wait_for("it to be set again or to be frozen", SOON, async || {
            let set = world.calls_for(MODULE) > calls;
            (set || !frozen(&world).await.is_empty()).then_some(())
        })
        .await;
    }
    let found = wait_frozen(&world).await;
    assert_eq!(found[0].writers[0], "policy:sets@1");
    // What stays is left to the operator.
    world
        .twins
        .operate(MODULE, None, Some(json!({"x": null})))
        .await;
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), json!({}));
    world
        .twins
        .operate(MODULE, None, Some(json!({"x": 7})))
        .await;
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), json!({"x": 7}));
}
