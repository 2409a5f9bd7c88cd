use serde_json::{Value, json};
use twin::{ModuleId, Section, SectionKind, Stamp};
use wire::twin::v1 as proto;

use super::*;
use crate::policy_doc::{Policy, PolicySpec};

/// Two policies that want the same leaf, and one of them another one, too.
fn policies(settings: [Value; 2]) -> PolicySet {
    let [strong, weak] = settings;
    let active = |id: &str, priority, settings: Value, created_order| ActivePolicy {
        stage: None,
        gate: crate::schedule::Gate::Open,
        policy: Policy::check(PolicySpec {
            id: id.to_owned(),
            target: "*".to_owned(),
            when: "posture.quiet != true".to_owned(),
            priority,
            settings: settings.as_object().expect("an object").clone(),
            ..PolicySpec::default()
        })
        .expect("a policy"),
        revision: 1,
        created_order,
    };
    PolicySet::new([active("strong", 2, strong, 1), active("weak", 1, weak, 2)])
}

fn document(section: &Section, configuration: &Value, quiet: bool) -> TwinDocument {
    reporting(section, configuration, quiet, &json!({}))
}

fn reporting(
    section: &Section,
    configuration: &Value,
    quiet: bool,
    reported: &Value,
) -> TwinDocument {
    let public = section.to_json_with_metadata(twin::SectionKind::Desired);
    let metadata = match &public["$metadata"] {
        Value::Null => json!({}),
        metadata => metadata.clone(),
    };
    TwinDocument::from_wire(&proto::Twin {
        device_id: "d".to_owned(),
        module_id: ModuleId::SECURITY.to_owned(),
        desired_json: Value::Object(section.document().clone()).to_string(),
        desired_version: section.version().get(),
        desired_metadata_json: metadata.to_string(),
        reported_json: reported.to_string(),
        posture_json: json!({"configuration": configuration, "quiet": quiet}).to_string(),
        ..proto::Twin::default()
    })
    .expect("a twin")
}

fn operator() -> Stamp {
    Stamp {
        at: Timestamp::UNIX_EPOCH,
        by: Writer::Operator("o".to_owned()),
    }
}

fn merged(section: &Section, patch: &Value) -> Section {
    let patch = patch.as_object().expect("an object").clone();
    let merged = section.merge(&patch, &operator(), SectionKind::Desired);
    merged.expect("a good patch")
}

/// The section after twin-store has done what the policies want.
fn written(set: &PolicySet, section: &Section) -> Section {
    let twin = document(section, &Value::Null, false);
    let writes = set.wanted(&twin).writes;
    let outcome = twin::apply_policy_settings(section, &writes, Timestamp::UNIX_EPOCH);
    match outcome.expect("within the limits").change {
        PolicyChange::Unchanged => section.clone(),
        PolicyChange::Changed { section, .. } => *section,
    }
}

fn told(set: &PolicySet, twin: &TwinDocument) -> Vec<String> {
    standings(set, twin, Timestamp::UNIX_EPOCH)
        .into_iter()
        .map(|(active, standing)| format!("{} {}", active.policy.id(), standing.as_str()))
        .collect()
}

