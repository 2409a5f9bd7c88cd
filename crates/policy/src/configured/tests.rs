use jiff::Timestamp;
use serde_json::{Value, json};
use twin::{SectionKind, Stamp};
use wire::twin::v1 as proto;

use super::*;
use crate::configuration_doc::{ConfigurationId, ConfigurationSpec};
use crate::evaluate::{Decision, PolicySet, decide};
use crate::explain::{Reason, explain};
use crate::policy_doc::{Policy, PolicySpec, Scope};
use crate::preview::forecast;
use crate::schedule::Gate;
use crate::store::StoredConfiguration;

fn object(value: Value) -> Map {
    let Value::Object(object) = value else {
        panic!("{value} is no object")
    };
    object
}

fn configuration(id: &str, priority: i32, order: u64, content: Value) -> ActivePolicy {
    let stored = StoredConfiguration {
        id: ConfigurationId::parse(id).unwrap(),
        spec: ConfigurationSpec {
            content: Some(object(content)),
            target_condition: "tags.site = 'here'".to_owned(),
            priority,
            ..ConfigurationSpec::default()
        },
        revision: 7,
        created_order: order,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    };
    assert_eq!(stored.spec.problems(), []);
    stored.active().expect("there is something to do")
}

fn policy(id: &str, priority: i32, order: u64, settings: Value) -> ActivePolicy {
    let spec = PolicySpec {
        id: id.to_owned(),
        scope: Scope::Devices,
        target: "*".to_owned(),
        priority,
        settings: object(settings),
        ..PolicySpec::default()
    };
    ActivePolicy {
        policy: Policy::check(spec).unwrap(),
        revision: 2,
        created_order: order,
        stage: None,
        gate: Gate::Open,
    }
}

/// A device's twin after what these policies make of what an operator wrote.
fn device(site: &str, mine: Value, set: &PolicySet) -> TwinDocument {
    let stamp = Stamp {
        at: Timestamp::UNIX_EPOCH,
        by: Writer::Operator("o".to_owned()),
    };
    let section = Section::new(&stamp);
    let mine = object(mine);
    let mut section = section.merge(&mine, &stamp, SectionKind::Desired).unwrap();
    let before = document(site, &section, &ConfigurationStates::new());
    if let Decision::Write(writes) = decide(set, &before, Timestamp::UNIX_EPOCH).decision {
        let written = twin::apply_policy_settings(&section, &writes, Timestamp::UNIX_EPOCH);
        if let twin::PolicyChange::Changed { section: new, .. } = written.unwrap().change {
            section = *new;
        }
    }
    document(site, &section, &ConfigurationStates::new())
}

fn document(site: &str, section: &Section, states: &ConfigurationStates) -> TwinDocument {
    TwinDocument::from_wire(&proto::Twin {
        device_id: "d".to_owned(),
        status: "enabled".to_owned(),
        tags_json: json!({ "site": site }).to_string(),
        desired_json: Value::Object(section.document().clone()).to_string(),
        desired_version: section.version().get(),
        desired_metadata_json: section.metadata_to_json().to_string(),
        reported_json: "{}".to_owned(),
        configurations: wire::configurations::to_wire(states),
        ..proto::Twin::default()
    })
    .unwrap()
}

fn stand(set: &PolicySet, twin: &TwinDocument) -> Vec<(String, &'static str)> {
    let decided = decide(set, twin, Timestamp::UNIX_EPOCH);
    let states = decided.configurations.into_iter();
    states.map(|(id, at)| (id, at.as_str())).collect()
}

