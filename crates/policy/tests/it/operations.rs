//! Rollouts and re-evaluations as operations: one form to look at, wait for and end.

use serde_json::json;
use service_kit::error::{Classified, Kind};
use service_kit::status::RemoteError;
use testkit::wait_for;
use tonic::transport::Channel;
use wire::policy::v1 as proto;
use wire::policy::v1::freeze_service_client::FreezeServiceClient;
use wire::policy::v1::operation_service_client::OperationServiceClient;
use wire::policy::v1::reevaluation_service_client::ReevaluationServiceClient;
use wire::twin::v1::{
    CancelOperationRequest, GetOperationRequest, ListOperationsRequest, Operation, OperationState,
    WaitOperationRequest,
};

use crate::world::{MODULE, SOON, World};

const LAMP: &str = "kind: Policy\nname: lamp.a\ntarget: '*'\nsettings: {lamp: 1}\n\
                    rollout: {waves: [{count: 1}], soak: 1h}\n";

async fn client(world: &World) -> OperationServiceClient<Channel> {
    let url = format!("http://{}", world.addresses().grpc);
    OperationServiceClient::connect(url).await.unwrap()
}

async fn get(world: &World, name: &str) -> Operation {
    let name = name.to_owned();
    let request = GetOperationRequest { name };
    let answer = client(world).await.get_operation(request).await;
    answer.unwrap().into_inner()
}

async fn wait(world: &World, name: &str, seconds: i64) -> Operation {
    let request = WaitOperationRequest {
        name: name.to_owned(),
        timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
    };
    let answer = client(world).await.wait_operation(request).await;
    answer.unwrap().into_inner()
}

async fn cancel(world: &World, name: &str) -> Operation {
    let request = CancelOperationRequest {
        name: name.to_owned(),
        ..CancelOperationRequest::default()
    };
    let answer = client(world).await.cancel_operation(request).await;
    answer.unwrap().into_inner()
}

