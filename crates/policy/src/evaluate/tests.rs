use proptest::prelude::*;
use serde_json::{Value, json};
use twin::{DeviceId, IdentityKey, ModuleId, Section, Stamp, Writer};
use wire::twin::v1 as proto;
use wire::twin::v1::Change;

use super::*;
use crate::policy_doc::{Policy, PolicySpec};
use crate::rollout::Course;

fn policy(id: &str, target: &str, when: &str, priority: i32, settings: Value) -> Policy {
    let Value::Object(settings) = settings else {
        panic!("settings are an object")
    };
    Policy::check(PolicySpec {
        id: id.to_owned(),
        target: target.to_owned(),
        when: when.to_owned(),
        priority,
        settings,
        ..PolicySpec::default()
    })
    .unwrap()
}

fn active(policy: Policy, created_order: u64) -> ActivePolicy {
    ActivePolicy {
        policy,
        revision: 1,
        created_order,
        stage: None,
        gate: crate::schedule::Gate::Open,
    }
}

/// A security module's twin, with a desired section that operators wrote.
fn twin(tags: &Value, desired: &Value, posture: &Value) -> TwinDocument {
    let stamp = Stamp {
        at: Timestamp::UNIX_EPOCH,
        by: Writer::Operator("o".to_owned()),
    };
    let section = Section::new(&stamp);
    let section = section
        .merge(
            desired.as_object().unwrap(),
            &stamp,
            twin::SectionKind::Desired,
        )
        .unwrap();
    document(&section, tags, posture)
}

fn document(section: &Section, tags: &Value, posture: &Value) -> TwinDocument {
    let public = section.to_json_with_metadata(twin::SectionKind::Desired);
    let mut metadata = public["$metadata"].clone();
    if metadata.is_null() {
        metadata = json!({});
    }
    TwinDocument::from_wire(&proto::Twin {
        device_id: "d".to_owned(),
        module_id: ModuleId::SECURITY.to_owned(),
        status: "enabled".to_owned(),
        tags_json: tags.to_string(),
        desired_json: Value::Object(section.document().clone()).to_string(),
        desired_version: section.version().get(),
        desired_metadata_json: metadata.to_string(),
        posture_json: posture.to_string(),
        ..proto::Twin::default()
    })
    .unwrap()
}

fn ids(policies: &[Arc<ActivePolicy>]) -> Vec<String> {
    policies
        .iter()
        .map(|active| active.policy.id().to_string())
        .collect()
}

/// The ids of what must be written, `None` if everything holds.
fn decided(set: &PolicySet, twin: &TwinDocument) -> Option<Vec<String>> {
    match decide(set, twin, Timestamp::UNIX_EPOCH).decision {
        Decision::Holds => None,
        Decision::Write(writes) => Some(writes.into_iter().map(|write| write.policy).collect()),
        Decision::Breaks(violations) => panic!("{violations}"),
    }
}

/// The twin after twin-store has done what the decision asks for.
fn performed(set: &PolicySet, twin: &TwinDocument, tags: &Value, posture: &Value) -> TwinDocument {
    let writes = set.wanted(twin).writes;
    let outcome =
        twin::apply_policy_settings(twin.desired(), &writes, Timestamp::UNIX_EPOCH).unwrap();
    match outcome.change {
        PolicyChange::Unchanged => twin.clone(),
        PolicyChange::Changed { section, .. } => document(&section, tags, posture),
    }
}

#[test]
fn both_conditions_must_hold() {
    let set = PolicySet::new([active(
        policy(
            "p",
            "tags.site = 'a'",
            "posture.open = true",
            0,
            json!({"x": 1}),
        ),
        1,
    )]);
    let with =
        |site: &str, open: bool| twin(&json!({"site": site}), &json!({}), &json!({"open": open}));
    assert_eq!(ids(&set.applicable(&with("a", true))), ["p"]);
    assert!(set.applicable(&with("a", false)).is_empty());
    assert!(set.applicable(&with("b", true)).is_empty());
}

/// What a device can make of a condition that goes through its arrays.
fn costly() -> Value {
    let many: Vec<u32> = (0..2000).collect();
    json!({"a": many, "b": many})
}
const COSTLY: &str = "EXISTS(x IN posture.a WHERE EXISTS(y IN posture.b WHERE x + 1 = -y))";

