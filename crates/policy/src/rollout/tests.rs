use jiff::{SignedDuration, Timestamp};
use proptest::prelude::{Strategy as _, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde_json::json;
use service_kit::units::Duration;
use twin::{DeviceId, IdentityKey, ModuleId};
use wire::twin::v1 as proto;

use super::*;
use crate::twin_document::TwinDocument;

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn wave(twins: u64) -> PlannedWave {
    PlannedWave {
        border: plan::Border::All,
        twins,
        flagged: 0,
        numbers: Vec::new(),
    }
}

/// A rollout in its first wave, at second 0, of waves with so many twins.
fn rolling(strategy: StrategySpec, waves: &[u64]) -> Rollout {
    let begun = Rollout::begin(strategy, Some(1), "operator:a".to_owned(), at(0));
    begun.planned(waves.iter().map(|twins| wave(*twins)).collect(), at(0))
}

fn strategy() -> StrategySpec {
    StrategySpec {
        within: Duration::secs(60),
        soak: Duration::secs(0),
        ..StrategySpec::default()
    }
}

fn tally(applied: u64, rejected: u64, pending: u64, offline: u64) -> Tally {
    Tally {
        applied,
        rejected,
        pending,
        offline,
        ..Tally::default()
    }
}

fn seen(waves: &[Tally]) -> Seen {
    Seen {
        waves: waves.to_vec(),
        open_since: None,
        looked_since: None,
        partly: false,
    }
}

fn go(step: Option<Rollout>) -> Rollout {
    step.expect("it goes on")
}

#[test]
fn a_wave_that_answers_lets_the_next_begin_and_the_last_completes() {
    let first = rolling(strategy(), &[1, 9]);
    assert_eq!((first.phase, first.in_force()), (Phase::Rolling, 1));
    let waiting = seen(&[tally(0, 0, 1, 0), Tally::default()]);
    assert_eq!(first.step(&waiting, at(59)), None);
    let second = go(first.step(&seen(&[tally(1, 0, 0, 0), Tally::default()]), at(1)));
    assert_eq!((second.phase, second.in_force()), (Phase::Rolling, 2));
    assert_eq!(second.wave_began, at(1));
    let done = go(second.step(&seen(&[tally(1, 0, 0, 0), tally(9, 0, 0, 0)]), at(2)));
    assert_eq!((done.phase, done.in_force()), (Phase::Completed, 2));
    assert_eq!(done.step(&seen(&[tally(0, 9, 0, 0)]), at(3)), None);
}

#[test]
fn one_rejection_is_enough_where_none_is_allowed_and_takes_everything_back() {
    let first = rolling(strategy(), &[3, 9]);
    let failed = go(first.step(&seen(&[tally(1, 1, 1, 0)]), at(1)));
    assert_eq!((failed.phase, failed.in_force()), (Phase::RolledBack, 0));
    assert_eq!(
        failed.reason,
        "wave 1: of 3 devices reached 1 rejected it, 0 did not answer in time (1m) and 0 went back from it, and at most 0 % may"
    );
    let paused = rolling(
        StrategySpec {
            on_failure: OnFailure::Pause,
            ..strategy()
        },
        &[3, 9],
    );
    let paused = go(paused.step(&seen(&[tally(1, 1, 1, 0)]), at(1)));
    assert_eq!((paused.phase, paused.in_force()), (Phase::Paused, 1));
}

#[test]
fn a_share_of_failures_may_be_allowed_and_silence_beyond_the_time_is_one() {
    let tolerant = StrategySpec {
        max_failed_percent: 10,
        ..strategy()
    };
    let first = rolling(tolerant, &[10, 9]);
    let one_of_ten = seen(&[tally(8, 1, 1, 0), Tally::default()]);
    assert_eq!(first.step(&one_of_ten, at(59)), None);
    // The tenth did not answer: two of ten failed.
    assert_eq!(go(first.step(&one_of_ten, at(60))).phase, Phase::RolledBack);
    let answered = seen(&[tally(9, 1, 0, 0), Tally::default()]);
    assert_eq!(go(first.step(&answered, at(59))).released, 2);
}

#[test]
fn who_went_back_has_failed_and_who_timed_out_has_when_the_wave_is_due() {
    let first = rolling(strategy(), &[3, 9]);
    let reverted = Tally {
        reverted: 1,
        ..tally(2, 0, 0, 0)
    };
    let failed = go(first.step(&seen(&[reverted]), at(1)));
    assert_eq!(failed.phase, Phase::RolledBack);
    assert_eq!(
        failed.reason,
        "wave 1: of 3 devices reached 0 rejected it, 0 did not answer in time (1m) and 1 went back from it, and at most 0 % may"
    );
    // Twin-store waits for less than the strategy: it may still answer.
    let silent = Tally {
        timed_out: 1,
        ..tally(2, 0, 0, 0)
    };
    assert_eq!(first.step(&seen(&[silent]), at(59)), None);
    assert_eq!(
        go(first.step(&seen(&[silent]), at(60))).phase,
        Phase::RolledBack
    );
    // One of an older wave has had its time, also if it came late.
    let second = go(first.step(&seen(&[tally(2, 0, 0, 1)]), at(10)));
    let failed = go(second.step(&seen(&[silent, tally(1, 0, 8, 0)]), at(20)));
    assert!(failed.reason.starts_with("wave 1: "), "{}", failed.reason);
}

#[test]
fn devices_that_are_away_block_nothing_but_somebody_must_have_answered() {
    let first = rolling(strategy(), &[10, 9]);
    let one_answered = seen(&[tally(1, 0, 0, 9), Tally::default()]);
    assert_eq!(go(first.step(&one_answered, at(1))).released, 2);
    let all_away = seen(&[tally(0, 0, 0, 10), Tally::default()]);
    assert_eq!(first.step(&all_away, at(1_000)), None);
    // Who comes late to an old wave has the time that it takes.
    let second = go(first.step(&one_answered, at(1)));
    let came = seen(&[tally(1, 0, 9, 0), tally(0, 0, 9, 0)]);
    assert_eq!(second.step(&came, at(50)), None);
    let came = seen(&[tally(1, 0, 9, 0), tally(9, 0, 0, 0)]);
    assert_eq!(go(second.step(&came, at(70))).phase, Phase::Completed);
    // But what it rejects counts for ever.
    let refused = seen(&[tally(1, 1, 0, 8), tally(0, 0, 9, 0)]);
    let reason = go(second.step(&refused, at(2))).reason;
    assert!(reason.starts_with("wave 1: "), "{reason}");
}

#[test]
fn a_mean_that_moves_too_far_from_the_beginning_of_its_wave_fails() {
    let gate = NumberSpec {
        of: "posture.score".to_owned(),
        fall_at_most: Some(5.into()),
        rise_at_most: None,
    };
    let soaking = StrategySpec {
        soak: Duration::secs(300),
        change: vec![gate],
        ..strategy()
    };
    let mean = |value: i64, count: u64| Mean {
        sum: value * 1000 * i64::try_from(count).unwrap(),
        count,
    };
    let mut first = rolling(soaking, &[2, 9]);
    for wave in &mut first.waves {
        wave.numbers = vec![mean(90, 2)];
    }
    let with = |one: Tally, mean| {
        let mut one = one;
        one.numbers[0] = mean;
        one
    };
    let look = |now, next| seen(&[with(tally(2, 0, 0, 0), now), with(Tally::default(), next)]);
    let soaks = go(first.step(&look(mean(85, 2), mean(90, 9)), at(1)));
    assert_eq!(soaks.phase, Phase::Soaking);
    let failed = go(soaks.step(&look(mean(84, 2), mean(90, 9)), at(2)));
    assert_eq!(failed.phase, Phase::RolledBack);
    assert_eq!(
        failed.reason,
        "wave 1: the mean of posture.score fell by 6.000, from 90.000 to 84.000, and may by 5"
    );
    // The next wave has fallen by itself since it was planned: it counts from where it begins.
    let second = go(soaks.step(&look(mean(86, 2), mean(50, 9)), at(301)));
    assert_eq!(second.released, 2);
    assert_eq!(second.waves[1].numbers, [mean(50, 9)]);
    let both = |now, next| seen(&[with(tally(2, 0, 0, 0), now), with(tally(9, 0, 0, 0), next)]);
    let soaks = go(second.step(&both(mean(86, 2), mean(45, 9)), at(302)));
    assert_eq!(soaks.phase, Phase::Soaking);
    // The first is still watched, and what nobody has any more is compared with nothing.
    let fell = go(soaks.step(&both(mean(80, 2), mean(45, 9)), at(303)));
    assert!(fell.reason.starts_with("wave 1: "), "{}", fell.reason);
    assert_eq!(
        soaks.step(&both(mean(86, 2), Mean::default()), at(303)),
        None
    );
    // It is kept with the rollout.
    let text = serde_json::to_string(&second).unwrap();
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), second);
}

