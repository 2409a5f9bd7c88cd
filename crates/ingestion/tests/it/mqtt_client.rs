//! A client of MQTT that does what it is told, also what no SDK would do.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use ingestion::Config;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Codec, Connect, ConnectAckReason, Packet};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use testkit::TestCerts;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::{Encoder, Framed};

use crate::hub::{HOST, Hub, SOON, good_token};

/// A certificate of a device, signed by itself.
pub(crate) struct DeviceCert {
    pub(crate) der: CertificateDer<'static>,
    /// Those that it shows behind its own.
    others: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl DeviceCert {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["device".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            der: certificate.der().clone(),
            others: Vec::new(),
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}

/// An authority of devices.
pub(crate) struct DeviceAuthority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
    /// Those between it and the root.
    above: Vec<CertificateDer<'static>>,
}

impl DeviceAuthority {
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    pub(crate) fn new(name: &str) -> Self {
        let (key, params) = (KeyPair::generate().unwrap(), Self::params(name));
        Self {
            pem: params.self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(params, key),
            above: Vec::new(),
        }
    }

    /// One that this one has signed.
    pub(crate) fn below(&self, name: &str) -> Self {
        let (key, params) = (KeyPair::generate().unwrap(), Self::params(name));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
            above: vec![certificate.der().clone()],
        }
    }

    /// A certificate for a common name, until the end of a year.
    pub(crate) fn sign(&self, name: &str, last_year: i32) -> DeviceCert {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(last_year, 12, 31);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        DeviceCert {
            der: certificate.der().clone(),
            others: self.above.clone(),
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}

/// A hub with the devices' door open.
pub(crate) async fn hub() -> (Hub, TestCerts) {
    hub_with(|_| {}).await
}

/// The same with other settings.
pub(crate) async fn hub_with(change: impl FnOnce(&mut Config)) -> (Hub, TestCerts) {
    let certs = TestCerts::new();
    let hub = Hub::start_with(|config| {
        change(config);
        config.mqtt_listen = Some("127.0.0.1:0".parse().unwrap());
        config.mqtt_cert_file = Some(certs.server_certificate());
        config.mqtt_key_file = Some(certs.server_key());
    })
    .await;
    (hub, certs)
}

pub(crate) struct Client {
    frames: Framed<TlsStream<TcpStream>, Codec>,
}

/// A CONNECT as SDKs send it.
pub(crate) fn connect(path: &str, password: Option<String>) -> Connect {
    Connect {
        keep_alive: 60,
        client_id: path.to_owned().into(),
        username: Some(format!("{HOST}/{path}/?api-version=2021-04-12").into()),
        password: password.map(Into::into),
        ..Connect::default()
    }
}

pub(crate) fn good_connect(path: &str) -> Connect {
    connect(path, Some(good_token(path)))
}

pub(crate) fn publish(topic: &str, qos: QoS, body: &str) -> Publish {
    Publish {
        dup: false,
        retain: false,
        qos,
        topic: topic.to_owned().into(),
        packet_id: (qos != QoS::AtMostOnce).then(|| id(1)),
        payload: body.to_owned().into(),
        properties: None,
    }
}

/// A connection from an address of this machine.
pub(crate) async fn tcp_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

fn chain(cert: &DeviceCert) -> Vec<CertificateDer<'static>> {
    let own = std::iter::once(&cert.der);
    own.chain(&cert.others).cloned().collect()
}

pub(crate) fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

impl Client {
    /// Shakes hands, in a version of TLS and with a certificate.
    pub(crate) async fn dial(
        hub: &Hub,
        certs: &TestCerts,
        version: &'static SupportedProtocolVersion,
        shown: Option<&DeviceCert>,
    ) -> Self {
        Self::dial_from([127, 0, 0, 1], hub, certs, version, shown).await
    }

    /// The same from an address of this machine.
    pub(crate) async fn dial_from(
        from: [u8; 4],
        hub: &Hub,
        certs: &TestCerts,
        version: &'static SupportedProtocolVersion,
        shown: Option<&DeviceCert>,
    ) -> Self {
        let address = hub.addresses.mqtt.expect("the door is open");
        let tcp = tcp_from(from, address).await;
        Self::shake_hands(tcp, certs, version, shown).await
    }

