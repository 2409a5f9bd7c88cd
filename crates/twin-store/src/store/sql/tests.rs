//! What SQL finds is what the evaluator finds, on random twins and conditions; and the statements of
//! typical searches, word for word.

use twin::Condition;
use twin::query::Vocabulary;

use super::*;
use crate::store::Source;
use crate::testing::now;

mod equality;
mod generate;
mod migrated;

fn search(condition: &str) -> Search {
    let condition = Condition::parse_in(condition, Vocabulary::Query).expect("it is well-formed");
    Search {
        source: Source::Devices,
        condition: condition.scope().clone(),
        now: now(),
        after: None,
        limit: 100,
        estimates: Estimates::default(),
    }
}

/// The statement of a condition in both dialects, with the values in the place of placeholders.
fn statements(search: &Search) -> [String; 2] {
    [Dialect::Sqlite, Dialect::Postgres].map(|dialect| {
        let query = Prepared::new(search, dialect).rows(&[]);
        let start = query.sql.find(" FROM ").expect("it selects");
        let mut sql = query.sql[start + 1..].to_owned();
        for (index, param) in query.params.iter().enumerate().rev() {
            let number = index + 1;
            let value = match param {
                Param::Text(text) => format!("«{text}»"),
                Param::Number(number) => format!("«{number}»"),
                Param::Count(count) => format!("«{count}»"),
            };
            for placeholder in [
                format!("?{number}"),
                format!("${number}::text"),
                format!("${number}::float8"),
                format!("${number}::bigint"),
            ] {
                sql = sql.replace(&placeholder, &value);
            }
        }
        sql
    })
}

#[test]
fn typical_searches_have_these_statements() {
    let mut all = String::new();
    for condition in [
        "*",
        "deviceId = 'd1'",
        "deviceId IN ['d1', 'd2'] AND status = 'enabled'",
        "STARTSWITH(deviceId, 'plant1-') AND tags.site = 'paris'",
        "tags.location.region IN ['US', 'EU']",
        "tags.site = 'paris' OR tags.[[group]] = 5",
        "tags.site = 'paris' AND tags.ring = 'canary' AND status = 'disabled'",
        "connectionState = 'Connected'",
        "IS_DEFINED(properties.reported.fw) AND properties.desired.$version > 3",
        "properties.reported.cfg.status != 'done' AND NOT IS_NULL(tags.x)",
        "EXISTS(p IN posture.listeningPorts WHERE p.port NIN [22, 443])",
        "lastActivityTime < DATE_ADD('hour', -1, NOW())",
        "CONTAINS(tags.name, 'ß') AND LOWER(tags.name) = 'x'",
        "lastActivityTime > '2026-01-01T12:30:00Z' AND lastActivityTime <= '2026-01-02'",
        "STARTSWITH(tags.site, 'par') AND status = 'enabled'",
        "tags.n >= 5 AND tags.n < 1e3",
        "tags.since > '2026-01' OR tags.n < -1",
        "ARRAY_CONTAINS(tags.roles, 'edge') AND tags.floor > 1 + 1",
        "tags.[[x'; DROP TABLE twins; --]] = '\"'",
    ] {
        let search = search(condition);
        let [sqlite, postgres] = statements(&search);
        let lines = [
            condition,
            "\n  SQLite: ",
            &sqlite,
            "\n  PostgreSQL: ",
            &postgres,
            "\n\n",
        ];
        all.extend(lines);
    }
    insta::assert_snapshot!(all);
}

#[test]
fn nothing_that_a_caller_wrote_is_part_of_a_statement() {
    let hostile = "x'\"; DROP TABLE twins; -- ?1 $1 /*";
    let quoted = hostile.replace('\'', "\\'");
    for condition in [
        format!("tags.[[{hostile}]] = '{quoted}'"),
        format!("properties.reported.[[{hostile}]].b < '{quoted}'"),
        format!("STARTSWITH(deviceId, '{quoted}') AND moduleId IN ['{quoted}']"),
        format!("deviceId = '{quoted}' AND status = '{quoted}'"),
        format!("EXISTS(e IN tags.[[{hostile}]] WHERE e.[[{hostile}]] = '{quoted}')"),
        format!("ARRAY_CONTAINS(tags.a, '{quoted}') AND statusReason != '{quoted}'"),
        format!("updateTime > '{quoted}'"),
    ] {
        let search = search(&condition);
        for dialect in [Dialect::Sqlite, Dialect::Postgres] {
            let prepared = Prepared::new(&search, dialect);
            let queries = [
                Some(prepared.rows(&[])),
                prepared.count(&[]),
                prepared.estimates(),
            ];
            for query in queries.into_iter().flatten() {
                assert!(
                    !query.sql.contains("DROP") && !query.sql.contains(';'),
                    "{}",
                    query.sql
                );
            }
        }
    }
}