/// Else a device that makes its posture costly would get rid of what a policy has set.
#[test]
fn what_an_undecided_policy_has_set_stays_and_nothing_is_added() {
    let nested = json!({"x": 1, "o": {"y": [1], "z": {}}});
    let costly = costly();
    for (target, when, part) in [
        ("*", COSTLY, Part::When),
        (COSTLY, "", Part::Target),
        (COSTLY, COSTLY, Part::Target),
    ] {
        let set = |when: &str, target: &str| {
            PolicySet::new([active(policy("p", target, when, 0, nested.clone()), 1)])
        };
        let nothing = json!({});
        let before = twin(&nothing, &nothing, &nothing);
        let held = performed(&set("", "*"), &before, &nothing, &costly);
        assert_eq!(Value::Object(held.desired().document().clone()), nested);
        // Another revision wants other values, and is undecided: the old ones stay, as the old one's.
        let undecided = set(when, target);
        let decided = decide(&undecided, &held, Timestamp::UNIX_EPOCH);
        assert!(matches!(decided.decision, Decision::Holds), "{decided:?}");
        let [(active, found)] = decided.undecided.as_slice() else {
            panic!("{decided:?}");
        };
        assert_eq!((active.policy.id().as_str(), *found), ("p", part));
        // Where it has set nothing, it does not begin to.
        let bare = twin(&nothing, &nothing, &costly);
        assert_eq!(self::decided(&undecided, &bare), None);
    }
}

#[test]
fn a_condition_that_fails_decides_though_the_other_one_cannot() {
    let set = PolicySet::new([
        active(policy("p", COSTLY, "tags.on = true", 0, json!({"x": 1})), 1),
        active(policy("q", "tags.on = true", COSTLY, 0, json!({"y": 1})), 2),
    ]);
    let twin = twin(&json!({"on": false}), &json!({}), &costly());
    let verdicts: Vec<_> = set.policies().map(|active| active.verdict(&twin)).collect();
    assert!(verdicts.contains(&Verdict::NotWhen) && verdicts.contains(&Verdict::NotTargeted));
}

#[test]
fn policies_that_are_decided_act_beside_one_that_is_not() {
    let with = |when: &str, q: i32, r: &str| {
        PolicySet::new([
            active(policy("p", "*", when, 5, json!({"x": 1, "y": 1})), 1),
            active(policy("q", "*", "", q, json!({"x": 2})), 2),
            active(policy("r", r, "", 0, json!({"z": 1})), 3),
        ])
    };
    let (nothing, costly) = (json!({}), costly());
    let before = twin(&nothing, &nothing, &costly);
    let first = performed(&with("", 0, "*"), &before, &nothing, &costly);
    let document = |twin: &TwinDocument| Value::Object(twin.desired().document().clone());
    assert_eq!(document(&first), json!({"x": 1, "y": 1, "z": 1}));
    let second = performed(&with(COSTLY, 0, ""), &first, &nothing, &costly);
    assert_eq!(document(&second), json!({"x": 1, "y": 1}));
    // One of higher precedence takes a leaf of it as it does of any other.
    let third = performed(&with(COSTLY, 9, ""), &second, &nothing, &costly);
    assert_eq!(document(&third), json!({"x": 2, "y": 1}));
}

#[test]
fn a_policy_looks_only_at_twins_of_its_scope() {
    let set = PolicySet::new([active(policy("p", "*", "", 0, json!({"x": 1})), 1)]);
    let module = twin(&json!({}), &json!({}), &json!({}));
    let device = TwinDocument::from_wire(&proto::Twin {
        device_id: "d".to_owned(),
        desired_version: 1,
        desired_metadata_json: json!({"t": "1970-01-01T00:00:00Z", "v": 1, "w": "twinward"})
            .to_string(),
        ..proto::Twin::default()
    })
    .unwrap();
    assert_eq!(set.applicable(&module).len(), 1);
    assert!(set.applicable(&device).is_empty());
    assert_eq!(
        device.key(),
        &IdentityKey::new_device(DeviceId::parse("d").unwrap())
    );
}

