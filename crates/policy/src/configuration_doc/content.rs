//! The content of a configuration: paths below `properties.desired`, and what stands there.

use std::collections::BTreeSet;

use serde_json::Value;
use twin::Map;
use twin::query::Source;

use crate::policy_doc::explain;

/// Where every path begins.
const DESIRED: &str = "properties.desired";
const DEVICE: &str = "deviceContent";
const MODULE: &str = "moduleContent";
/// Of IoT Edge: by module id, and it targets devices.
const EDGE: &str = "modulesContent";

/// What a content is.
pub(super) struct Checked {
    /// Which twins it is for.
    pub(super) source: Source,
    /// What it sets in them; none of content for IoT Edge.
    pub(super) settings: Option<Map>,
}

/// Checks a content, and says what it is; none of no content.
pub(super) fn check(content: &Map) -> Result<Option<Checked>, String> {
    if let Some(name) = content
        .keys()
        .find(|name| ![DEVICE, MODULE, EDGE].contains(&name.as_str()))
    {
        return Err(format!(
            "has `{name}`; want one of `{DEVICE}`, `{MODULE}` and `{EDGE}`"
        ));
    }
    // SDKs send those that nobody chose as null.
    let mut given = content.iter().filter(|(_, value)| !value.is_null());
    let Some((kind, value)) = given.next() else {
        return Ok(None);
    };
    if let Some((other, _)) = given.next() {
        return Err(format!(
            "has both `{kind}` and `{other}`; a configuration is for one kind of twins"
        ));
    }
    let Value::Object(object) = value else {
        return Err(format!("`{kind}` must be an object of paths"));
    };
    match kind.as_str() {
        DEVICE | MODULE => Ok(Some(Checked {
            settings: Some(check_paths(kind, object)?),
            source: if kind == DEVICE {
                Source::Devices
            } else {
                Source::Modules
            },
        })),
        _ => {
            for (module, value) in object {
                let place = format!("{EDGE}.{module}");
                let Value::Object(paths) = value else {
                    return Err(format!("`{place}` must be an object of paths"));
                };
                check_paths(&place, paths)?;
            }
            Ok(Some(Checked {
                source: Source::Devices,
                settings: None,
            }))
        }
    }
}

/// What paths set. A `null` sets nothing: it would only take something out, which is not ours to.
fn check_paths(place: &str, paths: &Map) -> Result<Map, String> {
    let mut known = BTreeSet::new();
    for path in paths.keys() {
        let keys = keys(path).ok_or_else(|| {
            format!(
                "`{place}` has the path `{path}`; want `{DESIRED}` or `{DESIRED}.` and names with \
                 dots between them"
            )
        })?;
        known.insert(keys);
    }
    let mut settings = Map::new();
    for (path, value) in paths {
        let keys = keys(path).unwrap_or_default();
        // One path inside another would leave open which of them holds.
        if (0..keys.len()).any(|length| known.contains(&keys[..length])) {
            return Err(format!(
                "`{place}` has the path `{path}` and another path above it; give each place once"
            ));
        }
        let Some(value) = without_nulls(value) else {
            continue;
        };
        if let (Value::Object(whole), []) = (&value, &keys[..]) {
            settings.clone_from(whole);
        } else if keys.is_empty() {
            return Err(format!(
                "`{place}`, `{path}` must be an object: it is the whole section"
            ));
        } else {
            put(&mut settings, &keys, value);
        }
    }
    if settings.is_empty() {
        return Ok(settings);
    }
    let judged = twin::validate_settings(&settings);
    judged.map(|()| settings).map_err(|violations| {
        let problems = explain(&violations);
        let lines = problems.iter().map(|problem| {
            let position = problem.position.as_deref().unwrap_or_default();
            format!("{position}: {}", problem.message)
        });
        format!("`{place}`: {}", lines.collect::<Vec<_>>().join("; "))
    })
}

/// The names of a path below desired.
fn keys(path: &str) -> Option<Vec<&str>> {
    let rest = path.strip_prefix(DESIRED)?;
    if rest.is_empty() {
        return Some(Vec::new());
    }
    let keys: Vec<&str> = rest.strip_prefix('.')?.split('.').collect();
    keys.iter().all(|key| !key.is_empty()).then_some(keys)
}

/// A value without what only takes something out.
fn without_nulls(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(object) => {
            let kept = object
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), without_nulls(value)?)));
            Some(Value::Object(kept.collect()))
        }
        // In an array a null is a fault, which validation names.
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Some(value.clone())
        }
    }
}

/// Puts a value at its path, which no other path is above or below.
fn put(settings: &mut Map, keys: &[&str], value: Value) {
    let Some((last, parents)) = keys.split_last() else {
        return;
    };
    let mut place = settings;
    for key in parents {
        let next = place
            .entry((*key).to_owned())
            .or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(next) = next else {
            return;
        };
        place = next;
    }
    place.insert((*last).to_owned(), value);
}
