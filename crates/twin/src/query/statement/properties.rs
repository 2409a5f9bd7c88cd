//! What holds of any query: its text, its rows against a plain model, and that none does harm.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::query::ast::Root;
use crate::query::tests::{condition, path};
use crate::query::{Aggregator, GroupPosition, TwinView};
use crate::testing::{at, map};

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,3}",
        prop::sample::select(vec![
            "group", "deviceId", "DeviceID", "my name", "a]", "größe", "count"
        ])
        .prop_map(str::to_owned),
    ]
}

/// Items of different names.
fn items(aggregated: bool) -> impl Strategy<Value = Vec<Item>> {
    let aggregate = prop::sample::select(vec![
        Aggregate::Average,
        Aggregate::Sum,
        Aggregate::Least,
        Aggregate::Greatest,
    ]);
    let value = prop_oneof![
        3 => path().prop_map(|path| ItemValue::Value(Expr::Path(path))),
        2 => condition().prop_map(ItemValue::Value),
        1 => Just(ItemValue::Count),
        1 => (aggregate, path()).prop_map(|(aggregate, path)| {
            ItemValue::Aggregate(aggregate, Expr::Path(path))
        }),
    ]
    .prop_filter("of one kind", move |value| {
        aggregated || matches!(value, ItemValue::Value(_))
    });
    let item = (value, prop::option::of(name())).prop_map(|(value, name)| Item {
        name: name.unwrap_or_else(|| value.natural_name()),
        value,
    });
    prop::collection::vec(item, 1..4).prop_map(|items| {
        let mut named = Vec::<Item>::new();
        for item in items {
            if named.iter().all(|other| other.name != item.name) {
                named.push(item);
            }
        }
        named
    })
}

/// Queries as the parser makes them.
fn statement() -> impl Strategy<Value = Statement> {
    let select = any::<bool>().prop_flat_map(|aggregated| items(aggregated).prop_map(Some));
    let select = prop_oneof![3 => select, 1 => Just(None)];
    (
        prop::option::of(1..2000_u64),
        select,
        prop_oneof![Just(Source::Devices), Just(Source::Modules)],
        prop::option::of(condition()),
        prop::collection::vec(path().prop_map(Expr::Path), 0..2),
        prop::collection::vec((path(), any::<bool>(), any::<prop::sample::Index>()), 0..3),
    )
        .prop_map(|(top, select, source, condition, more_keys, orders)| {
            let items = select.unwrap_or_default();
            let grouped = items
                .iter()
                .any(|item| !matches!(item.value, ItemValue::Value(_)));
            let mut group_by = Vec::new();
            if grouped {
                // Every item that is no aggregate has to be a key.
                group_by.extend(items.iter().filter_map(|item| match &item.value {
                    ItemValue::Value(expr) => Some(expr.clone()),
                    _ => None,
                }));
                group_by.extend(more_keys);
            }
            let order_by = orders.into_iter().filter_map(|(path, down, index)| {
                let key = order_key(&items, &group_by, grouped, path, index)?;
                let direction = if down {
                    Direction::Descending
                } else {
                    Direction::Ascending
                };
                Some(OrderBy { key, direction })
            });
            Statement {
                text: String::new(),
                top,
                order_by: order_by.collect(),
                select: if items.is_empty() {
                    Select::All
                } else {
                    Select::Items(items)
                },
                source,
                condition,
                group_by,
            }
        })
}

fn order_key(
    items: &[Item],
    group_by: &[Expr],
    grouped: bool,
    path: Path,
    index: prop::sample::Index,
) -> Option<OrderKey> {
    let hidden = |path: &Path| {
        let alone = path.keys.is_empty() && !matches!(path.root, Root::Desired | Root::Reported);
        let own = items
            .iter()
            .any(|item| item.value == ItemValue::Value(Expr::Path(path.clone())));
        alone
            && !own
            && items
                .iter()
                .any(|item| item.name.eq_ignore_ascii_case(&path.to_string()))
    };
    if !grouped {
        return (!hidden(&path)).then_some(OrderKey::Value(Expr::Path(path)));
    }
    let place = index.index(items.len() + group_by.len());
    match items.get(place) {
        Some(Item {
            value: ItemValue::Value(expr),
            ..
        }) => Some(OrderKey::Value(expr.clone())),
        Some(_) => Some(OrderKey::Item(place)),
        None => {
            let key = group_by[place - items.len()].clone();
            let is_hidden = matches!(&key, Expr::Path(path) if hidden(path));
            (!is_hidden).then_some(OrderKey::Value(key))
        }
    }
}

