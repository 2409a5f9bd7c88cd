//! A device that is not registered yet: it says who it is, is registered by twin-store, asks what
//! became of it, and goes.
//!
//! It shares the listener with devices of the hub; its user name tells it apart. One request is served
//! after the other, and whatever is no topic of provisioning closes the connection. What it sends is as
//! small as a CONNECT, its requests are counted, and after a while it is sent away.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use iot_hub::RegistrationId;
use iot_hub::mqtt::{ConnectError, TopicError};
use iot_hub::provisioning::{
    Assigned, ProvisioningName, ProvisioningTopic, answer_topic, assigning, refusal,
    registration_of,
};
use jiff::Timestamp;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Connect, Packet, SubscribeReturnCode};
use serde_json::Value;
use service_kit::error::Classified as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use wire::InvalidField;
use wire::registry::v1 as registry;
use wire::registry::v1::registration_claim::Proof;
use wire::time::optional;

use super::arrive::Caller;
use super::end::End;
use super::pace::Pace;
use super::wire::Wire;
use crate::auth::AuthError;
use crate::grpc::{Door, Parts};

/// How long a connection may last. Registering takes seconds; a device that has to try again comes
/// again.
const LIFETIME: Duration = Duration::from_mins(5);
/// Requests of one connection. A device has two; one that polls impatiently has some more.
const REQUESTS_MAX: usize = 64;
/// After how many seconds a device is to ask what became of it. The real service takes some, and
/// clients wait for that; here it is done by then.
const RETRY_AFTER: u32 = 1;
/// How long the last bytes may take.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// Characters of a wrong topic that are shown.
const SHOWN_MAX: usize = 120;

/// Who registers, proven once.
pub(super) struct Claimed {
    registration: RegistrationId,
    claim: registry::RegistrationClaim,
}

/// Whether a CONNECT is of a device that wants to be registered.
pub(super) fn is_meant(connect: &Connect) -> bool {
    let name = connect.username.as_deref();
    name.is_some_and(|name| ProvisioningName::is_meant(name, &connect.client_id))
}

/// Decides whether it may come in.
pub(super) async fn admit(door: &Door, caller: Caller, peer: SocketAddr) -> Result<Claimed, End> {
    let auth = &door.parts.auth;
    let (connect, certificates) = (caller.connect, caller.certificates);
    let user_name = connect.username.as_deref().unwrap_or_default();
    let Some(name) = ProvisioningName::parse(&connect.client_id, user_name) else {
        let error = AuthError::from(ConnectError::Provisioning);
        auth.refuse_device(&error, Some(peer.ip()));
        return Err(error.into());
    };
    let proof = match connect.password {
        // What is no text is no token.
        Some(password) => {
            let token = String::from_utf8_lossy(&password).into_owned();
            Proof::SasToken(token)
        }
        None if certificates.is_empty() => {
            let error = AuthError::NothingShown;
            auth.refuse_device(&error, Some(peer.ip()));
            return Err(error.into());
        }
        None => Proof::Chain(registry::CertificateChain { certificates }),
    };
    let claim = registry::RegistrationClaim {
        id_scope: name.id_scope,
        registration_id: name.registration.to_string(),
        proof: Some(proof),
    };
    let admitting = &door.parts.admitting;
    auth.check_registration(claim.clone(), peer.ip(), admitting)
        .await?;
    Ok(Claimed {
        registration: name.registration,
        claim,
    })
}

/// A device that was let in to register.
pub(super) struct Registering<S> {
    wire: Wire<S>,
    registrar: Registrar,
    /// How long it may be silent.
    patience: Duration,
    subscribed: bool,
    requests: usize,
}

