//! A store with something of everything, for tests.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use twin::{
    ConfigurationStatus, IdentityKey, PartitionCount, Revision, Stamp, TwinPatch, Writer,
    partition_of,
};

use super::maintain::{Gaps, Restoring};
use super::place::Place;
use super::{
    AuditEntry, AuditHead, Commit, EnrollmentToken, EnrollmentUse, HistoryEntry, Loaded, LogEntry,
    OperationId, OperationResultRow, OperationRow, PartitionState, ProvisioningKey,
    ProvisioningKind, ProvisioningRow, ProvisioningWrite, Replica, ReplicaId, RequestAnswer,
    RequestId, Selection, Store, Upsert,
};
use crate::apply::ChangeKind;
use crate::record::{Record, TwinText};
use crate::testing::{device, key, now, object, record};
use crate::{audit, index};

/// The partitions of stores in tests.
pub(crate) fn count() -> PartitionCount {
    PartitionCount::new(4).expect("a count")
}

/// A new replica, which counts as gone at once when another one comes.
pub(crate) fn replica(count: PartitionCount) -> Replica {
    Replica {
        id: ReplicaId(uuid::Uuid::new_v4().to_string()),
        address: "http://replica".to_owned(),
        count,
        lease: Duration::ZERO,
    }
}

/// Takes every partition, as a start of the service does.
pub(crate) async fn take(store: &dyn Store) -> Vec<PartitionState> {
    let claims = store.claim(replica(count())).await.expect("taken");
    assert_eq!(claims.owned.len(), usize::from(count().get()));
    claims.owned
}

/// Rows, none of which may be damaged.
pub(crate) fn sound<R, E: std::fmt::Debug>(rows: Vec<Result<R, E>>) -> Vec<R> {
    let rows = rows.into_iter().map(|row| row.expect("not damaged"));
    rows.collect()
}

/// The standing of the partition of an identity.
pub(crate) fn of<'s>(
    states: &'s mut [PartitionState],
    key: &IdentityKey,
) -> &'s mut PartitionState {
    let partition = partition_of(&key.device, count());
    let state = states.iter_mut().find(|one| one.partition == partition);
    state.expect("all partitions are there")
}

/// A record with tags that tell of its name, and documents that are hard to keep.
pub(crate) fn tagged(name: &str) -> Record {
    let mut record = record(name, "g");
    let twin = record.twin.parse(&record.key).expect("readable");
    let patch = TwinPatch {
        tags: Some(object(json!({
            "name": name, "site": { "floor": 3, "open": true }, "odd": "\0é\\u0000",
        }))),
        desired: Some(object(json!({ "name": name }))),
    };
    let stamp = Stamp {
        at: now(),
        by: Writer::Operator("alice".to_owned()),
    };
    let write = twin.patch(&patch, &stamp, None).expect("allowed");
    record.twin = TwinText::print(&write.expect("it changes").twin);
    record.configurations = [
        ("brighter".to_owned(), ConfigurationStatus::Applied),
        ("darker".to_owned(), ConfigurationStatus::Targeted),
    ]
    .into();
    record
}

