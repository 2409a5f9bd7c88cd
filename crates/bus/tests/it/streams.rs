use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use bus::{EnsureError, Headers, Outgoing, PublishError, PublishOptions, Reject, StreamSpec};
use testkit::NatsServer;

use crate::{STREAM, SUBJECT, connect, publish_numbers, read, seq, with_stream};

#[tokio::test]
async fn ensuring_twice_and_with_a_new_bound_updates_in_place() {
    let server = NatsServer::start().await;
    let bus = with_stream(&server, 1 << 20).await;
    publish_numbers(&bus, 1..=3).await;
    let larger = StreamSpec::telemetry(STREAM, SUBJECT, 2 << 20);
    bus.ensure_streams(std::slice::from_ref(&larger))
        .await
        .expect("same again");
    bus.ensure_streams(&[larger]).await.expect("same again");
    let status = bus.stream_status(STREAM).await.expect("it exists");
    assert_eq!((status.messages, status.last), (3, seq(3)));
    let client = async_nats::connect(server.url()).await.expect("connects");
    let stream = async_nats::jetstream::new(client)
        .get_stream(STREAM)
        .await
        .expect("exists");
    assert_eq!(stream.cached_info().config.max_bytes, 2 << 20);
    assert_eq!(stream.cached_info().config.discard, DiscardPolicy::New);
}

#[tokio::test]
async fn a_stream_that_cannot_be_changed_is_reported() {
    let server = NatsServer::start().await;
    let client = async_nats::connect(server.url()).await.expect("connects");
    let in_memory = Config {
        name: STREAM.into(),
        subjects: vec![SUBJECT.into()],
        storage: StorageType::Memory,
        ..Config::default()
    };
    async_nats::jetstream::new(client)
        .create_stream(in_memory)
        .await
        .expect("made");
    let bus = connect(&server).await;
    let spec = StreamSpec::telemetry(STREAM, SUBJECT, 1 << 20);
    let error = bus.ensure_streams(&[spec]).await.expect_err("memory");
    assert!(
        matches!(
            error,
            EnsureError::Incompatible {
                what: "storage",
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_full_stream_refuses_and_keeps_everything_until_it_is_trimmed() {
    let server = NatsServer::start().await;
    let bus = with_stream(&server, 64 << 10).await;
    let filler = || Outgoing::new(SUBJECT, vec![0_u8; 10 << 10]);
    let mut stored = 0_u64;
    let full = loop {
        match bus.publish(filler()).await {
            Ok(published) => stored = published.sequence.get(),
            Err(error) => break error,
        }
        assert!(stored < 100, "the bound is never reached");
    };
    assert!(full.is_full() && full.is_transient(), "{full:?}");
    let status = bus.stream_status(STREAM).await.expect("it exists");
    assert_eq!(
        (status.first, status.last, status.messages),
        (seq(1), seq(stored), stored)
    );
    let trimmed = bus.trim(STREAM, seq(2)).await.expect("trimmed");
    assert_eq!(trimmed, 2);
    assert_eq!(bus.trim(STREAM, seq(2)).await.expect("again"), 0);
    assert_eq!(
        bus.stream_status(STREAM).await.expect("it exists").first,
        seq(3)
    );
    let published = bus.publish(filler()).await.expect("room again");
    assert_eq!(published.sequence, seq(stored + 1));
}

#[tokio::test]
async fn the_same_message_id_is_stored_once() {
    let server = NatsServer::start().await;
    let bus = with_stream(&server, 1 << 20).await;
    let message = || Outgoing::new(SUBJECT, &b"x"[..]).header(Headers::MESSAGE_ID, "twin-7");
    let first = bus.publish(message()).await.expect("stored");
    let second = bus.publish(message()).await.expect("known");
    assert_eq!((first.duplicate, second.duplicate), (false, true));
    assert_eq!(first.sequence, second.sequence);
    assert_eq!(bus.last_sequence(STREAM).await.expect("it exists"), seq(1));
}

#[tokio::test]
async fn publishing_to_nowhere_and_too_much_say_so() {
    let server = NatsServer::start().await;
    let bus = with_stream(&server, 1 << 20).await;
    let budget = Duration::from_millis(100);
    let options = PublishOptions {
        budget,
        ..PublishOptions::default()
    };
    let nowhere = bus
        .publish_with(Outgoing::new("nowhere", &b"x"[..]), options)
        .await;
    let nowhere = nowhere.expect_err("no stream");
    assert!(
        matches!(nowhere, PublishError::NoStream { .. }),
        "{nowhere:?}"
    );
    let size = bus.max_message_bytes() + 1;
    let large = bus
        .publish(Outgoing::new(SUBJECT, vec![0; size]))
        .await
        .expect_err("too large");
    assert!(matches!(large, PublishError::TooLarge { .. }), "{large:?}");
    assert!(!large.is_transient());
}

#[tokio::test]
async fn a_reject_is_kept_with_its_reason_once() {
    let server = NatsServer::start().await;
    let bus = connect(&server).await;
    let spec = StreamSpec::rejects("REJECTS", "rejects.*", 1 << 20);
    bus.ensure_streams(&[spec]).await.expect("made");
    let reject = Reject {
        subject: "rejects.ingestion".into(),
        id: "TELEMETRY_0/7/1".into(),
        source: "devices/d1".into(),
        code: "MALFORMED".into(),
        reason: "field 3 has no value".into(),
        traceparent: None,
        original: vec![1, 2, 3].into(),
    };
    bus.reject(reject.clone()).await.expect("stored");
    assert!(bus.reject(reject).await.expect("known").duplicate);
    let mut pull = bus.pull("REJECTS", seq(0), bus::PullOptions::default());
    let kept = read(&mut pull, 1).await;
    assert_eq!(kept[0].subject, "rejects.ingestion");
    assert_eq!(kept[0].headers.get(Reject::CODE), Some("MALFORMED"));
    assert_eq!(
        kept[0].headers.get(Reject::REASON),
        Some("field 3 has no value")
    );
    assert_eq!(&kept[0].payload[..], [1, 2, 3]);
}

#[tokio::test]
async fn of_values_only_the_newest_of_each_subject_is_kept() {
    let server = NatsServer::start().await;
    let bus = connect(&server).await;
    let spec = StreamSpec::values("VALUES", "values.*", 1 << 20, "a value per subject");
    bus.ensure_streams(&[spec]).await.expect("made");
    for (subject, value) in [("values.a", "1"), ("values.b", "2"), ("values.a", "3")] {
        let message = Outgoing::new(subject, value.as_bytes().to_vec());
        bus.publish(message).await.expect("stored");
    }
    let newest = |subject| bus.newest("VALUES", subject);
    assert_eq!(
        newest("values.a").await.expect("read").as_deref(),
        Some(&b"3"[..])
    );
    assert_eq!(
        newest("values.b").await.expect("read").as_deref(),
        Some(&b"2"[..])
    );
    assert_eq!(newest("values.c").await.expect("read"), None);
    let status = bus.stream_status("VALUES").await.expect("it exists");
    assert_eq!(status.messages, 2);
    assert!(bus.newest("NOTHING", "values.a").await.is_err());
}
