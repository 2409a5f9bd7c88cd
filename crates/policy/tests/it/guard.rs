//! The mass-change guard: large changes that nobody planned spread in waves, and deletions are forced.

use policy::rollout::Guard;
use serde_json::json;
use service_kit::error::{Classified, Kind};
use service_kit::status::RemoteError;
use testkit::wait_for;
use wire::policy::v1 as proto;
use wire::policy::v1::rollout::Phase;
use wire::policy::v1::rollout_service_client::RolloutServiceClient;
use wire::policy::v1::rollout_strategy::Answers;

use crate::world::{SOON, World};

const TWINS: usize = 5;

fn name(number: usize) -> String {
    format!("devices/cam-{number}/modules/m")
}

/// A hub in which two twins are never too many, and more than three are.
async fn world() -> World {
    let guard = Guard {
        twins_max: 3,
        percent_max: 100,
        twins_free: 2,
        ..Guard::default()
    };
    let world = World::start_with(guard).await;
    for number in 0..TWINS {
        let tags = json!({"lit": true, "number": number});
        world.twins.create(&name(number), tags, json!(null)).await;
    }
    world
}

fn lamp(target: &str, rest: &str) -> String {
    format!("kind: Policy\nname: lamp\ntarget: {target}\nsettings: {{lamp: bright}}\n{rest}\n")
}

/// How many twins have the setting.
fn lit(world: &World) -> usize {
    let all = (0..TWINS).map(|number| world.twins.desired(&name(number)));
    all.filter(|desired| desired == &json!({"lamp": "bright"}))
        .count()
}

async fn rollout(world: &World) -> Option<proto::Rollout> {
    let url = format!("http://{}", world.addresses().grpc);
    let mut client = RolloutServiceClient::connect(url).await.unwrap();
    let name = "policies/lamp/rollouts/-".to_owned();
    let answer = client.get_rollout(proto::GetRolloutRequest { name }).await;
    answer.ok().map(tonic::Response::into_inner)
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
async fn a_large_change_without_a_strategy_begins_with_few_twins() {
    let world = world().await;
    let draft = policy::file::parse(&lamp("'*'", "")).unwrap().remove(0);
    let request = proto::ApplyPolicyRequest {
        policy: Some(policy::resource::to_request(&draft)),
        validate_only: true,
        note: String::new(),
        etag: String::new(),
    };
    let told = world.client().await.apply_policy(request).await.unwrap();
    let said = "it changes more than 3 twins at once, and no `rollout:` says how";
    assert_eq!(told.into_inner().guard, said);
    assert_eq!(rollout(&world).await, None);

    let answer = world.apply(&lamp("'*'", "")).await.remove(0);
    assert_eq!(answer.guard, said);
    let staged = wait_for("the first wave", SOON, async || {
        let rollout = rollout(&world).await?;
        let begun = matches!(rollout.phase(), Phase::Rolling | Phase::Soaking);
        (begun && lit(&world) > 0).then_some(rollout)
    })
    .await;
    assert_eq!(staged.guard, said);
    let planned: Vec<u64> = staged.waves.iter().map(|wave| wave.twins_planned).collect();
    assert_eq!(planned, [1, 0, 2, 2], "1, 10 and 50 per cent, and the rest");
    // No device of them has ever answered for anything, so that none is waited for.
    assert_eq!(staged.strategy.unwrap().answers(), Answers::None);
    // This twin-store lets nobody follow its twins, so nothing is counted, and the rollout says so.
    let why = "its twins are being read to be counted";
    assert_eq!(rollout(&world).await.unwrap().waits_for, why);
    world.wait_evaluated("lamp").await;
    assert_eq!(lit(&world), 1);

    // The same again is no revision, and not guarded anew.
    let answer = world.apply(&lamp("'*'", "")).await.remove(0);
    assert_eq!(answer.guard, "");
    assert_eq!(rollout(&world).await.unwrap().name, staged.name);
}

#[tokio::test]
async fn a_small_change_and_a_planned_one_are_left_alone() {
    let world = world().await;
    let answer = world.apply(&lamp("tags.number < 2", "")).await.remove(0);
    assert_eq!(answer.guard, "");
    wait_for("both twins", SOON, async || {
        (lit(&world) == 2).then_some(())
    })
    .await;
    assert_eq!(rollout(&world).await, None);
    delete(&world, false).await.unwrap();

    let answer = world.apply(&lamp("'*'", "rollout: {}")).await.remove(0);
    assert_eq!(answer.guard, "");
    wait_for("all twins", SOON, async || {
        (lit(&world) == TWINS).then_some(())
    })
    .await;
    assert_eq!(rollout(&world).await.unwrap().guard, "");
}

#[tokio::test]
async fn a_large_deletion_is_forced_or_refused() {
    let world = world().await;
    world.apply(&lamp("'*'", "rollout: {}")).await;
    wait_for("all twins", SOON, async || {
        (lit(&world) == TWINS).then_some(())
    })
    .await;
    let refused = delete(&world, false).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::FailedPrecondition);
    assert_eq!(refused.reason(), "MASS_CHANGE");
    assert!(
        refused.to_string().contains("more than 3 twins"),
        "{refused}"
    );
    delete(&world, true).await.unwrap();
    wait_for("no twin", SOON, async || (lit(&world) == 0).then_some(())).await;
}

