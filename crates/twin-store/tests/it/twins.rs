use serde_json::{Value, json};
use service_kit::error::{Classified as _, Kind};
use testkit::NatsServer;
use wire::twin::v1 as proto;

use crate::service::{MODULE, Service, refusal, refused_with};

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn patch(desired: &str) -> proto::PatchTwinRequest {
    proto::PatchTwinRequest {
        name: MODULE.to_owned(),
        desired_patch_json: desired.to_owned(),
        ..proto::PatchTwinRequest::default()
    }
}

#[tokio::test]
async fn a_patch_is_merged_and_read_back_with_who_wrote_what() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let before = service.twin(MODULE).await;
    let request = proto::PatchTwinRequest {
        tags_patch_json: r#"{"site":"north"}"#.to_owned(),
        etag: before.etag.clone(),
        operator: "alice".to_owned(),
        ..patch(r#"{"interval":"PT5M"}"#)
    };
    let after = service
        .twins()
        .patch_twin(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(after, service.twin(MODULE).await);
    assert_eq!(parse(&after.tags_json), json!({"site": "north"}));
    assert_eq!(parse(&after.desired_json), json!({"interval": "PT5M"}));
    assert_eq!(after.desired_version, before.desired_version + 1);
    let metadata = parse(&after.desired_metadata_json);
    assert_eq!(
        metadata["interval"]["$lastUpdatedBy"], "operator:alice",
        "{metadata}"
    );
    assert_eq!(
        metadata["interval"]["$lastUpdatedVersion"],
        after.desired_version
    );

    let stale = refusal(service.twins().patch_twin(request).await);
    assert_eq!(
        (stale.reason(), stale.kind()),
        ("ETAG_MISMATCH", Kind::Aborted)
    );
    assert_eq!(stale.fact("actual_etag"), Some(after.etag.as_str()));
    service.stop().await;
}

#[tokio::test]
async fn a_bad_patch_names_every_path_and_writes_nothing() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let before = service.twin(MODULE).await;
    let mut twins = service.twins();
    let broken = twins
        .patch_twin(patch(r#"{"a":{"bad key":1},"b":9007199254740993000}"#))
        .await;
    let paths = refused_with(broken, "INVALID_TWIN");
    assert!(
        paths
            .iter()
            .any(|path| path == "properties.desired.a.[[bad key]]"),
        "{paths:?}"
    );
    let long = format!(r#"{{"x":"{}"}}"#, "y".repeat(5000));
    let paths = refused_with(twins.patch_twin(patch(&long)).await, "INVALID_TWIN");
    assert!(paths.iter().any(|path| path.ends_with('x')), "{paths:?}");
    for no_object in ["[1]", "{", "7"] {
        let paths = refused_with(twins.patch_twin(patch(no_object)).await, "INVALID_FIELD");
        assert_eq!(paths, ["desired_patch_json"]);
    }
    refused_with(twins.patch_twin(patch("")).await, "INVALID_FIELD");
    let unknown = proto::PatchTwinRequest {
        name: "devices/ghost".to_owned(),
        ..patch("{\"a\":1}")
    };
    let refused = refusal(twins.patch_twin(unknown).await);
    assert_eq!(
        (refused.reason(), refused.kind()),
        ("DEVICE_NOT_FOUND", Kind::NotFound)
    );
    assert_eq!(service.twin(MODULE).await, before);
    service.stop().await;
}

#[tokio::test]
async fn lists_hold_what_the_filter_lets_through_and_page_on_when_it_drops_all() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for id in ["a", "b", "c", "d"] {
        service.create(id).await;
    }
    service.desire(MODULE, r#"{"marked":true}"#).await;
    let list = async |size, filter: &str| {
        let (mut names, mut pages, mut token) = (Vec::new(), 0, String::new());
        loop {
            let request = proto::ListTwinsRequest {
                page_size: size,
                page_token: token,
                filter: filter.to_owned(),
                ..Default::default()
            };
            let page = service
                .twins()
                .list_twins(request)
                .await
                .unwrap()
                .into_inner();
            assert!(page.twins.len() <= usize::try_from(size).unwrap());
            names.extend(page.twins.into_iter().map(|twin| twin.name));
            token = page.next_page_token;
            pages += 1;
            if token.is_empty() {
                return (names, pages);
            }
        }
    };
    for size in 1..=9 {
        assert_eq!(list(size, "").await.0.len(), 8, "by {size}");
        assert_eq!(
            list(size, "properties.desired.marked = true").await.0,
            [MODULE]
        );
        assert_eq!(list(size, "tags.none = 1").await, (vec![], 1));
    }
    let refused = service
        .twins()
        .list_twins(proto::ListTwinsRequest {
            filter: "tags. = 1".to_owned(),
            ..proto::ListTwinsRequest::default()
        })
        .await;
    assert_eq!(refused_with(refused, "INVALID_QUERY"), ["filter"]);
    service.stop().await;
}

#[tokio::test]
async fn a_page_of_large_twins_ends_before_it_is_too_large_for_a_client() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let value = "v".repeat(4000);
    let large =
        json!({"1": value, "2": value, "3": value, "4": value, "5": value, "6": value, "7": value});
    let count = 60;
    for number in 0..count {
        let request = wire::registry::v1::CreateDeviceRequest {
            device_id: format!("large{number}"),
            ..wire::registry::v1::CreateDeviceRequest::default()
        };
        service.registry().create_device(request).await.unwrap();
        let name = format!("devices/large{number}");
        service.desire(&name, &large.to_string()).await;
        let report = proto::PatchReportedRequest {
            name,
            patch_json: large.to_string(),
            expected_version: 0,
            ..Default::default()
        };
        service.device_twins().patch_reported(report).await.unwrap();
    }
    let (mut seen, mut pages, mut token) = (0, 0, String::new());
    loop {
        let request = proto::ListTwinsRequest {
            page_size: 1000,
            page_token: token,
            filter: String::new(),
            ..Default::default()
        };
        // The client has the limit that gRPC clients have by themselves, 4 MiB.
        let page = service
            .twins()
            .list_twins(request)
            .await
            .expect("not too large")
            .into_inner();
        seen += page.twins.len();
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, count);
    assert!(pages > 1);
    service.stop().await;
}

#[tokio::test]
async fn a_request_over_the_size_limit_is_refused_and_the_service_goes_on() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    // Below tonic's own default of 4 MiB it would not tell our limit from none.
    let six = patch(&format!(r#"{{"x":"{}"}}"#, "y".repeat(6 << 20)));
    refused_with(service.twins().patch_twin(six).await, "INVALID_TWIN");
    let nine = patch(&format!(r#"{{"x":"{}"}}"#, "y".repeat(9 << 20)));
    let refused = service
        .twins()
        .patch_twin(nine)
        .await
        .expect_err("too large");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    service.twin(MODULE).await;
    service.stop().await;
}

fn acknowledge(version: u64, reason: &str) -> proto::AcknowledgeDesiredRequest {
    proto::AcknowledgeDesiredRequest {
        name: MODULE.to_owned(),
        version,
        applied: reason.is_empty(),
        reason: reason.to_owned(),
        ..proto::AcknowledgeDesiredRequest::default()
    }
}

#[tokio::test]
async fn a_desired_change_is_pending_until_the_agent_answers() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let state = async || service.posture(MODULE).await["configuration"].clone();
    let version = service.desire(MODULE, r#"{"a":1}"#).await.desired_version;
    assert_eq!(state().await["state"], "pending");
    let request = proto::GetDesiredRequest {
        name: MODULE.to_owned(),
        include_reported: true,
        changes_after_version: 0,
    };
    let section = service
        .device_twins()
        .get_desired(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (section.document_json.as_str(), section.version),
        (r#"{"a":1}"#, version)
    );
    assert_eq!(
        (section.reported_json.as_str(), section.reported_version),
        ("{}", 1)
    );
    let mut door = service.device_twins();
    door.acknowledge_desired(acknowledge(version, ""))
        .await
        .expect("taken");
    assert_eq!(state().await["state"], "applied");
    let version = service.desire(MODULE, r#"{"a":2}"#).await.desired_version;
    assert_eq!(state().await["state"], "pending");
    door.acknowledge_desired(acknowledge(version, "too fast"))
        .await
        .expect("taken");
    let rejected = state().await;
    assert_eq!(
        (&rejected["state"], &rejected["reason"]),
        (&json!("rejected"), &json!("too fast"))
    );
    assert_eq!(rejected["appliedVersion"], version - 1);
    let never = door.acknowledge_desired(acknowledge(99, "")).await;
    refused_with(never, "VERSION_NEVER_DESIRED");
    service.stop().await;
}

#[tokio::test]
async fn policies_write_once_and_never_over_an_operator() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let twin = service.desire(MODULE, r#"{"mine":1}"#).await;
    let request = proto::ApplyPolicySettingsRequest {
        name: MODULE.to_owned(),
        expected_desired_version: twin.desired_version,
        policies: vec![proto::PolicySettings {
            policy_id: "ports".to_owned(),
            policy_revision: 4,
            settings_json: r#"{"mine":2,"fast":true}"#.to_owned(),
        }],
        ..proto::ApplyPolicySettingsRequest::default()
    };
    let mut policies = service.policies();
    let first = policies
        .apply_policy_settings(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(first.changed);
    assert_eq!(first.desired_version, twin.desired_version + 1);
    assert_eq!(first.lost.len(), 1);
    assert_eq!(
        (first.lost[0].path.as_str(), first.lost[0].owner.as_str()),
        ("mine", "operator:admin")
    );
    let stale = refusal(policies.apply_policy_settings(request.clone()).await);
    assert_eq!(
        (stale.reason(), stale.kind()),
        ("VERSION_MISMATCH", Kind::Aborted)
    );
    let now = proto::ApplyPolicySettingsRequest {
        expected_desired_version: first.desired_version,
        ..request
    };
    let second = policies
        .apply_policy_settings(now.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (second.changed, second.desired_version),
        (false, first.desired_version)
    );
    let after = service.twin(MODULE).await;
    assert_eq!(parse(&after.desired_json), json!({"fast": true, "mine": 1}));
    let metadata = parse(&after.desired_metadata_json);
    assert_eq!(
        metadata["fast"]["$lastUpdatedBy"], "policy:ports@4",
        "{metadata}"
    );
    let nothing = proto::ApplyPolicySettingsRequest {
        policies: vec![],
        ..now
    };
    policies.apply_policy_settings(nothing).await.unwrap();
    assert_eq!(
        parse(&service.twin(MODULE).await.desired_json),
        json!({"mine": 1})
    );
    service.stop().await;
}

#[tokio::test]
async fn a_device_can_read_what_changed_since_a_version() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let first = service.twin(MODULE).await.desired_version;
    for desired in [
        r#"{"a":1,"b":{"c":2}}"#,
        r#"{"a":null}"#,
        r#"{"b":{"c":2},"gone":null}"#,
    ] {
        service.desire(MODULE, desired).await;
    }
    let since = async |version: u64| {
        let request = proto::GetDesiredRequest {
            name: MODULE.to_owned(),
            changes_after_version: version,
            ..proto::GetDesiredRequest::default()
        };
        let section = service.device_twins().get_desired(request).await;
        let section = section.unwrap().into_inner();
        assert_eq!((section.version, &*section.document_json), (first + 3, ""));
        let changes = section.changes.into_iter();
        changes
            .map(|change| (change.version - first, parse(&change.patch_json)))
            .collect::<Vec<_>>()
    };
    let all = [
        (1, json!({"a": 1, "b": {"c": 2}})),
        (2, json!({"a": null})),
        // As it was sent, though it changed nothing.
        (3, json!({"b": {"c": 2}, "gone": null})),
    ];
    assert_eq!(since(first).await, all);
    assert_eq!(since(first + 1).await, all[1..]);
    assert_eq!(since(first + 3).await, []);
    assert_eq!(since(first + 9).await, []);
    service.stop().await;
}

#[tokio::test]
async fn large_changes_are_told_a_few_at_a_time() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let first = service.twin(MODULE).await.desired_version;
    let text = "x".repeat(4000);
    let values: serde_json::Map<_, _> = (0..7).map(|n| (format!("k{n}"), json!(text))).collect();
    let desired = json!(values).to_string();
    for _ in 0..12 {
        service.desire(MODULE, &desired).await;
    }
    let (mut known, mut answers) = (first, 0);
    while known < first + 12 {
        let request = proto::GetDesiredRequest {
            name: MODULE.to_owned(),
            changes_after_version: known,
            ..proto::GetDesiredRequest::default()
        };
        let section = service.device_twins().get_desired(request).await;
        let section = section.unwrap().into_inner();
        assert_eq!(section.version, first + 12);
        let bytes: usize = section.changes.iter().map(|it| it.patch_json.len()).sum();
        assert!(!section.changes.is_empty() && bytes <= 160 << 10, "{bytes}");
        for change in section.changes {
            known += 1;
            assert_eq!(change.version, known, "in order, and each once");
        }
        answers += 1;
    }
    assert_eq!(answers, 3, "128 KiB hold four of them");
    service.stop().await;
}

#[tokio::test]
async fn a_batch_of_large_twins_is_answered_in_parts() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    // Each with metadata of some 200 KB: more than gRPC carries if all go into one answer.
    let values: serde_json::Map<_, _> = (0..2400).map(|n| (format!("k{n}"), json!(n))).collect();
    let desired = json!(values).to_string();
    let mut names = Vec::new();
    for number in 0..48 {
        let id = format!("d{number:02}");
        service.create(&id).await;
        names.push(format!("devices/{id}"));
        service.desire(&names[number], &desired).await;
    }
    names.push("devices/nobody".to_owned());
    let (mut rest, mut found, mut missing, mut calls) = (names.clone(), Vec::new(), Vec::new(), 0);
    while !rest.is_empty() {
        let request = proto::BatchGetTwinsRequest {
            names: rest.clone(),
            read_mask: None,
        };
        let answer = service.twins().batch_get_twins(request).await;
        let answer = answer.expect("an answer that fits").into_inner();
        assert!(answer.unread.len() < rest.len(), "each call gets on");
        found.extend(answer.twins.into_iter().map(|twin| twin.name));
        missing.extend(answer.missing);
        (rest, calls) = (answer.unread, calls + 1);
    }
    assert!(calls > 1, "they do not fit in one answer");
    assert_eq!(missing, [names.pop().unwrap()]);
    assert_eq!(found, names, "each once, in the order asked for");
    service.stop().await;
}
