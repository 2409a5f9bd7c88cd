//! What twins were: read back exactly, compared, and written again.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::{Value, json};
use testkit::NatsServer;
use twin_store::store::{Retention, Store as _, sqlite::SqliteStore};
use wire::registry::v1 as registry;
use wire::twin::v1 as proto;
use wire::twin::v1::moment::At;
use wire::twin::v1::twin_history_service_client::TwinHistoryServiceClient;

use crate::damage::tamper;
use crate::service::{MODULE, Service, connect, heartbeats, publish, refused_with};

type Client = TwinHistoryServiceClient<service_kit::client::Connection>;

#[allow(clippy::unnecessary_wraps)] // as requests want it
fn at(moment: At) -> Option<proto::Moment> {
    Some(proto::Moment { at: Some(moment) })
}

async fn then(
    mut client: Client,
    name: &str,
    moment: At,
) -> Result<tonic::Response<proto::TwinRevisionSnapshot>, tonic::Status> {
    let request = proto::GetTwinRevisionRequest {
        name: name.to_owned(),
        moment: at(moment),
        ..Default::default()
    };
    client.get_twin_revision(request).await
}

async fn revisions(mut client: Client, name: &str, page_size: i32) -> Vec<proto::TwinRevision> {
    let mut request = proto::ListTwinRevisionsRequest {
        name: name.to_owned(),
        page_size,
        ..Default::default()
    };
    let mut all = Vec::new();
    loop {
        let page = client.list_twin_revisions(request.clone()).await;
        let page = page.expect("a page").into_inner();
        all.extend(page.revisions);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

/// A twin as it can be compared: documents as values.
fn comparable(twin: &proto::Twin) -> (proto::Twin, Vec<Value>) {
    let mut rest = twin.clone();
    // What its device had by then is in the history of that.
    rest.device_tags_json.clear();
    let texts = [
        std::mem::take(&mut rest.tags_json),
        std::mem::take(&mut rest.desired_json),
        std::mem::take(&mut rest.desired_metadata_json),
        std::mem::take(&mut rest.reported_json),
        std::mem::take(&mut rest.reported_metadata_json),
        std::mem::take(&mut rest.posture_json),
    ];
    let values = texts
        .iter()
        .map(|text| serde_json::from_str(text).expect("JSON"));
    (rest, values.collect())
}

/// Random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % sides
    }

    fn document(&mut self) -> String {
        let value = match self.roll(6) {
            0 => json!(null),
            1 => json!(self.roll(9)),
            2 => json!([self.roll(3), {"x": self.roll(3)}]),
            3 => json!({}),
            4 => json!({"deep": {"b": self.roll(3), "c": null}}),
            _ => json!({"deep": null, "e": format!("t{}", self.roll(5))}),
        };
        let key = ["a", "b", "c"][usize::try_from(self.roll(3)).unwrap()];
        json!({ key: value }).to_string()
    }
}

