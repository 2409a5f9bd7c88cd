//! What a commit leaves beside the records: history, audit, answers to requests, the index.

use serde_json::{Value, json};

use super::*;
use crate::apply::telemetry::fold_entries;
use crate::history;
use crate::index;
use crate::store::sample::sound;
use crate::store::{HistoryEntry, HistoryRead, RequestAnswer, RequestId};
use crate::testing::{entry, heartbeats};

async fn tag(engine: &Engine, number: i32) -> Result<Record, Error> {
    let sections = twin::TwinPatch {
        tags: Some(object(json!({ "n": number, "site": {"floor": number} }))),
        desired: None,
    };
    let write = operator_write(twins::Form::Patch, sections);
    let cause = Cause {
        cause: format!("request:{number}"),
        ..Cause::default()
    };
    engine
        .decide(Selection::One(key("d")), move |overlay, now| {
            twins::write(overlay, &key("d"), &write, now, &cause)
        })
        .await
}

async fn fold(engine: &Engine, sequence: u64) {
    let partition = engine.partition(&key("d"));
    let entry = entry("d", "g", sequence, heartbeats([sequence]));
    engine
        .fold(
            vec![Selection::One(key("d"))],
            (partition, sequence),
            move |overlay, now| fold_entries(overlay, partition, &[entry], now),
        )
        .await
        .expect("folded");
}

async fn revisions(store: &dyn Store) -> Vec<HistoryEntry> {
    let read = HistoryRead {
        key: key("d"),
        before: None,
        from: None,
        to: None,
        limit: 100,
    };
    sound(store.history(read).await.expect("it can be read"))
}

#[tokio::test]
async fn writes_of_one_group_are_revisions_of_their_own_and_answer_their_numbers() {
    let (store, gate) = ModelStore::gated();
    gate.add_permits(1);
    let running = Running::start(Arc::new(store.clone())).await;
    create(&running.engine, "d").await.expect("made");
    // The first waits at the gate, the others gather behind it.
    let writes: Vec<_> = (0..4)
        .map(|number| {
            let engine = running.engine.clone();
            tokio::spawn(async move { tag(&engine, number).await })
        })
        .collect();
    settle().await;
    gate.add_permits(100);
    let mut answered = Vec::new();
    for write in writes {
        answered.push(write.await.unwrap().expect("written").revision.get());
    }
    assert!(store.commits() < 5, "they shared a commit");
    let entries = revisions(&store).await;
    let mut kept: Vec<_> = entries.iter().map(|entry| entry.revision.get()).collect();
    assert_eq!(kept.len(), 5);
    let causes: Vec<_> = entries
        .iter()
        .rev()
        .skip(1)
        .map(|e| e.cause.as_str())
        .collect();
    assert_eq!(causes, ["request:0", "request:1", "request:2", "request:3"]);
    kept.sort_unstable();
    answered.sort_unstable();
    assert_eq!(kept[1..], answered);
}

#[tokio::test]
async fn the_history_leads_back_to_the_beginning_also_of_a_deleted_identity() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    create(&running.engine, "d").await.expect("made");
    let mut documents: Vec<Value> = Vec::new();
    let present = || async {
        let record = store.get(key("d")).await.unwrap().expect("there");
        history::document(&record).unwrap()
    };
    documents.push(present().await);
    for number in 0..3 {
        tag(&running.engine, number).await.expect("written");
        documents.push(present().await);
    }
    running
        .engine
        .decide(Selection::Family(device("d")), |overlay, _| {
            devices::delete(overlay, &key("d"), None, Mode::Write, &Cause::default())
        })
        .await
        .expect("deleted");
    let entries = revisions(&store).await;
    assert_eq!(entries.len(), 5);
    for (back, expected) in (1..).zip(documents.iter().rev()) {
        let was = history::rewind(Value::Null, entries.iter().take(back)).unwrap();
        assert_eq!(&was, expected);
    }
    let before = history::rewind(Value::Null, &entries).unwrap();
    assert_eq!(before, Value::Null, "before its creation it was not there");
}

#[tokio::test]
async fn folding_is_routine_and_names_its_events() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    create(&running.engine, "d").await.expect("made");
    fold(&running.engine, 1).await;
    let entries = revisions(&store).await;
    let partition = running.engine.partition(&key("d"));
    assert_eq!(entries[0].cause, format!("events:{partition}/1"));
    assert_eq!(entries[0].actor, "device");
    assert!(entries[0].routine && !entries[1].routine);
}

#[tokio::test]
async fn every_chain_of_audit_entries_is_whole_after_a_restart() {
    let store = ModelStore::new();
    for round in 0..2 {
        let running = Running::start(Arc::new(store.clone())).await;
        for number in 0..6 {
            let id = format!("d{round}{number}");
            create(&running.engine, &id).await.expect("made");
        }
        running.stop().await.expect("a good end");
    }
    let mut entries = 0;
    for partition in PartitionCount::new(4).unwrap().partitions() {
        let page = store.audit(partition, 0, 100).await.expect("read");
        let chain = sound(page.entries);
        crate::audit::verify(&chain, page.head).expect("whole");
        entries += chain.len();
    }
    assert_eq!(entries, 12);
}

