use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::metadata::Stamp;
use crate::testing::{at, by_operator, document, map, patch, rfc7396};
use crate::validate::{Rule, ViolationKind};

fn write(policy: &str, revision: u64, settings: Value) -> PolicyWrite {
    PolicyWrite {
        policy: policy.into(),
        revision,
        settings: map(settings),
    }
}

fn operators(patch: Value) -> Section {
    Section::new(&by_operator("root", 0))
        .merge(&map(patch), &by_operator("alice", 1), SectionKind::Desired)
        .unwrap()
}

fn apply(section: &Section, writes: &[PolicyWrite]) -> PolicyOutcome {
    apply_policy_settings(section, writes, at(100)).unwrap()
}

/// The section and the notification; a test that expects a change fails without one.
#[track_caller]
fn changed(outcome: PolicyOutcome) -> (Section, Value) {
    match outcome.change {
        PolicyChange::Changed { section, patch } => (*section, Value::Object(patch)),
        PolicyChange::Unchanged => panic!("nothing changed"),
    }
}

fn writer(section: &Section, path: &[&str]) -> String {
    section
        .metadata()
        .at(path.iter().copied())
        .unwrap()
        .by
        .to_string()
}

#[test]
fn a_policy_sets_its_leaves_once_and_takes_them_back() {
    let before = operators(json!({"keep": 1}));
    let writes = [write(
        "tighten",
        3,
        json!({"collect": {"fast": true, "every": "PT5M"}}),
    )];
    let (section, patch) = changed(apply(&before, &writes));
    assert_eq!(
        section.document(),
        &map(json!({"keep": 1, "collect": {"fast": true, "every": "PT5M"}}))
    );
    assert_eq!(patch, json!({"collect": {"fast": true, "every": "PT5M"}}));
    assert_eq!(section.version().get(), before.version().get() + 1);
    assert_eq!(writer(&section, &["collect", "fast"]), "policy:tighten@3");
    assert_eq!(writer(&section, &["keep"]), "operator:alice");

    assert_eq!(apply(&section, &writes).change, PolicyChange::Unchanged);

    let (after, patch) = changed(apply(&section, &[]));
    assert_eq!(after.document(), before.document());
    assert_eq!(patch, json!({"collect": null}));
}

#[test]
fn an_operators_leaf_is_never_overwritten_and_the_loss_is_told() {
    let section = operators(json!({"a": 1, "o": {"x": 1}, "e": {}}));
    let writes = [write("p", 1, json!({"a": 2, "b": 1, "e": 5, "o": 7}))];
    let outcome = apply(&section, &writes);
    let lost: Vec<_> = outcome
        .lost
        .iter()
        .map(|leaf| leaf.path.join("."))
        .collect();
    assert_eq!(lost, ["a", "e", "o"]);
    assert!(
        outcome
            .lost
            .iter()
            .all(|leaf| leaf.winner == Writer::Operator("alice".into()))
    );
    let (section, _) = changed(outcome);
    assert_eq!(
        section.document(),
        &map(json!({"a": 1, "b": 1, "o": {"x": 1}, "e": {}}))
    );
}

#[test]
fn an_object_over_an_operators_value_loses_every_leaf() {
    let section = operators(json!({"a": 1}));
    let writes = [write(
        "p",
        1,
        json!({"a": {"x": 1, "y": {"z": 2}, "e": {}}}),
    )];
    let outcome = apply(&section, &writes);
    assert_eq!(outcome.change, PolicyChange::Unchanged);
    let lost: Vec<_> = outcome
        .lost
        .iter()
        .map(|leaf| leaf.path.join("."))
        .collect();
    assert_eq!(lost, ["a.e", "a.x", "a.y.z"]);
}

