use proptest::prelude::*;
use serde_json::json;

use super::ast::{ArithmeticOp, CompareOp, Function, Literal, MemberOp, Set};
use super::*;
use crate::limits::{QUERY_LIST_MAX, QUERY_NESTING_MAX};
use crate::testing::map;

/// The twin that all conditions here are about.
struct Facts {
    tags: Map,
    desired: Map,
    reported: Map,
    posture: Value,
}

impl Facts {
    fn new() -> Facts {
        Facts {
            tags: map(json!({
                "site": "Lyon", "floor": 2, "lab": true, "nothing": null, "a]": 1, "group": "g", "my-key": "k",
                "allowedPorts": [22, 443], "location": {"region": "EU"}, "5g": true,
            })),
            desired: map(json!({"rate": {"hz": 5}})),
            reported: map(json!({"fw": "1.2.3", "load": 0.5})),
            posture: json!({
                "failedLogins": 7,
                "listeningPorts": [
                    {"port": 22, "protocol": "tcp", "users": ["root"]},
                    {"port": 8080, "protocol": "tcp", "users": ["www", "dev"]},
                ],
                "byPort": {"tcp/22": {"port": 22}, "tcp/8080": {"port": 8080}},
                "empty": [],
            }),
        }
    }

    fn view(&self) -> TwinView<'_> {
        TwinView {
            device_id: "d1",
            module_id: None,
            status: "enabled",
            tags: &self.tags,
            desired: &self.desired,
            desired_version: 4,
            reported: &self.reported,
            reported_version: 9,
            posture: &self.posture,
            device_tags: None,
        }
    }
}

#[track_caller]
fn holds(text: &str) -> bool {
    match Condition::parse(text) {
        Ok(condition) => condition.matches(&Facts::new().view()),
        Err(error) => panic!("{text}\n{error}"),
    }
}

/// Each condition is true, its negation is not.
#[track_caller]
fn all_true(conditions: &[&str]) {
    for text in conditions {
        assert!(holds(text), "should be true: {text}");
        assert!(
            !holds(&format!("NOT ({text})")),
            "negation should not be true: {text}"
        );
    }
}

/// Each condition is false: its negation is true.
#[track_caller]
fn all_false(conditions: &[&str]) {
    for text in conditions {
        assert!(!holds(text), "should be false: {text}");
        assert!(
            holds(&format!("NOT ({text})")),
            "negation should be true: {text}"
        );
    }
}

/// Neither the condition nor its negation is true.
#[track_caller]
fn all_undefined(conditions: &[&str]) {
    for text in conditions {
        assert!(!holds(text), "should be undefined: {text}");
        assert!(
            !holds(&format!("NOT ({text})")),
            "negation should be undefined: {text}"
        );
    }
}

#[test]
fn everything_and_nothing() {
    assert!(holds("*"));
    assert!(holds(" * "));
    assert!(!holds(""));
    assert!(!holds(" \n"));
    assert_eq!(Condition::parse("*").unwrap().paths(), BTreeSet::new());
}

