//! What twin-store tells the others: TWINS, hints.

use prost::Message as _;
use testkit::{NatsOptions, NatsServer};
use wire::bus::v1 as proto;
use wire::registry::v1 as registry;
use wire::twin::v1::Change;

use crate::service::{MODULE, SOON, Service, changes, connect, partition};

fn key(text: &str) -> twin::IdentityKey {
    wire::names::parse_identity("name", text).expect("a name")
}

#[tokio::test]
async fn every_change_is_published_in_the_order_of_revisions() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let bus = connect(&nats).await;
    service.create("d").await;
    for number in 0..50 {
        service
            .desire(MODULE, &format!(r#"{{"n":{number}}}"#))
            .await;
    }
    let delete = registry::DeleteDeviceRequest {
        name: "devices/d".to_owned(),
        etag: String::new(),
        ..Default::default()
    };
    service.registry().delete_device(delete).await.unwrap();
    let published = changes(&bus, "d", 54).await;
    let revisions: Vec<_> = published.iter().map(|change| change.revision).collect();
    assert_eq!(revisions, (1..=54).collect::<Vec<_>>());
    assert_eq!(published[0].changes, [i32::from(Change::Created)]);
    assert_eq!(published[2].changes, [i32::from(Change::Desired)]);
    let twin = published[51].twin.as_ref().expect("the twin goes along");
    assert_eq!(
        (twin.name.as_str(), twin.desired_json.as_str()),
        (MODULE, r#"{"n":49}"#)
    );
    assert!(published[52].deleted && published[53].deleted);
    let timeline = published[2].timeline.as_ref();
    assert!(timeline.is_some());
    service.stop().await;
}

#[tokio::test]
async fn hints_say_which_session_should_look_again() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let bus = connect(&nats).await;
    let mut pushes = bus.listen(wire::subjects::PUSH_SUBJECTS).await.unwrap();
    let mut identities = bus.listen(wire::subjects::IDENTITY_SUBJECTS).await.unwrap();
    let made = service.create("d").await;
    let made_module = service.module(MODULE).await;
    let mut identity = async || {
        let hint = tokio::time::timeout(SOON, identities.recv())
            .await
            .expect("a hint")
            .unwrap();
        let content = proto::IdentityHint::decode(hint.payload).expect("ours");
        (hint.subject, content.etag, content.deleted)
    };
    let device = wire::subjects::identity_subject(&key("devices/d"));
    let module = wire::subjects::identity_subject(&key(MODULE));
    assert_eq!(
        identity().await,
        (device.clone(), made.etag, false),
        "created"
    );
    assert_eq!(
        identity().await,
        (module.clone(), made_module.etag, false),
        "created"
    );

    let twin = service.desire(MODULE, r#"{"a":1}"#).await;
    let hint = tokio::time::timeout(SOON, pushes.recv())
        .await
        .expect("a hint")
        .unwrap();
    assert_eq!(hint.subject, wire::subjects::push_subject(&key(MODULE)));
    let content = proto::PushHint::decode(hint.payload).unwrap();
    assert_eq!(content.desired_version, twin.desired_version);

    let disable = registry::UpdateDeviceRequest {
        name: "devices/d".to_owned(),
        status: registry::Status::Disabled.into(),
        ..registry::UpdateDeviceRequest::default()
    };
    let disabled = service.registry().update_device(disable).await;
    // It concerns the sessions of the modules, too, which stay as they are.
    assert_eq!(
        identity().await,
        (device.clone(), disabled.unwrap().into_inner().etag, false),
        "disabled"
    );
    let delete = registry::DeleteDeviceRequest {
        name: "devices/d".to_owned(),
        etag: String::new(),
        ..Default::default()
    };
    service.registry().delete_device(delete).await.unwrap();
    assert_eq!(identity().await, (device, String::new(), true), "deleted");
    assert_eq!(identity().await, (module, String::new(), true), "deleted");
    service.stop().await;
}

#[tokio::test]
async fn changes_made_while_nats_is_away_are_published_in_order_when_it_is_back() {
    let mut nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let health = async |wanted: &str| {
        testkit::wait_for(wanted, SOON, async || {
            let page = service.admin_page("/readyz").await;
            page.contains(wanted).then_some(page)
        })
        .await
    };
    health("serving").await;
    nats.kill();
    let page = health("degraded").await;
    assert!(
        page.starts_with("HTTP/1.1 200"),
        "it still answers calls: {page}"
    );
    for number in 0..5 {
        service
            .desire(MODULE, &format!(r#"{{"n":{number}}}"#))
            .await;
    }
    nats.restart().await;
    testkit::wait_for("health again", SOON, async || {
        let page = service.admin_page("/readyz").await;
        (!page.contains("degraded")).then_some(())
    })
    .await;
    let bus = connect(&nats).await;
    let published = changes(&bus, "d", 7).await;
    let revisions: Vec<_> = published.iter().map(|change| change.revision).collect();
    assert_eq!(revisions, (1..=7).collect::<Vec<_>>());
    service.stop().await;
}

#[tokio::test]
async fn a_new_store_publishes_its_own_first_revisions() {
    let nats = NatsServer::start().await;
    let bus = connect(&nats).await;
    for round in 1..=2 {
        let folder = tempfile::tempdir().unwrap();
        let service = Service::start(&nats, &folder).await;
        let request = registry::CreateDeviceRequest {
            device_id: "d".to_owned(),
            ..registry::CreateDeviceRequest::default()
        };
        service.registry().create_device(request).await.unwrap();
        let published = changes(&bus, "d", round).await;
        assert_eq!(
            published[round - 1].revision,
            1,
            "not taken for a repetition"
        );
        service.stop().await;
    }
    assert!(partition("d").get() < 2);
}

#[tokio::test]
async fn a_change_that_nats_cannot_take_does_not_stop_the_others() {
    let nats = NatsServer::start_with(NatsOptions {
        extra: "max_payload: 16KB".to_owned(),
        ..NatsOptions::default()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let value = "v".repeat(4000);
    let large = format!(r#"{{"1":"{value}","2":"{value}","3":"{value}","4":"{value}"}}"#);
    service.desire(MODULE, &large).await;
    let none = r#"{"1":null,"2":null,"3":null,"4":null}"#;
    service.desire(MODULE, none).await;
    let bus = connect(&nats).await;
    let published = changes(&bus, "d", 3).await;
    let revisions: Vec<_> = published.iter().map(|change| change.revision).collect();
    assert_eq!(revisions, [1, 2, 4]);
    let metrics = service.admin_page("/metrics").await;
    assert!(
        metrics.contains("twinward_twin_store_changes_unpublishable_total 1"),
        "{metrics}"
    );
    service.stop().await;
}
