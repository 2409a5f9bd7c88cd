//! From the first byte to the CONNACK: who is it, may it come in, and what did it subscribe to?
//!
//! A refusal is answered with a CONNACK wherever MQTT has one, because SDKs take a connection that
//! just closes for a broken network and try for ever.

use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use iot_hub::mqtt::{ConnectName, DeviceTopic, FilterKind};
use rmqtt_codec::error::DecodeError;
use rmqtt_codec::types::{MQTT_LEVEL_311, QoS};
use rmqtt_codec::v3::{Connect, ConnectAckReason, LastWill, Packet};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use twin::IdentityKey;

use super::Room;
use super::end::End;
use super::message::DeviceMessage;
use super::session::{Persistence, Session};
use super::subscriptions::{self, Subscriptions};
use super::turns::Turns;
use super::wire::{AnyStream, Wire};
use crate::auth::{AuthError, Proof};
use crate::grpc::Door;
use crate::sessions::Place;

/// A device that has sent its CONNECT.
pub(super) struct Caller {
    pub(super) connect: Connect,
    /// The certificates that it has shown, in DER form, its own first.
    pub(super) certificates: Vec<Vec<u8>>,
}

/// A device that may come in.
pub(super) struct Admitted {
    pub(super) proof: Proof,
    pub(super) place: Place,
    pub(super) session: Session,
    /// Whether it finds what it subscribed to before.
    pub(super) session_present: bool,
    pub(super) will: Option<DeviceMessage>,
    /// In its own words; may be empty.
    pub(super) client_type: String,
    /// The DTDL model that it announced.
    pub(super) model_id: Option<Box<str>>,
}

/// How a device comes.
pub(super) enum Way {
    /// Over TCP, with the TLS handshake still to be made.
    Tls(Box<Unshaken>),
    /// Over a link, with the certificates that it has shown at the other end.
    Link(AnyStream, Vec<Vec<u8>>),
}

/// A connection with its handshake still to be made.
pub(super) struct Unshaken {
    pub(super) tcp: TcpStream,
    pub(super) acceptor: TlsAcceptor,
    pub(super) turns: Turns,
}

impl Unshaken {
    /// Makes the handshake, within a time that does not count what we make the device wait.
    async fn shake_hands(
        self,
        until: &mut Until,
        room: &Room,
    ) -> Result<TlsStream<TcpStream>, End> {
        // Who says nothing needs no turn.
        until
            .wait(self.tcp.readable())
            .await?
            .map_err(End::Handshake)?;
        let mut handshake = self.acceptor.accept(self.tcp);
        let (queued, waits) = (Instant::now(), room.waits());
        let first = self.turns.first_step(&mut handshake).await;
        until.at += queued.elapsed();
        drop(waits);
        let shaken = match first {
            Poll::Ready(shaken) => shaken,
            Poll::Pending => until.wait(handshake).await?,
        };
        shaken.map_err(End::Handshake)
    }
}

/// Until when a device has to have shown what it has to show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until {
    at: Instant,
    within: Duration,
}

impl Until {
    /// From now on.
    pub(super) fn within(within: Duration) -> Self {
        Self {
            at: Instant::now() + within,
            within,
        }
    }

    /// Waits for something that the device does.
    pub(super) async fn wait<F: Future>(&self, something: F) -> Result<F::Output, End> {
        let waited = tokio::time::timeout_at(self.at, something).await;
        waited.map_err(|_elapsed| End::Late {
            seconds: self.within.as_secs(),
        })
    }
}

/// Shakes hands, if that is still to be done.
pub(super) async fn shake_hands(
    way: Way,
    until: &mut Until,
    room: &Room,
) -> Result<(Wire<AnyStream>, Vec<Vec<u8>>), End> {
    match way {
        Way::Link(stream, certificates) => Ok((Wire::new(stream), certificates)),
        Way::Tls(unshaken) => {
            let stream = unshaken.shake_hands(until, room).await?;
            let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates = shown.iter().map(|it| it.to_vec()).collect();
            let stream: AnyStream = Box::new(stream);
            Ok((Wire::new(stream), certificates))
        }
    }
}

/// Waits for the CONNECT.
pub(super) async fn connect(
    wire: &mut Wire<AnyStream>,
    certificates: Vec<Vec<u8>>,
) -> Result<Caller, End> {
    match wire.reader.next().await? {
        Packet::Connect(connect) if connect.protocol.level() == MQTT_LEVEL_311 => Ok(Caller {
            connect: *connect,
            certificates,
        }),
        Packet::Connect(_) => Err(End::Malformed(DecodeError::UnsupportedProtocolLevel)),
        other => Err(End::Unexpected {
            kind: other.packet_type(),
        }),
    }
}

