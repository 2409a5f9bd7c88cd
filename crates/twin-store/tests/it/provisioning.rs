use base64::prelude::{BASE64_STANDARD, Engine as _};
use iot_hub::{RegistrationId, SasToken, SymmetricKey};
use jiff::SignedDuration;
use service_kit::clock::{Clock as _, SystemClock};
use service_kit::error::Classified as _;
use service_kit::secret::Secret;
use testkit::NatsServer;
use wire::registry::v1 as proto;
use wire::registry::v1::registration_claim::Proof;

use crate::service::{Service, config, refusal, refused_with};

/// Names a group, which has keys unless it is told otherwise.
fn group(name: &str) -> proto::Enrollment {
    proto::Enrollment {
        name: format!("enrollmentGroups/{name}"),
        tags_json: r#"{"site":"paris"}"#.to_owned(),
        desired_json: r#"{"interval":5}"#.to_owned(),
        ..proto::Enrollment::default()
    }
}

fn single(name: &str) -> proto::Enrollment {
    proto::Enrollment {
        name: format!("enrollments/{name}"),
        ..proto::Enrollment::default()
    }
}

async fn create(service: &Service, enrollment: proto::Enrollment) -> proto::Enrollment {
    let request = proto::CreateEnrollmentRequest {
        enrollment: Some(enrollment),
        ..proto::CreateEnrollmentRequest::default()
    };
    let made = service.enrollments().create_enrollment(request).await;
    made.expect("made").into_inner()
}

async fn scope(service: &Service) -> String {
    let request = proto::GetProvisioningRequest {};
    let known = service.enrollments().get_provisioning(request).await;
    known.expect("known").into_inner().id_scope
}

/// What a device shows that has this key, as if it were good for an hour.
fn claim(scope: &str, id: &str, key: &str) -> proto::RegistrationClaim {
    let registration = RegistrationId::parse(id).expect("an id");
    let expires_at = SystemClock.now() + SignedDuration::from_hours(1);
    let key = SymmetricKey::parse(key).expect("a key");
    let token = SasToken::sign(registration.resource(scope), &key, expires_at);
    proto::RegistrationClaim {
        id_scope: scope.to_owned(),
        registration_id: id.to_owned(),
        proof: Some(Proof::SasToken(token.to_string())),
    }
}

async fn register(
    service: &Service,
    claim: proto::RegistrationClaim,
) -> Result<tonic::Response<proto::Registration>, tonic::Status> {
    let request = proto::RegisterDeviceRequest { claim: Some(claim) };
    service.provisioning().register_device(request).await
}

async fn full_device(service: &Service, id: &str) -> proto::Device {
    let request = proto::GetDeviceRequest {
        name: format!("devices/{id}"),
        view: proto::IdentityView::Full.into(),
        read_mask: None,
    };
    let device = service.registry().get_device(request).await;
    device.expect("it is there").into_inner()
}

#[tokio::test]
async fn there_are_no_more_enrolments_of_single_devices_than_the_setting_allows() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = config(&nats, folder.path());
    settings.enrollments_max = 2;
    let service = Service::start_with(settings.clone()).await;
    create(&service, single("a")).await;
    create(&service, group("g")).await;
    create(&service, single("b")).await;
    let one_more = |service: &Service| {
        let request = proto::CreateEnrollmentRequest {
            enrollment: Some(single("c")),
            ..proto::CreateEnrollmentRequest::default()
        };
        let mut enrollments = service.enrollments();
        async move { enrollments.create_enrollment(request).await }
    };
    let refused = refusal(one_more(&service).await);
    assert_eq!(refused.reason(), "TOO_MANY_ENROLLMENTS");
    assert!(
        refused.to_string().contains("`enrollments_max`"),
        "{refused}"
    );
    create(&service, group("h")).await;
    service.stop().await;
    let service = Service::start_with(settings).await;
    refused_with(one_more(&service).await, "TOO_MANY_ENROLLMENTS");
    let remove = proto::DeleteEnrollmentRequest {
        name: "enrollments/a".to_owned(),
        ..proto::DeleteEnrollmentRequest::default()
    };
    let removed = service.enrollments().delete_enrollment(remove).await;
    removed.expect("removed");
    one_more(&service).await.expect("there is room again");
    service.stop().await;
}

