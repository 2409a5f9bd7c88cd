//! The times of policies: freezes, schedules and ends, with what is told of them.

use std::time::Duration;

use jiff::{Span, Timestamp};
use policy::rollout::Guard;
use serde_json::json;
use service_kit::error::{Classified, Kind};
use service_kit::status::RemoteError;
use testkit::wait_for;
use wire::policy::v1 as proto;
use wire::policy::v1::freeze_service_client::FreezeServiceClient;
use wire::policy::v1::judged_policy::Verdict;
use wire::policy::v1::rollout_service_client::RolloutServiceClient;
use wire::policy::v1::schedule_state::State;

use crate::world::{MODULE, SETTLE, SOON, World};

fn lamp(value: &str, schedule: &str) -> String {
    format!(
        "kind: Policy\nname: lamp\ntarget: tags.lit = true\nsettings: {{lamp: {value}}}\n{schedule}\n"
    )
}

async fn freezes(world: &World) -> FreezeServiceClient<tonic::transport::Channel> {
    let url = format!("http://{}", world.addresses().grpc);
    FreezeServiceClient::connect(url).await.unwrap()
}

async fn freeze(world: &World, policies: &[&str]) -> proto::Freeze {
    let request = proto::CreateFreezeRequest {
        freeze: Some(proto::Freeze {
            policies: policies.iter().map(|id| format!("policies/{id}")).collect(),
            reason: "incident 4711".to_owned(),
            ..proto::Freeze::default()
        }),
        lasts: None,
    };
    let answer = freezes(world).await.create_freeze(request).await;
    answer.unwrap().into_inner()
}

async fn unfreeze(world: &World, name: &str) -> proto::Freeze {
    let name = name.to_owned();
    let request = proto::EndFreezeRequest { name };
    let answer = freezes(world).await.end_freeze(request).await;
    answer.unwrap().into_inner()
}

async fn judged(world: &World, name: &str) -> proto::JudgedPolicy {
    let name = name.to_owned();
    let request = proto::ExplainTwinRequest { name };
    let answer = world.client().await.explain_twin(request).await.unwrap();
    let mut policies = answer.into_inner().policies.into_iter();
    policies.find(|judged| judged.policy_id == "lamp").unwrap()
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

async fn try_apply(world: &World, file: &str) -> Result<(), RemoteError> {
    let draft = policy::file::parse(file).unwrap().remove(0);
    let request = proto::ApplyPolicyRequest {
        policy: Some(policy::resource::to_request(&draft)),
        ..proto::ApplyPolicyRequest::default()
    };
    let answer = world.client().await.apply_policy(request).await;
    answer.map(|_| ()).map_err(RemoteError::from)
}

/// What a twin says whose device went back, once twin-store asks for its settings to be pushed again.
fn asking() -> serde_json::Value {
    json!({
        "agent": {"connected": true},
        "configuration": {
            "state": "reverted",
            "drift": {"pushes": 0, "pushAskedAt": "2026-01-01T00:00:00Z"},
        },
    })
}

#[tokio::test]
async fn settings_that_a_device_went_back_from_are_pushed_again_when_their_policy_may_change_twins()
{
    let world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(&lamp("bright", "")).await;
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit.clone(), json!(null)).await;
    world.wait_desired(MODULE, json!({"lamp": "bright"})).await;
    world.settle().await;
    let pushes = || {
        let calls = world.twins.calls().into_iter();
        calls.filter(|call| call.request.push_again).count()
    };
    let version = world.twins.desired_version(MODULE);
    world.twins.fold(MODULE, asking()).await;
    wait_for("the push", SOON, async || {
        (world.twins.desired_version(MODULE) == version + 1).then_some(())
    })
    .await;
    world.settle().await;
    assert_eq!(pushes(), 1, "what was pushed is asked for no more");

    let frozen = freeze(&world, &["lamp"]).await;
    world.twins.fold(MODULE, asking()).await;
    world.settle().await;
    assert_eq!(pushes(), 1, "nothing is pushed while it holds");
    unfreeze(&world, &frozen.name).await;
    wait_for("the push after it", SOON, async || {
        (world.twins.desired_version(MODULE) == version + 2).then_some(())
    })
    .await;
    assert_eq!(world.twins.desired(MODULE), json!({"lamp": "bright"}));
}

const OTHER: &str = "devices/cam-2/modules/DefenderIotMicroAgent";