#[test]
fn the_first_policy_wins_leaf_by_leaf_and_the_next_steps_in() {
    let high = write("high", 1, json!({"a": 1, "o": {"x": 1}}));
    let low = write("low", 9, json!({"a": 2, "b": 2, "o": {"x": 1, "y": 2}}));
    let section = operators(json!({}));
    let outcome = apply(&section, &[high.clone(), low.clone()]);
    assert_eq!(
        outcome.lost,
        [
            LostLeaf {
                path: vec!["a".into()],
                writer: low.writer(),
                winner: high.writer(),
                same_value: false,
            },
            LostLeaf {
                path: vec!["o".into(), "x".into()],
                writer: low.writer(),
                winner: high.writer(),
                same_value: true,
            },
        ]
    );
    let (section, _) = changed(outcome);
    assert_eq!(
        section.document(),
        &map(json!({"a": 1, "b": 2, "o": {"x": 1, "y": 2}}))
    );

    let (section, patch) = changed(apply(&section, &[low]));
    assert_eq!(
        section.document(),
        &map(json!({"a": 2, "b": 2, "o": {"x": 1, "y": 2}}))
    );
    assert_eq!(
        patch,
        json!({"a": 2, "o": {"x": 1}}),
        "same value, other author: written again"
    );
    assert_eq!(writer(&section, &["o", "x"]), "policy:low@9");
}

#[test]
fn between_a_value_and_an_object_precedence_decides() {
    let value = write("value", 1, json!({"a": 1}));
    let object = write("object", 1, json!({"a": {"x": 1}}));
    let nothing = operators(json!({}));
    let (section, _) = changed(apply(&nothing, &[value.clone(), object.clone()]));
    assert_eq!(section.document(), &map(json!({"a": 1})));
    let outcome = apply(&section, &[object, value]);
    assert_eq!(outcome.lost[0].winner.to_string(), "policy:object@1");
    let (section, patch) = changed(outcome);
    assert_eq!(section.document(), &map(json!({"a": {"x": 1}})));
    assert_eq!(patch, json!({"a": {"x": 1}}));
}

#[test]
fn objects_that_policies_made_go_and_an_operators_empty_object_stays() {
    let section = operators(json!({"mine": {}}));
    let writes = [write(
        "p",
        1,
        json!({"mine": {"x": 1}, "its": {"deep": {"x": 1}}}),
    )];
    let (section, _) = changed(apply(&section, &writes));
    let (section, patch) = changed(apply(&section, &[]));
    assert_eq!(section.document(), &map(json!({"mine": {}})));
    assert_eq!(patch, json!({"mine": {"x": null}, "its": null}));
}

#[test]
fn only_what_differs_gets_a_new_stamp() {
    let first = [write("p", 1, json!({"a": 1, "o": {"x": 1, "y": 1}}))];
    let (section, _) = changed(apply(&operators(json!({"k": 1})), &first));
    let second = [write("p", 1, json!({"a": 1, "o": {"x": 2, "y": 1}}))];
    let outcome = apply_policy_settings(&section, &second, at(200)).unwrap();
    let (section, patch) = changed(outcome);
    assert_eq!(patch, json!({"o": {"x": 2}}));
    let stamped = |path: &[&str]| {
        section
            .metadata()
            .at(path.iter().copied())
            .unwrap()
            .updated_at
    };
    assert_eq!(stamped(&["o", "x"]), at(200));
    assert_eq!(stamped(&["o"]), at(200));
    assert_eq!(stamped(&[]), at(200));
    assert_eq!(stamped(&["o", "y"]), at(100));
    assert_eq!(stamped(&["a"]), at(100));
    assert_eq!(stamped(&["k"]), at(1));
}