/// The names of all, in pages of one.
async fn names(world: &World, states: &[OperationState]) -> Vec<String> {
    let mut request = ListOperationsRequest {
        page_size: 1,
        states: states.iter().map(|state| (*state).into()).collect(),
        ..ListOperationsRequest::default()
    };
    let mut names = Vec::new();
    loop {
        let answer = client(world).await.list_operations(request.clone()).await;
        let page = answer.unwrap().into_inner();
        names.extend(page.operations.into_iter().map(|one| one.name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return names;
        }
    }
}

#[tokio::test]
async fn a_rollout_is_an_operation_that_can_be_waited_for_and_cancelled() {
    let world = World::start().await;
    for name in [MODULE, "devices/cam-2/modules/m"] {
        world.twins.create(name, json!({}), json!(null)).await;
    }
    world.apply(LAMP).await;
    let name = "operations/rollout.lamp.a.1";
    let going = wait_for("the first wave to begin", SOON, async || {
        let operation = get(&world, name).await;
        operation.begun.then_some(operation)
    })
    .await;
    assert_eq!(going.state(), OperationState::Running);
    assert_eq!(going.target, "policies/lamp.a/rollouts/1");
    assert_eq!(going.total, 2);
    assert_eq!(wait(&world, name, 0).await.state(), OperationState::Running);

    let (ended, cancelled) = tokio::join!(wait(&world, name, 30), cancel(&world, name));
    for operation in [&ended, &cancelled] {
        assert_eq!(operation.state(), OperationState::Failed);
        assert_eq!(operation.stage, "rolled back");
        assert!(operation.end_time.is_some());
    }
    world.wait_desired(MODULE, json!({})).await;
    // Once more does no harm, and says the same.
    assert_eq!(cancel(&world, name).await.end_time, ended.end_time);
    assert_eq!(names(&world, &[]).await, [name]);

    let refused = client(&world)
        .await
        .get_operation(GetOperationRequest {
            name: "operations/rollout.lamp.a.7".to_owned(),
        })
        .await;
    let refused = RemoteError::from(refused.unwrap_err());
    assert_eq!(refused.kind(), Kind::NotFound, "{refused}");
}

#[tokio::test]
async fn a_reevaluation_is_an_operation_and_is_listed_before_rollouts() {
    let world = World::start().await;
    world.twins.create(MODULE, json!({}), json!(null)).await;
    world.apply(LAMP).await;
    let url = format!("http://{}", world.addresses().grpc);
    let mut reevaluations = ReevaluationServiceClient::connect(url).await.unwrap();
    for _ in 0..2 {
        let request = proto::StartReevaluationRequest::default();
        reevaluations.start_reevaluation(request).await.unwrap();
    }
    let ended = wait(&world, "operations/reevaluation.2", 30).await;
    assert_eq!(ended.state(), OperationState::Succeeded);
    assert_eq!((ended.total, ended.succeeded, ended.failed), (1, 1, 0));
    assert_eq!(ended.target, "reevaluations/2");
    let rollout = "operations/rollout.lamp.a.1";
    let both = ["operations/reevaluation.2", "operations/reevaluation.1"];
    let all = [both[0], both[1], rollout];
    assert_eq!(names(&world, &[]).await, all);
    assert_eq!(names(&world, &[OperationState::Succeeded]).await, both);
    assert_eq!(names(&world, &[OperationState::Running]).await, [rollout]);
    let cancelled = cancel(&world, both[1]).await;
    assert_eq!(cancelled.state(), OperationState::Succeeded);
}

#[tokio::test]
async fn freezes_come_in_pages() {
    let world = World::start().await;
    let url = format!("http://{}", world.addresses().grpc);
    let mut freezes = FreezeServiceClient::connect(url).await.unwrap();
    let mut made = Vec::new();
    for _ in 0..3 {
        let request = proto::CreateFreezeRequest {
            freeze: Some(proto::Freeze::default()),
            lasts: None,
        };
        made.push(
            freezes
                .create_freeze(request)
                .await
                .unwrap()
                .into_inner()
                .name,
        );
    }
    made.reverse();
    let mut request = proto::ListFreezesRequest {
        page_size: 2,
        ..proto::ListFreezesRequest::default()
    };
    let mut pages: Vec<Vec<String>> = Vec::new();
    loop {
        let page = freezes.list_freezes(request.clone()).await.unwrap();
        let page = page.into_inner();
        pages.push(page.freezes.into_iter().map(|one| one.name).collect());
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, [made[..2].to_vec(), made[2..].to_vec()]);
    let all = freezes.list_freezes(proto::ListFreezesRequest::default());
    assert_eq!(all.await.unwrap().into_inner().freezes.len(), 3);
    request.page_token = "x".to_owned();
    let refused = freezes.list_freezes(request).await.unwrap_err();
    assert_eq!(RemoteError::from(refused).kind(), Kind::InvalidArgument);
}

#[tokio::test]
async fn a_policy_is_applied_only_if_nobody_has_changed_it_since() {
    let world = World::start().await;
    world.apply(LAMP).await;
    let seen = world.policy("lamp.a").await.etag;
    let apply = async |text: String, etag: &str| {
        let spec = &policy::file::parse(&text).unwrap()[0];
        let request = proto::ApplyPolicyRequest {
            policy: Some(policy::resource::to_request(spec)),
            etag: etag.to_owned(),
            ..proto::ApplyPolicyRequest::default()
        };
        let answer = world.client().await.apply_policy(request).await;
        answer.map(|_| ()).map_err(RemoteError::from)
    };
    let worded = |words: &str| format!("{LAMP}description: {words}\n");
    apply(worded("better"), &seen).await.unwrap();
    let late = apply(worded("other"), &seen).await.unwrap_err();
    assert_eq!(late.reason(), "ETAG_MISMATCH", "{late}");
    apply(worded("other"), "").await.unwrap();
}
