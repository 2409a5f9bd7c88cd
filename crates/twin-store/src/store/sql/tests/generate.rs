//! Random twins and conditions, of few keys and values, so that they meet.

use posture::configuration::PushState;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use twin::query::ast::{
    ArithmeticOp, Attribute, CompareOp, Expr, Function, Literal, MemberOp, Path, Root, Set,
};

use crate::record::{Authentication, Record, Status};
use crate::secrets::Sealed;
use crate::testing::{now, record};

/// Keys that documents and conditions share. Documents may hold quotes and backslashes.
const KEYS: [&str; 9] = [
    "a",
    "b",
    "site",
    "ä",
    "0",
    "it's",
    "x\"y",
    "back\\slash",
    "a-b",
];
/// Keys that only conditions name.
const FOREIGN_KEYS: [&str; 7] = ["a.b", "", "$version", "$metadata", "nul\0", "#", "?1 -- $1"];

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        // No store can look into a document with a zero character, so they are few.
        1 => Just("a\0b".to_owned()),
        64 => prop::sample::select(vec![
            "", "a", "ab", "A", "ä", "z😀", "it's", "%_", "5", "true", "null", "\u{1}",
            "2026-01-01T00:00:00Z", "\u{fffd}", "\u{ffff}", "a#b", "x\"y", "'; DROP TABLE twins; --",
        ]).prop_map(str::to_owned),
        8 => "[ab]{0,3}",
        8 => any::<String>(),
        8 => (600_usize..602).prop_map(|length| "é".repeat(length)),
    ]
}

fn numbers() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => prop::sample::select(vec![
            json!(0), json!(1), json!(-1), json!(5), json!(5.0), json!(5.5), json!(-0.0), json!(0.1),
            json!(0.3), json!(1e300), json!(-1e300), json!(1e15), json!(1e16), json!(1e-7),
            json!(4_503_599_627_370_495_i64), json!(-4_503_599_627_370_496_i64),
            json!(9_007_199_254_740_993_i64), json!(u64::MAX), json!(i64::MIN), json!(5e-324),
            json!(2.225_073_858_507_201e-308), json!(f64::MAX), json!(1.5e-310),
        ]),
        1 => any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|n| json!(n)),
        // Of sizes that people write, with all digits: one in ten is misread by a reader that rounds.
        3 => (-1e4..1e4_f64).prop_map(|number| json!(number)),
        1 => any::<i32>().prop_map(|number| json!(number)),
    ]
}

fn scalars() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => texts().prop_map(Value::String),
        4 => numbers(),
        2 => any::<bool>().prop_map(Value::Bool),
        1 => Just(Value::Null),
    ]
}

fn object_of(
    values: impl Strategy<Value = Value> + Clone,
    most: usize,
) -> impl Strategy<Value = Map<String, Value>> {
    let key = prop::sample::select(KEYS.to_vec()).prop_map(str::to_owned);
    prop::collection::vec((key, values), 0..=most).prop_map(|members| members.into_iter().collect())
}

fn documents() -> impl Strategy<Value = Map<String, Value>> {
    let value = scalars().boxed().prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            object_of(inner.clone(), 3).prop_map(Value::Object),
            prop::collection::vec(inner, 0..4).prop_map(Value::Array),
        ]
    });
    object_of(value, 6)
}

