//! An agent by hand: the wire without collectors, so that a story knows exactly what was sent and
//! what was acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use iot_hub::{SasResource, SasToken, SymmetricKey};
use jiff::{SignedDuration, Timestamp};
use testkit::wait_for;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Request, Status, Streaming};
use twin::{DeviceId, IdentityKey, ModuleId};
use wire::agent::v1 as proto;
use wire::agent::v1::agent_service_client::AgentServiceClient;
use wire::agent::v1::open_session_request::Message as Up;
use wire::agent::v1::open_session_response::Message as Down;
use wire::agent::v1::security_event::Payload;

use super::SOON;
use super::api::Device;

/// Batches on their way at once.
const WINDOW: usize = 4;

/// An agent by hand. It keeps what is not acknowledged and sends it again, as a real one does.
pub(crate) struct Agent {
    url: String,
    device: Device,
    epoch: String,
    next_sequence: u64,
    pending: VecDeque<proto::SecurityEvent>,
    session: Option<Session>,
    /// Events acknowledged so far.
    pub(crate) acknowledged: u64,
    /// Desired versions in the order in which they came.
    pub(crate) desired: Vec<(u64, serde_json::Value)>,
}

/// An open session.
pub(crate) struct Session {
    pub(crate) up: mpsc::Sender<proto::OpenSessionRequest>,
    pub(crate) down: Streaming<proto::OpenSessionResponse>,
}

impl Agent {
    pub(crate) fn new(url: String, device: Device) -> Agent {
        Agent {
            url,
            device,
            epoch: uuid::Uuid::new_v4().to_string(),
            next_sequence: 1,
            pending: VecDeque::new(),
            session: None,
            acknowledged: 0,
            desired: Vec::new(),
        }
    }

    /// Observes something; it is sent with [`Agent::deliver`].
    pub(crate) fn observe(&mut self, payload: Payload) {
        self.pending.push_back(proto::SecurityEvent {
            sequence: self.next_sequence,
            observe_time: Some(wire::time::to_wire(Timestamp::now())),
            payload: Some(payload),
        });
        self.next_sequence += 1;
    }

    /// How many events were ever observed.
    pub(crate) fn observed(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Sends what is pending in batches until all of it is acknowledged, through whatever happens
    /// to the connection. `between` is called after each acknowledgement with the number so far.
    pub(crate) async fn deliver(&mut self, batch: usize, mut between: impl AsyncFnMut(u64)) {
        let mut in_flight = 0;
        let deadline = tokio::time::Instant::now() + SOON;
        while !self.pending.is_empty() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "not everything was acknowledged"
            );
            if self.session.is_none() {
                in_flight = 0;
                self.session = Some(self.connect().await);
            }
            let Some(session) = &mut self.session else {
                continue;
            };
            let sent: usize = in_flight * batch;
            if in_flight < WINDOW && sent < self.pending.len() {
                let events = self
                    .pending
                    .iter()
                    .skip(sent)
                    .take(batch)
                    .cloned()
                    .collect();
                let message = Up::Events(proto::EventBatch {
                    lane: proto::Lane::High.into(),
                    epoch: self.epoch.clone(),
                    events,
                    dropped_total: 0,
                    settled_through: 0,
                    trace_parent: String::new(),
                });
                let message = proto::OpenSessionRequest {
                    message: Some(message),
                };
                if session.up.send(message).await.is_err() {
                    self.session = None;
                } else {
                    in_flight += 1;
                }
                continue;
            }
            match tokio::time::timeout(SOON, session.down.message()).await {
                Ok(Ok(Some(proto::OpenSessionResponse {
                    message: Some(message),
                }))) => {
                    if self.receive(message).await {
                        in_flight = in_flight.saturating_sub(1);
                        between(self.acknowledged).await;
                    }
                }
                Ok(Ok(_) | Err(_)) => self.session = None,
                Err(elapsed) => panic!("no acknowledgement in time: {elapsed}"),
            }
        }
    }

    /// Listens until a desired version has come that `holds` says is the one, acknowledging all.
    pub(crate) async fn desired_until(&mut self, holds: impl Fn(&serde_json::Value) -> bool) {
        let deadline = tokio::time::Instant::now() + SOON;
        while !self
            .desired
            .last()
            .is_some_and(|(_, document)| holds(document))
        {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the desired section did not come"
            );
            if self.session.is_none() {
                self.session = Some(self.connect().await);
            }
            let Some(session) = &mut self.session else {
                continue;
            };
            match tokio::time::timeout(SOON, session.down.message()).await {
                Ok(Ok(Some(proto::OpenSessionResponse {
                    message: Some(message),
                }))) => {
                    self.receive(message).await;
                }
                Ok(Ok(_) | Err(_)) => self.session = None,
                Err(elapsed) => panic!("nothing came in time: {elapsed}"),
            }
        }
    }

    /// Drops the connection without a word.
    pub(crate) fn disconnect(&mut self) {
        self.session = None;
    }

    /// Takes a message; true for an acknowledgement of events.
    async fn receive(&mut self, message: Down) -> bool {
        match message {
            Down::EventsAck(ack) => {
                assert_eq!(
                    ack.rejected,
                    Vec::new(),
                    "nothing of this is to be rejected"
                );
                while self
                    .pending
                    .front()
                    .is_some_and(|event| event.sequence <= ack.through_sequence)
                {
                    self.pending.pop_front();
                    self.acknowledged += 1;
                }
                true
            }
            Down::Desired(desired) => {
                let document = serde_json::from_str(&desired.document_json).expect("JSON");
                let newest = self.desired.last().map_or(0, |(version, _)| *version);
                assert!(
                    desired.version >= newest,
                    "a desired version never goes down"
                );
                self.desired.push((desired.version, document));
                let answer = Up::AcknowledgeDesired(proto::AcknowledgeDesired {
                    version: desired.version,
                    outcome: proto::acknowledge_desired::Outcome::Applied.into(),
                    apply_time: Some(wire::time::to_wire(Timestamp::now())),
                    trace_parent: desired.trace_parent,
                    ..Default::default()
                });
                let answer = proto::OpenSessionRequest {
                    message: Some(answer),
                };
                if let Some(session) = &self.session
                    && session.up.send(answer).await.is_err()
                {
                    self.session = None;
                }
                false
            }
            Down::Welcome(_) | Down::ReportedPatched(_) | Down::Twin(_) | Down::Method(_) => false,
            // A part behind ingestion is away for the moment; the agent will be asked again.
            Down::Error(error) => {
                assert!(error.retryable, "{error:?}");
                false
            }
        }
    }

    /// Connects, again and again until it works.
    async fn connect(&self) -> Session {
        wait_for("a session", SOON, async || {
            let applied = self.desired.last().map_or(0, |(version, _)| *version);
            let token = sas(&self.device, Duration::from_hours(1));
            let opening = open(&self.url, &token, hello(applied));
            tokio::time::timeout(Duration::from_secs(5), opening)
                .await
                .ok()?
                .ok()
        })
        .await
    }
}

