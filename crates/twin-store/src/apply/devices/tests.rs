use jiff::SignedDuration;

use super::*;
use crate::apply::Outcome;
use crate::record::Damaged;
use crate::store::{EnrollmentToken, Loaded};
use crate::testing::{device, identity, key, now, overlay, record};

const HASH: TokenHash = [7; 32];

fn cause() -> Cause {
    Cause::default()
}

/// What an overlay leaves: keys written with what changed, keys removed.
fn left(overlay: Overlay) -> (Vec<String>, Vec<String>) {
    let Outcome {
        upserts, deletes, ..
    } = overlay.into_outcome();
    (
        upserts
            .iter()
            .map(|(record, touch)| format!("{} {:?}", record.key, touch.changes))
            .collect(),
        deletes.iter().map(|(key, _)| key.to_string()).collect(),
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
    Loaded::Damaged(key(text), damaged)
}

#[test]
fn a_device_is_created_with_its_security_module_and_only_once() {
    let mut overlay = Overlay::default();
    let id = device("d");
    let made = create_device(
        &mut overlay,
        &id,
        identity("g1"),
        Some(identity("g2")),
        now(),
        &cause(),
    )
    .unwrap();
    assert_eq!(
        (made.identity.etag, made.twin.desired.version.get()),
        (1, 1)
    );
    assert_eq!(made.posture.configuration.desired_version, Some(1));
    let again = create_device(&mut overlay, &id, identity("g3"), None, now(), &cause());
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
    let mut orphan = Overlay::default();
    let refused = create_module(&mut orphan, &key("d/m"), identity("g"), now(), &cause());
    assert!(matches!(refused, Err(Error::NotFound(of)) if of == key("d")));
    assert_eq!(left(orphan), nothing());

    let family = (1..50).map(|number| record(&format!("d/m{number}"), "g"));
    let mut overlay = overlay(family.chain([record("d", "g")]));
    create_module(&mut overlay, &key("d/m50"), identity("g"), now(), &cause()).unwrap();
    let refused = create_module(&mut overlay, &key("d/m51"), identity("g"), now(), &cause());
    assert!(
        matches!(refused, Err(Error::TooManyModules { allowed: 50, .. })),
        "{refused:?}"
    );
    let refused = create_module(&mut overlay, &key("d/m7"), identity("g"), now(), &cause());
    assert!(matches!(refused, Err(Error::AlreadyExists(of)) if of == key("d/m7")));
    assert_eq!(left(overlay).0, ["d/m50 {Created}"]);
}

#[test]
fn modules_follow_the_status_of_their_device_now_and_later() {
    let mut overlay = Overlay::new(vec![
        Loaded::Whole(Box::new(record("d", "g"))),
        Loaded::Whole(Box::new(record("d/m", "g"))),
        damaged("d/broken"),
        Loaded::Whole(Box::new(record("e", "g"))),
    ]);
    let disabled = set_status(
        &mut overlay,
        &device("d"),
        Status::Disabled,
        "stolen",
        Some("1"),
        now(),
        &cause(),
    )
    .unwrap();
    assert_eq!(
        (
            disabled.identity.etag,
            disabled.identity.status_reason.as_str()
        ),
        (2, "stolen")
    );
    let later =
        create_module(&mut overlay, &key("d/late"), identity("g"), now(), &cause()).unwrap();
    assert_eq!(later.identity.status, Status::Disabled);
    let module = overlay.get(&key("d/m")).unwrap();
    assert_eq!(
        (module.identity.status, module.identity.etag),
        (Status::Disabled, 2)
    );
    assert_eq!(
        overlay.get(&key("e")).unwrap().identity.status,
        Status::Enabled
    );
    assert_eq!(
        left(overlay).0,
        ["d {Status}", "d/late {Created}", "d/m {Status}"]
    );
}

#[test]
fn another_etag_refuses_a_change_and_a_removal_and_leaves_no_touch() {
    let mut overlay = overlay([record("d", "g"), record("d/m", "g")]);
    let refused = set_status(
        &mut overlay,
        &device("d"),
        Status::Disabled,
        "",
        Some("4"),
        now(),
        &cause(),
    );
    let expected = |error: &Error| matches!(error, Error::EtagMismatch { expected, actual, .. } if expected == "4" && actual == "1");
    assert!(expected(&refused.unwrap_err()));
    assert!(expected(
        &delete(&mut overlay, &key("d"), Some("4"), &cause()).unwrap_err()
    ));
    let absent = delete(&mut overlay, &key("x"), None, &cause()).unwrap_err();
    assert!(matches!(absent, Error::NotFound(_)));
    assert_eq!(left(overlay), nothing());
}

#[test]
fn a_device_goes_with_all_its_modules_also_damaged_ones() {
    let mut overlay = Overlay::new(vec![
        Loaded::Whole(Box::new(record("d", "g"))),
        Loaded::Whole(Box::new(record("d/m", "g"))),
        damaged("d/n"),
        Loaded::Whole(Box::new(record("e", "g"))),
    ]);
    delete(&mut overlay, &key("d"), Some("1"), &cause()).unwrap();
    assert!(overlay.find(&key("d/n")).unwrap().is_none());
    let (written, removed) = left(overlay);
    assert!(written.is_empty());
    assert_eq!(removed, ["d", "d/m", "d/n"]);
}

#[test]
fn a_damaged_identity_is_removed_only_without_an_etag() {
    let mut overlay = Overlay::new(vec![damaged("d")]);
    let refused = delete(&mut overlay, &key("d"), Some("1"), &cause());
    assert!(matches!(refused, Err(Error::Damaged(_))), "{refused:?}");
    delete(&mut overlay, &key("d"), None, &cause()).unwrap();
    assert_eq!(left(overlay).1, ["d"]);
}

#[test]
fn an_id_made_anew_is_a_fresh_identity() {
    let mut old = record("d", "g1");
    old.identity.etag = 9;
    let mut overlay = overlay([old]);
    delete(&mut overlay, &key("d"), None, &cause()).unwrap();
    let made = create_device(
        &mut overlay,
        &device("d"),
        identity("g2"),
        None,
        now(),
        &cause(),
    )
    .unwrap();
    assert_eq!(
        (made.identity.generation_id.as_str(), made.identity.etag),
        ("g2", 1)
    );
    let (written, removed) = left(overlay);
    assert_eq!(written, ["d {Created}"]);
    assert!(removed.is_empty());
}

/// A token for one device or for any, as the store gives it.
fn token(only: Option<&str>, uses_max: u32) -> EnrollmentToken {
    EnrollmentToken {
        hash: HASH,
        device: only.map(device),
        expires_at: now() + SignedDuration::from_hours(1),
        uses_max,
    }
}

/// An overlay with a token as some devices see it, none of which used it before.
fn with_token(records: Vec<Record>, token: &EnrollmentToken, seen_from: &[&str]) -> Overlay {
    let state = |id: &&str| {
        let state = EnrollmentState {
            token: token.clone(),
            uses: 0,
            nonce: None,
        };
        Loaded::Token(device(id), state)
    };
    let whole = |record| Loaded::Whole(Box::new(record));
    let records = records.into_iter().map(whole);
    Overlay::new(records.chain(seen_from.iter().map(state)).collect())
}

fn ask(overlay: &mut Overlay, id: &str, nonce: &str) -> Result<Record, Error> {
    ask_at(overlay, id, nonce, now())
}

fn ask_at(overlay: &mut Overlay, id: &str, nonce: &str, at: Timestamp) -> Result<Record, Error> {
    let enrollment = Enrollment {
        token: HASH,
        device: device(id),
        nonce: nonce.to_owned(),
        new_device: identity("device"),
        new_module: identity(nonce),
    };
    enroll(overlay, enrollment, at, &cause())
}

fn denial(result: Result<Record, Error>) -> &'static str {
    match result.expect_err("denied") {
        Error::EnrollmentDenied { why, .. } => why,
        other => panic!("{other}"),
    }
}

