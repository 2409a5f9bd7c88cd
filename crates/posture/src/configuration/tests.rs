use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn desired(state: &mut ConfigurationState, version: u64, second: i64) -> Transition {
    let timeline = Timeline {
        observed_at: Some(at(second - 3)),
        decided_at: Some(at(second - 1)),
        pushed_at: Some(at(7)),
        ..Timeline::default()
    };
    state.desired_changed(
        version,
        at(second),
        timeline,
        Some(format!("trace-{version}")),
    )
}

fn applied(version: u64, second: i64) -> Acknowledgement {
    Acknowledgement {
        version,
        outcome: AckOutcome::Applied,
        at: at(second),
        pushed_at: Some(at(second - 2)),
        applied_at: Some(at(second - 1)),
    }
}

fn rejected(version: u64, second: i64, field: &str) -> Acknowledgement {
    Acknowledgement {
        outcome: AckOutcome::Rejected {
            reason: "invalid fields".to_owned(),
            invalid_fields: vec![field.to_owned()],
        },
        ..applied(version, second)
    }
}

#[test]
fn a_push_goes_from_pending_to_applied_with_its_whole_timeline() {
    let mut state = ConfigurationState::default();
    assert_eq!(state.state, PushState::None);
    assert_eq!(desired(&mut state, 2, 100), Transition::Changed);
    assert_eq!(state.state, PushState::Pending);
    assert_eq!(state.timeline.pushed_at, None, "a hop that has not been");

    assert_eq!(state.acknowledged(&applied(2, 110)), Transition::Changed);
    assert_eq!(state.state, PushState::Applied);
    assert_eq!(state.applied_version, Some(2));
    assert_eq!(
        state.timeline,
        Timeline {
            observed_at: Some(at(97)),
            received_at: None,
            folded_at: None,
            decided_at: Some(at(99)),
            committed_at: Some(at(100)),
            pushed_at: Some(at(108)),
            applied_at: Some(at(109)),
            acknowledged_at: Some(at(110)),
        }
    );
    assert_eq!(state.trace_parent.as_deref(), Some("trace-2"));
}

#[test]
fn a_repeated_answer_changes_nothing() {
    for ack in [applied(1, 110), rejected(1, 110, "Process_Mode")] {
        let mut state = ConfigurationState::default();
        desired(&mut state, 1, 100);
        assert_eq!(state.acknowledged(&ack), Transition::Changed);
        let known = state.clone();
        let repeated = Acknowledgement { at: at(120), ..ack };
        assert_eq!(state.acknowledged(&repeated), Transition::Unchanged);
        assert_eq!(state, known);
    }
}

#[test]
fn an_answer_for_an_older_version_leaves_the_newest_pending() {
    let mut state = ConfigurationState::default();
    desired(&mut state, 1, 100);
    desired(&mut state, 2, 101);
    desired(&mut state, 3, 102);
    assert_eq!(state.acknowledged(&applied(2, 110)), Transition::Changed);
    assert_eq!(state.state, PushState::Pending);
    assert_eq!(state.applied_version, Some(2));
    assert_eq!(state.timeline.acknowledged_at, None);

    assert_eq!(state.acknowledged(&applied(1, 111)), Transition::Unchanged);
    assert_eq!(
        state.acknowledged(&rejected(2, 112, "x")),
        Transition::Unchanged
    );
    assert_eq!(state.applied_version, Some(2));
}

#[test]
fn a_rejection_keeps_what_was_applied_and_says_why() {
    let mut state = ConfigurationState::default();
    desired(&mut state, 1, 100);
    state.acknowledged(&applied(1, 101));
    desired(&mut state, 2, 102);
    assert_eq!(
        state.acknowledged(&rejected(2, 103, "Process_Mode")),
        Transition::Changed
    );
    assert_eq!(state.state, PushState::Rejected);
    assert_eq!(state.applied_version, Some(1));
    assert_eq!(state.reason.as_deref(), Some("invalid fields"));
    assert_eq!(state.invalid_fields, ["Process_Mode"]);

    desired(&mut state, 3, 104);
    assert_eq!(state.reason, None);
    assert!(state.invalid_fields.is_empty());
}

#[test]
fn a_later_answer_corrects_and_an_earlier_one_does_not() {
    let mut state = ConfigurationState::default();
    desired(&mut state, 1, 100);
    state.acknowledged(&rejected(1, 110, "x"));
    assert_eq!(state.acknowledged(&applied(1, 109)), Transition::Unchanged);
    assert_eq!(state.state, PushState::Rejected);
    assert_eq!(state.acknowledged(&applied(1, 111)), Transition::Changed);
    assert_eq!(state.state, PushState::Applied);
}

fn reverted(version: u64, second: i64, running: Option<u64>) -> Acknowledgement {
    Acknowledgement {
        outcome: AckOutcome::Reverted {
            reason: "cut off".to_owned(),
            running,
        },
        ..applied(version, second)
    }
}

