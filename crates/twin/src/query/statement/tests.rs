use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::query::{
    Aggregator, Attribute, Datum, LazyPosture, LazySection, LazyTwin, Lookup, QueryErrorKind,
    Window,
};
use crate::testing::{at, by_operator, map};
use crate::{DeviceId, IdentityKey, ModuleId, Section, SectionKind};

use super::*;

/// A stored twin: texts only.
struct Stored {
    device: String,
    module: Option<String>,
    tags: String,
    desired: Section,
    desired_texts: (String, String),
    reported: String,
    posture: String,
}

impl Stored {
    fn new(device: &str, tags: &Value) -> Stored {
        let desired = Section::new(&by_operator("root", 0))
            .merge(
                &map(json!({"rate": {"hz": 5}})),
                &by_operator("ann", 60),
                SectionKind::Desired,
            )
            .unwrap();
        let texts = (
            Value::Object(desired.document().clone()).to_string(),
            desired.metadata_to_json().to_string(),
        );
        Stored {
            device: device.to_owned(),
            module: None,
            tags: tags.to_string(),
            desired,
            desired_texts: texts,
            reported: json!({"load": 1.0, "big": 3_000_000_000_u64}).to_string(),
            posture: json!({"failedLogins": 7, "ports": [{"port": 22}]}).to_string(),
        }
    }

    fn key(&self) -> IdentityKey {
        IdentityKey {
            device: DeviceId::parse(&self.device).unwrap(),
            module: self.module.as_ref().map(|id| ModuleId::parse(id).unwrap()),
        }
    }

    fn view<'a>(&'a self) -> LazyTwin<'a, impl Fn(Attribute) -> Datum<'a>> {
        LazyTwin {
            attributes: |attribute| match attribute {
                Attribute::DeviceId => Datum::text(&self.device),
                Attribute::ModuleId => Datum::optional_text(self.module.as_deref()),
                Attribute::Version => Datum::count(5),
                Attribute::Status => Datum::text("enabled"),
                Attribute::LastActivityTime => Datum::Instant(at(0)),
                Attribute::X509Thumbprint => {
                    Datum::owned(json!({"primaryThumbprint": null, "secondaryThumbprint": "AB"}))
                }
                Attribute::Capabilities => Datum::owned(json!({"iotEdge": false})),
                Attribute::Configurations => Datum::owned(json!({"c-1": {"status": "Applied"}})),
                _ => Datum::Undefined,
            },
            tags: LazySection::new(&self.tags, "{}", 1),
            desired: LazySection::new(&self.desired_texts.0, &self.desired_texts.1, 2),
            reported: LazySection::new(&self.reported, "not json", 9),
            posture: LazyPosture::from_text(&self.posture),
            device_tags: None,
            undecided: false.into(),
        }
    }
}

fn site(device: &str, site: &str, floor: i64) -> Stored {
    Stored::new(device, &json!({"site": site, "floor": floor}))
}

#[track_caller]
fn parse(text: &str) -> Statement {
    match Statement::parse(text) {
        Ok(statement) => statement,
        Err(error) => panic!("{text}\n{error}"),
    }
}

/// The rows that a query gives over these twins, as a store would answer it.
#[track_caller]
fn rows(text: &str, twins: &[Stored]) -> Vec<Value> {
    let statement = parse(text);
    let mut aggregator = Aggregator::new(&statement, at(3600));
    let top = statement
        .top()
        .map_or(usize::MAX, |top| usize::try_from(top).unwrap());
    let mut window = Window::new(top, None);
    for twin in twins {
        let view = twin.view();
        if !statement.matches(&view, at(3600)) {
            continue;
        }
        if statement.is_aggregated() {
            aggregator.add(&view).unwrap();
        } else {
            window.offer(
                statement.position(&view, twin.key(), at(3600)),
                statement.project(&view, at(3600)),
            );
        }
    }
    let rows: Vec<_> = if statement.is_aggregated() {
        aggregator.into_rows()
    } else {
        window
            .into_page()
            .rows
            .into_iter()
            .map(|(_, row)| row)
            .collect()
    };
    rows.into_iter().map(Value::Object).collect()
}