#[tokio::test]
async fn a_device_of_a_group_is_made_with_its_derived_keys_and_found_again_after_a_restart() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let made = create(&service, group("plant")).await;
    assert!(made.keys.is_some() && !made.etag.is_empty());
    let scope_before = scope(&service).await;
    assert!(scope_before.starts_with("0ne") && scope_before.len() == 11);
    let derive = proto::DeriveDeviceKeysRequest {
        name: made.name.clone(),
        registration_id: "sn-1".to_owned(),
    };
    let derived = service.enrollments().derive_device_keys(derive).await;
    let derived = derived.unwrap().into_inner().keys.unwrap();
    let claimed = claim(&scope_before, "sn-1", &derived.primary);
    let check = proto::CheckRegistrationRequest {
        claim: Some(claimed.clone()),
    };
    let checked = service.provisioning().check_registration(check).await;
    checked.expect("it may register");
    let first = register(&service, claimed.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (first.device_id.as_str(), first.substatus.as_str()),
        ("sn-1", "initialAssignment")
    );
    let device = full_device(&service, "sn-1").await;
    assert_eq!(device.keys.as_ref(), Some(&derived));
    let twin = service.twin("devices/sn-1").await;
    assert_eq!(twin.tags_json, r#"{"site":"paris"}"#);
    service
        .module("devices/sn-1/modules/DefenderIotMicroAgent")
        .await;
    service.stop().await;

    let service = Service::start(&nats, &folder).await;
    assert_eq!(scope(&service).await, scope_before, "it is kept");
    let lookup = proto::GetRegistrationRequest {
        claim: Some(claimed.clone()),
        operation_id: first.operation_id.clone(),
    };
    let known = service
        .provisioning()
        .get_registration(lookup.clone())
        .await;
    assert_eq!(known.unwrap().into_inner(), first);
    let secondary = claim(&scope_before, "sn-1", &derived.secondary);
    let again = register(&service, secondary).await.unwrap().into_inner();
    assert_eq!(again.create_time, first.create_time);
    assert_ne!(
        (&again.etag, &again.operation_id),
        (&first.etag, &first.operation_id)
    );
    let same = full_device(&service, "sn-1").await;
    assert_eq!(
        (same.generation_id, same.etag),
        (device.generation_id, device.etag)
    );
    let old = service.provisioning().get_registration(lookup).await;
    refused_with(old, "NOT_REGISTERED");
    service.stop().await;
}

#[tokio::test]
async fn whoever_proves_nothing_is_refused_in_one_and_the_same_way() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let scope = scope(&service).await;
    let made = create(&service, group("plant")).await;
    let keys = made.keys.unwrap();
    let own = create(&service, single("Own-1")).await.keys.unwrap();
    let derived = SymmetricKey::parse(&keys.primary).unwrap();
    let derived = derived
        .derive(&RegistrationId::parse("own-1").unwrap())
        .to_base64();
    let mut words = std::collections::BTreeSet::new();
    let nothing = proto::RegistrationClaim {
        proof: None,
        ..claim(&scope, "sn-1", &own.primary)
    };
    let no_token = proto::RegistrationClaim {
        proof: Some(Proof::SasToken("SharedAccessSignature x".to_owned())),
        ..nothing.clone()
    };
    for claim in [
        // The group's own key; nobody's key; another hub's scope.
        claim(&scope, "sn-1", &keys.primary),
        claim(&scope, "plant", &keys.secondary),
        claim(&scope, "sn-1", &own.primary),
        claim("0ne00000000", "own-1", &own.primary),
        // A device with an enrolment of its own belongs to no group.
        claim(&scope, "own-1", &derived),
        nothing,
        no_token,
    ] {
        let refused = refusal(register(&service, claim).await);
        assert_eq!(refused.reason(), "REGISTRATION_REFUSED");
        assert_eq!(refused.iot_hub().number(), 401_002);
        words.insert(refused.to_string());
    }
    assert_eq!(words.len(), 1, "{words:?}");
    let registered = register(&service, claim(&scope, "own-1", &own.primary)).await;
    assert_eq!(
        registered.unwrap().get_ref().device_id,
        "Own-1",
        "as the enrolment spells it"
    );
    let bad = proto::RegistrationClaim {
        registration_id: "a b".to_owned(),
        ..claim(&scope, "own-1", &own.primary)
    };
    let refused = register(&service, bad).await;
    assert_eq!(
        refused_with(refused, "INVALID_FIELD"),
        ["claim.registration_id"]
    );
    service.stop().await;
}

