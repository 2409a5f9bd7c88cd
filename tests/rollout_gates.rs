//! What gates of rollouts see beside plain answers: devices that a setting cuts off, devices from which a slip
//! in a target takes everything, and rejections while nothing may be changed.

use std::time::Duration;

use serde_json::{Value, json};
use service_kit::client::{ClientConfig, connect};
use service_kit::secret::Secret;
use wire::agent::v1 as agent;
use wire::agent::v1::acknowledge_desired::Outcome;
use wire::agent::v1::open_session_request::Message as Up;
use wire::agent::v1::open_session_response::Message as Down;
use wire::policy::v1 as policy;
use wire::policy::v1::freeze_service_client::FreezeServiceClient;
use wire::policy::v1::rollout::Phase;
use wire::policy::v1::rollout_strategy::wave;

use crate::rollouts::{Says, Simulated, in_phase, lamps, rollout_until, tagged, waves};
use crate::support::SOON;
use crate::support::agent::{Session, hello, open, sas};
use crate::support::api::{Api, Device};
use crate::support::hub::{Hub, Part, TOKEN};

/// A device whose answers a story gives itself.
struct Puppet {
    device: Device,
    url: String,
    applied: u64,
    session: Option<Session>,
}

impl Puppet {
    fn new(hub: &Hub, device: Device) -> Puppet {
        Puppet {
            device,
            url: hub.agent_url(),
            applied: 0,
            session: None,
        }
    }

    async fn connect(&mut self) {
        let token = sas(&self.device, Duration::from_hours(1));
        let session = open(&self.url, &token, hello(self.applied)).await;
        self.session = Some(session.expect("the door is open"));
    }

    /// Waits until it is told of a lamp; answers the version.
    async fn told(&mut self, lamp: &str) -> u64 {
        let session = self.session.as_mut().expect("it is connected");
        let reading = async {
            loop {
                let message = session.down.message().await.expect("it goes on");
                let Some(Down::Desired(desired)) = message.and_then(|message| message.message)
                else {
                    continue;
                };
                let document: Value = serde_json::from_str(&desired.document_json).expect("JSON");
                if document["lamp"] == lamp {
                    return desired.version;
                }
            }
        };
        let told = tokio::time::timeout(SOON, reading).await;
        told.unwrap_or_else(|_| panic!("{} was not told of {lamp}", self.device.twin))
    }

    async fn answer(&mut self, version: u64, outcome: Outcome) {
        let running_version = self.applied;
        if outcome == Outcome::Applied {
            self.applied = version;
        }
        let answer = Up::AcknowledgeDesired(agent::AcknowledgeDesired {
            version,
            outcome: outcome.into(),
            reason: "as the story has it".to_owned(),
            running_version,
            ..Default::default()
        });
        let message = Some(answer);
        let session = self.session.as_mut().expect("it is connected");
        let sent = session.up.send(agent::OpenSessionRequest { message }).await;
        sent.expect("the session is open");
    }

    /// It applies the lamp that it is told of.
    async fn applies(&mut self, lamp: &str) -> u64 {
        let version = self.told(lamp).await;
        self.answer(version, Outcome::Applied).await;
        version
    }
}

