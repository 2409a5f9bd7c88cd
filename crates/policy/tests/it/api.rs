//! The policy API: what is answered, and what is refused with which words.

use serde_json::json;
use service_kit::error::{Classified, Kind};
use service_kit::status::RemoteError;
use wire::policy::v1 as proto;
use wire::policy::v1::apply_policy_response::Outcome;

use crate::world::{MODULE, SOON, World};

fn policy(id: &str) -> proto::Policy {
    proto::Policy {
        policy_id: id.to_owned(),
        target: "*".to_owned(),
        settings_json: json!({"x": 1}).to_string(),
        ..proto::Policy::default()
    }
}

fn request(policy: proto::Policy) -> proto::ApplyPolicyRequest {
    proto::ApplyPolicyRequest {
        policy: Some(policy),
        validate_only: false,
        note: String::new(),
        etag: String::new(),
    }
}

#[tokio::test]
async fn a_bad_policy_is_refused_with_every_problem() {
    let world = World::start().await;
    let bad = proto::Policy {
        policy_id: "Bad Name".to_owned(),
        target: "tags.site = ".to_owned(),
        when: "posture.x NEAR 3".to_owned(),
        settings_json: json!({"a": null, "$b": 1}).to_string(),
        ..proto::Policy::default()
    };
    let status = world
        .client()
        .await
        .apply_policy(request(bad))
        .await
        .unwrap_err();
    let error = RemoteError::from(status);
    assert_eq!(
        (error.kind(), error.reason()),
        (Kind::InvalidArgument, "INVALID_POLICY")
    );
    let found: Vec<(String, String)> = error
        .violations()
        .into_iter()
        .map(|violation| (violation.subject, violation.description))
        .collect();
    let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "policy.policy_id",
            "policy.target",
            "policy.when",
            "policy.settings_json",
            "policy.settings_json"
        ]
    );
    assert!(found[1].1.starts_with("line 1, column "), "{found:?}");
    assert!(found[2].1.contains("column 11"), "{found:?}");
    // The service goes on.
    world
        .client()
        .await
        .apply_policy(request(policy("good")))
        .await
        .unwrap();
}

/// IoT Hub's number in a refusal.
fn number(error: &RemoteError) -> &str {
    error.fact("iot_hub_code").unwrap_or_default()
}

