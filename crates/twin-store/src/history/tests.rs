use std::time::Duration;

use proptest::prelude::*;
use twin::{ConfigurationStates, ConfigurationStatus, TwinPatch};

use super::*;
use crate::apply::telemetry::fold_entries;
use crate::apply::{Cause, ChangeKind, Mode, Weight, devices, twins};
use crate::testing::{
    entry as telemetry, heartbeats, key, new_device, now, object, operator_write, overlay,
    partition, record,
};

/// Something that may happen to a twin.
#[derive(Debug, Clone)]
enum Step {
    Patch(Value, Value),
    Replace(Value),
    Report(Value),
    Fold(u64),
    Disable,
    Identify(bool),
    Configure(ConfigurationStates),
    Delete,
    Create(String),
}

fn step() -> impl Strategy<Value = Step> {
    let document = || {
        prop::collection::btree_map(
            "[a-c]",
            prop_oneof![
                (0_i32..3).prop_map(Value::from),
                Just(Value::Null),
                Just(json!({"x": {"y": 1}})),
                Just(json!({"x": null, "z": [1, {"a": 2}]})),
            ],
            0..3,
        )
        .prop_map(|members| Value::Object(members.into_iter().collect()))
    };
    prop_oneof![
        4 => (document(), document()).prop_map(|(tags, desired)| Step::Patch(tags, desired)),
        2 => document().prop_map(Step::Replace),
        3 => document().prop_map(Step::Report),
        6 => (1_u64..40).prop_map(Step::Fold),
        1 => Just(Step::Disable),
        2 => any::<bool>().prop_map(Step::Identify),
        3 => standings().prop_map(Step::Configure),
        1 => Just(Step::Delete),
        2 => "g[0-9]{2}".prop_map(Step::Create),
    ]
}

/// Where configurations may stand.
fn standings() -> impl Strategy<Value = ConfigurationStates> {
    let status = any::<bool>().prop_map(|applied| {
        if applied {
            ConfigurationStatus::Applied
        } else {
            ConfigurationStatus::Targeted
        }
    });
    prop::collection::btree_map("[a-c]", status, 0..3)
}

/// The record after a step, and what the step touched; none when it changed nothing.
fn take(before: Option<&Record>, step: &Step, at: Timestamp) -> Option<(Option<Record>, Touch)> {
    let (key, cause) = (key("d"), Cause::default());
    let mut overlay = overlay(before.cloned());
    match step {
        Step::Patch(tags, desired) => {
            let sections = TwinPatch {
                tags: Some(object(tags.clone())),
                desired: Some(object(desired.clone())),
            };
            let patch = operator_write(twins::Form::Patch, sections);
            twins::write(&mut overlay, &key, &patch, at, &cause).ok()?;
        }
        Step::Replace(desired) => {
            let sections = TwinPatch {
                tags: None,
                desired: Some(object(desired.clone())),
            };
            let replacement = operator_write(twins::Form::Replace, sections);
            twins::write(&mut overlay, &key, &replacement, at, &cause).ok()?;
        }
        Step::Report(patch) => {
            {
                let patch = &object(patch.clone());
                let report = twins::Report {
                    patch,
                    expected: None,
                    told: 0,
                };
                twins::patch_reported(&mut overlay, &key, &report, at, &cause)
            }
            .ok()?;
        }
        Step::Fold(sequence) => {
            let generation = before?.identity.generation_id.clone();
            let batch = heartbeats([*sequence]);
            let entries = [telemetry("d", &generation, *sequence, batch)];
            fold_entries(&mut overlay, partition(), &entries, at);
        }
        Step::Disable => {
            let update = devices::DeviceUpdate {
                status: Some((crate::record::Status::Disabled, "lost".to_owned())),
                ..devices::DeviceUpdate::default()
            };
            let mode = Mode::Write;
            devices::update_device(&mut overlay, &key.device, update, None, mode, at, &cause)
                .ok()?;
        }
        Step::Identify(iot_edge) => {
            let thumbprint = crate::record::Authentication::SelfSigned {
                primary: "AB".to_owned(),
                secondary: None,
            };
            let update = devices::DeviceUpdate {
                authentication: iot_edge.then_some(Box::new(|_: &Record| Ok(thumbprint))),
                iot_edge: Some(*iot_edge),
                ..devices::DeviceUpdate::default()
            };
            let mode = Mode::Write;
            devices::update_device(&mut overlay, &key.device, update, None, mode, at, &cause)
                .ok()?;
        }
        Step::Configure(standings) => {
            let wanted = twins::Wanted {
                settings: None,
                configurations: standings.clone(),
            };
            twins::apply_policies(&mut overlay, &key, &wanted, None, at, &cause).ok()?;
        }
        Step::Delete => devices::delete(&mut overlay, &key, None, Mode::Write, &cause).ok()?,
        Step::Create(generation) => {
            let device = new_device("d", generation);
            devices::create_device(&mut overlay, device, Mode::Write, at, &cause).ok()?;
        }
    }
    let change = overlay.into_outcome().changes.pop()?;
    let after = change.after.map(std::sync::Arc::unwrap_or_clone);
    Some((after, change.touch))
}