#[test]
fn a_wave_is_watched_while_it_soaks() {
    let soaking = StrategySpec {
        soak: Duration::secs(300),
        fail_if: "posture.score < 50".to_owned(),
        fail_if_at_most: 1,
        ..strategy()
    };
    let mut first = rolling(soaking, &[10, 9]);
    first.waves[0].flagged = 2;
    let good = |flagged| {
        let wave = Tally {
            flagged,
            ..tally(10, 0, 0, 0)
        };
        seen(&[wave, Tally::default()])
    };
    let soaks = go(first.step(&good(3), at(10)));
    assert_eq!((soaks.phase, soaks.since), (Phase::Soaking, at(10)));
    assert_eq!(soaks.step(&good(3), at(309)), None);
    assert_eq!(go(soaks.step(&good(3), at(310))).released, 2);
    // Two were so before, one more may be.
    let failed = go(soaks.step(&good(4), at(11)));
    assert_eq!(failed.phase, Phase::RolledBack);
    assert_eq!(
        failed.reason,
        "wave 1: of 10 twins, `posture.score < 50` holds on 4, and on 2 before it began; 1 more may"
    );
}

#[test]
fn a_share_may_have_to_be_applied() {
    let strict = StrategySpec {
        max_failed_percent: 50,
        min_applied_percent: 80,
        ..strategy()
    };
    let first = rolling(strict, &[10, 9]);
    let failed = go(first.step(&seen(&[tally(7, 3, 0, 0)]), at(1)));
    assert_eq!(
        failed.reason,
        "wave 1: 7 of 10 devices reached have applied it, and 80 % must"
    );
    let enough = seen(&[tally(8, 2, 0, 0), Tally::default()]);
    assert_eq!(go(first.step(&enough, at(1))).released, 2);
}