#[test]
fn comparisons_of_the_documented_kind_hold() {
    all_true(&[
        "deviceId = 'd1'",
        "DEVICEID = \"d1\" and Status = 'enabled'",
        "tags.site = 'Lyon'",
        "tags.location.region IN ['US', 'EU']",
        "tags.floor >= 2 AND tags.floor < 3 AND tags.floor <> 3",
        "tags.[[group]] = 'g' AND tags.[[my-key]] = 'k' AND tags.[[5g]]",
        "tags.group = 'g' AND tags.[[a]]] = 1",
        "tags.'my-key' = 'k' AND tags.\"group\" = 'g'",
        ".5 = 0.5 AND .5e1 = 5 AND -.5 < tags.floor AND tags.floor >.5 AND .25+.25=.5",
        "tags.lab",
        "tags.lab = true",
        "properties.desired.rate.hz = 5 AND desired.rate.hz = 5",
        "properties.desired.$version > 3 AND reported.$version = 9",
        "properties.reported.load * 4 - 1 = 1",
        "reported.fw > '1.1' /* texts by order */ AND reported.fw < '1.3'",
        "posture.failedLogins > 5",
        "posture.failedLogins IN [1, -3, 7]",
        "22 IN tags.allowedPorts AND 23 NIN tags.allowedPorts",
        "tags.nothing = null",
        "tags.floor = 0x2 AND 2.5e1 = 25",
        "'it\\'s' = \"it's\" AND '\\u0041\\uD83D\\uDE00' = 'A😀'",
        "-tags.floor = -2 AND - -2 = +2",
        "7 % 4 = 3 AND 10 - 3 - 2 = 5 AND 2 + 3 * 4 = 14 AND (2 + 3) * 4 = 20 AND 8 / 2 / 2 = 2",
        "1 = 2 OR 1 = 1 AND 2 = 2",
        "NOT 1 = 2",
    ]);
    all_false(&[
        "tags.site = 'lyon'",
        "tags.site != 'Lyon'",
        "tags.floor NIN [1, 2]",
        "(1 = 1 OR 1 = 1) AND 1 = 2",
    ]);
}

#[test]
fn what_is_missing_or_of_another_type_is_undefined() {
    all_undefined(&[
        "tags.missing = 1",
        "tags.missing != 1",
        "tags.missing IN [1]",
        "tags.missing NIN [1]",
        "tags.site = 1",
        "tags.site != 1",
        "tags.site > 1",
        "tags.site != null",
        "tags.lab < true",
        "tags.location = tags.location",
        "tags.allowedPorts = tags.allowedPorts",
        "tags.location IN [1]",
        "1 IN tags.location",
        "tags.site.deeper = 1",
        "moduleId = 'm'",
        "tags.site",
        "5",
        "null",
        "undefined",
        "undefined = undefined",
        "1 / 0 = 1",
        "1 % 0 = 1",
        "tags.site + 1 = 1",
        "-tags.site = 1",
        "1e308 * 10 > 1",
        "LENGTH(5) = 1",
        "LOWER(tags.missing) = 'x'",
        "ARRAY_LENGTH(tags.site) = 1",
        "ARRAY_CONTAINS(tags.missing, 1)",
        "ARRAY_CONTAINS(tags.allowedPorts, tags.location)",
        "EXISTS(p IN posture.missing WHERE p.port = 1)",
        "EXISTS(p IN posture.listeningPorts WHERE p.missing = 1)",
    ]);
}

#[test]
fn undefined_gives_way_to_what_decides() {
    all_true(&["tags.missing = 1 OR 1 = 1", "1 = 1 OR tags.missing = 1"]);
    all_false(&["tags.missing = 1 AND 1 = 2", "1 = 2 AND tags.missing = 1"]);
    all_undefined(&["tags.missing = 1 OR 1 = 2", "tags.missing = 1 AND 1 = 1"]);
}

#[test]
fn functions_do_what_they_say() {
    all_true(&[
        "IS_DEFINED(tags.site) AND is_defined(tags.nothing) AND IS_DEFINED(posture)",
        "IS_NULL(tags.nothing) AND IS_STRING(tags.site) AND IS_NUMBER(tags.floor)",
        "IS_BOOL(tags.lab) AND IS_ARRAY(tags.allowedPorts) AND IS_OBJECT(tags.location)",
        "STARTSWITH(tags.site, 'Ly') AND STARTS_WITH(deviceId, 'd')",
        "ENDSWITH(tags.site, 'on') AND ENDS_WITH(tags.site, 'on') AND CONTAINS(tags.site, 'yo')",
        "LENGTH('größe') = 5 AND LENGTH('') = 0",
        "LOWER(tags.site) = 'lyon' AND UPPER(tags.site) = 'LYON'",
        "ABS(-3) = 3 AND ABS(tags.floor - 5) = 3",
        "ARRAY_CONTAINS(tags.allowedPorts, 443) AND ARRAY_LENGTH(tags.allowedPorts) = 2",
        "ARRAY_LENGTH(posture.empty) = 0",
    ]);
    all_false(&[
        "IS_DEFINED(tags.missing)",
        "IS_DEFINED(moduleId)",
        "IS_NULL(tags.missing)",
        "IS_STRING(tags.missing)",
        "STARTSWITH(tags.site, 'ly')",
        "ARRAY_CONTAINS(tags.allowedPorts, 80)",
        "ARRAY_CONTAINS(tags.allowedPorts, '22')",
    ]);
}