#[tokio::test]
async fn a_groups_key_takes_over_no_device_of_another_group() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let scope = scope(&service).await;
    let mut derived = Vec::new();
    for vendor in ["vendor-a", "vendor-b"] {
        let made = create(&service, group(vendor)).await;
        let key = SymmetricKey::parse(&made.keys.unwrap().primary).unwrap();
        let key = key.derive(&RegistrationId::parse("sn-1").unwrap());
        derived.push(key.to_base64());
    }
    let first = register(&service, claim(&scope, "sn-1", &derived[0])).await;
    first.expect("it is its own");
    let before = full_device(&service, "sn-1").await;
    let other = claim(&scope, "sn-1", &derived[1]);
    let refused = refusal(register(&service, other.clone()).await);
    assert_eq!(refused.reason(), "DEVICE_ALREADY_EXISTS");
    assert!(refused.to_string().contains("enrolment"), "{refused}");
    assert_eq!(full_device(&service, "sn-1").await, before);
    // Nor does it learn what became of it.
    let asked = proto::GetRegistrationRequest {
        claim: Some(other),
        operation_id: String::new(),
    };
    let hidden = service.provisioning().get_registration(asked).await;
    refused_with(hidden, "NOT_REGISTERED");
    service.stop().await;
}

/// The key of a device that is derived from a group's.
fn derived(group: &proto::Enrollment, id: &str) -> String {
    let keys = group.keys.as_ref().expect("shown once");
    let key = SymmetricKey::parse(&keys.primary).expect("a key");
    let derived = key.derive(&RegistrationId::parse(id).expect("an id"));
    derived.to_base64().to_string()
}

async fn delete(service: &Service, name: &str) {
    let request = proto::DeleteEnrollmentRequest {
        name: name.to_owned(),
        ..proto::DeleteEnrollmentRequest::default()
    };
    let gone = service.enrollments().delete_enrollment(request).await;
    gone.expect("deleted");
}

