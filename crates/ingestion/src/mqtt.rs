//! The devices' door: MQTT 3.1.1 over TLS, as IoT Hub speaks it.
//!
//! The packets are `rmqtt-codec`'s, the topics `iot_hub::mqtt`'s; what a device may do is decided by
//! `session` (pure) and performed by `connection`, one task per device. Behind it are the same
//! authentication, registry of sessions, twin-store and bus as behind the agents' door, so a device
//! has one session, whichever door it takes. It never speaks without TLS, and it is no broker:
//! whatever is no topic of IoT Hub closes the connection.
//!
//! Modules in reading order: `listener` (here: accepts, bounds), `connection` (one device: the loop
//! and its effects), `arrive` (until the CONNACK), `session` and `desired` (the decisions),
//! `subscriptions` (what outlives a connection), `answer` (what twin-store said, for a device),
//! `message` (what goes to applications), `security` (what goes into postures), `provisioning`
//! (devices that register first), `wire` (bytes), `turns` (a crowd's handshakes),
//! `end` (why it closed).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use service_kit::places::Shares;
use service_kit::server::ConnectionLimits;
use service_kit::server::balancers::{Balancers, HEADERS_MAX, read_header};
use service_kit::server::doorkeeper::{Awaited, Doorkeeper, Guest};
use service_kit::shutdown::ShutdownToken;
use service_kit::tasks::{OnFailure, Tasks};
use service_kit::tls::ServerTls;
use service_kit::tls::devices::DeviceTls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::config::Limits;
use crate::error::Error;
use crate::grpc::Door;
use addresses::Addresses;
use arrive::{Unshaken, Way};
use turns::Turns;

mod addresses;
mod answer;
mod arrive;
mod connection;
mod desired;
mod end;
mod inbox;
mod message;
mod pace;
mod provisioning;
mod queue;
pub(crate) mod security;
mod session;
mod subscriptions;
mod turns;
mod wire;

/// How long accepting rests when the system has no more to give (descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts devices.
pub(crate) struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    tls: DeviceTls,
    within: Duration,
    /// Connections that there may be, and how many may be without a CONNACK: whoever reaches the port
    /// costs us that much, and the oldest of those makes room.
    doorkeeper: Doorkeeper,
    /// How often one address may connect.
    addresses: Addresses,
    /// Handshakes take a while to reckon, and a fleet makes all of them at once.
    handshakes: Turns,
    /// Who passes devices on, and says whose connections those are.
    balancers: Balancers,
    /// Connections of balancers that have not said it yet.
    headers: Shares,
}

/// A session that is to be begun.
type Beginning = futures::future::BoxFuture<'static, ()>;

/// A place among the connections; given back when dropped.
pub(crate) struct Room {
    /// `None` on a link: there the gateway and the gRPC listener count.
    guest: Option<Guest>,
    /// Where it was counted as one that may come to nothing.
    counted: Option<(Addresses, IpAddr)>,
    /// Who else wants to know that it was.
    let_in: Option<oneshot::Sender<()>>,
}

impl Room {
    /// For a device that somebody else has counted, and who is to be told that it was let in.
    pub(crate) fn counted_elsewhere(let_in: oneshot::Sender<()>) -> Self {
        Self {
            guest: None,
            counted: None,
            let_in: Some(let_in),
        }
    }

    fn proven(&mut self) {
        if let Some(guest) = &self.guest {
            guest.proven();
        }
        if let Some((addresses, address)) = self.counted.take() {
            addresses.let_in(address);
        }
        if let Some(let_in) = self.let_in.take() {
            // Who hung up meanwhile need not know.
            let _ = let_in.send(());
        }
    }

    /// The device waits for something that we do, for as long as the answer lives.
    fn waits(&self) -> Option<Awaited> {
        self.guest.as_ref().map(Guest::waits)
    }

    /// Resolves when the connection has to make room for another. Safe to cancel.
    async fn makes_room(&self) {
        match &self.guest {
            Some(guest) => guest.makes_room().await,
            None => std::future::pending().await,
        }
    }
}

/// Serves a device that comes over a link, with the certificates that it has shown, until either
/// side ends it.
pub(crate) async fn serve_link<S>(
    door: Door,
    stream: S,
    certificates: Vec<Vec<u8>>,
    peer: SocketAddr,
    room: Room,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let within = door.parts.connect_within;
    let way = Way::Link(Box::new(stream), certificates);
    connection::serve(door, way, peer, room, within).await;
}

