use jiff::SignedDuration;

use super::super::devices::delete;
use super::*;
use crate::store::Loaded;
use crate::testing::{device, identity, key, now, overlay_of, record};

const HASH: TokenHash = [7; 32];

fn cause() -> Cause {
    Cause::default()
}

/// Whether an overlay leaves no change of a record.
fn unchanged(overlay: Overlay) -> bool {
    overlay.into_outcome().changes.is_empty()
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
    overlay_of(records.chain(seen_from.iter().map(state)).collect())
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
    assert_eq!(outcome.left.enrollments.len(), 1);
    assert_eq!(outcome.changes.len(), 2);
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
    assert!(unchanged(overlay));
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
    assert!(unchanged(open));

    let mut named = with_token(there, &token(Some("d"), 1), &["d"]);
    assert_eq!(ask(&mut named, "d", "n").unwrap(), module);
    assert!(denial(ask(&mut named, "d", "m")).contains("another nonce"));
    let outcome = named.into_outcome();
    assert!(outcome.changes.is_empty());
    assert_eq!(outcome.left.enrollments.len(), 1);
}

#[test]
fn a_module_that_was_removed_does_not_come_back_by_an_old_token() {
    let mut overlay = with_token(vec![], &token(Some("d"), 5), &["d"]);
    ask(&mut overlay, "d", "n").unwrap();
    delete(&mut overlay, &key("d"), None, Mode::Write, &cause()).unwrap();
    assert!(denial(ask(&mut overlay, "d", "n")).contains("deleted since"));
    assert!(overlay.find(&key("d")).unwrap().is_none());
}

#[test]
fn a_disabled_device_is_not_let_in() {
    let mut disabled = record("d", "g");
    disabled.identity.status = Status::Disabled;
    let mut overlay = with_token(vec![disabled], &token(Some("d"), 5), &["d"]);
    assert!(denial(ask(&mut overlay, "d", "n")).contains("disabled"));
    assert!(unchanged(overlay));
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
    assert!(outcome.changes.is_empty() && outcome.left.enrollments.is_empty());
}

#[test]
fn only_keys_are_handed_out() {
    let mut module = record("d/DefenderIotMicroAgent", "old");
    module.identity.authentication = Authentication::CertificateAuthority;
    let there = vec![record("d", "g"), module];
    let mut overlay = with_token(there, &token(Some("d"), 1), &["d"]);
    assert!(denial(ask(&mut overlay, "d", "n")).contains("by keys"));
    assert!(unchanged(overlay));
}

#[test]
fn a_new_token_is_audited_without_being_told() {
    let mut overlay = overlay_of(Vec::new());
    let new = token(Some("d"), 3);
    add_token(&mut overlay, new.clone(), &cause());
    let left = overlay.into_outcome().left;
    assert_eq!(left.tokens, [new]);
    let [event] = left.audit.as_slice() else {
        panic!("{:?}", left.audit)
    };
    assert_eq!(event.resource, "enrollmentTokens/0707070707070707");
    assert_eq!(event.device, Some(device("d")));
}
