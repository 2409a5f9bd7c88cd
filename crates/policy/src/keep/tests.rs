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
    frozen(path).hold(&key(), &section, |_| true, &mut writes);
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

#[test]
fn what_is_there_of_a_policy_that_is_gone_is_not_kept() {
    let (section, mut writes) = (section(), Vec::new());
    frozen(&["x"]).hold(&key(), &section, |id| id != "a", &mut writes);
    assert_eq!(writes, []);
}

#[test]
fn a_further_path_is_in_its_place_and_an_earlier_set_stays_as_it_was() {
    let of = |twin: &str, path: &str| {
        let one = Frozen {
            path: vec![path.to_owned()],
            writers: Vec::new(),
            at: Timestamp::UNIX_EPOCH,
        };
        (IdentityKey::parse_path(twin).unwrap(), one)
    };
    let names = (0..100).flat_map(|n| [of(&format!("d{n}"), "x"), of(&format!("d{n}"), "w")]);
    let all = FrozenSet::new(names);
    let (twin, more) = of("d7", "a");
    let with = all.clone().with(&twin, vec![more.clone(), more]);
    assert_eq!((all.len(), with.len()), (200, 201));
    let paths = |set: &FrozenSet| -> Vec<String> {
        let of_twin = set.of(&twin).iter();
        of_twin.map(|one| one.path.join(".")).collect()
    };
    assert_eq!(paths(&all), ["w", "x"]);
    assert_eq!(paths(&with), ["a", "w", "x"]);
    let twins: Vec<_> = with.iter().map(|(twin, _)| twin.clone()).collect();
    assert!(twins.is_sorted() && twins.len() == 201);
}