impl Listener {
    /// Binds the address and reads the certificate. To be called inside the runtime.
    pub(crate) fn bind(
        address: SocketAddr,
        tls: &ServerTls,
        limits: &ConnectionLimits,
        of_address: &Limits,
    ) -> Result<Self, Error> {
        let tls = DeviceTls::load(tls).map_err(Error::MqttTls)?;
        let cannot = |source| Error::MqttDoor { address, source };
        let tcp = service_kit::system::listen(address).map_err(cannot)?;
        let address = tcp.local_addr().map_err(cannot)?;
        let doorkeeper = Doorkeeper::new(ConnectionLimits {
            address_unproven_max: of_address.address_unproven_max,
            ..limits.clone()
        });
        Ok(Self {
            tcp,
            address,
            tls,
            within: limits.prove_within.get(),
            doorkeeper,
            addresses: Addresses::new(of_address),
            handshakes: Turns::of_half_the_cores(),
            balancers: Balancers::default(),
            headers: Shares::new(HEADERS_MAX),
        })
    }

    /// Has connections of these say whose they are before anything else.
    #[must_use]
    pub(crate) fn behind(self, balancers: Balancers) -> Self {
        Self { balancers, ..self }
    }

    /// Where it listens.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves devices until told to stop.
    pub(crate) fn serve(self, tasks: &Tasks, door: &Door, stop: &ShutdownToken) {
        let follow = self.tls.clone().follow(stop.clone());
        tasks.spawn("mqtt certificates", OnFailure::StopService, follow);
        let accept = self.accept(door.clone(), stop.clone());
        tasks.spawn("mqtt", OnFailure::StopService, accept);
    }

    async fn accept(self, door: Door, stop: ShutdownToken) {
        let this = Arc::new(self);
        loop {
            let Some(accepted) = stop.run_until(this.tcp.accept()).await else {
                return;
            };
            match accepted {
                Ok((tcp, peer)) => {
                    let session = if this.balancers.have(peer.ip()) {
                        this.announced(&door, tcp, peer)
                    } else {
                        this.begun(&door, tcp, peer)
                    };
                    let Some(session) = session else {
                        door.parts.metrics.mqtt_not_accepted();
                        continue;
                    };
                    if door.parts.nursery.begin(session).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "devices cannot be accepted for the moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A device's session, if there is room for it.
    fn begun(&self, door: &Door, tcp: TcpStream, peer: SocketAddr) -> Option<Beginning> {
        let Some(room) = self.room(door, peer) else {
            tracing::debug!(%peer, "connection refused: there are too many, or of its address");
            return None;
        };
        Some(self.welcome(door, tcp, peer, room))
    }

    /// The same behind a balancer, which has to say first whose the connection is.
    fn announced(
        self: &Arc<Self>,
        door: &Door,
        mut tcp: TcpStream,
        balancer: SocketAddr,
    ) -> Option<Beginning> {
        let Ok(share) = self.headers.take(Some(balancer.ip())) else {
            tracing::debug!(%balancer, "connection refused: too many wait for their header");
            return None;
        };
        let (this, door) = (Arc::clone(self), door.clone());
        let session = async move {
            let reading = tokio::time::timeout(this.within, read_header(&mut tcp, balancer));
            let Some(read) = door.parts.shutdown.run_until(reading).await else {
                return;
            };
            drop(share);
            let problem = match read {
                Ok(Ok(peer)) => match this.begun(&door, tcp, peer) {
                    Some(session) => return session.await,
                    None => None,
                },
                Ok(Err(error)) => Some(error.to_string()),
                Err(_elapsed) => Some("it does not say whose it is".to_owned()),
            };
            door.parts.metrics.mqtt_not_accepted();
            if let Some(problem) = problem {
                tracing::debug!(%balancer, problem, "connection of a balancer closed");
            }
        };
        Some(session.boxed())
    }

    fn room(&self, door: &Door, peer: SocketAddr) -> Option<Room> {
        let now = door.parts.clock.monotonic();
        if !self.addresses.may_arrive(peer.ip(), now) {
            return None;
        }
        let guest = self.doorkeeper.admit(peer)?;
        self.addresses.arrived(peer.ip(), now);
        Some(Room {
            guest: Some(guest),
            counted: Some((self.addresses.clone(), peer.ip())),
            let_in: None,
        })
    }

    fn welcome(&self, door: &Door, tcp: TcpStream, peer: SocketAddr, room: Room) -> Beginning {
        // Small messages should not wait for more to come; without it things only get slower.
        let _ = tcp.set_nodelay(true);
        let way = Way::Tls(Box::new(Unshaken {
            tcp,
            acceptor: self.tls.acceptor(),
            turns: self.handshakes.clone(),
        }));
        connection::serve(door.clone(), way, peer, room, self.within).boxed()
    }
}
