//! What a query answers, page by page, on a store of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use service_kit::error::{Classified as _, Kind};

use super::*;
use crate::store::sqlite::SqliteStore;
use crate::store::{Commit, PartitionState, Replica, ReplicaId, Upsert};
use crate::testing::{key, now, record};

/// A store with its partitions.
struct Hub {
    store: SqliteStore,
    partitions: Vec<PartitionState>,
    folder: tempfile::TempDir,
}

impl Hub {
    async fn new() -> Hub {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(folder.path()).expect("it opens");
        let replica = Replica {
            id: ReplicaId("r".to_owned()),
            address: "http://r".to_owned(),
            count: twin::PartitionCount::DEFAULT,
            lease: Duration::ZERO,
        };
        let partitions = store.claim(replica).await.expect("taken").owned;
        Hub {
            store,
            partitions,
            folder,
        }
    }

    /// Twenty devices `d00` to `d19` at two sites, and a module on each second one.
    async fn fleet() -> Hub {
        let hub = Hub::new().await;
        for number in 0..20_u32 {
            let name = format!("d{number:02}");
            let mut record = record(&name, "g");
            let site = if number % 3 == 0 { "paris" } else { "oslo" };
            let region = match number % 3 {
                0 => "US",
                1 => "EU",
                _ => "APAC",
            };
            let tags = json!({
                "site": site,
                "location": {"region": region},
                "floor": number % 5,
            });
            let reported = match number % 4 {
                0 => json!({"fw": "1.0", "cfg": {"status": "done"}}),
                1 => json!({"cfg": {"status": "failed"}}),
                _ => json!({}),
            };
            report(&mut record, reported);
            record.twin.tags.document = tags.to_string();
            record.posture.agent.connected = number % 2 == 0;
            hub.put(record).await;
            if number % 2 == 0 {
                let mut module = crate::testing::record(&format!("{name}/scanner"), "g");
                report(&mut module, json!({"status": "scanning"}));
                hub.put(module).await;
            }
        }
        hub
    }

    async fn put(&self, record: Record) {
        let before = self.store.get(record.key.clone()).await.expect("read");
        let (index_remove, index_add) =
            crate::index::changes(before.as_ref(), Some(&record)).expect("an index");
        self.commit(Commit {
            upserts: vec![Upsert {
                record: Arc::new(record),
                index_remove,
                index_add,
            }],
            ..Commit::default()
        })
        .await;
    }

    async fn delete(&self, name: &str) {
        self.commit(Commit {
            deletes: vec![key(name)],
            ..Commit::default()
        })
        .await;
    }

    async fn commit(&self, commit: Commit) {
        let commit = Commit {
            partitions: self.partitions.clone(),
            ..commit
        };
        self.store.commit(commit).await.expect("committed");
    }

    fn queries(&self) -> Queries<'_> {
        Queries {
            store: &self.store,
            now: now(),
        }
    }

    async fn page(
        &self,
        query: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<proto::QueryTwinsResponse, Error> {
        self.queries()
            .query(proto::QueryTwinsRequest {
                query: query.to_owned(),
                page_size,
                page_token: page_token.to_owned(),
            })
            .await
    }

    /// Every row, as JSON; of whole twins the name.
    async fn all(&self, query: &str, page_size: i32) -> Vec<Value> {
        let (mut rows, mut token) = (Vec::new(), String::new());
        loop {
            let page = self.page(query, page_size, &token).await.expect(query);
            let count = page.twins.len() + page.rows_json.len();
            assert!(i32::try_from(count).expect("few") <= page_size);
            assert!(page.damaged.is_empty(), "{:?}", page.damaged);
            rows.extend(page.twins.into_iter().map(|twin| Value::from(twin.name)));
            let parsed = page
                .rows_json
                .iter()
                .map(|row| serde_json::from_str(row).expect("JSON"));
            rows.extend(parsed);
            if page.next_page_token.is_empty() {
                return rows;
            }
            token = page.next_page_token;
        }
    }
}

/// As the device does, with metadata.
fn report(record: &mut Record, reported: Value) {
    let twin = record.twin.parse(&record.key).expect("a twin");
    let patch = crate::testing::object(reported);
    let twin = twin
        .patch_reported(&patch, now(), None)
        .expect("a valid report");
    record.twin = crate::record::TwinText::print(&twin);
}

