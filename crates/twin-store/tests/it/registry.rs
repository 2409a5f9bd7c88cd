use base64::prelude::{BASE64_STANDARD, Engine as _};
use service_kit::error::{Classified as _, Kind};
use service_kit::secret::Secret;
use testkit::NatsServer;
use wire::registry::v1 as proto;

use crate::service::{Service, refusal, refused_with};

fn device(name: &str) -> proto::GetDeviceRequest {
    proto::GetDeviceRequest {
        name: name.to_owned(),
        ..proto::GetDeviceRequest::default()
    }
}

fn page(size: i32, token: &str) -> proto::ListDevicesRequest {
    proto::ListDevicesRequest {
        page_size: size,
        page_token: token.to_owned(),
        ..Default::default()
    }
}

/// The number in the etag of an identity.
fn number(etag: &str) -> u64 {
    let bytes = BASE64_STANDARD.decode(etag).expect("base64");
    let text = String::from_utf8(bytes).expect("digits");
    text.parse().expect("a number")
}

#[tokio::test]
async fn a_device_lives_from_creation_to_removal() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let mut registry = service.registry();

    let made = service.create("d").await;
    assert_eq!(made.name, "devices/d");
    let keys = made.keys.clone().expect("shown on creation");
    let found = registry
        .get_device(device("devices/d"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.keys, None, "not shown unless asked for");
    let full = proto::GetDeviceRequest {
        view: proto::IdentityView::Full.into(),
        ..device("devices/d")
    };
    let found = registry.get_device(full).await.unwrap().into_inner();
    assert_eq!(found.keys, Some(keys.clone()));
    let credentials = service
        .credentials()
        .get_credentials(proto::GetCredentialsRequest {
            name: "devices/d".to_owned(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(credentials.keys, Some(keys));
    assert_eq!(credentials.generation_id, made.generation_id);

    let list = proto::ListModulesRequest {
        parent: "devices/d".to_owned(),
        ..proto::ListModulesRequest::default()
    };
    let modules = registry
        .list_modules(list)
        .await
        .unwrap()
        .into_inner()
        .modules;
    assert_eq!(modules.len(), 1);
    assert_eq!(modules[0].module_id, "DefenderIotMicroAgent");

    let delete = |etag: &str| proto::DeleteDeviceRequest {
        name: "devices/d".to_owned(),
        etag: etag.to_owned(),
        ..Default::default()
    };
    let refused = refusal(registry.delete_device(delete("9")).await);
    assert_eq!(refused.reason(), "ETAG_MISMATCH");
    assert_eq!(refused.kind(), Kind::Aborted);
    assert_eq!(refused.fact("actual_etag"), Some(made.etag.as_str()));
    registry
        .delete_device(delete(&made.etag))
        .await
        .expect("deleted");
    refused_with(
        registry.get_device(device("devices/d")).await,
        "DEVICE_NOT_FOUND",
    );
    let module = proto::GetModuleRequest {
        name: modules[0].name.clone(),
        ..proto::GetModuleRequest::default()
    };
    refused_with(registry.get_module(module).await, "MODULE_NOT_FOUND");
    let again = service.create("d").await;
    assert_ne!(again.generation_id, made.generation_id);
    assert_ne!(again.etag, made.etag, "each generation begins elsewhere");
    let stale = refusal(registry.delete_device(delete(&made.etag)).await);
    assert_eq!(stale.reason(), "ETAG_MISMATCH");
    let twin = service.twin("devices/d").await;
    assert_eq!(twin.device_etag, again.etag);
    service.stop().await;
}

#[tokio::test]
async fn a_bad_request_says_which_field() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let mut registry = service.registry();
    let create = async |request| service.registry().create_device(request).await;
    let plain = proto::CreateDeviceRequest {
        device_id: "d".to_owned(),
        ..proto::CreateDeviceRequest::default()
    };
    create_ok(create(plain.clone()).await);
    refused_with(create(plain.clone()).await, "DEVICE_ALREADY_EXISTS");
    let bad_id = proto::CreateDeviceRequest {
        device_id: "no/slash".to_owned(),
        ..plain.clone()
    };
    assert_eq!(
        refused_with(create(bad_id).await, "INVALID_FIELD"),
        ["device_id"]
    );
    let bad_key = proto::CreateDeviceRequest {
        device_id: "e".to_owned(),
        keys: Some(proto::SymmetricKeys {
            primary: "not base64!".to_owned(),
            secondary: String::new(),
        }),
        ..plain.clone()
    };
    assert_eq!(
        refused_with(create(bad_key).await, "INVALID_FIELD"),
        ["keys.primary"]
    );
    let long = proto::CreateDeviceRequest {
        device_id: "e".to_owned(),
        status_reason: "x".repeat(129),
        ..plain
    };
    assert_eq!(
        refused_with(create(long).await, "INVALID_FIELD"),
        ["status_reason"]
    );
    let wrong_kind = registry.get_device(device("devices/d/modules/m")).await;
    assert_eq!(refused_with(wrong_kind, "INVALID_FIELD"), ["name"]);
    let too_many = registry.list_devices(page(1001, "")).await;
    assert_eq!(refused_with(too_many, "INVALID_FIELD"), ["page_size"]);
    let forged = registry.list_devices(page(1, "forged")).await;
    assert_eq!(refused_with(forged, "INVALID_FIELD"), ["page_token"]);
    let update = proto::UpdateDeviceRequest {
        name: "devices/d".to_owned(),
        ..proto::UpdateDeviceRequest::default()
    };
    assert_eq!(
        refused_with(registry.update_device(update).await, "INVALID_FIELD"),
        ["status"]
    );
    service.stop().await;
}

fn create_ok(result: Result<tonic::Response<proto::Device>, tonic::Status>) {
    result.expect("created");
}

#[tokio::test]
async fn devices_are_listed_by_pages_whatever_modules_lie_between() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for id in ["a", "b", "c", "d", "e"] {
        service.create(id).await;
    }
    for size in 1..=6 {
        let (mut token, mut ids) = (String::new(), Vec::new());
        loop {
            let answer = service.registry().list_devices(page(size, &token)).await;
            let answer = answer.unwrap().into_inner();
            ids.extend(answer.devices.into_iter().map(|device| device.device_id));
            token = answer.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(ids, ["a", "b", "c", "d", "e"], "by {size}");
    }
    let first = service.registry().list_devices(page(2, "")).await;
    let other = proto::ListDevicesRequest {
        filter: "deviceId = 'e'".to_owned(),
        ..page(2, &first.unwrap().into_inner().next_page_token)
    };
    let refused = service.registry().list_devices(other).await;
    let fields = refused_with(refused, "INVALID_FIELD");
    assert_eq!(
        fields,
        ["page_token"],
        "it is of a list with another filter"
    );
    service.stop().await;
}

#[tokio::test]
async fn a_disabled_device_disables_its_modules_for_ingestion() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let made = service.create("d").await;
    let module = service.module(crate::service::MODULE).await;
    let update = proto::UpdateDeviceRequest {
        name: "devices/d".to_owned(),
        status: proto::Status::Disabled.into(),
        status_reason: "stolen".to_owned(),
        etag: format!("\"{}\"", made.etag),
        ..Default::default()
    };
    let updated = service
        .registry()
        .update_device(update)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(number(&updated.etag), number(&made.etag) + 1);
    assert_eq!(updated.status_reason, "stolen");
    for name in ["devices/d", crate::service::MODULE] {
        let request = proto::GetCredentialsRequest {
            name: name.to_owned(),
        };
        let credentials = service.credentials().get_credentials(request).await;
        let credentials = credentials.unwrap().into_inner();
        assert_eq!(credentials.status(), proto::Status::Disabled, "{name}");
    }
    // The module itself is untouched, and always enabled to whoever looks at it.
    assert_eq!(service.module(crate::service::MODULE).await, module);
    let twin = service.twin(crate::service::MODULE).await;
    assert_eq!((twin.status.as_str(), twin.revision), ("enabled", 2));
    service.stop().await;
}

#[tokio::test]
async fn keys_at_rest_cannot_be_read_in_the_files_of_the_store() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let keys = service
        .create("secretive-device")
        .await
        .keys
        .expect("shown once");
    service.stop().await;
    let mut found_the_device = false;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        // The write-ahead log goes when the last connection closes, which may be just now.
        let bytes = match std::fs::read(file.path()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{}: {error}", file.path().display()),
        };
        let holds = |text: &str| {
            bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        };
        found_the_device |= holds("secretive-device");
        for key in [&keys.primary, &keys.secondary] {
            assert!(!holds(key), "{:?} holds a key", file.path());
        }
    }
    assert!(found_the_device, "the right files were searched");
    let reopened = Service::start(&nats, &folder).await;
    let full = proto::GetDeviceRequest {
        name: "devices/secretive-device".to_owned(),
        view: proto::IdentityView::Full.into(),
        ..proto::GetDeviceRequest::default()
    };
    let device = reopened
        .registry()
        .get_device(full)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(device.keys, Some(keys), "they open after a restart");
    reopened.stop().await;
}

