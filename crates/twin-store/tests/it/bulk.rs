//! Updates of many twins: to the end, stopped, taken back, and over a restart.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

use std::collections::BTreeMap;

use testkit::{NatsServer, wait_for};
use wire::registry::v1::{BatchCreateDevicesRequest, CreateDeviceRequest};
use wire::twin::v1 as proto;
use wire::twin::v1::twin_bulk_service_client::TwinBulkServiceClient;

use crate::service::{SOON, Service, refused_with};

pub(crate) type Client = TwinBulkServiceClient<service_kit::client::Connection>;

pub(crate) async fn create(service: &Service, count: usize) -> Vec<String> {
    let ids: Vec<_> = (0..count).map(|number| format!("d{number:03}")).collect();
    for chunk in ids.chunks(50) {
        let requests = chunk.iter().map(|id| CreateDeviceRequest {
            device_id: id.clone(),
            ..Default::default()
        });
        let request = BatchCreateDevicesRequest {
            requests: requests.collect(),
        };
        service
            .registry()
            .batch_create_devices(request)
            .await
            .expect("created");
    }
    ids.into_iter().map(|id| format!("devices/{id}")).collect()
}

pub(crate) fn patch(condition: &str, desired: &str) -> proto::StartBulkUpdateRequest {
    proto::StartBulkUpdateRequest {
        bulk_update: Some(proto::BulkUpdate {
            source: "devices".to_owned(),
            condition: condition.to_owned(),
            desired_patch_json: desired.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) async fn start(
    mut client: Client,
    request: proto::StartBulkUpdateRequest,
) -> proto::Operation {
    let started = client.start_bulk_update(request).await;
    started.expect("started").into_inner()
}

pub(crate) async fn get(mut client: Client, name: &str) -> proto::Operation {
    let request = proto::GetOperationRequest {
        name: name.to_owned(),
    };
    client
        .get_operation(request)
        .await
        .expect("there")
        .into_inner()
}

pub(crate) async fn ended(mut client: Client, name: &str) -> proto::Operation {
    let request = proto::WaitOperationRequest {
        name: name.to_owned(),
        timeout: Some(prost_types::Duration {
            seconds: 8,
            nanos: 0,
        }),
    };
    wait_for("the operation's end", SOON, async || {
        let waited = client.wait_operation(request.clone()).await;
        let operation = waited.expect("there").into_inner();
        (operation.state() != proto::OperationState::Running).then_some(operation)
    })
    .await
}

pub(crate) async fn results(
    mut client: Client,
    name: &str,
    outcome: proto::Outcome,
) -> Vec<proto::OperationResult> {
    let mut request = proto::ListOperationResultsRequest {
        parent: name.to_owned(),
        page_size: 7,
        outcome: outcome.into(),
        ..Default::default()
    };
    let mut all = Vec::new();
    loop {
        let page = client.list_operation_results(request.clone()).await;
        let page = page.expect("a page").into_inner();
        all.extend(page.results);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn every_matching_twin_is_written_and_what_became_of_it_is_told() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let names = create(&service, 90).await;
    for name in &names[..20] {
        service.desire(name, r#"{"site":"a"}"#).await;
    }
    let condition = "properties.desired.site = 'a'";
    let mut trial = patch(condition, r#"{"mode":"new"}"#);
    trial.validate_only = true;
    let would = start(service.bulk(), trial).await;
    assert_eq!((would.total, would.name.as_str()), (20, ""));
    let mut request = patch(condition, r#"{"mode":"new"}"#);
    request.request_id = "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11".to_owned();
    let started = start(service.bulk(), request.clone()).await;
    assert_eq!(started.state(), proto::OperationState::Running);
    assert_eq!(start(service.bulk(), request).await, started, "begun once");
    let done = ended(service.bulk(), &started.name).await;
    assert_eq!(done.state(), proto::OperationState::Succeeded, "{done:?}");
    assert_eq!(
        (done.total, done.succeeded, done.failed, done.skipped),
        (20, 20, 0, 0)
    );
    assert!(done.end_time.is_some() && done.actor.starts_with("operator:"));
    let told = results(service.bulk(), &started.name, proto::Outcome::Unspecified).await;
    let told: BTreeMap<_, _> = told
        .into_iter()
        .map(|one| (one.twin.clone(), one))
        .collect();
    assert_eq!(told.len(), 20);
    for name in &names {
        let twin = service.twin(name).await;
        let written = twin.desired_json.contains("new");
        assert_eq!(written, told.contains_key(name), "{name}");
        if let Some(result) = told.get(name) {
            assert_eq!(
                (result.outcome(), result.revision),
                (proto::Outcome::Succeeded, twin.revision)
            );
        }
    }
    let failed = results(service.bulk(), &started.name, proto::Outcome::Failed).await;
    assert_eq!(failed, []);
    let list = service
        .bulk()
        .list_operations(proto::ListOperationsRequest::default())
        .await;
    assert_eq!(list.unwrap().into_inner().operations, [done]);
    let request = proto::ListTwinRevisionsRequest {
        name: names[0].clone(),
        page_size: 1,
        ..Default::default()
    };
    let newest = service
        .history()
        .list_twin_revisions(request)
        .await
        .unwrap()
        .into_inner();
    let id = started.name.strip_prefix("operations/").unwrap();
    assert_eq!(newest.revisions[0].cause, format!("operation:{id}"));
    service.stop().await;
}

#[tokio::test]
async fn an_operation_goes_on_after_a_restart_and_writes_no_twin_twice() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let names = create(&service, 60).await;
    let mut request = patch("*", r#"{"n":1}"#);
    request.rate_per_second = 10;
    let started = start(service.bulk(), request).await;
    wait_for("some twins", SOON, async || {
        (get(service.bulk(), &started.name).await.succeeded >= 10).then_some(())
    })
    .await;
    let halfway = get(service.bulk(), &started.name).await;
    service.stop().await;
    assert!(halfway.succeeded < 60, "it has not come to all twins yet");
    let service = Service::start(&nats, &folder).await;
    let done = ended(service.bulk(), &started.name).await;
    assert_eq!(
        (done.succeeded, done.failed, done.skipped, done.total),
        (60, 0, 0, 60)
    );
    for name in &names {
        let twin = service.twin(name).await;
        assert_eq!(
            (twin.desired_version, twin.desired_json.as_str()),
            (2, r#"{"n":1}"#)
        );
    }
    service.stop().await;
}

#[tokio::test]
async fn a_cancelled_operation_stops_between_two_twins_and_what_was_written_stays() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let names = create(&service, 50).await;
    let mut request = patch("*", r#"{"n":1}"#);
    request.rate_per_second = 4;
    let started = start(service.bulk(), request).await;
    wait_for("some twins", SOON, async || {
        (get(service.bulk(), &started.name).await.succeeded > 0).then_some(())
    })
    .await;
    let undo = proto::UndoOperationRequest {
        name: started.name.clone(),
        ..Default::default()
    };
    let early = service.bulk().undo_operation(undo.clone()).await;
    refused_with(early, "OPERATION_RUNNING");
    let cancel = proto::CancelOperationRequest {
        name: started.name.clone(),
        ..Default::default()
    };
    let cancelled = service
        .bulk()
        .cancel_operation(cancel.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(cancelled.state(), proto::OperationState::Cancelled);
    assert!(cancelled.succeeded < 50);
    let again = service
        .bulk()
        .cancel_operation(cancel)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, cancelled, "harmless");
    let undone = service
        .bulk()
        .undo_operation(undo)
        .await
        .unwrap()
        .into_inner();
    let undone = ended(service.bulk(), &undone.name).await;
    assert_eq!(
        (undone.undo_of.as_str(), undone.succeeded),
        (started.name.as_str(), cancelled.succeeded)
    );
    let mut versions = Vec::new();
    for name in &names {
        let twin = service.twin(name).await;
        assert_eq!(twin.desired_json, "{}");
        versions.push(twin.desired_version);
    }
    let written = versions.iter().filter(|version| **version == 3).count() as u64;
    assert_eq!(
        written, cancelled.succeeded,
        "written and taken back; the rest untouched"
    );
    service.stop().await;
}

#[tokio::test]
async fn only_so_many_go_on_and_a_repeated_start_is_answered_all_the_same() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    create(&service, 50).await;
    let request = |number: usize| {
        let mut request = patch("*", r#"{"n":1}"#);
        // They go on for as long as the test does.
        request.rate_per_second = 1;
        request.request_id = format!("6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c{number:02}");
        request
    };
    let starts = (0..20).map(|number| {
        let (mut client, request) = (service.bulk(), request(number));
        async move { client.start_bulk_update(request).await }
    });
    let answers = futures::future::join_all(starts).await;
    let mut begun = 0;
    for (number, first) in answers.into_iter().enumerate() {
        let again = service.bulk().start_bulk_update(request(number)).await;
        match first {
            Ok(first) => {
                begun += 1;
                assert_eq!(again.expect("known").into_inner(), first.into_inner());
            }
            Err(first) => {
                refused_with(Err::<tonic::Response<()>, _>(first), "TOO_MANY_OPERATIONS");
                refused_with(again, "TOO_MANY_OPERATIONS");
            }
        }
    }
    assert_eq!(begun, 16);
    service.stop().await;
}

#[tokio::test]
async fn what_others_wrote_since_is_not_taken_back() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let names = create(&service, 3).await;
    for name in &names {
        service.desire(name, r#"{"a":1,"b":1}"#).await;
    }
    let started = start(service.bulk(), patch("*", r#"{"a":2,"b":2}"#)).await;
    ended(service.bulk(), &started.name).await;
    service.desire(&names[0], r#"{"a":9}"#).await;
    service.desire(&names[1], r#"{"a":9,"b":9}"#).await;
    let undo = proto::UndoOperationRequest {
        name: started.name.clone(),
        ..Default::default()
    };
    let before = service.twin(&names[2]).await;
    let trial = proto::UndoOperationRequest {
        validate_only: true,
        ..undo.clone()
    };
    let would = service.bulk().undo_operation(trial).await;
    let would = would.unwrap().into_inner();
    assert_eq!(
        (would.total, would.succeeded, would.skipped, would.failed),
        (3, 2, 1, 0)
    );
    assert_eq!((would.name.as_str(), &would.undo_of), ("", &started.name));
    assert_eq!(service.twin(&names[2]).await, before, "nothing is written");
    let undone = service
        .bulk()
        .undo_operation(undo)
        .await
        .unwrap()
        .into_inner();
    let undone = ended(service.bulk(), &undone.name).await;
    assert_eq!((undone.succeeded, undone.skipped), (2, 1), "{undone:?}");
    let documents = [
        "{\"a\":9,\"b\":1}",
        "{\"a\":9,\"b\":9}",
        "{\"a\":1,\"b\":1}",
    ];
    for (name, expected) in names.iter().zip(documents) {
        assert_eq!(service.twin(name).await.desired_json, expected);
    }
    let told = results(service.bulk(), &undone.name, proto::Outcome::Unspecified).await;
    assert!(
        told[0]
            .reason
            .contains("left alone: properties.desired.a was written since")
    );
    assert_eq!(told[1].outcome(), proto::Outcome::Skipped);
    assert_eq!(told[2].reason, "");
    service.stop().await;
}

#[tokio::test]
async fn an_undo_of_many_twins_is_foreseen_a_part_at_a_time() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let names = create(&service, 150).await;
    let started = start(service.bulk(), patch("*", r#"{"a":2}"#)).await;
    ended(service.bulk(), &started.name).await;
    for name in &names[..30] {
        service.desire(name, r#"{"a":9}"#).await;
    }
    let trial = proto::UndoOperationRequest {
        name: started.name.clone(),
        validate_only: true,
        page_size: 40,
        ..Default::default()
    };
    let (mut totals, mut sums) = (Vec::new(), [0; 3]);
    let mut next = trial.clone();
    loop {
        let part = service.bulk().undo_operation(next).await;
        let part = part.unwrap().into_inner();
        totals.push(part.total);
        let numbers = [part.succeeded, part.skipped, part.failed];
        for (sum, number) in sums.iter_mut().zip(numbers) {
            *sum += number;
        }
        if part.next_page_token.is_empty() {
            break;
        }
        next = proto::UndoOperationRequest {
            page_token: part.next_page_token,
            ..trial.clone()
        };
    }
    assert_eq!((totals, sums), (vec![40, 40, 40, 30], [120, 30, 0]));
    let whole = proto::UndoOperationRequest {
        page_size: 0,
        ..trial.clone()
    };
    let whole = service.bulk().undo_operation(whole).await;
    let whole = whole.unwrap().into_inner();
    assert_eq!((whole.total, whole.next_page_token.as_str()), (150, ""));

    let refused = [
        (-1, "", true, "page_size"),
        (20_001, "", true, "page_size"),
        (0, "x", true, "page_token"),
        (1, "", false, "page_size"),
        (0, "x", false, "page_token"),
    ];
    for (page_size, page_token, validate_only, field) in refused {
        let request = proto::UndoOperationRequest {
            page_size,
            page_token: page_token.to_owned(),
            validate_only,
            ..trial.clone()
        };
        let refused = service.bulk().undo_operation(request).await;
        assert_eq!(refused_with(refused, "INVALID_FIELD"), [field]);
    }
    service.stop().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_before_it_begins() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let refused = async |request| service.bulk().start_bulk_update(request).await;
    for (request, field) in [
        (patch("", r#"{"a":1}"#), "bulk_update.condition"),
        (patch("*", ""), "bulk_update"),
        (patch("*", "[1]"), "bulk_update.desired_patch_json"),
    ] {
        assert_eq!(
            refused_with(refused(request).await, "INVALID_FIELD"),
            [field]
        );
    }
    let unreadable = refused(patch("((", r#"{"a":1}"#)).await;
    assert_eq!(
        refused_with(unreadable, "INVALID_QUERY"),
        ["bulk_update.condition"]
    );
    let bad = refused(patch("*", r#"{"a$b":1}"#)).await;
    let paths = refused_with(bad, "INVALID_TWIN");
    assert_eq!(paths.len(), 1, "{paths:?}");
    let unknown = proto::GetOperationRequest {
        name: "operations/0190b3a2-7c1e-7d3a-9d0b-0d6a2b9f4c11".to_owned(),
    };
    refused_with(
        service.bulk().get_operation(unknown).await,
        "OPERATION_NOT_FOUND",
    );
    service.stop().await;
}