#[tokio::test]
async fn devices_move_to_another_group_if_an_operator_has_it_adopt_them() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(&nats, &folder).await;
    let scope = scope(&service).await;
    let old = create(&service, group("old")).await;
    let new = create(&service, group("new")).await;
    let as_old = |id: &str| claim(&scope, id, &derived(&old, id));
    let as_new = |id: &str| claim(&scope, id, &derived(&new, id));
    register(&service, as_old("sn-1")).await.expect("its own");
    // One device gets an enrolment of its own, which is deleted later: it is its group's again.
    let own = create(&service, single("sn-1")).await;
    let own_key = own.keys.expect("shown once").primary;
    let by_own = register(&service, claim(&scope, "sn-1", &own_key)).await;
    by_own.expect("an operator's word");
    delete(&service, "enrollments/sn-1").await;
    register(&service, as_old("sn-1")).await.expect("again");
    // It survives a restart what a device came by.
    service.stop().await;
    service = Service::start(&nats, &folder).await;
    delete(&service, "enrollmentGroups/old").await;
    let refused = register(&service, as_new("sn-1")).await;
    assert_eq!(refusal(refused).reason(), "DEVICE_ALREADY_EXISTS");
    let adopts = |name: &str, adopted: &str| proto::UpdateEnrollmentRequest {
        enrollment: Some(proto::Enrollment {
            name: name.to_owned(),
            adopts: vec![adopted.to_owned()],
            ..proto::Enrollment::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["adopts".to_owned()],
        }),
        ..proto::UpdateEnrollmentRequest::default()
    };
    let wrong = adopts("enrollmentGroups/new", "old");
    let wrong = service.enrollments().update_enrollment(wrong).await;
    assert_eq!(refused_with(wrong, "INVALID_FIELD"), ["enrollment.adopts"]);
    let asked = adopts("enrollmentGroups/new", "enrollmentGroups/old");
    let changed = service.enrollments().update_enrollment(asked).await;
    let changed = changed.expect("changed").into_inner();
    assert_eq!(changed.adopts, ["enrollmentGroups/old"]);
    let before = full_device(&service, "sn-1").await;
    register(&service, as_new("sn-1")).await.expect("adopted");
    let after = full_device(&service, "sn-1").await;
    assert_eq!(after.generation_id, before.generation_id, "the same device");
    assert_eq!(after.keys.unwrap().primary, derived(&new, "sn-1"));
    service.stop().await;
}

/// Has the group `new` adopt these, and no others.
async fn adopt(service: &Service, adopted: &[&str]) {
    let request = proto::UpdateEnrollmentRequest {
        enrollment: Some(proto::Enrollment {
            name: "enrollmentGroups/new".to_owned(),
            adopts: adopted.iter().map(ToString::to_string).collect(),
            ..proto::Enrollment::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["adopts".to_owned()],
        }),
        ..proto::UpdateEnrollmentRequest::default()
    };
    let changed = service.enrollments().update_enrollment(request).await;
    assert_eq!(changed.expect("changed").into_inner().adopts, adopted);
}

#[tokio::test]
async fn a_group_adopts_the_enrolment_that_was_meant_and_none_made_under_its_name_later() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let scope = scope(&service).await;
    let new = create(&service, group("new")).await;
    let as_new = |id: &str| claim(&scope, id, &derived(&new, id));
    let by = |group: &proto::Enrollment, id: &str| claim(&scope, id, &derived(group, id));
    let former = create(&service, group("former")).await;
    let gone = create(&service, group("gone")).await;
    register(&service, by(&gone, "was-gone"))
        .await
        .expect("made");
    delete(&service, "enrollmentGroups/gone").await;
    let both = ["enrollmentGroups/former", "enrollmentGroups/gone"];
    adopt(&service, &both).await;
    // Before or after the group is named, its devices are meant.
    register(&service, by(&former, "first"))
        .await
        .expect("made");
    delete(&service, "enrollmentGroups/former").await;
    for id in ["first", "was-gone"] {
        register(&service, as_new(id)).await.expect("adopted");
    }
    // Others that have the names later are not, also if the same is said again together with more.
    for name in ["former", "gone"] {
        let later = create(&service, group(name)).await;
        register(&service, by(&later, &format!("later-{name}")))
            .await
            .expect("made");
        delete(&service, &format!("enrollmentGroups/{name}")).await;
    }
    adopt(&service, &[both[0], both[1], "enrollmentGroups/another"]).await;
    for id in ["later-former", "later-gone"] {
        let refused = register(&service, as_new(id)).await;
        assert_eq!(refusal(refused).reason(), "DEVICE_ALREADY_EXISTS", "{id}");
    }
    // Until it is taken out and named anew.
    adopt(&service, &[]).await;
    adopt(&service, &both).await;
    register(&service, as_new("later-former"))
        .await
        .expect("adopted");
    service.stop().await;
}

