//! The registry for fleets: batches, upkeep, proofs of all kinds, and the audit of it all.

use std::collections::BTreeSet;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use service_kit::error::Classified as _;
use service_kit::secret::Secret;
use testkit::NatsServer;
use tonic::Code;
use wire::registry::v1 as proto;

use crate::service::{Service, config, refusal, refused_with};

const REQUEST: &str = "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11";

fn create(id: &str) -> proto::CreateDeviceRequest {
    proto::CreateDeviceRequest {
        device_id: id.to_owned(),
        ..proto::CreateDeviceRequest::default()
    }
}

fn errors(response: &proto::BatchDevicesResponse) -> Vec<(String, i32)> {
    let error = |result: &proto::BatchDeviceResult| match &result.error {
        None => ("OK".to_owned(), 0),
        Some(error) => (error.reason.clone(), error.iot_hub_code),
    };
    response.results.iter().map(error).collect()
}

#[tokio::test]
async fn an_item_of_a_batch_succeeds_or_fails_for_itself() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let mut registry = service.registry();
    service.create("there").await;
    let batch = proto::BatchCreateDevicesRequest {
        requests: ["a", "there", "no/slash", "b", "twice", "twice"]
            .map(create)
            .to_vec(),
    };
    let made = registry
        .batch_create_devices(batch)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        errors(&made),
        [
            ("OK".to_owned(), 0),
            ("DEVICE_ALREADY_EXISTS".to_owned(), 409_001),
            ("INVALID_FIELD".to_owned(), 400_004),
            ("OK".to_owned(), 0),
            ("DEFINED_MULTIPLE_TIMES".to_owned(), 400_011),
            ("DEFINED_MULTIPLE_TIMES".to_owned(), 400_011),
        ]
    );
    assert!(
        made.results[0]
            .device
            .as_ref()
            .is_some_and(|device| device.keys.is_some())
    );
    assert_eq!(
        made.results[1].error.as_ref().unwrap().code,
        i32::from(Code::AlreadyExists)
    );

    let etag = service.device("a").await.etag;
    let update = |name: &str, etag: &str| proto::UpdateDeviceRequest {
        name: name.to_owned(),
        status: proto::Status::Disabled.into(),
        etag: etag.to_owned(),
        ..proto::UpdateDeviceRequest::default()
    };
    let batch = proto::BatchUpdateDevicesRequest {
        requests: vec![update("devices/a", &etag), update("devices/b", "7")],
    };
    let updated = registry
        .batch_update_devices(batch)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        errors(&updated),
        [("OK".to_owned(), 0), ("ETAG_MISMATCH".to_owned(), 412_001)]
    );
    let statistics = registry
        .get_registry_statistics(proto::GetRegistryStatisticsRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            statistics.devices,
            statistics.enabled_devices,
            statistics.disabled_devices
        ),
        (3, 2, 1)
    );
    assert_eq!(statistics.modules, 1);

    let delete = |name: &str| proto::DeleteDeviceRequest {
        name: name.to_owned(),
        ..proto::DeleteDeviceRequest::default()
    };
    let batch = proto::BatchDeleteDevicesRequest {
        requests: ["devices/a", "devices/gone", "devices/b"]
            .map(delete)
            .to_vec(),
    };
    let deleted = registry
        .batch_delete_devices(batch)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        errors(&deleted),
        [
            ("OK".to_owned(), 0),
            ("DEVICE_NOT_FOUND".to_owned(), 404_001),
            ("OK".to_owned(), 0),
        ]
    );
    let many = proto::BatchCreateDevicesRequest {
        requests: (0..101)
            .map(|number| create(&format!("d{number}")))
            .collect(),
    };
    let refused = registry.batch_create_devices(many).await;
    assert_eq!(refused_with(refused, "INVALID_FIELD"), ["requests"]);
    service.stop().await;
}