fn fleet() -> Vec<Stored> {
    let mut module = site("d1", "Lyon", 9);
    module.module = Some("m".to_owned());
    vec![
        site("d3", "Nice", 1),
        site("d1", "Lyon", 2),
        module,
        Stored::new("d4", &json!({"floor": "attic"})),
        site("d2", "Lyon", 4),
    ]
}

#[test]
fn projections_name_their_values_and_leave_out_what_is_missing() {
    let fleet = fleet();
    assert_eq!(
        rows(
            "SELECT deviceid, tags.site AS [[where it is]], Status FROM devices",
            &fleet
        ),
        [
            json!({"deviceId": "d1", "where it is": "Lyon", "status": "enabled"}),
            json!({"deviceId": "d2", "where it is": "Lyon", "status": "enabled"}),
            json!({"deviceId": "d3", "where it is": "Nice", "status": "enabled"}),
            json!({"deviceId": "d4", "status": "enabled"}),
        ]
    );
    assert_eq!(
        rows(
            "SELECT properties.desired.rate.hz, reported.load, reported.$version, lastActivityTime AS t, \
             capabilities.iotedge, configurations.[[c-1]].status, x509thumbprint.PrimaryThumbprint, \
             posture.failedLogins, tags \
             FROM devices WHERE deviceId = 'd4'",
            &fleet
        ),
        [json!({
            "hz": 5, "load": 1.0, "$version": 9, "t": "2026-01-01T00:00:00.1234567Z",
            "iotEdge": false, "status": "Applied", "primaryThumbprint": null,
            "failedLogins": 7, "tags": {"floor": "attic"},
        })]
    );
}

#[test]
fn values_are_computed_wherever_they_may_stand() {
    let fleet = fleet();
    assert_eq!(
        rows(
            "SELECT deviceId, UPPER(tags.site) AS site, tags.floor * 10 + 1 AS room, LENGTH(tags.site), \
             DATE_DIFF('minute', lastActivityTime, NOW()) AS age, (tags.floor > 2) AS high, \
             NOW() AS at FROM devices ORDER BY DATE_DIFF('hour', NOW(), NOW()), -tags.floor",
            &fleet
        ),
        [
            json!({"deviceId": "d4", "age": 60, "at": "2026-01-01T01:00:00.1234567Z"}),
            json!({"deviceId": "d2", "site": "LYON", "room": 41, "length": 4, "age": 60,
                   "high": true, "at": "2026-01-01T01:00:00.1234567Z"}),
            json!({"deviceId": "d1", "site": "LYON", "room": 21, "length": 4, "age": 60,
                   "high": false, "at": "2026-01-01T01:00:00.1234567Z"}),
            json!({"deviceId": "d3", "site": "NICE", "room": 11, "length": 4, "age": 60,
                   "high": false, "at": "2026-01-01T01:00:00.1234567Z"}),
        ]
    );
    for group in ["LOWER(tags.site)", "site"] {
        assert_eq!(
            rows(
                &format!(
                    "SELECT LOWER(tags.site) AS site, COUNT() AS n, AVG(tags.floor * 2) AS twice, \
                     MAX(DATE_ADD('day', 1, lastActivityTime)) AS next \
                     FROM devices WHERE IS_DEFINED(tags.site) GROUP BY {group} \
                     ORDER BY LOWER(tags.site) DESC"
                ),
                &fleet
            ),
            [
                json!({"site": "nice", "n": 1, "twice": 2, "next": "2026-01-02T00:00:00.1234567Z"}),
                json!({"site": "lyon", "n": 2, "twice": 6, "next": "2026-01-02T00:00:00.1234567Z"}),
            ]
        );
    }
}

