//! Orders to rollouts: they are given to what was seen, and not to what has come since.

use serde_json::json;
use service_kit::error::{Classified, Kind};
use service_kit::status::RemoteError;
use testkit::wait_for;
use tonic::transport::Channel;
use wire::policy::v1 as proto;
use wire::policy::v1::judged_policy::Verdict;
use wire::policy::v1::rollout::Phase;
use wire::policy::v1::rollout_service_client::RolloutServiceClient;

use crate::world::{MODULE, SETTLE, SOON, World};

const TWINS: [&str; 2] = [MODULE, "devices/cam-2/modules/m"];

async fn client(world: &World) -> RolloutServiceClient<Channel> {
    let url = format!("http://{}", world.addresses().grpc);
    RolloutServiceClient::connect(url).await.unwrap()
}

fn lamp(value: &str, rest: &str) -> String {
    format!(
        "kind: Policy\nname: lamp\ntarget: '*'\nsettings: {{lamp: {value}}}\n\
         rollout: {{waves: [{{count: 1}}], soak: 1h{rest}}}\n"
    )
}

async fn in_phase(world: &World, revision: u64, phase: Phase) -> proto::Rollout {
    let mut client = client(world).await;
    wait_for(phase.as_str_name(), SOON, async || {
        let name = "policies/lamp/rollouts/-".to_owned();
        let answer = client.get_rollout(proto::GetRolloutRequest { name }).await;
        let rollout = answer.ok()?.into_inner();
        (rollout.revision == revision && rollout.phase() == phase).then_some(rollout)
    })
    .await
}

async fn world() -> World {
    let world = World::start().await;
    for name in TWINS {
        world.twins.create(name, json!({}), json!(null)).await;
    }
    world
}

async fn approve(world: &World, name: &str, etag: &str) -> RemoteError {
    let request = proto::ApproveRolloutRequest {
        name: name.to_owned(),
        etag: etag.to_owned(),
        ..proto::ApproveRolloutRequest::default()
    };
    let refused = client(world).await.approve_rollout(request).await;
    refused.map(|_| ()).map_err(RemoteError::from).unwrap_err()
}

#[tokio::test]
async fn nobody_approves_what_came_after_what_was_reviewed() {
    let world = world().await;
    world.apply(&lamp("bright", ", approval: true")).await;
    let reviewed = in_phase(&world, 1, Phase::AwaitingApproval).await;
    world.apply(&lamp("dark", ", approval: true")).await;
    let newer = in_phase(&world, 2, Phase::AwaitingApproval).await;

    let any = approve(&world, "policies/lamp/rollouts/-", "").await;
    assert_eq!(any.kind(), Kind::InvalidArgument, "{any}");
    let told = any.violations().first().expect("a field").clone();
    assert_eq!(told.subject, "name");
    assert!(
        told.description.starts_with("names no revision"),
        "{told:?}"
    );
    let old = approve(&world, &reviewed.name, "").await;
    assert_eq!(old.reason(), "ROLLOUT_PHASE", "{old}");
    let stale = approve(&world, &newer.name, "v0").await;
    assert_eq!(
        (stale.kind(), stale.reason()),
        (Kind::Aborted, "ETAG_MISMATCH")
    );
    let now = in_phase(&world, 2, Phase::AwaitingApproval).await;
    assert_eq!(now.etag, newer.etag, "nothing was approved");
    // Everybody is the author here, who is refused for that alone: name and etag are right.
    let own = approve(&world, &newer.name, &newer.etag).await;
    assert_eq!(own.reason(), "OWN_REVISION", "{own}");
}

