//! What people tell a rollout that a gate has stopped: it is not resumed into the same gate, shows what was
//! counted when it was taken back, and begins anew without what was answered before.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Whether the devices of the story can do what is asked of them by now.
static MENDED: AtomicBool = AtomicBool::new(false);

fn says(lamp: &Value) -> Says {
    if lamp == "explode" && !MENDED.load(Ordering::Relaxed) {
        Says::Rejected
    } else {
        Says::Applied
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_gate_is_not_resumed_and_a_retry_counts_no_old_answers() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let canary = tagged(&api, "canary", json!({"site": "a", "ring": "canary"})).await;
    let rest = tagged(&api, "rest", json!({"site": "a"})).await;
    let fleet = [canary, rest].map(|device| Simulated::start(hub.agent_url(), device, says));

    let ring = wave::Twins::Where("tags.ring = 'canary'".to_owned());
    let strategy = policy::RolloutStrategy {
        on_failure: OnFailure::Pause.into(),
        ..waves([ring])
    };
    let applied = api.apply(lamps("explode", Some(strategy))).await;
    applied.expect("a good policy");
    let counted = |rollout: &policy::Rollout| {
        rollout.phase() == Phase::Paused
            && rollout.in_step_time.is_some()
            && rollout.waves[0].twins_rejected == 1
    };
    let paused = rollout_until(&api, "the gate to fail", counted).await;
    assert!(paused.reason.starts_with("wave 1: "), "{}", paused.reason);

    let resume = policy::ResumeRolloutRequest {
        name: paused.name.clone(),
        reason: "let us see".to_owned(),
        ..Default::default()
    };
    let refused = api.rollouts.clone().resume_rollout(resume).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    let told = refused.message();
    assert!(told.contains("a gate still fails: wave 1: "), "{told}");
    assert_eq!(rollout(&api).await.etag, paused.etag, "nothing has changed");

    let abort = policy::AbortRolloutRequest {
        name: paused.name.clone(),
        etag: paused.etag.clone(),
        ..Default::default()
    };
    let aborted = api.rollouts.clone().abort_rollout(abort).await;
    let aborted = aborted.expect("it can be").into_inner();
    assert_eq!(aborted, rollout(&api).await);
    let ended: Vec<_> = aborted
        .waves
        .iter()
        .map(|wave| (wave.begun, wave.released, wave.twins_rejected))
        .collect();
    assert_eq!(ended, [(true, false, 1), (false, false, 0)]);
    assert!(aborted.counts_at_end, "{aborted:?}");

    MENDED.store(true, Ordering::Relaxed);
    let retry = policy::RetryRolloutRequest {
        name: paused.name.clone(),
        ..Default::default()
    };
    let retried = api.rollouts.clone().retry_rollout(retry).await;
    retried.expect("it can be");
    let done = rollout_until(&api, "the end of the retry", |rollout| {
        rollout.phase() != Phase::Planning && rollout.phase() != Phase::Rolling
    })
    .await;
    assert_eq!(done.phase(), Phase::Completed, "{}", done.reason);
    for one in &fleet {
        let twin = &one.device.twin;
        api.twin_until(twin, "the lamp", |twin| twin.desired()["lamp"] == "explode")
            .await;
    }
    drop(fleet);
    hub.stop().await;
}