#[test]
fn the_higher_priority_comes_first_and_at_a_tie_the_later_created() {
    let set = PolicySet::new([
        active(policy("old", "*", "", 5, json!({"x": 1})), 1),
        active(policy("low", "*", "", -1, json!({"x": 1})), 9),
        active(policy("new", "*", "", 5, json!({"x": 1})), 2),
        active(policy("high", "*", "", 6, json!({"x": 1})), 0),
    ]);
    let twin = twin(&json!({}), &json!({}), &json!({}));
    assert_eq!(ids(&set.applicable(&twin)), ["high", "new", "old", "low"]);
}

#[test]
fn what_holds_is_not_written_and_what_holds_no_more_is() {
    let (tags, none) = (json!({}), json!({}));
    let on = json!({"open": true});
    let set = PolicySet::new([active(
        policy("p", "*", "posture.open = true", 0, json!({"x": {"y": 1}})),
        1,
    )]);
    let before = twin(&tags, &json!({"o": 1}), &on);
    assert_eq!(decided(&set, &before), Some(vec!["p".to_owned()]));
    let after = performed(&set, &before, &tags, &on);
    assert_eq!(decided(&set, &after), None, "it holds");
    let off = document(after.desired(), &tags, &none);
    assert_eq!(decided(&set, &off), Some(vec![]), "what it set must go");
    let taken_back = performed(&set, &off, &tags, &none);
    assert_eq!(taken_back.desired().document(), before.desired().document());
    assert_eq!(decided(&set, &taken_back), None);
}

#[test]
fn an_operators_leaf_is_kept_without_trying_again() {
    let set = PolicySet::new([active(policy("p", "*", "", 0, json!({"x": 2})), 1)]);
    let twin = twin(&json!({}), &json!({"x": 1}), &json!({}));
    assert_eq!(decided(&set, &twin), None);
}

#[test]
fn settings_that_do_not_fit_this_twin_are_no_write() {
    let big = |letter: char| json!(letter.to_string().repeat(4000));
    let full: serde_json::Map<String, Value> = ('a'..='g')
        .map(|letter| (letter.to_string(), big(letter)))
        .collect();
    let twin = twin(&json!({}), &Value::Object(full), &json!({}));
    let set = PolicySet::new([active(
        policy("p", "*", "", 0, json!({"y": big('y'), "z": big('z')})),
        1,
    )]);
    let decision = decide(&set, &twin, Timestamp::UNIX_EPOCH).decision;
    assert!(matches!(decision, Decision::Breaks(_)), "{decision:?}");
}

#[test]
fn what_is_to_go_goes_also_where_something_else_does_not_fit() {
    let big = |letter: char| json!(letter.to_string().repeat(4000));
    let full: serde_json::Map<String, Value> = ('a'..='g')
        .map(|letter| (letter.to_string(), big(letter)))
        .collect();
    let operator = twin(&json!({}), &Value::Object(full), &json!({}));
    let small = |id, name: &str| active(policy(id, "*", "", 0, json!({ name: 1 })), 1);
    let both = PolicySet::new([small("gone", "x"), small("stays", "w")]);
    let before = performed(&both, &operator, &json!({}), &json!({}));
    // One is deleted, and another one that comes is too large.
    let large = active(
        policy("large", "*", "", 0, json!({"y": big('y'), "z": big('z')})),
        2,
    );
    let now = PolicySet::new([small("stays", "w"), large]);
    let Decision::Write(writes) = decide(&now, &before, Timestamp::UNIX_EPOCH).decision else {
        panic!("something is to go");
    };
    let outcome = twin::apply_policy_settings(before.desired(), &writes, Timestamp::UNIX_EPOCH);
    let PolicyChange::Changed { section, .. } = outcome.unwrap().change else {
        panic!("it goes");
    };
    assert_eq!(section.document().get("x"), None);
    assert_eq!(section.document()["w"], 1);
    let after = document(&section, &json!({}), &json!({}));
    let decision = decide(&now, &after, Timestamp::UNIX_EPOCH).decision;
    assert!(matches!(decision, Decision::Breaks(_)), "{decision:?}");
}