async fn lamp_until(api: &Api, twin: &str, lamp: &str) {
    api.twin_until(twin, lamp, |twin| twin.desired()["lamp"] == lamp)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_cuts_devices_off_stops_in_its_first_wave() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let canary = tagged(&api, "canary", json!({"site": "a", "ring": "canary"})).await;
    let mut canary = Puppet::new(&hub, canary);
    let rest = tagged(&api, "rest", json!({"site": "a"})).await;
    let rest = Simulated::start(hub.agent_url(), rest, |_| Says::Applied);
    canary.connect().await;
    api.apply(lamps("on", None)).await.expect("a good policy");
    let good = canary.applies("on").await;

    // Nothing but the waves is said: what is left out has to be safe.
    let ring = wave::Twins::Where("tags.ring = 'canary'".to_owned());
    let default = policy::RolloutStrategy {
        soak: None,
        ..waves([ring, wave::Twins::Percent(60)])
    };
    api.apply(lamps("cut", Some(default)))
        .await
        .expect("a good policy");
    let bad = canary.applies("cut").await;
    in_phase(&api, Phase::Soaking).await;
    // It said so, and is gone.
    canary.session = None;
    let lost = rollout_until(&api, "the canary to be lost", |rollout| {
        rollout.waves[0].twins_lost == 1
    })
    .await;
    assert_eq!((lost.phase(), lost.waves_released), (Phase::Soaking, 1));
    let why = "none of the 1 devices of wave 1 has proved it";
    assert!(lost.waits_for.starts_with(why), "{}", lost.waits_for);

    // As an agent does that comes back with what it had.
    canary.applied = good;
    canary.connect().await;
    canary.answer(bad, Outcome::Reverted).await;
    let failed = in_phase(&api, Phase::RolledBack).await;
    assert!(failed.reason.contains("1 went back"), "{}", failed.reason);
    lamp_until(&api, &canary.device.twin, "on").await;
    assert_eq!(rest.lamps().last(), Some(&json!("on")));
    assert!(!rest.lamps().contains(&json!("cut")));
    drop((canary, rest));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_narrowed_by_a_slip_is_widened_again() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let mut fleet = Vec::new();
    for number in 0..4 {
        let device = tagged(&api, &format!("cam-{number}"), json!({"site": "a"})).await;
        fleet.push(Simulated::start(hub.agent_url(), device, |_| Says::Applied));
    }
    api.apply(lamps("on", None)).await.expect("a good policy");
    for one in &fleet {
        api.twin_until(&one.device.twin, "the lamp to be on", |twin| {
            twin.text("/configuration/state") == "applied" && twin.desired()["lamp"] == "on"
        })
        .await;
    }
    let strict = policy::RolloutStrategy {
        min_applied_percent: 95,
        ..waves([wave::Twins::Count(1)])
    };
    let slip = policy::Policy {
        target: "tags.site = 'aa'".to_owned(),
        ..lamps("on", Some(strict))
    };
    api.apply(slip).await.expect("nobody can know");
    let failed = in_phase(&api, Phase::RolledBack).await;
    let said =
        "wave 1: 0 of 1 devices reached have applied it, and 95 % must; 1 lost what they had";
    assert!(failed.reason.starts_with(said), "{}", failed.reason);
    let planned: Vec<u64> = failed.waves.iter().map(|wave| wave.twins_planned).collect();
    assert_eq!(planned, [1, 3]);
    let mut stripped = 0;
    for one in &fleet {
        lamp_until(&api, &one.device.twin, "on").await;
        stripped += usize::from(one.lamps().iter().filter(|lamp| **lamp == "on").count() > 1);
    }
    assert!(stripped <= 1, "{stripped} devices were without it");
    drop(fleet);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_devices_reject_is_taken_back_during_a_freeze_too() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let canary = tagged(&api, "canary", json!({"site": "a"})).await;
    let mut canary = Puppet::new(&hub, canary);
    canary.connect().await;
    api.apply(lamps("on", None)).await.expect("a good policy");
    canary.applies("on").await;
    let strategy = waves([wave::Twins::Count(1)]);
    api.apply(lamps("bad", Some(strategy)))
        .await
        .expect("a good policy");
    let bad = canary.told("bad").await;

    let config = ClientConfig {
        token: Some(Secret::new(TOKEN)),
        ..ClientConfig::to(hub.url(Part::Policy))
    };
    let mut freezes = FreezeServiceClient::new(connect(&config).expect("a usable URL"));
    let request = policy::CreateFreezeRequest {
        freeze: Some(policy::Freeze {
            reason: "incident 4711".to_owned(),
            ..Default::default()
        }),
        lasts: None,
    };
    freezes.create_freeze(request).await.expect("it is frozen");
    canary.answer(bad, Outcome::Rejected).await;
    let failed = in_phase(&api, Phase::RolledBack).await;
    assert!(failed.reason.contains("1 rejected it"), "{}", failed.reason);
    lamp_until(&api, &canary.device.twin, "on").await;
    drop(canary);
    hub.stop().await;
}