/// A twin with three tags.
fn with_view<T>(device: usize, tags: &Value, use_view: impl FnOnce(&TwinView<'_>) -> T) -> T {
    let (tags, nothing) = (map(tags.clone()), crate::Map::new());
    use_view(&TwinView {
        device_id: &format!("d{device:03}"),
        module_id: None,
        status: "enabled",
        tags: &tags,
        desired: &nothing,
        desired_version: 1,
        reported: &nothing,
        reported_version: 1,
        posture: &Value::Null,
        device_tags: None,
    })
}

fn some_tags() -> impl Strategy<Value = Value> {
    let value = prop::option::of(prop_oneof![
        (-3..3_i64).prop_map(|n| json!(n)),
        (0..3_u8).prop_map(|n| json!(f64::from(n) + 0.5)),
        prop::sample::select(vec!["x", "y"]).prop_map(|t| json!(t)),
        Just(json!([1])),
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
    ]);
    (value.clone(), value).prop_map(|(k, v)| {
        let members = [("k", k), ("v", v)].into_iter();
        let members = members.filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(members.collect())
    })
}

proptest! {
    #[test]
    fn the_canonical_text_of_a_query_is_that_query(statement in statement()) {
        let text = statement.to_string();
        prop_assume!(text.chars().count() <= 8192);
        let parsed = Statement::parse(&text).map_err(|e| TestCaseError::fail(format!("{text}\n{e}")))?;
        prop_assert_eq!(parsed.to_string(), text.clone());
        prop_assert_eq!(parsed, Statement { text, ..statement });
    }

    #[test]
    fn any_row_of_words_is_read_or_refused(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "SELECT", "TOP", "1", "*", ",", "tags", ".", "a", "AS", "[[b]]", "COUNT", "(", ")",
                "AVG", "FROM", "devices", "modules", "jobs", "WHERE", "=", "'x'", "GROUP", "BY",
                "ORDER", "ASC", "DESC", "deviceId", "EXISTS", "p", "IN", "NOW", "properties",
                "desired", "$metadata", "$version", "x509thumbprint", "primaryThumbprint", "/*", "*/",
            ]),
            0..30,
        ),
        start in prop::sample::select(vec!["", "SELECT * FROM devices ", "SELECT ", "SELECT COUNT() AS n FROM devices "]),
    ) {
        let text = format!("{start}{}", words.join(" "));
        match Statement::parse(&text) {
            Ok(statement) => {
                let again = Statement::parse(&statement.to_string()).unwrap();
                prop_assert_eq!(again.to_string(), statement.to_string());
                with_view(1, &json!({"a": 1}), |view| {
                    statement.matches(view, at(0));
                    statement.project(view, at(0));
                });
            }
            Err(error) => {
                prop_assert!(text.is_char_boundary(error.offset));
                prop_assert!(!error.expected.is_empty());
            }
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text: String) {
        for text in [text.clone(), format!("SELECT {text} FROM devices"), format!("SELECT * FROM devices {text}")] {
            if let Err(error) = Statement::parse(&text) {
                prop_assert!(text.is_char_boundary(error.offset));
            }
        }
    }

    #[test]
    fn groups_are_what_a_plain_model_makes_of_the_rows(
        twins in prop::collection::vec(some_tags(), 0..20),
    ) {
        let text = "SELECT tags.k AS k, COUNT() AS n, SUM(tags.v) AS s, AVG(tags.v) AS a, \
                    MIN(tags.v) AS least, MAX(tags.v) AS most FROM devices GROUP BY tags.k";
        let statement = Statement::parse(text).unwrap();
        let mut aggregator = Aggregator::new(&statement, at(0));
        let mut model: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (device, tags) in twins.iter().enumerate() {
            with_view(device, tags, |view| aggregator.add(view)).unwrap();
            let key = tags.get("k").map_or("none".to_owned(), Value::to_string);
            let value = tags.get("v").cloned().unwrap_or(Value::Null);
            model.entry(key).or_default().push(value);
        }
        let rows = aggregator.into_rows();
        prop_assert_eq!(rows.len(), model.len());
        for row in rows {
            let values = &model[&row.get("k").map_or("none".to_owned(), Value::to_string)];
            prop_assert_eq!(&row["n"], &json!(values.len()));
            let numbers: Vec<f64> = values.iter().filter_map(Value::as_f64).collect();
            let sum: f64 = numbers.iter().sum();
            let expected = (!numbers.is_empty()).then_some(sum);
            prop_assert_eq!(row.get("s").and_then(Value::as_f64), expected);
            let mean = expected.map(|sum| sum / f64::from(u32::try_from(numbers.len()).unwrap()));
            prop_assert_eq!(row.get("a").and_then(Value::as_f64), mean);
            let text = values.iter().filter_map(Value::as_str);
            let (least_text, most_text) = (text.clone().min(), text.max());
            let least = numbers.iter().copied().reduce(f64::min);
            match (row.get("least"), least) {
                (Some(Value::Number(found)), Some(least)) => prop_assert_eq!(found.as_f64(), Some(least)),
                (found, None) => prop_assert_eq!(found.and_then(Value::as_str), least_text),
                (found, least) => prop_assert!(false, "{:?} {:?}", found, least),
            }
            let most = numbers.iter().copied().reduce(f64::max);
            let expected = most_text.map(|text| json!(text)).or(most.map(|most| json!(most)));
            match (row.get("most"), expected) {
                (Some(Value::Number(found)), Some(expected)) => {
                    prop_assert_eq!(found.as_f64(), expected.as_f64());
                }
                (found, expected) => prop_assert_eq!(found.cloned(), expected),
            }
        }
    }
}

