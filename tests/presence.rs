//! Who is connected, after the ingestion that held the connections is gone: who came back stays
//! connected, who did not is told to be away, and one that was only frozen keeps its devices.

use testkit::Signal;

use crate::support::api::{Api, Device, Twin};
use crate::support::hub::{Hub, Part};
use crate::websocket::{ACCEPTED, Socket, WHOLE, connect_with, gateway};

const MODEL: &str = "dtmi:com:example:Camera;1";

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_an_ingestion_that_was_killed_are_away_unless_they_come_back() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let (gone, back) = (api.device("gone").await, api.device("back").await);
    let (mut gateway, port) = gateway(&hub, true).await;
    gateway.allow("");

    let _first = arrive(port, &gone).await;
    let second = arrive(port, &back).await;
    let connected = [
        until(&api, &gone, true).await,
        until(&api, &back, true).await,
    ];
    assert_eq!(
        connected.each_ref().map(|twin| twin.0.model_id.as_str()),
        [MODEL; 2]
    );
    hub.kill_and_restart(Part::Ingestion).await;
    drop(second);
    let second = arrive(port, &back).await;
    let ended = until(&api, &gone, false).await;
    assert_eq!(
        ended.posture()["agent"]["sessionLost"],
        true,
        "{}",
        ended.posture()
    );
    assert_eq!(ended.0.model_id, MODEL, "it is the model's still");
    assert!(until(&api, &back, true).await.posture()["agent"]["sessionLost"].is_null());

    // Nobody remembers the run that ends while twin-store is away, but for the twins.
    hub.process(Part::TwinStore).kill();
    hub.process(Part::Ingestion).kill();
    drop(second);
    hub.kill_and_restart(Part::TwinStore).await;
    hub.kill_and_restart(Part::Ingestion).await;
    let _again = arrive(port, &gone).await;
    until(&api, &back, false).await;
    until(&api, &gone, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_an_ingestion_that_was_frozen_are_connected_when_it_goes_on() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let device = api.device("patient").await;
    let (mut gateway, port) = gateway(&hub, true).await;
    gateway.allow("");
    let mut socket = arrive(port, &device).await;
    let begun = until(&api, &device, true).await;

    hub.process(Part::Ingestion).signal(Signal::STOP);
    until(&api, &device, false).await;
    hub.process(Part::Ingestion).signal(Signal::CONT);
    let again = until(&api, &device, true).await;
    let session = |twin: &Twin| twin.text("/agent/sessionId");
    assert_eq!(session(&begun), session(&again), "the same connection");
    socket.send(WHOLE, &[0xc0, 0]).await;
    assert_eq!(socket.data(2).await, [0xd0, 0], "it is alive");
}

/// Connects a device, and keeps the connection.
async fn arrive(port: u16, device: &Device) -> Socket {
    let mut socket = Socket::open(port).await;
    let model = MODEL.replace(':', "%3A").replace(';', "%3B");
    let properties = format!("&model-id={model}");
    let connect = connect_with(device, &device.key, &properties);
    socket.send(WHOLE, &connect).await;
    assert_eq!(socket.data(4).await, ACCEPTED);
    socket
}

async fn until(api: &Api, device: &Device, connected: bool) -> Twin {
    let what = format!("{} to be connected: {connected}", device.device_id);
    let holds = |twin: &Twin| twin.0.connected == connected;
    api.twin_until(&device.twin, &what, holds).await
}
