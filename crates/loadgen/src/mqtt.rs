//! A small client of MQTT 3.1.1 over TLS, as far as a device of IoT Hub needs one. It does what it is
//! told, also what no SDK would do, and never connects again by itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::{SinkExt as _, StreamExt as _};
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Codec, Connect, ConnectAckReason, Packet};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::Framed;

use crate::devices::Device;
use crate::hub::Hub;

/// What SDKs subscribe to: answers about the twin, changes of it, direct methods.
pub const FILTERS: [&str; 3] = [
    "$iothub/twin/res/#",
    "$iothub/twin/PATCH/properties/desired/#",
    "$iothub/methods/POST/#",
];

/// Where changes of the desired section come.
pub const DESIRED_TOPIC: &str = "$iothub/twin/PATCH/properties/desired/";
/// Where direct methods come.
pub const METHOD_TOPIC: &str = "$iothub/methods/POST/";

/// Largest packet that a hub may send us.
const PACKET_BYTES_MAX: u32 = 1 << 20;

/// The devices' door of a hub. Clones share it.
#[derive(Clone)]
pub struct Door {
    address: SocketAddr,
    host: String,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Door {
    /// The one of a hub on this machine. Sessions of TLS are never resumed, so that each connection
    /// costs what the first one does.
    pub fn of(hub: &Hub) -> Result<Self> {
        let port = hub.mqtts_port.context("the hub serves no devices")?;
        let mut roots = RootCertStore::empty();
        let file = hub.ca_file.as_ref();
        let file = file.context("the hub has no authority of its own")?;
        let read = || format!("cannot read {}", file.display());
        for authority in CertificateDer::pem_file_iter(file).with_context(read)? {
            roots.add(authority.with_context(read)?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            host: hub.host.clone(),
            name: ServerName::try_from(hub.host.clone()).context("the hub's name")?,
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    /// The hub's name, as it stands in tokens.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What a device says first.
    pub fn hello(&self, device: &Device, session: Session, keep_alive: u16) -> Connect {
        let id = device.id();
        let user_name = format!("{}/{id}/?api-version=2021-04-12", self.host);
        Connect {
            clean_session: session == Session::Clean,
            keep_alive,
            client_id: id.to_owned().into(),
            username: Some(user_name.into()),
            password: Some(device.token(&self.host).into()),
            ..Connect::default()
        }
    }

    /// Connects from an address of this machine and shakes hands.
    pub async fn dial(&self, from: Ipv4Addr) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = self.dial_tcp(from).await?;
        self.tls.connect(self.name.clone(), tcp).await
    }

    /// Connects from an address of this machine, and says nothing.
    pub async fn dial_tcp(&self, from: Ipv4Addr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        // Else a port that was used a moment ago could not be used towards another address.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((from, 0)))?;
        let tcp = socket.connect(self.address).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    /// Connects and says hello; also answers whether the hub knew the session.
    pub async fn connect(
        &self,
        from: Ipv4Addr,
        hello: Connect,
    ) -> Result<(Client, bool), NotConnected> {
        let stream = self.dial(from).await.map_err(NotConnected::Dial)?;
        let mut client = Client::new(stream);
        client.send(hello.into()).await?;
        match client.next().await? {
            Packet::ConnectAck(ack) if ack.return_code == ConnectAckReason::ConnectionAccepted => {
                Ok((client, ack.session_present))
            }
            Packet::ConnectAck(ack) => Err(NotConnected::Refused(ack.return_code)),
            _ => Err(NotConnected::Lost),
        }
    }
}

/// What becomes of subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// They end with the connection.
    Clean,
    /// They are kept.
    Kept,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NotConnected {
    /// TCP or TLS failed.
    #[error("no connection")]
    Dial(#[source] std::io::Error),
    /// The hub said no.
    #[error("refused: {0:?}")]
    Refused(ConnectAckReason),
    /// It ended.
    #[error("the connection ended")]
    Lost,
}

impl NotConnected {
    /// In few words, to be counted.
    pub fn reason(&self) -> String {
        match self {
            Self::Dial(error) => format!("dial: {:?}", error.kind()),
            Self::Refused(code) => format!("refused: {code:?}"),
            Self::Lost => "ended before the answer".to_owned(),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    frames: Framed<TlsStream<TcpStream>, Codec>,
}

impl Client {
    fn new(stream: TlsStream<TcpStream>) -> Self {
        Self {
            frames: Framed::new(stream, Codec::new(PACKET_BYTES_MAX)),
        }
    }

    /// Sends a packet.
    pub async fn send(&mut self, packet: Packet) -> Result<(), NotConnected> {
        let sent = self.frames.send(packet).await;
        sent.map_err(|_broken| NotConnected::Lost)
    }

    /// The next packet. Safe to cancel.
    pub async fn next(&mut self) -> Result<Packet, NotConnected> {
        match self.frames.next().await {
            Some(Ok((packet, _bytes))) => Ok(packet),
            Some(Err(_)) | None => Err(NotConnected::Lost),
        }
    }

    /// Subscribes as SDKs do, and waits until the hub has it.
    pub async fn subscribe(&mut self) -> Result<(), NotConnected> {
        let packet_id = NonZeroU16::MIN;
        let filters = FILTERS.map(|filter| (filter.into(), QoS::AtMostOnce));
        self.send(Packet::Subscribe {
            packet_id,
            topic_filters: filters.to_vec(),
        })
        .await?;
        loop {
            if let Packet::SubscribeAck { .. } = self.next().await? {
                return Ok(());
            }
        }
    }

    /// Answers a direct method with 200; false if the packet is none.
    pub async fn answer_method(&mut self, publish: &Publish) -> Result<bool, NotConnected> {
        if !publish.topic.starts_with(METHOD_TOPIC) {
            return Ok(false);
        }
        let Some((_, rid)) = publish.topic.split_once("?$rid=") else {
            return Ok(false);
        };
        let topic = format!("$iothub/methods/res/200/?$rid={rid}");
        self.publish(&topic, "{}").await?;
        Ok(true)
    }

    /// Publishes at most once.
    pub async fn publish(&mut self, topic: &str, body: &str) -> Result<(), NotConnected> {
        let publish = Publish {
            dup: false,
            retain: false,
            qos: QoS::AtMostOnce,
            topic: topic.to_owned().into(),
            packet_id: None,
            payload: body.to_owned().into(),
            properties: None,
        };
        self.send(publish.into()).await
    }
}
