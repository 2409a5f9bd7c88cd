//! The tags of a device on the records of its modules.

use serde_json::json;
use twin::Condition;
use twin::query::Vocabulary;

use super::*;
use crate::apply::ChangeKind;
use crate::handed_down::HandedDown;
use crate::store::sample::sound;
use crate::store::{Estimates, HistoryRead, Search, Source};
use crate::testing::overlay_of;

async fn tag(engine: &Engine, tags: serde_json::Value) {
    let sections = twin::TwinPatch {
        tags: Some(object(tags)),
        desired: None,
    };
    let write = operator_write(twins::Form::Patch, sections);
    let cause = Cause {
        cause: "request:tags".to_owned(),
        ..Cause::default()
    };
    let decided = engine.decide(Selection::One(key("d")), move |overlay, now| {
        twins::write(overlay, &key("d"), &write, now, &cause)
    });
    decided.await.expect("written");
}

async fn add_module(engine: &Engine, name: &'static str) {
    let decided = engine.decide(Selection::Family(device("d")), move |overlay, now| {
        let (new, cause) = (identity("m"), Cause::default());
        devices::create_module(overlay, &key(name), new, Mode::Write, now, &cause)
    });
    decided.await.expect("made");
}

async fn device_tags(store: &ModelStore, name: &str) -> Option<String> {
    let record = store.get(key(name)).await.expect("it can be read");
    record.expect("it is there").device_tags
}

/// The modules that a search by a tag of the device finds.
async fn found(store: &ModelStore, condition: &str) -> Vec<String> {
    let condition = Condition::parse_in(condition, Vocabulary::Query).expect("a condition");
    let search = Search {
        source: Source::All,
        condition: condition.scope().clone(),
        now: now(),
        after: None,
        limit: 100,
        estimates: Estimates::default(),
    };
    let within = Duration::from_mins(1);
    let page = crate::search::pages(store, search, within).await;
    let records = page.expect("it can be searched").records;
    records.iter().map(|one| one.key.to_string()).collect()
}