impl<S: AsyncRead + AsyncWrite> Registering<S> {
    pub(super) fn new(
        door: Door,
        wire: Wire<S>,
        claimed: Claimed,
        peer: SocketAddr,
        patience: Duration,
    ) -> Self {
        let registrar = Registrar {
            door,
            claimed,
            peer,
        };
        Self {
            wire,
            registrar,
            patience,
            subscribed: false,
            requests: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let shutdown = self.registrar.door.parts.shutdown.clone();
        let served = Box::pin(shutdown.run_until(self.serve())).await;
        let end = served.unwrap_or(End::Stopping);
        let registrar = &self.registrar;
        let parts = &registrar.door.parts;
        parts.metrics.mqtt_ended(end.code());
        let (reason, error) = (end.code(), service_kit::error::chain(&end));
        let registration = registrar.claimed.registration.as_str();
        let peer = registrar.peer;
        let tells = || parts.ends.tells(reason, parts.clock.monotonic());
        if let Some(untold) = end.is_told().then(tells).flatten() {
            tracing::info!(registration, %peer, reason, error, untold, "registering has ended");
        } else {
            tracing::debug!(registration, %peer, reason, error, "registering has ended");
        }
        // Who does not take its last answer in time asks again.
        let _ = tokio::time::timeout(GOODBYE_WITHIN, self.wire.writer.finish()).await;
    }

    async fn serve(&mut self) -> End {
        let until = Instant::now() + LIFETIME;
        let mut pace = Pace::of_device(&self.registrar.door.parts.limits, Instant::now());
        loop {
            let quiet = Instant::now() + self.patience;
            let outcome = tokio::time::timeout_at(until.min(quiet), self.step()).await;
            match outcome {
                Ok(Ok(bytes)) => {
                    if let Some(at) = pace.on_packet(bytes, Instant::now()) {
                        tokio::time::sleep_until(at.min(until)).await;
                    }
                }
                Ok(Err(end)) => return end,
                Err(_) if Instant::now() >= until => {
                    return End::Overstayed {
                        seconds: LIFETIME.as_secs(),
                    };
                }
                Err(_) => {
                    let seconds = self.patience.as_secs() * 2 / 3;
                    return End::Silent {
                        seconds: u16::try_from(seconds).unwrap_or(u16::MAX),
                    };
                }
            }
        }
    }

    /// Writes what waits, then serves one packet and answers its bytes. Whoever does not read is not
    /// listened to.
    async fn step(&mut self) -> Result<u32, End> {
        while self.wire.writer.has_work() {
            self.wire.writer.step().await?;
        }
        let (packet, bytes) = self.wire.reader.next_with_bytes().await?;
        self.on_packet(packet).await?;
        Ok(bytes)
    }

    async fn on_packet(&mut self, packet: Packet) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.on_publish(*publish).await,
            Packet::Subscribe {
                packet_id,
                topic_filters,
            } => {
                let mut status = Vec::with_capacity(topic_filters.len());
                for (filter, qos) in topic_filters {
                    if !ProvisioningTopic::is_answers(&filter) {
                        return Err(unknown(&filter));
                    }
                    let granted = match qos {
                        QoS::AtMostOnce => QoS::AtMostOnce,
                        QoS::AtLeastOnce | QoS::ExactlyOnce => QoS::AtLeastOnce,
                    };
                    status.push(SubscribeReturnCode::Success(granted));
                    self.subscribed = true;
                }
                let ack = Packet::SubscribeAck { packet_id, status };
                self.wire.writer.put(ack)
            }
            Packet::Unsubscribe { packet_id, .. } => {
                self.subscribed = false;
                let ack = Packet::UnsubscribeAck { packet_id };
                self.wire.writer.put(ack)
            }
            Packet::PingRequest => self.wire.writer.put(Packet::PingResponse),
            Packet::Disconnect => Err(End::Disconnected),
            // Of answers at QoS 0 there are none to acknowledge, but it does no harm.
            Packet::PublishAck { .. } => Ok(()),
            other => Err(End::Unexpected {
                kind: other.packet_type(),
            }),
        }
    }

    async fn on_publish(&mut self, publish: Publish) -> Result<(), End> {
        if publish.qos == QoS::ExactlyOnce {
            return Err(End::Qos2);
        }
        let topic = ProvisioningTopic::parse(&publish.topic);
        let topic = topic.ok_or_else(|| unknown(&publish.topic))?;
        self.requests += 1;
        if self.requests > REQUESTS_MAX {
            return Err(End::TooManyRequests { max: REQUESTS_MAX });
        }
        let answered = self.registrar.answer(topic, &publish.payload).await;
        if let Some(packet_id) = publish.packet_id {
            self.wire.writer.put(Packet::PublishAck { packet_id })?;
        }
        // Whoever does not listen is told nothing.
        if !self.subscribed {
            return Ok(());
        }
        self.wire.writer.put(Packet::Publish(Box::new(Publish {
            dup: false,
            retain: false,
            qos: QoS::AtMostOnce,
            topic: answered.topic.into(),
            packet_id: None,
            payload: Bytes::from(answered.body.to_string()),
            properties: None,
        })))
    }
}