#[test]
fn a_token_makes_what_is_missing_and_answers_a_repeated_call_the_same() {
    let mut overlay = with_token(vec![], &token(None, 1), &["d"]);
    let first = ask(&mut overlay, "d", "nonce-1").unwrap();
    assert_eq!(first.key, key("d/DefenderIotMicroAgent"));
    let again = ask(&mut overlay, "d", "nonce-1").unwrap();
    assert_eq!(first, again);
    assert!(denial(ask(&mut overlay, "d", "nonce-2")).contains("another nonce"));
    let outcome = overlay.into_outcome();
    assert_eq!(outcome.enrollments.len(), 1);
    assert_eq!(outcome.upserts.len(), 2);
}

#[test]
fn a_token_is_used_up_by_as_many_devices_as_it_says() {
    let mut overlay = with_token(vec![], &token(None, 2), &["a", "b", "c"]);
    ask(&mut overlay, "a", "n").unwrap();
    ask(&mut overlay, "b", "n").unwrap();
    assert!(matches!(
        ask(&mut overlay, "c", "n"),
        Err(Error::TokenRefused)
    ));
    ask(&mut overlay, "a", "n").expect("a repeated call is no further use");
    assert!(overlay.find(&key("c")).unwrap().is_none());
}

#[test]
fn an_unknown_or_expired_token_opens_nothing() {
    let mut overlay = with_token(vec![], &token(None, 2), &["a"]);
    let late = now() + SignedDuration::from_hours(1);
    let expired = ask_at(&mut overlay, "a", "n", late);
    assert!(matches!(expired, Err(Error::TokenRefused)), "{expired:?}");
    let unknown = ask(&mut overlay, "b", "n");
    assert!(matches!(unknown, Err(Error::TokenRefused)), "{unknown:?}");
    assert_eq!(left(overlay), nothing());
}

