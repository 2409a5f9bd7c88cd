//! Revisions that spread wave by wave: a bad one stops in its first wave and is taken back from exactly
//! the devices that had it, and the death of the service in any phase changes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::wait_for;
use tokio::task::JoinHandle;
use wire::agent::v1 as agent;
use wire::agent::v1::acknowledge_desired::Outcome;
use wire::agent::v1::open_session_request::Message as Up;
use wire::agent::v1::open_session_response::Message as Down;
use wire::policy::v1 as policy;
use wire::policy::v1::rollout::Phase;
use wire::policy::v1::rollout_strategy::{OnFailure, Wave, wave};
use wire::twin::v1::PatchTwinRequest;

use crate::support::SOON;
use crate::support::agent::{hello, open, sas};
use crate::support::api::{Api, Device};
use crate::support::hub::{Hub, Part};

mod orders;

/// What a simulated device says to a lamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    Applied,
    Rejected,
    Nothing,
}

/// A device that stays connected and answers for what it gets.
pub(crate) struct Simulated {
    pub(crate) device: Device,
    /// Every lamp that it was told of, in order, without repetitions.
    lamps: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl Simulated {
    pub(crate) fn start(url: String, device: Device, says: fn(&Value) -> Says) -> Simulated {
        let lamps = Arc::<Mutex<Vec<Value>>>::default();
        let (told, its) = (Arc::clone(&lamps), device.clone());
        let task = tokio::spawn(async move {
            let mut applied = 0;
            loop {
                applied = session(&url, &its, applied, &told, says).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Simulated {
            device,
            lamps,
            task,
        }
    }

    pub(crate) fn lamps(&self) -> Vec<Value> {
        let lamps = self.lamps.lock().unwrap_or_else(PoisonError::into_inner);
        lamps.clone()
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One session, until it breaks; answers the version that was applied last.
async fn session(
    url: &str,
    device: &Device,
    mut applied: u64,
    lamps: &Mutex<Vec<Value>>,
    says: fn(&Value) -> Says,
) -> u64 {
    let token = sas(device, Duration::from_hours(1));
    let Ok(mut session) = open(url, &token, hello(applied)).await else {
        return applied;
    };
    while let Ok(Some(message)) = session.down.message().await {
        let Some(Down::Desired(desired)) = message.message else {
            continue;
        };
        let document: Value = serde_json::from_str(&desired.document_json).expect("JSON");
        let lamp = document["lamp"].clone();
        {
            let mut lamps = lamps.lock().unwrap_or_else(PoisonError::into_inner);
            if lamps.last() != Some(&lamp) {
                lamps.push(lamp.clone());
            }
        }
        let outcome = match says(&lamp) {
            Says::Nothing => continue,
            Says::Applied => Outcome::Applied,
            Says::Rejected => Outcome::Rejected,
        };
        if outcome == Outcome::Applied {
            applied = desired.version;
        }
        let answer = Up::AcknowledgeDesired(agent::AcknowledgeDesired {
            version: desired.version,
            outcome: outcome.into(),
            reason: "as simulated".to_owned(),
            ..Default::default()
        });
        let message = Some(answer);
        let answer = agent::OpenSessionRequest { message };
        if session.up.send(answer).await.is_err() {
            break;
        }
    }
    applied
}

pub(crate) fn lamps(state: &str, rollout: Option<policy::RolloutStrategy>) -> policy::Policy {
    policy::Policy {
        policy_id: "lamps".to_owned(),
        scope: policy::Scope::Modules.into(),
        target: "tags.site = 'a'".to_owned(),
        settings_json: json!({ "lamp": state }).to_string(),
        rollout,
        ..Default::default()
    }
}

pub(crate) fn waves(waves: impl IntoIterator<Item = wave::Twins>) -> policy::RolloutStrategy {
    let wave = |twins| Wave { twins: Some(twins) };
    policy::RolloutStrategy {
        waves: waves.into_iter().map(wave).collect(),
        on_failure: OnFailure::Rollback.into(),
        // These devices cannot be cut off; who can is watched for ten minutes.
        soak: Duration::ZERO.try_into().ok(),
        ..Default::default()
    }
}

pub(crate) async fn tagged(api: &Api, id: &str, tags: Value) -> Device {
    let device = api.device(id).await;
    let request = PatchTwinRequest {
        name: device.twin.clone(),
        tags_patch_json: tags.to_string(),
        ..Default::default()
    };
    api.patch(request).await.expect("the tags are written");
    device
}

async fn rollout(api: &Api) -> policy::Rollout {
    let request = policy::GetRolloutRequest {
        name: "policies/lamps/rollouts/-".to_owned(),
    };
    let answer = api.rollouts.clone().get_rollout(request).await;
    answer.expect("there is one").into_inner()
}

/// Waits until the rollout is as a story needs it.
pub(crate) async fn rollout_until(
    api: &Api,
    what: &str,
    holds: impl Fn(&policy::Rollout) -> bool,
) -> policy::Rollout {
    let last = std::cell::RefCell::new(None);
    let looking = wait_for(what, SOON, async || {
        let request = policy::GetRolloutRequest {
            name: "policies/lamps/rollouts/-".to_owned(),
        };
        let answer = api.rollouts.clone().get_rollout(request).await;
        let rollout = answer.ok()?.into_inner();
        if holds(&rollout) {
            return Some(rollout);
        }
        *last.borrow_mut() = Some(rollout);
        None
    });
    let within = SOON.saturating_sub(Duration::from_secs(1));
    let found = tokio::time::timeout(within, looking).await;
    found.unwrap_or_else(|_| panic!("waited in vain for {what}: {:#?}", last.borrow()))
}

pub(crate) async fn in_phase(api: &Api, phase: Phase) -> policy::Rollout {
    rollout_until(api, phase.as_str_name(), |rollout| rollout.phase() == phase).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_setting_stops_in_its_first_wave_and_is_taken_back_from_whoever_had_it() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let mut fleet = Vec::new();
    for number in 0..12 {
        let device = tagged(&api, &format!("cam-{number}"), json!({"site": "a"})).await;
        let says = |lamp: &Value| {
            if lamp == "explode" {
                Says::Rejected
            } else {
                Says::Applied
            }
        };
        fleet.push(Simulated::start(hub.agent_url(), device, says));
    }
    let away = tagged(&api, "away", json!({"site": "a"})).await;

    // Without a strategy it is on all at once, and has no rollout.
    api.apply(lamps("on", None)).await.expect("a good policy");
    for one in &fleet {
        let twin = &one.device.twin;
        api.twin_until(twin, "the lamp to be on", |twin| {
            twin.desired()["lamp"] == "on" && twin.text("/configuration/state") == "applied"
        })
        .await;
    }
    let before: BTreeMap<String, u64> = versions(&api, &fleet).await;

    let careful = || waves([wave::Twins::Count(3), wave::Twins::Percent(60)]);
    api.apply(lamps("explode", Some(careful())))
        .await
        .expect("a good policy");
    let failed = in_phase(&api, Phase::RolledBack).await;
    assert!(failed.reason.starts_with("wave 1: "), "{}", failed.reason);
    assert_eq!((failed.revision, failed.from_revision), (2, 1));
    let planned: Vec<u64> = failed.waves.iter().map(|wave| wave.twins_planned).collect();
    assert_eq!(planned, [3, 5, 5], "13 twins: 3, 8 in all, the rest");

    for one in &fleet {
        let twin = &one.device.twin;
        api.twin_until(twin, "the lamp to be on again", |twin| {
            twin.desired()["lamp"] == "on" && twin.text("/configuration/state") == "applied"
        })
        .await;
    }
    let after = versions(&api, &fleet).await;
    let changed: Vec<&Simulated> = fleet
        .iter()
        .filter(|one| after[&one.device.twin] != before[&one.device.twin])
        .collect();
    let mut exploded = 0;
    for one in &fleet {
        let had_it = changed
            .iter()
            .any(|other| other.device.twin == one.device.twin);
        let told = one.lamps();
        let told: Vec<&Value> = told.iter().filter(|lamp| !lamp.is_null()).collect();
        // One of the wave may not have been told before it was taken back.
        if had_it && told.len() > 1 {
            assert_eq!(told, ["on", "explode", "on"], "{}", one.device.twin);
            exploded += 1;
        } else {
            assert_eq!(told, ["on"], "{}", one.device.twin);
        }
    }
    assert!(exploded > 0, "somebody rejected it");
    // The one that is away may be in the wave, too.
    assert!(
        (2..=3).contains(&changed.len()),
        "{} were changed",
        changed.len()
    );
    let away = api.twin(&away.twin).await.expect("it is there");
    assert_eq!(away.desired()["lamp"], "on");

    // A good one reaches everybody, wave by wave; who is away blocks nothing.
    api.apply(lamps("dim", Some(careful())))
        .await
        .expect("a good policy");
    let done = in_phase(&api, Phase::Completed).await;
    assert_eq!((done.revision, done.from_revision), (3, 1));
    for one in &fleet {
        let twin = &one.device.twin;
        let twin = api.twin_until(twin, "the lamp to be dim", |twin| {
            twin.desired()["lamp"] == "dim" && twin.text("/configuration/state") == "applied"
        });
        twin.await;
    }
    let request = policy::ListRolloutsRequest {
        parent: "policies/lamps".to_owned(),
        ..Default::default()
    };
    let answer = api.rollouts.clone().list_rollouts(request).await;
    let phases: Vec<Phase> = answer
        .expect("a list")
        .into_inner()
        .rollouts
        .iter()
        .map(policy::Rollout::phase)
        .collect();
    assert_eq!(phases, [Phase::Completed, Phase::RolledBack]);
    drop(fleet);
    hub.stop().await;
}

/// The version of each desired section.
async fn versions(api: &Api, fleet: &[Simulated]) -> BTreeMap<String, u64> {
    let mut versions = BTreeMap::new();
    for one in fleet {
        let twin = api.twin(&one.device.twin).await.expect("it is there");
        versions.insert(one.device.twin.clone(), twin.0.desired_version);
    }
    versions
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_service_in_any_phase_changes_nothing() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let canary = tagged(&api, "canary", json!({"site": "a", "ring": "canary"})).await;
    let rest = tagged(&api, "rest", json!({"site": "a"})).await;
    // The canary is silent for one lamp, so that a wave can be looked at while it rolls.
    let canary = Simulated::start(hub.agent_url(), canary, |lamp| {
        if lamp == "slow" {
            Says::Nothing
        } else {
            Says::Applied
        }
    });
    let rest = Simulated::start(hub.agent_url(), rest, |_| Says::Applied);

    let ring = || wave::Twins::Where("tags.ring = 'canary'".to_owned());
    let strategy = policy::RolloutStrategy {
        approval: true,
        ..waves([ring()])
    };
    // Nobody can count the devices now, so it cannot get beyond that.
    hub.process(Part::TwinStore).kill();
    api.apply(lamps("slow", Some(strategy.clone())))
        .await
        .expect("a good policy");
    in_phase(&api, Phase::Planning).await;
    hub.process(Part::Policy).kill();
    hub.kill_and_restart(Part::TwinStore).await;
    hub.kill_and_restart(Part::Policy).await;

    let name = in_phase(&api, Phase::AwaitingApproval).await.name;
    hub.kill_and_restart(Part::Policy).await;
    let api = hub.api();
    let awaiting = in_phase(&api, Phase::AwaitingApproval).await;
    assert_eq!(awaiting.waves.len(), 2);
    assert_eq!(canary.lamps(), [Value::Null]);

    // Everybody is the same one here, who may not approve of the own revision.
    let own = policy::ApproveRolloutRequest {
        name: name.clone(),
        ..Default::default()
    };
    let refused = api.rollouts.clone().approve_rollout(own).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("somebody else"), "{refused}");

    // So go on with one that needs none.
    let unapproved = policy::RolloutStrategy {
        approval: false,
        ..strategy
    };
    api.delete_policy("lamps").await.expect("it is there");
    api.apply(lamps("slow", Some(unapproved.clone())))
        .await
        .expect("a good policy");
    let rolls = |rollout: &policy::Rollout| {
        rollout.phase() == Phase::Rolling
            && rollout.in_step_time.is_some()
            && rollout.waves[0].twins_pending == 1
    };
    rollout_until(&api, "the canary to have to answer", rolls).await;
    hub.kill_and_restart(Part::Policy).await;
    let api = hub.api();
    let rolling = rollout_until(&api, "the canary to have to answer still", rolls).await;
    assert_eq!(rolling.waves_released, 1);
    let twin = api.twin(&rest.device.twin).await.expect("it is there");
    assert_eq!(twin.desired()["lamp"], Value::Null);

    let pause = policy::PauseRolloutRequest {
        name: rolling.name.clone(),
        reason: "lunch".to_owned(),
        ..Default::default()
    };
    let paused = api.rollouts.clone().pause_rollout(pause).await;
    assert_eq!(
        paused.expect("it can be").into_inner().phase(),
        Phase::Paused
    );
    hub.kill_and_restart(Part::Policy).await;
    let api = hub.api();
    let paused = rollout(&api).await;
    assert_eq!(paused.phase(), Phase::Paused);
    assert!(paused.reason.ends_with(": lunch"), "{}", paused.reason);

    let skip = |wave| policy::SkipWaveRequest {
        name: paused.name.clone(),
        wave,
        ..Default::default()
    };
    let other = api.rollouts.clone().skip_wave(skip(2)).await.unwrap_err();
    assert_eq!(other.code(), tonic::Code::FailedPrecondition, "{other}");
    let skipped = api.rollouts.clone().skip_wave(skip(1)).await;
    assert_eq!(skipped.expect("it can be").into_inner().waves_released, 2);
    in_phase(&api, Phase::Completed).await;
    hub.kill_and_restart(Part::Policy).await;
    let api = hub.api();
    assert_eq!(in_phase(&api, Phase::Completed).await.waves_released, 2);

    // The next one is given up, and stays so.
    api.apply(lamps(
        "bright",
        Some(policy::RolloutStrategy {
            soak: Duration::from_hours(1).try_into().ok(),
            ..unapproved
        }),
    ))
    .await
    .expect("a good policy");
    let soaking = in_phase(&api, Phase::Soaking).await;
    hub.kill_and_restart(Part::Policy).await;
    let api = hub.api();
    assert_eq!(rollout(&api).await.phase_time, soaking.phase_time);
    let abort = policy::AbortRolloutRequest {
        name: soaking.name,
        ..Default::default()
    };
    let aborted = api.rollouts.clone().abort_rollout(abort).await;
    assert_eq!(
        aborted.expect("it can be").into_inner().phase(),
        Phase::RolledBack
    );
    hub.kill_and_restart(Part::Policy).await;
    let api = hub.api();
    api.twin_until(
        &canary.device.twin,
        "the canary to have what it had",
        |twin| twin.desired()["lamp"] == "slow",
    )
    .await;
    assert_eq!(rollout(&api).await.phase(), Phase::RolledBack);
    let bright = |one: &Simulated| one.lamps().contains(&json!("bright"));
    assert!(bright(&canary));
    assert!(!bright(&rest));

    // Without a trace of the policy nothing of it stays.
    api.delete_policy("lamps").await.expect("it is there");
    for one in [&canary, &rest] {
        api.twin_until(&one.device.twin, "the lamp to be gone", |twin| {
            twin.desired().get("lamp").is_none()
        })
        .await;
    }
    drop((canary, rest));
    hub.stop().await;
}
