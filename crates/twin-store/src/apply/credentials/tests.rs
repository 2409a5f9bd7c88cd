use super::*;
use crate::testing::{key, now, overlay, record};

fn sealed(text: &str) -> Sealed {
    Sealed(text.to_owned())
}

fn keys(record: &Record) -> (Sealed, Sealed) {
    match &record.identity.authentication {
        Authentication::Sas { primary, secondary } => (primary.clone(), secondary.clone()),
        other => panic!("{other:?}"),
    }
}

fn rotated(overlay: &mut Overlay, rotation: Rotation, etag: Option<&str>) -> Result<Record, Error> {
    let asked = Rotate {
        rotation,
        expected_etag: etag,
        mode: Mode::Write,
    };
    let make = |_: &Record| Ok(sealed("fresh"));
    let cause = Cause::default();
    rotate(overlay, &key("d"), asked, make, now(), &cause)
}

#[test]
fn a_rotation_that_is_only_tried_changes_nothing() {
    let mut overlay = overlay([record("d", "g")]);
    let asked = Rotate {
        rotation: Rotation::Swap,
        expected_etag: None,
        mode: Mode::Validate,
    };
    let make = |_: &Record| Ok(sealed("fresh"));
    let tried = rotate(
        &mut overlay,
        &key("d"),
        asked,
        make,
        now(),
        &Cause::default(),
    )
    .unwrap();
    assert_eq!(tried.identity.etag.number(), 2);
    let outcome = overlay.into_outcome();
    assert!(outcome.changes.is_empty() && outcome.left.audit.is_empty());
}

#[test]
fn one_key_changes_and_the_other_still_opens_the_door() {
    let before = keys(&record("d", "g"));
    let mut overlay = overlay([record("d", "g")]);
    let record = rotated(&mut overlay, Rotation::Primary, Some("MQ==")).unwrap();
    assert_eq!(keys(&record), (sealed("fresh"), before.1.clone()));
    assert_eq!(record.identity.etag.number(), 2);
    let record = rotated(&mut overlay, Rotation::Swap, None).unwrap();
    assert_eq!(keys(&record), (before.1.clone(), sealed("fresh")));
    let record = rotated(&mut overlay, Rotation::Secondary, None).unwrap();
    assert_eq!(keys(&record), (before.1, sealed("fresh")));
    let outcome = overlay.into_outcome();
    assert_eq!(outcome.left.audit.len(), 3);
    assert!(!format!("{:?}", outcome.left.audit).contains("fresh"));
}

#[test]
fn without_keys_there_is_nothing_to_rotate() {
    let mut certified = record("d", "g");
    certified.identity.authentication = Authentication::CertificateAuthority;
    let mut overlay = overlay([certified]);
    let refused = rotated(&mut overlay, Rotation::Swap, None).unwrap_err();
    assert!(matches!(refused, Error::NoKeys { .. }), "{refused}");
    let stale = rotated(&mut overlay, Rotation::Swap, Some("7")).unwrap_err();
    assert!(matches!(stale, Error::EtagMismatch { .. }), "{stale}");
    assert!(overlay.into_outcome().changes.is_empty());
}

#[test]
fn keys_sealed_anew_are_no_change_of_the_identity_and_never_bring_old_ones_back() {
    let mut overlay = overlay([record("d", "g")]);
    let old = record("d", "g").identity.authentication;
    let new = Authentication::Sas {
        primary: sealed("a"),
        secondary: sealed("b"),
    };
    let cause = Cause::default();
    assert!(reseal(&mut overlay, &key("d"), &old, new.clone(), &cause));
    assert_eq!(overlay.get(&key("d")).unwrap().identity.etag.number(), 1);
    // Whoever rotated in between wins.
    assert!(!reseal(&mut overlay, &key("d"), &old, new, &cause));
    assert!(!reseal(&mut overlay, &key("x"), &old, old.clone(), &cause));
}