/// Groups of a query over these twins, page by page; between two pages other twins come and go.
fn pages(
    text: &str,
    size: usize,
    before: &[Value],
    after: &[Value],
) -> Result<Vec<Vec<Map>>, TestCaseError> {
    let statement = Statement::parse(text).unwrap();
    let (mut place, mut pages) = (None, Vec::new());
    loop {
        let mut aggregator = Aggregator::new(&statement, at(0));
        let twins = if pages.is_empty() { before } else { after };
        for (device, tags) in twins.iter().enumerate() {
            with_view(device, tags, |view| aggregator.add(view)).unwrap();
        }
        let page = aggregator.into_page(size, place.as_ref());
        let last = page.rows.last().map(|(position, _)| position.clone());
        prop_assert!(page.rows.len() == size || !page.more);
        pages.push(page.rows.into_iter().map(|(_, row)| row).collect());
        if !page.more {
            return Ok(pages);
        }
        let last: GroupPosition = last.expect("a page with more behind it has rows");
        let read = GroupPosition::decode(&last.encode(), &statement);
        prop_assert_eq!(read.as_ref(), Ok(&last));
        place = Some(last);
    }
}

proptest! {
    #[test]
    fn a_group_that_nobody_touches_is_in_exactly_one_page(
        stays in prop::collection::vec(some_tags(), 0..20),
        goes in prop::collection::vec(0..9_i32, 0..6),
        comes in prop::collection::vec(0..9_i32, 0..6),
        size in 1..5_usize,
        order in prop::sample::select(vec!["", " ORDER BY n DESC", " ORDER BY tags.k DESC, n"]),
    ) {
        let text = format!(
            "SELECT tags.k AS k, COUNT() AS n FROM devices GROUP BY tags.k{order}"
        );
        // Keys of their own, which lie between those of the others.
        let others = |numbers: &[i32]| -> Vec<Value> {
            let tags = numbers.iter().map(|n| match n % 3 {
                0 => json!({"k": f64::from(*n) + 0.25}),
                1 => json!({"k": format!("own {n}")}),
                _ => json!({"k": [n, "x".repeat(80)]}),
            });
            tags.collect()
        };
        let before = [stays.clone(), others(&goes)].concat();
        let after = [stays.clone(), others(&comes)].concat();
        let seen: Vec<Map> = pages(&text, size, &before, &after)?.concat();
        let alone: Vec<Map> = pages(&text, usize::MAX, &stays, &stays)?.concat();
        let own: Vec<_> = seen.iter().filter(|row| alone.contains(row)).cloned().collect();
        prop_assert_eq!(own, alone);
        // Without changes the pages are the answer.
        let all: Vec<Map> = pages(&text, usize::MAX, &before, &before)?.concat();
        prop_assert_eq!(pages(&text, size, &before, &before)?.concat(), all);
    }

    #[test]
    fn a_text_is_no_place_of_a_group_or_one(text: String) {
        let statement = Statement::parse("SELECT COUNT() FROM devices GROUP BY tags.a").unwrap();
        if let Ok(place) = GroupPosition::decode(&text, &statement) {
            prop_assert_eq!(GroupPosition::decode(&place.encode(), &statement), Ok(place));
        }
    }
}

