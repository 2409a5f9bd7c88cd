//! The same settings once more, under a new version: for a device that does not run on them although it
//! did. Who wrote a leaf stays who wrote it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Section;
use crate::Map;
use crate::metadata::NodeMeta;
use crate::version::Version;

/// What marks a component of IoT Plug and Play, and what it says.
const COMPONENT: (&str, &str) = ("__t", "c");

impl Section {
    /// This section under the next version, with these properties (`name` or `component.name`) written
    /// as they are, and the patch that says so; properties that are not there are passed over. None: there
    /// is no next version.
    pub fn repeat(&self, properties: &[String], at: Timestamp) -> Option<(Section, Map)> {
        let version = self.version.next()?;
        let mut metadata = self.metadata.clone();
        let mut patch = Map::new();
        for property in properties {
            let keys: Vec<&str> = property.split('.').collect();
            match *keys.as_slice() {
                [name] => {
                    let found = self.document.get(name).zip(metadata.children.get_mut(name));
                    if let Some((value, meta)) = found {
                        renew(meta, version, at);
                        patch.insert(name.to_owned(), value.clone());
                    }
                }
                [component, name] => {
                    let value = self.document.get(component).and_then(|it| it.get(name));
                    let Some(meta) = metadata.children.get_mut(component) else {
                        continue;
                    };
                    let found = value.zip(meta.children.get_mut(name));
                    if let Some((value, below)) = found {
                        renew(below, version, at);
                        touch(meta, version, at);
                        let (marker, says) = COMPONENT;
                        let inner = patch
                            .entry(component)
                            .or_insert_with(|| json!({ marker: says }));
                        if let Value::Object(inner) = inner {
                            inner.insert(name.to_owned(), value.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        touch(&mut metadata, version, at);
        let section = Section::from_mirrored(self.document.clone(), metadata, version);
        Some((section, patch))
    }
}

/// A node and all below it are written now.
fn renew(meta: &mut NodeMeta, version: Version, at: Timestamp) {
    touch(meta, version, at);
    for below in meta.children.values_mut() {
        renew(below, version, at);
    }
}

fn touch(meta: &mut NodeMeta, version: Version, at: Timestamp) {
    meta.version = version;
    meta.updated_at = at;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SectionKind, Stamp, Writer};

    fn map(value: &Value) -> Map {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_is_repeated_has_the_new_version_and_its_old_writer() {
        let stamp = |by: &str| Stamp {
            at: Timestamp::UNIX_EPOCH,
            by: Writer::Operator(by.to_owned()),
        };
        let first = map(&json!({"a": {"x": 1}, "b": 2}));
        let second = map(&json!({"lamp": {"__t": "c", "on": true, "color": "red"}}));
        let section = Section::new(&stamp("o"))
            .merge(&first, &stamp("ann"), SectionKind::Desired)
            .unwrap()
            .merge(&second, &stamp("bob"), SectionKind::Desired)
            .unwrap();
        let at = Timestamp::from_second(9).unwrap();
        let wanted = ["a", "lamp.on", "gone", "lamp.gone", "b.x", "a.x.y"].map(str::to_owned);
        let (repeated, patch) = section.repeat(&wanted, at).unwrap();
        assert_eq!(repeated.document(), section.document());
        assert_eq!(repeated.version().get(), 4);
        assert_eq!(
            Value::Object(patch.clone()),
            json!({"a": {"x": 1}, "lamp": {"__t": "c", "on": true}})
        );
        let version = |path: &[&str]| {
            let meta = repeated.metadata().at(path.iter().copied()).unwrap();
            (meta.version.get(), meta.by.to_string())
        };
        assert_eq!(version(&["a", "x"]), (4, "operator:ann".to_owned()));
        assert_eq!(version(&["lamp", "on"]), (4, "operator:bob".to_owned()));
        assert_eq!(version(&["lamp", "color"]), (3, "operator:bob".to_owned()));
        assert_eq!(version(&["lamp"]).0, 4);
        assert_eq!(version(&["b"]).0, 2);
        // Merged, the patch changes nothing.
        let merged = section
            .merge(&patch, &stamp("x"), SectionKind::Desired)
            .unwrap();
        assert_eq!(merged.document(), section.document());
        // Nothing in particular is the whole section, by its number alone.
        let (whole, patch) = section.repeat(&[], at).unwrap();
        assert_eq!((whole.version().get(), patch.len()), (4, 0));
    }
}
