//! Writes of operators to twins: conditions, trying out, repeating, replacing.

use serde_json::{Value, json};
use service_kit::error::{Classified as _, Kind};
use testkit::NatsServer;
use wire::twin::v1 as proto;

use crate::service::{MODULE, Service, refusal, refused_with};

const REQUEST: &str = "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11";

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

fn replace(desired: &str) -> proto::ReplaceTwinRequest {
    proto::ReplaceTwinRequest {
        name: MODULE.to_owned(),
        desired_json: desired.to_owned(),
        ..proto::ReplaceTwinRequest::default()
    }
}

#[tokio::test]
async fn a_write_is_made_only_if_what_it_expects_holds() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let before = service.twin(MODULE).await;
    let call = async |request| service.twins().patch_twin(request).await;

    let foreign = refusal(
        call(proto::PatchTwinRequest {
            etag: "\"abc\"".to_owned(),
            ..patch(r#"{"a":1}"#)
        })
        .await,
    );
    assert_eq!(
        (foreign.reason(), foreign.kind()),
        ("ETAG_MISMATCH", Kind::Aborted)
    );
    assert_eq!(foreign.fact("iot_hub_code"), Some("412001"));
    assert_eq!(foreign.fact("iot_hub_name"), Some("PreconditionFailed"));

    let versioned = |version| proto::PatchTwinRequest {
        expected_desired_version: version,
        ..patch(r#"{"a":1}"#)
    };
    let stale = refusal(call(versioned(9)).await);
    assert_eq!(stale.reason(), "VERSION_MISMATCH");
    assert_eq!(stale.fact("actual_version"), Some("1"));

    let only_if = |condition: &str| proto::PatchTwinRequest {
        only_if: condition.to_owned(),
        ..patch(r#"{"a":2}"#)
    };
    let wrong = refusal(call(only_if("properties.desired.a = 1")).await);
    assert_eq!(
        (wrong.reason(), wrong.kind()),
        ("CONDITION_FALSE", Kind::FailedPrecondition)
    );
    assert_eq!(
        refused_with(call(only_if("a = = 1")).await, "INVALID_QUERY"),
        ["only_if"]
    );
    assert_eq!(service.twin(MODULE).await, before, "nothing was written");

    call(versioned(1)).await.expect("it holds");
    let after = call(only_if("properties.desired.a = 1"))
        .await
        .expect("it holds");
    assert_eq!(parse(&after.into_inner().desired_json), json!({"a": 2}));
    service.stop().await;
}

#[tokio::test]
async fn a_write_can_be_tried_out() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let before = service.twin(MODULE).await;
    let trial = |desired: &str| proto::PatchTwinRequest {
        validate_only: true,
        request_id: REQUEST.to_owned(),
        ..patch(desired)
    };
    let would = service.twins().patch_twin(trial(r#"{"a":1}"#)).await;
    let would = would.expect("it would do").into_inner();
    assert_eq!(parse(&would.desired_json), json!({"a": 1}));
    assert_eq!(would.desired_version, before.desired_version + 1);
    let refused = service.twins().patch_twin(trial(r#"{"a b":1}"#)).await;
    assert_eq!(refused_with(refused, "INVALID_TWIN").len(), 1);
    assert_eq!(service.twin(MODULE).await, before, "nothing was written");

    // A trial is not remembered under its id: the write itself may have the same.
    let request = proto::PatchTwinRequest {
        validate_only: false,
        ..trial(r#"{"a":1}"#)
    };
    let written = service.twins().patch_twin(request).await.expect("written");
    assert_eq!(written.into_inner(), service.twin(MODULE).await);
    service.stop().await;
}

#[tokio::test]
async fn a_repeated_write_is_answered_the_same_and_made_once() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let request = proto::PatchTwinRequest {
        request_id: REQUEST.to_owned(),
        ..patch(r#"{"a":1}"#)
    };
    let mut twins = service.twins();
    let mut again = service.twins();
    let (first, second) = tokio::join!(
        twins.patch_twin(request.clone()),
        again.patch_twin(request.clone())
    );
    let first = first.expect("written").into_inner();
    assert_eq!(second.expect("answered").into_inner(), first);
    service.desire(MODULE, r#"{"b":2}"#).await;
    service.stop().await;

    let service = Service::start(&nats, &folder).await;
    let later = service.twins().patch_twin(request.clone()).await;
    assert_eq!(later.expect("answered").into_inner(), first);
    let present = service.twin(MODULE).await;
    assert_eq!(
        present.desired_version,
        first.desired_version + 1,
        "only `b` came after"
    );
    let other = proto::PatchTwinRequest {
        request_id: REQUEST.to_owned(),
        ..patch(r#"{"a":2}"#)
    };
    refused_with(service.twins().patch_twin(other).await, "REQUEST_ID_REUSED");
    let no_uuid = proto::PatchTwinRequest {
        request_id: "1".to_owned(),
        ..patch(r#"{"a":2}"#)
    };
    let refused = service.twins().patch_twin(no_uuid).await;
    assert_eq!(refused_with(refused, "INVALID_FIELD"), ["request_id"]);
    service.stop().await;
}

#[tokio::test]
async fn a_replacement_leaves_exactly_what_it_says() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    service.desire(MODULE, r#"{"a":1,"b":{"c":2}}"#).await;
    let call = async |request| service.twins().replace_twin(request).await;
    let tagged = proto::ReplaceTwinRequest {
        tags_json: r#"{"site":"x"}"#.to_owned(),
        ..replace(r#"{"b":{"d":1}}"#)
    };
    let after = call(tagged).await.expect("replaced").into_inner();
    assert_eq!(parse(&after.desired_json), json!({"b": {"d": 1}}));
    assert_eq!(parse(&after.tags_json), json!({"site": "x"}));
    let after = call(replace("{}")).await.expect("replaced").into_inner();
    assert_eq!(parse(&after.desired_json), json!({}));
    assert_eq!(
        parse(&after.tags_json),
        json!({"site": "x"}),
        "not named, not touched"
    );
    // The same again is a write: clients count on the version.
    let again = call(replace("{}")).await.expect("replaced").into_inner();
    assert_eq!(again.desired_version, after.desired_version + 1);
    let nothing = call(replace("")).await;
    assert_eq!(refused_with(nothing, "INVALID_FIELD"), ["desired_json"]);
    let stale = proto::ReplaceTwinRequest {
        etag: after.etag,
        ..replace("{}")
    };
    refused_with(call(stale).await, "ETAG_MISMATCH");
    service.stop().await;
}