#[test]
fn the_quantifier_looks_at_every_element() {
    all_true(&[
        "EXISTS(p IN posture.listeningPorts WHERE p.port NIN [22, 443])",
        "EXISTS(p IN posture.listeningPorts WHERE p.port NIN tags.allowedPorts)",
        "EXISTS(p IN posture.byPort WHERE p.port > 1024)",
        "EXISTS(a IN tags.allowedPorts WHERE a = 443)",
        "EXISTS(p IN posture.listeningPorts WHERE p.port = 8080 AND \
         EXISTS(u IN p.users WHERE u = 'dev' AND p.protocol = 'tcp'))",
        "EXISTS(p IN posture.listeningPorts WHERE p.missing = 1 OR p.port = 22)",
    ]);
    all_false(&[
        "EXISTS(p IN posture.listeningPorts WHERE p.port = 23)",
        "EXISTS(p IN posture.empty WHERE p.port = 23)",
        "EXISTS(p IN posture.listeningPorts WHERE p.port NIN [22, 443] AND p.protocol = 'udp')",
    ]);
}

#[test]
fn a_condition_names_what_it_looks_at() {
    let paths = |text: &str| -> Vec<_> {
        Condition::parse(text)
            .unwrap()
            .paths()
            .iter()
            .map(Path::to_string)
            .collect()
    };
    assert_eq!(
        paths(
            "EXISTS(p IN posture.listeningPorts WHERE p.port NIN tags.allowedPorts) \
             AND (LOWER(reported.[[my-fw]]) = 'x' OR NOT DeviceId IN ['d']) AND tags.a + tags.b > 1"
        ),
        [
            "deviceId",
            "tags.a",
            "tags.allowedPorts",
            "tags.b",
            "properties.reported.[[my-fw]]",
            "posture.listeningPorts",
        ]
    );
}

/// The whole message for a text that is no condition.
#[track_caller]
fn error(text: &str) -> String {
    Condition::parse(text)
        .expect_err("no condition")
        .to_string()
}