#[test]
fn groups_are_bounded_in_number_and_in_bytes() {
    let statement =
        Statement::parse("SELECT tags.k, COUNT() FROM devices GROUP BY tags.k").unwrap();
    let mut aggregator = Aggregator::new(&statement, at(0));
    for device in 0..10_000 {
        with_view(device, &json!({"k": device}), |view| aggregator.add(view)).unwrap();
    }
    with_view(0, &json!({"k": 5}), |view| aggregator.add(view)).unwrap();
    let refused = with_view(0, &json!({"k": "new"}), |view| aggregator.add(view)).unwrap_err();
    assert!(
        refused.to_string().contains("more than 10000 groups"),
        "{refused}"
    );
    assert_eq!(aggregator.into_rows().len(), 10_000);

    let mut aggregator = Aggregator::new(&statement, at(0));
    let refused = (0..10_000).find(|device| {
        let tags = json!({"k": format!("{device:04096}")});
        with_view(*device, &tags, |view| aggregator.add(view)).is_err()
    });
    assert_eq!(refused, Some(2048), "16 MiB hold twice 4 KiB as often");

    // The least and greatest texts of many groups are kept as well.
    let text = "SELECT MAX(tags.v) FROM devices GROUP BY tags.k";
    let statement = Statement::parse(text).unwrap();
    let mut aggregator = Aggregator::new(&statement, at(0));
    let refused = (0..10_000).find(|device| {
        let tags = json!({"k": device, "v": "x".repeat(4096)});
        with_view(*device, &tags, |view| aggregator.add(view)).is_err()
    });
    assert_eq!(refused, Some(2048));
}

#[test]
fn a_hostile_query_of_full_length_does_no_harm() {
    for (start, piece) in [
        ("SELECT ", "tags.a,"),
        ("SELECT ", "COUNT() AS n,"),
        ("SELECT ", "AVG("),
        ("SELECT * FROM devices WHERE ", "("),
        ("SELECT * FROM devices WHERE ", "CONCAT("),
        ("SELECT * FROM devices WHERE ", "DATE_ADD('day',"),
        ("SELECT * FROM devices WHERE ", "EXISTS(a IN tags WHERE "),
        (
            "SELECT tags.a, COUNT() FROM devices GROUP BY tags.a",
            ",tags.a",
        ),
        ("SELECT * FROM devices ORDER BY tags.a", ",tags.a"),
        ("SELECT * FROM devices ORDER BY ", "tags."),
    ] {
        let text = format!(
            "{start}{}",
            piece.repeat((8192 - start.len()) / piece.len())
        );
        let error = Statement::parse(&text).expect_err(piece).to_string();
        assert!(error.len() < 1000, "{error}");
    }
}
