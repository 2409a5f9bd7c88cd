use proptest::prelude::*;
use serde_json::json;
use twin::{ModuleId, SectionKind, Stamp};
use wire::twin::v1 as proto;

use super::*;
use crate::evaluate::{ActivePolicy, Decision, decide};
use crate::policy_doc::{Policy, PolicySpec};

fn active(id: &str, target: &str, priority: i32, settings: Value, order: u64) -> ActivePolicy {
    let Value::Object(settings) = settings else {
        panic!("settings are an object")
    };
    ActivePolicy {
        stage: None,
        gate: crate::schedule::Gate::Open,
        policy: Policy::check(PolicySpec {
            id: id.to_owned(),
            target: target.to_owned(),
            priority,
            settings,
            ..PolicySpec::default()
        })
        .unwrap(),
        revision: order + 1,
        created_order: order,
    }
}

fn draft_id() -> PolicyId {
    PolicyId::parse("p1").unwrap()
}

fn document(section: &Section, tag: i32) -> TwinDocument {
    TwinDocument::from_wire(&proto::Twin {
        device_id: "d".to_owned(),
        module_id: ModuleId::SECURITY.to_owned(),
        tags_json: json!({"a": tag}).to_string(),
        desired_json: Value::Object(section.document().clone()).to_string(),
        desired_version: section.version().get(),
        desired_metadata_json: section.metadata_to_json().to_string(),
        ..proto::Twin::default()
    })
    .unwrap()
}

fn operators(desired: &Value) -> Section {
    let stamp = Stamp {
        at: Timestamp::UNIX_EPOCH,
        by: Writer::Operator("alice".to_owned()),
    };
    let patch = desired.as_object().unwrap();
    Section::new(&stamp)
        .merge(patch, &stamp, SectionKind::Desired)
        .unwrap()
}

/// The twin after what the service and twin-store do: decide, write, decide again on what came of
/// it. None if it never ends.
fn applied(set: &PolicySet, section: &Section, tag: i32) -> Option<Section> {
    let mut section = section.clone();
    for _ in 0..100 {
        let twin = document(&section, tag);
        match decide(set, &twin, Timestamp::UNIX_EPOCH).decision {
            Decision::Holds | Decision::Breaks(_) => return Some(section),
            Decision::Write(writes) => {
                let at = Timestamp::UNIX_EPOCH;
                let outcome = twin::apply_policy_settings(&section, &writes, at).unwrap();
                match outcome.change {
                    PolicyChange::Changed { section: next, .. } => section = *next,
                    PolicyChange::Unchanged => panic!("a write that changes nothing"),
                }
            }
        }
    }
    None
}

/// Makes the changes that a forecast lists to the leaves that are there.
fn replayed(section: &Section, forecast: &Forecast) -> Vec<(Vec<String>, Value, Writer)> {
    let listed = |section: &Section| -> BTreeMap<Vec<String>, (Value, Writer)> {
        let leaves = leaves_of(section).into_iter();
        leaves
            .map(|leaf| (leaf.path, (leaf.value, leaf.writer)))
            .collect()
    };
    let mut leaves = listed(section);
    for change in &forecast.changes {
        assert_eq!(leaves.get(&change.path), change.old.as_ref());
        match &change.new {
            Some(new) => leaves.insert(change.path.clone(), new.clone()),
            None => leaves.remove(&change.path),
        };
    }
    let all = leaves.into_iter();
    all.map(|(path, (value, writer))| (path, value, writer))
        .collect()
}

fn settings() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"x": 1}),
        json!({"x": 2}),
        json!({"x": {"y": 1}}),
        json!({"x": {"z": 2}, "w": 3}),
        json!({"o": 7}),
        json!({"o": {"k": 7}, "v": true}),
        json!({"x": {}}),
        json!({"w": 4, "big": "b".repeat(4000)}),
    ])
}

fn targets() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "*",
        "",
        "tags.a = 1",
        "tags.a = 2",
        "desired.v = true",
        "NOT IS_DEFINED(desired.q)",
    ])
}

/// Policies `p0`, `p1`, ...; those that would look at what they set themselves are refused, as
/// anywhere.
fn policies() -> impl Strategy<Value = Vec<ActivePolicy>> {
    let one = (targets(), 0..3_i32, settings());
    prop::collection::vec(one, 0..5).prop_map(|list| {
        let made = list
            .into_iter()
            .zip(0..)
            .filter_map(|((target, priority, settings), order)| {
                let own = target.starts_with("desired.v") && settings.get("v").is_some();
                (!own).then(|| active(&format!("p{order}"), target, priority, settings, order))
            });
        made.collect()
    })
}