#[tokio::test]
async fn what_could_not_be_counted_waits_until_it_can() {
    let world = world().await;
    world.twins.set_away(true);
    let answer = world.apply(&lamp("tags.number < 2", "")).await.remove(0);
    assert!(
        answer.guard.contains("could not be counted"),
        "{}",
        answer.guard
    );
    world.twins.set_away(false);
    let ended = wait_for("the end of the rollout", SOON, async || {
        let rollout = rollout(&world).await?;
        (rollout.phase() == Phase::Completed).then_some(rollout)
    })
    .await;
    assert!(ended.reason.contains("few enough"), "{}", ended.reason);
    wait_for("both twins", SOON, async || {
        (lit(&world) == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn twins_that_lack_what_a_template_names_are_not_too_many() {
    let world = world().await;
    let colour = json!({"colour": "red"});
    world.twins.operate(&name(0), Some(colour), None).await;
    let file = lamp("'*'", "").replace("bright", "'{{tags.colour}}'");
    let answer = world.apply(&file).await.remove(0);
    assert!(answer.guard.contains("more than 3"), "{}", answer.guard);
    let ended = wait_for("the end of the rollout", SOON, async || {
        let rollout = rollout(&world).await?;
        (rollout.phase() == Phase::Completed).then_some(rollout)
    })
    .await;
    assert!(ended.reason.contains("few enough"), "{}", ended.reason);
    world.wait_desired(&name(0), json!({"lamp": "red"})).await;
    assert_eq!(world.twins.desired(&name(1)), json!({}));
}

/// What would become of a draft, in one go: the sum of its preview.
async fn foreseen(world: &World, file: &str) -> proto::PreviewSummary {
    use futures::TryStreamExt as _;
    let draft = policy::file::parse(file).unwrap().remove(0);
    let request = proto::PreviewPolicyRequest {
        policy: Some(policy::resource::to_request(&draft)),
    };
    let stream = world.client().await.preview_policy(request).await.unwrap();
    let events: Vec<_> = stream.into_inner().try_collect().await.unwrap();
    let last = events.into_iter().last().unwrap().event.unwrap();
    let proto::preview_policy_response::Event::Summary(sum) = last else {
        panic!("the summary comes last");
    };
    sum
}

#[tokio::test]
async fn a_preview_foresees_the_waves_that_a_revision_has_then() {
    let world = world().await;
    let guarded = lamp("'*'", "");
    let planned = lamp(
        "'*'",
        "rollout: {waves: [{where: tags.number = 3}, {count: 2}], soak: 1h, answers: none}",
    );
    let small = foreseen(&world, &lamp("tags.number < 2", "")).await;
    assert_eq!((small.waves.len(), &*small.guard), (0, ""));
    let told = foreseen(&world, &guarded).await;
    assert_eq!(
        told.guard,
        "it changes more than 3 twins at once, and no `rollout:` says how"
    );
    assert_eq!(told.waves.len(), 4);
    assert_eq!(told.waves[3].takes, "the rest");

    let told = foreseen(&world, &planned).await;
    let takes: Vec<_> = told
        .waves
        .iter()
        .map(|wave| (&*wave.takes, wave.twins))
        .collect();
    assert_eq!(
        takes,
        [
            ("where tags.number = 3", 1),
            ("up to 2 twins", 1),
            ("the rest", 3)
        ]
    );
    assert_eq!(told.schedule_state, None);
    world.apply(&planned).await;
    let begun = wait_for("the first wave", SOON, async || {
        rollout(&world)
            .await
            .filter(|rollout| !rollout.waves.is_empty())
    })
    .await;
    let then: Vec<u64> = begun.waves.iter().map(|wave| wave.twins_planned).collect();
    let foreseen_then: Vec<u64> = told.waves.iter().map(|wave| wave.twins).collect();
    assert_eq!(foreseen_then, then);

    // What it says does not change by a freeze, but that it waits for its end.
    let url = format!("http://{}", world.addresses().grpc);
    let freezes = proto::freeze_service_client::FreezeServiceClient::connect(url).await;
    let freeze = proto::CreateFreezeRequest {
        freeze: Some(proto::Freeze {
            reason: "incident 4711".to_owned(),
            ..proto::Freeze::default()
        }),
        lasts: None,
    };
    freezes.unwrap().create_freeze(freeze).await.unwrap();
    let other = guarded.replace("lamp\n", "other\n");
    let held = foreseen(&world, &other).await.schedule_state.unwrap();
    assert!(held.reason.contains("incident 4711"), "{held:?}");
}
