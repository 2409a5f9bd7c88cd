//! Modules in bulk: batches, and lists over devices.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use testkit::NatsServer;
use wire::registry::v1 as proto;

use crate::service::{Service, config, refused_with};

const REQUEST: &str = "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11";

fn create(device: &str, module: &str) -> proto::CreateModuleRequest {
    proto::CreateModuleRequest {
        parent: format!("devices/{device}"),
        module_id: module.to_owned(),
        tags_json: format!(r#"{{"of":"{device}"}}"#),
        ..proto::CreateModuleRequest::default()
    }
}

/// A service with these devices, which have no modules.
async fn with_devices(nats: &NatsServer, folder: &tempfile::TempDir, ids: &[&str]) -> Service {
    let mut settings = config(nats, folder.path());
    settings.security_module_on_create = false;
    let service = Service::start_with(settings).await;
    for id in ids {
        let request = proto::CreateDeviceRequest {
            device_id: (*id).to_owned(),
            ..proto::CreateDeviceRequest::default()
        };
        let made = service.registry().create_device(request).await;
        made.expect("made");
    }
    service
}

fn told(answer: &proto::BatchModulesResponse) -> Vec<(&str, &str)> {
    let told = answer.results.iter().map(|result| {
        let reason = result.error.as_ref().map(|error| error.reason.as_str());
        (result.name.as_str(), reason.unwrap_or("OK"))
    });
    told.collect()
}

#[tokio::test]
async fn modules_are_made_changed_and_removed_in_batches_each_for_itself() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = with_devices(&nats, &folder, &["a", "b"]).await;
    let mut registry = service.registry();
    let batch = |requests: Vec<_>| proto::BatchCreateModulesRequest { requests };
    let first = proto::CreateModuleRequest {
        request_id: REQUEST.to_owned(),
        ..create("a", "m")
    };
    let requests = vec![
        first.clone(),
        create("gone", "m"),
        create("b", "no/slash"),
        create("b", "m"),
        create("b", "twice"),
        create("b", "twice"),
        create("a", "n"),
    ];
    let made = registry.batch_create_modules(batch(requests)).await;
    let made = made.unwrap().into_inner();
    assert_eq!(
        told(&made),
        [
            ("devices/a/modules/m", "OK"),
            ("devices/gone/modules/m", "DEVICE_NOT_FOUND"),
            ("devices/b/modules/no/slash", "INVALID_FIELD"),
            ("devices/b/modules/m", "OK"),
            ("devices/b/modules/twice", "DEFINED_MULTIPLE_TIMES"),
            ("devices/b/modules/twice", "DEFINED_MULTIPLE_TIMES"),
            ("devices/a/modules/n", "OK"),
        ]
    );
    assert!(made.results[0].module.as_ref().unwrap().keys.is_some());
    let again = registry.batch_create_modules(batch(vec![first, create("a", "n")]));
    let again = again.await.unwrap().into_inner();
    assert_eq!(again.results[0], made.results[0], "the item was repeated");
    assert_eq!(told(&again)[1].1, "MODULE_ALREADY_EXISTS");
    let number = again.results[1].error.as_ref().unwrap().iot_hub_code;
    assert_eq!(number, 409_301);

    let update = |name: &str, only_if: &str| proto::UpdateModuleRequest {
        name: name.to_owned(),
        managed_by: Some("x".to_owned()),
        only_if: only_if.to_owned(),
        ..proto::UpdateModuleRequest::default()
    };
    let requests = vec![
        update("devices/a/modules/m", "tags.of = 'a'"),
        update("devices/b/modules/m", "tags.of = 'a'"),
        update("devices/b", ""),
    ];
    let changed = registry.batch_update_modules(proto::BatchUpdateModulesRequest { requests });
    let changed = changed.await.unwrap().into_inner();
    let outcomes: Vec<_> = told(&changed).into_iter().map(|(_, told)| told).collect();
    assert_eq!(outcomes, ["OK", "CONDITION_FALSE", "INVALID_FIELD"]);
    assert_eq!(service.module("devices/a/modules/m").await.managed_by, "x");
    assert_eq!(service.module("devices/b/modules/m").await.managed_by, "");

    let names = [
        "devices/b/modules/m",
        "devices/b/modules/gone",
        "devices/a/modules/m",
    ];
    let get = proto::BatchGetModulesRequest {
        names: names.map(ToOwned::to_owned).to_vec(),
        ..proto::BatchGetModulesRequest::default()
    };
    let found = registry.batch_get_modules(get).await.unwrap().into_inner();
    let order: Vec<_> = found.modules.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(order, [names[0], names[2]]);
    assert_eq!(found.missing, [names[1]]);
    assert!(found.modules.iter().all(|it| it.keys.is_none()));

    let requests = names.map(|name| proto::DeleteModuleRequest {
        name: name.to_owned(),
        ..proto::DeleteModuleRequest::default()
    });
    let requests = requests.to_vec();
    let removed = registry.batch_delete_modules(proto::BatchDeleteModulesRequest { requests });
    let removed = removed.await.unwrap().into_inner();
    let outcomes: Vec<_> = told(&removed).into_iter().map(|(_, told)| told).collect();
    assert_eq!(outcomes, ["OK", "MODULE_NOT_FOUND", "OK"]);
    let empty = registry.batch_create_modules(batch(Vec::new())).await;
    assert_eq!(refused_with(empty, "INVALID_FIELD"), ["requests"]);
    let many = (0..101).map(|number| create("a", &format!("m{number}")));
    let many = registry.batch_create_modules(batch(many.collect())).await;
    assert_eq!(refused_with(many, "INVALID_FIELD"), ["requests"]);
    service.stop().await;
}

