use super::*;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn holds(revision: u64, fingerprint: u64) -> Finding {
    Finding::Holds {
        revision,
        fingerprint,
        expires: HOUR,
    }
}

fn terms() -> Terms {
    Terms {
        expires: HOUR,
        every: None,
        retry: false,
    }
}

fn first() -> Place {
    Place::look(None, holds(1, 7), 10, at(0)).expect("it begins")
}

fn is_due(place: &Place) -> bool {
    matches!(place.state, State::Due(_))
}

#[test]
fn it_is_due_when_the_policy_begins_to_hold_and_once() {
    let place = first();
    assert!(is_due(&place) && place.cause == 1);
    assert_eq!(Place::look(Some(&place), holds(1, 7), 11, at(1)), None);
    let calling = place.begin(1, at(2)).unwrap();
    assert_eq!(Place::look(Some(&calling), holds(1, 7), 12, at(3)), None);
    let over = calling.end(Ended::Known, Some(terms()), at(4));
    assert_eq!(over.state, State::Idle);
    assert_eq!(Place::look(Some(&over), holds(1, 7), 13, at(5)), None);
    assert_eq!(over.begin(1, at(5)), None);
    // It ends, and begins again.
    let ended = Place::look(Some(&over), Finding::HoldsNot, 14, at(6)).unwrap();
    assert!(ended.is_over());
    let again = Place::look(Some(&ended), holds(1, 7), 15, at(7)).unwrap();
    assert!(is_due(&again) && again.cause == 2);
}

#[test]
fn an_older_event_changes_nothing() {
    let place = first();
    assert_eq!(Place::look(Some(&place), Finding::HoldsNot, 9, at(1)), None);
    let ended = Place::look(Some(&place), Finding::HoldsNot, 12, at(1)).unwrap();
    assert_eq!(Place::look(Some(&ended), holds(1, 7), 11, at(2)), None);
    assert_eq!(Place::look(None, Finding::HoldsNot, 1, at(0)), None);
}

#[test]
fn what_is_due_lapses_when_the_policy_does_not_hold_and_expires_in_time() {
    let place = first();
    let lapsed = Place::look(Some(&place), Finding::HoldsNot, 11, at(1)).unwrap();
    assert_eq!(lapsed.state, State::Idle);
    assert_eq!(place.tick(Some(terms()), at(3599)), None);
    assert!(place.has_expired(at(3600)) && place.begin(1, at(3600)).is_none());
    let expired = place.tick(Some(terms()), at(3600)).unwrap();
    assert_eq!((expired.state, expired.holds), (State::Idle, true));
}

#[test]
fn another_call_in_a_newer_revision_is_another_cause_and_an_older_one_is_none() {
    let called = first().begin(1, at(1)).unwrap();
    let called = called.end(Ended::Known, Some(terms()), at(2));
    assert_eq!(Place::look(Some(&called), holds(2, 7), 10, at(3)), None);
    let other = Place::look(Some(&called), holds(3, 8), 10, at(3)).unwrap();
    assert!(is_due(&other) && (other.cause, other.revision) == (2, 3));
    let other = other.begin(3, at(4)).unwrap();
    let other = other.end(Ended::Known, Some(terms()), at(5));
    // Taken back, and begun anew.
    assert_eq!(Place::look(Some(&other), holds(1, 7), 11, at(6)), None);
    assert_eq!(Place::look(Some(&other), holds(3, 8), 12, at(7)), None);
}

#[test]
fn a_cause_that_comes_during_a_call_waits_for_its_end() {
    let calling = first().begin(1, at(1)).unwrap();
    let ended = Place::look(Some(&calling), Finding::HoldsNot, 11, at(2)).unwrap();
    assert!(matches!(ended.state, State::Calling { again: false, .. }));
    let again = Place::look(Some(&ended), holds(1, 7), 12, at(3)).unwrap();
    assert!(matches!(again.state, State::Calling { again: true, .. }));
    assert_eq!(again.cause, 1, "it is the first that is under way");
    let due = again.end(Ended::Known, Some(terms()), at(4));
    assert!(is_due(&due) && due.cause == 2);
    // Without it the end of the call is the end.
    assert!(ended.end(Ended::Known, Some(terms()), at(4)).is_over());
}

#[test]
fn only_what_says_so_is_called_again_if_nobody_knows_and_three_times_at_most() {
    let calling = first().begin(1, at(1)).unwrap();
    let unknown = calling.end(Ended::Unknown, Some(terms()), at(2));
    assert_eq!(unknown.state, State::Idle);
    let bears = Some(Terms {
        retry: true,
        ..terms()
    });
    let mut calls = 1;
    let mut place = calling.end(Ended::Unknown, bears, at(2));
    while let Some(calling) = place.begin(1, at(3)) {
        assert_eq!(calling.cause, 1);
        calls += 1;
        place = calling.end(Ended::Unknown, bears, at(3));
    }
    assert_eq!(calls, TRIES_MAX);
    // What never went out is no try.
    let mut place = first();
    for _ in 0..10 {
        let calling = place.begin(1, at(1)).unwrap();
        place = calling.end(Ended::NotSent, Some(terms()), at(2));
        assert!(is_due(&place));
    }
    let late = place.begin(1, at(2)).unwrap();
    let late = late.end(Ended::NotSent, Some(terms()), at(3600));
    assert_eq!(late.state, State::Idle);
}

#[test]
fn it_is_called_again_every_so_often_while_the_policy_holds() {
    let every = Some(Terms {
        every: Some(SignedDuration::from_mins(5)),
        ..terms()
    });
    let called = first().begin(1, at(10)).unwrap();
    let called = called.end(Ended::Known, every, at(20));
    assert_eq!(called.state, State::Waiting { until: at(310) });
    assert_eq!(called.tick(every, at(309)), None);
    let due = called.tick(every, at(310)).unwrap();
    assert!(is_due(&due) && due.cause == 2);
    // Nobody says so any more, or it does not hold any more.
    assert_eq!(
        called.tick(Some(terms()), at(310)).unwrap().state,
        State::Idle
    );
    let ended = Place::look(Some(&called), Finding::HoldsNot, 11, at(30)).unwrap();
    assert_eq!(ended.wakes(), None);
    // An expired one waits, too.
    let expired = due.tick(every, at(310 + 3600)).unwrap();
    assert_eq!(
        expired.state,
        State::Waiting {
            until: at(310 + 3900)
        }
    );
}
