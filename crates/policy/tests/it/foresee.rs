//! Explanations and previews of the running service, and that what is foreseen is what happens.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use serde_json::{Value, json};
use service_kit::error::{Classified, Kind};
use service_kit::status::RemoteError;
use wire::policy::v1 as proto;
use wire::policy::v1::explain_twin_response::State;
use wire::policy::v1::judged_policy::{Standing, Verdict};
use wire::policy::v1::overruled_setting::Reason;
use wire::policy::v1::preview_policy_response::Event;

use crate::world::{MODULE, SETTLE, World};

async fn explain(world: &World, name: &str) -> proto::ExplainTwinResponse {
    let name = name.to_owned();
    let request = proto::ExplainTwinRequest { name };
    let answer = world.client().await.explain_twin(request).await;
    answer.unwrap().into_inner()
}

/// What a draft would do: to each twin, and the sum.
async fn preview(
    world: &World,
    draft: proto::Policy,
) -> (Vec<proto::TwinPreview>, proto::PreviewSummary) {
    let request = proto::PreviewPolicyRequest {
        policy: Some(draft),
    };
    let stream = world.client().await.preview_policy(request).await;
    let events: Vec<_> = stream.unwrap().into_inner().try_collect().await.unwrap();
    let mut twins = Vec::new();
    let mut summary = None;
    for event in events {
        assert_eq!(summary, None, "the summary comes last");
        match event.event.unwrap() {
            Event::Twin(twin) => twins.push(twin),
            Event::Summary(sum) => summary = Some(sum),
        }
    }
    (twins, summary.unwrap())
}

fn draft(id: &str, target: &str, priority: i32, settings: &Value) -> proto::Policy {
    proto::Policy {
        policy_id: id.to_owned(),
        target: target.to_owned(),
        priority,
        settings_json: settings.to_string(),
        ..proto::Policy::default()
    }
}

#[tokio::test]
async fn a_twin_is_explained_leaf_by_leaf_and_policy_by_policy() {
    let world = World::start().await;
    world.twins.create(MODULE, json!({"a": 1}), json!({})).await;
    world
        .twins
        .operate(MODULE, None, Some(json!({"mine": 1})))
        .await;
    world
        .apply(
            "\
kind: Policy
name: strong
target: tags.a = 1
priority: 2
settings: {x: 1, mine: 2}
---
kind: Policy
name: weak
target: \"*\"
settings: {x: 2, y: 2}
---
kind: Policy
name: elsewhere
target: tags.a = 2
settings: {x: 3}
",
        )
        .await;
    let expected = json!({"mine": 1, "x": 1, "y": 2});
    world.wait_desired(MODULE, expected).await;
    let answer = explain(&world, MODULE).await;
    assert_eq!(answer.state(), State::Settled);
    assert_eq!(answer.desired_version, world.twins.desired_version(MODULE));
    let leaves: Vec<_> = answer
        .leaves
        .iter()
        .map(|leaf| {
            let lost = leaf.overruled.iter();
            let lost: Vec<_> = lost
                .map(|lost| (&*lost.policy_id, &*lost.value_json, lost.reason()))
                .collect();
            (&*leaf.path, &*leaf.value_json, &*leaf.writer, lost)
        })
        .collect();
    assert_eq!(
        leaves,
        [
            (
                "mine",
                "1",
                "operator:alice",
                vec![("strong", "2", Reason::Operator)]
            ),
            (
                "x",
                "1",
                "policy:strong@1",
                vec![("weak", "2", Reason::Priority)]
            ),
            ("y", "2", "policy:weak@1", vec![]),
        ]
    );
    let told: Vec<_> = answer
        .policies
        .iter()
        .map(|judged| (&*judged.policy_id, judged.verdict(), judged.standing()))
        .collect();
    assert_eq!(
        told,
        [
            ("strong", Verdict::Applies, Standing::Pending),
            ("elsewhere", Verdict::NotTargeted, Standing::Unspecified),
            ("weak", Verdict::Applies, Standing::Pending),
        ]
    );
    let elsewhere = &answer.policies[1];
    assert_eq!(elsewhere.condition, "tags.a = 2");
    assert_eq!(elsewhere.facts[0].value_json, "1");

    let mut client = world.client().await;
    for (name, kind) in [
        ("devices/none", Kind::NotFound),
        ("a b", Kind::InvalidArgument),
    ] {
        let name = name.to_owned();
        let refused = client
            .explain_twin(proto::ExplainTwinRequest { name })
            .await;
        assert_eq!(RemoteError::from(refused.unwrap_err()).kind(), kind);
    }
    world.twins.set_away(true);
    let request = proto::PreviewPolicyRequest {
        policy: Some(draft("p", "*", 0, &json!({"x": 1}))),
    };
    let stream = client.preview_policy(request).await.unwrap().into_inner();
    let refused = stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(RemoteError::from(refused).kind(), Kind::Unavailable);
}