#[test]
fn a_value_that_takes_too_many_steps_is_told_of() {
    let list = vec![1; 2000];
    let twin = Stored::new("d1", &json!({"a": list}));
    let costly = "(EXISTS(x IN tags.a WHERE EXISTS(y IN tags.a WHERE x + y = 0)))";
    let twin = twin.view();
    let statement = parse(&format!("SELECT {costly} AS found FROM devices"));
    assert!(!twin.is_undecided());
    statement.project(&twin, at(0));
    assert!(twin.is_undecided());
}

#[test]
fn months_and_years_are_those_of_the_calendar() {
    let twins = [Stored::new("d1", &json!({"at": "2024-01-31T12:00:00Z"}))];
    let text = "SELECT DATE_ADD('month', 1, tags.at) AS a, DATE_ADD('year', 1, '2024-02-29') AS b, \
                DATE_ADD('month', -2, tags.at) AS c, DATE_ADD('month', 0.5, tags.at) AS d FROM devices";
    assert_eq!(
        rows(text, &twins),
        [json!({
            "a": "2024-02-29T12:00:00.0000000Z", "b": "2025-02-28T00:00:00.0000000Z",
            "c": "2023-11-30T12:00:00.0000000Z",
        })]
    );
}

#[test]
fn modules_are_a_collection_of_their_own() {
    let fleet = fleet();
    assert_eq!(
        rows(
            "SELECT deviceId, moduleId FROM devices.modules WHERE deviceId = 'd1'",
            &fleet
        ),
        [json!({"deviceId": "d1", "moduleId": "m"})]
    );
}

#[test]
fn a_whole_twin_has_metadata_and_versions() {
    let twin = site("d1", "Lyon", 2);
    let row = rows("SELECT * FROM devices", std::slice::from_ref(&twin)).remove(0);
    assert_eq!(row["deviceId"], "d1");
    assert_eq!(row["tags"], json!({"site": "Lyon", "floor": 2}));
    assert_eq!(
        row["properties"]["desired"],
        twin.desired.to_json_with_metadata(SectionKind::Desired)
    );
    assert_eq!(row["properties"]["reported"]["$version"], 9);
    assert_eq!(row["posture"]["failedLogins"], 7);
    assert!(row.get("moduleId").is_none());
}

#[test]
fn metadata_can_be_asked_for() {
    let fleet = fleet();
    let count = |condition: &str| {
        rows(
            &format!("SELECT COUNT() FROM devices WHERE {condition}"),
            &fleet,
        )[0]["count"]
            .clone()
    };
    for condition in [
        "properties.desired.$metadata.rate.hz.$lastUpdatedVersion = 2",
        "desired.$metadata.$lastUpdated = '2026-01-01T00:01:00.123456789Z'",
        "desired.$metadata.rate.$lastUpdated > '2026-01-01'",
        "desired.$metadata.rate.hz.$lastUpdated < NOW()",
        "desired.$metadata.rate.hz.$lastUpdatedBy = 'operator:ann'",
        "NOT IS_DEFINED(desired.$metadata.rate.$lastUpdatedBy)",
        "IS_OBJECT(desired.$metadata) AND IS_OBJECT(desired.$metadata.rate)",
        "EXISTS(node IN desired.$metadata.rate WHERE node.$lastUpdatedVersion = 2)",
        "NOT IS_DEFINED(desired.$metadata.other.$lastUpdated)",
    ] {
        // An element of `EXISTS` cannot have keys of ours.
        if condition.starts_with("EXISTS") {
            assert!(Statement::parse(&format!("SELECT * FROM devices WHERE {condition}")).is_err());
            continue;
        }
        assert_eq!(count(condition), 4, "{condition}");
    }
}

#[test]
fn aggregates_make_one_row_of_many_twins() {
    let fleet = fleet();
    assert_eq!(
        rows(
            "SELECT COUNT() AS n, AVG(tags.floor) AS mean, SUM(tags.floor), MIN(tags.floor), \
             MAX(tags.floor), AVG(tags.none) AS nothing FROM devices",
            &fleet
        ),
        [json!({"n": 4, "mean": 7.0 / 3.0, "sum": 7, "min": 1, "max": "attic"})]
    );
    assert_eq!(
        rows(
            "SELECT COUNT(), SUM(tags.floor) FROM devices WHERE 1 = 2",
            &fleet
        ),
        [json!({"count": 0})]
    );
    assert_eq!(
        rows("SELECT MAX(lastActivityTime) FROM devices", &fleet),
        [json!({"max": "2026-01-01T00:00:00.1234567Z"})]
    );
}

