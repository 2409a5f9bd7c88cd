//! Configurations as IoT Hub shows and takes them (spec iot-hub-twins §7.5, §9.6).

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use twin::query::{ItemValue, Select, Source, Statement};
use wire::policy::v1::Configuration;

use super::{object, time};
use crate::error::ApiError;

/// What a PUT may hold. Everything else is read and ignored, because SDKs send back what they read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConfigurationBody {
    id: Option<String>,
    schema_version: Option<String>,
    labels: Option<Map<String, Value>>,
    content: Option<Map<String, Value>>,
    content_type: Option<String>,
    target_condition: Option<String>,
    priority: Option<i32>,
    #[serde(deserialize_with = "object::optional")]
    metrics: Option<Metrics>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metrics {
    queries: Option<HashMap<String, String>>,
}

impl ConfigurationBody {
    /// As the policy service wants it.
    pub(crate) fn into_wire(self, id: &str) -> Result<Configuration, ApiError> {
        if let Some(named) = self.id.filter(|named| named != id) {
            return Err(ApiError::argument(format!(
                "the body names the configuration `{named}`, the path `{id}`"
            )));
        }
        let text = |object: Option<Map<String, Value>>| {
            let object = object.map(Value::Object);
            object.map(|object| object.to_string()).unwrap_or_default()
        };
        let metrics = self.metrics.unwrap_or_default();
        Ok(Configuration {
            name: name(id),
            schema_version: self.schema_version.unwrap_or_default(),
            labels_json: text(self.labels),
            content_json: text(self.content),
            content_type: self.content_type,
            target_condition: self.target_condition.unwrap_or_default(),
            priority: self.priority.unwrap_or_default(),
            metric_queries: metrics.queries.unwrap_or_default(),
            ..Configuration::default()
        })
    }
}

/// Resource name of a configuration.
pub(crate) fn name(id: &str) -> String {
    format!("configurations/{id}")
}

/// What a configuration is asked to count, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queries {
    /// `targetedCount` and `appliedCount`. An empty one finds nothing.
    pub system: BTreeMap<String, String>,
    /// The custom ones.
    pub custom: BTreeMap<String, String>,
}

impl Queries {
    /// Of a configuration.
    pub(crate) fn of(configuration: &Configuration) -> Queries {
        let id = id(configuration);
        let condition = configuration.target_condition.trim();
        let content: Map<String, Value> =
            serde_json::from_str(&configuration.content_json).unwrap_or_default();
        let of_modules = content.get("moduleContent").is_some_and(|it| !it.is_null())
            || condition
                .get(..4)
                .is_some_and(|head| head.eq_ignore_ascii_case("from"));
        let (items, source) = if of_modules {
            ("deviceId, moduleId", Source::Modules)
        } else {
            ("deviceId", Source::Devices)
        };
        let targeted = match condition {
            "" => String::new(),
            "*" => format!("select {items} from {source}"),
            from if of_modules => format!("select {items} {from}"),
            condition => format!("select {items} from {source} where {condition}"),
        };
        let applied = format!(
            "select {items} from {source} where configurations.[[{id}]].status = 'Applied'"
        );
        let system = [("targetedCount", targeted), ("appliedCount", applied)];
        Queries {
            system: system.map(|(name, query)| (name.to_owned(), query)).into(),
            custom: configuration.metric_queries.clone().into_iter().collect(),
        }
    }
}

/// The query that answers how many rows another one has, if one row can answer it.
pub(crate) fn counting(query: &str) -> Option<String> {
    let statement = Statement::parse(query).ok()?;
    let plain = match statement.select() {
        Select::All => true,
        Select::Items(items) => items
            .iter()
            .all(|item| matches!(item.value, ItemValue::Value(_))),
    };
    if !plain || !statement.group_by().is_empty() || statement.top().is_some() {
        return None;
    }
    let source = statement.source();
    Some(match statement.condition() {
        Some(condition) => format!("SELECT COUNT() AS n FROM {source} WHERE {condition}"),
        None => format!("SELECT COUNT() AS n FROM {source}"),
    })
}

