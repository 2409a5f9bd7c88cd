//! What lies on a damaged page of the embedded store cannot be written, and stops nothing else.

use serde_json::json;

use super::*;
use crate::store::sample::{self, of};
use crate::store::sqlite::{SqliteStore, break_page_of};
use crate::store::{Commit, Upsert};

fn name(number: u32) -> String {
    format!("device-{number}")
}

/// A closed store of some devices with their histories, of which some lie on a page that is damaged.
async fn damaged(folder: &std::path::Path) {
    let store = SqliteStore::open(folder).expect("it opens");
    let mut states = take(&store).await;
    let mut commit = Commit::default();
    for number in 100..400 {
        let mut record = crate::testing::record(&name(number), "g");
        let state = of(&mut states, &record.key);
        state.revision = state.revision.next().expect("there are more");
        record.revision = state.revision;
        let mut entry = sample::revision(&record.key, state.revision.get());
        entry.cause = format!("cause-{}", name(number));
        commit.history.push(entry);
        commit.upserts.push(Upsert {
            record: Arc::new(record),
            index_remove: Vec::new(),
            index_add: Vec::new(),
        });
    }
    commit.partitions = states;
    store.commit(commit).await.expect("committed");
    store.close().await;
    break_page_of(folder, b"cause-device-250");
}

async fn desire(engine: &Engine, number: u32) -> Result<(), Error> {
    let of = key(&name(number));
    let sections = twin::TwinPatch {
        tags: None,
        desired: Some(object(json!({"a": number}))),
    };
    let write = operator_write(twins::Form::Patch, sections);
    let decided = engine.decide(Selection::One(of.clone()), move |overlay, now| {
        twins::write(overlay, &of, &write, now, &Cause::default())
    });
    decided.await.map(|_| ())
}

#[tokio::test]
async fn a_page_that_cannot_be_changed_stops_only_what_lies_on_it() {
    let folder = tempfile::tempdir().unwrap();
    damaged(folder.path()).await;
    let store = Arc::new(SqliteStore::open(folder.path()).expect("it opens"));
    let running = Running::start(store.clone()).await;
    let engine = &running.engine;
    // They are decided on together, and nobody is told that it is written.
    let (itself, beside) = tokio::join!(desire(engine, 250), desire(engine, 110));
    assert!(matches!(itself, Err(Error::Overtaken)), "{itself:?}");
    assert!(matches!(beside, Err(Error::Overtaken)), "{beside:?}");
    // From then on each knows.
    for _ in 0..2 {
        let (itself, beside) = tokio::join!(desire(engine, 250), desire(engine, 110));
        assert!(matches!(itself, Err(Error::Damaged(_))), "{itself:?}");
        beside.expect("it is written");
    }
    let noted = store.damaged().await.expect("read");
    let its_note = noted.iter().find(|one| one.key == "device-250");
    let problem = &its_note.expect("it is noted").problem;
    assert!(problem.contains("cannot be changed"), "{problem}");
    // One that would be written in spite of that is told so, too.
    let removed = engine.decide(Selection::Family(device("device-250")), |overlay, _| {
        let cause = Cause::default();
        devices::delete(overlay, &key("device-250"), None, Mode::Write, &cause)
    });
    let removed = removed.await;
    assert!(matches!(removed, Err(Error::Damaged(_))), "{removed:?}");
    desire(engine, 399).await.expect("it goes on");
    running.stop().await.expect("a good end");
    store.close().await;
}
