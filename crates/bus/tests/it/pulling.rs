use std::time::Duration;

use bus::{Headers, Outgoing, PullError, PullOptions};
use testkit::NatsServer;

use crate::{SOON, STREAM, SUBJECT, connect, publish_numbers, read, seq, sequences, with_stream};

const BRIEFLY: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_reader_continues_after_its_position() {
    let server = NatsServer::start().await;
    let bus = with_stream(&server, 1 << 20).await;
    publish_numbers(&bus, 1..=10).await;
    let mut pull = bus.pull(STREAM, seq(4), PullOptions { ahead_messages: 2 });
    assert_eq!(sequences(&read(&mut pull, 6).await), [5, 6, 7, 8, 9, 10]);
    assert_eq!(pull.position(), seq(10));
    assert_eq!(pull.backlog(), 0);
    let nothing = pull
        .next_batch(10, BRIEFLY)
        .await
        .expect("nothing is no error");
    assert!(nothing.is_empty());
    let later = Outgoing::new(SUBJECT, &b"11"[..]).header(Headers::TRACEPARENT, "00-a-b-01");
    bus.publish(later).await.expect("stored");
    let later = read(&mut pull, 1).await;
    assert_eq!(later[0].sequence, seq(11));
    assert_eq!(
        later[0].headers.get(Headers::TRACEPARENT),
        Some("00-a-b-01")
    );
    assert!(later[0].published_at.as_second() > 0);
}

#[tokio::test]
async fn a_batch_is_never_larger_than_asked() {
    let server = NatsServer::start().await;
    let bus = with_stream(&server, 1 << 20).await;
    publish_numbers(&bus, 1..=20).await;
    let mut pull = bus.pull(STREAM, seq(0), PullOptions::default());
    let mut seen = 0;
    while seen < 20 {
        let batch = pull.next_batch(3, SOON).await.expect("whole");
        assert!((1..=3).contains(&batch.len()), "{} messages", batch.len());
        seen += batch.len();
    }
}

#[tokio::test]
async fn a_hole_at_the_beginning_is_reported_until_it_is_accepted() {
    let server = NatsServer::start().await;
    let bus = with_stream(&server, 1 << 20).await;
    publish_numbers(&bus, 1..=10).await;
    bus.trim(STREAM, seq(5)).await.expect("trimmed");
    let mut pull = bus.pull(STREAM, seq(2), PullOptions::default());
    for _ in 0..2 {
        let error = pull
            .next_batch(10, SOON)
            .await
            .expect_err("3 to 5 are gone");
        let PullError::Gap { expected, got, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!((expected, got), (seq(3), seq(6)));
    }
    pull.accept_gap(seq(6));
    assert_eq!(sequences(&read(&mut pull, 5).await), [6, 7, 8, 9, 10]);
}

#[tokio::test]
async fn a_hole_in_the_middle_comes_after_the_good_messages() {
    let server = NatsServer::start().await;
    let bus = with_stream(&server, 1 << 20).await;
    publish_numbers(&bus, 1..=6).await;
    let client = async_nats::connect(server.url()).await.expect("connects");
    let stream = async_nats::jetstream::new(client)
        .get_stream(STREAM)
        .await
        .expect("exists");
    stream.delete_message(4).await.expect("deleted");
    let mut pull = bus.pull(STREAM, seq(0), PullOptions::default());
    assert_eq!(sequences(&read(&mut pull, 3).await), [1, 2, 3]);
    let error = pull.next_batch(10, SOON).await.expect_err("4 is gone");
    assert!(matches!(error, PullError::Gap { .. }), "{error:?}");
    pull.accept_gap(seq(5));
    assert_eq!(sequences(&read(&mut pull, 2).await), [5, 6]);
}

#[tokio::test]
async fn a_hole_before_an_empty_stream_is_reported_too() {
    let server = NatsServer::start().await;
    let bus = with_stream(&server, 1 << 20).await;
    publish_numbers(&bus, 1..=4).await;
    bus.trim(STREAM, seq(4)).await.expect("trimmed");
    let mut behind = bus.pull(STREAM, seq(2), PullOptions::default());
    let error = behind
        .next_batch(10, SOON)
        .await
        .expect_err("3 and 4 are gone");
    let PullError::Gap { expected, got, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!((expected, got), (seq(3), seq(5)));
    behind.accept_gap(got);
    let mut level = bus.pull(STREAM, seq(4), PullOptions::default());
    assert!(
        level
            .next_batch(10, BRIEFLY)
            .await
            .expect("nothing is missing")
            .is_empty()
    );
    publish_numbers(&bus, 5..=5).await;
    assert_eq!(sequences(&read(&mut behind, 1).await), [5]);
    assert_eq!(sequences(&read(&mut level, 1).await), [5]);
}

#[tokio::test]
async fn a_position_beyond_the_end_is_refused() {
    let server = NatsServer::start().await;
    let bus = with_stream(&server, 1 << 20).await;
    publish_numbers(&bus, 1..=2).await;
    let mut pull = bus.pull(STREAM, seq(9), PullOptions::default());
    let error = pull
        .next_batch(10, SOON)
        .await
        .expect_err("the stream was replaced");
    let PullError::Ahead { position, last, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!((position, last), (seq(9), seq(2)));
}

#[tokio::test]
async fn a_missing_stream_is_reported_and_read_once_it_is_there() {
    let server = NatsServer::start().await;
    let bus = connect(&server).await;
    let mut pull = bus.pull(STREAM, seq(0), PullOptions::default());
    let error = pull.next_batch(10, SOON).await.expect_err("no stream");
    assert!(matches!(error, PullError::Missing { .. }), "{error:?}");
    let same = with_stream(&server, 1 << 20).await;
    publish_numbers(&same, 1..=2).await;
    assert_eq!(sequences(&read(&mut pull, 2).await), [1, 2]);
}

#[tokio::test]
async fn a_deleted_consumer_is_made_anew() {
    let server = NatsServer::start().await;
    let bus = with_stream(&server, 1 << 20).await;
    publish_numbers(&bus, 1..=3).await;
    let mut pull = bus.pull(STREAM, seq(0), PullOptions::default());
    assert_eq!(sequences(&read(&mut pull, 3).await), [1, 2, 3]);
    let client = async_nats::connect(server.url()).await.expect("connects");
    let stream = async_nats::jetstream::new(client)
        .get_stream(STREAM)
        .await
        .expect("exists");
    let names: Vec<_> = futures::TryStreamExt::try_collect(stream.consumer_names())
        .await
        .expect("listed");
    assert_eq!(names.len(), 1);
    stream.delete_consumer(&names[0]).await.expect("deleted");
    publish_numbers(&bus, 4..=5).await;
    assert_eq!(sequences(&read(&mut pull, 2).await), [4, 5]);
}
