//! What becomes of a push that is not answered, or answered by going back.

use serde_json::{Value, json};
use service_kit::units::Duration;
use testkit::{NatsServer, wait_for};
use wire::bus::v1 as bus_proto;
use wire::bus::v1::telemetry_entry::Content;
use wire::twin::v1 as proto;

use crate::service::{MODULE, SOON, Service, config, connect, heartbeats, publish, refused_with};

/// A session of the device's agent begins.
fn connected(device: &str, generation: &str) -> bus_proto::TelemetryEntry {
    let notice = bus_proto::SessionNotice {
        session_id: "0f8fad5b-d9cb-469f-a165-70867728950e".to_owned(),
        connected: true,
        ..Default::default()
    };
    bus_proto::TelemetryEntry {
        content: Some(Content::Session(notice)),
        ..heartbeats(device, generation, [])
    }
}

/// A device of IoT Plug and Play says what it has.
async fn report(service: &Service, value: i64, version: u64) {
    let speed = json!({"speed": {"value": value, "ac": 200, "av": version}});
    let request = proto::PatchReportedRequest {
        name: MODULE.to_owned(),
        patch_json: speed.to_string(),
        ..Default::default()
    };
    let answer = service.device_twins().patch_reported(request).await;
    answer.expect("it is taken");
}

async fn configuration(service: &Service) -> Value {
    service.posture(MODULE).await["configuration"].clone()
}

#[tokio::test]
async fn what_a_device_changed_is_pushed_again_a_few_times_and_then_recommended() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start_with(twin_store::Config {
        drift_push_after: Duration::millis(20),
        ..config(&nats, folder.path())
    })
    .await;
    service.create("d").await;
    let generation = service.module_generation("d").await;
    publish(&connect(&nats).await, vec![connected("d", &generation)]).await;
    let mut version = service
        .desire(MODULE, r#"{"speed":5}"#)
        .await
        .desired_version;
    report(&service, 5, version).await;
    assert_eq!(configuration(&service).await["state"], "applied");
    let metadata = service.twin(MODULE).await.desired_metadata_json;
    let writer = |metadata: &str| {
        let metadata: Value = serde_json::from_str(metadata).expect("JSON");
        metadata["speed"]["$lastUpdatedBy"].clone()
    };

    for pushes in 1..=3 {
        report(&service, 9, version).await;
        // The wait grows from 20 ms to 720 ms.
        let pushed = wait_for("the settings to be pushed again", SOON, async || {
            let state = configuration(&service).await;
            (state["state"] == "pending").then_some(state)
        })
        .await;
        assert_eq!(pushed["desiredVersion"], version + 1);
        assert_eq!(pushed["drift"]["pushes"], pushes);
        version += 1;
        let twin = service.twin(MODULE).await;
        assert_eq!(twin.desired_json, r#"{"speed":5}"#);
        assert_eq!(writer(&twin.desired_metadata_json), writer(&metadata));
        report(&service, 5, version).await;
        assert_eq!(configuration(&service).await["state"], "applied");
    }
    // Not a fourth time: somebody is to look.
    report(&service, 9, version).await;
    let posture = service.posture(MODULE).await;
    assert_eq!(posture["configuration"]["state"], "drifted");
    assert_eq!(posture["recommendations"][0]["id"], "configuration-drift");
    let asked = "EXISTS(r IN posture.recommendations WHERE r.id = 'configuration-drift')";
    assert_eq!(found(&service, asked).await, [MODULE]);
    // Once it is as it should be, there is nothing to recommend.
    report(&service, 5, version).await;
    let posture = service.posture(MODULE).await;
    assert_eq!(posture["configuration"]["state"], "applied");
    assert!(posture["recommendations"].is_null(), "{posture}");
    service.stop().await;
}

#[tokio::test]
async fn what_policies_have_set_is_pushed_again_when_the_policy_service_says_so() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start_with(twin_store::Config {
        drift_push_after: Duration::millis(20),
        ..config(&nats, folder.path())
    })
    .await;
    service.create("d").await;
    let generation = service.module_generation("d").await;
    publish(&connect(&nats).await, vec![connected("d", &generation)]).await;
    let settings = proto::ApplyPolicySettingsRequest {
        name: MODULE.to_owned(),
        expected_desired_version: 1,
        policies: vec![proto::PolicySettings {
            policy_id: "lamp".to_owned(),
            policy_revision: 1,
            settings_json: r#"{"speed":5}"#.to_owned(),
        }],
        ..Default::default()
    };
    let applied = service.policies().apply_policy_settings(settings).await;
    let version = applied.expect("applied").into_inner().desired_version;
    // That nobody asks for it changes nothing.
    let again = proto::ApplyPolicySettingsRequest {
        name: MODULE.to_owned(),
        expected_desired_version: version,
        keep_settings: true,
        push_again: true,
        ..Default::default()
    };
    let push = async || {
        let answer = service
            .policies()
            .apply_policy_settings(again.clone())
            .await;
        let answer = answer.expect("it is taken").into_inner();
        (answer.changed, answer.desired_version)
    };
    report(&service, 5, version).await;
    assert_eq!(push().await, (false, version));

    report(&service, 9, version).await;
    let asked = wait_for("it to be asked for", SOON, async || {
        let state = configuration(&service).await;
        state["drift"]["pushAskedAt"].is_string().then_some(state)
    })
    .await;
    assert_eq!(
        (&asked["state"], &asked["drift"]["pushes"]),
        (&json!("drifted"), &json!(0))
    );
    assert_eq!(
        asked["desiredVersion"], version,
        "it is the policy service's to say"
    );
    assert_eq!(push().await, (true, version + 1));
    let pushed = configuration(&service).await;
    assert_eq!(
        (&pushed["state"], &pushed["drift"]["pushes"]),
        (&json!("pending"), &json!(1))
    );
    let twin = service.twin(MODULE).await;
    assert!(
        twin.desired_metadata_json.contains("policy:lamp@1"),
        "its writer stays"
    );
    service.stop().await;
}

