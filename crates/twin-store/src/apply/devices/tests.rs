use service_kit::error::Classified as _;

use super::*;
use crate::apply::{Limits, Outcome, Room};
use crate::record::Damaged;
use crate::store::{Loaded, Population, Selection};
use crate::testing::{device, identity, key, new_device, now, object, overlay, overlay_of, record};

fn cause() -> Cause {
    Cause::default()
}

/// What an overlay leaves: keys written with what changed, keys removed.
fn left(overlay: Overlay) -> (Vec<String>, Vec<String>) {
    let Outcome { mut changes, .. } = overlay.into_outcome();
    changes.sort_by(|one, other| one.key.cmp(&other.key));
    let (written, removed): (Vec<_>, Vec<_>) =
        changes.iter().partition(|change| change.after.is_some());
    (
        written
            .iter()
            .map(|change| format!("{} {:?}", change.key, change.touch.changes))
            .collect(),
        removed
            .iter()
            .map(|change| change.key.to_string())
            .collect(),
    )
}

/// What an overlay leaves for the audit log.
fn audited(overlay: Overlay) -> Vec<String> {
    let events = overlay.into_outcome().left.audit;
    events
        .iter()
        .map(|event| format!("{} {}", event.action, event.resource))
        .collect()
}

fn create(overlay: &mut Overlay, new: NewDevice) -> Result<Record, Error> {
    create_device(overlay, new, Mode::Write, now(), &cause())
}

fn module(overlay: &mut Overlay, key: &IdentityKey, generation: &str) -> Result<Record, Error> {
    let identity = identity(generation);
    create_module(overlay, key, identity, Mode::Write, now(), &cause())
}

fn set_status(
    overlay: &mut Overlay,
    id: &str,
    status: Status,
    reason: &str,
    etag: Option<&str>,
) -> Result<Record, Error> {
    let update = DeviceUpdate {
        status: Some((status, reason.to_owned())),
        ..DeviceUpdate::default()
    };
    update_device(
        overlay,
        &device(id),
        update,
        etag,
        Mode::Write,
        now(),
        &cause(),
    )
}

fn nothing() -> (Vec<String>, Vec<String>) {
    (Vec::new(), Vec::new())
}

fn damaged(text: &str) -> Loaded {
    let damaged = Damaged {
        key: text.to_owned(),
        part: "row",
        problem: "its checksum does not match".to_owned(),
    };
    Loaded::Damaged(Selection::One(key(text)), damaged)
}

#[test]
fn a_device_is_created_with_its_security_module_and_only_once() {
    let mut overlay = overlay([]);
    let new = NewDevice {
        security_module: Some(identity("g2")),
        ..new_device("d", "g1")
    };
    let made = create(&mut overlay, new).unwrap();
    assert_eq!(
        (made.identity.etag.number(), made.twin.desired.version.get()),
        (1, 1)
    );
    assert_eq!(made.posture.configuration.desired_version, Some(1));
    let again = create(&mut overlay, new_device("d", "g3"));
    assert!(matches!(again, Err(Error::AlreadyExists(of)) if of == key("d")));
    assert_eq!(overlay.get(&key("d")).unwrap().identity.generation_id, "g1");
    let (written, removed) = left(overlay);
    assert_eq!(
        written,
        ["d {Created}", "d/DefenderIotMicroAgent {Created}"]
    );
    assert!(removed.is_empty());
}

#[test]
fn a_module_needs_its_device_and_there_are_fifty_at_most() {
    let mut orphan = overlay([]);
    let refused = module(&mut orphan, &key("d/m"), "g");
    assert!(matches!(refused, Err(Error::NotFound(of)) if of == key("d")));
    assert_eq!(left(orphan), nothing());

    let family = (1..50).map(|number| record(&format!("d/m{number}"), "g"));
    let mut overlay = overlay(family.chain([record("d", "g")]));
    module(&mut overlay, &key("d/m50"), "g").unwrap();
    let refused = module(&mut overlay, &key("d/m51"), "g");
    assert!(
        matches!(refused, Err(Error::TooManyModules { allowed: 50, .. })),
        "{refused:?}"
    );
    let refused = module(&mut overlay, &key("d/m7"), "g");
    assert!(matches!(refused, Err(Error::AlreadyExists(of)) if of == key("d/m7")));
    assert_eq!(left(overlay).0, ["d/m50 {Created}"]);
}

