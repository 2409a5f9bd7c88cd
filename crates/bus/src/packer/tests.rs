//! The packer against a publisher whose acknowledgements the test holds in its hand.

use tokio::task::JoinHandle;

use super::*;
use crate::error::PublishError;
use crate::message::Sequence;

/// Shows each publish to the test and waits for the test's answer to it.
struct Gate {
    begun: mpsc::Sender<(Outgoing, oneshot::Sender<Result<Published, PublishError>>)>,
}

impl DurablePublisher for Gate {
    async fn publish(
        &self,
        message: Outgoing,
        _: PublishOptions,
    ) -> Result<Published, PublishError> {
        let (answer, answered) = oneshot::channel();
        self.begun
            .send((message, answer))
            .await
            .expect("the test looks at every publish");
        answered.await.expect("the test answers every publish")
    }
}

struct Bench {
    packer: Packer<u8>,
    begun: mpsc::Receiver<(Outgoing, oneshot::Sender<Result<Published, PublishError>>)>,
    stop: CancellationToken,
    worker: JoinHandle<()>,
}

/// The encoder writes one byte per item, so a payload shows which items it holds.
// The test is the task's owner, and fails with it.
#[allow(clippy::disallowed_methods)]
fn bench(options: PackerOptions) -> Bench {
    let (sender, begun) = mpsc::channel(1);
    let encode = |items: Vec<u8>| Encoded {
        headers: Headers::new(),
        payload: items.into(),
    };
    let (packer, worker) = packer("telemetry.0", options, encode, Gate { begun: sender });
    let stop = CancellationToken::new();
    let worker = tokio::spawn(worker.run(stop.clone()));
    Bench {
        packer,
        begun,
        stop,
        worker,
    }
}

impl Bench {
    async fn next_publish(
        &mut self,
    ) -> (Vec<u8>, oneshot::Sender<Result<Published, PublishError>>) {
        let (message, answer) = self.begun.recv().await.expect("the worker runs");
        (message.payload.to_vec(), answer)
    }
}

// The publisher answers with a result, and so do the tests.
#[allow(clippy::unnecessary_wraps)]
fn stored(sequence: u64) -> Result<Published, PublishError> {
    Ok(Published {
        sequence: Sequence::new(sequence),
        duplicate: false,
    })
}

fn timed_out() -> PublishError {
    PublishError::TimedOut {
        subject: "telemetry.0".into(),
        attempts: 4,
    }
}

/// Whether a receipt is answered by now, after everything that can run has run.
async fn is_answered(receipt: &mut Receipt) -> bool {
    tokio::task::yield_now().await;
    futures::FutureExt::now_or_never(receipt).is_some()
}

#[tokio::test]
async fn what_queues_during_a_publish_goes_into_the_next_pack_in_order() {
    let mut bench = bench(PackerOptions {
        linger: Duration::ZERO,
        ..PackerOptions::default()
    });
    let first = bench.packer.enqueue(1, 1).await.expect("room");
    let (payload, acknowledge) = bench.next_publish().await;
    assert_eq!(payload, [1]);
    let mut later = Vec::new();
    for item in 2..=5 {
        later.push(bench.packer.enqueue(item, 1).await.expect("room"));
    }
    assert!(bench.begun.try_recv().is_err(), "one publish in flight");
    acknowledge.send(stored(1)).expect("the worker waits");
    assert_eq!(first.await.expect("stored").sequence.get(), 1);
    let (payload, acknowledge) = bench.next_publish().await;
    assert_eq!(payload, [2, 3, 4, 5]);
    acknowledge.send(stored(2)).expect("the worker waits");
    for receipt in later {
        assert_eq!(receipt.await.expect("stored").sequence.get(), 2);
    }
}

#[tokio::test]
async fn an_item_is_answered_only_after_its_acknowledgement() {
    let mut bench = bench(PackerOptions::default());
    let mut receipt = bench.packer.enqueue(1, 1).await.expect("room");
    let (_, acknowledge) = bench.next_publish().await;
    assert!(!is_answered(&mut receipt).await);
    acknowledge.send(stored(7)).expect("the worker waits");
    assert_eq!(receipt.await.expect("stored").sequence.get(), 7);
}

