//! Forms of requests: what an answer holds, and which of a list are answered.

use prost_types::FieldMask;
use service_kit::error::Classified as _;
use testkit::NatsServer;
use wire::registry::v1 as registry;
use wire::twin::v1 as proto;

use crate::bulk::{create, ended, patch, start};
use crate::service::{MODULE, Service, refusal, refused_with};

fn mask(paths: &[&str]) -> FieldMask {
    FieldMask {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    }
}

#[tokio::test]
async fn a_write_is_answered_with_the_fields_that_were_asked_for() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let request = proto::PatchTwinRequest {
        name: MODULE.to_owned(),
        tags_patch_json: r#"{"a":1}"#.to_owned(),
        desired_patch_json: r#"{"b":1}"#.to_owned(),
        read_mask: Some(mask(&["tags_json", "desired_metadata_json"])),
        ..proto::PatchTwinRequest::default()
    };
    let patched = service.twins().patch_twin(request.clone()).await.unwrap();
    let patched = patched.into_inner();
    let now = service.twin(MODULE).await;
    let expected = proto::Twin {
        name: MODULE.to_owned(),
        etag: now.etag,
        revision: now.revision,
        tags_json: r#"{"a":1}"#.to_owned(),
        desired_metadata_json: now.desired_metadata_json,
        ..proto::Twin::default()
    };
    assert!(expected.desired_metadata_json.contains("$lastUpdatedBy"));
    assert_eq!(patched, expected);
    let replace = proto::ReplaceTwinRequest {
        name: MODULE.to_owned(),
        desired_json: r#"{"c":1}"#.to_owned(),
        read_mask: Some(mask(&["desired_json"])),
        ..proto::ReplaceTwinRequest::default()
    };
    let replaced = service.twins().replace_twin(replace).await.unwrap();
    let replaced = replaced.into_inner();
    assert_eq!(replaced.desired_json, r#"{"c":1}"#);
    assert_eq!(
        (replaced.tags_json.as_str(), replaced.desired_version),
        ("", 0)
    );
    let whole = proto::PatchTwinRequest {
        read_mask: None,
        ..request.clone()
    };
    let whole = service.twins().patch_twin(whole).await.unwrap();
    assert_eq!(whole.into_inner(), service.twin(MODULE).await);
    let unknown = proto::PatchTwinRequest {
        read_mask: Some(mask(&["tags"])),
        ..request
    };
    let before = service.twin(MODULE).await;
    let refused = service.twins().patch_twin(unknown).await;
    assert_eq!(refused_with(refused, "INVALID_FIELD"), ["read_mask"]);
    assert_eq!(service.twin(MODULE).await, before, "nothing was written");
    service.stop().await;
}

#[tokio::test]
async fn a_key_that_stands_twice_is_refused_at_every_door_with_its_path() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let before = service.twin(MODULE).await;
    let twice = r#"{"x":{"y":1,"y":{"z":2}}}"#.to_owned();
    let patch = proto::PatchTwinRequest {
        name: MODULE.to_owned(),
        tags_patch_json: twice.clone(),
        ..proto::PatchTwinRequest::default()
    };
    let replace = proto::ReplaceTwinRequest {
        name: MODULE.to_owned(),
        desired_json: twice.clone(),
        ..proto::ReplaceTwinRequest::default()
    };
    let report = proto::PatchReportedRequest {
        name: MODULE.to_owned(),
        patch_json: twice.clone(),
        ..proto::PatchReportedRequest::default()
    };
    let create = registry::CreateDeviceRequest {
        device_id: "e".to_owned(),
        desired_json: twice.clone(),
        ..registry::CreateDeviceRequest::default()
    };
    let settings = proto::ApplyPolicySettingsRequest {
        name: MODULE.to_owned(),
        policies: vec![proto::PolicySettings {
            policy_id: "p".to_owned(),
            policy_revision: 1,
            settings_json: twice,
        }],
        ..proto::ApplyPolicySettingsRequest::default()
    };
    let (desired, tags, reported) = (
        "properties.desired.x.y",
        "tags.x.y",
        "properties.reported.x.y",
    );
    for (path, status) in [
        (tags, service.twins().patch_twin(patch).await.map(drop)),
        (
            desired,
            service.twins().replace_twin(replace).await.map(drop),
        ),
        (
            reported,
            service
                .device_twins()
                .patch_reported(report)
                .await
                .map(drop),
        ),
        (
            desired,
            service.registry().create_device(create).await.map(drop),
        ),
        (
            desired,
            service
                .policies()
                .apply_policy_settings(settings)
                .await
                .map(drop),
        ),
    ] {
        let refused = refusal(status.map(tonic::Response::new));
        let violations = refused.violations();
        assert_eq!(violations[0].subject, path, "{refused}");
        assert_eq!(violations[0].rule, "DUPLICATE_KEY");
        assert_eq!(refused.fact("iot_hub_code"), Some("400004"));
    }
    assert_eq!(service.twin(MODULE).await, before, "nothing was written");
    service.stop().await;
}

