use service_kit::error::Classified as _;

use super::*;
use crate::provisioning::{self, Adopted, Seen};
use crate::record::{Authentication, IdentityEtag, Status};
use crate::secrets::Sealed;
use crate::store::Loaded;
use crate::testing::{device, identity, key, now, object, overlay_of, record};

fn cause() -> Cause {
    Cause::default()
}

fn enrollment(kind: ProvisioningKind, id: &str) -> Enrollment {
    Enrollment {
        kind,
        id: iot_hub::RegistrationId::parse(id).unwrap(),
        generation_id: "g".to_owned(),
        etag: IdentityEtag::from_number(1),
        status: Status::Enabled,
        attestation: keys("1"),
        device: None,
        iot_edge: false,
        security_module: true,
        tags: None,
        desired: None,
        reprovision: Reprovision::Keep,
        adopts: Vec::new(),
        created_at: now(),
        updated_at: now(),
    }
}

fn keys(text: &str) -> Attestation {
    Attestation::Keys {
        primary: Sealed(text.to_owned()),
        secondary: Sealed(text.to_owned()),
    }
}

fn single() -> Enrollment {
    enrollment(ProvisioningKind::Individual, "sn-1")
}

fn with(records: Vec<Record>, enrollments: &[Enrollment]) -> Overlay {
    let rows = enrollments
        .iter()
        .map(|one| Loaded::Provisioning(one.row().unwrap()));
    let whole = records
        .into_iter()
        .map(|record| Loaded::Whole(Box::new(record)));
    overlay_of(whole.chain(rows).collect())
}

/// What registers by an enrolment; its credentials are `proven`, and are those of a record that has
/// `proven` itself.
fn registering(enrollment: &Enrollment, operation: &str) -> Registering {
    let mut new_device = identity("new");
    new_device.authentication = proven();
    new_device.sections.tags = Some(object(json!({ "site": "paris" })));
    Registering {
        enrollment: enrollment.clone(),
        instead: None,
        registration_id: "sn-1".to_owned(),
        device: device("sn-1"),
        operation_id: operation.to_owned(),
        new_device,
        new_module: Some(identity("module")),
        has_credentials: Box::new(|record| Ok(record.identity.authentication == proven())),
        authenticate: Box::new(|_| Ok(proven())),
    }
}

fn proven() -> Authentication {
    Authentication::SelfSigned {
        primary: "PROVEN".to_owned(),
        secondary: None,
    }
}

fn tags(record: &Record) -> &str {
    &record.twin.tags.document
}

#[test]
fn an_id_is_taken_once_and_groups_are_bounded() {
    let mut overlay = with(Vec::new(), &[]);
    create(&mut overlay, &single(), Mode::Validate, now(), &cause()).unwrap();
    create(&mut overlay, &single(), Mode::Write, now(), &cause()).unwrap();
    // Case does not count.
    let other = enrollment(ProvisioningKind::Individual, "SN-1");
    let refused = create(&mut overlay, &other, Mode::Write, now(), &cause()).unwrap_err();
    assert_eq!(refused.reason(), "ENROLLMENT_ALREADY_EXISTS");
    for number in 0..GROUPS_MAX {
        let group = enrollment(ProvisioningKind::Group, &format!("g{number}"));
        create(&mut overlay, &group, Mode::Write, now(), &cause()).unwrap();
    }
    let group = enrollment(ProvisioningKind::Group, "more");
    let refused = create(&mut overlay, &group, Mode::Write, now(), &cause()).unwrap_err();
    assert_eq!(refused.reason(), "TOO_MANY_ENROLLMENT_GROUPS");
    let left = overlay.into_outcome().left;
    assert_eq!(left.provisioning.len(), 1 + GROUPS_MAX);
    assert_eq!(left.audit[0].action, "enrollment.create");
    assert_eq!(left.audit[0].resource, "enrollments/sn-1");
    assert!(!left.audit[0].detail.to_string().contains("keys"));
}