#[test]
fn what_changes_nothing_is_complete_at_once() {
    let done = rolling(strategy(), &[0, 0]);
    assert_eq!(done.phase, Phase::Completed);
    assert_eq!(done.reason, "it changed no device");
}

#[test]
fn a_second_person_is_asked_also_where_it_changes_no_device_yet() {
    let approval = StrategySpec {
        approval: true,
        ..strategy()
    };
    let awaiting = rolling(approval, &[0]);
    assert_eq!(
        (awaiting.phase, awaiting.in_force()),
        (Phase::AwaitingApproval, 0)
    );
    assert_eq!(awaiting.reason, "it changes no device now");
    let approved = awaiting.order(Order::Approve, "operator:b", "", at(9));
    assert_eq!(approved.unwrap().phase, Phase::Rolling);
}

#[test]
fn a_device_that_comes_back_while_a_wave_soaks_has_not_failed() {
    let strategy = StrategySpec {
        soak: Duration::secs(3600),
        ..strategy()
    };
    let soaking = rolling(strategy, &[10, 90]);
    let soaking = go(soaking.step(&seen(&[tally(8, 0, 0, 2)]), at(20)));
    assert_eq!(soaking.phase, Phase::Soaking);
    let late = at(100_000);
    let soaking = Rollout {
        since: late,
        ..soaking
    };
    // The first look after it connected, and its answer is on its way; or it applied it and sleeps.
    let pending = tally(8, 0, 1, 1);
    let lost = Tally {
        lost: 1,
        ..tally(8, 0, 0, 1)
    };
    for one in [pending, lost] {
        assert_eq!(soaking.step(&seen(&[one]), late), None, "{one:?}");
    }
    // Whoever is gone at the end of it has proved nothing.
    let back = go(soaking.step(&seen(&[lost]), late + SignedDuration::from_hours(1)));
    assert_eq!(back.phase, Phase::RolledBack);
    // Time is up for those that twin-store says so of.
    let silent = Tally {
        timed_out: 1,
        ..tally(8, 0, 0, 1)
    };
    let back = go(soaking.step(&seen(&[silent]), late));
    assert_eq!(back.phase, Phase::RolledBack);
}

#[test]
fn nobody_is_late_before_all_were_looked_at() {
    let rollout = rolling(strategy(), &[10, 90]);
    let late = at(100_000);
    let just_written = Seen {
        looked_since: Some(late),
        ..seen(&[tally(3, 0, 7, 0)])
    };
    assert_eq!(rollout.step(&just_written, late), None);
    let back = go(rollout.step(&just_written, at(200_000)));
    assert_eq!(back.phase, Phase::RolledBack);
}