fn mask(paths: &[&str]) -> prost_types::FieldMask {
    prost_types::FieldMask {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    }
}

#[tokio::test]
async fn devices_are_read_together_and_only_what_is_asked_for() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for id in ["a", "b"] {
        service.create(id).await;
    }
    let names = ["devices/b", "devices/gone", "devices/a"].map(str::to_owned);
    let batch = proto::BatchGetDevicesRequest {
        names: names.to_vec(),
        view: proto::IdentityView::Full.into(),
        read_mask: Some(mask(&["status", "keys"])),
    };
    let answer = service.registry().batch_get_devices(batch.clone()).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.missing, ["devices/gone"]);
    let found: Vec<_> = answer.devices.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(found, ["devices/b", "devices/a"]);
    for device in answer.devices {
        assert_eq!(device.status(), proto::Status::Enabled);
        assert!(device.keys.is_some() && !device.etag.is_empty());
        assert_eq!((device.device_id.as_str(), device.create_time), ("", None));
    }
    for (names, wanted) in [
        (Vec::new(), "names"),
        (vec![String::new(); 1001], "names"),
        (vec!["devices/a/modules/m".to_owned()], "names[0]"),
    ] {
        let request = proto::BatchGetDevicesRequest {
            names,
            ..proto::BatchGetDevicesRequest::default()
        };
        let refused = service.registry().batch_get_devices(request).await;
        assert_eq!(refused_with(refused, "INVALID_FIELD"), [wanted]);
    }
    let unknown = proto::GetDeviceRequest {
        read_mask: Some(mask(&["tags_json"])),
        ..device("devices/a")
    };
    let refused = service.registry().get_device(unknown).await;
    assert_eq!(refused_with(refused, "INVALID_FIELD"), ["read_mask"]);
    let list = proto::ListModulesRequest {
        parent: "devices/a".to_owned(),
        view: proto::IdentityView::Full.into(),
        read_mask: Some(mask(&["keys"])),
        ..proto::ListModulesRequest::default()
    };
    let listed = service.registry().list_modules(list).await.unwrap();
    let module = &listed.get_ref().modules[0];
    assert!(module.keys.is_some() && module.module_id.is_empty());
    service.stop().await;
}