#[tokio::test]
async fn while_frozen_nothing_is_added_or_taken_out_over_restarts_until_somebody_ends_it() {
    let mut world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(&lamp("bright", "")).await;
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit.clone(), json!(null)).await;
    world.wait_desired(MODULE, json!({"lamp": "bright"})).await;

    // One policy alone: others go on, which is how this test settles.
    let frozen = freeze(&world, &["lamp"]).await;
    assert!(frozen.active, "{frozen:?}");
    assert!(frozen.author.starts_with("operator:"), "{frozen:?}");
    world.apply(&lamp("dim", "")).await;
    let dark = json!({"lit": false});
    world.twins.operate(MODULE, Some(dark), None).await;
    world.twins.create(OTHER, lit, json!(null)).await;
    world.settle().await;
    world.wait_evaluated("lamp").await;
    assert_eq!(world.twins.desired(MODULE), json!({"lamp": "bright"}));
    assert_eq!(world.twins.desired(OTHER), json!({}));

    let told = judged(&world, MODULE).await;
    assert_eq!(told.verdict(), Verdict::Closed);
    let why = format!(
        "frozen by {} ({}): incident 4711; until somebody ends it",
        frozen.author, frozen.name
    );
    assert_eq!(told.reason, why);
    let state = world.policy("lamp").await.schedule_state.unwrap();
    assert_eq!((state.state(), &state.reason), (State::Closed, &why));
    let refused = delete(&world, false).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::FailedPrecondition);
    assert_eq!(refused.reason(), "POLICY_CLOSED");

    world.stop_service().await;
    world.start_service().await;
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), json!({"lamp": "bright"}));
    assert_eq!(world.twins.desired(OTHER), json!({}));

    let ended = unfreeze(&world, &frozen.name).await;
    assert!(!ended.active, "{ended:?}");
    assert_eq!(
        unfreeze(&world, &frozen.name).await,
        ended,
        "once is enough"
    );
    world.wait_desired(MODULE, json!({})).await;
    world.wait_desired(OTHER, json!({"lamp": "dim"})).await;
    assert_eq!(world.policy("lamp").await.schedule_state, None);
    let recorded = wait_for("the audit log", SOON, async || {
        let all = world.twins.recorded();
        let ours = all.iter().filter(|entry| entry.resource == frozen.name);
        let ours: Vec<_> = ours.map(|entry| entry.action.clone()).collect();
        (ours.len() == 2).then_some(ours)
    })
    .await;
    assert_eq!(recorded, ["freeze.create", "freeze.end"]);
}

#[tokio::test]
async fn a_freeze_holds_for_what_was_decided_while_twin_store_was_away() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(&lamp("bright", "")).await;
    world.wait_evaluated("lamp").await;
    world.twins.set_away(true);
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit, json!(null)).await;
    wait_for("a write that waits", SOON, async || {
        let page = world.page("/readyz").await;
        page.contains("cannot apply settings").then_some(())
    })
    .await;
    // One policy alone: others go on, which is how this test settles.
    let frozen = freeze(&world, &["lamp"]).await;
    world.twins.set_away(false);
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), json!({}));
    unfreeze(&world, &frozen.name).await;
    world.wait_desired(MODULE, json!({"lamp": "bright"})).await;
}

#[tokio::test]
async fn a_freeze_of_all_holds_also_for_policies_that_come_later() {
    let world = World::start().await;
    let frozen = freeze(&world, &[]).await;
    let tags = json!({"lit": true});
    world.twins.create(MODULE, tags, json!(null)).await;
    let answer = world.apply(&lamp("bright", "")).await.remove(0);
    let state = answer.policy.unwrap().schedule_state.unwrap();
    assert_eq!(state.state(), State::Closed);
    world.wait_evaluated("lamp").await;
    assert_eq!(world.twins.desired(MODULE), json!({}));
    delete(&world, true).await.unwrap();
    world.apply(&lamp("bright", "")).await;
    unfreeze(&world, &frozen.name).await;
    world.wait_desired(MODULE, json!({"lamp": "bright"})).await;
}