#[test]
fn an_error_shows_place_finding_expectation_and_hint() {
    assert_eq!(
        error("tags.site = = 'x'"),
        "line 1, column 13: found `=`, expected a value or a path\n\
         hint: equality is written with a single =\n  \
         tags.site = = 'x'\n              \
         ^"
    );
    assert_eq!(
        error("tags.a = 1 AND\n  p.x = 2"),
        "line 2, column 3: found `p`, expected a path, a value or a function\n\
         hint: a path begins with tags, properties.desired, properties.reported, posture, \
         deviceId, moduleId, status, or device.tags on modules; a text stands in quotes: 'p'\n    \
         p.x = 2\n    \
         ^"
    );
    let long = format!("{} tags.a == 1", "tags.b = 2 AND ".repeat(30));
    let shown = error(&long);
    assert!(
        shown.lines().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
    let place = Condition::parse(&long).unwrap_err();
    assert_eq!(&long[place.offset..=place.offset], "=");
    assert_eq!((place.line, place.column), (1, place.offset + 1));
}

#[test]
fn common_mistakes_get_a_hint() {
    for (text, hint) in [
        ("a AND b", "path begins with"),
        ("tags.a && tags.b", "write AND"),
        ("tags.a || tags.b", "write OR"),
        ("!tags.a", "write NOT"),
        ("tags.a == 1", "single ="),
        ("tags.a = b", "a text stands in quotes: 'b'"),
        ("tags.my-key = 1", "[[my-key]]"),
        ("tags.5g = 1", "[[5g]]"),
        ("tags.a NOT IN [1]", "NIN"),
        ("tags.a IN (1, 2)", "square brackets"),
        ("tags.list[0] = 1", "no positions"),
        ("1 < tags.a < 9", "join two comparisons with AND"),
        ("connectionState = 'Connected'", "cannot be used"),
        ("SUBSTRNG(tags.a, 1) = 'x'", "did you mean SUBSTRING?"),
        ("REVERSE(tags.a) = 'x'", "there are EXISTS, IS_DEFINED"),
        ("EXISTS(tags IN posture.a WHERE 1 = 1)", "EXISTS(p IN"),
        ("EXISTS(posture.a)", "EXISTS(p IN"),
        ("tags.$metadata.a = 1", "$version"),
        ("tags.[['", "a list is [1, 2]"),
    ] {
        let message = error(text);
        assert!(message.contains(hint), "{text}\n{message}");
        assert!(message.contains("\nhint: "), "{text}\n{message}");
    }
}

#[test]
fn what_is_no_condition_is_refused() {
    for text in [
        "tags.",
        "tags.a =",
        "(tags.a",
        "tags.a)",
        "tags.a tags.b",
        "= 1",
        "tags.a IN",
        "tags.a IN [1",
        "tags.a IN [1 2]",
        "tags.a IN [,]",
        "tags.a IN [tags.b]",
        "tags.a IN [undefined]",
        "tags.a IN [-'x']",
        "properties.a = 1",
        "properties = 1",
        "deviceId.x = 1",
        "'open",
        "\"open'",
        "'\\x'",
        "'\\u12'",
        "'\\uD83D'",
        "'\\uD83D\\u0041'",
        "0x",
        "0x1p",
        "1a",
        "1e999",
        "/* open",
        "/* only */",
        "IS_DEFINED()",
        "IS_DEFINED(1)",
        "IS_DEFINED(tags.a, 1)",
        "CONTAINS('a')",
        "CONTAINS('a' 'b')",
        "EXISTS(p IN posture.a WHERE)",
        "EXISTS(p IN posture.a WHERE p.x = 1",
        "EXISTS(p IN posture.a WHERE EXISTS(p IN p.b WHERE p = 1))",
        "p.x = 1 OR EXISTS(p IN posture.a WHERE p.x = 1)",
        "EXISTS(p IN posture.a WHERE p.x = 1) OR p = 1",
        "NOT",
        "-",
        "AND",
        "tags.a OR",
        "tags.[[]] = 1",
        "[[tags]].a = 1",
        "[1] = 1",
        "tags.a = ;",
        "NIN [1]",
        "**",
        "tags.a = 1.",
        "tags.'' = 1",
        "tags.5 = 1",
        "tags.[[a]].5 = 1",
    ] {
        let refused = Condition::parse(text).expect_err(text);
        assert!(refused.offset <= text.len(), "{text}");
        assert!(!refused.summary().contains('\n'), "{text}");
    }
}

#[test]
fn every_limit_is_told_with_its_number() {
    let at_limit = "tags.a=1 OR ".repeat(682) + "tags.a=1";
    assert_eq!(at_limit.len(), 8192);
    assert!(Condition::parse(&at_limit).is_ok());
    assert!(
        error(&(at_limit + " "))
            .contains("found a condition of 8193 characters, expected at most 8192")
    );

    let list = |length| format!("tags.a IN [{}]", vec!["1"; length].join(","));
    assert!(Condition::parse(&list(QUERY_LIST_MAX)).is_ok());
    assert!(error(&list(QUERY_LIST_MAX + 1)).contains("at most 1000 values"));

    for (open, close) in [
        ("(", ")"),
        ("NOT ", ""),
        ("-", ""),
        ("+", ""),
        ("ABS(", ")"),
        ("LOWER((", "))"),
    ] {
        let levels = QUERY_NESTING_MAX / open.matches('(').count().max(1);
        let nested = |n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
        let condition = Condition::parse(&nested(levels)).unwrap();
        assert!(!condition.matches(&Facts::new().view()));
        assert!(
            error(&nested(levels + 1)).contains("at most 64 levels of nesting"),
            "{open}"
        );
    }

    let exists = |levels: usize| {
        let opened = |level| format!("EXISTS(v{level} IN posture.listeningPorts WHERE ");
        let open = (0..levels).map(opened).collect::<Vec<_>>().concat();
        format!("{open}1 = 1{}", ")".repeat(levels))
    };
    assert!(holds(&exists(2)));
    assert!(error(&exists(3)).contains("at most 2 EXISTS"));
}

#[test]
fn a_hostile_text_of_full_length_does_no_harm() {
    for piece in [
        "(",
        "NOT ",
        "-",
        "[[",
        "ABS(",
        "1+",
        "1 AND ",
        "tags.",
        "EXISTS(a IN tags WHERE ",
        "'\\u",
    ] {
        let text = piece.repeat(8192 / piece.len());
        assert!(Condition::parse(&text).is_err(), "{piece}");
    }
    // Long chains are wide, not deep.
    for piece in ["1+", "1*", "1=1 OR ", "1=1 AND "] {
        let text = piece.repeat(8000 / piece.len()) + "1=1";
        let condition = Condition::parse(&text).unwrap();
        condition.matches(&Facts::new().view());
        assert_eq!(condition.clone(), condition);
    }
}

#[test]
fn every_function_is_listed_with_its_name() {
    for (name, function) in Function::NAMES {
        assert_eq!(Function::by_name(&name.to_lowercase()), Some(function));
        assert_eq!(Function::by_name(function.name()), Some(function));
    }
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,3}",
        Just("my-key".to_owned()),
        Just("größe".to_owned()),
        "[ -~]{1,4}",
        "[\\]a]{2,5}",
    ]
    // A key of a twin does not begin with the sign that is ours.
    .prop_filter("our own keys", |key| !key.starts_with('$'))
}

