//! What is sent: packets as devices send them, spoilt in many ways, and bytes that are no packets.

use std::num::NonZeroU16;

use bytes::BytesMut;
use loadgen::mqtt::FILTERS;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Codec, Connect, LastWill, Packet};
use tokio_util::codec::Encoder as _;

use crate::random::Random;

/// Bodies that one may meet.
const BODIES: [&str; 9] = [
    "",
    "{}",
    "{\"a\":1}",
    "{\"a\":{\"b\":null},\"c\":[1,2,3]}",
    "null",
    "[[[[[[[[",
    "{\"$version\":7}",
    "{\"a.b\":\"\\u0000\",\"$\":1}",
    "\u{1f600} no JSON",
];

/// A packet of a device that was let in, unspoilt.
fn packet(random: &mut Random, id: &str) -> Packet {
    let packet_id = NonZeroU16::MIN.saturating_add(u16::from(random.byte()));
    let filters = || {
        let mut all: Vec<String> = FILTERS.iter().map(|it| (*it).to_owned()).collect();
        all.extend([
            format!("devices/{id}/messages/devicebound/#"),
            "$iothub/methods/POST/reboot/#".to_owned(),
            "#".to_owned(),
            "$iothub/twin/res/+".to_owned(),
        ]);
        all
    };
    match random.below(12) {
        0 => Packet::PingRequest,
        1 => Packet::PublishAck { packet_id },
        2 => Packet::Subscribe {
            packet_id,
            topic_filters: vec![(random.of(&filters()).as_str().into(), QoS::AtLeastOnce)],
        },
        3 => Packet::Unsubscribe {
            packet_id,
            topic_filters: vec![random.of(&filters()).as_str().into()],
        },
        4 => {
            let of_qos_2 = [
                Packet::PublishReceived { packet_id },
                Packet::PublishRelease { packet_id },
                Packet::PublishComplete { packet_id },
                Packet::PingResponse,
                Packet::Disconnect,
            ];
            random.of(&of_qos_2).clone()
        }
        _ => publish(random, id, packet_id).into(),
    }
}

fn publish(random: &mut Random, id: &str, packet_id: NonZeroU16) -> Publish {
    let rid = random.below(1000);
    let topics = [
        format!("devices/{id}/messages/events/"),
        format!("devices/{id}/messages/events/a=b&%24.ct=application%2Fjson&$.mid=%zz"),
        format!(
            "devices/{id}/messages/events/$.ifid=urn%3Aazureiot%3ASecurity%3ASecurityAgent%3A1"
        ),
        format!("$iothub/twin/GET/?$rid={rid}"),
        format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}"),
        format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}&$version=1"),
        format!("$iothub/methods/res/200/?$rid={rid}"),
        format!("$iothub/methods/res/-1/?$rid={rid}"),
    ];
    let qos = *random.of(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::AtLeastOnce]);
    let payload = if random.one_in(6) {
        random.bytes(2000)
    } else {
        random.of(&BODIES).as_bytes().to_vec()
    };
    Publish {
        dup: random.one_in(8),
        retain: random.one_in(8),
        qos,
        topic: random.of(&topics).as_str().into(),
        packet_id: (qos != QoS::AtMostOnce).then_some(packet_id),
        payload: payload.into(),
        properties: None,
    }
}

/// What comes after the CONNACK: mostly packets with something wrong, some without, some bytes.
pub(crate) fn next(random: &mut Random, id: &str) -> Vec<u8> {
    if random.one_in(16) {
        return random.bytes(300);
    }
    let bytes = encode(packet(random, id));
    // What is spoilt mostly ends the connection, and what comes behind something good gets further.
    if random.one_in(2) {
        return bytes;
    }
    spoil(random, bytes)
}

/// What comes first instead of a proper CONNECT.
pub(crate) fn first(random: &mut Random, hello: &Connect) -> Vec<u8> {
    if random.one_in(4) {
        return random.bytes(300);
    }
    let mut connect = hello.clone();
    match random.below(6) {
        0 => connect.client_id = "somebody-else".into(),
        1 => connect.username = None,
        2 => {
            connect.last_will = Some(LastWill {
                qos: *random.of(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]),
                retain: random.one_in(2),
                topic: random
                    .of(&["#", "a/b", "devices/x/messages/events/"])
                    .to_owned()
                    .into(),
                message: random.bytes(500).into(),
            });
        }
        3 => connect.username = Some("host/idScope/registrations/x/api-version=2019-03-31".into()),
        _ => {}
    }
    spoil(random, encode(connect.into()))
}

/// As it should be.
pub(crate) fn encode(packet: Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    // What this program makes can be encoded; if not, nothing is sent.
    let _ = Codec::default().encode(packet, &mut bytes);
    bytes.to_vec()
}

/// Changes a few bytes, the length, or the number of bytes.
fn spoil(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes[at] = random.byte(),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[0] = random.byte(),
            3 => bytes[0] ^= 1 << random.below(4),
            4 => {
                let tail = bytes.len().min(2 + random.below(8));
                let at = bytes.len() - 1 - random.below(tail);
                bytes[at] = *random.of(&[0, 0xff, 0x7f, 0x80, b'#', b'+', b'/', b'%', b'$']);
            }
            5 if random.one_in(4) => bytes.truncate(at),
            5 => bytes.insert(at, random.byte()),
            6 if bytes.len() > 1 => bytes[1] = random.byte(),
            _ => {
                let copy = bytes[at..].to_vec();
                bytes.extend(copy);
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_row_sends_the_same() {
        let sent = |seed| {
            let mut random = Random::new(seed, 3);
            (0..200).map(|_| next(&mut random, "d")).collect::<Vec<_>>()
        };
        assert_eq!(sent(1), sent(1));
        assert_ne!(sent(1), sent(2));
    }

    #[test]
    fn whole_packets_are_among_what_is_sent() {
        use tokio_util::codec::Decoder as _;

        let mut random = Random::new(5, 5);
        let mut kinds = std::collections::BTreeSet::new();
        let mut broken = 0;
        for _ in 0..2000 {
            let mut bytes = BytesMut::from(next(&mut random, "d").as_slice());
            match Codec::default().decode(&mut bytes) {
                Ok(Some((packet, _))) => {
                    kinds.insert(packet.packet_type());
                }
                Ok(None) => {}
                Err(_) => broken += 1,
            }
        }
        assert!(kinds.len() >= 10, "{kinds:?}");
        assert!(broken > 200, "{broken}");
    }
}
