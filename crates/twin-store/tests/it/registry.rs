use service_kit::error::{Classified as _, Kind};
use testkit::NatsServer;
use wire::registry::v1 as proto;

use crate::service::{Service, refusal, refused_with};

fn device(name: &str) -> proto::GetDeviceRequest {
    proto::GetDeviceRequest {
        name: name.to_owned(),
        view: 0,
    }
}

fn page(size: i32, token: &str) -> proto::ListDevicesRequest {
    proto::ListDevicesRequest {
        page_size: size,
        page_token: token.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_device_lives_from_creation_to_removal() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let mut registry = service.registry();

    let made = service.create("d").await;
    assert_eq!((made.name.as_str(), made.etag.as_str()), ("devices/d", "1"));
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
    assert_eq!(refused.fact("actual_etag"), Some("1"));
    registry.delete_device(delete("1")).await.expect("deleted");
    refused_with(
        registry.get_device(device("devices/d")).await,
        "DEVICE_NOT_FOUND",
    );
    let module = proto::GetModuleRequest {
        name: modules[0].name.clone(),
        view: 0,
    };
    refused_with(registry.get_module(module).await, "MODULE_NOT_FOUND");
    let again = service.create("d").await;
    assert_ne!(again.generation_id, made.generation_id);
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
    service.stop().await;
}

#[tokio::test]
async fn a_disabled_device_disables_its_modules_for_ingestion() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let update = proto::UpdateDeviceRequest {
        name: "devices/d".to_owned(),
        status: proto::Status::Disabled.into(),
        status_reason: "stolen".to_owned(),
        etag: "\"1\"".to_owned(),
        ..Default::default()
    };
    let updated = service
        .registry()
        .update_device(update)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (updated.etag.as_str(), updated.status_reason.as_str()),
        ("2", "stolen")
    );
    for name in ["devices/d", crate::service::MODULE] {
        let request = proto::GetCredentialsRequest {
            name: name.to_owned(),
        };
        let credentials = service.credentials().get_credentials(request).await;
        let credentials = credentials.unwrap().into_inner();
        assert_eq!(credentials.status(), proto::Status::Disabled, "{name}");
        assert_eq!(credentials.etag, "2", "{name}");
    }
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