/// One random write of a module; the twin that it left.
async fn step(
    service: &Service,
    nats: &NatsServer,
    dice: &mut Dice,
    name: &str,
    sequence: &mut u64,
) -> proto::Twin {
    let device = name.split('/').nth(1).unwrap().to_owned();
    // Telemetry most of all, so that routine revisions stand in a row.
    match dice.roll(14) {
        0 => {
            let request = registry::UpdateModuleRequest {
                name: name.to_owned(),
                managed_by: Some(format!("somebody {}", dice.roll(3))),
                ..Default::default()
            };
            service.registry().update_module(request).await.unwrap();
        }
        8 => {
            let request = registry::RotateKeysRequest {
                name: name.to_owned(),
                kind: registry::KeyKind::Swap.into(),
                ..Default::default()
            };
            service.registry().rotate_keys(request).await.unwrap();
        }
        1 => {
            let request = proto::PatchReportedRequest {
                name: name.to_owned(),
                patch_json: dice.document(),
                expected_version: 0,
                ..Default::default()
            };
            service
                .device_twins()
                .patch_reported(request)
                .await
                .unwrap();
        }
        2 => {
            let request = proto::ReplaceTwinRequest {
                name: name.to_owned(),
                tags_json: dice.document().replace("null", "1"),
                desired_json: dice.document().replace("null", "2"),
                ..Default::default()
            };
            let written = service.twins().replace_twin(request).await;
            return written.unwrap().into_inner();
        }
        3 | 9.. => {
            *sequence += 1;
            let generation = service.module_generation(&device).await;
            let bus = connect(nats).await;
            publish(&bus, vec![heartbeats(&device, &generation, [*sequence])]).await;
            service.wait_for_events(*sequence).await;
        }
        _ => {
            let request = proto::PatchTwinRequest {
                name: name.to_owned(),
                tags_patch_json: dice.document(),
                desired_patch_json: if dice.roll(2) == 0 {
                    dice.document()
                } else {
                    String::new()
                },
                ..Default::default()
            };
            let written = service.twins().patch_twin(request).await;
            return written.unwrap().into_inner();
        }
    }
    service.twin(name).await
}

async fn delete(service: &Service, name: &str) {
    let request = registry::DeleteDeviceRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    service.registry().delete_device(request).await.unwrap();
}

#[tokio::test]
async fn every_revision_reads_back_as_the_twin_was_answered_then() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let seed = 0x5eed_0005;
    let mut dice = Dice(seed);
    let mut answered: BTreeMap<u64, proto::Twin> = BTreeMap::new();
    for life in 0..2 {
        service.create("d").await;
        let mut sequence = 0;
        let born = service.twin(MODULE).await;
        answered.insert(born.revision, born);
        for _ in 0..40 {
            let twin = step(&service, &nats, &mut dice, MODULE, &mut sequence).await;
            answered.insert(twin.revision, twin);
        }
        if life == 0 {
            delete(&service, "devices/d").await;
            let last = answered.last_entry().expect("an answer").get().clone();
            let read = then(service.history(), MODULE, At::Revision(last.revision)).await;
            let read = read
                .expect("a deleted identity's history stays")
                .into_inner();
            let (read, was) = (read.twin.expect("a twin"), last);
            assert_eq!(
                comparable(&read),
                comparable(&was),
                "read from the deletion back"
            );
        }
    }
    for (revision, twin) in &answered {
        let read = then(service.history(), MODULE, At::Revision(*revision)).await;
        let read = read.expect("kept").into_inner();
        let meta = read.revision.expect("a revision");
        assert_eq!(meta.revision, *revision, "seed {seed:#x}");
        let read = read.twin.expect("a twin");
        assert_eq!(
            comparable(&read),
            comparable(twin),
            "seed {seed:#x}, revision {revision}"
        );
        let time = twin.update_time.expect("a time");
        let by_time = then(service.history(), MODULE, At::Time(time)).await;
        let by_time = by_time.expect("kept").into_inner().twin.expect("a twin");
        assert_eq!(
            comparable(&by_time),
            comparable(twin),
            "by time, seed {seed:#x}"
        );
    }
    let listed = revisions(service.history(), MODULE, 7).await;
    let numbers: Vec<_> = listed.iter().map(|revision| revision.revision).collect();
    assert!(
        numbers.is_sorted_by(|a, b| a > b),
        "newest first, each once"
    );
    let missing = answered.keys().filter(|number| !numbers.contains(number));
    assert_eq!(missing.count(), 0);
    let birth = numbers.last().expect("a first one");
    let before = then(service.history(), MODULE, At::Revision(birth - 1)).await;
    refused_with(before, "TWIN_NOT_THERE_THEN");
    let never = then(service.history(), "devices/nobody", At::Revision(1)).await;
    refused_with(never, "DEVICE_NOT_FOUND");
    service.stop().await;

    // When they are no longer young, routine ones become one; what is left reads back as before.
    let store = SqliteStore::open(folder.path()).expect("opened");
    let retention = Retention {
        now: service_kit::clock::SystemClock::shared().now() + SignedDuration::from_hours(2),
        history_age: std::time::Duration::MAX,
        history_count: u32::MAX,
        history_span: std::time::Duration::from_hours(1),
        history_every: std::time::Duration::ZERO,
        request_age: std::time::Duration::from_hours(9),
        operation_age: std::time::Duration::from_hours(9),
        batch: 7,
    };
    let mut joined = 0;
    loop {
        let trimmed = store.trim(retention).await.expect("trimmed");
        joined += trimmed.joined;
        if !trimmed.more {
            break;
        }
    }
    store.close().await;
    drop(store);
    assert!(joined > 0, "some were routine and stood in a row");
    let service = Service::start(&nats, &folder).await;
    let left = revisions(service.history(), MODULE, 7).await;
    let of_all: u64 = numbers.len() as u64 - left.len() as u64;
    assert!((1..=joined).contains(&of_all), "{of_all} of {joined}");
    for kept in left {
        let Some(twin) = answered.get(&kept.revision) else {
            continue;
        };
        let read = then(service.history(), MODULE, At::Revision(kept.revision)).await;
        let read = read.expect("kept").into_inner().twin.expect("a twin");
        let (read, was) = (comparable(&read), comparable(twin));
        assert_eq!(read, was, "seed {seed:#x}, revision {}", kept.revision);
    }
    service.stop().await;
}