#[test]
fn groups_have_their_keys_and_those_without_one_are_a_group() {
    let fleet = fleet();
    let text = "SELECT tags.site AS site, COUNT() AS n FROM devices GROUP BY tags.site";
    let [none, lyon, nice] = [
        json!({"n": 1}),
        json!({"site": "Lyon", "n": 2}),
        json!({"site": "Nice", "n": 1}),
    ];
    assert_eq!(
        rows(text, &fleet),
        [none.clone(), lyon.clone(), nice.clone()]
    );
    assert_eq!(
        rows(&format!("{text} ORDER BY n DESC, site DESC"), &fleet),
        [lyon.clone(), nice.clone(), none]
    );
    assert_eq!(
        rows(
            &format!(
                "{} ORDER BY tags.site DESC",
                text.replace("SELECT", "SELECT TOP 2")
            ),
            &fleet
        ),
        [nice, lyon]
    );
    assert_eq!(
        rows(
            &format!("{text} ORDER BY n").replace("devices", "devices WHERE 1 = 2"),
            &fleet
        ),
        [] as [Value; 0]
    );
}

#[test]
fn arrays_and_objects_are_group_keys() {
    let twins = [
        json!([1]),
        json!([2]),
        json!([1]),
        json!({"a": 1}),
        json!(1.0),
        json!(1),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, value)| Stored::new(&format!("d{index}"), &json!({"k": value})))
    .collect::<Vec<_>>();
    assert_eq!(
        rows(
            "SELECT tags.k, COUNT() FROM devices GROUP BY tags.k",
            &twins
        ),
        [
            json!({"k": 1.0, "count": 2}),
            json!({"k": [1], "count": 2}),
            json!({"k": [2], "count": 1}),
            json!({"k": {"a": 1}, "count": 1}),
        ]
    );
}

#[test]
fn items_without_a_name_are_numbered_and_names_given_twice_are_refused() {
    for (text, names) in [
        ("tags.a, reported.a, posture.a", vec!["a", "a_2", "a_3"]),
        ("tags.a, tags.b AS a_2, reported.a", vec!["a", "a_2", "a_3"]),
        ("tags.a, reported.a, tags.a_2", vec!["a", "a_3", "a_2"]),
        (
            "AVG(tags.a), AVG(tags.b), COUNT()",
            vec!["avg", "avg_2", "count"],
        ),
    ] {
        let text = format!("SELECT {text} FROM devices");
        let statement = parse(&text);
        let Select::Items(items) = statement.select() else {
            panic!("{text}");
        };
        let found: Vec<_> = items.iter().map(|item| item.name.as_str()).collect();
        assert_eq!(found, names, "{text}");
        assert_eq!(parse(&statement.to_string()).select(), statement.select());
    }
    let row = rows(
        "SELECT tags.floor, version, tags.floor FROM devices WHERE deviceId = 'd1'",
        &[site("d1", "Lyon", 2)],
    );
    assert_eq!(row, [json!({"floor": 2, "version": 5, "floor_2": 2})]);
    for text in [
        "tags.a AS x, tags.b AS x",
        "tags.a, tags.b AS a",
        "tags.b AS a, tags.a",
    ] {
        let error = Statement::parse(&format!("SELECT {text} FROM devices")).expect_err(text);
        assert!(error.to_string().contains("name one with AS"), "{error}");
    }
}

