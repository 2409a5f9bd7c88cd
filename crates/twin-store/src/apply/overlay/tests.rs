use super::*;
use crate::testing::{key, now, overlay, record};

fn cause(text: &str) -> Cause {
    Cause {
        cause: text.to_owned(),
        ..Cause::default()
    }
}

/// Changes the reason of a device's status, as a decision of its own.
fn decide(overlay: &mut Overlay, weight: Weight, text: &str) -> Revision {
    overlay.begin();
    let mut record = overlay.get(&key("d")).unwrap().clone();
    text.clone_into(&mut record.identity.status_reason);
    let changes = [ChangeKind::Status];
    overlay.put(record, &changes, weight, &cause(text)).revision
}

fn fold(overlay: &mut Overlay, weight: Weight, text: &str) {
    overlay.begin();
    let record = overlay.fold_mut(&key("d")).unwrap();
    record.posture.event_count += 1;
    overlay.folded(&key("d"), &[ChangeKind::Posture], weight, &cause(text));
}

fn steps(overlay: Overlay) -> Vec<(u64, String)> {
    let mut changes = overlay.into_outcome().changes;
    assert_eq!(changes.len(), 1);
    let change = changes.pop().unwrap();
    assert_eq!(change.before.as_deref(), Some(&record("d", "g")));
    assert_eq!(change.after.as_ref().unwrap().revision, change.revision);
    let mut before = change.before.clone();
    for step in &change.steps {
        assert_eq!(step.before, before, "each begins where the last ended");
        before.clone_from(&step.after);
    }
    assert_eq!(before, change.after);
    change
        .steps
        .into_iter()
        .map(|step| (step.revision.get(), step.touch.cause.cause))
        .collect()
}

#[test]
fn facts_of_different_decisions_are_steps_of_their_own() {
    let mut overlay = overlay([record("d", "g")]);
    assert_eq!(decide(&mut overlay, Weight::Fact, "one").get(), 1);
    assert_eq!(decide(&mut overlay, Weight::Fact, "two").get(), 2);
    assert_eq!(steps(overlay), [(1, "one".into()), (2, "two".into())]);
}

#[test]
fn what_only_counts_joins_the_step_that_follows() {
    let mut overlay = overlay([record("d", "g")]);
    fold(&mut overlay, Weight::Routine, "counted");
    decide(&mut overlay, Weight::Fact, "written");
    assert_eq!(steps(overlay), [(1, "written".into())]);
}

#[test]
fn events_never_hide_in_the_step_of_a_write() {
    let mut overlay = overlay([record("d", "g")]);
    decide(&mut overlay, Weight::Fact, "written");
    fold(&mut overlay, Weight::Routine, "counted");
    assert_eq!(
        steps(overlay),
        [(1, "written".into()), (2, "counted".into())]
    );
}

#[test]
fn events_of_one_commit_stay_together() {
    let mut overlay = overlay([record("d", "g")]);
    fold(&mut overlay, Weight::Fact, "one");
    fold(&mut overlay, Weight::Fact, "two");
    fold(&mut overlay, Weight::Routine, "three");
    assert_eq!(steps(overlay), [(1, "one".into())]);
}

#[test]
fn what_is_made_and_removed_between_two_commits_leaves_both_in_its_history() {
    let mut overlay = overlay([]);
    overlay.begin();
    overlay.put(
        record("d", "g"),
        &[ChangeKind::Created],
        Weight::Fact,
        &cause("made"),
    );
    overlay.begin();
    overlay.remove(&key("d"), &cause("removed"));
    assert!(overlay.find(&key("d")).unwrap().is_none());
    let mut changes = overlay.into_outcome().changes;
    let change = changes.pop().unwrap();
    assert!(change.before.is_none() && change.after.is_none());
    let causes: Vec<_> = change
        .steps
        .iter()
        .map(|step| step.touch.cause.cause.as_str())
        .collect();
    assert_eq!(causes, ["made", "removed"]);
}

#[test]
fn what_is_looked_at_and_not_changed_is_not_written() {
    let mut overlay = overlay([record("d", "g")]);
    overlay.begin();
    overlay.fold_mut(&key("d")).unwrap();
    assert!(overlay.into_outcome().changes.is_empty());
}

#[test]
fn a_record_is_stamped_with_its_revision_and_the_time_of_the_commit() {
    let mut old = record("d", "g");
    old.updated_at = Timestamp::UNIX_EPOCH;
    let mut overlay = overlay([old]);
    decide(&mut overlay, Weight::Fact, "x");
    let record = overlay.get(&key("d")).unwrap();
    assert_eq!((record.revision.get(), record.updated_at), (1, now()));
}

#[test]
fn an_operation_is_written_in_its_last_state() {
    let row = |body: &str| OperationRow {
        id: OperationId("1".to_owned()),
        ended: false,
        at: now(),
        body: body.to_owned(),
    };
    let mut overlay = overlay([]);
    overlay.put_operation(row("first"));
    overlay.put_operation(row("second"));
    assert_eq!(
        overlay.operation(&row("").id).unwrap(),
        Some(&row("second"))
    );
    assert_eq!(overlay.into_outcome().left.operations, [row("second")]);
}