#[test]
fn people_direct_it() {
    let order = |rollout: &Rollout, order, by: &str| rollout.order(order, by, "why", at(9));
    let approval = StrategySpec {
        approval: true,
        ..strategy()
    };
    let awaiting = rolling(approval, &[1, 9]);
    assert_eq!(
        (awaiting.phase, awaiting.in_force()),
        (Phase::AwaitingApproval, 0)
    );
    let own = order(&awaiting, Order::Approve, "operator:a").unwrap_err();
    assert!(matches!(own, Refusal::OwnRevision { .. }), "{own}");
    let first = order(&awaiting, Order::Approve, "operator:b").unwrap();
    assert_eq!(first.reason, "approved by operator:b: why");
    assert_eq!(
        (first.phase, first.approver.as_str()),
        (Phase::Rolling, "operator:b")
    );

    let paused = order(&first, Order::Pause, "operator:a").unwrap();
    assert_eq!((paused.phase, paused.in_force()), (Phase::Paused, 1));
    assert_eq!(order(&paused, Order::Pause, "operator:c").unwrap(), paused);
    assert_eq!(paused.step(&seen(&[tally(0, 1, 0, 0)]), at(99)), None);
    let resumed = order(&paused, Order::Resume, "operator:a").unwrap();
    assert_eq!((resumed.phase, resumed.wave_began), (Phase::Rolling, at(9)));

    // Whoever skips accepts what the waves so far have shown.
    let second = order(&paused, Order::Skip, "operator:a").unwrap();
    assert_eq!(second.released, 2);
    let first_is_bad = seen(&[tally(0, 1, 0, 0), tally(9, 0, 0, 0)]);
    assert_eq!(
        go(second.step(&first_is_bad, at(10))).phase,
        Phase::Completed
    );

    let aborted = order(&second, Order::Abort, "operator:a").unwrap();
    assert_eq!((aborted.phase, aborted.in_force()), (Phase::RolledBack, 0));
    assert_eq!(
        order(&aborted, Order::Abort, "operator:a").unwrap(),
        aborted
    );
    let again = order(&aborted, Order::Retry, "operator:a").unwrap();
    assert_eq!((again.phase, again.in_force()), (Phase::Planning, 0));

    for (wrong, rollout) in [
        (Order::Approve, &first),
        (Order::Pause, &awaiting),
        (Order::Resume, &first),
        (Order::Skip, &awaiting),
        (Order::Retry, &first),
    ] {
        let refusal = order(rollout, wrong, "operator:a").unwrap_err();
        assert!(matches!(refusal, Refusal::Phase { .. }), "{refusal}");
    }
    let done = go(second.step(&first_is_bad, at(10)));
    let refusal = order(&done, Order::Abort, "operator:a").unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "a rollout that is completed cannot be told to abort; it must be one that has not ended"
    );
}

#[test]
fn what_was_seen_before_an_order_begins_no_wave_after_it() {
    let first = rolling(strategy(), &[1, 5, 9]);
    let canary_applied = seen(&[tally(1, 0, 0, 0), Tally::default(), Tally::default()]);
    let second = first.step_as(&first, &canary_applied, at(1));
    assert_eq!(second.released, 2);
    // Somebody was faster: nobody of the second wave has been counted yet.
    let skipped = first.order(Order::Skip, "operator:b", "", at(1)).unwrap();
    let same = skipped.step_as(&first, &canary_applied, at(1));
    assert_eq!(same, skipped);
}

#[test]
fn a_rollout_is_read_as_it_was_kept() {
    let rollout = rolling(
        StrategySpec {
            waves: vec![
                WaveSpec::Count(1),
                WaveSpec::Where("tags.a = 1".to_owned()),
                WaveSpec::Percent(20),
            ],
            ..strategy()
        },
        &[1, 9],
    );
    let text = serde_json::to_string(&rollout).unwrap();
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
}

fn waits(rollout: &Rollout, seen: &Seen, seconds: i64) -> String {
    match rollout.judge(seen, at(seconds)) {
        Step::Waits(why) => why,
        other => panic!("it does not stand still: {other:?}"),
    }
}

