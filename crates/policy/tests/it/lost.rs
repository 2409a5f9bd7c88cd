//! A `policy.db` that was lost, or is older than the twins: nothing is taken out of the fleet, and it is told.

use serde_json::json;
use service_kit::error::Classified;
use service_kit::status::RemoteError;
use testkit::wait_for;
use wire::policy::v1 as proto;

use crate::world::{MODULE, SETTLE, SOON, World};

const LAMP: &str = "kind: Policy\nname: lamp\ntarget: tags.lit = true\nsettings: {lamp: 1}\n";
const FAN: &str = "kind: Policy\nname: fan\ntarget: tags.lit = true\nsettings: {fan: 1}\n";

async fn wait_health(world: &World, said: &str, says: bool) {
    wait_for("health to tell", SOON, async || {
        let page = world.page("/readyz").await;
        (page.contains(said) == says).then_some(())
    })
    .await;
}

async fn delete_lamp(world: &World, force: bool) -> Result<(), RemoteError> {
    let request = proto::DeletePolicyRequest {
        name: "policies/lamp".to_owned(),
        force,
        ..proto::DeletePolicyRequest::default()
    };
    let answer = world.client().await.delete_policy(request).await;
    answer.map(|_| ()).map_err(RemoteError::from)
}

fn revision(answer: &proto::ApplyPolicyResponse) -> u64 {
    answer.policy.as_ref().unwrap().revision
}

#[tokio::test]
async fn a_store_that_was_lost_takes_nothing_out_of_the_fleet() {
    let mut world = World::start().await;
    world.apply(LAMP).await;
    world.apply(FAN).await;
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit, json!(null)).await;
    let both = json!({"lamp": 1, "fan": 1});
    world.wait_desired(MODULE, both.clone()).await;
    world.stop_service().await;
    world.lose();
    world.start_service().await;

    wait_health(&world, "lamp@1 on 1 twin", true).await;
    wait_health(&world, "fan@1 on 1 twin", true).await;
    world.apply(SETTLE).await;
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), both);

    // One that is applied again is as it is applied, and no other one goes by the way.
    let answers = world.apply(&FAN.replace("fan: 1", "fan: 2")).await;
    assert_eq!(revision(&answers[0]), 2);
    world
        .wait_desired(MODULE, json!({"lamp": 1, "fan": 2}))
        .await;
    wait_health(&world, "fan@1", false).await;
    let dark = json!({"lit": false});
    world.twins.operate(MODULE, Some(dark), None).await;
    world.wait_desired(MODULE, json!({"lamp": 1})).await;
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), json!({"lamp": 1}));

    // It is told again after a start.
    world.stop_service().await;
    world.start_service().await;
    wait_health(&world, "lamp@1 on 1 twin", true).await;
    let refused = delete_lamp(&world, false).await.unwrap_err();
    assert_eq!(refused.reason(), "MASS_CHANGE");
    delete_lamp(&world, true).await.unwrap();
    world.wait_desired(MODULE, json!({})).await;
    wait_health(&world, "lamp@1", false).await;
    let again = delete_lamp(&world, true).await.unwrap_err();
    assert_eq!(again.reason(), "POLICY_NOT_FOUND");
    let answers = world.apply(LAMP).await;
    assert_eq!(revision(&answers[0]), 2);
}

#[tokio::test]
async fn a_store_that_is_older_than_the_twins_rolls_nothing_back() {
    let mut world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(LAMP).await;
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit, json!(null)).await;
    world.wait_desired(MODULE, json!({"lamp": 1})).await;
    world.stop_service().await;
    let old = world.copy();
    world.start_service().await;
    world.apply(&LAMP.replace("lamp: 1", "lamp: 2")).await;
    world.wait_desired(MODULE, json!({"lamp": 2})).await;
    world.stop_service().await;
    world.restore(old);
    world.start_service().await;

    wait_health(&world, "lamp@2 on 1 twin", true).await;
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), json!({"lamp": 2}));
    // Whoever applies what the store has already means it.
    let answers = world.apply(LAMP).await;
    assert_eq!(revision(&answers[0]), 3);
    world.wait_desired(MODULE, json!({"lamp": 1})).await;
    assert_eq!(world.twins.writer(MODULE, "lamp"), "policy:lamp@3");
    wait_health(&world, "lamp@2", false).await;
}