#[test]
fn settings_that_break_a_limit_are_refused_as_a_whole() {
    let section = operators(json!({"a": ["x".repeat(4096), "x".repeat(4096), "x".repeat(4096)]}));
    let wide = |key: &str| write("p", 1, json!({ key: vec!["x".repeat(4096); 5] }));
    let error = apply_policy_settings(&section, &[wide("b")], at(1)).unwrap_err();
    assert_eq!(error.kind(), ViolationKind::TooLarge);
    assert_eq!(error.list()[0].path, "properties.desired");
    let refused = |settings| validate_settings(&map(settings)).unwrap_err().list()[0].rule;
    assert_eq!(refused(json!({"a": {"b": null}})), Rule::NullInSettings);
    assert_eq!(refused(json!({"$version": 1})), Rule::KeyCharacters);
    assert_eq!(
        refused(json!({"a": vec!["x".repeat(4096); 8]})),
        Rule::SectionSize
    );
    assert!(apply_policy_settings(&section, &[write("p", 1, json!({"": 1}))], at(1)).is_err());
}

/// What happens to a section, in random order.
#[derive(Debug, Clone)]
enum Step {
    Patch(Map),
    Replace(Map),
    Policies(Vec<PolicyWrite>),
}

fn policies() -> impl Strategy<Value = Vec<PolicyWrite>> {
    let one =
        (0..3_usize, 1..3_u64, document()).prop_map(|(name, revision, settings)| PolicyWrite {
            policy: ["p", "q", "configuration:r"][name].into(),
            revision,
            settings,
        });
    prop::collection::vec(one, 0..4)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => patch().prop_map(Step::Patch),
        1 => document().prop_map(Step::Replace),
        3 => policies().prop_map(Step::Policies),
    ];
    prop::collection::vec(step, 1..12)
}

/// The plain model: policies fill what is free, in their order.
fn fill(document: &mut Map, settings: &Map) {
    for (key, value) in settings {
        match (document.get_mut(key), value) {
            (None, _) => {
                document.insert(key.clone(), value.clone());
            }
            (Some(Value::Object(inner)), Value::Object(settings)) => fill(inner, settings),
            (Some(_), _) => {}
        }
    }
}

/// Every leaf with its writer; an empty object is a leaf.
fn leaves(document: &Map, meta: &NodeMeta) -> Vec<(String, Value, Writer)> {
    let mut found = Vec::new();
    for (key, value) in document {
        let node = &meta.children[key];
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                let below = leaves(inner, node);
                found.extend(
                    below
                        .into_iter()
                        .map(|(path, v, w)| (format!("{key}.{path}"), v, w)),
                );
            }
            _ => found.push((key.clone(), value.clone(), node.by.clone())),
        }
    }
    found
}

/// The section after the steps, and the section of the same operators without any policy.
fn play(steps: &[Step]) -> (Section, Section) {
    let stamp = Stamp {
        at: at(0),
        by: Writer::System,
    };
    let (mut real, mut alone) = (Section::new(&stamp), Section::new(&stamp));
    for (step, second) in steps.iter().zip(1..) {
        let stamp = by_operator("o", second);
        let kind = SectionKind::Desired;
        match step {
            Step::Patch(patch) => {
                real = real.merge(patch, &stamp, kind).unwrap();
                alone = alone.merge(patch, &stamp, kind).unwrap();
            }
            Step::Replace(document) => {
                real = real.replace(document, &stamp, kind).unwrap();
                alone = alone.replace(document, &stamp, kind).unwrap();
            }
            Step::Policies(writes) => {
                let outcome = apply_policy_settings(&real, writes, stamp.at).unwrap();
                if let PolicyChange::Changed { section, .. } = outcome.change {
                    real = *section;
                }
            }
        }
    }
    (real, alone)
}

fn settled(section: &Section, writes: &[PolicyWrite]) -> (Section, PolicyOutcome) {
    let outcome = apply(section, writes);
    match &outcome.change {
        PolicyChange::Changed { section, .. } => ((**section).clone(), outcome),
        PolicyChange::Unchanged => (section.clone(), outcome),
    }
}