/// What was counted, by the names of the metrics; what could not be is not in it.
pub(crate) type Counts = BTreeMap<String, u64>;

/// A configuration with what was counted for it.
pub(crate) fn print(configuration: &Configuration, system: &Counts, custom: &Counts) -> Value {
    let object = |json: &str| serde_json::from_str(json).unwrap_or(Value::Null);
    let queries = Queries::of(configuration);
    json!({
        "id": id(configuration),
        "schemaVersion": configuration.schema_version,
        "labels": object(&configuration.labels_json),
        "content": object(&configuration.content_json),
        "contentType": configuration.content_type,
        "targetCondition": configuration.target_condition,
        "createdTimeUtc": time(configuration.create_time.as_ref()),
        "lastUpdatedTimeUtc": time(configuration.update_time.as_ref()),
        "priority": configuration.priority,
        "systemMetrics": { "results": system, "queries": queries.system },
        "metrics": { "results": custom, "queries": queries.custom },
        "etag": configuration.etag,
    })
}

fn id(configuration: &Configuration) -> &str {
    let name = &configuration.name;
    name.strip_prefix("configurations/").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_metrics_are_queries_that_can_be_run() {
        let of = |id: &str, condition: &str, content: &str| {
            Queries::of(&Configuration {
                name: name(id),
                target_condition: condition.to_owned(),
                content_json: content.to_owned(),
                ..Configuration::default()
            })
            .system
        };
        let cases = [
            ("*", "{}", "select deviceId from devices"),
            (
                "tags.a=1 OR tags.b=2",
                "",
                "select deviceId from devices where tags.a=1 OR tags.b=2",
            ),
            (
                "FROM devices.modules where moduleId='m'",
                "{}",
                "select deviceId, moduleId FROM devices.modules where moduleId='m'",
            ),
            ("", "{}", ""),
        ];
        for (condition, content, wanted) in cases {
            let system = of("c-1+%_*!'", condition, content);
            assert_eq!(system["targetedCount"], wanted);
            for query in system.values().filter(|query| !query.is_empty()) {
                let counting = counting(query).expect("a count");
                Statement::parse(&counting).expect("it can be run");
            }
        }
        let modules = of("c", "", "{\"moduleContent\":{}}");
        assert!(modules["appliedCount"].contains("from devices.modules"));
    }

    #[test]
    fn a_query_that_one_row_cannot_count_is_told_apart() {
        for query in [
            "SELECT TOP 3 * FROM devices",
            "SELECT COUNT() AS n FROM devices",
            "SELECT tags.a, COUNT() AS n FROM devices GROUP BY tags.a",
            "no query",
        ] {
            assert_eq!(counting(query), None, "{query}");
        }
        assert_eq!(
            counting("select * from devices where tags.a = 'x' order by tags.a").as_deref(),
            Some("SELECT COUNT() AS n FROM devices WHERE tags.a = 'x'")
        );
    }

    #[test]
    fn a_body_names_the_path_and_is_read_as_sdks_send_it() {
        let body = |text: &str| -> ConfigurationBody { serde_json::from_str(text).expect("JSON") };
        let read = body(
            r#"{"id":"c","schemaVersion":null,"labels":null,"content":{"deviceContent":null},
                "contentType":null,"priority":null,"etag":"x","systemMetrics":null,
                "metrics":{"results":{},"queries":null}}"#,
        );
        let read = read.into_wire("c").expect("it is good");
        assert_eq!(read.labels_json, "");
        assert_eq!(read.content_json, "{\"deviceContent\":null}");
        let error = body(r#"{"id":"d"}"#).into_wire("c").expect_err("another");
        assert_eq!(error.number(), 400_004);
    }
}
