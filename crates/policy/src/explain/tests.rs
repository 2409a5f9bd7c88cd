use serde_json::json;
use twin::{ModuleId, SectionKind, Stamp};
use wire::twin::v1 as proto;

use super::*;
use crate::policy_doc::{Policy, PolicySpec, Scope};

fn active(id: &str, created_order: u64, spec: PolicySpec, settings: Value) -> ActivePolicy {
    let Value::Object(settings) = settings else {
        panic!("settings are an object")
    };
    let spec = PolicySpec {
        id: id.to_owned(),
        settings,
        ..spec
    };
    ActivePolicy {
        stage: None,
        gate: crate::schedule::Gate::Open,
        policy: Policy::check(spec).unwrap(),
        revision: 3,
        created_order,
    }
}

fn everywhere(priority: i32) -> PolicySpec {
    PolicySpec {
        target: "*".to_owned(),
        priority,
        ..PolicySpec::default()
    }
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

fn twin(section: &Section, metadata: &Value) -> TwinDocument {
    TwinDocument::from_wire(&proto::Twin {
        device_id: "d".to_owned(),
        module_id: ModuleId::SECURITY.to_owned(),
        tags_json: json!({"site": "hall-4"}).to_string(),
        desired_json: Value::Object(section.document().clone()).to_string(),
        desired_version: section.version().get(),
        desired_metadata_json: metadata.to_string(),
        posture_json: json!({"ports": [1, 2]}).to_string(),
        ..proto::Twin::default()
    })
    .unwrap()
}

/// Both forms in which metadata comes.
fn both_forms(section: &Section) -> [TwinDocument; 2] {
    let public = section.to_json_with_metadata(SectionKind::Desired)["$metadata"].clone();
    [public, section.metadata_to_json()].map(|metadata| twin(section, &metadata))
}

/// Leaves as `path=value writer`, each followed by who lost it.
fn told(explanation: &Explanation) -> Vec<String> {
    let mut lines = Vec::new();
    for leaf in &explanation.leaves {
        let pending = if leaf.pending { " pending" } else { "" };
        let path = leaf.path.join(".");
        lines.push(format!("{path}={} {}{pending}", leaf.value, leaf.writer));
        for lost in &leaf.overruled {
            let path = lost.path.join(".");
            let reason = lost.reason;
            lines.push(format!(
                "- {} {path}={} {reason:?}",
                lost.policy_id, lost.value
            ));
        }
    }
    lines
}

fn explained(set: &PolicySet, twin: &TwinDocument) -> Explanation {
    explain(set, twin, Timestamp::UNIX_EPOCH)
}

#[test]
fn every_leaf_names_its_writer_and_who_lost_it_and_why() {
    let set = PolicySet::new([
        active("high", 1, everywhere(5), json!({"a": 1, "b": 1, "o": 1})),
        active("late", 3, everywhere(2), json!({"b": 2, "c": 2})),
        active("old", 2, everywhere(2), json!({"c": 3, "o": {"x": 2}})),
    ]);
    let section = operators(&json!({"a": 7, "o": {"x": 9, "y": 1}}));
    for twin in both_forms(&section) {
        let explanation = explained(&set, &twin);
        assert!(matches!(explanation.state, State::Pending));
        assert_eq!(
            told(&explanation),
            [
                "a=7 operator:alice",
                "- high a=1 Operator",
                "b=1 policy:high@3 pending",
                "- late b=2 Priority",
                "c=2 policy:late@3 pending",
                "- old c=3 CreatedLater",
                r#"o={"x":9,"y":1} operator:alice"#,
                "- high o=1 Operator",
                "o.x=9 operator:alice",
                "- old o.x=2 Operator",
                "o.y=1 operator:alice",
            ]
        );
        let written = evaluate(&set, &twin, Timestamp::UNIX_EPOCH)
            .outcome
            .unwrap();
        let PolicyChange::Changed { section, .. } = written.change else {
            panic!("there is something to write")
        };
        for twin in both_forms(&section) {
            let explanation = explained(&set, &twin);
            assert!(matches!(explanation.state, State::Settled));
            assert!(
                told(&explanation)
                    .iter()
                    .all(|line| !line.ends_with("pending"))
            );
        }
    }
}

#[test]
fn a_policy_that_does_not_apply_says_what_its_condition_found() {
    let spec = |target: &str, when: &str, scope| PolicySpec {
        target: target.to_owned(),
        when: when.to_owned(),
        scope,
        ..PolicySpec::default()
    };
    let set = PolicySet::new([
        active("other", 1, spec("*", "", Scope::Devices), json!({"a": 1})),
        active(
            "not-here",
            2,
            spec("tags.site = 'hall-3' AND tags.rack = 1", "", Scope::Modules),
            json!({"a": 1}),
        ),
        active(
            "not-now",
            3,
            spec("*", "posture.ports = 1", Scope::Modules),
            json!({"a": 1}),
        ),
        active("here", 4, spec("*", "", Scope::Modules), json!({"a": 1})),
    ]);
    let [twin, _] = both_forms(&operators(&json!({})));
    let explanation = explained(&set, &twin);
    let told: Vec<_> = explanation
        .policies
        .iter()
        .map(|judged| {
            let fact = |fact: &Fact| (fact.path.clone(), fact.value.clone());
            let facts: Vec<_> = judged.facts.iter().map(fact).collect();
            (judged.active.policy.id().as_str(), judged.verdict, facts)
        })
        .collect();
    let fact = |path: &str, value: Option<&str>| (path.to_owned(), value.map(str::to_owned));
    assert_eq!(
        told,
        [
            ("here", Verdict::Applies, vec![]),
            (
                "not-now",
                Verdict::NotWhen,
                vec![fact("posture.ports", Some("[1,2]"))]
            ),
            (
                "not-here",
                Verdict::NotTargeted,
                vec![
                    fact("tags.rack", None),
                    fact("tags.site", Some("\"hall-4\""))
                ]
            ),
            ("other", Verdict::OtherScope, vec![]),
        ]
    );
    assert_eq!(explanation.policies[0].standing, Some(Standing::Pending));
    assert_eq!(explanation.policies[1].standing, None);
}

#[test]
fn settings_that_break_a_limit_are_told_and_the_leaves_are_as_they_are() {
    let big = |letter: &str| json!([letter.repeat(4000), letter.repeat(4000)]);
    let full = json!({"a": big("a"), "b": big("b"), "c": big("c"), "e": "e".repeat(4000)});
    let set = PolicySet::new([active("p", 1, everywhere(0), json!({"d": big("d")}))]);
    let [twin, _] = both_forms(&operators(&full));
    let explanation = explained(&set, &twin);
    let State::Rejected(violations) = &explanation.state else {
        panic!("{:?}", explanation.state)
    };
    assert!(violations.to_string().contains("properties.desired"));
    assert_eq!(explanation.leaves.len(), 4);
    assert_eq!(explanation.policies[0].standing, Some(Standing::Rejected));
}

#[test]
fn a_long_value_is_cut_between_characters() {
    assert_eq!(shortened("short".to_owned()), "short");
    let cut = shortened("ö".repeat(FACT_BYTES_MAX));
    assert_eq!(cut, "ö".repeat(FACT_BYTES_MAX / 2) + "…");
}
