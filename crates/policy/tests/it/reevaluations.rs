//! Re-evaluations: every twin is looked at, they go on where they were, and they end when told.

use serde_json::json;
use testkit::wait_for;
use tonic::Code;
use tonic::transport::Channel;
use wire::policy::v1 as proto;
use wire::policy::v1::reevaluation::State;
use wire::policy::v1::reevaluation_service_client::ReevaluationServiceClient;

use crate::world::{SETTLE, SOON, World};

/// Sets one leaf everywhere.
const LAMP: &str = "\
kind: Policy
name: lamp
scope: devices
target: tags.site = 'a'
settings: {lamp: 'on'}
";

/// Twins of a test; the twin-store has three on a page.
const TWINS: usize = 10;

fn name(number: usize) -> String {
    format!("devices/d-{number:02}")
}

async fn client(world: &World) -> ReevaluationServiceClient<Channel> {
    let url = format!("http://{}", world.addresses().grpc);
    ReevaluationServiceClient::connect(url).await.unwrap()
}

async fn start(world: &World, policy: &str, request_id: &str) -> proto::Reevaluation {
    let request = proto::StartReevaluationRequest {
        policy: policy.to_owned(),
        request_id: request_id.to_owned(),
    };
    let answer = client(world).await.start_reevaluation(request).await;
    answer.unwrap().into_inner()
}

async fn get(world: &World, name: &str) -> proto::Reevaluation {
    let request = proto::GetReevaluationRequest {
        name: name.to_owned(),
    };
    let answer = client(world).await.get_reevaluation(request).await;
    answer.unwrap().into_inner()
}

async fn cancel(world: &World, name: &str) -> proto::Reevaluation {
    let request = proto::CancelReevaluationRequest {
        name: name.to_owned(),
    };
    let answer = client(world).await.cancel_reevaluation(request).await;
    answer.unwrap().into_inner()
}

async fn ended(world: &World, name: &str) -> proto::Reevaluation {
    let request = proto::WaitReevaluationRequest {
        name: name.to_owned(),
        timeout: SOON.try_into().ok(),
    };
    let answer = client(world).await.wait_reevaluation(request).await;
    answer.unwrap().into_inner()
}

fn counts(one: &proto::Reevaluation) -> (u64, u64, u64) {
    (one.twins_evaluated, one.twins_changed, one.twins_failed)
}

/// A world in which the lamp is on everywhere, and then is off without anybody having been told.
async fn spoilt() -> World {
    let world = World::start().await;
    for number in 0..TWINS {
        let tags = json!({"site": "a"});
        world.twins.create(&name(number), tags, json!({})).await;
    }
    world.apply(SETTLE).await;
    world.apply(LAMP).await;
    for number in 0..TWINS {
        world
            .wait_desired(&name(number), json!({"lamp": "on"}))
            .await;
    }
    world.wait_evaluated("lamp").await;
    // No change is under way that would have one of them looked at.
    world.settle().await;
    for number in 0..TWINS {
        world.twins.spoil(&name(number), json!({"lamp": null}));
    }
    world
}

fn lit(world: &World) -> usize {
    let is_lit = |number: &usize| world.twins.desired(&name(*number)) == json!({"lamp": "on"});
    (0..TWINS).filter(is_lit).count()
}

#[tokio::test]
async fn every_twin_is_looked_at_and_what_holds_is_not_written() {
    let world = spoilt().await;
    let request = uuid();
    let begun = start(&world, "", &request).await;
    let done = ended(&world, &begun.name).await;
    assert_eq!(done.state(), State::Succeeded, "{done:?}");
    assert_eq!(counts(&done), (10, 10, 0));
    assert_eq!(lit(&world), TWINS);
    assert!(done.end_time.is_some());
    // Repeated, the call begins nothing.
    assert_eq!(start(&world, "", &request).await, done);

    let calls = world.twins.calls().len();
    let again = start(&world, "policies/lamp", "").await;
    let done = ended(&world, &again.name).await;
    assert_eq!(counts(&done), (10, 0, 0));
    assert_eq!(done.policy, "policies/lamp");
    assert_eq!(world.twins.calls().len(), calls);
    let page = proto::ListReevaluationsRequest {
        page_size: 1,
        ..Default::default()
    };
    let page = client(&world).await.list_reevaluations(page).await;
    let page = page.unwrap().into_inner();
    assert_eq!(page.reevaluations, [done]);
    let rest = proto::ListReevaluationsRequest {
        page_token: page.next_page_token,
        ..Default::default()
    };
    let rest = client(&world).await.list_reevaluations(rest).await;
    assert_eq!(rest.unwrap().into_inner().reevaluations[0].name, begun.name);
    let recorded = wait_for("both to be in the audit log", SOON, async || {
        let recorded = world.twins.recorded();
        let ours = recorded
            .iter()
            .filter(|one| one.action == "reevaluation.start");
        (ours.count() == 2).then_some(())
    });
    recorded.await;
}