#[test]
fn policies_and_configurations_share_one_order_and_keep_their_names_apart() {
    let set = PolicySet::new([
        policy("c", 5, 1, json!({"x": 1, "y": 1})),
        configuration(
            "c",
            5,
            2,
            json!({"deviceContent": {"properties.desired.x": 2}}),
        ),
        configuration(
            "low",
            1,
            3,
            json!({"deviceContent": {"properties.desired": {"x": 3, "z": {"a": []}}}}),
        ),
    ]);
    let twin = device("here", json!({}), &set);
    assert_eq!(
        Value::Object(twin.desired().document().clone()),
        json!({"x": 2, "y": 1, "z": {"a": []}})
    );
    let writers = leaves_of(twin.desired());
    let writers: Vec<String> = writers.iter().map(|leaf| leaf.writer.to_string()).collect();
    assert_eq!(
        writers,
        ["configuration:c", "policy:c@2", "configuration:low"]
    );
    let both = [("c".to_owned(), "Applied"), ("low".to_owned(), "Applied")];
    assert_eq!(stand(&set, &twin), both);
    let holds = decide(&set, &twin, Timestamp::UNIX_EPOCH).decision;
    assert!(matches!(holds, Decision::Holds), "{holds:?}");
    // Out of the target everything of them goes, and what the policy wanted comes.
    let elsewhere = document("there", twin.desired(), &ConfigurationStates::new());
    assert_eq!(stand(&set, &elsewhere), []);
    let Decision::Write(wanted) = decide(&set, &elsewhere, Timestamp::UNIX_EPOCH).decision else {
        panic!("something is to be taken out");
    };
    let outcome = twin::apply_policy_settings(twin.desired(), &wanted, Timestamp::UNIX_EPOCH);
    let twin::PolicyChange::Changed { section, .. } = outcome.unwrap().change else {
        panic!("something was taken out");
    };
    assert_eq!(
        Value::Object(section.document().clone()),
        json!({"x": 1, "y": 1})
    );
}

#[test]
fn while_one_is_frozen_its_settings_and_where_it_stands_stay() {
    let content = |value| json!({"deviceContent": {"properties.desired.x": value}});
    let set = |value, low, gate: fn() -> Gate| {
        let mut of = [
            configuration("c", 5, 2, content(value)),
            configuration("low", 1, 1, content(low)),
        ];
        for one in &mut of {
            one.gate = gate();
        }
        PolicySet::new(of)
    };
    let open = || Gate::Open;
    let closed = || Gate::Closed("an incident".into());
    let before = device("here", json!({}), &set(1, 0, open));
    let states = decide(&set(1, 0, open), &before, Timestamp::UNIX_EPOCH).configurations;
    assert_eq!(states["low"], ConfigurationStatus::Targeted);
    // Out of the target, or with another content: nothing is written, and nothing is forgotten.
    for (site, value) in [("here", 1), ("here", 2), ("there", 1), ("there", 2)] {
        let twin = document(site, before.desired(), &states);
        let decided = decide(&set(value, value, closed), &twin, Timestamp::UNIX_EPOCH);
        assert!(
            matches!(decided.decision, Decision::Holds),
            "{site} {value}"
        );
        assert_eq!(decided.configurations, states, "{site} {value}");
    }
    // It lets nothing on, either.
    let fresh = device("here", json!({}), &set(1, 0, closed));
    assert_eq!(Value::Object(fresh.desired().document().clone()), json!({}));
    assert_eq!(stand(&set(1, 0, closed), &fresh), []);
    // And when it is over, what waited happens.
    let left = document("there", before.desired(), &states);
    let decided = decide(&set(1, 0, open), &left, Timestamp::UNIX_EPOCH);
    assert!(matches!(decided.decision, Decision::Write(writes) if writes.is_empty()));
    assert!(decided.configurations.is_empty());
}

#[test]
fn one_is_applied_while_something_of_what_it_wants_is_there() {
    let content =
        json!({"deviceContent": {"properties.desired.x": 1, "properties.desired.y.z": 2}});
    let set = PolicySet::new([configuration("c", 1, 1, content)]);
    let cases = [
        (json!({}), "Applied"),
        (json!({"x": 9}), "Applied"),
        // Held by somebody else, but just that.
        (json!({"x": 1, "y": 3}), "Applied"),
        (json!({"x": 9, "y": {"z": 9}}), "Targeted"),
    ];
    for (mine, wanted) in cases {
        let twin = device("here", mine.clone(), &set);
        assert_eq!(stand(&set, &twin), [("c".to_owned(), wanted)], "{mine}");
    }
}