/// A twin with this name.
pub(super) fn twins(name: String) -> impl Strategy<Value = Record> {
    let sections = (documents(), documents(), documents());
    let device_tags = prop::option::weighted(0.9, documents());
    let registry = (any::<bool>(), 0..4_u8, texts(), any::<bool>(), 1..4_u64);
    let time = prop::option::of(prop::sample::select(vec![
        0_i64,
        1,
        250_000_000,
        1_000,
        3_600_000_000_000,
    ]));
    let agent = (
        any::<bool>(),
        (time.clone(), time.clone(), time),
        0..4_u8,
        prop::collection::vec(
            (1..5_u16, prop::sample::select(vec!["", "sshd", "nginx"])),
            0..4,
        ),
    );
    let all = (sections, registry, agent, device_tags);
    all.prop_map(move |(sections, registry, agent, device_tags)| {
        let mut record = record(&name, "g");
        let (tags, desired, reported) = sections;
        record.twin.tags.document = Value::Object(tags).to_string();
        record.twin.desired.document = Value::Object(desired).to_string();
        record.twin.reported.document = Value::Object(reported).to_string();
        record.device_tags = device_tags
            .filter(|_| record.key.module.is_some())
            .map(|tags| Value::Object(tags).to_string());
        let (enabled, authentication, reason, edge, version) = registry;
        record.identity.status = if enabled {
            Status::Enabled
        } else {
            Status::Disabled
        };
        record.identity.authentication = authentication_of(authentication);
        record.identity.status_reason = reason;
        record.identity.iot_edge = edge;
        record.twin.version = twin::Version::new(version).expect("a version");
        let (connected, times, state, ports) = agent;
        let at = |offset: Option<i64>| {
            offset.map(|offset| now() - jiff::SignedDuration::from_nanos(offset))
        };
        record.posture.agent.connected = connected;
        record.posture.agent.connected_at = at(times.0);
        record.posture.agent.disconnected_at = at(times.1);
        record.posture.agent.last_seen_at = at(times.2);
        record.identity.status_updated_at = at(times.0);
        record.posture.configuration.state = state_of(state);
        record.posture.listening_ports = ports.into_iter().map(port).collect();
        record
    })
}

fn authentication_of(choice: u8) -> Authentication {
    match choice {
        0 => Authentication::None,
        1 => Authentication::CertificateAuthority,
        2 => Authentication::SelfSigned {
            primary: "AB".repeat(20),
            secondary: None,
        },
        _ => Authentication::Sas {
            primary: Sealed("cHJpbWFyeQ==".to_owned()),
            secondary: Sealed("c2Vjb25kYXJ5".to_owned()),
        },
    }
}

fn state_of(choice: u8) -> PushState {
    match choice {
        0 => PushState::None,
        1 => PushState::Pending,
        2 => PushState::Applied,
        _ => PushState::Rejected,
    }
}

fn port((port, process): (u16, &str)) -> posture::event::ListeningPort {
    let json = json!({"protocol": "tcp", "port": port, "address": "0.0.0.0", "process": process});
    serde_json::from_value(json).expect("a port")
}

/// What finds a twin by one of its own numbers, in the digits that it was written with, or by one that
/// is the next to it.
pub(super) fn by_own_numbers(record: &Record) -> Vec<String> {
    let mut found = Vec::new();
    let sections = [
        (Root::Tags, &record.twin.tags.document),
        (Root::Desired, &record.twin.desired.document),
        (Root::Reported, &record.twin.reported.document),
    ];
    for (root, document) in sections {
        let document: Value = serde_json::from_str(document).expect("JSON");
        let mut todo = vec![(Vec::<String>::new(), &document)];
        while let Some((keys, value)) = todo.pop() {
            match value {
                Value::Object(members) => todo.extend(members.iter().map(|(key, member)| {
                    let keys = keys.iter().cloned().chain([key.clone()]);
                    (keys.collect(), member)
                })),
                Value::Number(number) => {
                    let path = Path {
                        root: root.clone(),
                        keys,
                    };
                    let number = number.as_f64().expect("a number");
                    let [below, above] = [number.next_down(), number.next_up()];
                    found.push(format!("{path} = {}", literal(number)));
                    if below.is_finite() && above.is_finite() {
                        let (below, above) = (literal(below), literal(above));
                        found.push(format!("{path} > {below} AND {path} < {above}"));
                    }
                }
                Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => {}
            }
        }
    }
    found
}

/// The shortest digits of a number, as a person writes it.
fn literal(number: f64) -> String {
    format!("{number:?}")
}

