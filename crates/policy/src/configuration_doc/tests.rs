use serde_json::json;

use super::*;

fn spec(content: &Value, target: &str) -> ConfigurationSpec {
    ConfigurationSpec {
        content: content.as_object().cloned(),
        target_condition: target.to_owned(),
        ..ConfigurationSpec::default()
    }
}

#[track_caller]
fn refused(spec: &ConfigurationSpec, part: Part, words: &str) {
    let problems = spec.problems();
    let [problem] = &problems[..] else {
        panic!("{problems:?}");
    };
    assert_eq!(problem.part, part, "{problem}");
    assert!(problem.message.contains(words), "{problem}");
}

#[test]
fn ids_have_their_characters() {
    for good in ["a", "c-1+%_*!'"] {
        assert_eq!(ConfigurationId::parse(good).unwrap().as_str(), good);
    }
    for bad in ["", "A", "a.b", "a/b", "ä", &"a".repeat(129)] {
        assert!(ConfigurationId::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_sdks_and_the_documentation_send_is_good() {
    let good = [
        spec(&Value::Null, ""),
        spec(&json!({}), "*"),
        spec(&json!({"deviceContent": null, "moduleContent": null}), "*"),
        spec(
            &json!({"deviceContent": {"properties.desired.a": {"b": 1}, "properties.desired.c.d": 4}}),
            "tags.building=9 AND deviceId NIN ['x']",
        ),
        spec(
            &json!({"deviceContent": {"properties.desired": {"a": 1}}}),
            "*",
        ),
        spec(
            &json!({"deviceContent": {"properties.desired.a": null}}),
            "*",
        ),
        spec(
            &json!({"moduleContent": {"properties.desired.a": [1, "x"]}}),
            "from devices.modules where moduleId = 'm' AND tags.x = 1",
        ),
        spec(
            &json!({"moduleContent": {"properties.desired.a": 1}}),
            "FROM devices.modules",
        ),
        spec(
            &json!({"modulesContent": {"$edgeAgent": {"properties.desired": {"a": {}}}}}),
            "tags.edge = true",
        ),
    ];
    for spec in good {
        assert_eq!(spec.problems(), [], "{spec:?}");
    }
}

#[test]
fn content_is_paths_below_desired_for_one_kind_of_twins() {
    for (content, words) in [
        (json!({"otherContent": {}}), "has `otherContent`"),
        (
            json!({"deviceContent": {}, "moduleContent": {}}),
            "has both",
        ),
        (json!({"deviceContent": 1}), "an object of paths"),
        (
            json!({"deviceContent": {"tags.a": 1}}),
            "has the path `tags.a`",
        ),
        (
            json!({"deviceContent": {"properties.desiredx": {}}}),
            "has the path",
        ),
        (
            json!({"deviceContent": {"properties.desired.": 1}}),
            "has the path",
        ),
        (
            json!({"deviceContent": {"properties.desired": 1}}),
            "the whole section",
        ),
        (
            json!({"deviceContent": {"properties.desired.$a": 1}}),
            "not allowed",
        ),
        (
            json!({"deviceContent": {"properties.desired.a": [null]}}),
            "not allowed",
        ),
        (
            json!({"deviceContent": {"properties.desired.a": 1, "properties.desired.a.b": 2}}),
            "another path",
        ),
        (
            json!({"deviceContent": {"properties.desired": {"a": 1}, "properties.desired.b": 2}}),
            "another path",
        ),
        (
            json!({"deviceContent": {"properties.desired.a": "x".repeat(40_000)}}),
            "not allowed",
        ),
        (json!({"modulesContent": {"m": 1}}), "modulesContent.m"),
    ] {
        refused(&spec(&content, ""), Part::Content, words);
    }
}

#[test]
fn a_target_fits_the_content_and_is_a_condition() {
    let device = json!({"deviceContent": {"properties.desired.a": 1}});
    let module = json!({"moduleContent": {"properties.desired.a": 1}});
    let part = Part::TargetCondition;
    refused(&spec(&device, "tags.a ="), part, "column");
    refused(
        &spec(&device, "from devices where x = 1"),
        part,
        "devices.modules",
    );
    refused(
        &spec(&device, "from devices.modules"),
        part,
        "content is for devices",
    );
    refused(&spec(&module, "*"), part, "content is for modules");
    refused(
        &spec(&module, "from devices.modules where"),
        part,
        "want a condition",
    );
    refused(
        &spec(&module, "from devices.modules tags.a = 1"),
        part,
        "after `from`",
    );
}

#[test]
fn labels_priority_and_metrics_are_checked() {
    let labels = ConfigurationSpec {
        labels: json!({"a": 1}).as_object().cloned(),
        ..ConfigurationSpec::default()
    };
    refused(&labels, Part::Labels, "`a`");
    let priority = ConfigurationSpec {
        priority: -1,
        ..ConfigurationSpec::default()
    };
    refused(&priority, Part::Priority, "0 or more");
    let metrics = |names: &[&str], query: &str| ConfigurationSpec {
        metric_queries: names
            .iter()
            .map(|name| ((*name).to_owned(), query.to_owned()))
            .collect(),
        ..ConfigurationSpec::default()
    };
    let query = "SELECT deviceId FROM devices WHERE configurations.[[c]].status = 'Applied'";
    assert_eq!(metrics(&["a", "b", "c", "d", "e"], query).problems(), []);
    refused(
        &metrics(&["1", "2", "3", "4", "5", "6"], query),
        Part::Metrics,
        "at most 5",
    );
    refused(&metrics(&["a"], "SELECT"), Part::Metrics, "`a`: line 1");
    refused(&metrics(&[""], query), Part::Metrics, "the name has 0");
}

#[test]
fn content_type_and_schema_never_change() {
    let old = spec(&json!({"deviceContent": {"properties.desired.a": 1}}), "*");
    let mut new = ConfigurationSpec {
        priority: 7,
        target_condition: String::new(),
        ..old.clone()
    };
    assert_eq!(old.changed_for_ever(&new), None);
    new.schema_version = "2.0".to_owned();
    assert_eq!(old.changed_for_ever(&new), Some(Part::SchemaVersion));
    new.content = None;
    assert_eq!(old.changed_for_ever(&new), Some(Part::Content));
}