/// Decides whether it may come in, and prepares its session.
pub(super) async fn admit(door: &Door, caller: Caller, peer: SocketAddr) -> Result<Admitted, End> {
    let Caller {
        connect,
        certificates,
    } = caller;
    let parts = &door.parts;
    let name = ConnectName::parse(&connect.client_id, connect.username.as_deref());
    let name = match name {
        Ok(name) => name,
        Err(error) => {
            let error = AuthError::from(error);
            parts.auth.refuse_device(&error, Some(peer.ip()));
            return Err(error.into());
        }
    };
    // Nobody is waited for in a place but services of ours, so it is soon free again. Whoever has
    // failed too often waits for its turn elsewhere, so that nobody stands behind it here. Many come at
    // once and have failed by the time that they are let in here, so how one stands is asked again.
    let (ip, password) = (peer.ip(), connect.password.as_deref());
    let standing = || parts.auth.account(&name.identity, ip);
    let (mut account, mut admitting) = (standing(), None);
    if !account.is_suspect() {
        admitting = parts.admitting.of_connection(ip).await;
        account = standing();
    }
    if account.is_suspect() {
        admitting = None;
    }
    let auth = &parts.auth;
    let proving = auth.authenticate_device(&name, password, &certificates, (ip, account));
    let proof = proving.await?;
    if admitting.is_none() {
        admitting = parts.admitting.of_connection(ip).await;
    }
    parts
        .auth
        .connects(&proof.identity)
        .map_err(|wait| End::TooOften { wait })?;
    let will = connect
        .last_will
        .map(|will| read_will(will, &proof.identity))
        .transpose()?;
    let place = parts
        .sessions
        .open(proof.identity.clone(), parts.clock.now())
        .map_err(|full| End::TooMany { max: full.max })?;
    if proof.policy().is_some() {
        place.mailbox().is_by_policy();
    }
    let persistence = if connect.clean_session {
        Persistence::Clean
    } else {
        Persistence::Kept
    };
    let kept = take_up(door, &proof, persistence).await?;
    let session_present = !kept.is_empty();
    let present = if kept.have(&FilterKind::DesiredChanges) {
        let section = parts.store.desired(&proof.identity).await;
        Some(section.map_err(End::NotFollowed)?.version)
    } else {
        None
    };
    drop(admitting);
    let session = Session::new(proof.identity.clone(), kept, persistence, present);
    Ok(Admitted {
        proof,
        place,
        session,
        session_present,
        will,
        client_type: name.client_type.unwrap_or_default(),
        model_id: name.model_id.map(String::into_boxed_str),
    })
}

/// What it subscribed to before; a clean session forgets it.
async fn take_up(
    door: &Door,
    proof: &Proof,
    persistence: Persistence,
) -> Result<Subscriptions, End> {
    let (bus, identity) = (&door.parts.bus, &proof.identity);
    let kept = subscriptions::load(bus, identity, &proof.generation_id).await?;
    if persistence == Persistence::Clean && !kept.is_empty() {
        let none = Subscriptions::default();
        subscriptions::keep(bus, identity, &proof.generation_id, &none).await?;
        return Ok(none);
    }
    Ok(kept)
}

fn read_will(will: LastWill, identity: &IdentityKey) -> Result<DeviceMessage, End> {
    match DeviceTopic::parse(&will.topic, identity) {
        Ok(DeviceTopic::Telemetry(properties)) if will.qos != QoS::ExactlyOnce => {
            let message = DeviceMessage::new(properties, will.message, will.retain).into_will();
            message.check_size()?;
            Ok(message)
        }
        Ok(
            DeviceTopic::Telemetry(_)
            | DeviceTopic::TwinGet { .. }
            | DeviceTopic::TwinPatchReported { .. }
            | DeviceTopic::MethodResponse { .. },
        )
        | Err(_) => Err(End::Will),
    }
}

/// How a CONNECT is refused; `None`: by closing the connection alone.
pub(super) fn refusal(end: &End) -> Option<ConnectAckReason> {
    match end {
        End::NotProven(AuthError::Name(iot_hub::mqtt::ConnectError::ClientId))
        | End::Malformed(DecodeError::InvalidClientId) => {
            Some(ConnectAckReason::IdentifierRejected)
        }
        End::NotProven(AuthError::Name(_) | AuthError::NothingShown) => {
            Some(ConnectAckReason::BadUserNameOrPassword)
        }
        // To be tried again.
        End::NotProven(
            AuthError::Unavailable(_) | AuthError::NoPolicies | AuthError::TooManyFailures { .. },
        )
        | End::TooMany { .. }
        | End::TooOften { .. }
        | End::Stopping
        | End::NotRemembered(_)
        | End::NotFollowed(_) => Some(ConnectAckReason::ServiceUnavailable),
        // A will that it may not have will not be allowed the next time either: it is told to stop.
        End::NotProven(_) | End::Will | End::TooLarge { .. } | End::Properties(_) => {
            Some(ConnectAckReason::NotAuthorized)
        }
        End::Malformed(DecodeError::UnsupportedProtocolLevel | DecodeError::InvalidProtocol) => {
            Some(ConnectAckReason::UnacceptableProtocolVersion)
        }
        End::Disconnected
        | End::Lost
        | End::Broke(_)
        | End::Late { .. }
        | End::MadeRoom
        | End::Handshake(_)
        | End::Malformed(_)
        | End::Unexpected { .. }
        | End::Qos2
        | End::Topic(_)
        | End::Subscriptions { .. }
        | End::Silent { .. }
        | End::Overstayed { .. }
        | End::TooManyRequests { .. }
        | End::TakenOver
        | End::NotStored(_)
        | End::NotPatched(_)
        | End::Encode(_) => None,
    }
}
