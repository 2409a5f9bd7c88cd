use super::*;
use crate::output::golden::{json, text, yaml};

fn policy() -> api::Policy {
    api::Policy {
        name: "policies/unexpected-listener".to_owned(),
        policy_id: "unexpected-listener".to_owned(),
        revision: 3,
        etag: "\"3\"".to_owned(),
        description: "Look closer while an unexpected port is open".to_owned(),
        scope: api::Scope::Modules.into(),
        target: "tags.site = 'hall-3'".to_owned(),
        when: "EXISTS(p IN posture.listeningPorts WHERE p.port NIN tags.allowedPorts)".to_owned(),
        priority: 10,
        settings_json: r#"{"CollectorsCore_PriorityIntervals": "1,2,5", "a": {"b": true}}"#
            .to_owned(),
        evaluation: Some(api::Evaluation {
            complete: true,
            twins_evaluated: 12,
            twins_changed: 2,
            twins_failed: 1,
        }),
        status: Some(api::PolicyStatus {
            twins_targeted: 12,
            twins_applied: 9,
            twins_pending: 2,
            twins_rejected: 1,
            twins_timed_out: 0,
            twins_reverted: 0,
            twins_undecided: 12,
            undecided_twins: vec!["devices/a/modules/m".to_owned(), "devices/b".to_owned()],
            twins_incomplete: 1,
            incomplete_twins: vec!["devices/c".to_owned()],
            in_step_time: Some(prost_types::Timestamp::default()),
        }),
        actions: Some(api::PolicyActions {
            per_minute: 60,
            in_flight: 8,
            calls: vec![api::PolicyAction {
                name: "collect".to_owned(),
                method: "collectNow".to_owned(),
                payload_json: r#"{"why":"{{tags.site}}"}"#.to_owned(),
                ..api::PolicyAction::default()
            }],
        }),
        ..api::Policy::default()
    }
}

#[test]
fn a_policy_shows_what_it_says_and_how_far_it_is() {
    let view = PolicyView::read(policy()).unwrap();
    insta::assert_snapshot!("policy", text(&view));
    insta::assert_snapshot!("policy_json", json(&view));
}

#[test]
fn a_folded_description_ends_where_its_text_ends() {
    let folded = api::Policy {
        description: "Look closer\n".to_owned(),
        ..policy()
    };
    let text = text(&PolicyView::read(folded).unwrap());
    assert!(
        text.lines().any(|line| line.ends_with("Look closer")),
        "{text}"
    );
}

#[test]
fn a_policy_in_yaml_can_be_applied_again() {
    let text = yaml(&PolicyView::read(policy()).unwrap());
    insta::assert_snapshot!("policy_yaml", text);
    let specs = ::policy::file::parse(&text).unwrap();
    assert_eq!(specs.len(), 1);
    assert_eq!(specs[0].when, policy().when);
}

#[test]
fn policies_are_listed_with_what_makes_them_differ() {
    let always = api::Policy {
        policy_id: "base".to_owned(),
        revision: 1,
        target: "*".to_owned(),
        settings_json: "{}".to_owned(),
        ..api::Policy::default()
    };
    let views = [policy(), always].map(|policy| PolicyView::read(policy).unwrap());
    insta::assert_snapshot!("policies", text(&Policies(views.into())));
}

#[test]
fn applying_says_what_it_did() {
    let answer = |outcome: api::apply_policy_response::Outcome| api::ApplyPolicyResponse {
        policy: Some(policy()),
        outcome: outcome.into(),
        changes: vec![api::ContentChange {
            path: "settings.x".to_owned(),
            old_json: "1".to_owned(),
            new_json: "[2]".to_owned(),
        }],
        ..api::ApplyPolicyResponse::default()
    };
    let applied = |outcome, dry_run| {
        text(&Applied {
            id: "p".to_owned(),
            answer: answer(outcome),
            dry_run,
        })
    };
    assert_eq!(
        applied(api::apply_policy_response::Outcome::Created, false),
        "policy p created, revision 3\n"
    );
    assert_eq!(
        applied(api::apply_policy_response::Outcome::Updated, true),
        "policy p is good and would be updated; nothing was written\n  - settings.x: 1\n  + settings.x: [2]\n"
    );
}