#[tokio::test]
async fn a_full_hub_says_so_on_every_way_into_it() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = config(&nats, folder.path());
    (settings.devices_max, settings.modules_max) = (2, 1);
    let service = Service::start_with(settings.clone()).await;
    let mut registry = service.registry();
    let token = proto::CreateEnrollmentTokenRequest {
        max_uses: 9,
        ..proto::CreateEnrollmentTokenRequest::default()
    };
    let token = registry.create_enrollment_token(token).await.unwrap();
    let token = token.into_inner().token;
    service.create("a").await;
    let batch = proto::BatchCreateDevicesRequest {
        requests: ["b", "c"].map(create).to_vec(),
    };
    let made = registry.batch_create_devices(batch.clone()).await.unwrap();
    let full = ("TOO_MANY_DEVICES".to_owned(), 413_002);
    assert_eq!(errors(made.get_ref()), [("OK".to_owned(), 0), full]);
    let message = &made.get_ref().results[1].error.as_ref().unwrap().message;
    assert!(message.contains("2 devices") && message.contains("`devices_max`"));
    service.stop().await;

    let service = Service::start_with(settings).await;
    let mut registry = service.registry();
    let refused = refusal(registry.create_device(create("c")).await);
    assert_eq!(refused.reason(), "TOO_MANY_DEVICES");
    assert_eq!(refused.fact("iot_hub_name"), Some("TooManyDevices"));
    let module = proto::CreateModuleRequest {
        parent: "devices/b".to_owned(),
        module_id: "m".to_owned(),
        ..proto::CreateModuleRequest::default()
    };
    let refused = refusal(registry.create_module(module).await);
    assert_eq!(refused.reason(), "TOO_MANY_MODULES_IN_HUB");
    let ensure = proto::EnsureSecurityModulesRequest::default();
    let ensured = registry.ensure_security_modules(ensure).await.unwrap();
    assert_eq!(
        errors(&proto::BatchDevicesResponse {
            results: ensured.into_inner().failed
        }),
        [("TOO_MANY_MODULES_IN_HUB".to_owned(), 413_002)]
    );
    let redeem = proto::RedeemEnrollmentTokenRequest {
        token,
        device_id: "c".to_owned(),
        nonce: "0123456789abcdef".to_owned(),
    };
    let mut credentials = service.credentials();
    let refused = refusal(credentials.redeem_enrollment_token(redeem.clone()).await);
    assert_eq!(refused.reason(), "TOO_MANY_DEVICES");
    let delete = proto::DeleteDeviceRequest {
        name: "devices/a".to_owned(),
        ..proto::DeleteDeviceRequest::default()
    };
    registry.delete_device(delete).await.expect("deleted");
    credentials
        .redeem_enrollment_token(redeem)
        .await
        .expect("there is room for it and its module");
    service.stop().await;
}

#[tokio::test]
async fn a_repeated_creation_is_answered_with_the_same_keys_which_are_not_readable_at_rest() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let request = proto::CreateDeviceRequest {
        request_id: REQUEST.to_owned(),
        ..create("d")
    };
    let mut registry = service.registry();
    let first = registry
        .create_device(request.clone())
        .await
        .unwrap()
        .into_inner();
    service.stop().await;
    let service = Service::start(&nats, &folder).await;
    let again = service.registry().create_device(request.clone()).await;
    assert_eq!(again.expect("answered").into_inner(), first);
    let other = proto::CreateDeviceRequest {
        status_reason: "other".to_owned(),
        ..request
    };
    let refused = service.registry().create_device(other).await;
    refused_with(refused, "REQUEST_ID_REUSED");
    service.stop().await;
    let keys = first.keys.expect("shown");
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            for key in [&keys.primary, &keys.secondary] {
                let found = bytes
                    .windows(key.len())
                    .any(|window| window == key.as_bytes());
                assert!(!found, "a key lies open in {}", path.display());
            }
        }
    }
}