    /// The same over a connection that is there.
    pub(crate) async fn shake_hands(
        tcp: TcpStream,
        certs: &TestCerts,
        version: &'static SupportedProtocolVersion,
        shown: Option<&DeviceCert>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_file_iter(certs.ca()).unwrap() {
            roots.add(ca.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let config = match shown {
            Some(cert) => builder
                .with_client_auth_cert(chain(cert), cert.key.clone_key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, tcp).await.expect("a handshake");
        Self {
            frames: Framed::new(stream, Codec::default()),
        }
    }

    /// Connects with a packet, in the usual way.
    pub(crate) async fn try_connect(
        hub: &Hub,
        certs: &TestCerts,
        connect: Connect,
    ) -> (Self, ConnectAckReason, bool) {
        let mut client = Self::dial(hub, certs, &rustls::version::TLS13, None).await;
        let (code, present) = client.call(connect).await;
        (client, code, present)
    }

    /// Connects as a registered identity, which must work; says whether a session was present.
    pub(crate) async fn connected(hub: &Hub, certs: &TestCerts, path: &str) -> (Self, bool) {
        let (client, code, present) = Self::try_connect(hub, certs, good_connect(path)).await;
        assert_eq!(code, ConnectAckReason::ConnectionAccepted);
        (client, present)
    }

    pub(crate) async fn call(&mut self, connect: Connect) -> (ConnectAckReason, bool) {
        self.send(Packet::Connect(Box::new(connect))).await;
        self.connack().await
    }

    /// The same with bytes that no codec would write.
    pub(crate) async fn call_with(&mut self, bytes: &[u8]) -> (ConnectAckReason, bool) {
        let stream = self.frames.get_mut();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        self.connack().await
    }

    async fn connack(&mut self) -> (ConnectAckReason, bool) {
        match self.next().await {
            Some(Packet::ConnectAck(ack)) => (ack.return_code, ack.session_present),
            other => panic!("no CONNACK: {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, packet: Packet) {
        self.frames.send(packet).await.expect("it is written");
    }

    /// Several in one write.
    pub(crate) async fn send_at_once(&mut self, packets: Vec<Packet>) {
        let mut bytes = BytesMut::new();
        for packet in packets {
            Codec::default().encode(packet, &mut bytes).unwrap();
        }
        let stream = self.frames.get_mut();
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
    }

    pub(crate) async fn publish(&mut self, topic: &str, qos: QoS, body: &str) {
        let publish = publish(topic, qos, body);
        self.send(Packet::Publish(Box::new(publish))).await;
    }

    /// The next packet; `None` when the connection was closed.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        let next = tokio::time::timeout(SOON, self.frames.next()).await;
        match next.expect("something happens in time") {
            Some(Ok((packet, _bytes))) => Some(packet),
            // Closed without TLS's goodbye, or reset, is closed.
            Some(Err(_)) | None => None,
        }
    }

    /// The next message: its topic and its body.
    pub(crate) async fn message(&mut self) -> (String, String) {
        match self.next().await {
            Some(Packet::Publish(publish)) => (
                publish.topic.to_string(),
                String::from_utf8(publish.payload.to_vec()).unwrap(),
            ),
            other => panic!("no message: {other:?}"),
        }
    }

    /// Subscribes at `QoS` 1, which must be granted.
    pub(crate) async fn subscribe(&mut self, filter: &str) {
        let topic_filters = vec![(filter.to_owned().into(), QoS::AtLeastOnce)];
        self.send(Packet::Subscribe {
            packet_id: id(9),
            topic_filters,
        })
        .await;
        match self.next().await {
            Some(Packet::SubscribeAck { packet_id, .. }) => assert_eq!(packet_id, id(9)),
            other => panic!("no SUBACK: {other:?}"),
        }
    }

    /// Asserts that nothing comes though the connection is alive.
    pub(crate) async fn is_quiet(&mut self) {
        self.send(Packet::PingRequest).await;
        assert_eq!(self.next().await, Some(Packet::PingResponse));
    }

    /// Asserts that the other side closes, whatever it says before.
    pub(crate) async fn is_closed(&mut self) {
        let closed = async { while self.next().await.is_some() {} };
        let within = Duration::from_secs(10);
        tokio::time::timeout(within, closed).await.expect("closed");
    }
}