#[test]
fn whoever_was_planned_and_is_gone_proves_nothing() {
    let first = rolling(strategy(), &[3, 9]);
    let nobody = seen(&[Tally::default(), Tally::default()]);
    let why = waits(&first, &nobody, 1_000);
    assert!(why.starts_with("none of the 3 twins of wave 1 "), "{why}");
    // A wave that takes nobody, as it was planned, has nothing to prove.
    let empty = rolling(strategy(), &[0, 9]);
    assert_eq!(go(empty.step(&nobody, at(1))).released, 2);
}

#[test]
fn who_loses_its_settings_is_judged_like_who_gets_some() {
    let left = |left, rejected| Tally {
        left,
        ..tally(0, rejected, 0, 0)
    };
    let first = rolling(strategy(), &[3, 9]);
    let good = seen(&[left(3, 0), Tally::default()]);
    assert_eq!(go(first.step(&good, at(1))).released, 2);
    let bad = seen(&[left(2, 1), Tally::default()]);
    assert_eq!(go(first.step(&bad, at(1))).phase, Phase::RolledBack);
    // A target that was narrowed by a slip is no share that applied anything.
    let strict = StrategySpec {
        min_applied_percent: 95,
        ..strategy()
    };
    let failed = go(rolling(strict, &[3, 9]).step(&good, at(1)));
    assert_eq!(
        failed.reason,
        "wave 1: 0 of 3 devices reached have applied it, and 95 % must; 3 lost what they had, the \
         revision is not for them"
    );
    let lacking = Tally {
        incomplete: 1,
        ..tally(2, 0, 0, 0)
    };
    let failed = go(first.step(&seen(&[lacking, Tally::default()]), at(1)));
    assert_eq!(failed.phase, Phase::RolledBack);
    let reason = failed.reason;
    assert!(
        reason.ends_with("; 1 lack what its templates name and lose what they had"),
        "{reason}"
    );
}

#[test]
fn who_applied_it_and_is_gone_has_proved_nothing() {
    let lost = |applied, lost, reverted| Tally {
        reverted,
        lost,
        ..tally(applied, 0, 0, 0)
    };
    let first = rolling(strategy(), &[10, 9]);
    let look = |tally| seen(&[tally, Tally::default()]);
    // One of ten may be gone, and more of them if they come back, be it to say that they went back.
    assert_eq!(go(first.step(&look(lost(9, 1, 0)), at(1))).released, 2);
    let why = waits(&first, &look(lost(8, 2, 0)), 59);
    assert!(
        why.starts_with("2 of 10 devices of wave 1 applied it and are gone"),
        "{why}"
    );
    let failed = go(first.step(&look(lost(8, 1, 1)), at(59)));
    assert!(
        failed.reason.contains("and 1 went back"),
        "{}",
        failed.reason
    );
    let failed = go(first.step(&look(lost(8, 2, 0)), at(60)));
    assert_eq!(
        failed.reason,
        "wave 1: of 10 devices reached 2 applied it, were gone soon after and did not come back in time \
         (1m), and at most 10 % may"
    );
    // Also while it soaks; and all of them are as good as none.
    let soaking = StrategySpec {
        soak: Duration::secs(20),
        ..strategy()
    };
    let soaks = go(rolling(soaking, &[10, 9]).step(&look(lost(10, 0, 0)), at(1)));
    assert_eq!(soaks.phase, Phase::Soaking);
    waits(&soaks, &look(lost(1, 9, 0)), 30);
    assert_eq!(go(soaks.step(&look(lost(10, 0, 0)), at(30))).released, 2);
    assert_eq!(
        go(soaks.step(&look(lost(1, 9, 0)), at(60))).phase,
        Phase::RolledBack
    );
    waits(&first, &look(lost(0, 10, 0)), 1);
    // Who comes late to an old wave and goes again is one that sleeps.
    let second = go(first.step(&look(lost(10, 0, 0)), at(1)));
    let sleepy = seen(&[lost(2, 8, 0), lost(9, 0, 0)]);
    assert_eq!(go(second.step(&sleepy, at(61))).phase, Phase::Completed);
    let tolerant = StrategySpec {
        max_lost_percent: 100,
        ..strategy()
    };
    let first = rolling(tolerant, &[10, 9]);
    assert_eq!(go(first.step(&look(lost(1, 9, 0)), at(1))).released, 2);
}