#[test]
fn order_is_total_over_all_values() {
    let values = [
        json!({"a": 1}),
        json!([2]),
        json!("b"),
        json!("a"),
        json!(10),
        json!(-1.5),
        json!(true),
        json!(false),
        Value::Null,
    ];
    let mut twins = vec![Stored::new("none", &json!({}))];
    for (index, value) in values.iter().enumerate() {
        twins.push(Stored::new(&format!("d{index}"), &json!({"k": value})));
    }
    let ids = |text: &str| -> Vec<_> {
        let rows = rows(text, &twins);
        rows.iter()
            .map(|row| row["deviceId"].as_str().unwrap().to_owned())
            .collect()
    };
    let up = ["none", "d8", "d7", "d6", "d5", "d4", "d3", "d2", "d1", "d0"];
    assert_eq!(ids("SELECT deviceId FROM devices ORDER BY tags.k"), up);
    let down: Vec<_> = up.into_iter().rev().collect();
    assert_eq!(
        ids("SELECT deviceId, tags.k AS k FROM devices ORDER BY k DESC"),
        down
    );
    assert_eq!(
        ids("SELECT TOP 3 deviceId FROM devices ORDER BY tags.k"),
        up[..3]
    );
}

#[test]
fn dates_are_compared_as_instants() {
    let fleet = fleet();
    // The twins were last active at 00:00:00.123456789; it is one hour later.
    for (condition, expected) in [
        ("lastActivityTime > '2024-01-01T00:00:00Z'", 4),
        ("lastActivityTime > '2026-01-01T00:59:00+01:00'", 4),
        ("lastActivityTime > '2026-01-01T01:01:00+01:00'", 0),
        (
            "lastActivityTime >= '2026-01-01' AND lastActivityTime < '2026-01-02'",
            4,
        ),
        ("lastActivityTime > 'yesterday'", 0),
        ("NOT lastActivityTime > 'yesterday'", 0),
        ("lastActivityTime < DATE_ADD('minute', -59, NOW())", 4),
        ("lastActivityTime < DATE_ADD('Minute', -61, NOW())", 0),
        ("DATE_DIFF('hour', lastActivityTime, NOW()) = 1", 4),
        ("DATEDIFF('minute', NOW(), lastActivityTime) = -60", 4),
        (
            "DATE_DIFF('day', '2026-01-01', '2026-01-02T12:00:00Z') = 1.5",
            4,
        ),
        (
            "AS_DATE('2026-01-01T01:00:00+01:00') = AS_DATE('2026-01-01')",
            4,
        ),
        ("AS_DATE(lastActivityTime) = lastActivityTime", 4),
        (
            "IS_DEFINED(tags.floor) AND NOT IS_STRING(AS_DATE(tags.floor))",
            4,
        ),
        (
            "STARTSWITH(lastActivityTime, '2026-01-01T00:00:00.1234567Z')",
            4,
        ),
        ("IS_STRING(lastActivityTime) AND IS_PRIMITIVE(NOW())", 4),
        ("DATE_ADD('week', 1e300, NOW()) > NOW()", 0),
        ("DATE_ADD('week', 1e9, NOW()) > NOW()", 0),
        ("lastActivityTime IN ['2026-01-01T00:00:00.123456789Z']", 4),
    ] {
        let found = rows(&format!("SELECT * FROM devices WHERE {condition}"), &fleet).len();
        assert_eq!(found, expected, "{condition}");
    }
}

#[test]
fn only_what_a_query_looks_at_is_parsed_and_damage_is_told() {
    let mut twin = site("d1", "Lyon", 2);
    twin.reported = "{".to_owned();
    let by_tag = parse("SELECT deviceId FROM devices WHERE tags.site = 'Lyon'");
    let view = twin.view();
    assert!(by_tag.matches(&view, at(0)));
    assert_eq!(view.damage(), None);
    let by_report = parse("SELECT * FROM devices WHERE NOT IS_DEFINED(reported.x)");
    assert!(by_report.matches(&view, at(0)));
    let damage = view.damage().unwrap();
    assert_eq!(damage.part, "properties.reported");
    assert!(damage.to_string().contains("EOF"), "{damage}");
    drop(view);
    twin.reported = "{}".to_owned();
    let view = twin.view();
    assert!(view.section_metadata(SectionKind::Reported).is_none());
    assert!(view.damage().unwrap().problem.starts_with("$metadata: "));
}

