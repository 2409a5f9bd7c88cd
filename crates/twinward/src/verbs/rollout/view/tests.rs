use prost_types::Timestamp;

use super::*;
use crate::output::golden;

fn rollout(phase: Phase, reason: &str) -> api::Rollout {
    let wave = |released, twins: [u64; 4]| api::RolloutWave {
        twins_planned: twins.iter().sum(),
        released,
        twins_applied: twins[0],
        twins_pending: twins[1],
        twins_rejected: twins[2],
        twins_offline: twins[3],
        ..Default::default()
    };
    let time = Some(Timestamp {
        seconds: 1_800_000_000,
        nanos: 0,
    });
    api::Rollout {
        name: "policies/lamps/rollouts/3".to_owned(),
        policy_id: "lamps".to_owned(),
        revision: 3,
        from_revision: 1,
        phase: phase.into(),
        phase_time: time,
        reason: reason.to_owned(),
        create_time: time,
        author: "operator:ann".to_owned(),
        waves: vec![
            wave(true, [3, 0, 0, 0]),
            wave(true, [40, 7, 1, 2]),
            wave(false, [0, 0, 0, 950]),
        ],
        waves_released: 2,
        in_step_time: time,
        ..Default::default()
    }
}

#[test]
fn a_rollout_shows_its_waves() {
    insta::assert_snapshot!(golden::text(&RolloutView(rollout(Phase::Rolling, ""))));
    insta::assert_snapshot!(golden::json(&RolloutView(rollout(Phase::Rolling, ""))));
}

#[test]
fn one_that_was_taken_back_shows_how_far_it_went() {
    let reason = "wave 2: of 48 devices reached 1 rejected it";
    let mut back = rollout(Phase::RolledBack, reason);
    for wave in &mut back.waves {
        (wave.begun, wave.released) = (wave.released, false);
    }
    let back = api::Rollout {
        waves_released: 0,
        in_step_time: None,
        counts_at_end: true,
        ..back
    };
    assert_eq!(waves(&back), "2/3");
    insta::assert_snapshot!(golden::text(&RolloutView(back)));
}

#[test]
fn several_are_a_line_each() {
    let failed = rollout(
        Phase::RolledBack,
        "wave 1: of 3 devices reached 1 rejected it",
    );
    let both = RolloutsView(vec![rollout(Phase::Soaking, ""), failed]);
    insta::assert_snapshot!(golden::text(&both));
    insta::assert_snapshot!(golden::text(&RolloutsView(Vec::new())));
}

#[test]
fn a_watcher_sees_one_line() {
    assert_eq!(
        line(&rollout(Phase::Rolling, "")),
        "rolling, wave 2 of 3, 40 of 48 devices applied, 7 pending, 1 rejected, 2 offline"
    );
    let unknown = api::Rollout {
        in_step_time: None,
        ..rollout(Phase::Paused, "paused by operator:ann")
    };
    assert_eq!(
        line(&unknown),
        "paused, wave 2 of 3, paused by operator:ann"
    );
}

#[test]
fn only_a_complete_one_counts_as_done() {
    assert!(verdict(&rollout(Phase::Completed, "")).is_none());
    for (phase, kind) in [
        (Phase::RolledBack, Kind::Failed),
        (Phase::Superseded, Kind::Failed),
        (Phase::Paused, Kind::Precondition),
        (Phase::AwaitingApproval, Kind::Precondition),
    ] {
        let failure = verdict(&rollout(phase, "because")).expect("it is not done");
        assert_eq!(failure.kind(), kind, "{phase:?}");
    }
}