#[tokio::test]
async fn every_refusal_has_the_number_that_iot_hub_gives_it() {
    let world = World::start().await;
    let mut client = world.client().await;
    let wrong = |change: fn(&mut proto::Policy)| {
        let mut policy = policy("p");
        change(&mut policy);
        request(policy)
    };
    for (bad, code, rule) in [
        (
            wrong(|it| it.policy_id = "Bad Name".to_owned()),
            "400004",
            "",
        ),
        (wrong(|it| it.target = "(".to_owned()), "400401", ""),
        (wrong(|it| it.when = "(".to_owned()), "400401", ""),
        (
            wrong(|it| it.settings_json = "{".to_owned()),
            "400006",
            "MALFORMED",
        ),
        (
            wrong(|it| it.settings_json = "[]".to_owned()),
            "400402",
            "NOT_AN_OBJECT",
        ),
        (
            wrong(|it| it.settings_json = r#"{"a": [null]}"#.to_owned()),
            "400402",
            "NULL_IN_ARRAY",
        ),
        (
            wrong(|it| it.settings_json = r#"{"a": 18446744073709551616}"#.to_owned()),
            "400402",
            "INTEGER_RANGE",
        ),
        (proto::ApplyPolicyRequest::default(), "400004", ""),
    ] {
        let asked = bad.clone();
        let error = RemoteError::from(client.apply_policy(bad).await.unwrap_err());
        assert_eq!(number(&error), code, "{asked:?}: {error}");
        assert_eq!(error.violations()[0].rule, rule, "{asked:?}: {error}");
    }
    let none = proto::GetPolicyRequest {
        name: "policies/none".to_owned(),
    };
    let error = RemoteError::from(client.get_policy(none).await.unwrap_err());
    assert_eq!(number(&error), "404301");
    assert_eq!(error.fact("iot_hub_name"), Some("ConfigurationNotFound"));
    client.apply_policy(request(policy("p"))).await.unwrap();
    let stale = proto::DeletePolicyRequest {
        name: "policies/p".to_owned(),
        etag: "r77".to_owned(),
        ..proto::DeletePolicyRequest::default()
    };
    let error = RemoteError::from(client.delete_policy(stale).await.unwrap_err());
    assert_eq!(number(&error), "412001");
}

#[tokio::test]
async fn applying_is_declarative() {
    let world = World::start().await;
    let mut client = world.client().await;
    let first = client
        .apply_policy(request(policy("p")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first.outcome(), Outcome::Created);
    let first = first.policy.unwrap();
    assert_eq!((first.name.as_str(), first.revision), ("policies/p", 1));
    assert!(first.create_time.is_some() && !first.etag.is_empty());
    let again = client
        .apply_policy(request(policy("p")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.outcome(), Outcome::Unchanged);
    assert_eq!(again.policy.unwrap().revision, 1);
    let changed = proto::Policy {
        priority: 7,
        ..policy("p")
    };
    let changed = client
        .apply_policy(request(changed))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(changed.outcome(), Outcome::Updated);
    let changed = changed.policy.unwrap();
    assert_eq!((changed.revision, changed.priority), (2, 7));
    assert_ne!(changed.etag, first.etag);
}

#[tokio::test]
async fn checking_only_changes_nothing() {
    let world = World::start().await;
    world.twins.create(MODULE, json!({}), json!({})).await;
    let mut client = world.client().await;
    let check = proto::ApplyPolicyRequest {
        validate_only: true,
        ..request(policy("p"))
    };
    let answer = client.apply_policy(check).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), Outcome::Created);
    assert_eq!(answer.policy.unwrap().revision, 1);
    let missing = client.get_policy(proto::GetPolicyRequest {
        name: "policies/p".to_owned(),
    });
    let error = RemoteError::from(missing.await.unwrap_err());
    assert_eq!(
        (error.kind(), error.reason()),
        (Kind::NotFound, "POLICY_NOT_FOUND")
    );
    let bad = proto::ApplyPolicyRequest {
        validate_only: true,
        ..request(proto::Policy {
            target: "(".to_owned(),
            ..policy("p")
        })
    };
    assert!(client.apply_policy(bad).await.is_err());
}

#[tokio::test]
async fn policies_are_listed_in_pages() {
    let world = World::start().await;
    let mut client = world.client().await;
    for id in ["c", "a", "e", "b", "d"] {
        client.apply_policy(request(policy(id))).await.unwrap();
    }
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let page = proto::ListPoliciesRequest {
            page_size: 2,
            page_token: token,
            ..proto::ListPoliciesRequest::default()
        };
        let page = client.list_policies(page).await.unwrap().into_inner();
        found.extend(page.policies.into_iter().map(|one| one.policy_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, ["a", "b", "c", "d", "e"]);
    let wrong = proto::ListPoliciesRequest {
        page_size: -1,
        page_token: String::new(),
        ..proto::ListPoliciesRequest::default()
    };
    let error = RemoteError::from(client.list_policies(wrong).await.unwrap_err());
    assert_eq!(error.violations()[0].subject, "page_size");
}

#[tokio::test]
async fn deleting_heeds_the_etag_and_revisions_are_never_reused() {
    let mut world = World::start().await;
    let mut client = world.client().await;
    client.apply_policy(request(policy("p"))).await.unwrap();
    let stale = proto::DeletePolicyRequest {
        name: "policies/p".to_owned(),
        etag: "r77".to_owned(),
        ..proto::DeletePolicyRequest::default()
    };
    let error = RemoteError::from(client.delete_policy(stale).await.unwrap_err());
    assert_eq!(
        (error.kind(), error.reason()),
        (Kind::Aborted, "ETAG_MISMATCH")
    );
    world.delete_policy("p").await;
    drop(client);
    world.stop_service().await;
    world.start_service().await;
    let again = world
        .client()
        .await
        .apply_policy(request(policy("p")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.outcome(), Outcome::Created);
    assert_eq!(again.policy.unwrap().revision, 2);
}

#[tokio::test]
async fn a_request_without_a_policy_names_the_field() {
    let world = World::start().await;
    let empty = proto::ApplyPolicyRequest::default();
    let error = RemoteError::from(world.client().await.apply_policy(empty).await.unwrap_err());
    assert_eq!(error.violations()[0].subject, "policy");
}

#[tokio::test]
async fn every_change_is_in_the_audit_log_also_when_twin_store_was_away() {
    let mut world = World::start().await;
    world.twins.set_away(true);
    let mut client = world.client().await;
    client.apply_policy(request(policy("p"))).await.unwrap();
    client.apply_policy(request(policy("p"))).await.unwrap();
    let check = proto::ApplyPolicyRequest {
        validate_only: true,
        ..request(policy("q"))
    };
    client.apply_policy(check).await.unwrap();
    drop(client);
    // What was not delivered yet is delivered after a restart.
    world.stop_service().await;
    assert_eq!(world.twins.recorded(), []);
    world.twins.set_away(false);
    world.start_service().await;
    world.delete_policy("p").await;
    let recorded = testkit::wait_for("the audit entries", SOON, async || {
        // Whether a rollout was begun meanwhile, because nobody could count, is no matter here.
        let mut recorded = world.twins.recorded();
        recorded.retain(|entry| entry.action.starts_with("policy."));
        (recorded.len() >= 2).then_some(recorded)
    })
    .await;
    let told: Vec<_> = recorded
        .iter()
        .map(|entry| (&*entry.actor, &*entry.action, &*entry.resource))
        .collect();
    assert_eq!(
        told,
        [
            ("operator:admin", "policy.create", "policies/p"),
            ("operator:admin", "policy.delete", "policies/p"),
        ]
    );
    let detail: serde_json::Value = serde_json::from_str(&recorded[0].detail_json).unwrap();
    assert_eq!(detail["content"]["settings"], json!({"x": 1}));
    assert_ne!(recorded[0].request_id, recorded[1].request_id);
}

#[tokio::test]
async fn a_dry_run_says_what_would_change_and_the_history_what_did() {
    let world = World::start().await;
    let mut client = world.client().await;
    let first = proto::ApplyPolicyRequest {
        note: "at first".to_owned(),
        ..request(policy("p"))
    };
    client.apply_policy(first).await.unwrap();
    let second = proto::ApplyPolicyRequest {
        validate_only: true,
        note: "more".to_owned(),
        ..request(proto::Policy {
            priority: 7,
            settings_json: json!({"x": 2, "y": {"z": true}}).to_string(),
            ..policy("p")
        })
    };
    let told = client.apply_policy(second.clone()).await.unwrap();
    let told = told.into_inner();
    assert_eq!(told.outcome(), Outcome::Updated);
    assert_eq!(told.policy.as_ref().unwrap().revision, 2);
    let changes: Vec<_> = told
        .changes
        .iter()
        .map(|one| (&*one.path, &*one.old_json, &*one.new_json))
        .collect();
    assert_eq!(
        changes,
        [
            ("priority", "0", "7"),
            ("settings.x", "1", "2"),
            ("settings.y.z", "", "true")
        ]
    );
    assert_eq!(world.policy("p").await.revision, 1, "nothing was written");
    let done = proto::ApplyPolicyRequest {
        validate_only: false,
        ..second
    };
    let done = client.apply_policy(done).await.unwrap().into_inner();
    assert_eq!(done.changes, told.changes);

    let mut token = String::new();
    let mut found = Vec::new();
    for _ in 0..2 {
        let page = proto::ListPolicyRevisionsRequest {
            name: "policies/p".to_owned(),
            page_size: 1,
            page_token: token,
        };
        let page = client.list_policy_revisions(page).await.unwrap();
        let page = page.into_inner();
        token = page.next_page_token;
        found.extend(page.revisions);
    }
    assert_eq!(token, "", "there are two");
    let told: Vec<_> = found
        .iter()
        .map(|one| (one.revision, &*one.author, &*one.note))
        .collect();
    assert_eq!(
        told,
        [
            (2, "operator:admin", "more"),
            (1, "operator:admin", "at first")
        ]
    );
    assert_eq!(found[0].changed_fields, ["priority", "settings"]);
    assert_eq!(found[0].policy, None);

    world.delete_policy("p").await;
    let asked = |name: &str, revision| proto::GetPolicyRevisionRequest {
        name: name.to_owned(),
        revision,
    };
    for (revision, priority) in [(1, 0), (2, 7), (0, 7)] {
        let found = client.get_policy_revision(asked("policies/p", revision));
        let found = found.await.unwrap().into_inner().policy.unwrap();
        assert_eq!(found.priority, priority);
    }
    for (name, revision, reason) in [
        ("policies/p", 3, "REVISION_NOT_FOUND"),
        ("policies/none", 1, "POLICY_NOT_FOUND"),
        ("policies/none", 0, "POLICY_NOT_FOUND"),
    ] {
        let refused = client.get_policy_revision(asked(name, revision)).await;
        assert_eq!(RemoteError::from(refused.unwrap_err()).reason(), reason);
    }
    let long = proto::ApplyPolicyRequest {
        note: "n".repeat(513),
        ..request(policy("p"))
    };
    let refused = RemoteError::from(client.apply_policy(long).await.unwrap_err());
    assert_eq!(refused.violations()[0].subject, "note");
}