#[test]
fn what_does_not_fit_a_twin_leaves_a_configuration_targeted() {
    let big = json!({"a": "x".repeat(4000), "b": "x".repeat(4000), "c": "x".repeat(4000)});
    let set = PolicySet::new([configuration(
        "big",
        1,
        1,
        json!({"deviceContent": {"properties.desired.more": big}}),
    )]);
    let filled: twin::Map = (0..6)
        .map(|number| (format!("k{number}"), "y".repeat(4000).into()))
        .collect();
    let twin = device("here", Value::Object(filled), &set);
    let decided = decide(&set, &twin, Timestamp::UNIX_EPOCH).decision;
    assert!(matches!(decided, Decision::Breaks(_)), "{decided:?}");
    assert_eq!(stand(&set, &twin), [("big".to_owned(), "Targeted")]);
}

#[test]
fn content_that_sets_nothing_or_is_for_the_edge_is_not_carried_out() {
    let spec = |content: Value, target: &str| ConfigurationSpec {
        content: Some(object(content)),
        target_condition: target.to_owned(),
        ..ConfigurationSpec::default()
    };
    let device = json!({"deviceContent": {"properties.desired.x": 1}});
    let module = json!({"moduleContent": {"properties.desired.x": 1}});
    for (content, target) in [
        (json!({}), "*"),
        (
            json!({"deviceContent": {"properties.desired.x": null}}),
            "*",
        ),
        (
            json!({"modulesContent": {"m": {"properties.desired.x": 1}}}),
            "*",
        ),
        (device.clone(), ""),
    ] {
        let spec = spec(content, target);
        assert_eq!(spec.problems(), []);
        assert!(spec.work().is_none(), "{spec:?}");
    }
    for target in [
        "from devices.modules",
        "from devices.modules where moduleId = 'm'",
    ] {
        let ((scope, _), _) = spec(module.clone(), target).work().expect("work");
        assert_eq!(scope, Scope::Modules);
    }
    let own = spec(device, "properties.desired.x = 1").problems();
    assert!(
        own[0].message.contains("switch itself on and off"),
        "{own:?}"
    );
}

#[test]
fn explanations_and_previews_name_configurations() {
    let content = json!({"deviceContent": {"properties.desired.x": 2}});
    let configured = || configuration("c", 2, 2, content.clone());
    let low = PolicySet::new([policy("p", 1, 1, json!({"x": 1})), configured()]);
    let twin = device("here", json!({}), &low);
    let told = explain(&low, &twin, Timestamp::UNIX_EPOCH);
    assert_eq!(told.leaves[0].writer.to_string(), "configuration:c");
    let lost = &told.leaves[0].overruled[0];
    assert_eq!((&*lost.policy_id, lost.reason), ("p", Reason::Priority));
    assert_eq!(
        told.policies[0].active.policy.id().as_str(),
        "configuration:c"
    );

    let draft = policy("p", 3, 1, json!({"x": 1}));
    let id = draft.policy.id().clone();
    let high = low.with(draft);
    let foreseen = forecast(&high, &id, &twin, Timestamp::UNIX_EPOCH);
    let [change] = &foreseen.changes[..] else {
        panic!("one leaf changes: {foreseen:?}");
    };
    let writer = |side: &Option<(Value, Writer)>| side.as_ref().map(|(_, by)| by.to_string());
    assert_eq!(writer(&change.old).as_deref(), Some("configuration:c"));
    assert_eq!(writer(&change.new).as_deref(), Some("policy:p@2"));
    let twin = device("here", json!({}), &high);
    let told = explain(&high, &twin, Timestamp::UNIX_EPOCH);
    assert_eq!(told.leaves[0].overruled[0].policy_id, "configuration:c");
}