/// Keys of another master key, and rows that cannot be read, do not keep the rest from being listed.
#[tokio::test]
async fn what_cannot_be_read_is_named_in_lists() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for id in ["a", "b", "c"] {
        service.create(id).await;
    }
    service.stop().await;
    let file = rusqlite::Connection::open(folder.path().join("twins.db")).unwrap();
    let damage = "UPDATE twins SET tags = '{\"x\":1}' WHERE device_id = 'b' AND module_id = '';
        UPDATE twins SET tags = '{\"x\":1}' WHERE device_id = 'c' AND module_id <> ''";
    file.execute_batch(damage).unwrap();
    drop(file);
    let mut settings = crate::service::config(&nats, folder.path());
    settings.master_key = Secret::new(BASE64_STANDARD.encode([5_u8; 32]));
    let service = Service::start_with(settings).await;
    let mut registry = service.registry();
    let list = proto::ListDevicesRequest {
        view: proto::IdentityView::Full.into(),
        ..page(10, "")
    };
    let listed = registry.list_devices(list).await.unwrap().into_inner();
    let ids: Vec<_> = listed
        .devices
        .iter()
        .map(|it| it.device_id.as_str())
        .collect();
    assert_eq!(ids, ["a", "c"]);
    assert!(listed.devices.iter().all(|it| it.keys.is_none()));
    assert_eq!(listed.damaged, ["devices/b"]);
    assert_eq!(listed.unreadable_keys, ["devices/a", "devices/c"]);
    let plain = registry.list_devices(page(10, "")).await.unwrap();
    assert!(plain.into_inner().unreadable_keys.is_empty());
    let batch = proto::BatchGetDevicesRequest {
        names: vec!["devices/b".to_owned(), "devices/a".to_owned()],
        view: proto::IdentityView::Full.into(),
        read_mask: None,
    };
    let batch = registry
        .batch_get_devices(batch)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(batch.damaged, ["devices/b"]);
    assert_eq!(batch.unreadable_keys, ["devices/a"]);
    let modules = async |parent: &str| {
        let list = proto::ListModulesRequest {
            parent: parent.to_owned(),
            view: proto::IdentityView::Full.into(),
            ..proto::ListModulesRequest::default()
        };
        let listed = service.registry().list_modules(list).await;
        listed.unwrap().into_inner()
    };
    let of_c = modules("devices/c").await;
    assert_eq!((of_c.modules.len(), of_c.damaged.len()), (0, 1));
    let of_b = modules("devices/b").await;
    assert_eq!((of_b.modules.len(), of_b.unreadable_keys.len()), (1, 1));
    let full = proto::GetDeviceRequest {
        view: proto::IdentityView::Full.into(),
        ..device("devices/a")
    };
    let refused = refusal(registry.get_device(full).await);
    assert_eq!(
        refused.reason(),
        "KEY_UNUSABLE",
        "whoever asks for it alone"
    );
    let ensure = proto::EnsureSecurityModulesRequest::default();
    let ensured = registry.ensure_security_modules(ensure).await.unwrap();
    assert_eq!(ensured.get_ref().damaged, ["devices/b"]);
    service.stop().await;
}