/// Runs steps and answers every state with the revision that led to it, the first being nothing.
fn live(steps: &[Step]) -> (Vec<Value>, Vec<HistoryEntry>) {
    let (mut states, mut entries) = (vec![Value::Null], Vec::new());
    let mut present: Option<Record> = None;
    for (index, step) in steps.iter().enumerate() {
        let at = now() + jiff::SignedDuration::from_secs(i64::try_from(index).unwrap());
        let Some((mut after, touch)) = take(present.as_ref(), step, at) else {
            continue;
        };
        let revision = Revision::new(u64::try_from(index).unwrap() + 1);
        if let Some(after) = &mut after {
            after.revision = revision;
        }
        let both = [present.as_ref(), after.as_ref()];
        let made = entry(&key("d"), both, &touch, revision, at).unwrap();
        present = after;
        states.push(shown(present.as_ref()));
        entries.push(made);
    }
    (states, entries)
}

fn shown(record: Option<&Record>) -> Value {
    record.map_or(Value::Null, |record| document(record).unwrap())
}

#[test]
fn a_document_follows_the_twin_and_holds_no_key() {
    let record = record("d/m", "g1");
    let text = document(&record).unwrap().to_string();
    let crate::record::Authentication::Sas { primary, secondary } = &record.identity.authentication
    else {
        panic!("the testing record has keys");
    };
    for secret in [primary, secondary] {
        assert!(!text.contains(&secret.0));
    }
    let read_back = twin_text(&record.key, &document(&record).unwrap()).unwrap();
    assert_eq!(
        read_back.parse(&record.key).unwrap(),
        record.twin.parse(&record.key).unwrap()
    );
    assert!(twin_text(&record.key, &json!({"tags": {}})).is_err());
}