/// What asks twin-store for a device.
struct Registrar {
    door: Door,
    claimed: Claimed,
    peer: SocketAddr,
}

/// What a device is told.
struct Answered {
    topic: String,
    body: Value,
}

impl Registrar {
    async fn answer(&self, topic: ProvisioningTopic, body: &[u8]) -> Answered {
        let (rid, answered) = match topic {
            ProvisioningTopic::Register { rid } => {
                let body = self.register(body).await;
                (rid, body.map(|body| (202, Some(RETRY_AFTER), body)))
            }
            ProvisioningTopic::Operation { rid, operation } => {
                let body = self.known(operation).await;
                (rid, body.map(|body| (200, None, body)))
            }
        };
        let (status, retry_after, body) = answered.unwrap_or_else(|refusal| refusal);
        Answered {
            topic: answer_topic(status, &rid, retry_after),
            body,
        }
    }

    async fn register(&self, body: &[u8]) -> Result<Value, Refusal> {
        if let Err(problem) = registration_of(body, &self.claimed.registration) {
            let number = 400_004;
            return Err(self.refusal(number, problem, None));
        }
        let Parts {
            auth, admitting, ..
        } = &*self.door.parts;
        let claim = self.claimed.claim.clone();
        let registered = auth.register(claim, self.peer.ip(), admitting).await;
        let registered = registered.map_err(|error| self.refused(&error))?;
        let (registration, device) = (&registered.registration_id, &registered.device_id);
        tracing::info!(registration, device, peer = %self.peer, "a device was registered");
        Ok(assigning(&registered.operation_id))
    }

    async fn known(&self, operation: String) -> Result<Value, Refusal> {
        let Parts {
            auth, admitting, ..
        } = &*self.door.parts;
        let claim = self.claimed.claim.clone();
        let known = auth
            .registration(claim, operation, self.peer.ip(), admitting)
            .await;
        let known = known.map_err(|error| self.refused(&error))?;
        let now = self.door.parts.clock.now();
        // A time that cannot be read is no reason to keep a device out.
        let time = |at: Result<Option<Timestamp>, InvalidField>| at.ok().flatten().unwrap_or(now);
        let assigned = Assigned {
            registration_id: known.registration_id,
            device_id: known.device_id,
            hub: auth.host().to_owned(),
            substatus: known.substatus,
            created_at: time(optional("create_time", known.create_time)),
            updated_at: time(optional("update_time", known.update_time)),
            etag: known.etag,
        };
        Ok(assigned.operation(&known.operation_id))
    }

    fn refused(&self, error: &AuthError) -> Refusal {
        let retry_after = error.retry_after().map(|wait| wait.as_secs() + 1);
        let retry_after = retry_after.and_then(|seconds| u32::try_from(seconds).ok());
        self.refusal(error.iot_hub().number(), &error.to_string(), retry_after)
    }

    fn refusal(&self, number: u32, message: &str, retry_after: Option<u32>) -> Refusal {
        let status = u16::try_from(number / 1000).unwrap_or(500);
        let tracking_id = uuid::Uuid::new_v4().to_string();
        let now = self.door.parts.clock.now();
        let body = refusal(number, &tracking_id, message, now);
        let parts = &self.door.parts;
        parts.metrics.registration_refused(number);
        let registration = self.claimed.registration.as_str();
        let tells = parts
            .ends
            .tells("REGISTRATION_REFUSED", parts.clock.monotonic());
        if let Some(untold) = tells {
            tracing::info!(registration, peer = %self.peer, tracking_id, number, message, untold, "a registration was refused");
        } else {
            tracing::debug!(
                registration,
                tracking_id,
                number,
                message,
                "a registration was refused"
            );
        }
        (status, retry_after, body)
    }
}

/// Status, seconds to wait, body.
type Refusal = (u16, Option<u32>, Value);

fn unknown(topic: &str) -> End {
    let shown = topic.chars().take(SHOWN_MAX).flat_map(char::escape_debug);
    End::Topic(TopicError::Unknown {
        topic: shown.collect(),
    })
}
