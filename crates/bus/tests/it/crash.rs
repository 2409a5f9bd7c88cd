//! kill -9 of the server in mid-stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bus::{Encoded, Headers, Outgoing, PackerOptions, PullOptions, packer};
use testkit::{NatsServer, wait_for};
use tokio_util::sync::CancellationToken;

use crate::{SOON, STREAM, SUBJECT, number, publish_numbers, read, seq, sequences, with_stream};

/// How many messages are published across the crashes.
const MESSAGES: u64 = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_kills_exactly_once_and_in_order() {
    let mut server = NatsServer::start_durable().await;
    let bus = with_stream(&server, 64 << 20).await;
    let done = Arc::new(AtomicU64::new(0));
    let publishing = {
        let (bus, done) = (bus.clone(), done.clone());
        async move {
            for number in 1..=MESSAGES {
                let message = Outgoing::new(SUBJECT, number.to_string())
                    .header(Headers::MESSAGE_ID, format!("n-{number}"));
                bus.publish(message)
                    .await
                    .expect("the budget outlasts a restart");
                done.store(number, Ordering::SeqCst);
            }
        }
    };
    let reader = bus.clone();
    let reading = async move {
        let mut pull = reader.pull(STREAM, seq(0), PullOptions::default());
        let count = usize::try_from(MESSAGES).expect("few");
        read(&mut pull, count).await
    };
    let killing = async {
        for reached in [MESSAGES / 4, MESSAGES / 2] {
            wait_for("messages in flight", SOON, async || {
                (done.load(Ordering::SeqCst) >= reached).then_some(())
            })
            .await;
            server.kill();
            server.restart().await;
        }
    };
    let ((), messages, ()) = tokio::join!(publishing, reading, killing);
    let numbers: Vec<u64> = messages.iter().map(number).collect();
    assert_eq!(numbers, (1..=MESSAGES).collect::<Vec<_>>());
    assert_eq!(
        sequences(&messages),
        numbers,
        "each was stored exactly once"
    );
    assert_eq!(
        bus.last_sequence(STREAM).await.expect("exists"),
        seq(MESSAGES)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packer_keeps_its_order_across_a_kill() {
    let mut server = NatsServer::start_durable().await;
    let bus = with_stream(&server, 64 << 20).await;
    let encode = |items: Vec<u64>| Encoded {
        headers: Headers::new(),
        payload: items
            .iter()
            .map(u64::to_string)
            .collect::<Vec<_>>()
            .join(" ")
            .into(),
    };
    let options = PackerOptions {
        queue_items: 16,
        pack_items: 8,
        ..PackerOptions::default()
    };
    let (handle, worker) = packer(SUBJECT, options, encode, bus.clone());
    let stop = CancellationToken::new();
    let feeding = async {
        let mut receipts = Vec::new();
        for item in 1..=MESSAGES {
            receipts.push(handle.enqueue(item, 8).await.expect("open"));
            if item == MESSAGES / 2 {
                server.kill();
                server.restart().await;
            }
        }
        let mut last = seq(0);
        for receipt in receipts {
            let published = receipt.await.expect("the budget outlasts a restart");
            assert!(
                published.sequence >= last,
                "answers follow the order of the items"
            );
            last = published.sequence;
        }
        stop.cancel();
        last
    };
    let (last, ()) = tokio::join!(feeding, worker.run(stop.clone()));
    let mut pull = bus.pull(STREAM, seq(0), PullOptions::default());
    let packs = read(&mut pull, usize::try_from(last.get()).expect("few")).await;
    let items: Vec<u64> = packs
        .iter()
        .flat_map(|pack| {
            std::str::from_utf8(&pack.payload)
                .expect("text")
                .split_whitespace()
        })
        .map(|item| item.parse().expect("a number"))
        .collect();
    assert_eq!(items, (1..=MESSAGES).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reader_waits_out_an_outage_without_an_error() {
    let mut server = NatsServer::start().await;
    let bus = with_stream(&server, 1 << 20).await;
    publish_numbers(&bus, 1..=2).await;
    let mut pull = bus.pull(STREAM, seq(0), PullOptions::default());
    assert_eq!(sequences(&read(&mut pull, 2).await), [1, 2]);
    server.kill();
    let mut link = bus.link();
    link.wait_for(|link| link.state == bus::LinkState::Down)
        .await
        .expect("the bus lives");
    let away = pull
        .next_batch(10, std::time::Duration::from_millis(50))
        .await;
    assert!(away.expect("an outage is no error").is_empty());
    server.restart().await;
    publish_numbers(&bus, 3..=4).await;
    assert_eq!(sequences(&read(&mut pull, 2).await), [3, 4]);
}
