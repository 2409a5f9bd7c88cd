//! MQTT over WebSocket, with the gateway and ingestion as processes of their own: whatever frames
//! the bytes are cut into, they come through, and who may not come in is told so by MQTT.

use std::net::Ipv4Addr;

use iot_hub::{SasResource, SasToken, SymmetricKey};
use jiff::{SignedDuration, Timestamp};
use testkit::{Process, ProcessBuilder, free_port, workspace_binary};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use twin::IdentityKey;

use crate::support::SOON;
use crate::support::api::Device;
use crate::support::hub::{Hub, Part, TOKEN, ready};

/// A frame that a client has not ended, with binary data; one that goes on; one that ends.
const BEGIN: u8 = 0x02;
const MIDDLE: u8 = 0x00;
const LAST: u8 = 0x80;
/// A whole message in one frame.
pub(crate) const WHOLE: u8 = 0x82;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const CLOSE: u8 = 0x88;

pub(crate) const ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];
const NOT_AUTHORIZED: [u8; 4] = [0x20, 2, 0, 5];
const PING_REQUEST: [u8; 2] = [0xc0, 0];
const PING_RESPONSE: [u8; 2] = [0xd0, 0];

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_comes_through_the_gateway_however_it_is_cut_into_frames() {
    let hub = Hub::start().await;
    let device = hub.api().device("socketed").await;
    let (gateway, port) = gateway(&hub, true).await;

    let mut socket = Socket::open(port).await;
    // One byte a frame, all of them one message.
    let connect = connect(&device, &device.key);
    let last = connect.len() - 1;
    for (index, byte) in connect.iter().enumerate() {
        let first = match index {
            0 => BEGIN,
            index if index == last => LAST,
            _ => MIDDLE,
        };
        socket.send(first, &[*byte]).await;
    }
    assert_eq!(socket.data(4).await, ACCEPTED);
    // Several packets in one frame, and a frame of WebSocket's own between two halves of one.
    let two = [PING_REQUEST, PING_REQUEST].concat();
    socket.send(WHOLE, &two).await;
    assert_eq!(socket.data(4).await, [PING_RESPONSE; 2].concat());
    socket.send(WHOLE, &PING_REQUEST[..1]).await;
    socket.send(PING, b"there?").await;
    assert_eq!(socket.frame().await, (PONG, b"there?".to_vec()));
    socket.send(WHOLE, &PING_REQUEST[1..]).await;
    assert_eq!(socket.data(2).await, PING_RESPONSE);
    // A packet over several kilobytes, in one frame, is acknowledged when it is durable.
    let message = publish(&device, &vec![b'x'; 100_000]);
    socket.send(WHOLE, &message).await;
    assert_eq!(socket.data(4).await, [0x40, 2, 0, 7]);
    let open = hub.metric(Part::Ingestion, "twinward_ingestion_mqtt_connections");
    assert_eq!(open.await, Some(1.0));
    // MQTT's goodbye closes the socket, too, with a word.
    socket.send(WHOLE, &[0xe0, 0]).await;
    assert_eq!(socket.frame().await, (CLOSE, vec![3, 232]));

    gateway.stop(SOON).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_come_in_is_told_by_mqtt_and_who_speaks_something_else_by_websocket() {
    let hub = Hub::start().await;
    let api = hub.api();
    let (device, other) = (api.device("one").await, api.device("other").await);
    let (gateway, port) = gateway(&hub, true).await;

    let mut socket = Socket::open(port).await;
    socket.send(WHOLE, &connect(&device, &other.key)).await;
    assert_eq!(socket.data(4).await, NOT_AUTHORIZED);
    assert_eq!(socket.frame().await, (CLOSE, vec![3, 232]));

    let mut socket = Socket::open(port).await;
    socket.send(0x81, b"{}").await;
    assert_eq!(
        socket.frame().await,
        (CLOSE, 1003_u16.to_be_bytes().to_vec())
    );
    let mut socket = Socket::open(port).await;
    socket.send(WHOLE, &ACCEPTED).await;
    assert_eq!(socket.frame().await, (CLOSE, vec![3, 232]));

    let refused = handshake(port, "Sec-WebSocket-Protocol: amqp").await.0;
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    assert!(refused.contains("`mqtt`"), "{refused}");

    // The gateway stops while a device is connected: it is told to come back.
    let mut socket = Socket::open(port).await;
    socket.send(WHOLE, &connect(&device, &device.key)).await;
    assert_eq!(socket.data(4).await, ACCEPTED);
    gateway.stop(SOON).await;
    assert_eq!(
        socket.frame().await,
        (CLOSE, 1001_u16.to_be_bytes().to_vec())
    );
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_with_a_goodbye_is_taken_and_a_flood_of_frames_is_read_slowly() {
    let hub = Hub::start().await;
    let device = hub.api().device("hasty").await;
    let (gateway, port) = gateway(&hub, true).await;

    let mut socket = Socket::open(port).await;
    let (connect, message) = (
        connect(&device, &device.key),
        publish(&device, b"last words"),
    );
    let close = 1000_u16.to_be_bytes();
    socket
        .send_at_once(&[(WHOLE, &connect), (WHOLE, &message), (CLOSE, &close)])
        .await;
    testkit::wait_for("the last words", SOON, async || {
        let stored = hub.metric(Part::Ingestion, "twinward_ingestion_mqtt_messages_total");
        (stored.await == Some(1.0)).then_some(())
    })
    .await;

    // Frames with nothing in them cost us something, too: three seconds' worth of them.
    let mut socket = Socket::open(port).await;
    let begun = std::time::Instant::now();
    let empty: Vec<(u8, &[u8])> = vec![(WHOLE, &[]); 16_000];
    socket.send_at_once(&empty).await;
    socket.send(WHOLE, &connect).await;
    assert_eq!(socket.data(4).await, ACCEPTED);
    let took = begun.elapsed().as_millis();
    assert!(took > 2500, "{took} ms");

    gateway.stop(SOON).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_ingestions_token_brings_nobody() {
    let hub = Hub::start().await;
    let (gateway, port) = gateway(&hub, false).await;
    let mut socket = Socket::open(port).await;
    // Something is wrong with the hub, not with the device: it may try again.
    assert_eq!(
        socket.frame().await,
        (CLOSE, 1013_u16.to_be_bytes().to_vec())
    );
    gateway.stop(SOON).await;
    hub.stop().await;
}

/// A gateway before the hub, over plain text, and its port.
pub(crate) async fn gateway(hub: &Hub, trusted: bool) -> (Process, u16) {
    let (listen, admin) = (free_port(), free_port());
    let token = if trusted {
        TOKEN
    } else {
        "a-token-of-somebody-else"
    };
    let policies = hub.folder().join("access-policies.toml");
    let mut builder = ProcessBuilder::new("gateway", workspace_binary("twinward")).arg("gateway");
    for (name, value) in [
        ("LISTEN", format!("127.0.0.1:{listen}")),
        ("ADMIN_LISTEN", format!("127.0.0.1:{admin}")),
        ("TWIN_STORE_URL", hub.url(Part::TwinStore)),
        ("TWIN_STORE_TOKEN", TOKEN.to_owned()),
        ("INGESTION_URL", hub.url(Part::Ingestion)),
        ("INGESTION_TOKEN", token.to_owned()),
        ("ACCESS_POLICIES_FILE", policies.display().to_string()),
    ] {
        builder = builder.env(&format!("TWINWARD_GATEWAY__{name}"), value);
    }
    let gateway = builder.spawn();
    ready(admin, "gateway").await;
    (gateway, listen)
}

/// A CONNECT as SDKs send it, with a token made with this key.
fn connect(device: &Device, key: &str) -> Vec<u8> {
    connect_with(device, key, "")
}

/// The same with more properties in its user name.
pub(crate) fn connect_with(device: &Device, key: &str, properties: &str) -> Vec<u8> {
    let path = format!("{}/{}", device.device_id, device.module_id);
    let identity = IdentityKey::parse_path(&path).expect("an identity");
    let key = SymmetricKey::parse(key).expect("a key");
    let resource = SasResource::of_identity("localhost", &identity);
    let until = Timestamp::now() + SignedDuration::from_hours(1);
    let token = SasToken::sign(resource, &key, until).to_string();
    let user = format!("localhost/{path}/?api-version=2021-04-12{properties}");
    // Protocol, level 4, flags: user name and password; keep-alive of a minute.
    let mut body = b"\0\x04MQTT\x04\xc0\0\x3c".to_vec();
    for text in [&path, &user, &token] {
        put_text(text, &mut body);
    }
    packet(0x10, &body)
}

/// A message to the cloud at `QoS` 1 with the id 7.
fn publish(device: &Device, payload: &[u8]) -> Vec<u8> {
    let (device, module) = (&device.device_id, &device.module_id);
    let topic = format!("devices/{device}/modules/{module}/messages/events/");
    let mut body = Vec::new();
    put_text(&topic, &mut body);
    body.extend([0, 7]);
    body.extend(payload);
    packet(0x32, &body)
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
    out.extend(text.as_bytes());
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    while left > 127 {
        bytes.push(u8::try_from(left % 128).expect("seven bits") | 0x80);
        left /= 128;
    }
    bytes.push(u8::try_from(left).expect("seven bits"));
    bytes.extend(body);
    bytes
}

/// Asks for a WebSocket; answers the head of what comes back.
async fn handshake(port: u16, protocol: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .expect("a connection");
    let request = format!(
        "GET /$iothub/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n{protocol}\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut head = Vec::new();
    let read = async {
        // Not a byte of what comes after it; a refusal is followed by its body.
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        if head.starts_with(b"HTTP/1.1 400") {
            let mut body = vec![0; 4096];
            let count = stream.read(&mut body).await.expect("a body");
            head.extend(&body[..count]);
        }
    };
    tokio::time::timeout(SOON, read).await.expect("in time");
    (String::from_utf8(head).expect("text"), stream)
}

/// A client of WebSocket that does what it is told.
pub(crate) struct Socket(TcpStream);

impl Socket {
    pub(crate) async fn open(port: u16) -> Socket {
        let (head, stream) = handshake(port, "Sec-WebSocket-Protocol: mqtt").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let head = head.to_ascii_lowercase();
        for line in [
            "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
            "sec-websocket-protocol: mqtt",
        ] {
            assert!(head.contains(line), "{line} is missing in {head}");
        }
        Socket(stream)
    }

    pub(crate) async fn send(&mut self, first: u8, payload: &[u8]) {
        self.send_at_once(&[(first, payload)]).await;
    }

    /// Several frames in one write.
    async fn send_at_once(&mut self, frames: &[(u8, &[u8])]) {
        let frames = frames
            .iter()
            .map(|(first, payload)| Self::masked(*first, payload));
        let bytes = frames.collect::<Vec<_>>().concat();
        self.0.write_all(&bytes).await.expect("it is written");
    }

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = vec![first];
        match u16::try_from(payload.len()) {
            Ok(short) if short < 126 => frame.push(0x80 | u8::try_from(short).expect("short")),
            Ok(length) => {
                frame.push(0x80 | 0x7e);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 0x7f);
                let length = u64::try_from(payload.len()).expect("64 bits");
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
        frame
    }

    /// The next frame: how it begins, and its payload.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let read = async {
            let first = self.0.read_u8().await?;
            let length = match self.0.read_u8().await? {
                126 => usize::from(self.0.read_u16().await?),
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await?;
            Ok::<_, std::io::Error>((first, payload))
        };
        let frame = tokio::time::timeout(SOON, read).await.expect("in time");
        frame.expect("a frame")
    }

    /// That many bytes of MQTT, in however many frames.
    pub(crate) async fn data(&mut self, count: usize) -> Vec<u8> {
        let mut found = Vec::new();
        while found.len() < count {
            let (first, payload) = self.frame().await;
            assert_eq!(first, WHOLE, "{payload:?}");
            found.extend(payload);
        }
        found
    }
}