#[tokio::test]
async fn an_end_that_comes_takes_everything_out_and_a_later_one_brings_it_back() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit, json!(null)).await;
    // Long enough to be seen before.
    let end = Timestamp::now() + Span::new().seconds(8);
    world
        .apply(&lamp("bright", &format!("schedule: {{expires: '{end}'}}")))
        .await;
    world.wait_desired(MODULE, json!({"lamp": "bright"})).await;
    let state = world.policy("lamp").await.schedule_state.unwrap();
    assert_eq!(state.state(), State::Open);
    assert!(state.next_time.is_some(), "{state:?}");

    world.wait_desired(MODULE, json!({})).await;
    assert!(Timestamp::now() >= end);
    assert_eq!(judged(&world, MODULE).await.verdict(), Verdict::Expired);
    let state = world.policy("lamp").await.schedule_state.unwrap();
    assert_eq!(state.state(), State::Expired);

    let version = world.policy("lamp").await.revision;
    world.apply(&lamp("bright", "")).await;
    world.wait_desired(MODULE, json!({"lamp": "bright"})).await;
    let writer = world.twins.writer(MODULE, "lamp");
    assert_eq!(
        writer,
        format!("policy:lamp@{version}"),
        "other times are no other settings"
    );
}

#[tokio::test]
async fn an_end_that_has_passed_is_refused_unless_the_policy_has_it() {
    let world = World::start().await;
    let ends = |end: &str, more: &str| {
        let schedule = format!("schedule: {{expires: '{end}'}}");
        lamp("bright", &format!("{schedule}\n{more}"))
    };
    let refused = try_apply(&world, &ends("2025-06-30", ""))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::InvalidArgument);
    let place = refused.violations().first().expect("a place").clone();
    let told = place.description;
    assert!(
        told.starts_with("expires: was 2025-07-01T00:00:00Z"),
        "{told}"
    );
    world.apply(&lamp("bright", "")).await;
    try_apply(&world, &ends("2025-06-30", ""))
        .await
        .unwrap_err();

    // One that comes is kept, and nothing that is applied afterwards has to take it back.
    let soon = (Timestamp::now() + Span::new().seconds(2)).to_string();
    world.apply(&ends(&soon, "")).await;
    wait_for("the end", SOON, async || {
        let state = world.policy("lamp").await.schedule_state?.state();
        (state == State::Expired).then_some(())
    })
    .await;
    world.apply(&ends(&soon, "")).await;
    world
        .apply(&ends(&soon, "description: it was bright"))
        .await;
}

#[tokio::test]
async fn a_preview_refuses_an_end_that_has_passed_as_applying_does() {
    let world = World::start().await;
    let file = lamp("bright", "schedule: {expires: '2025-06-30'}");
    let draft = policy::file::parse(&file).unwrap().remove(0);
    let request = proto::PreviewPolicyRequest {
        policy: Some(policy::resource::to_request(&draft)),
    };
    let answer = world.client().await.preview_policy(request).await;
    let refused = RemoteError::from(answer.expect_err("it is refused"));
    assert_eq!(refused.kind(), Kind::InvalidArgument);
    let applied = try_apply(&world, &file).await.unwrap_err();
    assert_eq!(refused.reason(), applied.reason());
    let place = |refused: &RemoteError| refused.violations()[0].subject.clone();
    assert_eq!(place(&refused), place(&applied));
}

/// A hub in which two twins are too many.
fn two_are_too_many() -> Guard {
    Guard {
        twins_max: 1,
        percent_max: 100,
        twins_free: 1,
        ..Guard::default()
    }
}

#[tokio::test]
async fn what_has_ended_is_deleted_without_force_however_many_it_was_on() {
    let world = World::start_with(two_are_too_many()).await;
    world.apply(SETTLE).await;
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit.clone(), json!(null)).await;
    world.twins.create(OTHER, lit, json!(null)).await;
    world.apply(&lamp("bright", "rollout: {}")).await;
    world.wait_desired(OTHER, json!({"lamp": "bright"})).await;
    let refused = delete(&world, false).await.unwrap_err();
    assert_eq!(refused.reason(), "MASS_CHANGE");

    let end = Timestamp::now() + Span::new().seconds(2);
    let ends = format!("rollout: {{}}\nschedule: {{expires: '{end}'}}");
    world.apply(&lamp("bright", &ends)).await;
    world.wait_desired(MODULE, json!({})).await;
    world.wait_desired(OTHER, json!({})).await;
    delete(&world, false).await.unwrap();
}

#[tokio::test]
async fn a_deletion_does_not_slip_into_a_freeze_that_was_ordered_while_it_was_counted() {
    let world = World::start_with(two_are_too_many()).await;
    world.apply(SETTLE).await;
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit, json!(null)).await;
    world.apply(&lamp("bright", "")).await;
    world.wait_desired(MODULE, json!({"lamp": "bright"})).await;

    let held = world.twins.hold_counts().await;
    let before = world.twins.counts();
    let deletion = delete(&world, false);
    let freezing = async {
        wait_for("the count", SOON, async || {
            (world.twins.counts() > before).then_some(())
        })
        .await;
        freeze(&world, &["lamp"]).await;
        drop(held);
    };
    let (deleted, ()) = tokio::join!(deletion, freezing);
    assert_eq!(deleted.unwrap_err().reason(), "POLICY_CLOSED");
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), json!({"lamp": "bright"}));
    delete(&world, true).await.unwrap();
    world.wait_desired(MODULE, json!({})).await;
}

