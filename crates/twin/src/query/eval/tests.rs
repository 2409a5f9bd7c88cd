use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::query::ast::Function;
use crate::query::{Condition, Datum, LazyPosture, LazySection, LazyTwin, TwinView, Vocabulary};
use crate::testing::{at, map};

/// What a condition is of a twin whose tags these are: true, false or undefined.
#[track_caller]
fn judge_with(text: &str, tags: &Value) -> Option<bool> {
    let parse = |text: &str| match Condition::parse_in(text, Vocabulary::Query) {
        Ok(condition) => condition,
        Err(error) => panic!("{text}\n{error}"),
    };
    let tags = map(tags.clone());
    let nothing = crate::Map::new();
    let view = TwinView {
        device_id: "d1",
        module_id: None,
        status: "enabled",
        tags: &tags,
        desired: &nothing,
        desired_version: 1,
        reported: &nothing,
        reported_version: 1,
        posture: &Value::Null,
        device_tags: None,
    };
    let holds = parse(text).matches_at(&view, at(0));
    let fails = parse(&format!("NOT ({text})")).matches_at(&view, at(0));
    assert!(!(holds && fails), "{text}");
    (holds || fails).then_some(holds)
}

#[track_caller]
fn judge(text: &str) -> Option<bool> {
    judge_with(
        text,
        &json!({
            "text": "Größe", "number": 2.5, "negative": -4, "flag": true, "none": null,
            "list": [1, "a"], "object": {"a": 1}, "digits": "12.5e1", "large": 1e308,
            "long": "x".repeat(4096),
        }),
    )
}

#[test]
fn every_function_of_routes_gives_what_is_documented() {
    for text in [
        "ABS(tags.negative) = 4",
        "EXP(0) = 1 AND EXP(1) > 2.718 AND EXP(1) < 2.719",
        "POWER(2, 10) = 1024 AND POWER(4, 0.5) = 2 AND POWER(2, -1) = 0.5",
        "SQUARE(tags.negative) = 16",
        "CEILING(tags.number) = 3 AND CEILING(-2.5) = -2",
        "FLOOR(tags.number) = 2 AND FLOOR(-2.5) = -3",
        "SIGN(tags.negative) = -1 AND SIGN(0) = 0 AND SIGN(tags.number) = 1",
        "SQRT(16) = 4",
        "AS_NUMBER(tags.digits) = 125 AND AS_NUMBER(tags.number) = 2.5 AND AS_NUMBER('-.5') = -0.5",
        "CONCAT('a', tags.text, 'b') = 'aGrößeb' AND CONCAT('a', '') = 'a'",
        "LENGTH(tags.text) = 5",
        "LOWER(tags.text) = 'größe' AND UPPER(tags.text) = 'GRÖSSE'",
        "SUBSTRING(tags.text, 2) = 'öße' AND SUBSTRING(tags.text, 2, 2) = 'öß'",
        "SUBSTRING(tags.text, 0, 0) = '' AND SUBSTRING(tags.text, 5) = ''",
        "SUBSTRING(tags.text, 99) = '' AND SUBSTRING(tags.text, 1, 1e300) = 'röße'",
        "INDEX_OF(tags.text, 'ß') = 3 AND INDEX_OF(tags.text, 'x') = -1 AND INDEX_OF('a', '') = 0",
        "STARTS_WITH(tags.text, 'Gr') AND ENDS_WITH(tags.text, 'ße') AND CONTAINS(tags.text, 'öß')",
        "IS_PRIMITIVE(tags.text) AND IS_PRIMITIVE(tags.none) AND NOT IS_PRIMITIVE(tags.list)",
        "NOT IS_PRIMITIVE(tags.object) AND NOT IS_PRIMITIVE(tags.missing)",
        "IS_ARRAY(tags.list) AND IS_OBJECT(tags.object) AND IS_NULL(tags.none)",
        "IS_BOOL(tags.flag) AND IS_NUMBER(tags.number) AND IS_STRING(tags.text)",
    ] {
        assert_eq!(judge(text), Some(true), "{text}");
    }
}

#[test]
fn both_spellings_of_every_function_are_one() {
    for (name, function) in Function::NAMES {
        for spelling in [
            name.to_owned(),
            name.replace('_', ""),
            name.to_lowercase(),
            name.replace("WITH", "_WITH"),
        ] {
            assert_eq!(Function::by_name(&spelling), Some(function), "{spelling}");
        }
    }
    assert_eq!(Function::by_name("STARTS"), None);
}