#[tokio::test]
async fn a_change_of_an_identity_may_depend_on_its_twin_and_be_tried_first() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let made = service.create("d").await;
    let mut registry = service.registry();
    let module = proto::CreateModuleRequest {
        parent: "devices/d".to_owned(),
        module_id: "m".to_owned(),
        tags_json: r#"{"site":"x"}"#.to_owned(),
        desired_json: r#"{"rate":5}"#.to_owned(),
        ..proto::CreateModuleRequest::default()
    };
    registry.create_module(module).await.expect("made");
    let name = "devices/d/modules/m";
    let twin = service.twin(name).await;
    assert_eq!(twin.tags_json, r#"{"site":"x"}"#);
    assert_eq!(twin.desired_json, r#"{"rate":5}"#);

    let false_here = "tags.site = 'y'".to_owned();
    let update = proto::UpdateDeviceRequest {
        name: "devices/d".to_owned(),
        iot_edge: Some(true),
        only_if: false_here.clone(),
        ..proto::UpdateDeviceRequest::default()
    };
    let refused = registry.update_device(update).await;
    refused_with(refused, "CONDITION_FALSE");
    let update = proto::UpdateModuleRequest {
        name: name.to_owned(),
        managed_by: Some("me".to_owned()),
        only_if: false_here.clone(),
        ..proto::UpdateModuleRequest::default()
    };
    refused_with(
        registry.update_module(update.clone()).await,
        "CONDITION_FALSE",
    );
    let update = proto::UpdateModuleRequest {
        only_if: "tags.site = 'x' AND properties.desired.rate > 4".to_owned(),
        ..update
    };
    registry.update_module(update).await.expect("it holds");
    let rotate = proto::RotateKeysRequest {
        name: "devices/d".to_owned(),
        kind: proto::KeyKind::Primary.into(),
        validate_only: true,
        ..proto::RotateKeysRequest::default()
    };
    let tried = registry.rotate_keys(rotate.clone()).await.unwrap();
    assert_eq!(tried.get_ref().keys, None);
    assert_eq!(number(&tried.get_ref().etag), number(&made.etag) + 1);
    let rotate = proto::RotateKeysRequest {
        only_if: false_here.clone(),
        ..rotate
    };
    refused_with(registry.rotate_keys(rotate).await, "CONDITION_FALSE");
    let delete = proto::DeleteModuleRequest {
        name: name.to_owned(),
        validate_only: true,
        ..proto::DeleteModuleRequest::default()
    };
    registry
        .delete_module(delete.clone())
        .await
        .expect("it could");
    let delete = proto::DeleteModuleRequest {
        validate_only: false,
        only_if: false_here.clone(),
        ..delete
    };
    refused_with(registry.delete_module(delete).await, "CONDITION_FALSE");
    service.module(name).await;
    let delete = proto::DeleteDeviceRequest {
        name: "devices/d".to_owned(),
        only_if: false_here,
        ..proto::DeleteDeviceRequest::default()
    };
    refused_with(
        registry.delete_device(delete.clone()).await,
        "CONDITION_FALSE",
    );
    let bad = proto::DeleteDeviceRequest {
        only_if: "site =".to_owned(),
        ..delete.clone()
    };
    let refused = registry.delete_device(bad).await;
    refused_with(refused, "INVALID_QUERY");
    let delete = proto::DeleteDeviceRequest {
        only_if: "IS_DEFINED(tags.site) = false".to_owned(),
        validate_only: true,
        ..delete
    };
    registry.delete_device(delete).await.expect("it could");
    let token = proto::CreateEnrollmentTokenRequest {
        validate_only: true,
        ..proto::CreateEnrollmentTokenRequest::default()
    };
    let tried = registry.create_enrollment_token(token).await.unwrap();
    assert_eq!(tried.get_ref().token, "");
    assert!(tried.get_ref().expire_time.is_some());
    assert_eq!(
        service.device("d").await,
        proto::Device { keys: None, ..made }
    );
    service.stop().await;
}

#[tokio::test]
async fn upkeep_is_done_on_the_identities_that_it_is_told() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let mut registry = service.registry();
    for id in ["a", "b", "c"] {
        let request = proto::CreateDeviceRequest {
            device_id: id.to_owned(),
            ..proto::CreateDeviceRequest::default()
        };
        registry.create_device(request).await.expect("made");
    }
    let names = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let ensure = proto::EnsureSecurityModulesRequest {
        names: names(&["devices/c", "devices/a", "devices/gone"]),
        validate_only: true,
        ..proto::EnsureSecurityModulesRequest::default()
    };
    let tried = registry.ensure_security_modules(ensure.clone()).await;
    assert_eq!(tried.unwrap().get_ref().created, 2);
    let ensure = proto::EnsureSecurityModulesRequest {
        validate_only: false,
        ..ensure
    };
    for (created, existing) in [(2, 0), (0, 2)] {
        let done = registry.ensure_security_modules(ensure.clone()).await;
        let done = done.unwrap().into_inner();
        assert_eq!((done.created, done.existing), (created, existing));
        assert_eq!(done.next_page_token, "");
    }
    let reseal = proto::ResealSecretsRequest {
        names: names(&["devices/a", "devices/a/modules/DefenderIotMicroAgent"]),
        ..proto::ResealSecretsRequest::default()
    };
    let done = registry.reseal_secrets(reseal.clone()).await.unwrap();
    assert_eq!(done.get_ref().current, 2);
    let both = proto::ResealSecretsRequest {
        page_size: 5,
        ..reseal
    };
    let refused = registry.reseal_secrets(both).await;
    assert_eq!(refused_with(refused, "INVALID_FIELD"), ["names"]);
    service.stop().await;
}

