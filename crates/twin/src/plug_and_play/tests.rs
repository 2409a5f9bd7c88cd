use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::{SectionKind, Stamp, Writer};

fn map(value: &Value) -> Map {
    value.as_object().unwrap().clone()
}

/// A section after these patches; the first makes version 2.
fn desired(patches: &[Value]) -> Section {
    let stamp = Stamp {
        at: Timestamp::UNIX_EPOCH,
        by: Writer::Operator("o".to_owned()),
    };
    let merge = |section: Section, patch: &Value| {
        let patch = map(patch);
        section.merge(&patch, &stamp, SectionKind::Desired).unwrap()
    };
    patches.iter().fold(Section::new(&stamp), merge)
}

/// Each property with what is said of it, and through which version everything is in force.
fn told(patches: &[Value], reported: &Value) -> (Vec<String>, Option<u64>) {
    let answers = answers(&desired(patches), &map(reported));
    let word = |property: &Property| {
        let says = match &property.says {
            Says::Nothing => "nothing".to_owned(),
            Says::InProgress => "in progress".to_owned(),
            Says::Applied => "applied".to_owned(),
            Says::Differs => "differs".to_owned(),
            Says::Rejected { code, description } => format!("{code} {description}"),
        };
        format!("{}: {says}", property.path)
    };
    let words = answers.properties.iter().map(word).collect();
    (words, answers.applied_through)
}

#[test]
fn each_property_is_judged_by_code_and_by_the_version_that_it_was_written_in() {
    let once = [json!({"t": 20})];
    let cases = [
        (json!({"t": 20}), "nothing", None),
        (json!({"t": {"value": 20, "ac": 200}}), "nothing", None),
        (
            json!({"t": {"value": 20, "ac": "200", "av": 2}}),
            "nothing",
            None,
        ),
        (
            json!({"t": {"value": 20, "ac": 200, "av": 1}}),
            "nothing",
            Some(1),
        ),
        (
            json!({"t": {"value": 20, "ac": 200, "av": 3}}),
            "nothing",
            None,
        ),
        (
            json!({"t": {"value": 20, "ac": 200, "av": 2}}),
            "applied",
            Some(2),
        ),
        (
            json!({"t": {"value": 20.0, "ac": 200, "av": 2}}),
            "applied",
            Some(2),
        ),
        (json!({"t": {"ac": 204, "av": 2}}), "applied", Some(2)),
        (
            json!({"t": {"value": 21, "ac": 200, "av": 2}}),
            "differs",
            Some(2),
        ),
        (
            json!({"t": {"value": 21, "ac": 203, "av": 2}}),
            "applied",
            Some(2),
        ),
        (
            json!({"t": {"value": 7, "ac": 202, "av": 2}}),
            "in progress",
            Some(1),
        ),
        (
            json!({"t": {"ac": 400, "av": 2, "ad": "too hot"}}),
            "400 too hot",
            Some(1),
        ),
        (json!({"t": {"ac": 500, "av": 2}}), "500 ", Some(1)),
        (json!({"t": {"ac": 302, "av": 2}}), "302 ", Some(1)),
        (json!({"t": {"ac": -1, "av": 2, "ad": 5}}), "-1 ", Some(1)),
        (json!({"t": [{"ac": 200, "av": 2}]}), "nothing", None),
    ];
    for (reported, says, through) in cases {
        let expected = (vec![format!("t: {says}")], through);
        assert_eq!(told(&once, &reported), expected, "{reported}");
    }
}

#[test]
fn one_refused_leaves_the_others_in_force() {
    // 2: a, 3: b, 4: a again.
    let patches = [json!({"a": 1}), json!({"b": 1}), json!({"a": 2})];
    let reported = json!({
        "a": {"value": 2, "ac": 200, "av": 4},
        "b": {"value": 0, "ac": 400, "av": 4, "ad": "no"},
    });
    let (words, through) = told(&patches, &reported);
    assert_eq!(words, ["a: applied", "b: 400 no"]);
    assert_eq!(through, Some(2), "b is of version 3");
    let refusal = answers(&desired(&patches), &map(&reported)).refusal();
    assert_eq!(refusal.as_deref(), Some("b: 400 no"));
    // An answer for an older version of a is none for the newer one.
    let reported = json!({
        "a": {"value": 1, "ac": 200, "av": 2},
        "b": {"value": 1, "ac": 200, "av": 3},
    });
    let expected = (
        vec!["a: nothing".to_owned(), "b: applied".to_owned()],
        Some(3),
    );
    assert_eq!(told(&patches, &reported), expected);
}

#[test]
fn components_are_looked_into_and_other_objects_are_properties() {
    let patches = [json!({
        "lamp": {"__t": "c", "on": true, "color": "red"},
        "plain": {"x": {"y": 1}},
    })];
    let reported = json!({
        "lamp": {
            "__t": "c",
            "on": {"value": true, "ac": 200, "av": 2},
            "color": {"value": "blue", "ac": 400, "av": 2, "ad": "out of red"},
        },
        "plain": {"value": {"x": {"y": 1}}, "ac": 200, "av": 2},
    });
    let (words, through) = told(&patches, &reported);
    let mut words = words;
    words.sort_unstable();
    assert_eq!(
        words,
        [
            "lamp.color: 400 out of red",
            "lamp.on: applied",
            "plain: applied"
        ]
    );
    assert_eq!(through, Some(1));
    let section = desired(&patches);
    let document = section.document();
    assert_eq!(property_of(document, &["lamp", "on"]), "lamp.on");
    assert_eq!(property_of(document, &["plain", "x", "y"]), "plain");
    assert_eq!(property_of(document, &["gone"]), "gone");
}

#[test]
fn what_was_taken_out_is_in_force_once_a_later_version_is_answered() {
    let patches = [json!({"a": 1, "b": 1}), json!({"b": null})];
    let a = |version| json!({"a": {"value": 1, "ac": 200, "av": version}});
    assert_eq!(told(&patches, &a(2)).1, Some(2));
    assert_eq!(told(&patches, &a(3)).1, Some(3));
    // It tells by what is gone itself.
    let gone = json!({
        "a": {"value": 1, "ac": 200, "av": 2},
        "b": {"value": 0, "ac": 203, "av": 3},
    });
    assert_eq!(told(&patches, &gone).1, Some(3));
    let all_gone = [json!({"b": 1}), json!({"b": null})];
    let answer = |version| json!({"b": {"value": 0, "ac": 203, "av": version}});
    assert_eq!(told(&all_gone, &answer(2)).1, Some(2));
    assert_eq!(told(&all_gone, &answer(3)).1, Some(3));
}

#[test]
fn only_what_holds_an_answer_is_one() {
    for (patch, is) in [
        (json!({}), false),
        (
            json!({"t": 20, "u": {"x": {"y": {"ac": 200, "av": 1}}}}),
            false,
        ),
        (json!({"t": {"ac": 200}}), false),
        (json!({"t": {"ac": 200, "av": 1}}), true),
        (json!({"c": {"__t": "c", "t": {"ac": 200, "av": 1}}}), true),
        (json!({"c": {"t": {"ac": 200, "av": 1}}}), true),
        (json!({"c": {"__t": "c", "t": 5}}), false),
    ] {
        assert_eq!(gives_answers(&map(&patch)), is, "{patch}");
    }
}
