//! Records, and that a commit is whole.

use twin::Revision;

use super::{Opener, change, standing, upserts};
use crate::record::{Authentication, EnrolledBy, IdentityEtag, Provisioned, Status};
use crate::store::sample::{self, take};
use crate::store::{
    Commit, Epoch, Error, HistoryRead, Loaded, OperationId, PartitionState, RequestId, Selection,
    Source, Store, everything,
};
use crate::testing::{device, key, now, record};

async fn keys_of(store: &dyn Store, source: Source, limit: u32) -> Vec<String> {
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .search(everything(source, after, limit, now()))
            .await
            .expect("a page");
        assert!(page.records.len() <= limit as usize);
        keys.extend(page.records.iter().map(|record| record.key.to_string()));
        after = page.next;
        if after.is_none() {
            return keys;
        }
    }
}

pub(super) async fn a_record_is_read_as_it_was_written(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let (parent, module) = (record("d", "g1"), record("d/m", "g2"));
    let commit = Commit {
        partitions: vec![standing(&states, "d", 2)],
        upserts: upserts(&[parent.clone(), module.clone(), record("e", "g3")]),
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    assert_eq!(
        store.get(key("d")).await.expect("read"),
        Some(parent.clone())
    );
    assert_eq!(store.get(key("d/x")).await.expect("read"), None);
    let loaded = store
        .load(vec![
            Selection::Family(device("d")),
            Selection::One(key("d/x")),
        ])
        .await
        .expect("loaded");
    let whole = |record| Loaded::Whole(Box::new(record));
    assert_eq!(loaded, [whole(parent), whole(module)]);
}

pub(super) async fn every_form_of_an_identity_is_kept(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let mut records = Vec::new();
    let secondary = Some("AB".repeat(20));
    for (number, authentication) in [
        Authentication::CertificateAuthority,
        Authentication::None,
        Authentication::SelfSigned {
            primary: "CD".repeat(32),
            secondary: secondary.clone(),
        },
        Authentication::SelfSigned {
            primary: "CD".repeat(32),
            secondary: None,
        },
    ]
    .into_iter()
    .enumerate()
    {
        let mut record = sample::tagged(&format!("d{number}"));
        record.identity.authentication = authentication;
        records.push(record);
    }
    let odd = &mut records[0].identity;
    odd.status = Status::Disabled;
    odd.status_reason = "why \0 \u{1F512} \"not\"".to_owned();
    odd.status_updated_at = Some(now());
    odd.iot_edge = true;
    odd.managed_by = "somebody".to_owned();
    odd.model_id = "dtmi:com:example:thing;1".to_owned();
    odd.etag = IdentityEtag::from_number(u64::from(u32::MAX) + 7);
    let enrolled = |name: &str, generation: &str| EnrolledBy {
        name: name.to_owned(),
        generation: Some(generation.to_owned()),
    };
    records[1].identity.provisioned = Some(Provisioned {
        registration_id: "Sn-1".to_owned(),
        enrollment: enrolled("individualEnrollments/sn-1", "g7"),
        group: Some(enrolled("enrollmentGroups/plant", "g8")),
        operation_id: "5.1".to_owned(),
        was_reset: true,
        count: 3,
        first_at: now(),
        last_at: now() + std::time::Duration::from_secs(9),
    });
    let mut module = sample::tagged("d1/m");
    module.device_tags = Some(records[1].twin.tags.document.clone());
    records.push(module);
    let commit = Commit {
        partitions: vec![standing(&states, "d0", 1)],
        upserts: upserts(&records),
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    store.close().await;
    let store = opener.open().await;
    for record in records {
        let read = store.get(record.key.clone()).await.expect("read");
        assert_eq!(read, Some(record));
    }
}

pub(super) async fn lists_are_in_order_and_paged_without_loss(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let names = ["B", "a", "a/m", "a/n", "a-b", "a.c", "a.c/m", "z"];
    let records: Vec<_> = names.map(|name| record(name, "g")).into();
    let commit = Commit {
        partitions: vec![standing(&states, "a", 1)],
        upserts: upserts(&records),
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    let mut sorted: Vec<_> = records.iter().map(|record| record.key.clone()).collect();
    sorted.sort();
    let all: Vec<_> = sorted.iter().map(ToString::to_string).collect();
    let devices: Vec<_> = sorted
        .iter()
        .filter(|key| key.module.is_none())
        .map(ToString::to_string)
        .collect();
    for limit in 1..=9 {
        assert_eq!(
            keys_of(&*store, Source::All, limit).await,
            all,
            "by {limit}"
        );
        assert_eq!(
            keys_of(&*store, Source::Devices, limit).await,
            devices,
            "by {limit}"
        );
    }
}

pub(super) async fn a_commit_is_whole_or_nothing(opener: Opener) {
    let store = opener.open().await;
    let mut states = take(&*store).await;
    let before = states.clone();
    let mut lost = sample::created(&mut states, &["d", "e/m"]);
    let partition = standing(&states, "d", 0).partition;
    for state in &mut lost.partitions {
        state.position = 9;
        if state.partition == partition {
            state.epoch.0 += 7;
        }
    }
    lost.requests = sample::answers();
    lost.operations = sample::operations();
    lost.results = sample::results();
    lost.tokens = sample::tokens();
    lost.enrollments = sample::enrollments();
    // The partition that is lost comes last: what was written before it must be undone.
    lost.partitions
        .sort_by_key(|state| state.partition == partition);
    let refused = store.commit(lost).await.expect_err("the fence");
    assert!(matches!(refused, Error::Fenced { partition: of } if of == partition));

    let page = store.search(everything(Source::All, None, 9, now())).await;
    assert!(page.expect("read").records.is_empty());
    let selections = vec![
        Selection::Request(RequestId("alice/UpdateTwin/1".to_owned())),
        Selection::Operation(OperationId("018f".to_owned())),
        Selection::Token([7; 32], device("z")),
    ];
    assert_eq!(store.load(selections).await.expect("read"), []);
    let operation = OperationId("018f".to_owned());
    let results = store.operation_results(operation, None, 9).await;
    assert!(results.expect("read").records.is_empty());
    for state in &before {
        let log = store.log(state.partition, Revision::ZERO, 9).await;
        assert!(log.expect("read").entries.is_empty());
        let audit = store.audit(state.partition, 0, 9).await.expect("read");
        assert!(audit.entries.is_empty());
        assert_eq!(audit.head, state.audit);
    }
    let history = HistoryRead {
        key: key("d"),
        before: None,
        from: None,
        to: None,
        limit: 9,
    };
    assert!(store.history(history).await.expect("read").is_empty());
    let again = take(&*store).await;
    assert!(again.iter().all(|state| state.position == 0));
    opener.is_sound().await;
}

pub(super) async fn a_reopened_store_has_kept_everything(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let mut standing = standing(&states, "d", 5);
    standing.position = 77;
    let written = record("d/m", "g");
    let commit = Commit {
        partitions: vec![standing],
        upserts: upserts(&[record("d", "g"), written.clone(), record("e", "g")]),
        log: vec![change(standing, 5)],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    let commit = Commit {
        partitions: vec![standing],
        deletes: vec![key("e")],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    store.close().await;
    let closed = store.get(key("d")).await;
    assert!(
        !matches!(closed, Ok(None)),
        "a closed store does not say that nothing is there"
    );
    drop(store);

    let store = opener.open().await;
    let states = take(&*store).await;
    let kept = states
        .iter()
        .find(|state| state.partition == standing.partition)
        .expect("there");
    assert_eq!((kept.position, kept.revision.get()), (77, 5));
    assert_eq!(store.get(key("d/m")).await.expect("read"), Some(written));
    assert_eq!(store.get(key("e")).await.expect("read"), None);
    let log = store.log(standing.partition, Revision::ZERO, 9).await;
    assert_eq!(log.expect("read").entries, [change(standing, 5)]);
}

pub(super) async fn identities_are_counted_as_they_come_and_go(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let counted = async |store: &dyn Store| {
        let population = store.population().await.expect("counted");
        (population.devices, population.modules)
    };
    assert_eq!(counted(&*store).await, (0, 0));
    let all: Vec<_> = ["d", "d/m", "d/n", "e", "f"]
        .map(|name| record(name, "g"))
        .into();
    let made = Commit {
        partitions: vec![standing(&states, "d", 1)],
        upserts: upserts(&all),
        ..Commit::default()
    };
    store.commit(made).await.expect("committed");
    assert_eq!(counted(&*store).await, (3, 2));
    // Written again they are no more, and what is not there is not removed.
    let changed = Commit {
        partitions: vec![standing(&states, "e", 2)],
        upserts: upserts(&[record("d", "g2"), record("d/m", "g2"), record("new", "g")]),
        deletes: vec![key("d/n"), key("e"), key("gone")],
        ..Commit::default()
    };
    store.commit(changed).await.expect("committed");
    assert_eq!(counted(&*store).await, (3, 1));
    let refused = Commit {
        partitions: vec![PartitionState {
            epoch: Epoch(u64::from(u32::MAX)),
            ..standing(&states, "d", 3)
        }],
        upserts: upserts(&[record("x", "g")]),
        ..Commit::default()
    };
    store.commit(refused).await.expect_err("another owns it");
    store.close().await;
    assert_eq!(counted(&*opener.open().await).await, (3, 1));
    opener.is_counted().await;
}
