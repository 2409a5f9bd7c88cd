//! One simulated agent: a real session over a connection of its own, that answers for what it is told
//! as its kind does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use loadgen::devices::Device;
use loadgen::hub::Hub;
use serde_json::Value;
use service_kit::client::Connection;
use service_kit::clock::{Clock as _, SystemClock};
use service_kit::shutdown::ShutdownToken;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Streaming};
use uuid::Uuid;
use wire::agent::v1 as agent;
use wire::agent::v1::acknowledge_desired::Outcome;
use wire::agent::v1::agent_service_client::AgentServiceClient;
use wire::agent::v1::open_session_request::Message;
use wire::agent::v1::open_session_response::Message as Answer;

/// What the policy sets.
pub(crate) const SETTING: &str = "rolloutLevel";
/// How long the service may take to begin its answer: thousands come at once.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// Before a session that broke is opened again.
const AGAIN: Duration = Duration::from_millis(500);
/// Messages between this task and the stream.
const STREAM_BUFFER: usize = 4;

/// How an agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Applies whatever it is told.
    Good,
    /// Rejects what has the setting.
    Rejects,
    /// Says nothing to what has the setting.
    Silent,
}

/// What an agent was told of the setting, in order and without repetitions; none: it was not there.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Vec<Option<i64>>>);

impl Told {
    /// All of it.
    pub(crate) fn all(&self) -> Vec<Option<i64>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The last.
    pub(crate) fn last(&self) -> Option<i64> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.last().copied().flatten()
    }

    fn note(&self, level: Option<i64>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.last() != Some(&level) {
            told.push(level);
        }
    }
}

/// An agent that can be started.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) device: Device,
    pub(crate) kind: Kind,
    pub(crate) told: Arc<Told>,
    host: String,
    client: AgentServiceClient<Connection>,
}

impl Agent {
    /// One that has never been connected.
    pub(crate) fn new(hub: &Hub, device: Device, kind: Kind) -> Result<Agent> {
        Ok(Agent {
            device,
            kind,
            told: Arc::default(),
            host: hub.host.clone(),
            client: AgentServiceClient::new(hub.agent_door()?),
        })
    }

    /// Is connected, and connects again, until it is to be cut off.
    pub(crate) async fn run(self, cut: ShutdownToken) {
        let mut applied = 0;
        let staying = async {
            loop {
                // Why a session broke is in the hub's log; the run fails if that was once too often.
                let _ = self.session(&mut applied).await;
                sleep(AGAIN).await;
            }
        };
        cut.run_until(staying).await;
    }

    async fn session(&self, applied: &mut u64) -> Result<()> {
        let (up, requests) = mpsc::channel(STREAM_BUFFER);
        let hello = Message::Hello(agent::Hello {
            agent_version: concat!("rolloutbench/", env!("CARGO_PKG_VERSION")).to_owned(),
            session_id: Uuid::new_v4().to_string(),
            applied_desired_version: *applied,
            ..Default::default()
        });
        send(&up, hello).await?;
        let mut down = self.open(requests).await?;
        while let Some(answer) = down.message().await? {
            let Some(Answer::Desired(desired)) = answer.message else {
                continue;
            };
            let document: Value = serde_json::from_str(&desired.document_json)?;
            let level = document[SETTING].as_i64();
            self.told.note(level);
            let outcome = match (self.kind, level) {
                (Kind::Silent, Some(_)) => continue,
                (Kind::Rejects, Some(_)) => Outcome::Rejected,
                _ => Outcome::Applied,
            };
            if outcome == Outcome::Applied {
                *applied = desired.version;
            }
            let answer = agent::AcknowledgeDesired {
                version: desired.version,
                outcome: outcome.into(),
                reason: "as simulated".to_owned(),
                apply_time: Some(wire::time::to_wire(SystemClock.now())),
                trace_parent: desired.trace_parent,
                ..Default::default()
            };
            send(&up, Message::AcknowledgeDesired(answer)).await?;
        }
        Ok(())
    }

    async fn open(
        &self,
        requests: mpsc::Receiver<agent::OpenSessionRequest>,
    ) -> Result<Streaming<agent::OpenSessionResponse>> {
        let mut request = Request::new(ReceiverStream::new(requests));
        let token: MetadataValue<Ascii> = self
            .device
            .token(&self.host)
            .parse()
            .context("the token fits no header")?;
        request.metadata_mut().insert("authorization", token);
        let mut client = self.client.clone();
        let answer = timeout(OPEN_WITHIN, client.open_session(request)).await;
        Ok(answer.context("the service did not answer")??.into_inner())
    }
}

async fn send(up: &mpsc::Sender<agent::OpenSessionRequest>, message: Message) -> Result<()> {
    let message = Some(message);
    up.send(agent::OpenSessionRequest { message }).await?;
    Ok(())
}