#[tokio::test]
async fn a_change_shows_the_keys_it_left_to_who_asks_and_a_reason_needs_no_status() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let made = service.create("d").await;
    let update = |reason: &str, view: proto::IdentityView| proto::UpdateDeviceRequest {
        name: "devices/d".to_owned(),
        status_reason: reason.to_owned(),
        view: view.into(),
        ..proto::UpdateDeviceRequest::default()
    };
    let mut registry = service.registry();
    let full = update("why", proto::IdentityView::Full);
    let changed = registry.update_device(full.clone()).await;
    let changed = changed.unwrap().into_inner();
    assert_eq!(changed.keys, made.keys);
    let told = (changed.status(), changed.status_reason.as_str());
    assert_eq!(told, (proto::Status::Enabled, "why"));
    let basic = update("again", proto::IdentityView::Unspecified);
    let changed = registry.update_device(basic).await.unwrap().into_inner();
    assert_eq!(changed.keys, None);
    let tried = proto::UpdateDeviceRequest {
        authentication_type: proto::AuthenticationType::Sas.into(),
        validate_only: true,
        ..full
    };
    let tried = registry.update_device(tried).await.unwrap().into_inner();
    assert_eq!(tried.keys, None, "nobody will ever have them");
    let module = proto::UpdateModuleRequest {
        name: crate::service::MODULE.to_owned(),
        managed_by: Some("me".to_owned()),
        view: proto::IdentityView::Full.into(),
        ..proto::UpdateModuleRequest::default()
    };
    let changed = registry.update_module(module).await.unwrap().into_inner();
    assert!(changed.keys.is_some());
    service.stop().await;
}