proptest! {
    #[test]
    fn what_is_foreseen_is_what_applying_does(
        present in policies(),
        draft in (targets(), 0..3_i32, settings()),
        tag in 0..3_i32,
        desired in prop::sample::select(vec![
            json!({}), json!({"o": 1}), json!({"o": {}, "x": 5}), json!({"x": {"y": 0}}),
            json!({"f": ["f".repeat(4000), "f".repeat(4000), "f".repeat(4000), "f".repeat(4000)],
                   "g": ["f".repeat(4000), "f".repeat(4000), "f".repeat(4000), "f".repeat(4000)]}),
        ]),
    ) {
        let (target, priority, settings) = draft;
        prop_assume!(!(target.starts_with("desired.v") && settings.get("v").is_some()));
        let draft = active("p1", target, priority, settings, 9);
        let present = PolicySet::new(present);
        let start = operators(&desired);
        // A twin that holds what is in force, as twins mostly do.
        let now = applied(&present, &start, tag);
        prop_assume!(now.is_some());
        let now = now.unwrap();
        let after = present.with(draft);
        let twin = document(&now, tag);
        let forecast = forecast(&after, &draft_id(), &twin, Timestamp::UNIX_EPOCH);
        match applied(&after, &now, tag) {
            None => prop_assert!(matches!(forecast.end, End::Unsettled)),
            Some(section) => {
                let leaves: Vec<_> = leaves_of(&section)
                    .into_iter()
                    .map(|leaf| (leaf.path, leaf.value, leaf.writer))
                    .collect();
                prop_assert_eq!(replayed(&now, &forecast), leaves);
                let broken = matches!(
                    decide(&after, &document(&section, tag), Timestamp::UNIX_EPOCH).decision,
                    Decision::Breaks(_)
                );
                prop_assert_eq!(matches!(forecast.end, End::Breaks(_)), broken);
            }
        }
    }

    #[test]
    fn nothing_changes_on_a_twin_that_is_not_asked_for(
        present in policies(),
        draft in (targets(), 0..3_i32, settings()),
        tag in 0..3_i32,
    ) {
        let (target, priority, settings) = draft;
        prop_assume!(!(target.starts_with("desired.v") && settings.get("v").is_some()));
        let draft = active("p1", target, priority, settings, 9);
        let before = present.iter().filter(|active| *active.policy.id() == draft_id());
        let concerned = PolicySet::new(before.cloned().chain([draft.clone()])).targets();
        let present = PolicySet::new(present);
        let now = applied(&present, &operators(&json!({"o": 1})), tag);
        prop_assume!(now.is_some());
        let twin = document(&now.unwrap(), tag);
        let filter = twin::Condition::parse_in(&concerned, twin::query::Vocabulary::Query).unwrap();
        prop_assume!(!filter.matches(&twin.view()));
        let after = present.with(draft);
        let forecast = forecast(&after, &draft_id(), &twin, Timestamp::UNIX_EPOCH);
        prop_assert!(!forecast.applies);
        prop_assert_eq!(forecast.changes, vec![]);
    }
}

#[test]
fn a_draft_that_breaks_a_limit_is_told() {
    let present = PolicySet::new([]);
    let after = present.with(active("p1", "*", 0, json!({"big": "b".repeat(4000)}), 1));
    let full: Vec<String> = vec!["f".repeat(4000); 8];
    let twin = document(&operators(&json!({"full": full})), 0);
    let forecast = forecast(&after, &draft_id(), &twin, Timestamp::UNIX_EPOCH);
    assert!(forecast.applies);
    assert_eq!(forecast.changes, []);
    assert!(matches!(forecast.end, End::Breaks(_)), "{forecast:?}");
}

#[test]
fn what_one_policy_sets_for_another_is_followed() {
    let present = PolicySet::new([active("p0", "desired.v = true", 0, json!({"w": 1}), 0)]);
    let after = present.with(active("p1", "*", 0, json!({"v": true}), 1));
    let twin = document(&operators(&json!({})), 0);
    let forecast = forecast(&after, &draft_id(), &twin, Timestamp::UNIX_EPOCH);
    let set: Vec<_> = forecast
        .changes
        .iter()
        .map(|change| (change.path.join("."), change.new.clone().unwrap().0))
        .collect();
    assert_eq!(
        set,
        [("v".to_owned(), json!(true)), ("w".to_owned(), json!(1))]
    );
    assert!(matches!(forecast.end, End::Settled));
}

#[test]
fn policies_that_switch_each_other_on_and_off_are_told() {
    let present = PolicySet::new([active("p0", "desired.v = true", 0, json!({"q": 1}), 0)]);
    let draft = active("p1", "NOT IS_DEFINED(desired.q)", 0, json!({"v": true}), 1);
    let after = present.with(draft);
    let twin = document(&operators(&json!({})), 0);
    let forecast = forecast(&after, &draft_id(), &twin, Timestamp::UNIX_EPOCH);
    assert!(forecast.applies);
    assert!(matches!(forecast.end, End::Unsettled), "{forecast:?}");
}