proptest! {
    #[test]
    fn history_does_not_matter(steps in steps(), writes in policies()) {
        let (real, alone) = play(&steps);
        let (real, with_history) = settled(&real, &writes);
        let (scratch, from_scratch) = settled(&alone, &writes);
        let mut model = alone.document().clone();
        for write in &writes {
            fill(&mut model, &write.settings);
        }
        prop_assert_eq!(real.document(), &model);
        prop_assert_eq!(scratch.document(), &model);
        prop_assert_eq!(
            leaves(real.document(), real.metadata()),
            leaves(scratch.document(), scratch.metadata())
        );
        prop_assert_eq!(with_history.lost, from_scratch.lost);
    }

    #[test]
    fn what_holds_already_is_not_written(steps in steps(), writes in policies()) {
        let (real, _) = play(&steps);
        let (real, _) = settled(&real, &writes);
        prop_assert_eq!(apply(&real, &writes).change, PolicyChange::Unchanged);
    }

    #[test]
    fn without_policies_exactly_the_operators_document_is_left(steps in steps()) {
        let (real, alone) = play(&steps);
        let (real, _) = settled(&real, &[]);
        prop_assert_eq!(real.document(), alone.document());
        let policies = leaves(real.document(), real.metadata());
        prop_assert!(policies.iter().all(|(_, _, writer)| !writer.is_policy()));
    }

    #[test]
    fn the_notification_leads_a_device_to_the_new_document(
        steps in steps(),
        writes in policies(),
    ) {
        let (before, _) = play(&steps);
        if let PolicyChange::Changed { section, patch } = apply(&before, &writes).change {
            let device = rfc7396(Value::Object(before.document().clone()), &Value::Object(patch));
            prop_assert_eq!(device, Value::Object(section.document().clone()));
            prop_assert_eq!(section.version(), before.version().next().unwrap());
            prop_assert_eq!(section.metadata().check_mirrors(section.document()), Ok(()));
            prop_assert_eq!(section.metadata().version, section.version());
        }
    }

    #[test]
    fn a_leaf_is_stamped_anew_only_if_value_or_writer_differ(
        steps in steps(),
        writes in policies(),
    ) {
        let (before, _) = play(&steps);
        let (after, _) = settled(&before, &writes);
        let old = leaves(before.document(), before.metadata());
        for leaf in leaves(after.document(), after.metadata()) {
            let node = |section: &Section| {
                section.metadata().at(leaf.0.split('.')).map(|n| (n.updated_at, n.version))
            };
            if old.contains(&leaf) {
                prop_assert_eq!(node(&before), node(&after));
            } else {
                prop_assert_eq!(node(&after), Some((at(100), after.version())));
            }
        }
    }

    #[test]
    fn every_wanted_leaf_is_set_or_told_as_lost(steps in steps(), writes in policies()) {
        let (before, _) = play(&steps);
        let (after, outcome) = settled(&before, &writes);
        let set = leaves(after.document(), after.metadata());
        for write in &writes {
            for (path, value) in wanted_leaves(&write.settings) {
                let is_set = set.contains(&(path.join("."), value.clone(), write.writer()));
                let is_lost =
                    outcome.lost.iter().any(|l| l.path == path && l.writer == write.writer());
                // An empty object is also there if somebody else put something into it.
                let exists = value == json!({}) && object_at(after.document(), &path);
                prop_assert!(is_set || is_lost || exists, "{path:?} of {:?}", write.policy);
            }
        }
        prop_assert!(outcome.lost.iter().all(|lost| lost.writer.is_policy()));
    }
}

fn wanted_leaves(settings: &Map) -> Vec<(Vec<String>, Value)> {
    let mut found = Vec::new();
    for (key, value) in settings {
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                for (path, value) in wanted_leaves(inner) {
                    found.push(([vec![key.clone()], path].concat(), value));
                }
            }
            _ => found.push((vec![key.clone()], value.clone())),
        }
    }
    found
}

fn object_at(document: &Map, path: &[String]) -> bool {
    let pointer = format!("/{}", path.join("/"));
    Value::Object(document.clone())
        .pointer(&pointer)
        .is_some_and(Value::is_object)
}