#[test]
fn a_date_is_found_among_the_texts_of_a_list() {
    let dates = json!({"dates": ["x", "2026-01-01T01:00:00.123456789+01:00"]});
    let twins = [
        Stored::new("d1", &dates),
        Stored::new("d2", &json!({"dates": ["x"]})),
    ];
    assert_eq!(
        rows(
            "SELECT deviceId FROM devices WHERE lastActivityTime IN tags.dates",
            &twins
        ),
        [json!({"deviceId": "d1"})]
    );
}

#[test]
fn the_root_of_metadata_has_no_author_even_of_an_empty_section() {
    let mut twin = site("d1", "Lyon", 2);
    twin.desired_texts = (
        "{}".to_owned(),
        Section::new(&by_operator("ann", 0))
            .metadata_to_json()
            .to_string(),
    );
    let text = "SELECT desired.$metadata.$lastUpdatedBy AS author, desired.$metadata.$lastUpdatedVersion AS v \
                FROM devices";
    assert_eq!(rows(text, &[twin]), [json!({"v": 1})]);
}

#[test]
fn the_name_of_an_item_goes_before_an_attribute_in_the_order() {
    for (text, path) in [
        (
            "SELECT tags.a AS deviceId FROM devices ORDER BY DEVICEID",
            "tags.a",
        ),
        (
            "SELECT tags.a AS deviceId, deviceId AS x FROM devices ORDER BY x",
            "deviceId",
        ),
        (
            "SELECT tags.a AS x FROM devices ORDER BY deviceId",
            "deviceId",
        ),
        (
            "SELECT tags.a AS status FROM devices ORDER BY tags.status",
            "tags.status",
        ),
        (
            "SELECT tags.a AS [[my a]] FROM devices ORDER BY [[my a]] ASC",
            "tags.a",
        ),
    ] {
        let statement = parse(text);
        let OrderKey::Value(found) = &statement.order_by()[0].key else {
            panic!("{text}");
        };
        assert_eq!(found.to_string(), path, "{text}");
        let again = parse(&statement.to_string());
        assert_eq!(again.order_by(), statement.order_by(), "{statement}");
    }
}

#[test]
fn a_query_names_what_it_looks_at() {
    let text = "SELECT tags.a, MAX(reported.b) AS b FROM devices WHERE status = 'x' AND posture.c > 1 \
                GROUP BY tags.a ORDER BY b";
    let paths: Vec<_> = parse(text)
        .paths()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        paths,
        ["status", "tags.a", "properties.reported.b", "posture.c"]
    );
}

#[test]
fn the_documented_queries_are_read() {
    for text in [
        "SELECT * FROM devices WHERE deviceId='d1'",
        "select * from devices where tags.location.region in ['US','EU']",
        "SELECT COUNT() AS n FROM devices WHERE connectionState='Connected'",
        "SELECT properties.reported.cfg.status AS status, COUNT() AS n FROM devices GROUP BY properties.reported.cfg.status",
        "SELECT deviceId, lastActivityTime AS t FROM devices WHERE IS_DEFINED(properties.reported.fw)",
        "SELECT * FROM devices.modules WHERE properties.reported.status='scanning'",
        "SELECT deviceId FROM devices WHERE configurations.[[c12]].status='Applied' AND properties.desired.$version > 3",
        "SELECT TOP 5 * FROM devices /* five */",
        "SELECT * FROM Devices.Modules",
        "SELECT AVG(tags.a), MIN(tags.b) FROM devices GROUP BY tags.c, tags.d",
    ] {
        let statement = parse(text);
        let again = parse(&statement.to_string());
        assert_eq!(
            Statement {
                text: text.to_owned(),
                ..again
            },
            statement
        );
    }
}