#[tokio::test]
async fn modules_have_the_tags_of_their_device_whoever_came_first() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    let engine = &running.engine;
    create(engine, "d").await.expect("made");
    add_module(engine, "d/first").await;
    create(engine, "other").await.expect("made");
    assert_eq!(device_tags(&store, "d/first").await.as_deref(), Some("{}"));
    let before = store.get(key("d/first")).await.unwrap().unwrap();

    tag(engine, json!({"site": "Lyon"})).await;
    add_module(engine, "d/second").await;
    for module in ["d/first", "d/second"] {
        let tags = device_tags(&store, module).await;
        assert_eq!(tags.as_deref(), Some(r#"{"site":"Lyon"}"#), "{module}");
    }
    assert_eq!(device_tags(&store, "d").await, None, "a device has its own");
    let by_site = "device.tags.site = 'Lyon'";
    assert_eq!(found(&store, by_site).await, ["d/first", "d/second"]);

    // The module's own document is as it was; that something changed is told, by whom and why.
    let after = store.get(key("d/first")).await.unwrap().unwrap();
    assert_eq!(after.twin, before.twin);
    assert!(after.revision > before.revision);
    let read = HistoryRead {
        key: key("d/first"),
        before: None,
        from: None,
        to: None,
        limit: 1,
    };
    let newest = sound(store.history(read).await.expect("it can be read"));
    let kinds: Vec<_> = newest[0].changes.iter().copied().collect();
    assert_eq!(kinds, [ChangeKind::DeviceTags]);
    assert_eq!(newest[0].cause, "request:tags");

    tag(engine, json!({"site": null})).await;
    assert_eq!(found(&store, by_site).await, [""; 0]);
    running.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_write_of_the_device_that_leaves_its_tags_alone_writes_no_module() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    let engine = &running.engine;
    create(engine, "d").await.expect("made");
    add_module(engine, "d/m").await;
    tag(engine, json!({"site": "Lyon"})).await;
    let before = store.get(key("d/m")).await.unwrap().unwrap();
    tag(engine, json!({"site": "Lyon"})).await;
    let sections = twin::TwinPatch {
        tags: None,
        desired: Some(object(json!({"a": 1}))),
    };
    let write = operator_write(twins::Form::Patch, sections);
    let decided = engine.decide(Selection::One(key("d")), move |overlay, now| {
        twins::write(overlay, &key("d"), &write, now, &Cause::default())
    });
    decided.await.expect("written");
    assert_eq!(store.get(key("d/m")).await.unwrap().unwrap(), before);
    running.stop().await.expect("a good end");
}

#[tokio::test]
async fn modules_that_were_stored_without_get_them_once() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    let engine = &running.engine;
    create(engine, "d").await.expect("made");
    tag(engine, json!({"site": "Lyon"})).await;
    add_module(engine, "d/m").await;
    // As a version stored it that handed nothing down.
    let decided = engine.decide(Selection::One(key("d/m")), |overlay, _| {
        let mut record = overlay.get(&key("d/m"))?.clone();
        record.device_tags = None;
        let changes = [ChangeKind::Posture];
        overlay.put(
            record,
            &changes,
            crate::apply::Weight::Fact,
            &Cause::default(),
        );
        Ok(())
    });
    decided.await.expect("written");
    assert_eq!(device_tags(&store, "d/m").await, None);

    let task = || {
        HandedDown::new(
            Arc::new(store.clone()),
            engine.clone(),
            ManualClock::at(now()),
        )
    };
    assert_eq!(task().look().await.unwrap(), 0);
    assert_eq!(
        device_tags(&store, "d/m").await.as_deref(),
        Some(r#"{"site":"Lyon"}"#)
    );
    let commits = store.commits();
    assert_eq!(task().look().await.unwrap(), 0);
    assert_eq!(store.commits(), commits, "there is nothing left to do");
    running.stop().await.expect("a good end");
}

#[test]
fn what_is_damaged_of_a_family_keeps_the_rest_from_nothing() {
    let (device, whole) = (
        crate::testing::record("d", "g"),
        crate::testing::record("d/a", "m"),
    );
    let mut overlay = overlay_of(vec![Loaded::Whole(Box::new(device))]);
    let sections = twin::TwinPatch {
        tags: Some(object(json!({"site": "Lyon"}))),
        desired: None,
    };
    let write = operator_write(twins::Form::Patch, sections);
    overlay.begin();
    twins::write(&mut overlay, &key("d"), &write, now(), &Cause::default()).expect("written");
    assert_eq!(
        overlay.heirs(),
        Some(vec![Selection::Family(crate::testing::device("d"))])
    );
    let damaged = crate::record::Damaged {
        key: "d/b".to_owned(),
        part: "row",
        problem: "a flipped bit".to_owned(),
    };
    overlay.hand_down(vec![
        Loaded::Damaged(Selection::One(key("d/b")), damaged),
        Loaded::Whole(Box::new(whole)),
    ]);
    let tags = overlay.get(&key("d/a")).expect("there").device_tags.clone();
    assert_eq!(tags.as_deref(), Some(r#"{"site":"Lyon"}"#));
}

#[tokio::test(start_paused = true)]
async fn modules_of_a_replica_that_died_get_the_tags_from_the_one_that_takes_over() {
    let store = ModelStore::new();
    let first = Running::start(Arc::new(store.clone())).await;
    create(&first.engine, "d").await.expect("made");
    tag(&first.engine, json!({"site": "Lyon"})).await;
    add_module(&first.engine, "d/m").await;
    let stored_without = first
        .engine
        .decide(Selection::One(key("d/m")), |overlay, _| {
            let mut record = overlay.get(&key("d/m"))?.clone();
            record.device_tags = None;
            let changes = [ChangeKind::Posture];
            let weight = crate::apply::Weight::Fact;
            overlay.put(record, &changes, weight, &Cause::default());
            Ok(())
        });
    stored_without.await.expect("written");

    // Another one comes, which owns nothing yet, and finds what it cannot mend.
    let metrics = Metrics::new(&Registry::new().scope("test"));
    let count = PartitionCount::new(4).unwrap();
    let clock = ManualClock::at(now());
    let (engine, writer, control) =
        shared_engine(Arc::new(store.clone()), clock.clone(), metrics, count, KEEP);
    let writer = tokio::spawn(writer.run());
    let task = HandedDown::new(Arc::new(store.clone()), engine.clone(), clock);
    assert_eq!(task.look().await.unwrap(), 1, "it is another one's");
    let task = tokio::spawn(task.run(service_kit::shutdown::ShutdownToken::new()));
    settle().await;
    assert_eq!(device_tags(&store, "d/m").await, None);

    // The first one is killed before it has handed anything down, and the other one takes its partitions.
    first.writer.abort();
    let mut ends = Vec::new();
    for state in take(&store).await {
        ends.push(control.take(state).await.expect("it runs"));
    }
    let ended = tokio::time::timeout(Duration::from_hours(24), task).await;
    ended
        .expect("there is nothing left to do")
        .expect("no panic");
    assert_eq!(
        device_tags(&store, "d/m").await.as_deref(),
        Some(r#"{"site":"Lyon"}"#)
    );
    drop((engine, ends, control));
    writer.abort();
}

#[tokio::test]
async fn tags_of_many_devices_are_handed_down_a_bounded_number_at_a_time() {
    let store = ModelStore::new();
    let running = Running::start(Arc::new(store.clone())).await;
    let engine = &running.engine;
    let names: Vec<_> = (0..300).map(|number| format!("d-{number}")).collect();
    futures::future::join_all(names.iter().map(|name| create(engine, name))).await;
    let before = store.commits();
    // Each by a task of its own, so that all have handed in their work before the writer looks at it.
    let tagged = names.iter().map(|name| {
        let sections = twin::TwinPatch {
            tags: Some(object(json!({"site": "Lyon"}))),
            desired: None,
        };
        let write = operator_write(twins::Form::Patch, sections);
        let (engine, of) = (engine.clone(), key(name));
        tokio::spawn(async move {
            let decided = engine.decide(Selection::One(of.clone()), move |overlay, now| {
                twins::write(overlay, &of, &write, now, &Cause::default())
            });
            decided.await.map(|_| ())
        })
    });
    let tagged: Vec<_> = tagged.collect();
    for written in tagged {
        written.await.expect("no panic").expect("written");
    }
    assert_eq!(store.commits() - before, 3, "of 128 devices at most");
    running.stop().await.expect("a good end");
}