#[test]
fn folding_parses_no_section_that_did_not_change() {
    let mut before = record("d", "g1");
    before.twin.tags.document = "not JSON".to_owned();
    before.twin.reported.metadata = "not JSON".to_owned();
    let mut after = before.clone();
    after.posture.event_count += 1;
    let touch = Touch::of([ChangeKind::Posture], Weight::Routine, Cause::default());
    let both = [Some(&before), Some(&after)];
    let made = entry(&after.key, both, &touch, Revision::new(9), now()).unwrap();
    assert_eq!(made.patch, r#"{"posture":{"eventCount":1}}"#);
    assert_eq!(made.undo, r#"{"posture":{"eventCount":0}}"#);
    assert!(made.routine);
}

#[test]
fn what_changes_nothing_that_is_shown_is_a_revision_all_the_same() {
    let record = record("d", "g1");
    let touch = Touch::of([ChangeKind::Identity], Weight::Fact, Cause::default());
    let made = entry(
        &record.key,
        [Some(&record); 2],
        &touch,
        Revision::new(9),
        now(),
    )
    .unwrap();
    assert_eq!((made.patch.as_str(), made.undo.as_str()), ("{}", "{}"));
    let unreadable = entry(&record.key, [None; 2], &touch, Revision::new(9), now()).unwrap();
    assert_eq!(unreadable.patch, "null", "a damaged twin can be deleted");
}

#[test]
fn a_damaged_patch_is_named_and_nothing_panics() {
    let (_, mut entries) = live(&[Step::Create("g1".into()), Step::Fold(1), Step::Fold(2)]);
    entries[1].undo = "{".to_owned();
    assert!(merge(&entries[1], &entries[2]).is_err());
    let error = rewind(json!({}), entries.iter().rev()).unwrap_err();
    assert_eq!(error.revision, 2);
}

#[test]
fn only_routine_revisions_of_one_hour_are_put_together() {
    let hour = Duration::from_hours(1);
    let steps = [Step::Create("g1".into()), Step::Fold(1), Step::Fold(2)];
    let (_, entries) = live(&steps);
    assert!(may_merge(&entries[1], &entries[2], hour));
    assert!(
        !may_merge(&entries[0], &entries[1], hour),
        "the creation is no routine"
    );
    assert!(
        !may_merge(&entries[2], &entries[1], hour),
        "they are in order"
    );
    let mut gap = entries[2].clone();
    gap.revision = Revision::new(4);
    gap.first_revision = gap.revision;
    gap.previous = Some(Revision::new(3));
    assert!(!may_merge(&entries[1], &gap, hour), "one is missing");
    let mut ignorant = entries[1].clone();
    ignorant.previous = None;
    assert!(
        !may_merge(&ignorant, &entries[2], hour),
        "what is missing before it would never be told"
    );
    let mut both = entries[2].clone();
    both.previous = None;
    assert!(may_merge(&ignorant, &both, hour));
    assert!(
        !may_merge(&entries[1], &entries[2], Duration::ZERO),
        "it is switched off"
    );
    let mut late = entries[2].clone();
    late.at = entries[1].first_at + jiff::SignedDuration::from_secs(3601);
    assert!(
        !may_merge(&entries[1], &late, hour),
        "too long after the first"
    );
    let merged = merge(&entries[1], &entries[2]).unwrap();
    assert_eq!((merged.first_revision.get(), merged.revision.get()), (2, 3));
    assert_eq!((merged.first_at, merged.at), (entries[1].at, entries[2].at));
}

#[test]
fn where_configurations_stood_is_read_from_the_document_of_then() {
    let mut record = record("d", "g");
    let of = |record: &Record| configurations(&record.key, &document(record).unwrap()).unwrap();
    assert_eq!(of(&record), ConfigurationStates::new());
    record.configurations = [
        ("a".to_owned(), ConfigurationStatus::Targeted),
        ("b".to_owned(), ConfigurationStatus::Applied),
    ]
    .into();
    assert_eq!(of(&record), record.configurations);
    let damaged = json!({"configurations": {"a": "Sideways"}});
    assert!(configurations(&record.key, &damaged).is_err());
}

/// What each kind of write has devices told.
#[test]
fn devices_are_told_the_patch_as_it_was_sent() {
    let steps = [
        Step::Create("g1".into()),
        Step::Patch(json!({}), json!({"a": 1, "b": {"x": {"y": 1}}})),
        Step::Patch(json!({}), json!({"a": 1, "c": null})),
        Step::Replace(json!({"b": {"x": {"z": 2}}})),
        Step::Report(json!({"a": 1})),
        Step::Patch(json!({"t": 1}), json!({})),
    ];
    let (_, entries) = live(&steps);
    let told: Vec<_> = entries.iter().filter_map(notification).collect();
    let told: Vec<_> = told
        .iter()
        .map(|(version, text)| (*version, serde_json::from_str(text).unwrap()))
        .collect();
    let wanted: [(u64, Value); 4] = [
        (1, json!({})),
        (2, json!({"a": 1, "b": {"x": {"y": 1}}})),
        (3, json!({"a": 1, "c": null})),
        (4, json!({"a": null, "b": {"x": {"y": null, "z": 2}}})),
    ];
    assert_eq!(told, wanted);
    assert_eq!(entries[1].notification, None, "the patch says just that");
}

proptest! {
    #[test]
    fn whoever_merges_what_it_is_told_has_the_desired_section(
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let mut steps = steps;
        steps.insert(0, Step::Create("g00".into()));
        let (states, entries) = live(&steps);
        let mut device = json!({});
        let mut known = 0;
        for (entry, state) in entries.iter().zip(&states[1..]) {
            if state.is_null() || entry.changes.contains(&ChangeKind::Created) {
                // It is another one, and begins anew.
                (device, known) = (json!({}), 0);
            }
            if let Some((version, told)) = notification(entry) {
                prop_assert_eq!(version, known + 1);
                known = version;
                apply(&mut device, &serde_json::from_str(&told).unwrap());
            }
            if !state.is_null() {
                prop_assert_eq!(&device, &state["desired"]);
                prop_assert_eq!(json!(known), state["desiredVersion"].clone());
            }
        }
    }

    #[test]
    fn rewinding_gives_back_every_earlier_document(
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let mut steps = steps;
        steps.insert(0, Step::Create("g00".into()));
        let (states, entries) = live(&steps);
        for back in 0..=entries.len() {
            let last = states.last().unwrap().clone();
            let newest_first = entries.iter().rev().take(back);
            let was = rewind(last, newest_first).unwrap();
            prop_assert_eq!(&was, &states[entries.len() - back]);
        }
    }

    #[test]
    fn rewinding_through_whatever_is_left_gives_back_the_document_of_then(
        steps in prop::collection::vec(step(), 1..25),
        cuts in prop::collection::vec(any::<bool>(), 26),
    ) {
        let mut steps = steps;
        steps.insert(0, Step::Create("g00".into()));
        let (states, entries) = live(&steps);
        // Whatever stands in a row may have become one.
        let mut kept: Vec<HistoryEntry> = Vec::new();
        let mut run: Vec<HistoryEntry> = Vec::new();
        for (entry, cut) in entries.iter().zip(&cuts) {
            run.push(entry.clone());
            if *cut {
                kept.extend(merge_all(&run).unwrap());
                run.clear();
            }
        }
        kept.extend(merge_all(&run).unwrap());
        for (index, entry) in kept.iter().enumerate() {
            let place = entries.iter().position(|one| one.revision == entry.revision);
            let state = &states[place.unwrap() + 1];
            let last = states.last().unwrap().clone();
            let was = rewind(last, kept[index + 1..].iter().rev()).unwrap();
            prop_assert_eq!(&was, state);
            // Each names the one before it, but for what begins a life.
            let before = index.checked_sub(1).map(|before| kept[before].revision);
            let first = entries.iter().position(|one| one.revision == entry.first_revision);
            if states[first.unwrap()].is_null() {
                prop_assert_eq!(entry.previous, Some(Revision::ZERO));
            } else {
                prop_assert_eq!(entry.previous, before);
            }
        }
    }

    #[test]
    fn two_entries_put_together_are_the_two_in_a_row(
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let mut steps = steps;
        steps.insert(0, Step::Create("g00".into()));
        let (states, entries) = live(&steps);
        for (index, pair) in entries.windows(2).enumerate() {
            let merged = merge(&pair[0], &pair[1]).unwrap();
            let (before, after) = (&states[index], &states[index + 2]);
            prop_assert_eq!(&rewind(after.clone(), [&merged]).unwrap(), before);
            let mut forth = before.clone();
            apply(&mut forth, &serde_json::from_str(&merged.patch).unwrap());
            prop_assert_eq!(&forth, after);
        }
    }
}