#[tokio::test]
async fn an_identity_may_prove_itself_in_other_ways_and_change_them() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let mut registry = service.registry();
    let thumbprint = "ab".repeat(20);
    let request = proto::CreateDeviceRequest {
        authentication_type: proto::AuthenticationType::SelfSigned.into(),
        thumbprints: Some(proto::Thumbprints {
            primary: thumbprint.clone(),
            secondary: String::new(),
        }),
        iot_edge: true,
        tags_json: r#"{"site":"x"}"#.to_owned(),
        desired_json: r#"{"rate":5}"#.to_owned(),
        ..create("d")
    };
    let made = registry.create_device(request).await.unwrap().into_inner();
    assert_eq!(made.keys, None);
    assert!(made.iot_edge);
    let twin = service.twin("devices/d").await;
    assert_eq!(twin.authentication_type, "selfSigned");
    assert_eq!(twin.primary_thumbprint, thumbprint.to_uppercase());
    assert_eq!(
        (twin.tags_json.as_str(), twin.desired_json.as_str()),
        (r#"{"site":"x"}"#, r#"{"rate":5}"#)
    );
    let ask = proto::GetCredentialsRequest {
        name: "devices/d".to_owned(),
    };
    let credentials = service.credentials().get_credentials(ask.clone()).await;
    let credentials = credentials.unwrap().into_inner();
    assert_eq!(credentials.keys, None);
    assert_eq!(
        credentials.thumbprints.unwrap().primary,
        thumbprint.to_uppercase()
    );

    let rotate = |kind: proto::KeyKind| proto::RotateKeysRequest {
        name: "devices/d".to_owned(),
        kind: kind.into(),
        ..proto::RotateKeysRequest::default()
    };
    let refused = refusal(registry.rotate_keys(rotate(proto::KeyKind::Primary)).await);
    assert_eq!(refused.reason(), "NO_KEYS");
    let update = proto::UpdateDeviceRequest {
        name: "devices/d".to_owned(),
        authentication_type: proto::AuthenticationType::Sas.into(),
        ..proto::UpdateDeviceRequest::default()
    };
    registry.update_device(update).await.expect("updated");
    let first = registry.rotate_keys(rotate(proto::KeyKind::Primary)).await;
    let first = first.unwrap().into_inner().keys.unwrap();
    let second = registry.rotate_keys(rotate(proto::KeyKind::Swap)).await;
    let second = second.unwrap().into_inner().keys.unwrap();
    assert_eq!(
        (&first.primary, &first.secondary),
        (&second.secondary, &second.primary)
    );
    let credentials = service.credentials().get_credentials(ask).await;
    assert_eq!(credentials.unwrap().into_inner().keys, Some(second));
    let below = proto::CreateModuleRequest {
        parent: "devices/d/modules/m".to_owned(),
        module_id: "n".to_owned(),
        ..proto::CreateModuleRequest::default()
    };
    let refused = refusal(registry.create_module(below).await);
    assert_eq!(
        refused.fact("iot_hub_name"),
        Some("CannotRegisterModuleToModule")
    );
    service.stop().await;
}

#[tokio::test]
async fn security_modules_are_made_for_all_and_doing_it_again_makes_none() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let mut registry = service.registry();
    for id in ["a", "b", "c"] {
        registry.create_device(create(id)).await.expect("made");
    }
    service.create("d").await;
    let mut ensure = async || {
        let (mut created, mut existing) = (0, 0);
        let mut page_token = String::new();
        loop {
            let request = proto::EnsureSecurityModulesRequest {
                page_size: 3,
                page_token,
                ..proto::EnsureSecurityModulesRequest::default()
            };
            let page = registry
                .ensure_security_modules(request)
                .await
                .unwrap()
                .into_inner();
            assert_eq!(page.failed, []);
            created += page.created;
            existing += page.existing;
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return (created, existing);
            }
        }
    };
    assert_eq!(ensure().await, (3, 1));
    assert_eq!(ensure().await, (0, 4));
    service.module_generation("b").await;
    service.stop().await;

    let mut settings = config(&nats, folder.path());
    settings.security_module_on_create = true;
    let service = Service::start_with(settings).await;
    service
        .registry()
        .create_device(create("e"))
        .await
        .expect("made");
    service.module_generation("e").await;
    service.stop().await;
}

#[tokio::test]
async fn keys_are_sealed_anew_when_the_master_key_changes() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let made = service.create("d").await;
    service.stop().await;

    let mut settings = config(&nats, folder.path());
    settings.master_key = Secret::new(BASE64_STANDARD.encode([5_u8; 32]));
    settings.previous_master_key_files = vec![folder.path().join("master.key")];
    let service = Service::start_with(settings.clone()).await;
    let reseal = async |id: &str| {
        let request = proto::ResealSecretsRequest {
            request_id: id.to_owned(),
            ..proto::ResealSecretsRequest::default()
        };
        let page = service
            .registry()
            .reseal_secrets(request)
            .await
            .unwrap()
            .into_inner();
        assert!(page.next_page_token.is_empty());
        (page.resealed, page.current, page.failed.len())
    };
    assert_eq!(reseal(REQUEST).await, (2, 0, 0));
    assert_eq!(reseal("").await, (0, 2, 0));
    assert_eq!(reseal(REQUEST).await, (2, 0, 0), "answered the same");
    assert_eq!(
        service.device("d").await.etag,
        made.etag,
        "the identity is as it was"
    );
    service.stop().await;

    settings.previous_master_key_files.clear();
    let service = Service::start_with(settings.clone()).await;
    let ask = proto::GetCredentialsRequest {
        name: "devices/d".to_owned(),
    };
    let credentials = service.credentials().get_credentials(ask.clone()).await;
    assert_eq!(credentials.unwrap().into_inner().keys, made.keys);
    service.stop().await;

    settings.master_key = Secret::new(BASE64_STANDARD.encode([6_u8; 32]));
    let service = Service::start_with(settings).await;
    let page = service
        .registry()
        .reseal_secrets(proto::ResealSecretsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.failed.len(), 2, "no known master key opens them");
    service.stop().await;
}

