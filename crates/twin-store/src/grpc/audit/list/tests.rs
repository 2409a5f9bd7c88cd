use std::sync::Mutex;

use super::*;
use crate::store::sample::{audited, count, take};
use crate::store::sqlite::SqliteStore;
use crate::store::{Commit, Store};

const ENTRIES: usize = 10_000;
/// Every so many entries, one is both of the actor and of the action that are asked for.
const COMMON: usize = 2500;

/// A store in which half of the entries are of an actor and half of an action, and few are of both.
async fn filled(folder: &tempfile::TempDir) -> SqliteStore {
    let store = SqliteStore::open(folder.path()).expect("opened");
    let mut states = take(&store).await;
    let mut audit = Vec::new();
    for number in 0..ENTRIES {
        let mut entry = audited(&mut states[0], &format!("devices/d{number}"));
        let of_both = number % COMMON == 0;
        if of_both || number % 2 == 0 {
            entry.actor = "operator:alice".to_owned();
        } else {
            entry.actor = "operator:bob".to_owned();
        }
        if of_both || number % 2 == 1 {
            entry.action = "device.delete".to_owned();
        }
        audit.push(entry);
    }
    let partitions = states;
    let commit = Commit {
        partitions,
        audit,
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    store
}

#[tokio::test]
async fn a_small_page_of_what_no_index_decides_takes_few_readings() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(&folder).await;
    let asked = proto::ListAuditEntriesRequest {
        page_size: 2,
        actor: "operator:alice".to_owned(),
        action: "device.delete".to_owned(),
        order: proto::AuditOrder::OldestFirst.into(),
        ..Default::default()
    };
    let mut found = Vec::new();
    let mut after = None;
    for page in 0..9 {
        let (mut list, _) = read(asked.clone()).expect("a list");
        list.read.after = after;
        let readings = Mutex::new(Vec::new());
        let answer = fill(list, |read| {
            readings.lock().expect("free").push((read.limit, read.by));
            store.audit_by_time(read)
        });
        let answer = answer.await.expect("a page");
        let readings = readings.into_inner().expect("free");
        assert!(
            readings.len() <= 1 + ENTRIES / CHUNK as usize,
            "{readings:?}"
        );
        assert_eq!(readings[0], (2, None), "the index is chosen");
        assert!(
            readings[1..].iter().all(|(_, by)| by.is_some()),
            "and that once"
        );
        assert!(
            answer.entries.len() <= 2,
            "page {page} is no larger than asked for"
        );
        found.extend(answer.entries.iter().map(|entry| entry.resource.clone()));
        if answer.next_page_token.is_empty() {
            break;
        }
        let place: Place = token::open(Kind::Page, &answer.next_page_token).expect("a place");
        after = Some(AuditPlace {
            at: instant(place.at.expect("a time")),
            partition: twin::Partition::new(place.partition, count()).expect("a partition"),
            sequence: place.sequence,
        });
    }
    let expected = (0..ENTRIES).step_by(COMMON);
    let expected: Vec<_> = expected
        .map(|number| format!("devices/d{number}"))
        .collect();
    assert_eq!(found, expected);
    store.close().await;
}