#[tokio::test]
async fn it_goes_on_after_a_restart_where_it_was() {
    let mut world = spoilt().await;
    world.twins.end_pages_at(Some(6));
    let begun = start(&world, "", "").await;
    wait_for("the first two pages to be looked at", SOON, async || {
        (lit(&world) == 6).then_some(())
    })
    .await;
    assert_eq!(get(&world, &begun.name).await.state(), State::Running);
    world.stop_service().await;
    world.start_service().await;
    let found = get(&world, &begun.name).await;
    assert_eq!((found.state(), counts(&found)), (State::Running, (6, 6, 0)));
    // What was looked at is not looked at again.
    world.twins.spoil(&name(0), json!({"lamp": null}));
    world.twins.end_pages_at(None);
    let done = ended(&world, &begun.name).await;
    assert_eq!(
        (done.state(), counts(&done)),
        (State::Succeeded, (10, 10, 0))
    );
    assert_eq!(world.twins.desired(&name(0)), json!({}));
    assert_eq!(lit(&world), TWINS - 1);
}

#[tokio::test]
async fn one_ends_when_it_is_told_and_the_next_begins() {
    let world = spoilt().await;
    world.twins.end_pages_at(Some(6));
    let first = start(&world, "", "").await;
    let second = start(&world, "", "").await;
    wait_for("the first two pages to be looked at", SOON, async || {
        (lit(&world) == 6).then_some(())
    })
    .await;
    assert_eq!(get(&world, &second.name).await.state(), State::Waiting);
    let third = start(&world, "", "").await;
    assert_eq!(cancel(&world, &third.name).await.state(), State::Cancelled);
    let cancelled = cancel(&world, &first.name).await;
    assert_eq!(cancelled.state(), State::Cancelled, "{cancelled:?}");
    assert_eq!(counts(&cancelled), (6, 6, 0));
    assert_eq!(cancel(&world, &first.name).await, cancelled);
    world.twins.end_pages_at(None);
    let done = ended(&world, &second.name).await;
    assert_eq!(
        (done.state(), counts(&done)),
        (State::Succeeded, (10, 4, 0))
    );
    assert_eq!(get(&world, &third.name).await.twins_evaluated, 0);
}

#[tokio::test]
async fn a_twin_that_cannot_be_written_is_counted_and_stops_nothing() {
    let world = spoilt().await;
    let refused = tonic::Status::invalid_argument("not like this");
    world.twins.fail_next(refused);
    let begun = start(&world, "", "").await;
    let done = ended(&world, &begun.name).await;
    assert_eq!(
        (done.state(), counts(&done)),
        (State::Succeeded, (10, 9, 1))
    );
    assert_eq!(lit(&world), TWINS - 1);
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused() {
    let world = World::start().await;
    let mut client = client(&world).await;
    for (policy, request_id, code) in [
        ("policies/none", "", Code::NotFound),
        ("lamp", "", Code::InvalidArgument),
        ("", "again", Code::InvalidArgument),
    ] {
        let request = proto::StartReevaluationRequest {
            policy: policy.to_owned(),
            request_id: request_id.to_owned(),
        };
        let refused = client.start_reevaluation(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{policy} {request_id}: {refused}");
    }
    let request = proto::WaitReevaluationRequest {
        name: "reevaluations/7".to_owned(),
        timeout: None,
    };
    let refused = client.wait_reevaluation(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let long = proto::WaitReevaluationRequest {
        timeout: Some(prost_types::Duration {
            seconds: 301,
            nanos: 0,
        }),
        ..request
    };
    let refused = client.wait_reevaluation(long).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

fn uuid() -> String {
    uuid::Uuid::now_v7().to_string()
}
