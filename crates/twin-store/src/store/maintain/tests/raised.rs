//! A restore is a change of every twin: nothing that was given since the backup is given again.

use std::sync::Arc;
use std::time::Duration;

use posture::configuration::PushState;
use prost::Message as _;
use wire::bus::v1::TwinChange;

use super::*;
use crate::history;
use crate::index;
use crate::record::Record;
use crate::store::HistoryRead;
use crate::store::sample::sound;
use crate::testing::key;

async fn read(store: &SqliteStore, name: &str) -> Record {
    let record = store.get(key(name)).await.unwrap();
    record.expect("it is there")
}

/// Restores an hour after the backup.
async fn an_hour_later(bytes: Vec<u8>) -> (TempDir, SqliteStore) {
    let target = tempfile::tempdir().unwrap();
    let files = SqliteFiles::new(target.path());
    let from = std::io::Cursor::new(bytes);
    let later = now() + Duration::from_hours(1);
    let restored = restore(
        from,
        &files,
        sample::restoring(later, Gaps::Refused),
        |_, _| (),
    )
    .await;
    assert!(restored.unwrap().is_whole());
    let left = check(target.path()).await;
    assert!(left.is_sound(), "{left:?}");
    let store = SqliteStore::open(target.path()).unwrap();
    (target, store)
}

#[tokio::test]
async fn a_twin_whose_device_has_applied_it_all_is_found_as_pending_then() {
    let folder = filled().await;
    let store = SqliteStore::open(folder.path()).unwrap();
    let mut states = sample::take(&store).await;
    let mut commit = sample::created(&mut states, &["done"]);
    let upsert = &mut commit.upserts[0];
    let record = Arc::make_mut(&mut upsert.record);
    let configuration = &mut record.posture.configuration;
    configuration.state = PushState::Applied;
    configuration.desired_version = Some(2);
    configuration.applied_version = Some(2);
    upsert.index_add = index::entries(record).unwrap().into_iter().collect();
    store.commit(commit).await.unwrap();
    store.close().await;
    let bytes = backed_up(folder.path()).await;
    // It checks the index of what was restored.
    let (_target, store) = an_hour_later(bytes).await;
    let is = read(&store, "done").await;
    assert_eq!(is.posture.configuration.state, PushState::Pending);
    store.close().await;
}

#[tokio::test]
async fn versions_and_etags_are_above_all_that_were_given_since_the_backup() {
    let folder = filled().await;
    let bytes = backed_up(folder.path()).await;
    let store = SqliteStore::open(folder.path()).unwrap();
    let was = read(&store, "a").await;
    store.close().await;
    let (_target, store) = an_hour_later(bytes).await;
    let is = read(&store, "a").await;
    let hour = 3600 * 100;
    for (was, is) in [
        (was.twin.version, is.twin.version),
        (was.twin.tags.version, is.twin.tags.version),
        (was.twin.desired.version, is.twin.desired.version),
        (was.twin.reported.version, is.twin.reported.version),
    ] {
        assert!(is.get() > was.get() + hour, "{was} {is}");
    }
    assert!(is.twin.etag.counter() > was.twin.etag.counter() + hour);
    assert!(is.identity.etag.number() > was.identity.etag.number() + hour);
    // All else is as it was.
    assert_eq!(is.twin.tags.document, was.twin.tags.document);
    assert_eq!(is.twin.desired.document, was.twin.desired.document);
    assert_eq!(is.identity.generation_id, was.identity.generation_id);

    // The history tells of it, and leads back to the versions before.
    let newest = HistoryRead {
        key: key("a"),
        before: None,
        from: None,
        to: None,
        limit: 1,
    };
    let entries = sound(store.history(newest).await.unwrap());
    assert_eq!(
        (entries[0].actor.as_str(), entries[0].cause.as_str()),
        ("twinward", "restore")
    );
    let before = history::rewind(history::document(&is).unwrap(), &entries).unwrap();
    assert_eq!(before, history::document(&was).unwrap());
    store.close().await;
}

#[tokio::test]
async fn the_log_of_every_partition_tells_that_the_store_was_restored() {
    let folder = filled().await;
    let bytes = backed_up(folder.path()).await;
    let (_target, store) = an_hour_later(bytes).await;
    for state in sample::take(&store).await {
        assert!(state.revision.get() > 3600 * 1_000_000);
        assert_eq!(state.published.get(), state.revision.get() - 1);
        let page = store.log(state.partition, state.published, 10).await;
        let page = page.unwrap();
        assert_eq!(page.floor, state.published);
        let [entry] = &page.entries[..] else {
            panic!("{page:?}");
        };
        let change = TwinChange::decode(entry.change.as_slice()).unwrap();
        let told = TwinChange {
            revision: state.revision.get(),
            restored: true,
            ..TwinChange::default()
        };
        assert_eq!(change, told);
    }
    store.close().await;
}

#[tokio::test]
async fn a_second_restore_of_one_backup_gives_nothing_that_the_first_gave() {
    let folder = filled().await;
    let bytes = backed_up(folder.path()).await;
    let mut versions = Vec::new();
    for seconds in [0, 60] {
        let target = tempfile::tempdir().unwrap();
        let files = SqliteFiles::new(target.path());
        let from = std::io::Cursor::new(bytes.clone());
        let at = now() + Duration::from_secs(seconds);
        let done = restore(
            from,
            &files,
            sample::restoring(at, Gaps::Refused),
            |_, _| (),
        )
        .await;
        assert!(done.unwrap().is_whole());
        let store = SqliteStore::open(target.path()).unwrap();
        versions.push(read(&store, "b").await.twin.desired.version.get());
        store.close().await;
    }
    assert_eq!(versions[1] - versions[0], 60 * 100);
}