#[test]
fn a_module_is_always_enabled_and_untouched_by_the_status_of_its_device() {
    let mut overlay = overlay([record("d", "g"), record("d/m", "g"), record("e", "g")]);
    let disabled = set_status(&mut overlay, "d", Status::Disabled, "stolen", Some("MQ==")).unwrap();
    assert_eq!(disabled.identity.etag.number(), 2);
    assert_eq!(disabled.identity.status_reason, "stolen");
    let later = module(&mut overlay, &key("d/late"), "g").unwrap();
    assert_eq!(later.identity.status, Status::Enabled);
    let before = overlay.get(&key("d/m")).unwrap();
    assert_eq!(*before, record("d/m", "g"));
    assert_eq!(left(overlay).0, ["d {Status}", "d/late {Created}"]);
}

#[test]
fn another_etag_refuses_a_change_and_a_removal_and_leaves_no_touch() {
    let mut overlay = overlay([record("d", "g"), record("d/m", "g")]);
    let refused = set_status(&mut overlay, "d", Status::Disabled, "", Some("4"));
    let expected = |error: &Error| matches!(error, Error::EtagMismatch { expected, actual, .. } if expected == "4" && actual == "MQ==");
    assert!(expected(&refused.unwrap_err()));
    assert!(expected(
        &delete(&mut overlay, &key("d"), Some("4"), Mode::Write, &cause()).unwrap_err()
    ));
    let absent = delete(&mut overlay, &key("x"), None, Mode::Write, &cause()).unwrap_err();
    assert!(matches!(absent, Error::NotFound(_)));
    assert_eq!(left(overlay), nothing());
}

#[test]
fn a_device_goes_with_all_its_modules_also_damaged_ones() {
    let mut overlay = overlay_of(vec![
        Loaded::Whole(Box::new(record("d", "g"))),
        Loaded::Whole(Box::new(record("d/m", "g"))),
        damaged("d/n"),
        Loaded::Whole(Box::new(record("e", "g"))),
    ]);
    delete(&mut overlay, &key("d"), Some("MQ=="), Mode::Write, &cause()).unwrap();
    assert!(overlay.find(&key("d/n")).unwrap().is_none());
    let (written, removed) = left(overlay);
    assert!(written.is_empty());
    assert_eq!(removed, ["d", "d/m", "d/n"]);
}

#[test]
fn a_damaged_identity_is_removed_only_without_an_etag() {
    let mut overlay = overlay_of(vec![damaged("d")]);
    let refused = delete(&mut overlay, &key("d"), Some("MQ=="), Mode::Write, &cause());
    assert!(matches!(refused, Err(Error::Damaged(_))), "{refused:?}");
    delete(&mut overlay, &key("d"), None, Mode::Write, &cause()).unwrap();
    assert_eq!(left(overlay).1, ["d"]);
}

#[test]
fn an_id_made_anew_is_a_fresh_identity_that_no_former_etag_matches() {
    let mut old = record("d", "g1");
    old.identity.etag = IdentityEtag::from_number(9);
    let stale = old.identity.etag.to_string();
    let mut overlay = overlay([old]);
    delete(&mut overlay, &key("d"), None, Mode::Write, &cause()).unwrap();
    let mut new = new_device("d", "g2");
    new.identity.etag = IdentityEtag::begin([0, 0, 1, 0]);
    let made = create(&mut overlay, new).unwrap();
    assert_eq!(made.identity.generation_id, "g2");
    assert_eq!(made.identity.etag.number(), 256);
    let refused = delete(&mut overlay, &key("d"), Some(&stale), Mode::Write, &cause());
    assert!(
        matches!(refused, Err(Error::EtagMismatch { .. })),
        "{refused:?}"
    );
    let (written, removed) = left(overlay);
    assert_eq!(written, ["d {Created}"]);
    assert!(removed.is_empty());
}