pub(super) fn path() -> impl Strategy<Value = Path> {
    let root = prop_oneof![
        Just(Root::Tags),
        Just(Root::DeviceTags),
        Just(Root::Desired),
        Just(Root::Reported),
        Just(Root::Posture),
    ];
    let keyed =
        (root, prop::collection::vec(key(), 0..3)).prop_map(|(root, keys)| Path { root, keys });
    let alone = prop::sample::select(Attribute::ALL.to_vec()).prop_map(Path::attribute);
    let own = (
        prop_oneof![Just(Root::Desired), Just(Root::Reported)],
        prop::sample::select(vec![
            vec!["$version"],
            vec!["$metadata"],
            vec!["$metadata", "a"],
            vec!["$metadata", "a", "my-key", "$lastUpdated"],
        ]),
    )
        .prop_map(|(root, keys)| Path {
            root,
            keys: keys.into_iter().map(str::to_owned).collect(),
        });
    prop_oneof![6 => keyed, 2 => alone, 1 => own]
}

/// Without a sign: a minus is an operator, except within a list.
fn literal() -> impl Strategy<Value = Literal> {
    prop_oneof![
        Just(Literal::Null),
        any::<bool>().prop_map(Literal::Bool),
        any::<f64>()
            .prop_filter("finite", |n| n.is_finite())
            .prop_map(|n| Literal::Number(n.abs())),
        (0..100_u32).prop_map(|n| Literal::Number(f64::from(n))),
        any::<String>().prop_map(Literal::Text),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![
        literal().prop_map(Expr::Literal),
        path().prop_map(Expr::Path)
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        let many = prop::collection::vec(inner.clone(), 2..4);
        let compare = prop::sample::select(vec![
            CompareOp::Equal,
            CompareOp::NotEqual,
            CompareOp::Less,
            CompareOp::Greater,
            CompareOp::LessOrEqual,
            CompareOp::GreaterOrEqual,
        ]);
        let set = prop_oneof![
            prop::collection::vec(literal(), 0..4).prop_map(Set::List),
            path().prop_map(Set::Path),
        ];
        let member = prop_oneof![Just(MemberOp::In), Just(MemberOp::NotIn)];
        let ops = prop_oneof![
            Just(vec![ArithmeticOp::Add, ArithmeticOp::Subtract]),
            Just(vec![
                ArithmeticOp::Multiply,
                ArithmeticOp::Divide,
                ArithmeticOp::Remainder
            ]),
        ];
        let chain = ops.prop_flat_map({
            let inner = inner.clone();
            move |ops| {
                let rest = prop::collection::vec((prop::sample::select(ops), inner.clone()), 1..3);
                (inner.clone().prop_map(Box::new), rest)
            }
        });
        let call = (
            prop::sample::select(Function::NAMES.to_vec()),
            path(),
            inner.clone(),
            inner.clone(),
        );
        prop_oneof![
            many.clone().prop_map(Expr::Any),
            many.prop_map(Expr::All),
            boxed.clone().prop_map(Expr::Not),
            boxed.clone().prop_map(Expr::Negate),
            (compare, boxed.clone(), boxed.clone()).prop_map(|(op, left, right)| Expr::Compare {
                op,
                left,
                right
            }),
            (boxed.clone(), member, set).prop_map(|(value, op, set)| Expr::Member {
                value,
                op,
                set
            }),
            chain.prop_map(|(first, rest)| Expr::Chain { first, rest }),
            call.prop_map(|((_, function), path, first, second)| {
                let first = if function.takes_path() {
                    Expr::Path(path)
                } else if function.takes_unit() {
                    Expr::Literal(Literal::Text("Hour".into()))
                } else {
                    first
                };
                let mut args = vec![first, second.clone(), second];
                args.truncate(*function.arity().end());
                Expr::Call { function, args }
            }),
        ]
    })
}