#[tokio::test]
async fn the_queries_of_the_specification_answer() {
    let hub = Hub::fleet().await;
    for (query, rows) in [
        (
            "SELECT * FROM devices WHERE deviceId='d01'",
            json!(["devices/d01"]),
        ),
        ("SELECT * FROM devices WHERE deviceId='other'", json!([])),
        (
            "SELECT * FROM devices WHERE tags.location.region IN ['US','EU'] AND tags.floor < 1",
            json!(["devices/d00", "devices/d10", "devices/d15"]),
        ),
        (
            "SELECT COUNT() AS n FROM devices WHERE connectionState='Connected'",
            json!([{"n": 10}]),
        ),
        (
            "SELECT properties.reported.cfg.status AS status, COUNT() AS n FROM devices \
             GROUP BY properties.reported.cfg.status",
            json!([{"n": 10}, {"status": "done", "n": 5}, {"status": "failed", "n": 5}]),
        ),
        (
            "SELECT deviceId, lastActivityTime AS t FROM devices \
             WHERE IS_DEFINED(properties.reported.fw) AND deviceId < 'd05'",
            json!([
                {"deviceId": "d00", "t": "0001-01-01T00:00:00Z"},
                {"deviceId": "d04", "t": "0001-01-01T00:00:00Z"},
            ]),
        ),
        (
            "SELECT COUNT() AS n FROM devices WHERE lastActivityTime < '2000-01-01' \
             AND statusUpdateTime = '0001-01-01' AND modelId = ''",
            json!([{"n": 20}]),
        ),
        (
            "SELECT * FROM devices.modules WHERE properties.reported.status='scanning' \
             AND deviceId >= 'd16'",
            json!(["devices/d16/modules/scanner", "devices/d18/modules/scanner"]),
        ),
        (
            "SELECT deviceId FROM devices WHERE configurations.[[c12]].status='Applied' \
             AND properties.desired.$version > 3",
            json!([]),
        ),
        (
            "SELECT TOP 2 * FROM devices",
            json!(["devices/d00", "devices/d01"]),
        ),
        ("SELECT COUNT() FROM devices", json!([{"count": 20}])),
        (
            "SELECT COUNT() AS n FROM devices WHERE tags.site = 'paris'",
            json!([{"n": 7}]),
        ),
        (
            "SELECT tags.site, MAX(tags.floor) AS highest, COUNT() AS n FROM devices \
             WHERE STARTSWITH(deviceId, 'd1') GROUP BY tags.site ORDER BY n DESC",
            json!([{"site": "oslo", "highest": 4, "n": 7}, {"site": "paris", "highest": 3, "n": 3}]),
        ),
        (
            "SELECT TOP 3 deviceId, tags.floor FROM devices ORDER BY tags.floor DESC, deviceId DESC",
            json!([
                {"deviceId": "d19", "floor": 4},
                {"deviceId": "d14", "floor": 4},
                {"deviceId": "d09", "floor": 4},
            ]),
        ),
    ] {
        for page_size in [1, 2, 100] {
            assert_eq!(
                Value::from(hub.all(query, page_size).await),
                rows,
                "{query}"
            );
        }
    }
}

#[tokio::test]
async fn a_query_sees_every_write_that_returned() {
    let hub = Hub::new().await;
    let query = "SELECT * FROM devices WHERE tags.step = 1";
    for number in 0..10 {
        let name = format!("d{number}");
        let mut twin = record(&name, "g");
        twin.twin.tags.document = json!({"step": 1}).to_string();
        hub.put(twin.clone()).await;
        assert_eq!(hub.all(query, 100).await.len(), 1);
        twin.twin.tags.document = json!({"step": 2}).to_string();
        hub.put(twin).await;
        assert!(hub.all(query, 100).await.is_empty());
        hub.delete(&name).await;
        assert!(hub.all("SELECT * FROM devices", 100).await.is_empty());
    }
}