#[tokio::test]
async fn what_a_draft_breaks_and_loses_is_told_and_nothing_is_written() {
    let world = World::start().await;
    let [fine, full, taken] = ["a", "b", "c"].map(|id| format!("devices/{id}/modules/m"));
    for name in [&fine, &full, &taken] {
        world.twins.create(name, json!({}), json!({})).await;
    }
    let text = "f".repeat(4000);
    let filled = json!({"full": vec![text.clone(); 7]});
    world.twins.operate(&full, None, Some(filled)).await;
    let mine = json!({"big": "mine"});
    world.twins.operate(&taken, None, Some(mine)).await;
    let big = draft("big", "*", 0, &json!({"big": text.clone(), "more": text}));
    let (twins, sum) = preview(&world, big).await;
    let told: Vec<_> = twins
        .iter()
        .map(|twin| {
            (
                twin.name.clone(),
                twin.changes.len(),
                twin.overruled.len(),
                twin.violations.len(),
            )
        })
        .collect();
    assert_eq!(told, [(fine, 2, 0, 0), (full, 0, 0, 1), (taken, 1, 1, 0)]);
    let expected = proto::PreviewSummary {
        revision: 1,
        outcome: proto::apply_policy_response::Outcome::Created.into(),
        twins_matched: 3,
        twins_written: 2,
        twins_changed: 2,
        twins_failed: 1,
        twins_overruled: 1,
        twins_unsettled: 0,
        policies_changed: false,
        twins_incomplete: 0,
        ..proto::PreviewSummary::default()
    };
    assert_eq!(sum, expected);
    assert_eq!(world.twins.calls().len(), 0);
    let none = proto::GetPolicyRequest {
        name: "policies/big".to_owned(),
    };
    assert!(world.client().await.get_policy(none).await.is_err());
}

/// The desired leaves that a preview leads to.
fn replay(before: &Value, changes: &[proto::SettingChange]) -> BTreeMap<String, Value> {
    let mut leaves = leaves(before);
    for change in changes {
        let value = |text: &str| (!text.is_empty()).then(|| serde_json::from_str(text).unwrap());
        assert_eq!(leaves.get(&change.path).cloned(), value(&change.old_json));
        match value(&change.new_json) {
            Some(new) => leaves.insert(change.path.clone(), new),
            None => leaves.remove(&change.path),
        };
    }
    leaves
}

fn leaves(document: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut open = vec![(String::new(), document)];
    while let Some((path, value)) = open.pop() {
        for (key, value) in value.as_object().unwrap() {
            let path = format!("{path}{key}");
            match value {
                Value::Object(inner) if !inner.is_empty() => open.push((format!("{path}."), value)),
                _ => {
                    found.insert(path, value.clone());
                }
            }
        }
    }
    found
}

#[tokio::test]
async fn what_is_foreseen_is_what_applying_then_does() {
    let world = World::start().await;
    let names: Vec<String> = (0..6)
        .map(|number| format!("devices/d{number}/modules/m"))
        .collect();
    for (name, tag) in names.iter().zip([0, 1, 2].into_iter().cycle()) {
        world.twins.create(name, json!({"a": tag}), json!({})).await;
    }
    world
        .twins
        .operate(&names[1], None, Some(json!({"o": {}, "x": 5})))
        .await;
    world
        .twins
        .operate(&names[2], None, Some(json!({"o": 1})))
        .await;
    world.apply(SETTLE).await;
    let targets = ["*", "tags.a = 1", "", "NOT tags.a = 2", "desired.v = true"];
    let settings = [
        json!({"x": 1}),
        json!({"x": {"y": 1}, "w": 2}),
        json!({"o": {"k": 1}}),
        json!({"v": true, "x": {}}),
        json!({"w": 3, "x": {"y": 2}}),
        json!({"o": 4}),
    ];
    // Numbers that no two rounds have in the same order; the same in each run.
    let mut round = 7_usize;
    let mut moved = 0;
    for _ in 0..24 {
        round = (round * 1_103_515_245 + 12_345) % 2_147_483_648;
        let id = format!("p{}", round / 7 % 3);
        let target = targets[round / 31 % targets.len()];
        let wanted = &settings[round / 211 % settings.len()];
        if target.starts_with("desired") && wanted.get("v").is_some() {
            continue;
        }
        let priority = i32::try_from(round / 1009 % 3).unwrap();
        let draft = draft(&id, target, priority, wanted);
        let before: Vec<Value> = names.iter().map(|name| world.twins.desired(name)).collect();
        let (told, sum) = preview(&world, draft.clone()).await;
        moved += sum.twins_changed;
        let now: Vec<Value> = names.iter().map(|name| world.twins.desired(name)).collect();
        assert_eq!(before, now, "a preview writes nothing");

        let request = proto::ApplyPolicyRequest {
            policy: Some(draft.clone()),
            ..proto::ApplyPolicyRequest::default()
        };
        let applied = world.client().await.apply_policy(request).await.unwrap();
        let revision = applied.into_inner().policy.unwrap().revision;
        assert_eq!(revision, sum.revision);
        world.wait_evaluated(&id).await;
        world.settle().await;
        for (name, before) in names.iter().zip(&before) {
            let changes = told.iter().find(|twin| twin.name == *name);
            let changes = changes.map_or(&[][..], |twin| &twin.changes);
            let foreseen = replay(before, changes);
            let done = leaves(&world.twins.desired(name));
            assert_eq!(foreseen, done, "{name} after {draft:?}");
        }
    }
    assert!(moved > 20, "the rounds change twins: {moved}");
}
