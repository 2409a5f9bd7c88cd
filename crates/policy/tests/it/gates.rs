//! What rollouts tell and do beside what devices answer: of a policy that ends, and of waves that nobody may ask for.

use jiff::{Span, Timestamp};
use serde_json::json;
use service_kit::error::Classified;
use service_kit::status::RemoteError;
use testkit::wait_for;
use wire::policy::v1 as proto;
use wire::policy::v1::rollout::Phase;
use wire::policy::v1::rollout_service_client::RolloutServiceClient;

use crate::world::{MODULE, SOON, World};

async fn rollouts(world: &World) -> RolloutServiceClient<tonic::transport::Channel> {
    let url = format!("http://{}", world.addresses().grpc);
    RolloutServiceClient::connect(url).await.unwrap()
}

async fn phase_until(world: &World, phase: Phase) -> proto::Rollout {
    wait_for(phase.as_str_name(), SOON, async || {
        let name = "policies/lamp/rollouts/-".to_owned();
        let request = proto::GetRolloutRequest { name };
        let answer = rollouts(world).await.get_rollout(request).await;
        let rollout = answer.ok()?.into_inner();
        (rollout.phase() == phase).then_some(rollout)
    })
    .await
}

fn lamp(rest: &str) -> String {
    format!("kind: Policy\nname: lamp\ntarget: '*'\nsettings: {{lamp: bright}}\n{rest}\n")
}

#[tokio::test]
async fn a_rollout_ends_with_its_policy_and_may_be_begun_anew_with_a_later_end() {
    let world = World::start().await;
    world.twins.create(MODULE, json!({}), json!(null)).await;
    let end = Timestamp::now() + Span::new().seconds(8);
    let until = |end| lamp(&format!("rollout: {{}}\nschedule: {{expires: '{end}'}}"));
    world.apply(&until(end)).await;
    world.wait_desired(MODULE, json!({"lamp": "bright"})).await;
    let ended = phase_until(&world, Phase::RolledBack).await;
    assert!(Timestamp::now() >= end);
    assert!(ended.reason.starts_with("the policy ended "), "{ended:?}");
    world.wait_desired(MODULE, json!({})).await;
    world.apply(&lamp("rollout: {}")).await;
    let request = proto::RetryRolloutRequest {
        name: ended.name,
        ..proto::RetryRolloutRequest::default()
    };
    rollouts(&world).await.retry_rollout(request).await.unwrap();
    world.wait_desired(MODULE, json!({"lamp": "bright"})).await;
}

#[tokio::test]
async fn a_rollout_that_is_still_planned_says_why_and_ends_with_its_policy_too() {
    let world = World::start().await;
    world.twins.set_away(true);
    let end = Timestamp::now() + Span::new().seconds(8);
    let file = lamp(&format!("rollout: {{}}\nschedule: {{expires: '{end}'}}"));
    world.apply(&file).await;
    let planning = phase_until(&world, Phase::Planning).await;
    let why = &planning.waits_for;
    assert!(why.starts_with("its twins "), "{why}");
    phase_until(&world, Phase::RolledBack).await;
    world.twins.set_away(false);
}

#[tokio::test]
async fn a_wave_by_what_devices_report_is_refused() {
    let world = World::start().await;
    let waves = "rollout: {waves: [{where: \"reported.fw = '1'\"}]}";
    let spec = policy::file::parse(&lamp("")).unwrap().remove(0);
    let draft = policy::resource::to_request(&spec);
    let strategy = proto::RolloutStrategy {
        waves: vec![proto::rollout_strategy::Wave {
            twins: Some(proto::rollout_strategy::wave::Twins::Where(
                "reported.fw = '1'".to_owned(),
            )),
        }],
        ..proto::RolloutStrategy::default()
    };
    let request = proto::ApplyPolicyRequest {
        policy: Some(proto::Policy {
            rollout: Some(strategy),
            ..draft
        }),
        ..proto::ApplyPolicyRequest::default()
    };
    let refused = world.client().await.apply_policy(request).await;
    let refused = RemoteError::from(refused.unwrap_err());
    let violations = refused.violations();
    let told = &violations.first().expect("a place").description;
    assert!(told.starts_with("waves[0]: looks at "), "{told}");
    // A file is checked by the same rule.
    let problems = policy::file::parse(&lamp(waves)).unwrap_err().to_string();
    assert!(problems.contains("looks at "), "{problems}");
}

#[tokio::test]
async fn policies_that_change_all_the_time_keep_no_twin_from_being_looked_at() {
    // More than are looked at between two changes.
    const TWINS: usize = 60;
    let guard = policy::rollout::Guard {
        twins_max: 0,
        percent_max: 100,
        ..policy::rollout::Guard::default()
    };
    let world = World::start_with(guard).await;
    let name = |number: usize| format!("devices/cam-{}/modules/m", 100 + number);
    for number in 0..TWINS {
        let name = name(number);
        world.twins.create(&name, json!({}), json!(null)).await;
    }
    let last = name(TWINS - 1);
    let storm = async {
        for value in 0_u64.. {
            let file = lamp("").replace("bright", &value.to_string());
            world.apply(&file).await;
        }
    };
    let reached = wait_for("the last twin", SOON, async || {
        (world.twins.desired(&last) != json!({})).then_some(())
    });
    tokio::select! {
        () = storm => unreachable!("it has no end"),
        () = reached => {}
    }
}

#[tokio::test]
async fn a_revision_on_its_way_is_not_taken_back_by_a_newer_one_unless_somebody_stops_it() {
    let world = World::start().await;
    world.twins.create(MODULE, json!({}), json!(null)).await;
    world.apply(&lamp("rollout: {}")).await;
    world.wait_desired(MODULE, json!({"lamp": "bright"})).await;
    let rolling = phase_until(&world, Phase::Rolling).await;
    let dim = lamp("rollout: {}").replace("bright", "dim");
    let spec = policy::file::parse(&dim).unwrap().remove(0);
    for validate_only in [true, false] {
        let request = proto::ApplyPolicyRequest {
            policy: Some(policy::resource::to_request(&spec)),
            validate_only,
            ..proto::ApplyPolicyRequest::default()
        };
        let refused = world.client().await.apply_policy(request).await;
        let refused = RemoteError::from(refused.unwrap_err());
        assert_eq!(refused.reason(), "ROLLOUT_UNDER_WAY");
        let said = "revision 1 of policy lamp is on its way, in 1 of 1 waves with 1 twins";
        assert!(refused.to_string().contains(said), "{refused}");
    }
    // Better words take nothing back.
    world
        .apply(&lamp("rollout: {}\ndescription: better words"))
        .await;
    assert_eq!(world.twins.desired(MODULE), json!({"lamp": "bright"}));
    let request = proto::PauseRolloutRequest {
        name: rolling.name,
        ..proto::PauseRolloutRequest::default()
    };
    rollouts(&world).await.pause_rollout(request).await.unwrap();
    world.apply(&dim).await;
    world.wait_desired(MODULE, json!({"lamp": "dim"})).await;
}
