use jiff::SignedDuration;
use service_kit::units::Duration;

use super::*;
use crate::rollout::{Border, OnFailure, PlannedWave, StrategySpec, Tally};

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn strategy(on_failure: OnFailure) -> StrategySpec {
    StrategySpec {
        within: Duration::secs(60),
        on_failure,
        ..StrategySpec::default()
    }
}

/// A rollout in the first of two waves of ten twins each.
fn rolling(on_failure: OnFailure) -> Rollout {
    let wave = PlannedWave {
        border: Border::All,
        twins: 10,
        flagged: 0,
        numbers: Vec::new(),
    };
    let author = "operator:a".to_owned();
    Rollout::begin(strategy(on_failure), Some(1), author, at(0))
        .planned(vec![wave.clone(), wave], at(1))
}

fn seen(applied: u64, rejected: u64) -> Seen {
    Seen {
        waves: vec![Tally {
            applied,
            rejected,
            ..Tally::default()
        }],
        ..Seen::default()
    }
}

fn direct(rollout: &Rollout, order: Order, second: i64) -> Rollout {
    let done = rollout.order(order, "operator:b", "lunch", at(second));
    done.expect("it can be done")
}

#[test]
fn what_a_gate_stopped_is_not_resumed_while_the_gate_fails() {
    for on_failure in [OnFailure::Pause, OnFailure::Rollback] {
        let paused = match on_failure {
            OnFailure::Pause => {
                let failed = rolling(on_failure).step(&seen(9, 1), at(10));
                failed.expect("a gate fails")
            }
            // By hand, just before it would have been taken back.
            OnFailure::Rollback => direct(&rolling(on_failure), Order::Pause, 10),
        };
        assert_eq!(paused.phase, Phase::Paused);
        let resumed = direct(&paused, Order::Resume, 20);
        let refused = resumed.clone().unless_it_fails(&seen(9, 1), at(20));
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.starts_with("it cannot be resumed, a gate still fails: wave 1: of 10 devices"),
            "{refused}"
        );
        let mended = resumed.clone().unless_it_fails(&seen(10, 0), at(20));
        assert_eq!(mended, Ok(resumed));
    }
}

#[test]
fn devices_that_did_not_answer_have_their_time_again_after_a_pause() {
    let silent = Seen {
        waves: vec![Tally {
            applied: 9,
            timed_out: 1,
            ..Tally::default()
        }],
        ..Seen::default()
    };
    let failed = rolling(OnFailure::Pause).step(&silent, at(61));
    let resumed = direct(&failed.expect("a gate fails"), Order::Resume, 70);
    let goes_on = resumed.clone().unless_it_fails(&silent, at(70));
    assert_eq!(goes_on, Ok(resumed.clone()));
    let again = resumed.unless_it_fails(&silent, at(131));
    assert!(
        matches!(again, Err(Refusal::StillFails { .. })),
        "{again:?}"
    );
}

#[test]
fn what_was_seen_at_the_end_is_kept_until_it_begins_anew() {
    let rolling = rolling(OnFailure::Rollback);
    let seen = seen(9, 1);
    let goes_on = rolling.clone().ending_with(&rolling, &seen.waves);
    assert_eq!(goes_on.last, []);
    let back = rolling.step(&seen, at(10)).expect("a gate fails");
    let back = back.ending_with(&rolling, &seen.waves);
    assert_eq!((back.phase, &back.last), (Phase::RolledBack, &seen.waves));
    // Whoever aborts again has nothing new to keep.
    let again = direct(&back, Order::Abort, 11).ending_with(&back, &[]);
    assert_eq!(again.last, seen.waves);
    let kept: Rollout = serde_json::from_str(&serde_json::to_string(&back).unwrap()).unwrap();
    assert_eq!(kept, back);
    assert_eq!(direct(&back, Order::Retry, 12).last, []);
}