#[test]
fn a_device_that_went_back_runs_on_what_it_says() {
    let mut state = ConfigurationState::default();
    desired(&mut state, 2, 100);
    state.acknowledged(&applied(2, 101));
    desired(&mut state, 3, 102);
    state.acknowledged(&applied(3, 103));
    let back = reverted(3, 110, Some(2));
    assert_eq!(state.acknowledged(&back), Transition::Changed);
    assert_eq!(state.state, PushState::Reverted);
    assert_eq!(state.applied_version, Some(2));
    assert_eq!(state.reason.as_deref(), Some("cut off"));
    assert_eq!(state.acknowledged(&back), Transition::Unchanged);
    // The word that it was applied came late.
    assert_eq!(state.acknowledged(&applied(3, 105)), Transition::Unchanged);

    // Something newer is tried again, and it may go back to what it had before any.
    desired(&mut state, 4, 111);
    assert_eq!(
        (state.state, state.applied_version),
        (PushState::Pending, Some(2))
    );
    assert_eq!(
        state.acknowledged(&reverted(4, 120, None)),
        Transition::Changed
    );
    assert_eq!(state.applied_version, None);
}

#[test]
fn going_back_from_an_older_version_leaves_the_newest_as_it_is() {
    let mut state = ConfigurationState::default();
    desired(&mut state, 2, 100);
    desired(&mut state, 3, 101);
    state.acknowledged(&applied(3, 102));
    desired(&mut state, 4, 103);
    let back = reverted(3, 110, Some(2));
    assert_eq!(state.acknowledged(&back), Transition::Changed);
    assert_eq!(
        (state.state, state.applied_version),
        (PushState::Pending, Some(2))
    );
    state.acknowledged(&applied(4, 111));
    assert_eq!(state.acknowledged(&back), Transition::Unchanged);
    assert_eq!(
        (state.state, state.applied_version),
        (PushState::Applied, Some(4))
    );
    // What it cannot have gone back to is no version.
    assert_eq!(
        state.acknowledged(&reverted(4, 120, Some(9))),
        Transition::Changed
    );
    assert_eq!(state.applied_version, None);
}

#[test]
fn who_is_there_and_does_not_answer_times_out_and_may_answer_late() {
    let within = SignedDuration::from_secs(60);
    let mut state = ConfigurationState::default();
    assert_eq!(
        state.timed_out(Some(at(0)), within, at(1_000)),
        Transition::Unchanged,
        "nothing was desired"
    );
    desired(&mut state, 1, 100);
    for (connected, now) in [(90, 159), (150, 209)] {
        let before = state.timed_out(Some(at(connected)), within, at(now));
        assert_eq!(before, Transition::Unchanged, "{connected} {now}");
    }
    assert_eq!(
        state.timed_out(Some(at(150)), within, at(210)),
        Transition::Changed
    );
    assert_eq!(state.state, PushState::TimedOut);
    assert_eq!(state.reason.as_deref(), Some("no answer within 1m"));
    assert_eq!(
        state.timed_out(Some(at(150)), within, at(999)),
        Transition::Unchanged
    );
    let silent = state.clone();
    for (ack, ends) in [
        (applied(1, 300), PushState::Applied),
        (rejected(1, 300, "x"), PushState::Rejected),
        (reverted(1, 300, None), PushState::Reverted),
    ] {
        let mut state = silent.clone();
        assert_eq!(state.acknowledged(&ack), Transition::Changed);
        assert_eq!((state.state, state.at), (ends, Some(at(300))));
    }
    let mut newer = silent;
    desired(&mut newer, 2, 400);
    assert_eq!((newer.state, newer.reason), (PushState::Pending, None));
}

#[test]
fn states_are_spelled_as_in_the_document() {
    for state in [
        PushState::None,
        PushState::Pending,
        PushState::Applied,
        PushState::Rejected,
        PushState::TimedOut,
        PushState::Reverted,
        PushState::Drifted,
    ] {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
}

#[test]
fn versions_never_go_down_and_unknown_ones_are_refused() {
    let mut state = ConfigurationState::default();
    assert_eq!(
        state.acknowledged(&applied(1, 90)),
        Transition::NeverDesired
    );
    desired(&mut state, 5, 100);
    let known = state.clone();
    assert_eq!(desired(&mut state, 5, 101), Transition::Unchanged);
    assert_eq!(desired(&mut state, 4, 102), Transition::Unchanged);
    assert_eq!(
        state.acknowledged(&applied(6, 103)),
        Transition::NeverDesired
    );
    assert_eq!(state, known);
}

#[test]
fn what_the_agent_says_is_cut_to_the_limits() {
    let mut state = ConfigurationState::default();
    desired(&mut state, 1, 100);
    let ack = Acknowledgement {
        outcome: AckOutcome::Rejected {
            reason: "é".repeat(10_000),
            invalid_fields: vec!["f".repeat(10_000); 1_000],
        },
        ..applied(1, 110)
    };
    assert_eq!(state.acknowledged(&ack), Transition::Changed);
    assert!(state.reason.as_ref().unwrap().len() <= limits::REASON_BYTES_MAX);
    assert_eq!(state.invalid_fields.len(), limits::INVALID_FIELDS_MAX);
    assert!(
        state
            .invalid_fields
            .iter()
            .all(|field| field.len() <= limits::NAME_BYTES_MAX)
    );
    assert_eq!(state.acknowledged(&ack), Transition::Unchanged);
}

#[test]
fn the_document_reads_back() {
    let mut state = ConfigurationState::default();
    for ack in [None, Some(applied(1, 110)), Some(rejected(1, 120, "x"))] {
        desired(&mut state, 1, 100);
        if let Some(ack) = ack {
            state.acknowledged(&ack);
        }
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(
            serde_json::from_str::<ConfigurationState>(&text).unwrap(),
            state
        );
    }
    let value = serde_json::to_value(&state).unwrap();
    assert_eq!(value["state"], "rejected");
    assert_eq!(value["timeline"]["committedAt"], "1970-01-01T00:01:40.000Z");
}