#[test]
fn a_policy_goes_with_the_answer_for_the_version_in_which_it_was_written() {
    let set = policies([json!({"a": 1}), json!({"b": 1})]);
    let section = merged(&Section::new(&operator()), &json!({"own": 1}));
    let twin = |section: &Section, configuration: Value| document(section, &configuration, false);
    let nothing = twin(&section, Value::Null);
    assert_eq!(told(&set, &nothing), ["strong pending", "weak pending"]);
    // The device has applied all there was before the policies came.
    let before = json!({"state": "applied", "desiredVersion": 2, "appliedVersion": 2});
    assert_eq!(
        told(&set, &twin(&section, before.clone())),
        ["strong pending", "weak pending"],
        "not written yet"
    );
    let section = written(&set, &section);
    assert_eq!(section.version().get(), 3);
    assert_eq!(
        told(&set, &twin(&section, before)),
        ["strong pending", "weak pending"],
        "not answered yet"
    );
    let applied = json!({"state": "applied", "desiredVersion": 3, "appliedVersion": 3});
    assert_eq!(
        told(&set, &twin(&section, applied)),
        ["strong applied", "weak applied"]
    );
    let rejected = json!({"state": "rejected", "desiredVersion": 3, "appliedVersion": 2});
    assert_eq!(
        told(&set, &twin(&section, rejected)),
        ["strong rejected", "weak rejected"]
    );
    for (state, standing) in [("timedOut", "timed-out"), ("reverted", "reverted")] {
        let state = json!({"state": state, "desiredVersion": 3, "appliedVersion": 2});
        let expected = [format!("strong {standing}"), format!("weak {standing}")];
        assert_eq!(told(&set, &twin(&section, state)), expected);
    }

    // What an operator writes afterwards does not take back what was applied.
    let section = merged(&section, &json!({"own": 2}));
    for state in ["pending", "rejected", "timedOut", "reverted"] {
        let later = json!({"state": state, "desiredVersion": 4, "appliedVersion": 3});
        assert_eq!(
            told(&set, &twin(&section, later)),
            ["strong applied", "weak applied"],
            "{state}"
        );
    }

    // One policy is edited: the other is where it was.
    let set = policies([json!({"a": 2}), json!({"b": 1})]);
    let section = written(&set, &section);
    let pending = json!({"state": "pending", "desiredVersion": 5, "appliedVersion": 4});
    assert_eq!(
        told(&set, &twin(&section, pending)),
        ["strong pending", "weak applied"]
    );
}

#[test]
fn who_gets_no_leaf_is_overruled_and_who_does_not_apply_is_not_there() {
    let set = policies([json!({"a": 1}), json!({"a": 2})]);
    let section = Section::new(&operator());
    let applied = json!({"state": "applied", "desiredVersion": 2, "appliedVersion": 2});
    let twin = document(&written(&set, &section), &applied, false);
    assert_eq!(told(&set, &twin), ["strong applied", "weak overruled"]);
    let quiet = document(&written(&set, &section), &applied, true);
    assert!(told(&set, &quiet).is_empty());
    let own = merged(&section, &json!({"a": 3}));
    let twin = document(&written(&set, &own), &applied, false);
    assert_eq!(told(&set, &twin), ["strong overruled", "weak overruled"]);
}

#[test]
fn a_device_of_plug_and_play_may_refuse_one_policy_and_have_applied_another() {
    let set = policies([json!({"a": {"x": 1}}), json!({"b": 1})]);
    let section = written(&set, &Section::new(&operator()));
    let version = section.version().get();
    let ack = |code, version| json!({"ac": code, "av": version});
    let told = |configuration: &Value, reported: &Value| {
        told(&set, &reporting(&section, configuration, false, reported))
    };
    let pending = json!({"state": "pending", "desiredVersion": version});
    let rejected = json!({"state": "rejected", "desiredVersion": version});
    let late = json!({"state": "timedOut", "desiredVersion": version});
    for (configuration, reported, expected) in [
        (
            &rejected,
            json!({"a": ack(400, version), "b": ack(200, version)}),
            ["strong rejected", "weak applied"],
        ),
        (
            &pending,
            json!({"a": ack(200, version), "b": ack(202, version)}),
            ["strong applied", "weak pending"],
        ),
        (
            &pending,
            json!({"a": ack(200, version), "b": ack(200, version - 1)}),
            ["strong applied", "weak pending"],
        ),
        (
            &late,
            json!({"a": ack(200, version)}),
            ["strong applied", "weak timed-out"],
        ),
    ] {
        assert_eq!(told(configuration, &reported), expected, "{reported}");
    }
}

#[test]
fn settings_that_cannot_be_on_the_twin_are_rejected() {
    let large = "x".repeat(3000);
    let many: serde_json::Map<String, Value> = (0..10)
        .map(|number| (format!("own{number}"), json!(large)))
        .collect();
    let section = merged(&Section::new(&operator()), &Value::Object(many));
    let settings = json!({"a": large, "b": large});
    let set = policies([settings, json!({"c": 1})]);
    let twin = document(&section, &Value::Null, false);
    assert_eq!(told(&set, &twin), ["strong rejected", "weak pending"]);
}