/// A revision of an identity.
pub(crate) fn revision(key: &IdentityKey, revision: u64) -> HistoryEntry {
    let at = now() + Duration::from_secs(revision);
    HistoryEntry {
        key: key.clone(),
        revision: Revision::new(revision),
        first_revision: Revision::new(revision),
        at,
        first_at: at,
        actor: "operator:alice".to_owned(),
        cause: "UpdateTwin".to_owned(),
        changes: [ChangeKind::Tags, ChangeKind::Status].into(),
        patch: format!(r#"{{"version":{revision}}}"#),
        undo: format!(r#"{{"version":{}}}"#, revision - 1),
        notification: revision
            .is_multiple_of(3)
            .then(|| r#"{"a":null}"#.to_owned()),
        has_registry: !revision.is_multiple_of(3),
        routine: false,
        previous: None,
        trace_parent: revision.is_multiple_of(2).then(|| "00-aa-bb-01".to_owned()),
    }
}

/// The next entry of a partition's chain.
pub(crate) fn audited(state: &mut PartitionState, resource: &str) -> AuditEntry {
    let entry = AuditEntry {
        partition: state.partition,
        sequence: 0,
        at: now() + Duration::from_nanos(5),
        actor: "operator:alice".to_owned(),
        action: "device.create".to_owned(),
        resource: resource.to_owned(),
        detail: r#"{"status":"enabled"}"#.to_owned(),
        trace_parent: None,
        hash: [0; 32],
    };
    audit::append(&mut state.audit, entry)
}

/// A restore as somebody asks for it.
pub(crate) fn restoring(now: Timestamp, gaps: Gaps) -> Restoring {
    Restoring {
        now,
        gaps,
        actor: "os:root".to_owned(),
        source: "twins.backup".to_owned(),
    }
}

/// A commit that writes these identities as new, with everything that belongs to it.
pub(crate) fn created(states: &mut [PartitionState], names: &[&str]) -> Commit {
    let mut commit = Commit::default();
    for name in names {
        let mut record = tagged(name);
        let state = of(states, &record.key);
        state.revision = state.revision.next().expect("there are more");
        record.revision = state.revision;
        commit.log.push(LogEntry {
            partition: state.partition,
            revision: state.revision,
            change: format!("change of {name}").into_bytes(),
        });
        commit
            .audit
            .push(audited(state, &format!("devices/{name}")));
        commit
            .history
            .push(revision(&record.key, state.revision.get()));
        commit.upserts.push(Upsert {
            index_remove: Vec::new(),
            index_add: index::entries(&record)
                .expect("readable")
                .into_iter()
                .collect(),
            record: Arc::new(record),
        });
    }
    commit.partitions = states.to_vec();
    commit
}

/// Fills a store with something of everything.
pub(crate) async fn fill(store: &dyn Store) -> Vec<PartitionState> {
    let mut states = take(store).await;
    let mut commit = created(&mut states, &["a", "a/m", "a/n", "b", "c", "c/m"]);
    commit.tokens = tokens();
    commit.enrollments = enrollments();
    commit.requests = answers();
    commit.operations = operations();
    commit.results = results();
    commit.provisioning = provisioning();
    store.commit(commit).await.expect("committed");
    // Some more revisions, a part of the log published and forgotten, and an identity removed.
    let mut commit = created(&mut states, &["a", "b", "d"]);
    let gone = key("d");
    let state = of(&mut states, &gone);
    commit.upserts.retain(|upsert| upsert.record.key != gone);
    commit.deletes = vec![gone.clone()];
    let its_last = commit.history.iter_mut().find(|entry| entry.key == gone);
    its_last.expect("it has one").patch = "null".to_owned();
    state.published = state.revision;
    state.position = 42;
    commit.trim_log = vec![(state.partition, Revision::new(1))];
    commit.partitions = states.clone();
    store.commit(commit).await.expect("committed");
    assert!(
        states
            .iter()
            .any(|state| state.audit != AuditHead::default())
    );
    states
}

pub(crate) fn tokens() -> Vec<EnrollmentToken> {
    vec![EnrollmentToken {
        hash: [7; 32],
        device: Some(device("z")),
        expires_at: now() + Duration::from_hours(1),
        uses_max: 2,
    }]
}

pub(crate) fn enrollments() -> Vec<EnrollmentUse> {
    vec![EnrollmentUse {
        hash: [7; 32],
        device: device("z"),
        nonce: "n".to_owned(),
    }]
}

pub(crate) fn answers() -> Vec<RequestAnswer> {
    vec![RequestAnswer {
        id: RequestId("alice/UpdateTwin/1".to_owned()),
        fingerprint: [9; 32],
        answer: vec![0, 1, 255],
        at: now(),
    }]
}

pub(crate) fn operations() -> Vec<OperationRow> {
    vec![OperationRow {
        id: OperationId("018f".to_owned()),
        ended: true,
        at: now(),
        body: r#"{"kind":"delete"}"#.to_owned(),
    }]
}

pub(crate) fn results() -> Vec<OperationResultRow> {
    vec![OperationResultRow {
        operation: OperationId("018f".to_owned()),
        key: key("a/m"),
        body: r#"{"done":true}"#.to_owned(),
    }]
}

pub(crate) fn enrolment(kind: ProvisioningKind, id: &str, body: &str) -> ProvisioningRow {
    ProvisioningRow {
        key: ProvisioningKey {
            kind,
            id: id.to_owned(),
        },
        body: body.to_owned(),
    }
}

pub(crate) fn provisioning() -> Vec<ProvisioningWrite> {
    let rows = [
        enrolment(ProvisioningKind::Scope, "", r#"{"scope":"0neSAMPLE01"}"#),
        enrolment(ProvisioningKind::Individual, "sn-1", r#"{"of":"sn-1"}"#),
        enrolment(ProvisioningKind::Group, "plant", r#"{"of":"plant"}"#),
    ];
    rows.map(ProvisioningWrite::Put).into()
}

/// Operations `1` to `3` that go on, and results of the first on `a` to `f`.
pub(crate) fn many_operations(partitions: Vec<PartitionState>) -> Commit {
    let operations = ["1", "2", "3"].map(|id| OperationRow {
        id: OperationId(id.to_owned()),
        ended: false,
        at: now(),
        body: "{}".to_owned(),
    });
    let results = ["a", "b", "c", "d", "e", "f"].map(|name| OperationResultRow {
        operation: OperationId("1".to_owned()),
        key: key(name),
        body: "{}".to_owned(),
    });
    Commit {
        partitions,
        operations: operations.into(),
        results: results.into(),
        ..Commit::default()
    }
}

/// Reads [`many_operations`] page by page: of the results those on `b` and `e` are whole, of the
/// operations the first and the last.
pub(crate) async fn read_with_damage(store: &dyn Store) {
    let first = OperationId("1".to_owned());
    let (mut whole, mut damaged, mut after) = (Vec::new(), 0, None);
    for _ in 0..9 {
        let page = store.operation_results(first.clone(), after, 1).await;
        let page = page.expect("read");
        whole.extend(page.records.into_iter().map(|row| row.key.to_string()));
        damaged += page.damaged.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(
        (whole.as_slice(), damaged),
        (["b", "e"].map(String::from).as_slice(), 4)
    );
    let (mut whole, mut damaged, mut after) = (Vec::new(), 0, None);
    for _ in 0..9 {
        let page = store.operations(after, 1).await.expect("read");
        whole.extend(page.records.into_iter().map(|row| row.id.0));
        damaged += page.damaged.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(
        (whole.as_slice(), damaged),
        (["3", "1"].map(String::from).as_slice(), 1)
    );
    let running = store.load(vec![Selection::Running]).await.expect("read");
    assert_eq!(running.len(), 2, "{running:?}");
    let one = Selection::Operation(OperationId("2".to_owned()));
    let loaded = store.load(vec![one.clone()]).await.expect("read");
    assert!(matches!(&loaded[..], [Loaded::Damaged(of, _)] if *of == one));
}

/// A commit of so many routine revisions of one device, each twenty seconds behind the one before, and the place
/// of the tenth.
pub(super) fn far_apart(states: Vec<PartitionState>, count: u64) -> (Commit, Place) {
    let entries = (1..=count).map(|number| {
        let at = Timestamp::UNIX_EPOCH + Duration::from_secs(20 * number);
        HistoryEntry {
            routine: true,
            at,
            first_at: at,
            ..revision(&key("d"), number)
        }
    });
    let found = Place {
        at: 200_000_000_000,
        device: "d".to_owned(),
        module: String::new(),
        revision: 10,
    };
    let commit = Commit {
        partitions: states,
        history: entries.collect(),
        ..Commit::default()
    };
    (commit, found)
}