/// An overlay of a hub that has, and may have, so many devices and modules.
fn within(records: Vec<Loaded>, present: (i64, i64), most: (u64, u64)) -> Overlay {
    let limits = Limits {
        devices_max: most.0,
        modules_max: most.1,
    };
    let present = Population {
        devices: present.0,
        modules: present.1,
    };
    overlay_of(records).within(Room::new(limits, present))
}

#[test]
fn a_hub_that_is_full_takes_no_more_until_something_goes() {
    let records = vec![Loaded::Whole(Box::new(record("old", "g"))), damaged("bad")];
    let mut overlay = within(records, (4, 9), (5, 9));
    create(&mut overlay, new_device("fifth", "g")).unwrap();
    let refused = create(&mut overlay, new_device("sixth", "g")).unwrap_err();
    assert!(
        matches!(
            &refused,
            Error::HubFull {
                what: "devices",
                allowed: 5,
                setting: "devices_max"
            }
        ),
        "{refused}"
    );
    let code = refused.iot_hub();
    assert_eq!((code.number(), code.name()), (413_002, "TooManyDevices"));
    let refused = module(&mut overlay, &key("old/m"), "g").unwrap_err();
    assert!(refused.to_string().contains("`modules_max`"), "{refused}");
    let tried = create_device(
        &mut overlay,
        new_device("sixth", "g"),
        Mode::Validate,
        now(),
        &cause(),
    );
    assert!(matches!(tried, Err(Error::HubFull { .. })), "{tried:?}");
    // What is there is not made again, and going makes room, also for one that cannot be read.
    let again = create(&mut overlay, new_device("old", "g")).unwrap_err();
    assert!(matches!(again, Error::AlreadyExists(_)), "{again}");
    delete(&mut overlay, &key("bad"), None, Mode::Write, &cause()).unwrap();
    create(&mut overlay, new_device("sixth", "g")).unwrap();
    create(&mut overlay, new_device("seventh", "g")).unwrap_err();
    let population = overlay.into_outcome().population;
    assert_eq!((population.devices, population.modules), (1, 0));
}