#[tokio::test]
async fn adopted_are_devices_as_they_stand() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let scope = scope(&service).await;
    let (old, new) = (
        create(&service, group("old")).await,
        create(&service, group("new")).await,
    );
    let other = create(&service, group("other")).await;
    let by = |group: &proto::Enrollment, id: &str| claim(&scope, id, &derived(group, id));
    let come = async |group: &proto::Enrollment, id: &str| register(&service, by(group, id)).await;
    // One had an enrolment of its own for a while, one only that.
    come(&old, "own").await.expect("made");
    for id in ["own", "Alone"] {
        let single = create(&service, single(id)).await;
        let key = single.keys.expect("shown once").primary;
        let registered = register(&service, claim(&scope, id, &key)).await;
        registered.expect("an operator's word");
        delete(&service, &format!("enrollments/{id}")).await;
    }
    for id in ["anew", "disabled"] {
        come(&old, id).await.expect("made");
    }
    come(&other, "of-other").await.expect("made");
    // One is another device of that id by now, and one may not connect.
    let name = "devices/anew".to_owned();
    let request = proto::DeleteDeviceRequest {
        name,
        ..proto::DeleteDeviceRequest::default()
    };
    let mut registry = service.registry();
    registry.delete_device(request).await.expect("deleted");
    let request = proto::CreateDeviceRequest {
        device_id: "anew".to_owned(),
        ..proto::CreateDeviceRequest::default()
    };
    registry.create_device(request).await.expect("made");
    let disable = proto::UpdateDeviceRequest {
        name: "devices/disabled".to_owned(),
        status: proto::Status::Disabled.into(),
        ..proto::UpdateDeviceRequest::default()
    };
    registry.update_device(disable).await.expect("disabled");
    delete(&service, "enrollmentGroups/old").await;
    delete(&service, "enrollmentGroups/other").await;
    adopt(&service, &["enrollmentGroups/old", "enrollments/alone"]).await;
    for id in ["own", "Alone", "disabled"] {
        let adopted = come(&new, id).await;
        assert!(adopted.is_ok(), "{id}: {adopted:?}");
    }
    let disabled = full_device(&service, "disabled").await;
    assert_eq!(disabled.status, proto::Status::Disabled as i32);
    for id in ["anew", "of-other"] {
        let refused = come(&new, id).await;
        assert_eq!(refusal(refused).reason(), "DEVICE_ALREADY_EXISTS", "{id}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_disabled_enrolment_lets_nobody_in_and_one_of_a_device_goes_before_its_groups() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let scope = scope(&service).await;
    let made = create(&service, group("plant")).await;
    let update = |enrollment: proto::Enrollment, path: &str| proto::UpdateEnrollmentRequest {
        enrollment: Some(enrollment),
        update_mask: Some(prost_types::FieldMask {
            paths: vec![path.to_owned()],
        }),
        ..proto::UpdateEnrollmentRequest::default()
    };
    let disabled = proto::Enrollment {
        status: proto::Status::Disabled.into(),
        ..made.clone()
    };
    let mut enrollments = service.enrollments();
    let changed = enrollments
        .update_enrollment(update(disabled.clone(), "status"))
        .await;
    let changed = changed.unwrap().into_inner();
    assert_eq!(changed.status, proto::Status::Disabled as i32);
    assert_ne!(changed.etag, made.etag);
    let stale = enrollments
        .update_enrollment(update(disabled, "status"))
        .await;
    refused_with(stale, "ETAG_MISMATCH");
    let key = SymmetricKey::parse(&made.keys.unwrap().primary).unwrap();
    let derived = key
        .derive(&RegistrationId::parse("sn-1").unwrap())
        .to_base64();
    let claimed = claim(&scope, "sn-1", &derived);
    refused_with(
        register(&service, claimed.clone()).await,
        "ENROLLMENT_DISABLED",
    );
    let enabled = proto::Enrollment {
        status: proto::Status::Enabled.into(),
        etag: String::new(),
        ..changed
    };
    enrollments
        .update_enrollment(update(enabled.clone(), "status"))
        .await
        .unwrap();
    register(&service, claimed.clone())
        .await
        .expect("it is enabled");
    // With a disabled enrolment of its own, a device of the group is kept out.
    let out = proto::Enrollment {
        status: proto::Status::Disabled.into(),
        ..single("SN-1")
    };
    create(&service, out).await;
    refused_with(register(&service, claimed).await, "REGISTRATION_REFUSED");
    let unknown = enrollments.update_enrollment(update(enabled, "name")).await;
    assert_eq!(refused_with(unknown, "INVALID_FIELD"), ["update_mask"]);
    service.stop().await;
}

#[tokio::test]
async fn enrolments_are_listed_by_kind_changed_and_removed() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for name in ["b", "A", "c"] {
        create(&service, single(name)).await;
    }
    create(&service, group("plant")).await;
    let mut enrollments = service.enrollments();
    let mut token = String::new();
    let mut names = Vec::new();
    loop {
        let request = proto::ListEnrollmentsRequest {
            page_size: 2,
            page_token: token,
            ..proto::ListEnrollmentsRequest::default()
        };
        let page = enrollments
            .list_enrollments(request)
            .await
            .unwrap()
            .into_inner();
        assert!(
            page.enrollments.iter().all(|one| one.keys.is_none()),
            "keys are secret"
        );
        names.extend(page.enrollments.into_iter().map(|one| one.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["enrollments/A", "enrollments/b", "enrollments/c"]);
    let groups = proto::ListEnrollmentsRequest {
        kind: proto::EnrollmentKind::Group.into(),
        ..proto::ListEnrollmentsRequest::default()
    };
    let page = enrollments
        .list_enrollments(groups)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.enrollments[0].name, "enrollmentGroups/plant");
    let get = |name: &str| proto::GetEnrollmentRequest {
        name: name.to_owned(),
        view: proto::IdentityView::Full.into(),
    };
    let one = enrollments
        .get_enrollment(get("enrollments/a"))
        .await
        .unwrap()
        .into_inner();
    assert!(
        one.keys.is_some(),
        "case does not count, and keys were asked for"
    );
    let anew = proto::UpdateEnrollmentRequest {
        enrollment: Some(proto::Enrollment {
            keys: None,
            device_id: "cam#1".to_owned(),
            ..one.clone()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["keys".to_owned(), "device_id".to_owned()],
        }),
        ..proto::UpdateEnrollmentRequest::default()
    };
    enrollments.update_enrollment(anew).await.unwrap();
    let changed = enrollments
        .get_enrollment(get("enrollments/A"))
        .await
        .unwrap()
        .into_inner();
    assert_ne!(changed.keys, one.keys, "absent keys are made anew");
    assert_eq!(changed.device_id, "cam#1");
    let delete = proto::DeleteEnrollmentRequest {
        name: changed.name.clone(),
        etag: changed.etag,
        ..proto::DeleteEnrollmentRequest::default()
    };
    enrollments.delete_enrollment(delete.clone()).await.unwrap();
    refused_with(
        enrollments.delete_enrollment(delete).await,
        "ENROLLMENT_NOT_FOUND",
    );
    refused_with(
        enrollments.get_enrollment(get("enrollments/a")).await,
        "ENROLLMENT_NOT_FOUND",
    );
    let mut audit = service.audit();
    let audit = audit.list_audit_entries(proto::ListAuditEntriesRequest {
        page_size: 1000,
        ..proto::ListAuditEntriesRequest::default()
    });
    let entries = audit.await.unwrap().into_inner().entries;
    let done: Vec<_> = entries.iter().map(|entry| entry.action.as_str()).collect();
    for action in [
        "enrollment.create",
        "enrollment.update",
        "enrollment.delete",
    ] {
        assert!(done.contains(&action), "{done:?}");
    }
    assert!(
        entries
            .iter()
            .all(|entry| !entry.detail_json.contains("v1."))
    );
    service.stop().await;
}

#[tokio::test]
async fn what_is_no_enrolment_is_refused_with_its_field() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let x509 = proto::AttestationType::X509.into();
    let thumbprint = proto::Thumbprints {
        primary: "AB".repeat(32),
        secondary: String::new(),
    };
    let cases = [
        (single("a b"), "enrollment.name"),
        (
            proto::Enrollment {
                name: "devices/d".to_owned(),
                ..single("d")
            },
            "enrollment.name",
        ),
        (
            proto::Enrollment {
                device_id: "d".to_owned(),
                ..group("plant")
            },
            "enrollment.device_id",
        ),
        (
            proto::Enrollment {
                attestation_type: x509,
                ..single("d")
            },
            "enrollment.thumbprints",
        ),
        (
            proto::Enrollment {
                thumbprints: Some(thumbprint.clone()),
                ..single("d")
            },
            "enrollment.thumbprints and ca_certificates_pem",
        ),
        (
            proto::Enrollment {
                attestation_type: x509,
                thumbprints: Some(thumbprint),
                ..group("plant")
            },
            "enrollment.thumbprints",
        ),
        (
            proto::Enrollment {
                attestation_type: x509,
                ca_certificates_pem: "no PEM".to_owned(),
                ..group("plant")
            },
            "enrollment.ca_certificates_pem",
        ),
        (
            proto::Enrollment {
                status: 9,
                ..single("d")
            },
            "enrollment.status",
        ),
    ];
    for (enrollment, field) in cases {
        let request = proto::CreateEnrollmentRequest {
            enrollment: Some(enrollment.clone()),
            ..proto::CreateEnrollmentRequest::default()
        };
        let refused = service.enrollments().create_enrollment(request).await;
        assert_eq!(
            refused_with(refused, "INVALID_FIELD"),
            [field],
            "{enrollment:?}"
        );
    }
    let large = proto::Enrollment {
        tags_json: format!(r#"{{"a":"{}"}}"#, "x".repeat(5000)),
        ..single("d")
    };
    let request = proto::CreateEnrollmentRequest {
        enrollment: Some(large),
        ..proto::CreateEnrollmentRequest::default()
    };
    let refused = service.enrollments().create_enrollment(request).await;
    assert_eq!(refused_with(refused, "INVALID_TWIN"), ["tags.a"]);
    service.stop().await;
}

#[tokio::test]
async fn keys_of_enrolments_are_sealed_anew_when_the_master_key_changes() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let plant = create(&service, group("plant")).await;
    let one = create(&service, single("sn-1")).await;
    service.stop().await;

    let mut settings = config(&nats, folder.path());
    settings.master_key = Secret::new(BASE64_STANDARD.encode([5_u8; 32]));
    settings.previous_master_key_files = vec![folder.path().join("master.key")];
    let service = Service::start_with(settings.clone()).await;
    let reseal = async || {
        let (mut resealed, mut current, mut page_token) = (0, 0, String::new());
        loop {
            let request = proto::ResealEnrollmentsRequest {
                page_token,
                ..proto::ResealEnrollmentsRequest::default()
            };
            let page = service.enrollments().reseal_enrollments(request).await;
            let page = page.unwrap().into_inner();
            assert!(page.failed.is_empty(), "{:?}", page.failed);
            resealed += page.resealed;
            current += page.current;
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return (resealed, current);
            }
        }
    };
    assert_eq!(reseal().await, (2, 0));
    assert_eq!(reseal().await, (0, 2));
    service.stop().await;

    settings.previous_master_key_files.clear();
    let service = Service::start_with(settings).await;
    for made in [plant, one] {
        let get = proto::GetEnrollmentRequest {
            name: made.name.clone(),
            view: proto::IdentityView::Full.into(),
        };
        let read = service.enrollments().get_enrollment(get).await;
        assert_eq!(read.unwrap().into_inner(), made, "it is as it was");
    }
    service.stop().await;
}