#[test]
fn only_what_conditions_look_at_concerns_them() {
    let set = PolicySet::new([active(
        policy(
            "p",
            "tags.site = 'a'",
            "posture.listeningPorts = 1",
            0,
            json!({"x": 1}),
        ),
        1,
    )]);
    let concerned = |change| set.is_concerned(Scope::Modules, Interest::of_changes([change]));
    for change in [
        Change::Created,
        Change::Tags,
        Change::Desired,
        Change::Posture,
        Change::Unspecified,
    ] {
        assert!(concerned(change), "{change:?}");
    }
    for change in [Change::Reported, Change::ConfigurationState, Change::Status] {
        assert!(!concerned(change), "{change:?}");
    }
    assert!(!set.is_concerned(Scope::Devices, Interest::of_changes([Change::Posture])));
    assert!(set.is_concerned(Scope::Devices, Interest::of_changes([Change::Desired])));
}

#[test]
fn a_condition_on_the_configuration_state_is_concerned_by_it() {
    for when in [
        "posture.configuration.state = 'rejected'",
        "IS_DEFINED(posture)",
    ] {
        let set = PolicySet::new([active(policy("p", "*", when, 0, json!({"x": 1})), 1)]);
        let changed = Interest::of_changes([Change::ConfigurationState]);
        assert!(set.is_concerned(Scope::Modules, changed), "{when}");
    }
}