#[test]
fn changes_need_the_etag_that_the_caller_has_seen() {
    let one = single();
    let (key, name) = (one.key(), one.name());
    let mut overlay = with(Vec::new(), std::slice::from_ref(&one));
    let seen = one.etag.to_string();
    let disable = |enrollment: &mut Enrollment| {
        enrollment.status = Status::Disabled;
        Ok(())
    };
    let of = (&key, name.as_str());
    let (at, cause) = (now(), cause());
    let changed = update(
        &mut overlay,
        of,
        disable,
        Some(&seen),
        Mode::Write,
        at,
        &cause,
    )
    .unwrap();
    assert_eq!(changed.status, Status::Disabled);
    let refused = update(
        &mut overlay,
        of,
        disable,
        Some(&seen),
        Mode::Write,
        at,
        &cause,
    );
    assert_eq!(refused.unwrap_err().reason(), "ETAG_MISMATCH");
    let refused = delete(&mut overlay, of, Some(&seen), Mode::Write, &cause);
    assert_eq!(refused.unwrap_err().reason(), "ETAG_MISMATCH");
    let stored = overlay.provisioning(&key).unwrap().unwrap();
    assert_eq!(provisioning::Enrollment::read(stored).unwrap(), changed);
    delete(
        &mut overlay,
        of,
        Some(&changed.etag.to_string()),
        Mode::Write,
        &cause,
    )
    .unwrap();
    let refused = delete(&mut overlay, of, None, Mode::Write, &cause).unwrap_err();
    assert_eq!(refused.reason(), "ENROLLMENT_NOT_FOUND");
    let left = overlay.into_outcome().left.provisioning;
    assert_eq!(
        left,
        [ProvisioningWrite::Remove(key)],
        "the last state alone"
    );
}

#[test]
fn the_id_scope_is_made_once() {
    let mut overlay = with(Vec::new(), &[]);
    let made = ensure_scope(&mut overlay, "0ne1".to_owned(), &cause()).unwrap();
    let again = ensure_scope(&mut overlay, "0ne2".to_owned(), &cause()).unwrap();
    assert_eq!((made.as_str(), again.as_str()), ("0ne1", "0ne1"));
    assert_eq!(overlay.into_outcome().left.provisioning.len(), 1);
}