#[tokio::test]
async fn a_change_of_the_registry_is_answered_with_the_fields_that_were_asked_for() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let create = registry::CreateDeviceRequest {
        device_id: "d".to_owned(),
        status_reason: "new".to_owned(),
        read_mask: Some(mask(&["status_reason"])),
        request_id: "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11".to_owned(),
        ..Default::default()
    };
    let created = service.registry().create_device(create.clone()).await;
    let created = created.unwrap().into_inner();
    let expected = registry::Device {
        name: "devices/d".to_owned(),
        etag: created.etag.clone(),
        status_reason: "new".to_owned(),
        ..Default::default()
    };
    assert_eq!(created, expected, "no keys either");
    let again = service.registry().create_device(create).await;
    assert_eq!(
        again.unwrap().into_inner(),
        expected,
        "it is answered as before"
    );

    let update = registry::UpdateDeviceRequest {
        name: "devices/d".to_owned(),
        status: registry::Status::Disabled.into(),
        read_mask: Some(mask(&["status"])),
        ..Default::default()
    };
    let updated = service.registry().update_device(update.clone()).await;
    let updated = updated.unwrap().into_inner();
    assert_eq!(
        (updated.status(), updated.generation_id.as_str()),
        (registry::Status::Disabled, "")
    );
    let module = |id: &str, fields: &[&str]| registry::CreateModuleRequest {
        parent: "devices/d".to_owned(),
        module_id: id.to_owned(),
        managed_by: "us".to_owned(),
        read_mask: Some(mask(fields)),
        ..Default::default()
    };
    let batch = registry::BatchCreateModulesRequest {
        requests: vec![module("m", &["keys"]), module("n", &["managed_by"])],
    };
    let made = service.registry().batch_create_modules(batch).await;
    let made: Vec<_> = made.unwrap().into_inner().results;
    let made: Vec<_> = made.into_iter().filter_map(|one| one.module).collect();
    assert_eq!(
        (made[0].keys.is_some(), made[0].managed_by.as_str()),
        (true, "")
    );
    assert_eq!(
        (made[1].keys.is_some(), made[1].managed_by.as_str()),
        (false, "us")
    );
    let change = registry::UpdateModuleRequest {
        name: "devices/d/modules/m".to_owned(),
        managed_by: Some("them".to_owned()),
        read_mask: Some(mask(&["name"])),
        ..Default::default()
    };
    let updated = service.registry().update_module(change).await.unwrap();
    assert_eq!(updated.into_inner().managed_by, "");

    let rotate = |fields: &[&str]| registry::RotateKeysRequest {
        name: "devices/d".to_owned(),
        kind: registry::KeyKind::Swap.into(),
        read_mask: Some(mask(fields)),
        ..Default::default()
    };
    for (fields, has_keys) in [(&["etag"][..], false), (&["keys"], true), (&["*"], true)] {
        let rotated = service.registry().rotate_keys(rotate(fields)).await;
        let rotated = rotated.unwrap().into_inner();
        assert_eq!(rotated.keys.is_some(), has_keys, "{fields:?}");
        assert!(!rotated.etag.is_empty());
    }
    let etag = async || {
        let get = registry::GetDeviceRequest {
            name: "devices/d".to_owned(),
            ..Default::default()
        };
        let device = service.registry().get_device(get).await;
        device.unwrap().into_inner().etag
    };
    let before = etag().await;
    let refused = service.registry().rotate_keys(rotate(&["key"])).await;
    assert_eq!(refused_with(refused, "INVALID_FIELD"), ["read_mask"]);
    let bad = registry::UpdateDeviceRequest {
        read_mask: Some(mask(&["keys", "twin"])),
        ..update
    };
    let refused = service.registry().update_device(bad).await;
    assert_eq!(refused_with(refused, "INVALID_FIELD"), ["read_mask"]);
    assert_eq!(etag().await, before, "nothing was written");
    service.stop().await;
}