/// Expressions, and quantifiers over them that use the element.
pub(super) fn condition() -> impl Strategy<Value = Expr> {
    let exists = (path(), expr(), key()).prop_map(|(array, condition, key)| {
        let element = Path {
            root: Root::Variable {
                name: "item".into(),
                level: 0,
            },
            keys: vec![key],
        };
        let parts = vec![condition, Expr::Path(element)];
        Expr::Exists {
            variable: "item".into(),
            array,
            condition: Box::new(Expr::All(parts)),
        }
    });
    prop_oneof![3 => expr(), 1 => exists]
}

proptest! {
    #[test]
    fn the_canonical_text_of_a_tree_is_that_tree(expr in condition()) {
        let text = expr.to_string();
        prop_assume!(text.chars().count() <= 8192 && !["", "*"].contains(&text.trim()));
        let parsed = Condition::parse_in(&text, Vocabulary::Query);
        let parsed = parsed.map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(parsed.scope(), &Scope::Where(expr));
        prop_assert_eq!(parsed.to_string(), text);
    }

    #[test]
    fn any_text_is_read_or_refused(text: String) {
        if let Err(error) = Condition::parse(&text) {
            prop_assert!(text.is_char_boundary(error.offset));
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_row_of_words_is_read_or_refused(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "tags", ".", "a", "[[b]]", "posture", "(", ")", "[", "]", ",", "=", "<>", "<", "IN",
                "NIN", "NOT", "AND", "OR", "+", "-", "*", "%", "1", "0x1F", "'x'", "\"y\"", "null",
                "EXISTS", "p", "WHERE", "LENGTH", "IS_DEFINED", "deviceId", "$version", "/*", "*/", "\n",
            ]),
            0..30,
        ),
    ) {
        let text = words.join(" ");
        match Condition::parse(&text) {
            Ok(condition) => {
                condition.matches(&Facts::new().view());
                let again = Condition::parse(&condition.to_string()).unwrap();
                prop_assert_eq!(again.scope(), condition.scope());
            }
            Err(error) => prop_assert!(error.offset <= text.len()),
        }
    }

    #[test]
    fn logic_obeys_its_laws(a in condition(), b in condition()) {
        let facts = Facts::new();
        let same = |left: Expr, right: Expr| {
            let view = facts.view();
            let holds = |expr: &Expr| eval::holds(expr, &view, None);
            let both = |left: &Expr, right: &Expr| holds(left) == holds(right);
            let (not_left, not_right) = (not(left.clone()), not(right.clone()));
            both(&left, &right) && both(&not_left, &not_right)
        };
        prop_assert!(same(not(not(a.clone())), Expr::Any(vec![a.clone(), a.clone()])));
        prop_assert!(same(
            not(Expr::Any(vec![a.clone(), b.clone()])),
            Expr::All(vec![not(a.clone()), not(b.clone())]),
        ));
        prop_assert!(same(Expr::All(vec![a.clone(), b.clone()]), Expr::All(vec![b, a.clone()])));
        // Nothing is true together with its negation.
        let view = facts.view();
        prop_assert!(!eval::holds(&Expr::All(vec![a.clone(), not(a)]), &view, None));
    }

    #[test]
    fn membership_is_a_row_of_equalities(
        number in 0..4_u32,
        list in prop::collection::vec(0..4_u32, 0..4),
    ) {
        let text: Vec<_> = list.iter().map(u32::to_string).collect();
        let found = list.contains(&number);
        prop_assert_eq!(holds(&format!("{number} IN [{}]", text.join(","))), found);
        prop_assert_eq!(holds(&format!("{number} NIN [{}]", text.join(","))), !found);
    }
}

