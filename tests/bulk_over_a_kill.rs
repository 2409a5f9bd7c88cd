//! kill -9 of twin-store in the middle of an update of many twins, twice: it goes on, writes no twin
//! twice, and whoever watches holds what twin-store holds.

use std::time::Duration;

use client::{Informer, InformerConfig, What};
use service_kit::metrics::Registry;
use service_kit::shutdown::ShutdownToken;
use testkit::wait_for;
use wire::registry::v1::{BatchCreateDevicesRequest, CreateDeviceRequest};
use wire::twin::v1 as twin;
use wire::twin::v1::{OperationState, Twin};

use crate::support::SOON;
use crate::support::api::Api;
use crate::support::hub::{Hub, Part};

/// Devices of the story; at [`RATE`] they take some seconds.
const DEVICES: usize = 90;
/// Twins a second.
const RATE: u32 = 15;
/// For an operation that is slowed down and interrupted.
const LONG: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_many_twins_goes_on_after_kills_and_writes_each_once() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let requests = (0..DEVICES).map(|number| CreateDeviceRequest {
        device_id: format!("d{number}"),
        ..Default::default()
    });
    let request = BatchCreateDevicesRequest {
        requests: requests.collect(),
    };
    let created = api.registry.clone().batch_create_devices(request).await;
    created.expect("the devices are made");
    let scope = Registry::new().scope("story");
    let config = InformerConfig::of(What::default());
    let keep = |twin: &Twin| Some((twin.desired_version, twin.desired_json.clone()));
    let (informer, runner) = Informer::new(api.twins.clone(), config, &scope, keep);
    let shutdown = ShutdownToken::new();
    let running = tokio::spawn(runner.run(shutdown.clone()));
    assert!(informer.synced().await);

    let request = twin::StartBulkUpdateRequest {
        bulk_update: Some(twin::BulkUpdate {
            source: "devices".to_owned(),
            condition: "*".to_owned(),
            desired_patch_json: r#"{"mode":"new"}"#.to_owned(),
            ..Default::default()
        }),
        rate_per_second: RATE,
        ..Default::default()
    };
    let started = api.bulk.clone().start_bulk_update(request).await;
    let name = started.expect("it begins").into_inner().name;
    for least in [1, DEVICES / 2] {
        let far = progress(&api, &name, least).await;
        assert_eq!(
            far.state(),
            OperationState::Running,
            "the blow falls in the middle"
        );
        hub.kill_and_restart(Part::TwinStore).await;
    }
    let done = wait_for("the operation's end", LONG, async || {
        let operation = operation(&api, &name).await?;
        (operation.state() != OperationState::Running).then_some(operation)
    })
    .await;
    assert_eq!(done.state(), OperationState::Succeeded, "{done:?}");
    let count = u64::try_from(DEVICES).expect("a few");
    assert_eq!((done.total, done.succeeded), (count, count), "{done:?}");
    for number in 0..DEVICES {
        let name = format!("devices/d{number}");
        let twin = api.twin(&name).await.expect("it is there").0;
        let written = (twin.desired_version, twin.desired_json.as_str());
        assert_eq!(written, (2, r#"{"mode":"new"}"#), "{name} is written once");
    }
    wait_for("a cache in step", SOON, async || {
        let held = informer.snapshot();
        let new = held.iter().filter(|(_, kept)| kept.0 == 2).count();
        (held.len() == DEVICES && new == DEVICES).then_some(())
    })
    .await;
    shutdown.trigger();
    running
        .await
        .expect("it does not panic")
        .expect("a good end");
}

async fn operation(api: &Api, name: &str) -> Option<twin::Operation> {
    let request = twin::GetOperationRequest {
        name: name.to_owned(),
    };
    let operation = api.bulk.clone().get_operation(request).await;
    operation.ok().map(tonic::Response::into_inner)
}

/// Waits until so many twins are written.
async fn progress(api: &Api, name: &str, least: usize) -> twin::Operation {
    wait_for(&format!("{least} twins"), LONG, async || {
        let operation = operation(api, name).await?;
        let written = usize::try_from(operation.succeeded).unwrap_or(usize::MAX);
        (written >= least).then_some(operation)
    })
    .await
}