#[tokio::test]
async fn every_administrative_change_is_in_a_chain_that_is_whole() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for id in ["a", "b", "c", "d"] {
        service.create(id).await;
    }
    service.desire("devices/a", r#"{"x":1}"#).await;
    let token = proto::CreateEnrollmentTokenRequest::default();
    service
        .registry()
        .create_enrollment_token(token)
        .await
        .expect("made");
    let delete = proto::DeleteDeviceRequest {
        name: "devices/b".to_owned(),
        ..proto::DeleteDeviceRequest::default()
    };
    service
        .registry()
        .delete_device(delete)
        .await
        .expect("deleted");
    let list = async |resource: &str| {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListAuditEntriesRequest {
                page_size: 3,
                page_token,
                resource: resource.to_owned(),
                ..Default::default()
            };
            let page = service
                .audit()
                .list_audit_entries(request)
                .await
                .unwrap()
                .into_inner();
            all.extend(page.entries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return all;
            }
        }
    };
    let all = list("").await;
    assert_eq!(all.len(), 11);
    let actions: BTreeSet<_> = all.iter().map(|entry| entry.action.as_str()).collect();
    let expected = [
        "device.create",
        "device.delete",
        "enrollment_token.create",
        "module.create",
        "twin.patch",
    ];
    assert_eq!(actions, BTreeSet::from(expected));
    assert!(all.iter().all(|entry| entry.actor == "operator:admin"));
    let of_b: Vec<_> = list("devices/b")
        .await
        .into_iter()
        .map(|entry| entry.action)
        .collect();
    assert_eq!(of_b, ["device.create", "module.create", "device.delete"]);

    let verified = service
        .audit()
        .verify_audit(proto::VerifyAuditRequest::default())
        .await;
    let verified = verified.unwrap().into_inner();
    assert!(verified.whole, "{verified:?}");
    let entries: u64 = verified.chains.iter().map(|chain| chain.entries).sum();
    assert_eq!(entries, 11);
    service.stop().await;
}

#[tokio::test]
async fn another_service_adds_to_the_audit_log_once_however_often_it_tries() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let request = || proto::RecordAuditEntryRequest {
        request_id: "0190b3a2-7c1e-7d3a-9d0b-0d6a2b9f4c11".to_owned(),
        actor: "operator:alice".to_owned(),
        action: "policy.update".to_owned(),
        resource: "policies/p".to_owned(),
        detail_json: r#"{"revision": 7}"#.to_owned(),
        ..Default::default()
    };
    for _ in 0..3 {
        let recorded = service.audit().record_audit_entry(request()).await;
        recorded.expect("it is taken");
    }
    let anonymous = proto::RecordAuditEntryRequest {
        request_id: String::new(),
        ..request()
    };
    let refused = service.audit().record_audit_entry(anonymous).await;
    assert_eq!(refused_with(refused, "INVALID_FIELD"), ["request_id"]);
    let listed = proto::ListAuditEntriesRequest {
        resource: "policies/p".to_owned(),
        ..Default::default()
    };
    let listed = service.audit().list_audit_entries(listed).await.unwrap();
    let entries = listed.into_inner().entries;
    let [entry] = entries.as_slice() else {
        panic!("one entry is wanted: {entries:?}");
    };
    assert_eq!(
        (&*entry.actor, &*entry.action),
        ("operator:alice", "policy.update")
    );
    assert!(entry.detail_json.contains("\"revision\":7"), "{entry:?}");
    let mut audit = service.audit();
    let verified = audit
        .verify_audit(proto::VerifyAuditRequest::default())
        .await;
    assert!(verified.unwrap().into_inner().whole);
    service.stop().await;
}