#[tokio::test]
async fn pages_lose_and_repeat_no_twin_that_is_left_alone() {
    let hub = Hub::fleet().await;
    for query in [
        "SELECT * FROM devices",
        "SELECT * FROM devices WHERE tags.site IN ['paris', 'oslo']",
        "SELECT * FROM devices WHERE tags.floor >= 0 ORDER BY tags.floor DESC",
    ] {
        let (mut seen, mut token, mut round) = (Vec::new(), String::new(), 0);
        loop {
            let page = hub.page(query, 3, &token).await.expect("a page");
            seen.extend(page.twins.into_iter().map(|twin| twin.device_id));
            if page.next_page_token.is_empty() {
                break;
            }
            token = page.next_page_token;
            // Every other device is rewritten, one is new and goes again.
            for number in (0..20).step_by(2) {
                let mut twin = record(&format!("d{number:02}"), "g");
                let tags = json!({"site": "oslo", "floor": (number + round) % 7});
                twin.twin.tags.document = tags.to_string();
                hub.put(twin).await;
            }
            let extra = format!("d{round:02}x");
            hub.put(record(&extra, "g")).await;
            hub.delete(&extra).await;
            round += 1;
        }
        assert!(round >= 6, "{query}: only {round} pages");
        let left_alone: Vec<_> = (1..20).step_by(2).map(|n| format!("d{n:02}")).collect();
        for name in left_alone {
            let times = seen.iter().filter(|seen| **seen == name).count();
            assert_eq!(times, 1, "{query}: {name} in {seen:?}");
        }
        if !query.contains("ORDER") {
            let set: BTreeSet<_> = seen.iter().collect();
            assert_eq!(set.len(), seen.len(), "{query}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn now_is_the_same_on_every_page() {
    let hub = Hub::fleet().await;
    let query = "SELECT deviceId FROM devices WHERE createTime <= NOW()";
    let first = hub.page(query, 5, "").await.unwrap();
    assert_eq!(first.rows_json.len(), 5);
    let before_all = Queries {
        now: "2000-01-01T00:00:00Z".parse().unwrap(),
        ..hub.queries()
    };
    let request = |page_token| proto::QueryTwinsRequest {
        query: query.to_owned(),
        page_size: 100,
        page_token,
    };
    let none = before_all.query(request(String::new())).await.unwrap();
    assert!(none.rows_json.is_empty());
    let rest = before_all
        .query(request(first.next_page_token))
        .await
        .unwrap();
    assert_eq!(rest.rows_json.len(), 15);
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_with_its_reason() {
    let hub = Hub::fleet().await;
    let token = hub
        .page("SELECT * FROM devices", 1, "")
        .await
        .unwrap()
        .next_page_token;
    let long = format!("SELECT * FROM devices /*{}*/", "x".repeat(8192));
    for (query, size, token, kind, reason, says) in [
        (
            "SELECT * FROM",
            0,
            "",
            Kind::InvalidArgument,
            "INVALID_QUERY",
            "column",
        ),
        (
            long.as_str(),
            0,
            "",
            Kind::FailedPrecondition,
            "QUERY_TOO_LONG",
            "8192",
        ),
        (
            "SELECT * FROM devices",
            1001,
            "",
            Kind::InvalidArgument,
            "INVALID_FIELD",
            "1000",
        ),
        (
            "SELECT * FROM devices",
            -1,
            "",
            Kind::InvalidArgument,
            "INVALID_FIELD",
            "page_size",
        ),
        (
            "SELECT * FROM devices",
            1,
            "x",
            Kind::InvalidArgument,
            "INVALID_FIELD",
            "not one that",
        ),
        (
            "SELECT * FROM devices.modules",
            1,
            token.as_str(),
            Kind::InvalidArgument,
            "INVALID_FIELD",
            "another query",
        ),
    ] {
        let error = hub.page(query, size, token).await.expect_err(query);
        assert_eq!((error.kind(), error.reason()), (kind, reason), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn pages_in_the_order_of_an_expression_hold_every_twin_once() {
    let hub = Hub::fleet().await;
    let query = "SELECT deviceId, tags.floor % 2 AS odd, NOW() AS at FROM devices \
                 ORDER BY tags.floor % 2 DESC, LENGTH(tags.site)";
    let whole = hub.page(query, 100, "").await.unwrap().rows_json;
    assert_eq!(whole.len(), 20);
    for size in [1, 3, 7] {
        let (mut rows, mut token) = (Vec::new(), String::new());
        loop {
            let page = hub.page(query, size, &token).await.unwrap();
            rows.extend(page.rows_json);
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        let ids = |rows: &[String]| -> Vec<serde_json::Value> {
            let rows = rows.iter().map(|row| serde_json::from_str(row).unwrap());
            rows.map(|row: serde_json::Value| row["deviceId"].clone())
                .collect()
        };
        assert_eq!(ids(&rows), ids(&whole), "{size}");
        let times = |row: &String| {
            let row: serde_json::Value = serde_json::from_str(row).unwrap();
            row["at"].clone()
        };
        let of_pages: std::collections::HashSet<_> = rows.iter().map(times).collect();
        assert_eq!(of_pages.len(), 1, "{size}");
    }
    let groups = "SELECT UPPER(tags.site) AS site, COUNT() AS n, MAX(tags.floor * 2) AS most \
                  FROM devices GROUP BY site ORDER BY UPPER(tags.site) DESC";
    let whole = hub.page(groups, 100, "").await.unwrap().rows_json;
    let first = hub.page(groups, 1, "").await.unwrap();
    let second = hub.page(groups, 100, &first.next_page_token).await.unwrap();
    assert_eq!([first.rows_json, second.rows_json].concat(), whole);
    assert!(whole[0].contains("\"site\":"), "{whole:?}");
}

#[tokio::test]
async fn a_damaged_twin_is_named_and_keeps_no_other_from_being_found() {
    let hub = Hub::fleet().await;
    let raw = rusqlite::Connection::open(hub.folder.path().join("twins.db")).unwrap();
    for column in ["tags", "posture"] {
        let sql = format!("UPDATE twins SET {column} = '{{' WHERE device_id = 'd03'");
        assert_eq!(raw.execute(&sql, []).unwrap(), 1);
    }
    for (query, rows) in [
        ("SELECT * FROM devices", 19),
        ("SELECT * FROM devices WHERE tags.site = 'paris'", 6),
        ("SELECT * FROM devices WHERE tags.floor >= 0", 19),
        (
            "SELECT deviceId FROM devices WHERE posture.agent.connected = true",
            10,
        ),
        (
            "SELECT deviceId FROM devices WHERE tags.floor >= 0 ORDER BY tags.floor",
            19,
        ),
        (
            "SELECT tags.floor, COUNT() FROM devices GROUP BY tags.floor",
            5,
        ),
        ("SELECT COUNT() FROM devices WHERE IS_NUMBER(tags.floor)", 1),
    ] {
        let page = hub.page(query, 100, "").await.expect(query);
        assert_eq!(page.damaged, ["devices/d03"], "{query}");
        assert_eq!(page.twins.len() + page.rows_json.len(), rows, "{query}");
    }
    let count = hub
        .page(
            "SELECT COUNT() AS n FROM devices WHERE IS_NUMBER(tags.floor)",
            9,
            "",
        )
        .await;
    assert_eq!(count.unwrap().rows_json, [r#"{"n":19}"#]);
}

#[tokio::test]
async fn explain_tells_what_the_store_decides_and_by_which_index() {
    let hub = Hub::fleet().await;
    let explain = |query: &str| {
        let query = query.to_owned();
        let queries = hub.queries();
        async move {
            queries
                .explain(proto::ExplainQueryRequest { query })
                .await
                .unwrap()
        }
    };
    for (condition, index) in [
        (
            "STARTSWITH(tags.site, 'par')",
            r#"twin_index (tags.site >= "par" AND < "pas")"#,
        ),
        (
            "tags.floor > 1 AND tags.floor <= 3",
            "twin_index (tags.floor > 1 AND <= 3)",
        ),
        (
            "connectionState = 'Connected'",
            "twin_index (connectionState)",
        ),
        (
            "lastActivityTime < '2020-01-01' AND status = 'enabled'",
            r#"twin_index (lastActivityTime >= "" AND <= "2020-01-01T00")"#,
        ),
    ] {
        let plan = explain(&format!("SELECT * FROM devices WHERE {condition}")).await;
        assert_eq!(plan.indexes, [index], "{condition}");
        let lines = plan.plan.join("\n");
        assert!(!lines.contains("SCAN t"), "{condition}\n{lines}");
    }
    let plan =
        explain("select * from devices where tags.site = 'paris' and LOWER(tags.name) = 'x'").await;
    assert_eq!(
        plan.canonical_query,
        "SELECT * FROM devices WHERE tags.site = 'paris' AND LOWER(tags.name) = 'x'"
    );
    assert_eq!(plan.compiled_condition, "tags.site = 'paris'");
    assert_eq!(plan.residual_condition, "LOWER(tags.name) = 'x'");
    assert_eq!(plan.indexes, ["twin_index (tags.site)"]);
    assert!(
        plan.sql.contains("?1") && !plan.sql.contains("paris"),
        "{}",
        plan.sql
    );
    // Both tables by their primary keys, in order, nothing sorted.
    let lines = plan.plan.join("\n");
    assert_eq!(lines.matches("SEARCH").count(), 2, "{lines}");
    assert!(
        !lines.contains("B-TREE") && !lines.contains("SCAN"),
        "{lines}"
    );

    let plan = explain("SELECT * FROM devices WHERE deviceId IN ['d01', 'd02']").await;
    assert_eq!(plan.indexes, ["primary key (deviceId)"]);
    assert!(plan.plan.join("\n").contains("SEARCH"), "{:?}", plan.plan);

    let plan = explain("SELECT * FROM devices WHERE tags.site IN ['paris', 'oslo']").await;
    let lines = plan.plan.join("\n");
    assert!(
        !lines.contains("SCAN twin_index") && !lines.contains("SCAN t"),
        "{lines}"
    );

    let plan = explain("SELECT COUNT() FROM devices WHERE posture.agent.connected = true").await;
    assert_eq!(
        (plan.indexes.len(), plan.residual_condition.as_str()),
        (0, "")
    );
}

/// A device must not stop an operator's query by filling its twin, nor hide from it unnoticed.
#[tokio::test]
async fn a_twin_that_is_too_costly_to_judge_is_named_and_the_others_are_answered() {
    let hub = Hub::new().await;
    for (name, elements) in [("d0", 2), ("d1", 8191), ("d2", 3)] {
        let mut record = record(name, "g");
        report(&mut record, json!({ "a": vec![true; elements] }));
        hub.put(record).await;
    }
    let condition = "EXISTS(x IN reported.a WHERE EXISTS(y IN reported.a WHERE x = y AND y = false)) \
                     OR ARRAY_LENGTH(reported.a) = 2";
    for (query, rows) in [
        (
            format!("SELECT deviceId FROM devices WHERE {condition}"),
            json!([{"deviceId": "d0"}]),
        ),
        (
            format!("SELECT deviceId FROM devices WHERE {condition} ORDER BY tags.a"),
            json!([{"deviceId": "d0"}]),
        ),
        (
            format!("SELECT COUNT() AS n FROM devices WHERE {condition}"),
            json!([{"n": 1}]),
        ),
    ] {
        let page = hub.page(&query, 10, "").await.expect("answered");
        let found: Vec<Value> = page
            .rows_json
            .iter()
            .map(|row| serde_json::from_str(row).expect("JSON"))
            .collect();
        assert_eq!(Value::from(found), rows, "{query}");
        assert_eq!(page.damaged, ["devices/d1"], "{query}");
    }
}

/// Groups that come and go between two pages do not shift the others.
#[tokio::test]
async fn pages_of_groups_go_on_behind_the_last_one() {
    let hub = Hub::new().await;
    let put = async |name: &str, site: &str| {
        let mut record = record(name, "g");
        record.twin.tags.document = json!({ "site": site }).to_string();
        hub.put(record).await;
    };
    for (name, site) in [("d0", "b"), ("d1", "d"), ("d2", "f"), ("d3", "h")] {
        put(name, site).await;
    }
    let query = "SELECT tags.site AS s FROM devices GROUP BY tags.site";
    let first = hub.page(query, 2, "").await.expect("a page");
    assert_eq!(first.rows_json, [r#"{"s":"b"}"#, r#"{"s":"d"}"#]);
    // One before goes, one before comes, the last one given goes, one behind comes.
    hub.delete("d0").await;
    hub.delete("d1").await;
    put("d4", "a").await;
    put("d5", "g").await;
    let second = hub.page(query, 2, &first.next_page_token).await;
    let second = second.expect("a page");
    assert_eq!(second.rows_json, [r#"{"s":"f"}"#, r#"{"s":"g"}"#]);
    let third = hub.page(query, 2, &second.next_page_token).await;
    let third = third.expect("a page");
    assert_eq!(third.rows_json, [r#"{"s":"h"}"#]);
    assert_eq!(third.next_page_token, "");
    let top = format!(
        "{} ORDER BY s DESC",
        query.replace("SELECT", "SELECT TOP 3")
    );
    let all = hub.all(&top, 2).await;
    assert_eq!(
        Value::from(all),
        json!([{"s": "h"}, {"s": "g"}, {"s": "f"}])
    );
}