#[test]
fn a_function_of_the_wrong_type_or_without_a_finite_result_is_undefined() {
    for text in [
        "ABS('1') = 1",
        "EXP(1e6) > 0",
        "POWER(10, 400) > 0",
        "POWER(-1, 0.5) = 1",
        "POWER('2', 2) = 4",
        "SQUARE(tags.large) > 0",
        "SQRT(-1) = 1",
        "CEILING(null) = 0",
        "AS_NUMBER('abc') = 1",
        "AS_NUMBER('inf') > 1",
        "AS_NUMBER('NaN') = 1",
        "AS_NUMBER('') = 0",
        "AS_NUMBER('1e999') > 1",
        "AS_NUMBER(' 1') = 1",
        "AS_NUMBER(tags.flag) = 1",
        "CONCAT('a', 1) = 'a1'",
        "CONCAT('a', tags.missing) = 'a'",
        "SUBSTRING(tags.text, -1) = 'G'",
        "SUBSTRING(tags.text, 0.5) = 'G'",
        "SUBSTRING(tags.text, 0, -1) = ''",
        "SUBSTRING(1, 0) = '1'",
        "INDEX_OF(tags.list, 1) = 0",
        "LENGTH(tags.list) = 2",
        "STARTSWITH(tags.text, 1)",
        "AS_DATE('tomorrow') > NOW()",
        "AS_DATE(5) > NOW()",
        "DATE_ADD('day', '1', NOW()) > NOW()",
        "DATE_ADD('day', 1, tags.text) > NOW()",
        "DATE_ADD('day', -1e18, NOW()) < NOW()",
        "DATE_DIFF('day', tags.missing, NOW()) < 1",
        "NOW() = 5",
        "NOW() < tags.text",
    ] {
        assert_eq!(judge(text), None, "{text}");
    }
}

#[test]
fn a_text_that_is_made_stays_bounded() {
    let eight = format!("CONCAT({})", ["tags.long"; 8].join(", "));
    assert_eq!(judge(&format!("LENGTH({eight}) = 32768")), Some(true));
    assert_eq!(judge(&format!("LENGTH(CONCAT({eight}, 'x')) > 0")), None);
    // Each level would multiply the one below.
    let mut grown = "tags.long".to_owned();
    for _ in 0..4 {
        grown = format!("CONCAT({})", [grown.as_str(); 4].join(","));
    }
    assert_eq!(judge(&format!("LENGTH({grown}) > 0")), None);
    // This letter has three capital ones.
    let tags = json!({"t": "\u{390}".repeat(2048)});
    let upper = "UPPER(CONCAT(tags.t, tags.t, tags.t, tags.t))";
    assert_eq!(judge_with(&format!("LENGTH({upper}) > 0"), &tags), None);
}

/// A twin whose reported section is as costly as one may be.
fn costly() -> crate::Map {
    map(json!({"a": vec![true; 8191], "t": "x".repeat(4096)}))
}

/// Whether a condition holds of it, and whether it was decided.
#[track_caller]
fn decided(text: &str, now: Option<Timestamp>) -> (bool, bool) {
    let condition = match Condition::parse_in(text, Vocabulary::Query) {
        Ok(condition) => condition,
        Err(error) => panic!("{text}\n{error}"),
    };
    let reported = Value::Object(costly()).to_string();
    let twin = LazyTwin {
        attributes: |_| Datum::Undefined,
        tags: LazySection::new("{}", "{}", 1),
        desired: LazySection::new("{}", "{}", 1),
        reported: LazySection::new(&reported, "{}", 1),
        posture: LazyPosture::from_text(""),
        device_tags: None,
        undecided: false.into(),
    };
    let holds = match now {
        Some(now) => condition.matches_at(&twin, now),
        None => condition.matches(&twin),
    };
    (holds, !twin.is_undecided())
}

/// A device fills its arrays, a caller writes the query: both together must not take for ever, as
/// this test would if steps were not counted.
#[test]
fn a_twin_that_takes_too_many_steps_is_undecided_and_soon_so() {
    let list = vec!["5"; 1000].join(", ");
    for text in [
        &format!(
            "EXISTS(x IN reported.a WHERE EXISTS(y IN reported.a WHERE x = 1 OR y IN [{list}]))"
        ),
        "NOT EXISTS(x IN reported.a WHERE EXISTS(y IN reported.a WHERE x = 1 AND y = 1))",
        "EXISTS(x IN reported.a WHERE EXISTS(y IN reported.a WHERE NOT IS_DEFINED(y)))",
        "EXISTS(x IN reported.a WHERE x NIN reported.a AND false)",
        "EXISTS(x IN reported.a WHERE ARRAY_CONTAINS(reported.a, 1))",
        &format!("EXISTS(x IN reported.a WHERE x IN [{list}])"),
        &format!(
            "EXISTS(x IN reported.a WHERE {})",
            vec!["UPPER(CONCAT(reported.t, reported.t)) = 'x'"; 100].join(" OR ")
        ),
        &format!(
            "EXISTS(x IN reported.a WHERE {})",
            vec!["AS_DATE('2026-01-01') > NOW()"; 200].join(" OR ")
        ),
    ] {
        assert_eq!(decided(text, Some(at(0))), (false, false), "{text}");
    }
}