#[tokio::test]
async fn who_changed_what_and_why_is_told_and_can_be_asked_for() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    service.desire(MODULE, r#"{"a":1}"#).await;
    let report = proto::PatchReportedRequest {
        name: MODULE.to_owned(),
        patch_json: r#"{"b":2}"#.to_owned(),
        expected_version: 0,
        ..Default::default()
    };
    service.device_twins().patch_reported(report).await.unwrap();
    let all = revisions(service.history(), MODULE, 0).await;
    let told: Vec<_> = all
        .iter()
        .map(|revision| (revision.actor.as_str(), revision.changes.clone()))
        .collect();
    let kind = |change: proto::Change| vec![i32::from(change)];
    assert_eq!(told[0], ("device", kind(proto::Change::Reported)));
    assert!(told[1].0.starts_with("operator:"), "{told:?}");
    assert_eq!(told[1].1, kind(proto::Change::Desired));
    assert!(all[1].cause.starts_with("request"), "{:?}", all[1]);
    let patch: Value = serde_json::from_str(&all[1].patch_json).unwrap();
    assert_eq!(patch["desired"], json!({"a": 1}));
    let request = proto::ListTwinRevisionsRequest {
        name: MODULE.to_owned(),
        changes: kind(proto::Change::Reported),
        start_time: all[2].commit_time,
        ..Default::default()
    };
    let found = service.history().list_twin_revisions(request.clone()).await;
    let found = found.unwrap().into_inner().revisions;
    assert_eq!(found, all[..1]);
    let other = proto::ListTwinRevisionsRequest {
        page_token: "nonsense".to_owned(),
        ..request
    };
    let refused = service.history().list_twin_revisions(other).await;
    assert_eq!(refused_with(refused, "INVALID_FIELD"), ["page_token"]);
    let nobody = proto::ListTwinRevisionsRequest {
        name: "devices/nobody".to_owned(),
        ..Default::default()
    };
    let refused = service.history().list_twin_revisions(nobody).await;
    refused_with(refused, "DEVICE_NOT_FOUND");
    service.stop().await;
}