/// Writes under a request id, unless it was done before.
async fn once(engine: &Engine, id: &str, number: i32) -> Result<u64, Error> {
    let id = RequestId(id.to_owned());
    let selections = vec![Selection::One(key("d")), Selection::Request(id.clone())];
    engine
        .decide(selections, move |overlay, now| {
            if let Some(known) = overlay.answer(&id)? {
                let bytes = known.answer.as_slice().try_into().expect("eight bytes");
                return Ok(u64::from_be_bytes(bytes));
            }
            let sections = twin::TwinPatch {
                tags: Some(object(json!({ "n": number }))),
                desired: None,
            };
            let write = operator_write(twins::Form::Patch, sections);
            let record = twins::write(overlay, &key("d"), &write, now, &Cause::default())?;
            let revision = record.revision.get();
            overlay.remember(RequestAnswer {
                id,
                fingerprint: [0; 32],
                answer: revision.to_be_bytes().to_vec(),
                at: now,
            });
            Ok(revision)
        })
        .await
}

#[tokio::test]
async fn a_repeated_request_writes_once_within_a_group_and_after_a_restart() {
    let (store, gate) = ModelStore::gated();
    gate.add_permits(1);
    let running = Running::start(Arc::new(store.clone())).await;
    create(&running.engine, "d").await.expect("made");
    let calls: Vec<_> = (0..5)
        .map(|number| {
            let engine = running.engine.clone();
            tokio::spawn(async move { once(&engine, "same", number).await })
        })
        .collect();
    settle().await;
    gate.add_permits(100);
    let mut answers = std::collections::BTreeSet::new();
    for call in calls {
        answers.insert(call.await.unwrap().expect("answered"));
    }
    running.stop().await.expect("a good end");
    let running = Running::start(Arc::new(store.clone())).await;
    answers.insert(once(&running.engine, "same", 9).await.expect("answered"));
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(revisions(&store).await.len(), 2);
    once(&running.engine, "other", 9).await.expect("written");
    assert_eq!(revisions(&store).await.len(), 3);
}

#[tokio::test]
async fn work_for_partitions_that_are_not_ours_is_refused_and_stops_nobody() {
    let store = ModelStore::new();
    let count = PartitionCount::new(4).unwrap();
    let ours = crate::store::PartitionState {
        ..*take(&store).await.first().expect("there are four")
    };
    let metrics = Metrics::new(&Registry::new().scope("test"));
    let clock = ManualClock::at(now());
    let (engine, writer, ends) = engine(
        Arc::new(store.clone()),
        clock,
        metrics,
        count,
        vec![ours],
        KEEP,
    );
    let writer = tokio::spawn(writer.run());
    let mut made = 0;
    for number in 0..20 {
        match create(&engine, &format!("d{number}")).await {
            Ok(record) => {
                assert_eq!(engine.partition(&record.key), ours.partition);
                made += 1;
            }
            Err(Error::NotOwned { partition }) => assert_ne!(partition, ours.partition),
            Err(other) => panic!("{other}"),
        }
    }
    assert!((1..20).contains(&made), "{made}");
    drop((engine, ends));
    writer.await.unwrap().expect("it went on to a good end");
}

#[tokio::test]
async fn the_index_follows_what_is_written() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    create(&running.engine, "d").await.expect("made");
    for number in 0..3 {
        tag(&running.engine, number).await.expect("written");
        fold(&running.engine, u64::try_from(number).unwrap() + 1).await;
        let record = store.get(key("d")).await.unwrap().expect("there");
        assert_eq!(store.index_of(&key("d")), index::entries(&record).unwrap());
    }
}

#[tokio::test]
async fn the_log_keeps_what_watchers_may_want_and_forgets_what_was_published_before() {
    let store = ModelStore::new();
    let mut running = Running::start(Arc::new(store.clone())).await;
    create(&running.engine, "d").await.expect("made");
    for number in 0..5 {
        tag(&running.engine, number).await.expect("written");
    }
    let partition = running.engine.partition(&key("d"));
    let at = |end: &OutboxEnd| end.partition == partition;
    let position = running.ends.iter().position(at).expect("there is one");
    let end = running.ends.remove(position);
    end.published
        .try_send((partition, Revision::new(3)))
        .unwrap();
    testkit::wait_for(
        "the log to be trimmed",
        Duration::from_secs(30),
        async || {
            let page = store.log(partition, Revision::ZERO, 100).await.unwrap();
            (page.floor == Revision::new(3)).then_some(())
        },
    )
    .await;
    end.published
        .try_send((partition, Revision::new(6)))
        .unwrap();
    testkit::wait_for("all but two to go", Duration::from_secs(30), async || {
        let page = store.log(partition, Revision::ZERO, 100).await.unwrap();
        (page.floor == Revision::new(4) && page.entries.len() == 2).then_some(())
    })
    .await;
}
