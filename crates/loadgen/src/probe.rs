//! A well-behaved device, and what a back end asks of it again and again: whether anything starves
//! while others do what they do.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rmqtt_codec::v3::Packet;
use service_kit::client::Connection;
use service_kit::tasks::{OnFailure, Tasks};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use wire::device::v1 as device_api;
use wire::device::v1::device_command_service_client::DeviceCommandServiceClient;

use crate::devices::{self, Device};
use crate::hub::Hub;
use crate::latency::{Latencies, Summary};
use crate::mqtt::{Client, DESIRED_TOPIC, Door, Session};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);
/// Who has waited for so long has starved.
const STARVED_AFTER: Duration = Duration::from_secs(10);
/// The leaf that is changed.
const LEAF: &str = "probe";
/// Where the device comes from: an address of its own.
const FROM: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 2, 0, 1);

/// The well-behaved device.
pub struct Probe {
    hub: Arc<Hub>,
    device: Device,
    commands: DeviceCommandServiceClient<Connection>,
    /// The newest value of the leaf that the device was told of, in this run.
    told: watch::Receiver<u64>,
}

/// What was measured in one phase.
#[derive(Debug, Default)]
pub struct Measured {
    /// From the call of a direct method to its answer.
    pub methods: Option<Summary>,
    /// From a write to the desired section to the device's knowing of it.
    pub changes: Option<Summary>,
    /// What went wrong, by the first few errors.
    pub errors: Vec<String>,
}

impl Probe {
    /// Connects it and has it answer for as long as it may.
    pub async fn connect(hub: &Hub, door: &Door, device: Device, tasks: &Tasks) -> Result<Self> {
        let hello = door.hello(&device, Session::Clean, 0);
        let (mut client, _) = door.connect(FROM, hello).await?;
        client.subscribe().await?;
        let (told_sender, told) = watch::channel(0);
        tasks.spawn("probe", OnFailure::Log, answer(client, told_sender));
        Ok(Self {
            hub: Arc::new(hub.clone()),
            device,
            commands: DeviceCommandServiceClient::new(hub.service(&hub.twin_store_url)?),
            told,
        })
    }

    /// Asks again and again until something is over.
    pub async fn measure(&self, tasks: &Tasks, over: impl Future<Output = ()>) -> Measured {
        let (ended_sender, ended) = watch::channel(false);
        let (methods, changes) = (
            Arc::new(Latencies::default()),
            Arc::new(Latencies::default()),
        );
        let (errors_sender, mut errors) = tokio::sync::mpsc::channel(8);
        let calling = call(
            self.commands.clone(),
            wire::names::identity_name(&self.device.identity),
            Arc::clone(&methods),
            ended.clone(),
            errors_sender.clone(),
        );
        let changing = change(
            Arc::clone(&self.hub),
            self.device.clone(),
            self.told.clone(),
            Arc::clone(&changes),
            ended,
            errors_sender,
        );
        tasks.spawn("probe: methods", OnFailure::Log, calling);
        tasks.spawn("probe: changes", OnFailure::Log, changing);
        over.await;
        ended_sender.send_replace(true);
        let mut found = Vec::new();
        // Ends when both have.
        while let Some(error) = errors.recv().await {
            found.push(error);
        }
        Measured {
            methods: methods.summary(),
            changes: changes.summary(),
            errors: found,
        }
    }
}

type Errors = tokio::sync::mpsc::Sender<String>;

async fn answer(mut client: Client, told: watch::Sender<u64>) {
    // The hub's end is not ours to judge: whoever asks will miss the answers.
    while let Ok(packet) = client.next().await {
        let Packet::Publish(publish) = packet else {
            continue;
        };
        if publish.topic.starts_with(DESIRED_TOPIC) {
            let change = serde_json::from_slice::<serde_json::Value>(&publish.payload);
            if let Some(value) = change.ok().and_then(|it| it[LEAF].as_u64()) {
                told.send_replace(value);
            }
        } else if client.answer_method(&publish).await.is_err() {
            return;
        }
    }
}

async fn call(
    commands: DeviceCommandServiceClient<Connection>,
    name: String,
    took: Arc<Latencies>,
    ended: watch::Receiver<bool>,
    errors: Errors,
) {
    while !*ended.borrow() {
        let began = Instant::now();
        match timeout(STARVED_AFTER, call_once(commands.clone(), &name)).await {
            Ok(Ok(())) => took.record(began.elapsed()),
            Ok(Err(error)) => note(&errors, format!("method: {error:#}")),
            Err(_) => note(&errors, "method: starved".to_owned()),
        }
        sleep(PAUSE).await;
    }
}

async fn call_once(mut commands: DeviceCommandServiceClient<Connection>, name: &str) -> Result<()> {
    let request = device_api::InvokeMethodRequest {
        name: name.to_owned(),
        method_name: "ping".to_owned(),
        ..Default::default()
    };
    let mut answers = commands.invoke_method(request).await?.into_inner();
    let answer = answers.message().await?.context("no answer")?;
    ensure!(answer.status == 200, "answered {}", answer.status);
    Ok(())
}

async fn change(
    hub: Arc<Hub>,
    device: Device,
    mut told: watch::Receiver<u64>,
    took: Arc<Latencies>,
    ended: watch::Receiver<bool>,
    errors: Errors,
) {
    let mut value = *told.borrow();
    while !*ended.borrow() {
        value += 1;
        let began = Instant::now();
        let patch = serde_json::json!({ LEAF: value }).to_string();
        let changing = async {
            devices::patch_desired(&hub, std::slice::from_ref(&device), &patch).await?;
            told.wait_for(|it| *it >= value).await?;
            anyhow::Ok(())
        };
        match timeout(STARVED_AFTER, changing).await {
            Ok(Ok(())) => took.record(began.elapsed()),
            Ok(Err(error)) => note(&errors, format!("change: {error:#}")),
            Err(_) => note(&errors, "change: starved".to_owned()),
        }
        sleep(PAUSE).await;
    }
}

/// The first few are enough.
fn note(errors: &Errors, error: String) {
    let _ = errors.try_send(error);
}