#[test]
fn a_token_of_one_device_does_not_let_another_in() {
    let mut overlay = with_token(vec![], &token(Some("a"), 1), &["a", "b"]);
    assert!(denial(ask(&mut overlay, "b", "n")).contains("another device"));
    ask(&mut overlay, "a", "n").unwrap();
}

#[test]
fn only_a_token_that_names_the_device_hands_out_a_module_that_exists() {
    let module = record("d/DefenderIotMicroAgent", "old");
    let there = vec![record("d", "g"), module.clone()];
    let mut open = with_token(there.clone(), &token(None, 5), &["d"]);
    assert!(denial(ask(&mut open, "d", "n")).contains("enrolled already"));
    assert_eq!(left(open), nothing());

    let mut named = with_token(there, &token(Some("d"), 1), &["d"]);
    assert_eq!(ask(&mut named, "d", "n").unwrap(), module);
    assert!(denial(ask(&mut named, "d", "m")).contains("another nonce"));
    let outcome = named.into_outcome();
    assert!(outcome.upserts.is_empty());
    assert_eq!(outcome.enrollments.len(), 1);
}

#[test]
fn a_module_that_was_removed_does_not_come_back_by_an_old_token() {
    let mut overlay = with_token(vec![], &token(Some("d"), 5), &["d"]);
    ask(&mut overlay, "d", "n").unwrap();
    delete(&mut overlay, &key("d"), None, &cause()).unwrap();
    assert!(denial(ask(&mut overlay, "d", "n")).contains("deleted since"));
    assert!(overlay.find(&key("d")).unwrap().is_none());
}

#[test]
fn a_disabled_device_is_not_let_in() {
    let mut disabled = record("d", "g");
    disabled.identity.status = Status::Disabled;
    let mut overlay = with_token(vec![disabled], &token(Some("d"), 5), &["d"]);
    assert!(denial(ask(&mut overlay, "d", "n")).contains("disabled"));
    assert_eq!(left(overlay), nothing());
}

#[test]
fn enrolment_below_a_full_device_is_refused_and_uses_nothing() {
    let family = (1..=50).map(|number| record(&format!("d/m{number}"), "g"));
    let records = family.chain([record("d", "g")]).collect();
    let mut overlay = with_token(records, &token(None, 5), &["d"]);
    let refused = ask(&mut overlay, "d", "n");
    assert!(
        matches!(refused, Err(Error::TooManyModules { .. })),
        "{refused:?}"
    );
    let outcome = overlay.into_outcome();
    assert!(outcome.upserts.is_empty() && outcome.enrollments.is_empty());
}
