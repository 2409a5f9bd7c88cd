//! Configurations in IoT Hub's JSON, and as people see them.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wire::policy::v1 as api;

use crate::output::{Paper, View, table, time};

/// What a file says of a configuration. Everything else that IoT Hub's tools print is passed over.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    id: String,
    #[serde(default)]
    schema_version: Option<String>,
    #[serde(default)]
    labels: Option<Map<String, Value>>,
    #[serde(default)]
    content: Option<Map<String, Value>>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    target_condition: Option<String>,
    #[serde(default)]
    priority: Option<i32>,
    #[serde(default)]
    metrics: Option<Metrics>,
}

#[derive(Debug, Default, Deserialize)]
struct Metrics {
    #[serde(default)]
    queries: Option<HashMap<String, String>>,
}

/// Reads a file: one configuration, or a list of them.
pub(super) fn parse(text: &str) -> Result<Vec<Document>, serde_json::Error> {
    if text.trim_start().starts_with('[') {
        serde_json::from_str(text)
    } else {
        serde_json::from_str(text).map(|one| vec![one])
    }
}

impl Document {
    /// As the policy service wants it.
    pub(super) fn into_wire(self) -> api::Configuration {
        let text = |object: Option<Map<String, Value>>| {
            let object = object.map(Value::Object);
            object.map(|object| object.to_string()).unwrap_or_default()
        };
        api::Configuration {
            name: super::name(&self.id),
            schema_version: self.schema_version.unwrap_or_default(),
            labels_json: text(self.labels),
            content_json: text(self.content),
            content_type: self.content_type,
            target_condition: self.target_condition.unwrap_or_default(),
            priority: self.priority.unwrap_or_default(),
            metric_queries: self.metrics.and_then(|it| it.queries).unwrap_or_default(),
            ..api::Configuration::default()
        }
    }
}

/// One configuration.
pub(super) struct ConfigurationView(pub(super) api::Configuration);

/// All of them.
pub(super) struct ConfigurationsView(pub(super) Vec<api::Configuration>);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    id: &'a str,
    schema_version: &'a str,
    labels: Value,
    content: Value,
    content_type: Option<&'a str>,
    target_condition: &'a str,
    created_time_utc: Option<String>,
    last_updated_time_utc: Option<String>,
    priority: i32,
    system_metrics: SystemData,
    metrics: MetricsData<'a>,
    etag: &'a str,
}

#[derive(Serialize)]
struct SystemData {
    results: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct MetricsData<'a> {
    queries: BTreeMap<&'a String, &'a String>,
}

fn id(one: &api::Configuration) -> &str {
    one.name
        .strip_prefix("configurations/")
        .unwrap_or(&one.name)
}

fn data(one: &api::Configuration) -> Data<'_> {
    let object = |json: &str| serde_json::from_str(json).unwrap_or(Value::Null);
    let counts = one.counts.as_ref();
    let results = counts.map(|counts| {
        BTreeMap::from([
            ("targetedCount", counts.twins_targeted),
            ("appliedCount", counts.twins_applied),
        ])
    });
    Data {
        id: id(one),
        schema_version: &one.schema_version,
        labels: object(&one.labels_json),
        content: object(&one.content_json),
        content_type: one.content_type.as_deref(),
        target_condition: &one.target_condition,
        created_time_utc: time::precise(one.create_time),
        last_updated_time_utc: time::precise(one.update_time),
        priority: one.priority,
        system_metrics: SystemData {
            results: results.unwrap_or_default(),
        },
        metrics: MetricsData {
            queries: one.metric_queries.iter().collect(),
        },
        etag: &one.etag,
    }
}

fn counted(one: &api::Configuration) -> (String, String) {
    match &one.counts {
        Some(counts) => (
            counts.twins_targeted.to_string(),
            counts.twins_applied.to_string(),
        ),
        None => ("-".to_owned(), "-".to_owned()),
    }
}

impl View for ConfigurationView {
    fn data(&self) -> impl Serialize {
        data(&self.0)
    }

    fn text(&self, paper: &Paper) -> String {
        let one = &self.0;
        let (targeted, applied) = counted(one);
        let mut pairs = vec![
            ("configuration", id(one).to_owned()),
            ("target", one.target_condition.clone()),
            ("priority", one.priority.to_string()),
            ("content", one.content_json.clone()),
            ("labels", one.labels_json.clone()),
            ("targeted", targeted),
            ("applied", applied),
            ("created", time::short(one.create_time)),
            ("changed", time::short(one.update_time)),
            ("etag", one.etag.clone()),
        ];
        let queries: BTreeMap<_, _> = one.metric_queries.iter().collect();
        for (name, query) in queries {
            pairs.push(("metric", format!("{name}: {query}")));
        }
        table::pairs(paper, pairs)
    }
}

impl View for ConfigurationsView {
    fn data(&self) -> impl Serialize {
        self.0.iter().map(data).collect::<Vec<_>>()
    }

    fn text(&self, paper: &Paper) -> String {
        let row = |one: &api::Configuration| {
            let (targeted, applied) = counted(one);
            vec![
                id(one).to_owned(),
                one.priority.to_string(),
                targeted,
                applied,
                one.target_condition.clone(),
            ]
        };
        let header = ["CONFIGURATION", "PRIORITY", "TARGETED", "APPLIED", "TARGET"];
        table::table(paper, &header, self.0.iter().map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden::{json, text};

    const FILE: &str = r#"{
        "id": "firmware", "etag": "MQ==", "labels": {"app": "x"}, "schemaVersion": "1.0",
        "content": {"deviceContent": {"properties.desired.a": 1}, "moduleContent": null},
        "targetCondition": "tags.site = 'hall'", "priority": 7,
        "createdTimeUtc": "2026-01-01T00:00:00Z", "systemMetrics": {"results": {}},
        "metrics": {"results": {"done": 3}, "queries": {"done": "SELECT * FROM devices"}}
    }"#;

    #[test]
    fn what_is_printed_can_be_applied_again() {
        let wire = parse(FILE).unwrap().remove(0).into_wire();
        assert_eq!(wire.name, "configurations/firmware");
        let printed = json(&ConfigurationView(wire.clone()));
        assert_eq!(parse(&printed).unwrap().remove(0).into_wire(), wire);
        let list = json(&ConfigurationsView(vec![wire.clone(), wire.clone()]));
        assert_eq!(parse(&list).unwrap().len(), 2);
        assert!(parse("[]").unwrap().is_empty());
        assert!(parse("{}").unwrap_err().to_string().contains("id"));
    }

    #[test]
    fn people_see_on_how_many_twins_it_stands() {
        let mut wire = parse(FILE).unwrap().remove(0).into_wire();
        assert!(text(&ConfigurationsView(vec![wire.clone()])).contains(" - "));
        wire.counts = Some(api::ConfigurationCounts {
            twins_targeted: 12,
            twins_applied: 11,
            in_step_time: None,
        });
        let shown = text(&ConfigurationsView(vec![wire.clone()]));
        let line = shown.lines().nth(1).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..4], ["firmware", "7", "12", "11"], "{shown}");
        let one = text(&ConfigurationView(wire));
        assert!(one.contains("done: SELECT * FROM devices"), "{one}");
    }
}