#[test]
fn what_people_ask_of_the_largest_twin_is_decided() {
    for (text, holds) in [
        ("EXISTS(x IN reported.a WHERE x = true)", true),
        ("EXISTS(x IN reported.a WHERE x = false)", false),
        ("NOT EXISTS(x IN reported.a WHERE x = false)", true),
        (
            "NOT EXISTS(x IN reported.a WHERE x != true OR NOT IS_BOOL(x) OR IS_NULL(x) \
             OR x IN [1, 2, 3, 4, 5, 6, 7, 8, 'a', 'b', 'c', 'd', null])",
            true,
        ),
        (
            "ARRAY_CONTAINS(reported.a, true) AND 1 NIN reported.a",
            true,
        ),
        (
            "ARRAY_LENGTH(reported.a) = 8191 AND LENGTH(reported.t) = 4096",
            true,
        ),
        // A true part decides before the costly one is looked at.
        (
            "true OR EXISTS(x IN reported.a WHERE EXISTS(y IN reported.a WHERE y = 1))",
            true,
        ),
    ] {
        assert_eq!(decided(text, None), (holds, true), "{text}");
    }
}

#[test]
fn without_a_time_there_is_no_now() {
    let text = "NOW() > '2000-01-01' OR NOT NOW() > '2000-01-01'";
    let condition = Condition::parse_in(text, Vocabulary::Query).unwrap();
    let (nothing, posture) = (crate::Map::new(), Value::Null);
    let view = TwinView {
        device_id: "d1",
        module_id: None,
        status: "enabled",
        tags: &nothing,
        desired: &nothing,
        desired_version: 1,
        reported: &nothing,
        reported_version: 1,
        posture: &posture,
        device_tags: None,
    };
    assert!(!condition.matches(&view));
    assert!(condition.matches_at(&view, Timestamp::UNIX_EPOCH));
}

#[test]
fn a_condition_over_changes_names_nothing_that_they_do_not_carry() {
    for (text, hint) in [
        ("lastActivityTime < '2026-01-01'", "do not carry it"),
        ("etag = 'x'", "do not carry it"),
        ("configurations.[[c]].status = 'Applied'", "do not carry it"),
        ("tags.a < NOW()", "when time passes"),
        (
            "properties.desired.$metadata.$lastUpdated > '2026-01-01'",
            "$version",
        ),
    ] {
        assert!(
            Condition::parse_in(text, Vocabulary::Query).is_ok(),
            "{text}"
        );
        let error = Condition::parse(text).expect_err(text).to_string();
        assert!(error.contains(hint), "{text}\n{error}");
    }
    // Names of attributes that it has not can still be those of elements.
    assert!(Condition::parse("EXISTS(version IN tags.list WHERE version = 1)").is_ok());
}

proptest! {
    #[test]
    fn no_function_panics_whatever_it_is_given(
        function in prop::sample::select(Function::NAMES.to_vec()),
        args in prop::collection::vec(
            prop::sample::select(vec![
                "tags.a", "tags.b", "null", "true", "-1", "0", "1e308", "0.5", "9007199254740993",
                "''", "'x'", "'\u{130}\u{df}'", "NOW()", "'2026-01-01'", "'day'", "undefined", "tags",
            ]),
            0..5,
        ),
        a in any::<f64>().prop_filter("finite", |n| n.is_finite()),
        b: String,
    ) {
        let call = format!("{}({}) = 1", function.0, args.join(", "));
        if Condition::parse_in(&call, Vocabulary::Query).is_ok() {
            judge_with(&call, &json!({"a": a, "b": b}));
        }
    }

    #[test]
    fn a_part_of_a_text_is_found_where_it_was_taken(
        text in "[a-zäö€😀]{0,12}", start in 0..14_usize, length in 0..14_usize,
    ) {
        let chars: Vec<char> = text.chars().collect();
        let part: String = chars.iter().skip(start).take(length).collect();
        let tags = json!({"text": text, "part": part});
        let same = format!("SUBSTRING(tags.text, {start}, {length}) = tags.part");
        prop_assert_eq!(judge_with(&same, &tags), Some(true));
        let place = text.find(&part).map(|byte| text[..byte].chars().count()).unwrap();
        let found = format!("INDEX_OF(tags.text, tags.part) = {place}");
        prop_assert_eq!(judge_with(&found, &tags), Some(true));
    }

    #[test]
    fn adding_a_span_is_what_the_difference_gives_back(
        unit in prop::sample::select(vec!["second", "minute", "hour", "day", "week"]),
        count in -100_000..100_000_i32,
    ) {
        let text = format!("DATE_DIFF('{unit}', NOW(), DATE_ADD('{unit}', {count}, NOW())) = {count}");
        prop_assert_eq!(judge(&text), Some(true), "{}", text);
    }
}