fn not(expr: Expr) -> Expr {
    Expr::Not(Box::new(expr))
}

#[test]
fn a_module_is_seen_with_the_tags_of_its_device() {
    let facts = Facts::new();
    let tags = map(json!({"site": "Lyon", "rooms": ["a", "b"], "it": {"owner": "ann"}}));
    let module = TwinView {
        module_id: Some("m"),
        device_tags: Some(&tags),
        ..facts.view()
    };
    for (text, of_module, of_device) in [
        ("device.tags.site = 'Lyon'", true, false),
        (
            "device.tags.it.owner = 'ann' AND IS_OBJECT(device.tags)",
            true,
            false,
        ),
        (
            "EXISTS(room IN device.tags.rooms WHERE room = 'b')",
            true,
            false,
        ),
        ("IS_DEFINED(device.tags.none)", false, false),
        ("NOT IS_DEFINED(device.tags)", false, true),
        // A name that an `EXISTS` gives means what it always did.
        (
            "EXISTS(device IN posture.listeningPorts WHERE device.port = 22)",
            true,
            true,
        ),
    ] {
        let condition = Condition::parse(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
        assert_eq!(condition.matches(&module), of_module, "{text}");
        assert_eq!(condition.matches(&facts.view()), of_device, "{text}");
        let again = Condition::parse(&condition.to_string()).expect("it reads what it prints");
        assert_eq!(again.scope(), condition.scope(), "{text}");
    }
    for (text, said) in [
        ("device.status = 'enabled'", "the tags alone"),
        ("device = 'x'", "the tags alone"),
        ("device.tags.$version = 1", "do not begin with `$`"),
    ] {
        let refused = Condition::parse(text).expect_err(text).to_string();
        assert!(refused.contains(said), "{text}: {refused}");
    }
}