#[tokio::test]
async fn what_the_registry_said_is_told_as_it_was_then() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let name = "devices/d";
    let born = service.twin(name).await;
    assert_eq!(born.authentication_type, "sas");
    let rotate = registry::RotateKeysRequest {
        name: name.to_owned(),
        kind: registry::KeyKind::Primary.into(),
        ..Default::default()
    };
    service.registry().rotate_keys(rotate).await.unwrap();
    let rotated = service.twin(name).await;
    let update = |request: registry::UpdateDeviceRequest| {
        let mut registry = service.registry();
        async move { registry.update_device(request).await.unwrap() }
    };
    let edge = registry::UpdateDeviceRequest {
        name: name.to_owned(),
        iot_edge: Some(true),
        ..Default::default()
    };
    update(edge).await;
    let edge = service.twin(name).await;
    let signed = registry::UpdateDeviceRequest {
        name: name.to_owned(),
        authentication_type: registry::AuthenticationType::SelfSigned.into(),
        thumbprints: Some(registry::Thumbprints {
            primary: "AB".repeat(20),
            secondary: String::new(),
        }),
        ..Default::default()
    };
    update(signed).await;
    let signed = service.twin(name).await;
    assert_eq!(signed.authentication_type, "selfSigned");

    let request = proto::ListTwinRevisionsRequest {
        name: name.to_owned(),
        changes: vec![proto::Change::Identity.into()],
        ..Default::default()
    };
    let listed = service.history().list_twin_revisions(request).await;
    let listed = listed.unwrap().into_inner().revisions;
    let numbers: Vec<_> = listed.iter().map(|found| found.revision).collect();
    let all = [&signed, &edge, &rotated].map(|twin| twin.revision);
    assert_eq!(numbers, all, "each change of the identity is a revision");
    let patch = |index: usize| serde_json::from_str::<Value>(&listed[index].patch_json).unwrap();
    assert_eq!(patch(0)["authenticationType"], json!("selfSigned"));
    assert_eq!(patch(1)["capabilities"], json!({"iotEdge": true}));
    let shown = patch(2);
    let members: Vec<_> = shown.as_object().unwrap().keys().collect();
    assert_eq!(members, ["deviceEtag"], "no key is in the history");

    delete(&service, name).await;
    let newest = revisions(service.history(), name, 1).await.remove(0);
    assert_eq!(newest.changes, [i32::from(proto::Change::Deleted)]);
    assert_eq!(newest.patch_json, "null");
    for (change, count) in [
        (proto::Change::Deleted, 1),
        (proto::Change::Created, 1),
        (proto::Change::Tags, 0),
    ] {
        let request = proto::ListTwinRevisionsRequest {
            name: name.to_owned(),
            changes: vec![change.into()],
            ..Default::default()
        };
        let found = service.history().list_twin_revisions(request).await;
        let found = found.unwrap().into_inner().revisions;
        assert_eq!(found.len(), count, "{change:?}: {found:?}");
    }
    for was in [&born, &rotated, &edge, &signed] {
        let read = then(service.history(), name, At::Revision(was.revision)).await;
        let read = read.expect("kept").into_inner().twin.expect("a twin");
        assert_eq!(comparable(&read), comparable(was));
    }
    let request = proto::DiffTwinRevisionsRequest {
        name: name.to_owned(),
        from: at(At::Revision(born.revision)),
        to: at(At::Revision(signed.revision)),
    };
    let diff = service.history().diff_twin_revisions(request).await;
    let diff = diff.unwrap().into_inner().differences;
    let found: Vec<_> = diff.iter().map(|found| found.path.as_str()).collect();
    let expected = [
        "authenticationType",
        "capabilities.iotEdge",
        "x509Thumbprint.primaryThumbprint",
        "x509Thumbprint.secondaryThumbprint",
    ];
    assert_eq!(found, expected);
    service.stop().await;
}