#[tokio::test]
async fn a_policy_waits_for_its_calendar_and_goes_on_with_the_change_of_it() {
    let world = World::start().await;
    let lit = json!({"lit": true});
    world.twins.create(MODULE, lit, json!(null)).await;
    let day = Duration::from_hours(24);
    let (from, to) = (Timestamp::now() - day, Timestamp::now() + day);
    let calendar =
        format!("schedule: {{freezes: [{{from: '{from}', to: '{to}', reason: party}}]}}");
    world.apply(&lamp("bright", &calendar)).await;
    world.wait_evaluated("lamp").await;
    assert_eq!(world.twins.desired(MODULE), json!({}));
    // It has set nothing there, and would: that is what is told.
    let told = judged(&world, MODULE).await;
    assert_eq!(told.verdict(), Verdict::Closed);
    assert!(told.reason.contains("(party)"), "{told:?}");
    world.apply(&lamp("bright", "")).await;
    world.wait_desired(MODULE, json!({"lamp": "bright"})).await;
}

#[tokio::test]
async fn a_wrong_schedule_is_refused_with_its_place() {
    let world = World::start().await;
    let policy = proto::Policy {
        policy_id: "p".to_owned(),
        target: "*".to_owned(),
        settings_json: "{\"a\":1}".to_owned(),
        schedule: Some(proto::PolicySchedule {
            time_zone: "Mars/Olympus".to_owned(),
            windows: vec![proto::MaintenanceWindow {
                days: vec!["monday".to_owned()],
                ..proto::MaintenanceWindow::default()
            }],
            ..proto::PolicySchedule::default()
        }),
        ..proto::Policy::default()
    };
    let request = proto::ApplyPolicyRequest {
        policy: Some(policy),
        ..proto::ApplyPolicyRequest::default()
    };
    let refused = world
        .client()
        .await
        .apply_policy(request)
        .await
        .unwrap_err();
    let refused = RemoteError::from(refused);
    let told = refused
        .violations()
        .first()
        .expect("a place")
        .description
        .clone();
    assert!(
        told.starts_with("windows[0].days: has \"monday\""),
        "{told}"
    );
}

#[tokio::test]
async fn a_rollout_stands_still_while_its_policy_is_frozen_and_is_taken_back_all_the_same() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    let url = format!("http://{}", world.addresses().grpc);
    let mut rollouts = RolloutServiceClient::connect(url).await.unwrap();
    let name = "policies/lamp/rollouts/-".to_owned();
    let tags = json!({"lit": true, "first": true});
    world.twins.create(MODULE, tags, json!(null)).await;
    let lit = json!({"lit": true});
    world.twins.create(OTHER, lit.clone(), json!(null)).await;
    let staged = "rollout: {waves: [{where: tags.first = true}]}";
    world.apply(&lamp("bright", staged)).await;
    world.wait_desired(MODULE, json!({"lamp": "bright"})).await;

    // Somebody goes on while nothing may be changed: that waits.
    let frozen = freeze(&world, &["lamp"]).await;
    let skip = proto::SkipWaveRequest {
        name: name.clone(),
        wave: 1,
        ..proto::SkipWaveRequest::default()
    };
    rollouts.skip_wave(skip).await.unwrap();
    world.settle().await;
    world.wait_evaluated("lamp").await;
    assert_eq!(world.twins.desired(OTHER), json!({}));
    unfreeze(&world, &frozen.name).await;
    world.wait_desired(OTHER, json!({"lamp": "bright"})).await;

    freeze(&world, &["lamp"]).await;
    let third = "devices/cam-3/modules/DefenderIotMicroAgent";
    world.twins.create(third, lit, json!(null)).await;
    world.settle().await;
    assert_eq!(world.twins.desired(third), json!({}));
    let abort = proto::AbortRolloutRequest {
        name,
        ..proto::AbortRolloutRequest::default()
    };
    rollouts.abort_rollout(abort).await.unwrap();
    world.wait_desired(MODULE, json!({})).await;
    world.wait_desired(OTHER, json!({})).await;
    assert_eq!(world.twins.desired(third), json!({}));
}
