//! The bus against a real nats-server.

mod connecting;
mod crash;
mod pulling;
mod streams;

use std::time::Duration;

use bus::{Bus, BusConfig, Fetched, Outgoing, Pull, Sequence, StreamSpec};
use testkit::NatsServer;

/// No step of a test takes this long, also on a busy machine.
const SOON: Duration = Duration::from_secs(30);

const STREAM: &str = "TELEMETRY_0";
const SUBJECT: &str = "telemetry.0";

async fn connect(server: &NatsServer) -> Bus {
    Bus::connect(BusConfig::local(server.url(), "test"))
        .await
        .expect("the server is good")
}

/// A bus with the telemetry stream of partition 0.
async fn with_stream(server: &NatsServer, max_bytes: u64) -> Bus {
    let bus = connect(server).await;
    let spec = StreamSpec::telemetry(STREAM, SUBJECT, max_bytes);
    bus.ensure_streams(&[spec])
        .await
        .expect("the stream can be made");
    bus
}

/// Publishes messages whose payloads are the numbers of `range`.
async fn publish_numbers(bus: &Bus, range: std::ops::RangeInclusive<u64>) {
    for number in range {
        let message = Outgoing::new(SUBJECT, number.to_string());
        bus.publish(message).await.expect("the stream takes it");
    }
}

fn number(message: &Fetched) -> u64 {
    let text = std::str::from_utf8(&message.payload).expect("a number in text");
    text.parse().expect("a number")
}

/// Reads until `count` messages have come.
async fn read(pull: &mut Pull, count: usize) -> Vec<Fetched> {
    let reading = async {
        let mut messages = Vec::new();
        while messages.len() < count {
            let wanted = count - messages.len();
            messages.extend(
                pull.next_batch(wanted, SOON)
                    .await
                    .expect("the stream is whole"),
            );
        }
        messages
    };
    tokio::time::timeout(SOON, reading)
        .await
        .expect("the messages come")
}

fn sequences(messages: &[Fetched]) -> Vec<u64> {
    messages
        .iter()
        .map(|message| message.sequence.get())
        .collect()
}

fn seq(value: u64) -> Sequence {
    Sequence::new(value)
}