#[test]
fn a_fleet_that_never_answers_is_not_waited_for() {
    let mute = StrategySpec {
        answers: Answers::None,
        soak: Duration::secs(30),
        ..strategy()
    };
    for quiet in [
        tally(0, 0, 5, 5),
        Tally {
            timed_out: 10,
            ..Tally::default()
        },
        tally(0, 0, 0, 10),
    ] {
        let first = rolling(mute.clone(), &[10, 9]);
        let soaks = go(first.step(&seen(&[quiet, Tally::default()]), at(100)));
        assert_eq!(soaks.phase, Phase::Soaking, "{quiet:?}");
        let next = go(soaks.step(&seen(&[quiet, Tally::default()]), at(130)));
        assert_eq!(next.released, 2);
        // What is refused all the same counts, and so does who is not there any more.
        let refused = seen(&[tally(0, 1, 9, 0)]);
        assert_eq!(go(first.step(&refused, at(1))).phase, Phase::RolledBack);
        waits(&first, &seen(&[Tally::default()]), 100);
    }
    // The guard's own, once it is known that nobody answers.
    let by_guard = rolling(strategy(), &[10]).unanswered();
    assert_eq!(by_guard.strategy.answers, Answers::None);
}

#[test]
fn what_failed_is_taken_back_while_the_policy_is_closed_and_nothing_goes_on() {
    let first = rolling(strategy(), &[3, 9]);
    let closed = |tally| Seen {
        partly: true,
        ..seen(&[tally, Tally::default()])
    };
    assert_eq!(first.step(&closed(tally(3, 0, 0, 0)), at(1)), None);
    // No time runs: nobody is late.
    assert_eq!(first.step(&closed(tally(0, 0, 3, 0)), at(1_000)), None);
    let failed = go(first.step(&closed(tally(2, 1, 0, 0)), at(1)));
    assert_eq!(failed.phase, Phase::RolledBack);
}

#[test]
fn what_is_taken_back_takes_along_what_it_had_superseded() {
    let rollout = |phase| Rollout {
        phase,
        ..Rollout::begin(strategy(), Some(6), "operator:a".to_owned(), at(0))
    };
    let taken = |phase| -> Vec<u64> {
        let course = rollout(phase).course(&id(), 8).unwrap();
        (5..10)
            .filter(|revision| course.takes_back(*revision))
            .collect()
    };
    assert_eq!(taken(Phase::RolledBack), [7, 8]);
    // As long as it may still come what the one before it brought stays, if the policy is closed.
    assert_eq!(taken(Phase::Planning), [8]);
    assert_eq!(taken(Phase::Superseded), [8]);
}

#[test]
fn a_rollout_of_a_policy_that_ended_has_ended_and_can_be_begun_anew() {
    let first = rolling(strategy(), &[3, 9]);
    let ended = first.expired(at(7), at(8));
    assert_eq!((ended.phase, ended.in_force()), (Phase::RolledBack, 0));
    assert!(
        ended
            .reason
            .starts_with("the policy ended 1970-01-01T00:00:07Z")
    );
    let again = ended.order(Order::Retry, "operator:a", "", at(9)).unwrap();
    assert!(again.again && !again.planned(vec![wave(1)], at(9)).again);
}

#[test]
fn waves_go_by_what_devices_cannot_move_themselves() {
    let settings = json!({"fan": 1}).as_object().unwrap().clone();
    let problems = |text: &str| -> Vec<String> {
        let spec = StrategySpec {
            waves: vec![WaveSpec::Where(text.to_owned())],
            ..strategy()
        };
        let problems = crate::rollout::Strategy::check(spec, &settings).err();
        let problems = problems.into_iter().flatten();
        problems
            .map(|problem| {
                format!(
                    "{}: {}",
                    problem.position.unwrap_or_default(),
                    problem.message
                )
            })
            .collect()
    };
    for good in [
        "tags.ring = 1 AND status = 'enabled'",
        "deviceId IN ['a'] OR moduleId = 'b'",
        "EXISTS(r IN tags.rings WHERE r = 1)",
    ] {
        assert_eq!(problems(good), Vec::<String>::new(), "{good}");
    }
    for bad in [
        "reported.fw = '1'",
        "tags.a = 1 AND posture.score >= 80",
        "properties.desired.x = 1",
    ] {
        let found = problems(bad);
        assert_eq!(found.len(), 1, "{bad}");
        assert!(found[0].starts_with("waves[0]: looks at "), "{found:?}");
        assert!(
            found[0].contains("allowed are tags, deviceId, moduleId and status"),
            "{found:?}"
        );
    }
    let both = StrategySpec {
        answers: Answers::None,
        min_applied_percent: 5,
        max_lost_percent: 101,
        ..strategy()
    };
    let found = crate::rollout::Strategy::check(both, &settings).unwrap_err();
    let positions: Vec<_> = found
        .into_iter()
        .filter_map(|problem| problem.position)
        .collect();
    assert_eq!(positions, ["maxLostPercent", "minAppliedPercent"]);
}