/// A path that may lead somewhere, or into the member that an `EXISTS` speaks of.
fn paths(level: usize) -> BoxedStrategy<Path> {
    let key = prop_oneof![
        12 => prop::sample::select(KEYS.to_vec()),
        1 => prop::sample::select(FOREIGN_KEYS.to_vec()),
    ];
    let keys = prop::collection::vec(key.prop_map(str::to_owned), 0..4);
    let roots = prop::sample::select(vec![
        Root::Tags,
        Root::Tags,
        Root::DeviceTags,
        Root::Desired,
        Root::Reported,
    ]);
    let documents = (roots, keys.clone()).prop_map(|(root, keys)| Path { root, keys });
    let postures = prop::sample::select(vec![
        vec!["configuration", "state"],
        vec!["agent", "connected"],
        vec!["listeningPorts"],
        vec!["eventCount"],
        vec!["agent"],
        vec![],
        vec!["agent", "lastSeenAt"],
    ])
    .prop_map(|keys| Path {
        root: Root::Posture,
        keys: keys.into_iter().map(str::to_owned).collect(),
    });
    let attributes = prop::sample::select(Attribute::ALL.to_vec()).prop_map(|attribute| Path {
        root: Root::Attribute(attribute),
        keys: if attribute == Attribute::Capabilities {
            vec!["iotEdge".to_owned()]
        } else {
            vec![]
        },
    });
    if level == 0 {
        return prop_oneof![6 => documents, 1 => postures, 1 => attributes].boxed();
    }
    let members = (0..level, prop_oneof![
        2 => prop::collection::vec(prop::sample::select(KEYS.to_vec()).prop_map(str::to_owned), 0..2),
        1 => Just(vec!["port".to_owned()]),
    ]).prop_map(|(level, keys)| Path {
        root: Root::Variable { name: format!("v{level}"), level },
        keys,
    });
    prop_oneof![3 => documents, 1 => postures, 1 => attributes, 8 => members].boxed()
}

fn literals() -> BoxedStrategy<Literal> {
    prop_oneof![
        5 => texts().prop_map(Literal::Text),
        1 => prop::sample::select(vec![
            "d0", "d3", "d", "enabled", "disabled", "pending", "applied", "none", "sas", "Connected",
            "2026-03-04T05:06:07Z", "2026-03-04T05:06:06.75Z", "2026-03-04", "0001-01-01",
            "0001-01-01T00:00:00Z",
        ]).prop_map(|text| Literal::Text(text.to_owned())),
        5 => numbers().prop_map(|number| Literal::Number(number.as_f64().expect("a number"))),
        2 => any::<bool>().prop_map(Literal::Bool),
        1 => Just(Literal::Null),
        1 => Just(Literal::Undefined),
    ]
    .boxed()
}

fn functions() -> impl Strategy<Value = Function> {
    use Function::{
        Abs, AsDate, AsNumber, Ceiling, Concat, Contains, EndsWith, Exp, Floor, IndexOf, IsArray,
        IsBool, IsDefined, IsNull, IsNumber, IsObject, IsPrimitive, IsString, Length, Lower, Now,
        Power, Sign, Sqrt, Square, StartsWith, Substring, Upper,
    };
    prop::sample::select(vec![
        IsDefined,
        IsNull,
        IsString,
        IsNumber,
        IsBool,
        IsArray,
        IsObject,
        IsPrimitive,
        StartsWith,
        StartsWith,
        EndsWith,
        EndsWith,
        Contains,
        Contains,
        IndexOf,
        Length,
        Abs,
        Sign,
        Lower,
        Upper,
        Concat,
        Substring,
        AsNumber,
        Exp,
        Power,
        Square,
        Ceiling,
        Floor,
        Sqrt,
        Now,
        AsDate,
    ])
}