#[tokio::test]
async fn a_wave_is_skipped_once_and_an_order_to_what_has_changed_is_refused() {
    let world = world().await;
    world.apply(&lamp("bright", "")).await;
    let rolling = in_phase(&world, 1, Phase::Rolling).await;
    let skip = async |wave, etag: &str| {
        let request = proto::SkipWaveRequest {
            name: rolling.name.clone(),
            wave,
            etag: etag.to_owned(),
            ..proto::SkipWaveRequest::default()
        };
        let answer = client(&world).await.skip_wave(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(RemoteError::from)
    };
    // Who waits is told for what.
    let mut held_back = Vec::new();
    for name in TWINS {
        let name = name.to_owned();
        let request = proto::ExplainTwinRequest { name };
        let answer = world.client().await.explain_twin(request).await.unwrap();
        let judged = answer.into_inner().policies;
        let waits = judged
            .into_iter()
            .filter(|one| one.verdict() == Verdict::HeldBack);
        held_back.extend(waits.map(|one| one.reason));
    }
    assert_eq!(held_back, ["its turn is wave 2 of 2; 1 of them have begun"]);

    let unnamed = skip(0, "").await.unwrap_err();
    assert_eq!(
        unnamed.violations().first().expect("a field").subject,
        "wave"
    );
    let skipped = skip(1, &rolling.etag).await.unwrap();
    assert_eq!(skipped.waves_released, 2);
    let again = skip(1, &rolling.etag).await.unwrap_err();
    assert_eq!(again.reason(), "ETAG_MISMATCH", "{again}");
    assert_eq!(skip(1, "").await.unwrap_err().reason(), "ROLLOUT_WAVE");

    let abort = proto::AbortRolloutRequest {
        name: rolling.name.clone(),
        etag: skipped.etag.clone(),
        reason: "too bright".to_owned(),
    };
    let aborted = client(&world).await.abort_rollout(abort).await.unwrap();
    let aborted = aborted.into_inner();
    assert_eq!(aborted.phase(), Phase::RolledBack);
    wait_for("the metric", SOON, async || {
        let page = world.metrics().await;
        let is = |line| page.lines().any(|one| one == line);
        let back = is("twinward_policy_rollouts{phase=\"rolled-back\"} 1");
        (back && is("twinward_policy_rollouts{phase=\"rolling\"} 0")).then_some(())
    })
    .await;
    let begun: Vec<_> = aborted
        .waves
        .iter()
        .map(|wave| (wave.begun, wave.released))
        .collect();
    assert_eq!(
        begun,
        [(true, false); 2],
        "it is to be seen how far it went"
    );
}

#[tokio::test]
async fn what_a_rollout_held_back_is_pushed_again_when_it_is_complete() {
    let world = world().await;
    world.apply(SETTLE).await;
    world.apply(&lamp("bright", "")).await;
    let rolling = in_phase(&world, 1, Phase::Rolling).await;
    let asking = json!({
        "agent": {"connected": true},
        "configuration": {
            "state": "drifted",
            "drift": {"pushes": 0, "pushAskedAt": "2026-01-01T00:00:00Z"},
        },
    });
    let skip = async |wave| {
        let request = proto::SkipWaveRequest {
            name: rolling.name.clone(),
            wave,
            ..proto::SkipWaveRequest::default()
        };
        let answer = client(&world).await.skip_wave(request).await;
        answer.unwrap().into_inner().phase()
    };
    assert_eq!(skip(1).await, Phase::Rolling);
    for name in TWINS {
        world.wait_desired(name, json!({"lamp": "bright"})).await;
    }
    world.wait_evaluated("lamp").await;
    world.settle().await;
    let version = world.twins.desired_version(MODULE);
    world.twins.fold(MODULE, asking).await;
    world.settle().await;
    assert_eq!(world.twins.desired_version(MODULE), version, "it is held");
    assert_eq!(skip(2).await, Phase::Completed);
    // Nobody asks for it a second time.
    wait_for("the push", SOON, async || {
        (world.twins.desired_version(MODULE) == version + 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn rollouts_in_force_are_listed_apart_from_those_of_older_revisions() {
    let world = world().await;
    // One that has begun would not make room for another.
    world.apply(&lamp("bright", ", approval: true")).await;
    in_phase(&world, 1, Phase::AwaitingApproval).await;
    world.apply(&lamp("dark", "")).await;
    in_phase(&world, 2, Phase::Rolling).await;
    let other = lamp("dim", "").replace("name: lamp", "name: other");
    world.apply(&other).await;
    let list = async |in_force_only, page_size, page_token: &str| {
        let request = proto::ListRolloutsRequest {
            in_force_only,
            page_size,
            page_token: page_token.to_owned(),
            ..proto::ListRolloutsRequest::default()
        };
        let answer = client(&world).await.list_rollouts(request).await;
        let answer = answer.unwrap().into_inner();
        let rollouts = answer.rollouts.into_iter();
        let names: Vec<_> = rollouts
            .map(|one| format!("{}@{}", one.policy_id, one.revision))
            .collect();
        (names, answer.next_page_token)
    };
    let (all, _) = list(false, 0, "").await;
    assert_eq!(all, ["lamp@2", "lamp@1", "other@1"]);
    let (first, token) = list(true, 1, "").await;
    assert_eq!(first, ["lamp@2"]);
    let (second, end) = list(true, 1, &token).await;
    assert_eq!((&*second, &*end), (&["other@1".to_owned()][..], ""));
}