#[test]
fn a_device_that_would_get_a_module_too_many_is_not_made_at_all() {
    let mut overlay = within(Vec::new(), (0, 3), (9, 3));
    let new = NewDevice {
        security_module: Some(identity("g2")),
        ..new_device("d", "g1")
    };
    let refused = create(&mut overlay, new).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::HubFull {
                what: "modules",
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(left(overlay), nothing());
}

#[test]
fn every_change_of_the_registry_leaves_an_audit_entry_and_a_refused_one_none() {
    let mut overlay = overlay([record("e", "g")]);
    let new = NewDevice {
        security_module: Some(identity("g2")),
        ..new_device("d", "g1")
    };
    create(&mut overlay, new).unwrap();
    create(&mut overlay, new_device("d", "g3")).unwrap_err();
    set_status(&mut overlay, "d", Status::Disabled, "x", None).unwrap();
    set_status(&mut overlay, "d", Status::Enabled, "x", Some("9")).unwrap_err();
    let update = ModuleUpdate {
        managed_by: Some("me".to_owned()),
        ..ModuleUpdate::default()
    };
    let key_of_module = key("d/DefenderIotMicroAgent");
    update_module(
        &mut overlay,
        &key_of_module,
        update,
        None,
        Mode::Write,
        now(),
        &cause(),
    )
    .unwrap();
    delete(&mut overlay, &key("e"), None, Mode::Write, &cause()).unwrap();
    assert_eq!(
        audited(overlay),
        [
            "device.create devices/d",
            "module.create devices/d/modules/DefenderIotMicroAgent",
            "device.update devices/d",
            "module.update devices/d/modules/DefenderIotMicroAgent",
            "device.delete devices/e",
        ]
    );
}

#[test]
fn what_is_only_validated_answers_what_would_be_and_leaves_nothing() {
    let mut overlay = overlay([record("d", "g")]);
    let (mode, at, cause) = (Mode::Validate, now(), cause());
    let would = create_device(&mut overlay, new_device("x", "g"), mode, at, &cause).unwrap();
    assert_eq!(would.key, key("x"));
    let taken = create_device(&mut overlay, new_device("d", "g"), mode, at, &cause);
    assert!(matches!(taken, Err(Error::AlreadyExists(_))), "{taken:?}");
    create_module(&mut overlay, &key("d/m"), identity("g"), mode, at, &cause).unwrap();
    delete(&mut overlay, &key("d"), Some("MQ=="), mode, &cause).unwrap();
    let stale = delete(&mut overlay, &key("d"), Some("Mg=="), mode, &cause);
    assert!(
        matches!(stale, Err(Error::EtagMismatch { .. })),
        "{stale:?}"
    );
    let update = DeviceUpdate {
        status: Some((Status::Disabled, "why".to_owned())),
        ..DeviceUpdate::default()
    };
    let would = update_device(&mut overlay, &device("d"), update, None, mode, at, &cause).unwrap();
    assert_eq!(
        (would.identity.status, would.identity.etag.number()),
        (Status::Disabled, 2)
    );
    let outcome = overlay.into_outcome();
    assert!(outcome.changes.is_empty() && outcome.left.audit.is_empty());
}

#[test]
fn a_device_begins_with_the_sections_it_is_given_in_the_name_of_its_maker() {
    let mut overlay = overlay([]);
    let mut new = new_device("d", "g");
    new.identity.sections.tags = Some(object(json!({"site": "x"})));
    new.identity.sections.desired = Some(object(json!({"rate": 5})));
    let made = create(&mut overlay, new).unwrap();
    assert_eq!(made.twin.tags.document, r#"{"site":"x"}"#);
    let version = made.twin.desired.version.get();
    assert_eq!(made.posture.configuration.desired_version, Some(version));
    assert!(made.twin.desired.metadata.contains("twinward"));
    let mut wrong = new_device("e", "g");
    wrong.identity.sections.tags = Some(object(json!({"a b": 1})));
    let refused = create(&mut overlay, wrong).unwrap_err();
    assert!(matches!(refused, Error::Twin { .. }), "{refused}");
    assert!(overlay.find(&key("e")).unwrap().is_none());
}

#[test]
fn the_time_of_the_status_moves_only_with_the_status() {
    let mut overlay = overlay([record("d", "g")]);
    let same = set_status(&mut overlay, "d", Status::Enabled, "", None).unwrap();
    assert_eq!(same.identity.status_updated_at, None);
    let disabled = set_status(&mut overlay, "d", Status::Disabled, "lost", None).unwrap();
    assert_eq!(disabled.identity.status_updated_at, Some(now()));
}

#[test]
fn another_proof_is_a_change_of_the_identity() {
    let mut overlay = overlay([record("d", "g"), record("d/m", "g")]);
    let update = DeviceUpdate {
        authentication: Some(Box::new(|_| Ok(Authentication::CertificateAuthority))),
        iot_edge: Some(true),
        ..DeviceUpdate::default()
    };
    let (mode, at) = (Mode::Write, now());
    let changed = update_device(
        &mut overlay,
        &device("d"),
        update,
        Some("MQ=="),
        mode,
        at,
        &cause(),
    )
    .unwrap();
    assert_eq!(
        changed.identity.authentication,
        Authentication::CertificateAuthority
    );
    assert_eq!(
        (changed.identity.etag.number(), changed.identity.iot_edge),
        (2, true)
    );
    // Who only becomes an Edge device has the proof that it had.
    let update = DeviceUpdate {
        iot_edge: Some(false),
        ..DeviceUpdate::default()
    };
    update_device(&mut overlay, &device("d"), update, None, mode, at, &cause()).unwrap();
    let outcome = overlay.into_outcome();
    let told = outcome.left.audit.iter();
    let told: Vec<_> = told
        .map(|event| event.detail["authenticationChanged"].clone())
        .collect();
    assert_eq!(told, [true, false]);
    // Its modules have proofs of their own.
    let touched = outcome.changes.iter().map(|change| change.key.to_string());
    assert_eq!(touched.collect::<Vec<_>>(), ["d"]);
}
