//! Rows of `policy.db` that cannot be read: nothing beside them suffers, and what they had set stays.

use serde_json::json;
use service_kit::error::Classified;
use service_kit::status::RemoteError;
use testkit::wait_for;
use wire::policy::v1 as proto;
use wire::policy::v1::freeze_service_client::FreezeServiceClient;

use crate::world::{MODULE, SETTLE, SOON, World};

const LAMP: &str = "kind: Policy\nname: lamp\ntarget: tags.lit = true\nsettings: {lamp: 1}\n";
const FAN: &str = "kind: Policy\nname: fan\ntarget: tags.lit = true\nsettings: {fan: 1}\n";
const OTHER: &str = "devices/cam-2/modules/DefenderIotMicroAgent";

/// Waits until the page about health says something, or does not say it any more.
async fn wait_health(world: &World, said: &str, says: bool) {
    wait_for("health to tell", SOON, async || {
        let page = world.page("/readyz").await;
        (page.contains(said) == says).then_some(())
    })
    .await;
}

/// A policy with an action, so that there is a row of where it stands.
const CALLING: &str = "\
kind: Policy
name: caller
target: tags.lit = true
actions:
  calls:
  - name: look
    method: collectNow
";

#[tokio::test]
async fn a_flipped_bit_in_a_policys_id_takes_nothing_out_of_its_twins() {
    let mut world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(LAMP).await;
    world.apply(FAN).await;
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit.clone(), json!(null)).await;
    let both = json!({"lamp": 1, "fan": 1});
    world.wait_desired(MODULE, both.clone()).await;
    world.stop_service().await;
    let flip = "UPDATE policies SET policy_id = 'lamq' WHERE policy_id = 'lamp'";
    assert_eq!(world.damage(flip), 1);
    world.start_service().await;

    wait_health(&world, "policy lamp", true).await;
    wait_health(&world, "policy lamq", true).await;
    // A change that has the whole twin decided on anew.
    world.apply(&FAN.replace("fan: 1", "fan: 2")).await;
    let both = json!({"lamp": 1, "fan": 2});
    world.wait_desired(MODULE, both.clone()).await;
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), both);
    let refused = delete(&world, false).await.unwrap_err();
    assert_eq!(refused.reason(), "MASS_CHANGE");
    delete(&world, true).await.unwrap();
    world.wait_desired(MODULE, json!({"fan": 2})).await;
    world.apply(LAMP).await;
    world.wait_desired(MODULE, both).await;
}

#[tokio::test]
async fn rows_of_actions_positions_and_counters_that_cannot_be_read_stop_no_start() {
    let mut world = World::start().await;
    world.apply(FAN).await;
    world.apply(CALLING).await;
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit.clone(), json!(null)).await;
    world.wait_desired(MODULE, json!({"fan": 1})).await;
    world.stop_service().await;
    for damage in [
        "UPDATE action_places SET state = 'x'",
        "UPDATE positions SET sequence = -1",
        "UPDATE state SET sweep_wanted = -1",
    ] {
        assert!(world.damage(damage) > 0, "{damage}");
    }
    world.start_service().await;
    wait_health(&world, "action look of policy caller", true).await;
    world.twins.create(OTHER, lit, json!(null)).await;
    world.wait_desired(OTHER, json!({"fan": 1})).await;
}

async fn delete(world: &World, force: bool) -> Result<(), RemoteError> {
    let request = proto::DeletePolicyRequest {
        name: "policies/lamp".to_owned(),
        force,
        ..proto::DeletePolicyRequest::default()
    };
    let answer = world.client().await.delete_policy(request).await;
    answer.map(|_| ()).map_err(RemoteError::from)
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_keeps_what_it_has_set_and_stops_no_other() {
    let mut world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(LAMP).await;
    world.apply(FAN).await;
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit.clone(), json!(null)).await;
    world
        .wait_desired(MODULE, json!({"lamp": 1, "fan": 1}))
        .await;
    world.stop_service().await;
    let damaged = world.damage("UPDATE revisions SET content = '{' WHERE policy_id = 'lamp'");
    assert_eq!(damaged, 1);
    world.start_service().await;

    wait_health(&world, "policy lamp", true).await;
    world.twins.create(OTHER, lit, json!(null)).await;
    world.wait_desired(OTHER, json!({"fan": 1})).await;
    let dark = json!({"lit": false});
    world.twins.operate(MODULE, Some(dark), None).await;
    world.wait_desired(MODULE, json!({"lamp": 1})).await;
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), json!({"lamp": 1}));

    let request = proto::GetPolicyRequest {
        name: "policies/lamp".to_owned(),
    };
    let refused = world.client().await.get_policy(request).await.unwrap_err();
    assert_eq!(RemoteError::from(refused).reason(), "STORE_DAMAGED");
    let spec = &policy::file::parse(LAMP).unwrap()[0];
    let request = proto::ApplyPolicyRequest {
        policy: Some(policy::resource::to_request(spec)),
        ..proto::ApplyPolicyRequest::default()
    };
    let refused = world
        .client()
        .await
        .apply_policy(request)
        .await
        .unwrap_err();
    assert_eq!(RemoteError::from(refused).reason(), "STORE_DAMAGED");

    // Who wants to be rid of it says so, and may make it anew.
    assert_eq!(
        delete(&world, false).await.unwrap_err().reason(),
        "MASS_CHANGE"
    );
    delete(&world, true).await.unwrap();
    world.wait_desired(MODULE, json!({})).await;
    wait_health(&world, "policy lamp", false).await;
    world.apply(LAMP).await;
    world
        .wait_desired(OTHER, json!({"fan": 1, "lamp": 1}))
        .await;
}

#[tokio::test]
async fn a_freeze_of_which_a_part_cannot_be_read_is_of_all_until_somebody_ends_it() {
    let mut world = World::start().await;
    world.apply(LAMP).await;
    world.apply(FAN).await;
    let url = format!("http://{}", world.addresses().grpc);
    let mut freezes = FreezeServiceClient::connect(url).await.unwrap();
    let freeze = proto::CreateFreezeRequest {
        freeze: Some(proto::Freeze {
            policies: vec!["policies/fan".to_owned()],
            reason: "incident 4711".to_owned(),
            ..proto::Freeze::default()
        }),
        lasts: None,
    };
    let freeze = freezes.create_freeze(freeze).await.unwrap().into_inner();
    world.stop_service().await;
    assert_eq!(world.damage("UPDATE freezes SET policies = '[' "), 1);
    world.start_service().await;

    wait_health(&world, &freeze.name, true).await;
    let closed = world
        .policy("lamp")
        .await
        .schedule_state
        .expect("it is closed");
    assert!(closed.reason.contains("incident 4711"), "{closed:?}");
    let url = format!("http://{}", world.addresses().grpc);
    let mut freezes = FreezeServiceClient::connect(url).await.unwrap();
    let end = proto::EndFreezeRequest {
        name: freeze.name.clone(),
    };
    freezes.end_freeze(end).await.unwrap();
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit, json!(null)).await;
    world
        .wait_desired(MODULE, json!({"lamp": 1, "fan": 1}))
        .await;
    // It was written anew, and can be read from here on.
    world.stop_service().await;
    world.start_service().await;
    wait_health(&world, "policy-store", true).await;
    wait_health(&world, &freeze.name, false).await;
}