/// The names on all pages of a list, and how many pages there were.
async fn pages(service: &Service, request: proto::ListModulesRequest) -> (Vec<String>, usize) {
    let mut request = request;
    let (mut names, mut pages) = (Vec::new(), 0);
    loop {
        let page = service.registry().list_modules(request.clone()).await;
        let page = page.expect("a page").into_inner();
        names.extend(page.modules.into_iter().map(|module| module.name));
        pages += 1;
        if page.next_page_token.is_empty() {
            return (names, pages);
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn modules_are_listed_over_devices_page_by_page_as_a_filter_wants() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    // `-` is a device like any other.
    let ids = ["-", "a", "b", "c"];
    let service = with_devices(&nats, &folder, &ids).await;
    let mut expected = Vec::new();
    for id in ["-", "a", "c"] {
        let requests = ["m1", "m2", "m3"].map(|module| create(id, module)).to_vec();
        let batch = proto::BatchCreateModulesRequest { requests };
        let made = service.registry().batch_create_modules(batch).await;
        let made = made.unwrap().into_inner();
        assert!(made.results.iter().all(|result| result.error.is_none()));
        expected.extend(made.results.into_iter().map(|result| result.name));
    }
    let of = |parent: &str, filter: &str, size| proto::ListModulesRequest {
        parent: parent.to_owned(),
        filter: filter.to_owned(),
        page_size: size,
        ..proto::ListModulesRequest::default()
    };
    assert_eq!(pages(&service, of("", "", 0)).await, (expected.clone(), 1));
    let (all, count) = pages(&service, of("", "", 2)).await;
    assert_eq!((all, count >= 5), (expected.clone(), true));
    let (some, _) = pages(&service, of("", "tags.of IN ['a','b']", 2)).await;
    assert_eq!(some, expected[3..6]);
    let (some, _) = pages(&service, of("devices/a", "moduleId != 'm2'", 1)).await;
    assert_eq!(some, ["devices/a/modules/m1", "devices/a/modules/m3"]);
    let (own, _) = pages(&service, of("devices/-", "", 2)).await;
    assert_eq!(own, expected[..3]);
    let named = proto::ListModulesRequest {
        devices: ["c", "b", "gone", "a", "c"]
            .map(|id| format!("devices/{id}"))
            .to_vec(),
        ..of("", "", 2)
    };
    let (some, _) = pages(&service, named.clone()).await;
    assert_eq!(some, expected[3..]);

    let call = async |request| service.registry().list_modules(request).await;
    let token = call(of("", "", 2))
        .await
        .unwrap()
        .into_inner()
        .next_page_token;
    let other = proto::ListModulesRequest {
        page_token: token,
        ..named.clone()
    };
    assert_eq!(
        refused_with(call(other).await, "INVALID_FIELD"),
        ["page_token"]
    );
    let both = proto::ListModulesRequest {
        parent: "devices/a".to_owned(),
        ..named
    };
    assert_eq!(refused_with(call(both).await, "INVALID_FIELD"), ["devices"]);
    let wrong = proto::ListModulesRequest {
        devices: vec!["devices/a".to_owned(), "devices/a/modules/m1".to_owned()],
        ..of("", "", 2)
    };
    assert_eq!(
        refused_with(call(wrong).await, "INVALID_FIELD"),
        ["devices[1]"]
    );
    refused_with(call(of("devices/gone", "", 2)).await, "DEVICE_NOT_FOUND");
    let query = call(of("", "tags.of =", 2)).await;
    assert_eq!(refused_with(query, "INVALID_QUERY"), ["filter"]);
    service.stop().await;
}

/// Keys that no known master key opens do not keep a list or a batch from being read.
#[tokio::test]
async fn modules_whose_keys_cannot_be_opened_are_named() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = with_devices(&nats, &folder, &["a"]).await;
    let batch = proto::BatchCreateModulesRequest {
        requests: vec![create("a", "m")],
    };
    service
        .registry()
        .batch_create_modules(batch)
        .await
        .unwrap();
    service.stop().await;
    let mut settings = config(&nats, folder.path());
    let key = BASE64_STANDARD.encode([5_u8; 32]);
    settings.master_key = service_kit::secret::Secret::new(key);
    let service = Service::start_with(settings).await;
    let list = proto::ListModulesRequest {
        view: proto::IdentityView::Full.into(),
        ..proto::ListModulesRequest::default()
    };
    let listed = service.registry().list_modules(list).await.unwrap();
    let listed = listed.into_inner();
    assert_eq!(listed.unreadable_keys, ["devices/a/modules/m"]);
    assert!(listed.modules.len() == 1 && listed.modules[0].keys.is_none());
    let get = proto::BatchGetModulesRequest {
        names: listed.unreadable_keys,
        view: proto::IdentityView::Full.into(),
        read_mask: None,
    };
    let found = service.registry().batch_get_modules(get).await.unwrap();
    assert_eq!(found.into_inner().unreadable_keys, ["devices/a/modules/m"]);
    service.stop().await;
}
