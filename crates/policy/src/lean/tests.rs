use proptest::prelude::*;
use serde_json::{Value, json};
use twin::{PolicyChange, SectionKind, Stamp, apply_policy_settings};
use wire::twin::v1::{Change, Twin};

use super::*;
use crate::evaluate::{Decision, decide};
use crate::policy_doc::{Policy, PolicySpec};

fn active(id: &str, target: &str, when: &str, settings: &Value) -> ActivePolicy {
    let spec = PolicySpec {
        id: id.to_owned(),
        target: target.to_owned(),
        when: when.to_owned(),
        settings: settings.as_object().unwrap().clone(),
        ..PolicySpec::default()
    };
    ActivePolicy {
        policy: Policy::check(spec).unwrap(),
        revision: 1,
        created_order: 1,
        stage: None,
        gate: crate::schedule::Gate::default(),
    }
}

fn twin(desired: &twin::Section, tags: &Value, posture: &Value) -> Twin {
    Twin {
        device_id: "d".to_owned(),
        module_id: "m".to_owned(),
        status: "enabled".to_owned(),
        tags_json: tags.to_string(),
        desired_json: Value::Object(desired.document().clone()).to_string(),
        desired_version: desired.version().get(),
        desired_metadata_json: desired.metadata_to_json().to_string(),
        posture_json: posture.to_string(),
        ..Twin::default()
    }
}

fn nothing() -> twin::Section {
    twin::Section::new(&Stamp {
        at: jiff::Timestamp::UNIX_EPOCH,
        by: Writer::Operator("o".to_owned()),
    })
}

fn of(change: Change) -> Interest {
    Interest::of_changes([change])
}

/// Fifty policies: two over the posture, one over both, the others over tags.
fn fifty() -> PolicySet {
    let over = |number: usize| {
        let (target, when) = match number {
            0 => ("*", "posture.a = 1"),
            1 => ("*", "posture.a = 2"),
            2 => ("tags.site = 's'", "posture.b > 5"),
            _ => ("tags.site = 's'", "tags.ring > 3"),
        };
        let settings = json!({ format!("k{number}"): number });
        active(&format!("p{number}"), target, when, &settings)
    };
    PolicySet::new((0..50).map(over))
}

#[test]
fn a_change_costs_the_policies_that_look_at_what_changed() {
    let set = fifty();
    let (tags, posture) = (json!({"site": "s"}), json!({"a": 0}));
    let twin = twin(&nothing(), &tags, &posture);
    let glance = |change| set.glance(&twin, of(change));
    let settled = |judged| Glance::after(judged, true);
    assert_eq!(glance(Change::Posture), settled(3));
    assert_eq!(glance(Change::Tags), settled(48));
    assert_eq!(glance(Change::Reported), settled(0));
    assert_eq!(glance(Change::Created), settled(50));
    assert_eq!(glance(Change::Desired), settled(50));
}

#[test]
fn what_applies_and_is_there_costs_no_other_policy_either() {
    let set = fifty();
    let (tags, posture) = (json!({"site": "s"}), json!({"a": 1}));
    let before = TwinDocument::from_wire(&twin(&nothing(), &tags, &posture)).unwrap();
    assert!(!set.look(&before, of(Change::Posture)).settled);
    let writes = set.wanted(&before).writes;
    let outcome = apply_policy_settings(&nothing(), &writes, jiff::Timestamp::UNIX_EPOCH);
    let PolicyChange::Changed { section, .. } = outcome.unwrap().change else {
        panic!("it is new");
    };
    let after = twin(&section, &tags, &posture);
    let glance = set.glance(&after, of(Change::Posture));
    assert!(!glance.settled && glance.judged <= 3, "{glance:?}");
    let parsed = TwinDocument::from_wire(&after).unwrap();
    let look = set.look(&parsed, of(Change::Posture));
    assert_eq!(look, Glance::after(3, true));
    // Once it does not apply any more its leaf has to go.
    let left = twin(&section, &tags, &json!({"a": 0}));
    assert!(!set.glance(&left, of(Change::Posture)).settled);
    let left = TwinDocument::from_wire(&left).unwrap();
    assert!(!set.look(&left, of(Change::Posture)).settled);
}

#[test]
fn a_part_that_cannot_be_read_is_for_the_whole_decision() {
    let set = fifty();
    let whole = twin(&nothing(), &json!({"site": "s"}), &json!({"a": 0}));
    let torn = Twin {
        posture_json: "{\"a\":".to_owned(),
        ..whole
    };
    assert!(!set.glance(&torn, of(Change::Posture)).settled);
}

proptest! {
    /// A twin that was decided on under these policies changes in one part: where the short look says
    /// that there is nothing to do, the whole decision finds nothing.
    #[test]
    fn a_short_look_never_says_so_where_there_is_something_to_do(
        policies in prop::collection::vec((0..4_i64, 0..4_i64, 0..3_i64, 0..2_usize, any::<bool>()), 1..5),
        before in (0..4_i64, 0..4_i64),
        after in (0..4_i64, 0..4_i64),
        operator in any::<bool>(),
    ) {
        let policies = policies.iter().zip(1..).map(|((tag, fold, value, key, over), order)| {
            let target = if *over { format!("tags.t >= {tag}") } else { "*".to_owned() };
            let when = if *fold == 0 { String::new() } else { format!("posture.p >= {fold}") };
            let settings = json!({ format!("k{key}"): value, "own": {"x": order} });
            ActivePolicy { created_order: order, ..active(&format!("p{order}"), &target, &when, &settings) }
        });
        let set = PolicySet::new(policies);
        let stamp = Stamp { at: jiff::Timestamp::UNIX_EPOCH, by: Writer::Operator("o".to_owned()) };
        let mut section = nothing();
        if operator {
            let patch = json!({"k0": 9});
            section = section.merge(patch.as_object().unwrap(), &stamp, SectionKind::Desired).unwrap();
        }
        let parts = |(tag, fold): (i64, i64)| (json!({"t": tag}), json!({"p": fold}));
        let (tags, posture) = parts(before);
        let document = TwinDocument::from_wire(&twin(&section, &tags, &posture)).unwrap();
        let writes = set.wanted(&document).writes;
        let outcome = apply_policy_settings(&section, &writes, jiff::Timestamp::UNIX_EPOCH).unwrap();
        if let PolicyChange::Changed { section: written, .. } = outcome.change {
            section = *written;
        }
        for change in [Change::Tags, Change::Posture] {
            let now = if change == Change::Tags { (after.0, before.1) } else { (before.0, after.1) };
            let (tags, posture) = parts(now);
            let twin = twin(&section, &tags, &posture);
            let document = TwinDocument::from_wire(&twin).unwrap();
            let decision = decide(&set, &document, jiff::Timestamp::UNIX_EPOCH).decision;
            let holds = matches!(decision, Decision::Holds);
            prop_assert!(holds || !set.glance(&twin, of(change)).settled);
            prop_assert!(holds || !set.look(&document, of(change)).settled);
        }
    }
}