fn any_policies() -> impl Strategy<Value = Vec<ActivePolicy>> {
    let one = (
        0..3_i32,
        prop::sample::select(vec!["*", "", "tags.a = 1", "tags.a = 2"]),
        prop::sample::select(vec!["", "posture.a = 1", "posture.a = 2"]),
        prop::sample::select(vec![
            json!({"x": 1}),
            json!({"x": 2}),
            json!({"x": {"y": 1}}),
            json!({"x": {"z": 2}, "w": 3}),
            json!({"o": 7}),
            json!({"x": {}}),
        ]),
    );
    prop::collection::vec(one, 0..6).prop_map(|list| {
        list.into_iter()
            .enumerate()
            .map(|(index, (priority, target, when, settings))| {
                let order = u64::try_from(index).unwrap();
                active(
                    policy(&format!("p{index}"), target, when, priority, settings),
                    order,
                )
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn the_order_in_which_policies_are_loaded_does_not_matter(
        policies in any_policies().prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle())),
        a in 0..3, b in 0..3,
    ) {
        let (one, other) = policies;
        let (one, other) = (PolicySet::new(one), PolicySet::new(other));
        let twin = twin(&json!({"a": a}), &json!({"o": 1}), &json!({"a": b}));
        prop_assert_eq!(ids(&one.applicable(&twin)), ids(&other.applicable(&twin)));
        prop_assert_eq!(decided(&one, &twin), decided(&other, &twin));
    }

    #[test]
    fn once_written_everything_holds_and_without_policies_nothing_is_left(
        policies in any_policies(), later in any_policies(), a in 0..3, b in 0..3,
    ) {
        let (tags, posture) = (json!({"a": a}), json!({"a": b}));
        let start = twin(&tags, &json!({"o": 1}), &posture);
        let mut now = start.clone();
        for set in [PolicySet::new(policies), PolicySet::new(later.clone())] {
            now = performed(&set, &now, &tags, &posture);
            prop_assert_eq!(decided(&set, &now), None, "written once, it holds");
        }
        let fresh = performed(&PolicySet::new(later), &start, &tags, &posture);
        prop_assert_eq!(fresh.desired().document(), now.desired().document(), "no trace of before");
        let empty = performed(&PolicySet::default(), &now, &tags, &posture);
        prop_assert_eq!(empty.desired().document(), start.desired().document());
    }

    #[test]
    fn what_does_not_concern_the_policies_changes_no_decision(
        policies in any_policies(), a in 0..3, b in 0..3, c in 0..3,
    ) {
        // The posture changes from b to c; unless the set is concerned, the same policies apply.
        let set = PolicySet::new(policies);
        let before = twin(&json!({"a": a}), &json!({}), &json!({"a": b}));
        let after = twin(&json!({"a": a}), &json!({}), &json!({"a": c}));
        if !set.is_concerned(Scope::Modules, Interest::of_changes([Change::Posture])) {
            prop_assert_eq!(ids(&set.applicable(&before)), ids(&set.applicable(&after)));
        }
    }
}

#[test]
fn the_filter_asks_for_what_policies_apply_to_or_have_written() {
    let set = PolicySet::new([
        active(
            policy(
                "p",
                "tags.site = 'a'",
                "posture.eventCount > 1",
                1,
                json!({"x": 1}),
            ),
            1,
        ),
        active(policy("q", "*", "", 2, json!({"y": 1})), 2),
    ]);
    let expected = "IS_DEFINED(configurations) OR (IS_DEFINED(moduleId) AND \
        ((1 = 1) OR ((tags.site = 'a') AND (posture.eventCount > 1))))";
    assert_eq!(set.filter(), expected);
    assert_eq!(PolicySet::default().filter(), "IS_DEFINED(configurations)");
    let many = (0..300).map(|number| {
        let target = format!("tags.site = 'a site with a long name {number}'");
        let id = format!("p{number}");
        active(policy(&id, &target, "", 1, json!({"x": 1})), number)
    });
    assert_eq!(PolicySet::new(many).filter(), "", "too long to be asked");
}

proptest! {
    #[test]
    fn there_is_nothing_to_do_on_a_twin_that_the_filter_leaves_out(
        site in "[ab]",
        events in 0..4_u32,
        targets in prop::collection::vec("[abc]", 0..3),
    ) {
        let policies = targets.iter().zip(1..).map(|(target, order)| {
            let target = format!("tags.site = '{target}'");
            let when = format!("posture.eventCount > {order}");
            active(policy(&format!("p{order}"), &target, &when, 1, json!({"x": order})), order)
        });
        let set = PolicySet::new(policies);
        let twin = twin(&json!({"site": site}), &json!({}), &json!({"eventCount": events}));
        let filter = Condition::parse_in(&set.filter(), Vocabulary::Query).unwrap();
        // No policy has written to it, so `configurations` is as undefined as the view says.
        let asked_for = filter.matches(&twin.view());
        let idle = matches!(decide(&set, &twin, Timestamp::UNIX_EPOCH).decision, Decision::Holds);
        prop_assert_eq!(asked_for, !idle);
    }
}

/// Two revisions of a policy in force, the new one on so many of two waves: `ring = 1` and the rest.
fn staged(released: usize) -> PolicySet {
    use crate::rollout::{StrategySpec, WaveSpec, plan};
    let revision = |revision, value| ActivePolicy {
        revision,
        ..active(policy("p", "*", "", 0, json!({ "lamp": value })), 1)
    };
    let strategy = StrategySpec {
        waves: vec![WaveSpec::Where("tags.ring = 1".to_owned())],
        ..StrategySpec::default()
    };
    let (before, new) = (revision(3, "on"), revision(4, "dim"));
    let course = Arc::new(Course::new(
        new.policy.id().clone(),
        4,
        &plan(&strategy, &[]),
        released,
        &strategy,
    ));
    let stage = |side| {
        Some(Stage {
            course: Arc::clone(&course),
            side,
        })
    };
    PolicySet::new([
        ActivePolicy {
            stage: stage(Side::New),
            ..new
        },
        ActivePolicy {
            stage: stage(Side::Before),
            ..before
        },
    ])
}

#[test]
fn a_twin_has_the_revision_of_its_wave_and_nothing_stays_of_one_that_was_taken_back() {
    let canary = twin(&json!({"ring": 1}), &json!({}), &json!({}));
    let other = twin(&json!({"ring": 2}), &json!({}), &json!({}));
    // Each after the other, forward and back, from where the one before left the twin.
    let mut twins = [canary, other];
    for (released, expected) in [
        (0, ["on", "on"]),
        (1, ["dim", "on"]),
        (2, ["dim", "dim"]),
        (0, ["on", "on"]),
    ] {
        let set = staged(released);
        assert_eq!(set.len(), 1);
        for (twin, expected) in twins.iter_mut().zip(expected) {
            let evaluated = evaluate(&set, twin, Timestamp::UNIX_EPOCH);
            if let PolicyChange::Changed { section, .. } = evaluated.outcome.unwrap().change {
                *twin = twin.with_desired(*section);
            }
            assert_eq!(twin.desired().document()["lamp"], expected, "{released}");
            assert_eq!(decided(&set, twin), None, "it holds");
        }
    }
    // A twin that comes to the canaries by its tags has the revision that they have.
    assert!(staged(1).is_concerned(Scope::Modules, Interest::of_changes([Change::Tags])));
}

#[test]
fn a_template_is_filled_in_anew_when_the_twin_changes_there() {
    let site = |id: &str, value: &str, priority| {
        active(policy(id, "*", "", priority, json!({"site": value})), 1)
    };
    let set = PolicySet::new([
        site("own", "at {{tags.site}}", 2),
        site("else", "unknown", 1),
    ]);
    let lyon = twin(&json!({"site": "Lyon"}), &json!({}), &json!({}));
    let wanted = set.wanted(&lyon);
    let settings: Vec<_> = wanted
        .writes
        .iter()
        .map(|write| &write.settings["site"])
        .collect();
    assert_eq!(settings, ["at Lyon", "unknown"]);

    // A twin without a site is not the policy's, and the next one comes through.
    let nowhere = twin(&json!({}), &json!({}), &json!({}));
    let wanted = set.wanted(&nowhere);
    assert_eq!(ids(&wanted.applicable), ["else"]);
    assert_eq!(ids(&wanted.incomplete), ["own"]);
    assert_eq!(decided(&set, &nowhere), Some(vec!["else".to_owned()]));

    for (change, concerned) in [(Change::Tags, true), (Change::Reported, false)] {
        let changed = Interest::of_changes([change]);
        assert_eq!(set.is_concerned(Scope::Modules, changed), concerned);
    }
}

/// A twin with these settings of a policy's revision, whose device went back and is asked for.
fn asking(revision: u64) -> TwinDocument {
    let stamp = Stamp {
        at: Timestamp::UNIX_EPOCH,
        by: Writer::Policy {
            id: "p".to_owned(),
            revision,
        },
    };
    let section = Section::new(&stamp);
    let settings = json!({"x": revision});
    let settings = settings.as_object().unwrap();
    let section = section
        .merge(settings, &stamp, twin::SectionKind::Desired)
        .unwrap();
    let posture = json!({
        "agent": {"connected": true},
        "configuration": {
            "state": "reverted",
            "drift": {"pushes": 0, "pushAskedAt": "2026-01-01T00:00:00Z"},
        },
    });
    document(&section, &json!({}), &posture)
}

#[test]
fn what_a_device_went_back_from_is_pushed_again_unless_it_is_closed_or_on_its_way() {
    let with = |stage: Option<Stage>, gate: Gate, revision: u64| {
        let policy = policy("p", "*", "", 0, json!({ "x": revision }));
        ActivePolicy {
            revision,
            stage,
            gate,
            ..active(policy, 1)
        }
    };
    let pushed = |policies: Vec<ActivePolicy>, twin: &TwinDocument| {
        let decided = decide(&PolicySet::new(policies), twin, Timestamp::UNIX_EPOCH);
        assert!(matches!(decided.decision, Decision::Holds), "{decided:?}");
        decided.push_again
    };
    let closed = || Gate::Closed("a freeze".into());
    assert!(pushed(vec![with(None, Gate::Open, 1)], &asking(1)));
    assert!(!pushed(vec![with(None, closed(), 1)], &asking(1)));
    // Of a twin that asks for nothing nothing is pushed, nor to one that is away.
    for posture in [
        json!({"agent": {"connected": true}}),
        json!({"configuration": {"state": "reverted", "drift": {"pushAskedAt": "2026-01-01T00:00:00Z"}}}),
    ] {
        let quiet = document(asking(1).desired(), &json!({}), &posture);
        assert!(
            !pushed(vec![with(None, Gate::Open, 1)], &quiet),
            "{posture}"
        );
    }

    // While a revision is on its way, a device that went back from it speaks against it: its gate is to see that.
    let strategy = crate::rollout::StrategySpec::default();
    let planned = crate::rollout::plan(&strategy, &[]);
    let id = PolicyId::parse("p").unwrap();
    let course = Arc::new(Course::new(id, 2, &planned, 1, &strategy));
    let stage = |side| {
        Some(Stage {
            course: Arc::clone(&course),
            side,
        })
    };
    let both = || {
        vec![
            with(stage(Side::New), Gate::Open, 2),
            with(stage(Side::Before), Gate::Open, 1),
        ]
    };
    assert!(!pushed(both(), &asking(2)));
    assert!(
        pushed(vec![with(None, Gate::Open, 2)], &asking(2)),
        "it is complete"
    );
}

#[test]
fn what_was_never_given_stays_until_a_newer_revision_is_for_the_twin() {
    let stamp = Stamp {
        at: Timestamp::UNIX_EPOCH,
        by: Writer::Policy {
            id: "p".to_owned(),
            revision: 2,
        },
    };
    let section = Section::new(&stamp);
    let settings = json!({"lamp": "lost", "fan": "lost"});
    let settings = settings.as_object().unwrap();
    let section = section
        .merge(settings, &stamp, twin::SectionKind::Desired)
        .unwrap();
    let twin = |ring: u8| document(&section, &json!({ "ring": ring }), &json!({}));
    let p = crate::policy_doc::PolicyId::parse("p").unwrap();
    let given = |revisions: &[u64]| {
        let mut given = crate::stray::Given::default();
        for revision in revisions {
            given.give(&p, *revision);
        }
        Arc::new(given)
    };
    let unknown = |set: &PolicySet| decide(set, &twin(1), Timestamp::UNIX_EPOCH).unknown;
    // Nobody knows of it, or only of a revision before it.
    let older = ActivePolicy {
        revision: 1,
        ..active(policy("p", "*", "", 0, json!({"lamp": "old"})), 1)
    };
    for set in [
        PolicySet::default().with_given(given(&[])),
        PolicySet::new([older]).with_given(given(&[1])),
    ] {
        assert_eq!(decided(&set, &twin(1)), None, "it stays");
        assert_eq!(unknown(&set), [(p.clone(), 2)].into());
    }
    // A newer one in waves takes over where its turn has come, and nowhere else.
    let set = staged(1).with_given(given(&[3, 4]));
    assert_eq!(decided(&set, &twin(1)), Some(vec!["p".to_owned()]));
    assert_eq!(decided(&set, &twin(2)), None, "its turn has not come");
    assert_eq!(unknown(&set), [].into());
    // What was given, and what was deleted, is taken out.
    let set = PolicySet::default().with_given(given(&[1, 2]));
    assert_eq!(decided(&set, &twin(1)), Some(Vec::new()));
    let mut deleted = crate::stray::Given::default();
    deleted.delete(&p, 2);
    let set = PolicySet::default().with_given(Arc::new(deleted));
    assert_eq!(decided(&set, &twin(1)), Some(Vec::new()));
}

#[test]
fn settings_that_are_too_large_keep_out_nobody_who_comes_before_them() {
    let big = |count: usize| json!(vec!["x".repeat(4000); count]);
    let none = twin(&json!({}), &json!({}), &json!({}));
    let base = |value: i32| {
        active(
            policy("base", "*", "", 9, json!({"lock": value, "b": big(1)})),
            1,
        )
    };
    let team = |size| active(policy("team", "*", "", 1, json!({"t": big(size)})), 2);
    let least = active(policy("least", "*", "", 0, json!({"l": 1})), 3);
    let before = PolicySet::new([base(1), team(2), least.clone()]);
    let before = performed(&before, &none, &json!({}), &json!({}));
    // One in the middle grows too large, and the first of all has something to mend.
    let now = PolicySet::new([base(2), team(8), least]);
    let after = performed_by(&now, &before);
    assert_eq!(after.desired().document()["lock"], 2);
    assert_eq!(after.desired().document()["l"], 1);
    assert_eq!(
        after.desired().document()["t"],
        big(2),
        "it keeps what it has"
    );
    let decision = decide(&now, &after, Timestamp::UNIX_EPOCH).decision;
    assert!(matches!(decision, Decision::Breaks(_)), "{decision:?}");
    let rejected: Vec<String> = crate::standing::standings(&now, &after, Timestamp::UNIX_EPOCH)
        .into_iter()
        .filter(|(_, standing)| *standing == crate::standing::Standing::Rejected)
        .map(|(active, _)| active.policy.id().to_string())
        .collect();
    assert_eq!(rejected, ["team"]);
}

/// The twin after what is decided was done.
fn performed_by(set: &PolicySet, twin: &TwinDocument) -> TwinDocument {
    let Decision::Write(writes) = decide(set, twin, Timestamp::UNIX_EPOCH).decision else {
        panic!("there is something to write");
    };
    let outcome = twin::apply_policy_settings(twin.desired(), &writes, Timestamp::UNIX_EPOCH);
    match outcome.unwrap().change {
        PolicyChange::Changed { section, .. } => twin.with_desired(*section),
        PolicyChange::Unchanged => panic!("it changes something"),
    }
}