#[tokio::test]
async fn a_failed_publish_fails_exactly_its_items() {
    let mut bench = bench(PackerOptions {
        pack_items: 2,
        ..PackerOptions::default()
    });
    let mut receipts = Vec::new();
    for item in 1..=4 {
        receipts.push(bench.packer.enqueue(item, 1).await.expect("room"));
    }
    let (payload, fail) = bench.next_publish().await;
    assert_eq!(payload, [1, 2]);
    fail.send(Err(timed_out())).expect("the worker waits");
    let (payload, acknowledge) = bench.next_publish().await;
    assert_eq!(payload, [3, 4]);
    acknowledge.send(stored(1)).expect("the worker waits");
    let mut outcomes = Vec::new();
    for receipt in receipts {
        outcomes.push(receipt.await.is_ok());
    }
    assert_eq!(outcomes, [false, false, true, true]);
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait() {
    let options = PackerOptions {
        queue_items: 2,
        pack_items: 1,
        ..PackerOptions::default()
    };
    let mut bench = bench(options);
    let in_flight = bench.packer.enqueue(1, 1).await.expect("room");
    let (_, acknowledge) = bench.next_publish().await;
    let _second = bench.packer.try_enqueue(2, 1).expect("room");
    let _third = bench.packer.try_enqueue(3, 1).expect("room");
    let refused = bench.packer.try_enqueue(4, 1).err().expect("no room");
    assert!(matches!(refused, PackError::QueueFull), "{refused}");
    assert_eq!(bench.packer.queued(), 2);
    acknowledge.send(stored(1)).expect("the worker waits");
    in_flight.await.expect("stored");
    let (_, _acknowledge) = bench.next_publish().await;
    let _queued = bench.packer.enqueue(4, 1).await.expect("room again");
}

#[tokio::test]
async fn bytes_in_flight_count_against_the_queue() {
    let options = PackerOptions {
        queue_bytes: 100,
        pack_bytes: 60,
        ..PackerOptions::default()
    };
    let mut bench = bench(options);
    let in_flight = bench.packer.try_enqueue(1, 60).expect("room");
    let (_, acknowledge) = bench.next_publish().await;
    let refused = bench.packer.try_enqueue(2, 60).err().expect("no room");
    assert!(matches!(refused, PackError::QueueFull), "{refused}");
    let too_large = bench
        .packer
        .try_enqueue(3, 61)
        .err()
        .expect("larger than a pack");
    assert!(
        matches!(
            too_large,
            PackError::ItemTooLarge {
                size: 61,
                limit: 60
            }
        ),
        "{too_large}"
    );
    acknowledge.send(stored(1)).expect("the worker waits");
    in_flight.await.expect("stored");
    let _queued = bench
        .packer
        .enqueue(2, 60)
        .await
        .expect("the bytes came back");
}

#[tokio::test]
async fn a_pack_stays_below_its_bytes_and_loses_nothing() {
    let options = PackerOptions {
        pack_bytes: 10,
        ..PackerOptions::default()
    };
    let mut bench = bench(options);
    let mut receipts = Vec::new();
    for item in 1..=5 {
        receipts.push(bench.packer.enqueue(item, 4).await.expect("room"));
    }
    let mut packs = Vec::new();
    for sequence in 1..=3 {
        let (payload, acknowledge) = bench.next_publish().await;
        packs.push(payload);
        acknowledge
            .send(stored(sequence))
            .expect("the worker waits");
    }
    assert_eq!(packs, [vec![1, 2], vec![3, 4], vec![5]]);
    for receipt in receipts {
        receipt.await.expect("stored");
    }
}

#[tokio::test]
async fn stopping_publishes_what_is_held_and_takes_no_more() {
    let mut bench = bench(PackerOptions {
        pack_items: 1,
        ..PackerOptions::default()
    });
    let first = bench.packer.enqueue(1, 1).await.expect("room");
    let (_, acknowledge) = bench.next_publish().await;
    let second = bench.packer.enqueue(2, 1).await.expect("room");
    bench.stop.cancel();
    acknowledge.send(stored(1)).expect("the worker waits");
    let (payload, acknowledge) = bench.next_publish().await;
    assert_eq!(payload, [2]);
    acknowledge.send(stored(2)).expect("the worker waits");
    first.await.expect("stored");
    second.await.expect("stored");
    bench.worker.await.expect("the worker ends");
    let refused = bench.packer.enqueue(3, 1).await.err().expect("closed");
    assert!(matches!(refused, PackError::Closed), "{refused}");
}

#[tokio::test]
async fn a_worker_that_is_gone_fails_its_items() {
    let mut bench = bench(PackerOptions::default());
    let receipt = bench.packer.enqueue(1, 1).await.expect("room");
    let (_, _unanswered) = bench.next_publish().await;
    bench.worker.abort();
    let error = receipt.await.expect_err("nobody is left to answer");
    assert!(matches!(error, PackError::Closed), "{error}");
}

#[tokio::test]
async fn the_first_item_waits_for_company() {
    // A linger far longer than the test: only a full pack closes it.
    let linger = Duration::from_hours(1);
    let mut bench = bench(PackerOptions {
        linger,
        pack_items: 3,
        ..PackerOptions::default()
    });
    for item in 1..=3 {
        let _receipt = bench.packer.enqueue(item, 1).await.expect("room");
        tokio::task::yield_now().await;
    }
    let (payload, acknowledge) = bench.next_publish().await;
    assert_eq!(payload, [1, 2, 3]);
    acknowledge.send(stored(1)).expect("the worker waits");
}
