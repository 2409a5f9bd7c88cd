use serde_json::json;

use super::*;
use crate::policy_doc::Scope;

const SAMPLE: &str = include_str!("../../../../deploy/samples/unexpected-listener.yaml");

/// The problems as text.
fn problems(text: &str) -> Vec<String> {
    let error = parse(text).expect_err("a problem");
    error.list().iter().map(ToString::to_string).collect()
}

/// Each expected text is a part of the problem at its place.
fn check(text: &str, expected: &[&str]) {
    let found = problems(text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
    }
}

#[test]
fn the_sample_is_a_good_policy() {
    let policies = parse(SAMPLE).unwrap();
    assert_eq!(policies.len(), 1);
    let policy = &policies[0];
    assert_eq!(policy.id, "unexpected-listener");
    assert_eq!((policy.scope, policy.priority), (Scope::Modules, 100));
    assert!(policy.when.contains("posture.listeningPorts"));
    assert!(
        policy
            .settings
            .contains_key("CollectorsCore_PriorityIntervals")
    );
}

#[test]
fn several_documents_are_read_in_order_and_empty_ones_skipped() {
    let text = "---\nkind: Policy\nname: a\ntarget: \"*\"\nsettings: {x: 1}\n---\n---\n\
                kind: Policy\nname: b\nscope: devices\ntarget: ''\npriority: -5\n\
                settings:\n  y: {z: [1, true, \"t\"]}\n";
    let policies = parse(text).unwrap();
    let ids: Vec<&str> = policies.iter().map(|policy| policy.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(
        (policies[1].scope, policies[1].priority),
        (Scope::Devices, -5)
    );
    assert_eq!(policies[1].settings["y"], json!({"z": [1, true, "t"]}));
}

#[test]
fn json_is_read_as_well() {
    let text = r#"{"kind": "Policy", "name": "a", "target": "*", "settings": {"x": 1.5}}"#;
    assert_eq!(parse(text).unwrap()[0].settings["x"], json!(1.5));
}

#[test]
fn every_problem_is_told_with_line_and_column() {
    let text = "kind: Policy\n\
                name: Bad Name\n\
                targets: \"*\"\n\
                scope: fleet\n\
                target: tags.site =\n\
                when: 5\n\
                priority: 1.5\n\
                settings: [1]\n";
    check(
        text,
        &[
            "line 2, column 7: name: has 'B'",
            "line 3, column 1: unknown key `targets`; allowed are kind, name, description",
            "line 4, column 8: scope: is \"fleet\"; allowed are devices, modules",
            "line 5, column 9: target (line 1, column ",
            "line 6, column 7: when: is 5; a text is needed",
            "line 7, column 11: priority: is 1.5; a whole number",
            "line 8, column 11: settings: is a list; a mapping",
        ],
    );
}

#[test]
fn what_is_missing_is_named() {
    check(
        "description: nothing else\n",
        &[
            "`kind` is missing",
            "`name` is missing",
            "`target` is missing",
            "`settings` is missing",
        ],
    );
}

#[test]
fn another_kind_is_refused() {
    let text = "kind: Device\nname: a\ntarget: '*'\nsettings: {x: 1}\n";
    check(
        text,
        &["line 1, column 7: kind: is \"Device\"; allowed is \"Policy\""],
    );
}

#[test]
fn a_name_used_twice_is_refused() {
    let one = "kind: Policy\nname: a\ntarget: '*'\nsettings: {x: 1}\n";
    check(
        &format!("{one}---\n{one}"),
        &["a policy named \"a\" stands at line 1 already"],
    );
}

#[test]
fn a_key_twice_and_broken_syntax_are_told_with_their_line() {
    check("kind: Policy\nkind: Policy\n", &["line 2"]);
    check("kind: Policy\nname: [\n", &["line "]);
    check(
        "- a\n- b\n",
        &["a policy: a mapping with the keys kind, name"],
    );
}

#[test]
fn a_file_without_policies_says_so() {
    check("# nothing\n", &["the file holds no policy"]);
    check("", &["the file holds no policy"]);
}

#[test]
fn all_or_nothing() {
    let good = "kind: Policy\nname: a\ntarget: '*'\nsettings: {x: 1}\n";
    check(
        &format!("{good}---\nkind: Policy\nname: b\ntarget: '*'\nsettings: {{}}\n"),
        &["line 9, column 11: settings: sets nothing"],
    );
}

#[test]
fn what_the_service_found_is_passed_over() {
    let text = "kind: Policy\nname: a\ntarget: '*'\nsettings: {x: 1}\nstate: {revision: 3}\n";
    assert_eq!(parse(text).unwrap()[0].id, "a");
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_policy_or_a_list_of_problems(text in "(kind|name|target|settings|: |\\n|Policy|[*{}\\[\\]'\"&-]|---|  |\\PC){0,40}") {
        match parse(&text) {
            Ok(policies) => proptest::prop_assert!(!policies.is_empty()),
            Err(problems) => proptest::prop_assert!(!problems.to_string().is_empty()),
        }
    }
}
