//! Tokens, answers and operations.

use jiff::SignedDuration;

use super::{Opener, commit, standing};
use crate::store::sample::{self, enrolment, take};
use crate::store::{
    Commit, EnrollmentToken, EnrollmentUse, Error, Loaded, OperationId, OperationResultRow,
    OperationRow, ProvisioningKey, ProvisioningKind, ProvisioningWrite, RequestAnswer, RequestId,
    Selection,
};
use crate::testing::{device, key, now};

pub(super) fn token(hash: u8, expires_in: SignedDuration) -> EnrollmentToken {
    EnrollmentToken {
        hash: [hash; 32],
        device: hash.is_multiple_of(2).then(|| device("d")),
        expires_at: now() + expires_in,
        uses_max: 3,
    }
}

pub(super) async fn a_token_counts_its_uses_and_knows_its_nonces(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let hour = SignedDuration::from_hours(1);
    let commit = Commit {
        partitions: vec![standing(&states, "d", 0)],
        tokens: vec![token(1, hour), token(2, hour)],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    let use_of = |id: &str, nonce: &str| EnrollmentUse {
        hash: [1; 32],
        device: device(id),
        nonce: nonce.to_owned(),
    };
    let commit = Commit {
        partitions: vec![standing(&states, "d", 1)],
        enrollments: vec![
            use_of("d", "first"),
            use_of("e", "other"),
            use_of("d", "late"),
        ],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    let state = async |hash, id| {
        let selection = Selection::Token([hash; 32], device(id));
        match store.load(vec![selection]).await.expect("read").pop() {
            Some(Loaded::Token(of, state)) => {
                assert_eq!(of, device(id));
                Some((state.token, state.uses, state.nonce))
            }
            other => {
                assert_eq!(other, None);
                None
            }
        }
    };
    let (one, two) = (token(1, hour), token(2, hour));
    assert_eq!(
        state(1, "d").await,
        Some((one.clone(), 2, Some("first".to_owned())))
    );
    assert_eq!(state(1, "x").await, Some((one, 2, None)));
    assert_eq!(state(2, "d").await, Some((two, 0, None)));
    assert_eq!(state(3, "d").await, None);
}

pub(super) async fn a_token_is_not_used_more_often_than_it_may(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let token = token(1, SignedDuration::from_hours(1));
    let used = |devices: &[&str]| Commit {
        partitions: vec![standing(&states, "d", 1)],
        enrollments: devices
            .iter()
            .map(|id| EnrollmentUse {
                hash: token.hash,
                device: device(id),
                nonce: "n".to_owned(),
            })
            .collect(),
        ..Commit::default()
    };
    let made = Commit {
        tokens: vec![token.clone()],
        ..used(&["a", "b"])
    };
    store.commit(made).await.expect("committed");
    let refused = store.commit(used(&["c", "d"])).await;
    assert!(matches!(refused, Err(Error::TokenUsedUp)), "{refused:?}");
    // Nothing of it was written: the third use is still free, and who used it before is no further one.
    store.commit(used(&["c", "a"])).await.expect("the third");
    let refused = store.commit(used(&["d"])).await;
    assert!(matches!(refused, Err(Error::TokenUsedUp)), "{refused:?}");
}

pub(super) async fn an_answer_is_remembered_and_replaced(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let first = sample::answers().remove(0);
    let selection = Selection::Request(first.id.clone());
    let second = RequestAnswer {
        fingerprint: [1; 32],
        answer: Vec::new(),
        at: now() + SignedDuration::from_nanos(1),
        ..first.clone()
    };
    for answer in [first, second] {
        let written = Commit {
            requests: vec![answer.clone()],
            ..Commit::default()
        };
        commit(&*store, &states, written).await;
        let loaded = store.load(vec![selection.clone()]).await.expect("read");
        assert_eq!(loaded, [Loaded::Request(answer)]);
    }
    let unknown = Selection::Request(RequestId("alice/UpdateTwin/2".to_owned()));
    assert_eq!(store.load(vec![unknown]).await.expect("read"), []);
}

pub(super) async fn enrolments_are_listed_by_id_replaced_and_removed(opener: Opener) {
    use ProvisioningKind::{Group, Individual, Scope};
    let store = opener.open().await;
    let states = take(&*store).await;
    let put = |kind, id: &str, body: &str| ProvisioningWrite::Put(enrolment(kind, id, body));
    let written = Commit {
        provisioning: vec![
            put(Individual, "b", "1"),
            put(Individual, "a", "1"),
            put(Individual, "c", "1"),
            put(Group, "a", "2"),
            put(Scope, "", "3"),
        ],
        ..Commit::default()
    };
    commit(&*store, &states, written).await;
    let gone = enrolment(Individual, "c", "1").key;
    let written = Commit {
        provisioning: vec![
            put(Individual, "b", "4"),
            ProvisioningWrite::Remove(gone.clone()),
        ],
        ..Commit::default()
    };
    commit(&*store, &states, written).await;

    let list = async |kind, after: &str, limit| {
        let after = enrolment(kind, after, "").key;
        let page = store.provisioning(after, limit).await.expect("read");
        assert!(page.damaged.is_empty());
        (page.records, page.next.map(|key| key.id))
    };
    let (a, b) = (
        enrolment(Individual, "a", "1"),
        enrolment(Individual, "b", "4"),
    );
    let both = (vec![a.clone(), b.clone()], None);
    assert_eq!(list(Individual, "", 9).await, both);
    let first = (vec![a], Some("a".to_owned()));
    assert_eq!(list(Individual, "", 1).await, first);
    assert_eq!(list(Individual, "a", 1).await, (vec![b.clone()], None));
    assert_eq!(store.individual_enrollments().await.expect("counted"), 2);
    let group = enrolment(Group, "a", "2");
    assert_eq!(list(Group, "", 9).await, (vec![group.clone()], None));
    let scope = Selection::Provisioning(ProvisioningKey::scope());
    let selections = vec![
        scope,
        Selection::Provisioning(gone),
        Selection::Provisioning(b.key.clone()),
        Selection::Groups,
    ];
    let expected = [enrolment(Scope, "", "3"), b, group].map(Loaded::Provisioning);
    assert_eq!(store.load(selections).await.expect("read"), expected);
    opener.is_sound().await;
}

pub(super) async fn operations_are_listed_newest_first_and_their_results_by_key(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let operation = |id: &str, ended| OperationRow {
        id: OperationId(id.to_owned()),
        ended,
        at: now(),
        body: format!(r#"{{"id":"{id}"}}"#),
    };
    let result = |id: &str, of: &str, body: &str| OperationResultRow {
        operation: OperationId(id.to_owned()),
        key: key(of),
        body: body.to_owned(),
    };
    let written = Commit {
        operations: ["01", "02", "03", "04"]
            .map(|id| operation(id, false))
            .into(),
        results: vec![
            result("02", "b", "{}"),
            result("02", "a/m", "1"),
            result("02", "a", "{}"),
            result("03", "z", "{}"),
        ],
        ..Commit::default()
    };
    commit(&*store, &states, written).await;
    let written = Commit {
        operations: vec![operation("02", true)],
        results: vec![result("02", "a/m", "2")],
        ..Commit::default()
    };
    commit(&*store, &states, written).await;

    let id = |id: &str| OperationId(id.to_owned());
    let list = async |after: Option<&str>, limit| -> Vec<String> {
        let page = store.operations(after.map(id), limit).await.expect("read");
        let ids: Vec<_> = page.records.into_iter().map(|row| row.id.0).collect();
        if let Some(next) = page.next {
            assert_eq!(Some(&next.0), ids.last(), "a page goes on behind its last");
            assert_eq!(ids.len(), limit as usize);
        }
        ids
    };
    assert_eq!(list(None, 9).await, ["04", "03", "02", "01"]);
    assert_eq!(list(None, 2).await, ["04", "03"]);
    assert_eq!(list(Some("03"), 2).await, ["02", "01"]);
    let page = store.operations(None, 4).await.expect("read");
    assert_eq!(page.next, None, "the last page says so");
    let page = store.operations(None, 3).await.expect("read");
    assert_eq!(page.next, Some(id("02")));
    assert!(list(Some("01"), 2).await.is_empty());
    let loaded = store.load(vec![Selection::Operation(id("02"))]).await;
    let expected = Loaded::Operation(operation("02", true));
    assert_eq!(loaded.expect("read"), [expected]);
    let loaded = store.load(vec![Selection::Operation(id("09"))]).await;
    assert_eq!(loaded.expect("read"), []);
    let running = store.load(vec![Selection::Running]).await.expect("read");
    let running: Vec<_> = running
        .into_iter()
        .filter_map(|loaded| match loaded {
            Loaded::Operation(row) => Some(row.id.0),
            _ => None,
        })
        .collect();
    assert_eq!(running, ["01", "03", "04"]);

    let results = async |of: &str, after: Option<&str>, limit| -> Vec<(String, String)> {
        let rows = store.operation_results(id(of), after.map(key), limit).await;
        let pair = |row: OperationResultRow| (row.key.to_string(), row.body);
        let page = rows.expect("read");
        let end = page.records.last().map(|row| row.key.clone());
        assert!(page.next.is_none() || page.next == end);
        page.records.into_iter().map(pair).collect()
    };
    let pairs = |expected: &[(&str, &str)]| -> Vec<(String, String)> {
        let own = |(key, body): &(&str, &str)| ((*key).to_owned(), (*body).to_owned());
        expected.iter().map(own).collect()
    };
    let all = pairs(&[("a", "{}"), ("a/m", "2"), ("b", "{}")]);
    assert_eq!(results("02", None, 9).await, all);
    assert_eq!(results("02", None, 1).await, all[..1]);
    assert_eq!(results("02", Some("a"), 9).await, all[1..]);
    let page = store.operation_results(id("02"), Some(key("a")), 2).await;
    assert_eq!(page.expect("read").next, None, "the last page says so");
    assert!(results("01", None, 9).await.is_empty());
}