/// A device fills its arrays: what goes through one for each element of another is for the evaluator,
/// which counts steps.
#[test]
fn no_statement_goes_through_a_reported_array_for_each_element_of_another() {
    for (condition, is_decided) in [
        ("EXISTS(x IN reported.a WHERE x.b = 1)", true),
        ("EXISTS(x IN reported.a WHERE x.b IN tags.allowed)", true),
        (
            "EXISTS(p IN posture.listeningPorts WHERE p.port NIN tags.ports)",
            true,
        ),
        ("1 IN reported.a AND ARRAY_CONTAINS(reported.b, 2)", true),
        ("EXISTS(x IN reported.a WHERE x IN reported.b)", false),
        (
            "EXISTS(x IN tags.a WHERE NOT ARRAY_CONTAINS(reported.b, x))",
            false,
        ),
        (
            "EXISTS(x IN tags.a WHERE EXISTS(y IN reported.b WHERE x = y))",
            false,
        ),
    ] {
        let search = search(condition);
        for dialect in [Dialect::Sqlite, Dialect::Postgres] {
            let prepared = Prepared::new(&search, dialect);
            assert_eq!(prepared.is_decided(), is_decided, "{condition}");
        }
    }
}

#[test]
fn a_condition_of_a_thousand_parts_is_run() {
    let parts: Vec<_> = (0..1000)
        .map(|number| format!("1={}", number % 10))
        .collect();
    let condition = format!("NOT ({})", parts.join(" OR "));
    let search = search(&condition);
    let query = Prepared::new(&search, Dialect::Sqlite).rows(&[]);
    let connection = rusqlite::Connection::open_in_memory().expect("a store");
    connection
        .execute_batch(include_str!("../../../migrations/0001_twins.sql"))
        .expect("tables");
    connection.prepare(&query.sql).expect("it is not too deep");
}

#[test]
fn sqlite_reads_numbers_as_we_do() {
    let connection = rusqlite::Connection::open_in_memory().expect("a store");
    let mut statement = connection
        .prepare("SELECT CAST(json_extract(?1, '$') AS REAL)")
        .expect("a statement");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut wrong, mut opaque) = (Vec::new(), 0);
    for round in 0..200_000 {
        // Any bits, and every few rounds numbers of the sizes that people write.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let number = match round % 4 {
            0 => f64::from_bits(state & 0x000f_ffff_ffff_ffff),
            1 => f64::from_bits(
                (state & 0x800f_ffff_ffff_ffff) | (0x380 + (state >> 52 & 0xff)) << 52,
            ),
            _ => f64::from_bits(state),
        };
        if !number.is_finite() {
            continue;
        }
        let text = serde_json::json!(number).to_string();
        if crate::store::row::is_opaque(&text) {
            opaque += 1;
            continue;
        }
        let read: f64 = statement
            .query_row([&text], |row| row.get(0))
            .expect("a number");
        // The sign of zero means nothing.
        if (read + 0.0).to_bits() != (number + 0.0).to_bits() {
            wrong.push(text);
        }
    }
    assert!(
        wrong.is_empty() && opaque < 160_000,
        "{opaque} opaque, {} wrong: {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(20)]
    );
}

/// The index of numbers reads their texts in this way.
#[test]
fn sqlite_reads_entries_of_numbers_in_their_order() {
    let connection = rusqlite::Connection::open_in_memory().expect("a store");
    let mut statement = connection
        .prepare("SELECT CAST(substr(?1, 3) AS REAL)")
        .expect("a statement");
    let smallest = f64::from_bits(1);
    let numbers = [
        f64::MIN,
        -1e300,
        -5.5,
        -1e-7,
        -smallest,
        0.0,
        smallest,
        1.5e-310,
        1e-7,
        0.1,
        0.3,
        1.0,
        123_456.789,
        9_007_199_254_740_993.0,
        1e22,
        1e300,
        f64::MAX,
    ];
    let read = |number: &f64| -> f64 {
        let entry = crate::index::value(&serde_json::json!(number)).expect("an entry");
        statement
            .query_row([&entry], |row| row.get(0))
            .expect("a number")
    };
    let read: Vec<f64> = numbers.iter().map(read).collect();
    assert!(read.windows(2).all(|pair| pair[0] < pair[1]), "{read:?}");
    assert_eq!(read[9..13], numbers[9..13]);
}