/// The names in all pages of a list, one operation a page.
async fn listed(service: &Service, request: proto::ListOperationsRequest) -> Vec<String> {
    let mut request = proto::ListOperationsRequest {
        page_size: 1,
        ..request
    };
    let mut names = Vec::new();
    loop {
        let page = service.bulk().list_operations(request.clone()).await;
        let page = page.expect("a page").into_inner();
        assert!(page.operations.len() <= 1);
        names.extend(page.operations.into_iter().map(|one| one.name));
        if page.next_page_token.is_empty() {
            return names;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn operations_are_listed_by_state_by_who_began_them_and_by_time() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    create(&service, 20).await;
    let first = start(service.bulk(), patch("*", r#"{"n":1}"#)).await;
    let first = ended(service.bulk(), &first.name).await;
    let mut slow = patch("*", r#"{"n":2}"#);
    // It goes on for as long as the test does.
    slow.rate_per_second = 1;
    let slow = start(service.bulk(), slow).await;
    let last = start(service.bulk(), patch("*", r#"{"n":3}"#)).await;
    let last = ended(service.bulk(), &last.name).await;
    let (running, succeeded) = (
        i32::from(proto::OperationState::Running),
        i32::from(proto::OperationState::Succeeded),
    );
    let all = proto::ListOperationsRequest::default;
    let names = [&last.name, &slow.name, &first.name].map(String::clone);
    assert_eq!(listed(&service, all()).await, names, "newest first");
    let request = proto::ListOperationsRequest {
        states: vec![running],
        ..all()
    };
    assert_eq!(listed(&service, request).await, [&*slow.name]);
    let request = proto::ListOperationsRequest {
        states: vec![succeeded],
        end_time: last.create_time,
        ..all()
    };
    assert_eq!(listed(&service, request).await, [&*first.name]);
    let request = proto::ListOperationsRequest {
        actor: first.actor.clone(),
        start_time: slow.create_time,
        ..all()
    };
    let later = [&last.name, &slow.name].map(String::clone);
    assert_eq!(listed(&service, request).await, later);
    let request = proto::ListOperationsRequest {
        actor: "operator:nobody".to_owned(),
        ..all()
    };
    assert!(listed(&service, request).await.is_empty());

    let call = async |request| service.bulk().list_operations(request).await;
    let one = proto::ListOperationsRequest {
        page_size: 1,
        states: vec![succeeded],
        ..all()
    };
    let page = call(one.clone()).await.unwrap().into_inner();
    let other = proto::ListOperationsRequest {
        page_token: page.next_page_token,
        states: vec![running],
        ..one
    };
    let refused = call(other).await;
    assert_eq!(refused_with(refused, "INVALID_FIELD"), ["page_token"]);
    let unknown = proto::ListOperationsRequest {
        states: vec![running, 0],
        ..all()
    };
    let refused = call(unknown).await;
    assert_eq!(refused_with(refused, "INVALID_FIELD"), ["states[1]"]);
    service.stop().await;
}