async fn found(service: &Service, filter: &str) -> Vec<String> {
    let request = proto::ListTwinsRequest {
        filter: filter.to_owned(),
        ..Default::default()
    };
    let page = service.twins().list_twins(request).await.expect("a page");
    let twins = page.into_inner().twins.into_iter();
    twins.map(|twin| twin.name).collect()
}

#[tokio::test]
async fn a_connected_device_that_does_not_answer_times_out_and_one_that_is_away_does_not() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start_with(twin_store::Config {
        answer_within: Duration::secs(1),
        ..config(&nats, folder.path())
    })
    .await;
    service.create("d").await;
    service.create("away").await;
    let away = "devices/away/modules/DefenderIotMicroAgent";
    // Of this one nobody has ever wanted anything.
    service.create("new").await;
    let bus = connect(&nats).await;
    for device in ["new", "d"] {
        let generation = service.module_generation(device).await;
        publish(&bus, vec![connected(device, &generation)]).await;
    }
    let version = service.desire(MODULE, r#"{"a":1}"#).await.desired_version;
    service.desire(away, r#"{"a":1}"#).await;

    let timed_out = wait_for("the push to time out", SOON, async || {
        let state = service.posture(MODULE).await["configuration"].clone();
        (state["state"] == "timedOut").then_some(state)
    })
    .await;
    assert_eq!(timed_out["reason"], "no answer within 1s");
    assert_eq!(timed_out["desiredVersion"], version);
    let found_late = found(&service, "posture.configuration.state = 'timedOut'").await;
    assert_eq!(found_late, [MODULE], "the index knows");
    let pending = found(&service, "posture.configuration.state = 'pending'").await;
    for name in [away, "devices/new/modules/DefenderIotMicroAgent"] {
        assert!(
            pending.iter().any(|found| found == name),
            "{name} {pending:?}"
        );
    }

    // It may still answer, and by going back, too.
    let back = proto::AcknowledgeDesiredRequest {
        name: MODULE.to_owned(),
        version,
        reverted: true,
        reason: "cut off".to_owned(),
        running_version: 1,
        ..Default::default()
    };
    let both = proto::AcknowledgeDesiredRequest {
        applied: true,
        ..back.clone()
    };
    let mut door = service.device_twins();
    refused_with(door.acknowledge_desired(both).await, "INVALID_FIELD");
    door.acknowledge_desired(back).await.expect("taken");
    let state = service.posture(MODULE).await["configuration"].clone();
    assert_eq!(state["state"], "reverted");
    assert_eq!(state["reason"], "cut off");
    assert_eq!(state["appliedVersion"], json!(1));
    assert_eq!(
        found(&service, "posture.configuration.state = 'reverted'").await,
        [MODULE]
    );
    service.stop().await;
}