#[tokio::test]
async fn two_moments_are_compared_and_a_twin_is_made_as_it_was() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let name = "devices/d";
    let first = service.desire(name, r#"{"a":{"x":1},"kept":true}"#).await;
    let policy = proto::ApplyPolicySettingsRequest {
        name: name.to_owned(),
        policies: vec![proto::PolicySettings {
            policy_id: "p".to_owned(),
            policy_revision: 1,
            settings_json: r#"{"owned":1}"#.to_owned(),
        }],
        ..Default::default()
    };
    service
        .policies()
        .apply_policy_settings(policy)
        .await
        .unwrap();
    let owned = service.twin(name).await;
    service
        .desire(name, r#"{"a":{"x":2},"b":[1],"kept":true}"#)
        .await;
    let request = proto::DiffTwinRevisionsRequest {
        name: name.to_owned(),
        from: at(At::Revision(owned.revision)),
        to: None,
    };
    let diff = service.history().diff_twin_revisions(request).await;
    let diff = diff.unwrap().into_inner();
    assert_eq!(diff.from_revision, owned.revision);
    let desired: Vec<_> = diff
        .differences
        .iter()
        .filter(|found| !found.path.starts_with("posture."))
        .map(|found| {
            (
                found.path.as_str(),
                found.before_json.as_str(),
                found.after_json.as_str(),
            )
        })
        .collect();
    let expected = [
        ("properties.desired.a.x", "1", "2"),
        ("properties.desired.b", "", "[1]"),
    ];
    assert_eq!(desired, expected);

    let revert = proto::RevertTwinRequest {
        name: name.to_owned(),
        moment: at(At::Revision(owned.revision)),
        request_id: "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11".to_owned(),
        ..Default::default()
    };
    let trial = proto::RevertTwinRequest {
        validate_only: true,
        request_id: String::new(),
        ..revert.clone()
    };
    let would = service
        .history()
        .revert_twin(trial)
        .await
        .unwrap()
        .into_inner();
    let present = service.twin(name).await;
    assert_ne!(
        present.desired_json, would.desired_json,
        "nothing is written yet"
    );
    let reverted = service.history().revert_twin(revert.clone()).await;
    let reverted = reverted.unwrap().into_inner();
    assert_eq!(reverted.desired_json, would.desired_json);
    let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(value(&reverted.desired_json), value(&owned.desired_json));
    let again = service.history().revert_twin(revert).await.unwrap();
    assert_eq!(again.into_inner(), reverted, "a repeated call writes once");
    let newest = revisions(service.history(), name, 1).await.remove(0);
    assert_eq!(newest.cause, format!("revert:{}", owned.revision));
    assert_eq!(newest.revision, reverted.revision);
    let writers = value(&reverted.desired_metadata_json);
    assert_eq!(
        writers["owned"]["$lastUpdatedBy"],
        json!("policy:p@1"),
        "what did not differ keeps its writer"
    );
    for (moment, reason) in [
        (At::Revision(999_999), "REVISION_NOT_YET"),
        (
            At::Time(prost_types::Timestamp {
                seconds: 4_000_000_000,
                nanos: 0,
            }),
            "TIME_NOT_YET",
        ),
    ] {
        refused_with(then(service.history(), name, moment).await, reason);
        let diff = proto::DiffTwinRevisionsRequest {
            name: name.to_owned(),
            from: at(At::Revision(owned.revision)),
            to: at(moment),
        };
        refused_with(service.history().diff_twin_revisions(diff).await, reason);
        let revert = proto::RevertTwinRequest {
            name: name.to_owned(),
            moment: at(moment),
            ..Default::default()
        };
        refused_with(service.history().revert_twin(revert).await, reason);
    }
    let stale = proto::RevertTwinRequest {
        name: name.to_owned(),
        moment: at(At::Revision(first.revision)),
        etag: first.etag.clone(),
        ..Default::default()
    };
    let refused = service.history().revert_twin(stale.clone()).await;
    refused_with(refused, "ETAG_MISMATCH");
    let present = service.twin(name).await;
    let bound = |version, only_if: &str| proto::RevertTwinRequest {
        etag: String::new(),
        expected_desired_version: version,
        only_if: only_if.to_owned(),
        read_mask: Some(prost_types::FieldMask {
            paths: vec!["desired_json".to_owned()],
        }),
        ..stale.clone()
    };
    let revert = async |request| service.history().revert_twin(request).await;
    let other_version = bound(present.desired_version + 1, "");
    refused_with(revert(other_version).await, "VERSION_MISMATCH");
    let no_longer = bound(0, "NOT is_defined(properties.desired.owned)");
    refused_with(revert(no_longer).await, "CONDITION_FALSE");
    let unreadable = revert(bound(0, "properties.desired.owned =")).await;
    assert_eq!(refused_with(unreadable, "INVALID_QUERY"), ["only_if"]);
    assert_eq!(service.twin(name).await, present, "nothing was written");
    let both = bound(present.desired_version, "properties.desired.owned = 1");
    let reverted = revert(both).await.unwrap().into_inner();
    assert_eq!(value(&reverted.desired_json), value(&first.desired_json));
    assert_eq!(reverted.desired_metadata_json, "", "not asked for");
    assert_eq!(reverted.desired_version, 0, "not asked for");
    let then = proto::GetTwinRevisionRequest {
        name: name.to_owned(),
        moment: at(At::Revision(first.revision)),
        read_mask: Some(prost_types::FieldMask {
            paths: vec!["tags_json".to_owned()],
        }),
    };
    let then = service.history().get_twin_revision(then).await.unwrap();
    let then = then.into_inner().twin.unwrap();
    assert_eq!((then.tags_json.as_str(), then.etag), ("{}", first.etag));
    assert_eq!(then.desired_json, "", "not asked for");
    service.stop().await;
}

#[tokio::test]
async fn what_is_no_longer_kept_is_told_from_what_never_was() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let mut written = Vec::new();
    for number in 0..10 {
        let patch = format!(r#"{{"n":{number}}}"#);
        written.push(service.desire("devices/d", &patch).await.revision);
    }
    service.stop().await;
    let store = SqliteStore::open(folder.path()).expect("opened");
    let retention = Retention {
        // What is younger than a minute is not counted.
        now: service_kit::clock::SystemClock::shared().now() + std::time::Duration::from_mins(2),
        history_age: std::time::Duration::from_hours(1),
        history_count: 3,
        history_span: std::time::Duration::ZERO,
        history_every: std::time::Duration::MAX,
        request_age: std::time::Duration::from_hours(1),
        operation_age: std::time::Duration::from_hours(1),
        batch: 1000,
    };
    while store.trim(retention).await.expect("trimmed").more {}
    store.close().await;
    drop(store);
    let service = Service::start(&nats, &folder).await;
    for kept in &written[7..] {
        let read = then(service.history(), "devices/d", At::Revision(*kept)).await;
        assert_eq!(
            read.expect("kept").into_inner().revision.unwrap().revision,
            *kept
        );
    }
    for gone in &written[..7] {
        let read = then(service.history(), "devices/d", At::Revision(*gone)).await;
        let status = read.expect_err("it is gone");
        assert_eq!(status.code(), tonic::Code::OutOfRange);
        refused_with(Err::<tonic::Response<()>, _>(status), "HISTORY_TRIMMED");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_missing_revision_is_noticed_and_not_rewound_through() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let mut written = Vec::new();
    for number in 0..5 {
        let patch = format!(r#"{{"n":{number}}}"#);
        written.push(service.desire("devices/d", &patch).await.revision);
    }
    let gone = format!("DELETE FROM history WHERE revision = {}", written[2]);
    tamper(folder.path(), &gone);
    for (number, kept) in written.iter().enumerate().skip(3) {
        let read = then(service.history(), "devices/d", At::Revision(*kept)).await;
        let twin = read.expect("it is newer").into_inner().twin;
        let desired = twin.expect("a twin").desired_json;
        assert!(desired.contains(&format!(r#""n":{number}"#)), "{desired}");
    }
    for before in &written[..3] {
        let read = then(service.history(), "devices/d", At::Revision(*before)).await;
        refused_with(read, "RECORD_DAMAGED");
    }
    service.stop().await;
}