/// A first message.
pub(crate) fn hello(applied_desired_version: u64) -> Up {
    Up::Hello(proto::Hello {
        agent_version: "0.0.0-test".to_owned(),
        session_id: uuid::Uuid::new_v4().to_string(),
        applied_desired_version,
        generation_id: String::new(),
        takes_methods: false,
    })
}

/// A token for the device's module, signed with its key.
pub(crate) fn sas(device: &Device, lifetime: Duration) -> String {
    let key = IdentityKey::new_module(
        DeviceId::parse(&device.device_id).expect("an id"),
        ModuleId::parse(&device.module_id).expect("an id"),
    );
    let expires_at = Timestamp::now()
        .checked_add(SignedDuration::try_from(lifetime).expect("a short time"))
        .expect("this century");
    let resource = SasResource::of_identity("localhost", &key);
    let shared = SymmetricKey::parse(&device.key).expect("a key");
    SasToken::sign(resource, &shared, expires_at).to_string()
}

/// Opens a session with a token and a first message, and waits for the first answer.
pub(crate) async fn open(url: &str, token: &str, first: Up) -> Result<Session, Status> {
    let channel = Endpoint::from_shared(url.to_owned())
        .expect("a URL")
        .connect()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let (up, requests) = mpsc::channel(WINDOW * 2);
    let sent = up
        .send(proto::OpenSessionRequest {
            message: Some(first),
        })
        .await;
    sent.expect("the channel is open");
    let mut request = Request::new(ReceiverStream::new(requests));
    request
        .metadata_mut()
        .insert("authorization", token.parse().expect("ASCII"));
    let down = AgentServiceClient::new(channel)
        .open_session(request)
        .await?
        .into_inner();
    Ok(Session { up, down })
}

/// Listening TCP ports, as a snapshot.
pub(crate) fn listening(ports: &[u32]) -> Payload {
    let ports = ports
        .iter()
        .map(|port| proto::ListeningPort {
            protocol: "tcp".to_owned(),
            address: "0.0.0.0".to_owned(),
            port: *port,
            process_id: 0,
            executable: String::new(),
        })
        .collect();
    Payload::ListeningPorts(proto::ListeningPorts { ports })
}

/// A failed login.
pub(crate) fn failed_login() -> Payload {
    Payload::Login(proto::LoginActivity {
        operation: proto::login_activity::Operation::LoginFailed.into(),
        user_name: "root".to_owned(),
        process_id: 1,
        terminal: "ssh:notty".to_owned(),
        remote_address: "192.0.2.7".to_owned(),
    })
}
