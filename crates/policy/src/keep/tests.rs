use serde_json::json;
use twin::{PolicyChange, SectionKind, Stamp, apply_policy_settings};

use super::*;

fn write(policy: &str, settings: &Value) -> PolicyWrite {
    PolicyWrite {
        policy: policy.to_owned(),
        revision: 1,
        settings: settings.as_object().unwrap().clone(),
    }
}

fn section() -> Section {
    let operator = Stamp {
        at: Timestamp::UNIX_EPOCH,
        by: Writer::Operator("o".to_owned()),
    };
    let patch = json!({"mine": {"z": 1}});
    let section = Section::new(&operator)
        .merge(patch.as_object().unwrap(), &operator, SectionKind::Desired)
        .unwrap();
    let writes = [write("a", &json!({"x": {"y": 1}, "other": 1}))];
    let outcome = apply_policy_settings(&section, &writes, Timestamp::UNIX_EPOCH).unwrap();
    let PolicyChange::Changed { section, .. } = outcome.change else {
        panic!("it is new");
    };
    *section
}

fn key() -> IdentityKey {
    IdentityKey::parse_path("d").unwrap()
}

fn frozen(path: &[&str]) -> FrozenSet {
    let one = Frozen {
        path: path.iter().map(|key| (*key).to_owned()).collect(),
        writers: ["policy:a@1", "policy:b.c@12", "operator:o"]
            .map(str::to_owned)
            .to_vec(),
        at: Timestamp::UNIX_EPOCH,
    };
    FrozenSet::new([(key(), one)])
}

/// What a twin becomes if these are wanted while a path is frozen.
fn made(path: &[&str], wanted: Vec<PolicyWrite>) -> Value {
    let (section, mut writes) = (section(), wanted);
    frozen(path).hold(&key(), &section, &mut writes);
    let outcome = apply_policy_settings(&section, &writes, Timestamp::UNIX_EPOCH).unwrap();
    match outcome.change {
        PolicyChange::Unchanged => json!("unchanged"),
        PolicyChange::Changed { section, .. } => Value::Object(section.document().clone()),
    }
}

#[test]
fn a_frozen_leaf_stays_whoever_wants_what_of_it() {
    let b = |settings: Value| vec![write("a", &json!({"other": 1})), write("b", &settings)];
    let x = &["x", "y"][..];
    // Another value, a value above it, an object below it, and nothing at all.
    for settings in [
        json!({"x": {"y": 2}}),
        json!({"x": 3}),
        json!({"x": {"y": {"z": 1}}}),
    ] {
        assert_eq!(made(x, b(settings.clone())), "unchanged", "{settings}");
    }
    assert_eq!(made(x, vec![write("a", &json!({"other": 1}))]), "unchanged");
    // What is beside it goes on.
    assert_eq!(
        made(x, b(json!({"x": {"y": 2, "w": 5}}))),
        json!({"mine": {"z": 1}, "x": {"y": 1, "w": 5}, "other": 1})
    );
    assert_eq!(made(x, vec![]), json!({"mine": {"z": 1}, "x": {"y": 1}}));
}

#[test]
fn a_leaf_that_is_absent_stays_absent() {
    let wanted = vec![
        write("a", &json!({"x": {"y": 1}, "other": 1})),
        write("b", &json!({"gone": {"deep": 1}})),
    ];
    assert_eq!(made(&["gone", "deep"], wanted), "unchanged");
}

#[test]
fn it_is_thawed_by_a_change_of_any_policy_that_wrote_there() {
    let set = frozen(&["x"]);
    let without = |id: &str| set.without(id);
    assert_eq!(without("a").of(&key()), []);
    assert_eq!(without("b.c").of(&key()), []);
    assert_eq!(without("b"), set);
    assert_eq!(without("o"), set);
}