fn values(depth: u32, level: usize) -> BoxedStrategy<Expr> {
    let leaf = prop_oneof![
        4 => paths(level).prop_map(Expr::Path),
        3 => literals().prop_map(Expr::Literal),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let inner = move || values(depth - 1, level);
    let calls = functions().prop_flat_map(move |function| {
        let count = *function.arity().start();
        let first = if function.takes_path() {
            paths(level).prop_map(Expr::Path).boxed()
        } else {
            inner()
        };
        (
            first,
            prop::collection::vec(inner(), count.saturating_sub(1)),
        )
            .prop_map(move |(first, rest)| Expr::Call {
                function,
                args: std::iter::once(first).chain(rest).take(count).collect(),
            })
    });
    let arrays = (paths(level), inner(), any::<bool>()).prop_map(|(path, wanted, length)| {
        let path = Expr::Path(path);
        if length {
            return Expr::Call {
                function: Function::ArrayLength,
                args: vec![path],
            };
        }
        Expr::Call {
            function: Function::ArrayContains,
            args: vec![path, wanted],
        }
    });
    let units = prop::sample::select(vec!["hour", "hour", "month", "year"]);
    let dates = (units, -2..2_i32).prop_map(|(unit, count)| Expr::Call {
        function: Function::DateAdd,
        args: vec![
            Expr::Literal(Literal::Text(unit.to_owned())),
            Expr::Negate(Box::new(Expr::Literal(Literal::Number(f64::from(count))))),
            Expr::Call {
                function: Function::Now,
                args: vec![],
            },
        ],
    });
    let instants = || {
        prop_oneof![
            2 => paths(level).prop_map(Expr::Path),
            2 => prop::sample::select(vec![
                Attribute::LastActivityTime, Attribute::StatusUpdateTime, Attribute::UpdateTime,
            ]).prop_map(|attribute| Expr::Path(Path::attribute(attribute))),
            1 => Just(Expr::Call { function: Function::Now, args: vec![] }),
            1 => prop::sample::select(vec!["2026-03-04T05:06:06.75Z", "0001-01-01", "never"])
                .prop_map(|text| Expr::Literal(Literal::Text(text.to_owned()))),
        ]
    };
    let units = prop::sample::select(vec!["second", "minute", "hour", "day", "week"]);
    let differences = (units, instants(), instants()).prop_map(|(unit, from, to)| Expr::Call {
        function: Function::DateDiff,
        args: vec![Expr::Literal(Literal::Text(unit.to_owned())), from, to],
    });
    let operators = prop::sample::select(vec![
        ArithmeticOp::Add,
        ArithmeticOp::Subtract,
        ArithmeticOp::Multiply,
        ArithmeticOp::Divide,
        ArithmeticOp::Remainder,
    ]);
    let chains = (inner(), operators, inner()).prop_map(|(first, op, second)| Expr::Chain {
        first: Box::new(first),
        rest: vec![(op, second)],
    });
    prop_oneof![
        8 => leaf,
        4 => calls,
        2 => arrays,
        1 => dates,
        1 => differences,
        1 => chains,
        1 => inner().prop_map(|inner| Expr::Negate(Box::new(inner))),
        1 => conditions(depth - 1, level),
    ]
    .boxed()
}

/// What an agent may say its version is.
pub(super) fn versions() -> impl Strategy<Value = Option<String>> {
    let texts = prop::sample::select(vec![
        "1.0",
        "",
        "\"",
        "\\",
        "a\0b",
        "\",\"connected\":true",
        "\"lastSeenAt\":\"2031-01-01T00:00:00Z\"",
    ]);
    prop::option::of(texts.prop_map(str::to_owned))
}

/// Conditions that an index serves, some of them together with another one.
pub(super) fn served() -> BoxedStrategy<Expr> {
    let both = (ranges(), conditions(1, 0)).prop_map(|(range, other)| match range {
        Expr::All(mut parts) => {
            parts.push(other);
            Expr::All(parts)
        }
        range => Expr::All(vec![range, other]),
    });
    let either = (ranges(), ranges()).prop_map(|(a, b)| Expr::Any(vec![a, b]));
    prop_oneof![3 => ranges(), 2 => both, 1 => either].boxed()
}

/// Conditions that ranges of the index serve, alone or two under one path.
fn ranges() -> BoxedStrategy<Expr> {
    let order = || {
        prop::sample::select(vec![
            CompareOp::Less,
            CompareOp::Greater,
            CompareOp::LessOrEqual,
            CompareOp::GreaterOrEqual,
        ])
    };
    let edges = || {
        prop_oneof![
            3 => texts().prop_map(Literal::Text),
            3 => prop::sample::select(vec!["a", "a#", "a\"", "ab", " ", "é", "éé", "z", "~", "2026"])
                .prop_map(|text| Literal::Text(text.to_owned())),
            4 => numbers().prop_map(|number| Literal::Number(number.as_f64().expect("a number"))),
        ]
    };
    let compare = |path: &Path, (op, value, turned): (CompareOp, Literal, bool)| {
        let (left, right) = (Expr::Path(path.clone()), Expr::Literal(value));
        let (left, right) = if turned { (right, left) } else { (left, right) };
        Expr::Compare {
            op,
            left: Box::new(left),
            right: Box::new(right),
        }
    };
    let tags = || {
        let keys = prop::collection::vec(prop::sample::select(KEYS[..4].to_vec()), 1..3);
        keys.prop_map(|keys| Path {
            root: Root::Tags,
            keys: keys.into_iter().map(str::to_owned).collect(),
        })
    };
    let bound = move || (order(), edges(), any::<bool>());
    let beginnings = (tags(), texts()).prop_map(|(path, text)| Expr::Call {
        function: Function::StartsWith,
        args: vec![Expr::Path(path), Expr::Literal(Literal::Text(text))],
    });
    let one = (tags(), bound()).prop_map(move |(path, bound)| compare(&path, bound));
    let two = (tags(), bound(), bound())
        .prop_map(move |(path, a, b)| Expr::All(vec![compare(&path, a), compare(&path, b)]));
    let dates = prop::sample::select(vec![
        "2026-03-04T05:06:07Z",
        "2026-03-04T05:06:06.75Z",
        "2026-03-04T04:06:07Z",
        "2026-03-04",
        "0001-01-01",
        "-000100-01-01",
        "9999-12-31",
    ]);
    let active = (
        prop_oneof![4 => order(), 1 => Just(CompareOp::Equal), 1 => Just(CompareOp::NotEqual)],
        dates,
        any::<bool>(),
    )
        .prop_map(move |(op, date, turned)| {
            let path = Path::attribute(Attribute::LastActivityTime);
            compare(&path, (op, Literal::Text(date.to_owned()), turned))
        });
    let connected = prop::sample::select(vec!["Connected", "Disconnected", "connected"]).prop_map(
        move |state| {
            let path = Path::attribute(Attribute::ConnectionState);
            compare(
                &path,
                (CompareOp::Equal, Literal::Text(state.to_owned()), false),
            )
        },
    );
    prop_oneof![4 => beginnings, 4 => one, 3 => two, 2 => active, 2 => connected].boxed()
}

/// A condition; `level` counts the `EXISTS` around it.
pub(super) fn conditions(depth: u32, level: usize) -> BoxedStrategy<Expr> {
    let ops = prop::sample::select(vec![
        CompareOp::Equal,
        CompareOp::Equal,
        CompareOp::NotEqual,
        CompareOp::Less,
        CompareOp::Greater,
        CompareOp::LessOrEqual,
        CompareOp::GreaterOrEqual,
    ]);
    let below = depth.saturating_sub(1);
    let compares = (
        ops,
        values(below.min(2), level),
        values(below.min(1), level),
    )
        .prop_map(|(op, left, right)| Expr::Compare {
            op,
            left: Box::new(left),
            right: Box::new(right),
        });
    let member = prop::sample::select(vec![MemberOp::In, MemberOp::NotIn]);
    let sets = prop_oneof![
        3 => prop::collection::vec(literals(), 1..5).prop_map(Set::List),
        1 => paths(level).prop_map(Set::Path),
    ];
    let members =
        (values(below.min(1), level), member, sets).prop_map(|(value, op, set)| Expr::Member {
            value: Box::new(value),
            op,
            set,
        });
    let plain = prop_oneof![
        2 => ranges(),
        6 => compares,
        3 => members,
        2 => values(below.min(2), level),
    ];
    if depth == 0 {
        return plain.boxed();
    }
    let parts = move || prop::collection::vec(conditions(depth - 1, level), 2..4);
    let mut choices = vec![
        (8, plain.boxed()),
        (3, parts().prop_map(Expr::All).boxed()),
        (3, parts().prop_map(Expr::Any).boxed()),
        (
            2,
            conditions(depth - 1, level)
                .prop_map(|inner| Expr::Not(Box::new(inner)))
                .boxed(),
        ),
    ];
    if level < 2 {
        let exists =
            (paths(level), conditions(depth - 1, level + 1)).prop_map(move |(array, condition)| {
                Expr::Exists {
                    variable: format!("v{level}"),
                    array,
                    condition: Box::new(condition),
                }
            });
        choices.push((3, exists.boxed()));
    }
    prop::strategy::Union::new_weighted(choices).boxed()
}