#[test]
fn mistakes_are_told_with_place_and_hint() {
    let mut shown = String::new();
    for text in [
        "SELEKT * FROM devices",
        "SELECT FROM devices",
        "SELECT * FROM device",
        "SELECT * FROM devices.jobs WHERE devices.jobs.status = 'failed'",
        "SELECT * FROM devices WHERE devices.status = 'enabled'",
        "SELECT * FROM devices WHERE devcieId = 'd1'",
        "SELECT * FROM devices WHERE tags.site LIKE 'L%'",
        "SELECT * FROM devices LIMIT 10",
        "SELECT TOP 0 * FROM devices",
        "SELECT DISTINCT tags.site FROM devices",
        "SELECT tags.a, reported.b AS a FROM devices",
        "SELECT tags.a, COUNT() FROM devices",
        "SELECT * FROM devices GROUP BY tags.a",
        "SELECT COUNT(tags.a) FROM devices",
        "SELECT CUONT() FROM devices",
        "SELECT tags.a AS group FROM devices",
        "SELECT tags.a FROM devices ORDER BY COUNT()",
        "SELECT LOWER(tags.a), COUNT() FROM devices GROUP BY tags.a",
        "SELECT COUNT() AS n FROM devices GROUP BY n",
        "SELECT COUNT() AS n FROM devices GROUP BY LOWER(tags.a) ORDER BY UPPER(tags.a)",
        "SELECT LOWR(tags.a) FROM devices",
        "SELECT AVG(tags.a, tags.b) FROM devices",
        "SELECT * FROM devices WHERE DATE_DIFF('month', createTime, NOW()) > 1",
        "SELECT COUNT() AS n FROM devices GROUP BY tags.a ORDER BY tags.b",
        "SELECT * FROM devices WHERE DATE_ADD('hours', 1, NOW()) > NOW()",
        "SELECT * FROM devices WHERE SUBSTRING(tags.a) = 'x'",
        "SELECT * FROM devices WHERE STARTSWIHT(tags.a, 'x')",
        "SELECT * FROM devices WHERE COUNT() > 1",
        "SELECT * FROM devices WHERE properties.desired.$metadat.a = 1",
        "SELECT * FROM devices WHERE capabilities.edge = true",
        "SELECT * FROM devices;",
        "SELECT * FROM devices ORDER BY tags.a GROUP BY tags.a",
    ] {
        let error = Statement::parse(text).expect_err(text);
        write!(shown, "{error}\n\n").unwrap();
    }
    insta::assert_snapshot!("mistakes", shown);
}

#[test]
fn a_query_that_is_too_long_or_not_served_is_told_apart() {
    let text = format!("SELECT * FROM devices /*{}*/", "x".repeat(8192));
    let error = Statement::parse(&text).unwrap_err();
    assert_eq!(error.kind, QueryErrorKind::TooLong);
    assert_eq!(error.error_code().to_string(), "412001 PreconditionFailed");
    let error = Statement::parse("SELECT * FROM devices.jobs").unwrap_err();
    assert_eq!(error.kind, QueryErrorKind::Unsupported);
    assert_eq!(error.error_code().to_string(), "400004 ArgumentInvalid");
}

#[test]
fn a_name_that_brackets_cannot_hold_is_quoted_as_a_text() {
    for text in [
        "SELECT COUNT(), tags.']]a' FROM devices GROUP BY tags.']]a' ORDER BY tags.']]a' DESC",
        "SELECT MAX(tags.']]a') AS ']]m' FROM devices ORDER BY ']]m'",
        "SELECT tags.']]a', properties.desired.']]a' FROM devices",
        "SELECT tags.a AS 'x]]y' FROM devices ORDER BY 'x]]y'",
    ] {
        let statement = Statement::parse(text).unwrap();
        let again = Statement::parse(&statement.to_string());
        assert_eq!(
            again.map(|again| again.to_string()),
            Ok(statement.to_string()),
            "{text}"
        );
    }
    assert!(Statement::parse("SELECT tags.a AS '' FROM devices").is_err());
}
