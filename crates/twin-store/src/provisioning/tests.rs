use super::*;
use crate::testing::now;

fn enrollment(kind: ProvisioningKind, attestation: Attestation) -> Enrollment {
    Enrollment {
        kind,
        id: RegistrationId::parse("SN-1").unwrap(),
        generation_id: "g".to_owned(),
        etag: IdentityEtag::from_number(7),
        status: Status::Disabled,
        attestation,
        device: Some(DeviceId::parse("cam#1").unwrap()),
        iot_edge: true,
        security_module: false,
        tags: Some(r#"{"site":"paris"}"#.to_owned()),
        desired: None,
        reprovision: Reprovision::Reset,
        adopts: vec![
            Adopted::unseen("enrollmentGroups/a".to_owned()),
            Adopted {
                name: "enrollments/b".to_owned(),
                seen: Some(Seen {
                    generation: Some("g1".to_owned()),
                    at: now(),
                }),
            },
        ],
        created_at: now(),
        updated_at: now(),
    }
}

#[test]
fn every_form_of_an_enrolment_is_read_as_it_was_written() {
    let sealed = |text: &str| Sealed(text.to_owned());
    for attestation in [
        Attestation::Keys {
            primary: sealed("a"),
            secondary: sealed("b"),
        },
        Attestation::Thumbprints {
            primary: "AA".to_owned(),
            secondary: None,
        },
        Attestation::Thumbprints {
            primary: "AA".to_owned(),
            secondary: Some("BB".to_owned()),
        },
        Attestation::Authorities("-----BEGIN".to_owned()),
    ] {
        let one = enrollment(ProvisioningKind::Individual, attestation);
        let row = one.row().unwrap();
        assert_eq!(Enrollment::read(&row).unwrap(), one);
    }
    // Rows outlive the program that wrote them.
    let plain = r#"{"id":"a","generation":"g","etag":1,"status":"enabled","keys":["p","s"],
        "created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z"}"#;
    let id = RegistrationId::parse("a").unwrap();
    let row = ProvisioningRow {
        key: key(ProvisioningKind::Group, &id),
        body: plain.to_owned(),
    };
    let read = Enrollment::read(&row).unwrap();
    assert!(read.security_module && !read.iot_edge);
    assert_eq!(read.reprovision, Reprovision::Keep);
    let adopting = plain.replace(r#""keys""#, r#""adopts":["enrollmentGroups/b"],"keys""#);
    let row = ProvisioningRow {
        body: adopting,
        ..row
    };
    let adopts = Enrollment::read(&row).unwrap().adopts;
    assert_eq!(adopts, [Adopted::unseen("enrollmentGroups/b".to_owned())]);
}

#[test]
fn what_cannot_be_read_is_damaged() {
    let of = |body: &str| {
        let row = ProvisioningRow {
            key: ProvisioningKey::scope(),
            body: body.to_owned(),
        };
        (Enrollment::read(&row), read_scope(&row))
    };
    let ends = r#""created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z"}"#;
    for body in [
        "{".to_owned(),
        format!(r#"{{"id":"a","generation":"g","etag":1,"status":"enabled",{ends}"#),
        format!(r#"{{"id":"a","generation":"g","etag":1,"status":"x","keys":["a","b"],{ends}"#),
        format!(
            r#"{{"id":"a b","generation":"g","etag":1,"status":"enabled","keys":["a","b"],{ends}"#
        ),
    ] {
        let (enrollment, scope) = of(&body);
        assert_eq!(enrollment.unwrap_err().key, "provisioning/scope/", "{body}");
        scope.unwrap_err();
    }
}

#[test]
fn ids_of_single_devices_are_equal_whatever_their_case_and_scopes_have_their_form() {
    let keys = Attestation::Authorities(String::new());
    let single = enrollment(ProvisioningKind::Individual, keys.clone());
    assert_eq!(single.key().id, "sn-1");
    assert_eq!(single.name(), "enrollments/SN-1");
    let group = enrollment(ProvisioningKind::Group, keys);
    assert_eq!(group.key().id, "SN-1");
    assert_eq!(group.name(), "enrollmentGroups/SN-1");
    assert_eq!(new_scope([0, 0xab, 1, 2]), "0ne00AB0102");
    let row = scope_row("0ne00AB0102").unwrap();
    assert_eq!(read_scope(&row).unwrap(), "0ne00AB0102");
}