fn key(device: u32) -> IdentityKey {
    IdentityKey {
        device: DeviceId::parse(&format!("d{device}")).unwrap(),
        module: Some(ModuleId::parse(ModuleId::SECURITY).unwrap()),
    }
}

fn twin(device: u32, ring: u8) -> TwinDocument {
    TwinDocument::from_wire(&proto::Twin {
        device_id: format!("d{device}"),
        module_id: ModuleId::SECURITY.to_owned(),
        status: "enabled".to_owned(),
        tags_json: json!({ "ring": ring }).to_string(),
        desired_version: 1,
        ..proto::Twin::default()
    })
    .unwrap()
}

fn id() -> PolicyId {
    PolicyId::parse("p").unwrap()
}

#[test]
fn what_twins_draw_is_frozen() {
    // Another result would send twins of a rollout that is under way to other waves.
    let drawn = [1, 2, 3].map(|device| draw(&id(), 7, &key(device)));
    let whole_text = |device: u32| {
        xxhash_rust::xxh3::xxh3_64(format!("p\n7\nd{device}\n{}", ModuleId::SECURITY).as_bytes())
    };
    assert_eq!(drawn, [1, 2, 3].map(whole_text));
    assert_ne!(drawn[0], draw(&id(), 8, &key(1)));
}

fn waves() -> impl proptest::strategy::Strategy<Value = Vec<WaveSpec>> {
    proptest::collection::vec(
        prop_oneof![
            (1_u64..40).prop_map(WaveSpec::Count),
            (1_u8..=100).prop_map(WaveSpec::Percent),
            (0_u8..3).prop_map(|ring| WaveSpec::Where(format!("tags.ring = {ring}"))),
        ],
        0..5,
    )
}

/// The guard begins rollouts that nobody has thought about: one slow device must not take them back.
#[test]
fn one_device_of_a_wave_may_fail_in_a_rollout_of_the_guard() {
    let strategy = || StrategySpec {
        max_failed_percent: 2,
        ..strategy()
    };
    let guarded = |waves: &[u64]| Rollout {
        guarded: Some(Guarded {
            reason: "too many".to_owned(),
            counted: true,
        }),
        ..rolling(strategy(), waves)
    };
    let phase = |rollout: &Rollout, failed: u64, of: u64| {
        let seen = seen(&[tally(of - failed, failed, 0, 0)]);
        rollout.step(&seen, at(60)).map(|next| next.phase)
    };
    let back = Some(Phase::RolledBack);
    assert_eq!(phase(&rolling(strategy(), &[6, 60]), 1, 6), back);
    assert_ne!(phase(&guarded(&[6, 60]), 1, 6), back);
    assert_eq!(phase(&guarded(&[6, 60]), 2, 6), back);
    // Of fewer than five it would be too many.
    assert_eq!(phase(&guarded(&[4, 60]), 1, 4), back);
    // The same where the others are not there: nobody says that it is the device's fault.
    let seen_of = seen(&[tally(0, 1, 0, 5)]);
    let asleep = guarded(&[6, 60]).step(&seen_of, at(60));
    assert_eq!(asleep.map(|next| next.phase), back);
    // Where the share allows more than one, the share counts.
    assert_ne!(phase(&guarded(&[200, 600]), 4, 200), back);
    assert_eq!(phase(&guarded(&[200, 600]), 5, 200), back);
}