#[test]
fn a_device_is_made_once_and_found_again_with_its_twin() {
    let one = single();
    let mut overlay = with(Vec::new(), std::slice::from_ref(&one));
    let first = register(&mut overlay, registering(&one, "1"), now(), &cause()).unwrap();
    assert_eq!(tags(&first), r#"{"site":"paris"}"#);
    let known = first.identity.provisioned.clone().unwrap();
    assert_eq!((known.count, known.operation_id.as_str()), (1, "1"));
    assert!(
        overlay
            .find(&key("sn-1/DefenderIotMicroAgent"))
            .unwrap()
            .is_some()
    );
    let later = now() + jiff::SignedDuration::from_secs(5);
    let again = register(&mut overlay, registering(&one, "2"), later, &cause()).unwrap();
    let known = again.identity.provisioned.clone().unwrap();
    assert_eq!((known.count, known.operation_id.as_str()), (2, "2"));
    assert_eq!((known.first_at, known.last_at), (now(), later));
    assert_eq!(again.identity.generation_id, first.identity.generation_id);
    assert_eq!(
        again.identity.etag, first.identity.etag,
        "nothing of it changed"
    );
    let audit = overlay.into_outcome().left.audit;
    let provisions = audit
        .iter()
        .filter(|event| event.action == "device.provision");
    assert_eq!(
        provisions.count(),
        1,
        "what changes nothing is not in the audit"
    );
}

#[test]
fn a_device_that_lost_its_credentials_gets_those_it_proves_unless_it_is_to_stay_as_it_is() {
    for (policy, expected) in [
        (Reprovision::Keep, (true, false)),
        (Reprovision::Reset, (true, true)),
        (Reprovision::Never, (false, false)),
    ] {
        let mut one = single();
        one.reprovision = policy;
        let mut overlay = with(Vec::new(), std::slice::from_ref(&one));
        register(&mut overlay, registering(&one, "1"), now(), &cause()).unwrap();
        let mut other = overlay.get(&key("sn-1")).unwrap().clone();
        other.identity.authentication = Authentication::None;
        other.twin.tags.document = r#"{"site":"rome"}"#.to_owned();
        let mut overlay = with(vec![other], std::slice::from_ref(&one));
        let again = register(&mut overlay, registering(&one, "2"), now(), &cause()).unwrap();
        let has_them = again.identity.authentication == proven();
        let is_reset = tags(&again) == r#"{"site":"paris"}"#;
        assert_eq!((has_them, is_reset), expected, "{policy:?}");
        let known = again.identity.provisioned.unwrap();
        assert_eq!(known.was_reset, policy == Reprovision::Reset);
        assert_eq!(again.identity.status, Status::Enabled);
    }
}

#[test]
fn nobody_elses_device_is_taken_over() {
    let one = single();
    // Made by hand, with other credentials.
    let mut overlay = with(vec![record("sn-1", "g")], std::slice::from_ref(&one));
    let refused = register(&mut overlay, registering(&one, "1"), now(), &cause()).unwrap_err();
    assert_eq!(refused.reason(), "DEVICE_ALREADY_EXISTS");
    assert!(overlay.into_outcome().changes.is_empty());
    // Brought over from another hub, with the credentials that it proves.
    let mut brought = record("sn-1", "g");
    brought.identity.authentication = proven();
    let mut overlay = with(vec![brought], std::slice::from_ref(&one));
    let found = register(&mut overlay, registering(&one, "1"), now(), &cause()).unwrap();
    assert_eq!(found.identity.generation_id, "g");
    assert_eq!(tags(&found), "{}", "its twin is its own");
}

#[test]
fn the_key_of_a_group_opens_no_device_of_another_group() {
    let group = |id| enrollment(ProvisioningKind::Group, id);
    let (a, b, one) = (group("a"), group("b"), single());
    let all = [a.clone(), b.clone(), one.clone()];
    let mut overlay = with(Vec::new(), &all);
    let made = register(&mut overlay, registering(&a, "1"), now(), &cause()).unwrap();
    let others = |enrollment| Registering {
        has_credentials: Box::new(|_| Ok(false)),
        authenticate: Box::new(|_| panic!("nothing is given")),
        ..registering(enrollment, "2")
    };
    let mut overlay = with(vec![made.clone()], &all);
    let refused = register(&mut overlay, others(&b), now(), &cause()).unwrap_err();
    assert_eq!(refused.reason(), "DEVICE_ALREADY_EXISTS");
    // Nor when the first group was deleted: its devices are still its vendor's.
    let mut overlay = with(vec![made.clone()], &all[1..]);
    let refused = register(&mut overlay, others(&b), now(), &cause()).unwrap_err();
    assert_eq!(refused.reason(), "DEVICE_ALREADY_EXISTS");
    assert!(overlay.into_outcome().changes.is_empty());
    // An operator's word for this one device counts.
    let mut overlay = with(vec![made], &all);
    let given = Registering {
        has_credentials: Box::new(|_| Ok(false)),
        ..registering(&one, "2")
    };
    let moved = register(&mut overlay, given, now(), &cause()).unwrap();
    let known = moved.identity.provisioned.unwrap();
    assert_eq!(known.enrollment.name, "enrollments/sn-1");
}

#[test]
fn a_group_has_the_devices_that_it_is_to_adopt_once_their_own_is_no_more() {
    let group = |id, generation: &str| Enrollment {
        generation_id: generation.to_owned(),
        ..enrollment(ProvisioningKind::Group, id)
    };
    let old = group("old", "g1");
    let adopting = Enrollment {
        adopts: vec![Adopted::unseen(old.name())],
        ..group("new", "g2")
    };
    let mut overlay = with(Vec::new(), std::slice::from_ref(&old));
    let made = register(&mut overlay, registering(&old, "1"), now(), &cause()).unwrap();
    let comes_by = |by: &Enrollment, known: &[Enrollment]| {
        let mut overlay = with(vec![made.clone()], known);
        let asked = Registering {
            has_credentials: Box::new(|_| Ok(false)),
            ..registering(by, "2")
        };
        register(&mut overlay, asked, now(), &cause())
    };
    let refused = |result: Result<Record, Error>| result.unwrap_err().reason().to_owned();
    let taken = "DEVICE_ALREADY_EXISTS";
    // As long as the former group is there, they are its devices.
    let both = [old.clone(), adopting.clone()];
    assert_eq!(refused(comes_by(&adopting, &both)), taken);
    // It is no more, or another has its name.
    let anew = group("old", "g3");
    for known in [vec![adopting.clone()], vec![adopting.clone(), anew.clone()]] {
        let moved = comes_by(&adopting, &known).unwrap();
        let by = moved.identity.provisioned.unwrap().enrollment;
        assert!(by.is("enrollmentGroups/new", "g2"), "{by:?}");
    }
    // Whoever makes a group under the old name has not its devices, unless it says so.
    assert_eq!(refused(comes_by(&anew, std::slice::from_ref(&anew))), taken);
    let said = Enrollment {
        adopts: vec![Adopted::unseen(anew.name())],
        ..anew
    };
    comes_by(&said, std::slice::from_ref(&said)).expect("its former devices");
    // Nor has the one that adopts what a later one under that name had.
    let seen = |generation: &str, at: Timestamp| Enrollment {
        adopts: vec![Adopted {
            name: old.name(),
            seen: Some(Seen {
                generation: Some(generation.to_owned()),
                at,
            }),
        }],
        ..group("new", "g2")
    };
    let before = now() - jiff::SignedDuration::from_secs(1);
    let meant = [seen("g1", before), seen("g0", now())];
    for by in meant {
        comes_by(&by, std::slice::from_ref(&by)).expect("it was meant");
    }
    let by = seen("g0", before);
    assert_eq!(refused(comes_by(&by, std::slice::from_ref(&by))), taken);
    // And what it does not name it does not have.
    let other = Enrollment {
        adopts: vec![Adopted::unseen("enrollmentGroups/another".to_owned())],
        ..group("new", "g2")
    };
    assert_eq!(
        refused(comes_by(&other, std::slice::from_ref(&other))),
        taken
    );
}

#[test]
fn a_device_is_its_groups_again_when_its_own_enrolment_is_no_more() {
    let (plant, one) = (enrollment(ProvisioningKind::Group, "plant"), single());
    let anew = Enrollment {
        generation_id: "g2".to_owned(),
        ..plant.clone()
    };
    let asks = |by: &Enrollment, operation: &str| Registering {
        has_credentials: Box::new(|_| Ok(false)),
        instead: (by.kind == ProvisioningKind::Group).then(|| one.key()),
        ..registering(by, operation)
    };
    let mut overlay = with(Vec::new(), std::slice::from_ref(&plant));
    register(&mut overlay, asks(&plant, "1"), now(), &cause()).unwrap();
    let made = overlay.get(&key("sn-1")).unwrap().clone();
    let mut overlay = with(vec![made], &[plant.clone(), one.clone()]);
    let own = register(&mut overlay, asks(&one, "2"), now(), &cause()).unwrap();
    // Twice, as devices do after each start.
    let mut overlay = with(vec![own], &[plant.clone(), one.clone()]);
    let own = register(&mut overlay, asks(&one, "3"), now(), &cause()).unwrap();
    let mut overlay = with(vec![own.clone()], std::slice::from_ref(&plant));
    let back = register(&mut overlay, asks(&plant, "4"), now(), &cause()).unwrap();
    let known = back.identity.provisioned.unwrap();
    assert_eq!(known.enrollment.name, "enrollmentGroups/plant");
    assert_eq!(known.group, None);
    // Not if somebody has made another group under that name.
    let mut overlay = with(vec![own], std::slice::from_ref(&anew));
    let refused = register(&mut overlay, asks(&anew, "4"), now(), &cause()).unwrap_err();
    assert_eq!(refused.reason(), "DEVICE_ALREADY_EXISTS");
}

#[test]
fn an_enrolment_that_changed_meanwhile_is_looked_at_again() {
    let one = single();
    let mut changed = one.clone();
    changed.status = Status::Disabled;
    for known in [vec![changed], Vec::new()] {
        let mut overlay = with(Vec::new(), &known);
        let refused = register(&mut overlay, registering(&one, "1"), now(), &cause());
        assert!(matches!(refused, Err(Error::Overtaken)));
    }
    // A group's device that has an enrolment of its own by now.
    let group = enrollment(ProvisioningKind::Group, "plant");
    let mut overlay = with(Vec::new(), &[group.clone(), one.clone()]);
    let mut asked = registering(&group, "1");
    asked.instead = Some(one.key());
    let refused = register(&mut overlay, asked, now(), &cause());
    assert!(matches!(refused, Err(Error::Overtaken)));
    assert!(overlay.into_outcome().changes.is_empty());
}