proptest! {
    /// Every twin has exactly one wave, the same one for the plan and for decisions; waves by count and
    /// share have as many twins as they say; a further wave takes nothing away from those before it.
    #[test]
    fn a_plan_and_its_course_agree(waves in waves(), rings in proptest::collection::vec(0_u8..3, 0..60)) {
        let strategy = StrategySpec { waves, ..strategy() };
        let twins: Vec<TwinDocument> =
            (0..).zip(&rings).map(|(device, ring)| twin(device, *ring)).collect();
        let labels = labels(&strategy);
        let candidates: Vec<Candidate> = twins.iter().map(|twin| Candidate {
            changed: true,
            draw: draw(&id(), 7, twin.key()),
            labelled: labels
                .iter()
                .find(|(_, condition)| condition.matches(&twin.view()))
                .map(|(wave, _)| *wave),
            flagged: false,
            numbers: Vec::new(),
        }).collect();
        let planned = plan(&strategy, &candidates);
        let sum: u64 = planned.iter().map(|wave| wave.twins).sum();
        prop_assert_eq!(sum, twins.len() as u64);
        let course = |released| Course::new(id(), 7, &planned, released, &strategy);
        let mut counted = vec![0_u64; planned.len()];
        for twin in &twins {
            counted[course(0).wave_of(twin).expect("the last wave takes everybody")] += 1;
        }
        let expected: Vec<u64> = planned.iter().map(|wave| wave.twins).collect();
        prop_assert_eq!(counted, expected);
        for released in 0..=planned.len() {
            let has = |released| twins.iter().filter(|twin| course(released).has_released(twin)).count();
            let until: u64 = planned[..released].iter().map(|wave| wave.twins).sum();
            prop_assert_eq!(has(released) as u64, until);
        }
        // So many have the revision after a wave by count or share, whoever took them before.
        let mut until = 0;
        for (index, wave) in planned.iter().enumerate() {
            let before = until;
            until += wave.twins;
            let wanted = match strategy.waves.get(index) {
                Some(WaveSpec::Count(count)) => (*count).min(twins.len() as u64),
                Some(WaveSpec::Percent(share)) => {
                    (twins.len() * usize::from(*share)).div_ceil(100) as u64
                }
                Some(WaveSpec::Where(_)) | None => continue,
            };
            prop_assert_eq!(until, before.max(wanted), "wave {}", index);
        }
    }

    /// Whatever is seen and said, in whatever order: waves only begin one after the other, nothing has
    /// the revision after it was taken back, and what has ended changes by `retry` alone.
    #[test]
    fn it_goes_forward_or_back_but_never_astray(
        approval: bool,
        turns in proptest::collection::vec((0_u8..10, 0_u64..4, 0_u64..4, 0_u64..4, 0_u64..4, 0_i64..90), 1..60),
    ) {
        let strategy = StrategySpec { approval, max_failed_percent: 20, soak: Duration::secs(30), ..strategy() };
        let mut now = 0;
        let mut rollout = rolling(strategy, &[2, 3, 4]);
        for (turn, applied, rejected, pending, offline, later) in turns {
            now += later;
            let before = rollout.clone();
            let order = match turn {
                0 => Some(Order::Approve),
                1 => Some(Order::Pause),
                2 => Some(Order::Resume),
                3 => Some(Order::Skip),
                4 => Some(Order::Abort),
                5 => Some(Order::Retry),
                _ => None,
            };
            let next = match order {
                Some(order) => rollout.order(order, "operator:b", "", at(now)).ok(),
                None if before.phase == Phase::Planning => {
                    Some(before.planned(vec![wave(2), wave(3), wave(4)], at(now)))
                }
                None => rollout.step(&seen(&[tally(applied, rejected, pending, offline); 3]), at(now)),
            };
            let Some(next) = next else { continue };
            prop_assert!(next.released <= before.released + 1);
            prop_assert!(next.released >= before.released || order == Some(Order::Retry));
            prop_assert!(next.in_force() <= next.waves.len());
            if before.phase.has_ended() {
                prop_assert!(next == before || order == Some(Order::Retry));
            }
            match next.phase {
                Phase::Planning | Phase::AwaitingApproval | Phase::RolledBack => prop_assert_eq!(next.in_force(), 0),
                Phase::Completed => prop_assert_eq!(next.in_force(), 3),
                Phase::Rolling | Phase::Soaking | Phase::Paused => prop_assert!(next.in_force() > 0),
                Phase::Superseded => prop_assert!(false, "nobody superseded it"),
            }
            // A gate that lets a wave pass has seen somebody apply it, and no more failures than allowed.
            if order.is_none() && next.released > before.released && before.released > before.excused && before.phase == Phase::Rolling {
                // Each of these waves was planned for somebody.
                prop_assert!(applied + rejected > 0);
                prop_assert!(rejected * 100 <= 20 * (applied + rejected + pending));
            }
            rollout = next;
        }
    }
}
