//! From stored metadata to the public form in one pass over the text, without making the tree.
//!
//! Whoever shows twins prints metadata for each, and making the tree and the JSON values of all its
//! nodes was most of what a page of twins cost. Here every node is printed as it was parsed, and a
//! time is formatted once for all nodes that inherit it. What this reader does not understand goes to
//! the careful one, which says what is wrong.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde_json::Value;

use super::{MetadataError, NodeMeta, shows_versions};
use crate::section::SectionKind;
use crate::version::Version;
use crate::writer::Writer;

/// The public form, as JSON text, of metadata in the compact form. Keys may stand in another order
/// than in [`NodeMeta::to_public_json`]; everything else is the same.
///
/// # Errors
/// As [`NodeMeta::from_json`].
pub fn public_text(stored: &str, kind: SectionKind) -> Result<String, MetadataError> {
    if let Some(text) = quickly(stored, kind) {
        return Ok(text);
    }
    let json: Value = serde_json::from_str(stored)
        .map_err(|error| MetadataError::new(&[], format!("it is no JSON: {error}")))?;
    let tree = NodeMeta::from_json(&json)?;
    Ok(Value::Object(tree.to_public_json(kind)).to_string())
}

fn quickly(stored: &str, kind: SectionKind) -> Option<String> {
    let root: Node<'_> = serde_json::from_str(stored).ok()?;
    let nothing = Stamp {
        time: Cow::Borrowed(""),
        version: 0,
        by: Cow::Borrowed(""),
    };
    if root.t.is_none() || root.v.is_none() || root.w.is_none() {
        return None;
    }
    // Public nodes are some five times as long as stored ones.
    let mut out = String::with_capacity(stored.len() * 5);
    print(&root, &nothing, (Place::Root, kind), &mut out)?;
    Some(out)
}

/// A stored node. See the parent module for the names.
#[derive(Default)]
struct Node<'j> {
    t: Option<Text<'j>>,
    v: Option<u64>,
    w: Option<Text<'j>>,
    c: BTreeMap<Text<'j>, Node<'j>>,
}

/// A text that is borrowed unless it has escapes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Text<'j>(Cow<'j, str>);

/// What a node shows, each part its own or that of the node above.
struct Stamp<'a> {
    /// As it is printed.
    time: Cow<'a, str>,
    version: u64,
    /// As JSON.
    by: Cow<'a, str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Below,
}

/// Prints a node; none if it is damaged.
fn print(
    node: &Node<'_>,
    above: &Stamp<'_>,
    (place, kind): (Place, SectionKind),
    out: &mut String,
) -> Option<()> {
    let stamp = Stamp {
        time: match &node.t {
            None => Cow::Borrowed(&*above.time),
            // Seven digits, as in `NodeMeta::to_public_json`.
            Some(text) => Cow::Owned(format!("{:.7}", text.0.parse::<Timestamp>().ok()?)),
        },
        version: match node.v {
            None => above.version,
            Some(number) => Version::new(number).ok()?.get(),
        },
        by: match &node.w {
            None => Cow::Borrowed(&*above.by),
            Some(text) => {
                Writer::parse(&text.0).ok()?;
                Cow::Owned(serde_json::to_string(&text.0).ok()?)
            }
        },
    };
    let (time, version, by) = (&stamp.time, stamp.version, &stamp.by);
    write!(out, r#"{{"$lastUpdated":"{time}""#).ok()?;
    if shows_versions(kind) {
        write!(out, r#","$lastUpdatedVersion":{version}"#).ok()?;
    }
    if node.c.is_empty() && place == Place::Below {
        write!(out, r#","$lastUpdatedBy":{by}"#).ok()?;
    }
    for (key, child) in &node.c {
        out.push(',');
        out.push_str(&serde_json::to_string(&key.0).ok()?);
        out.push(':');
        print(child, &stamp, (Place::Below, kind), out)?;
    }
    out.push('}');
    Some(())
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;
        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a node")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Node<'de>, A::Error> {
                let mut node = Node::default();
                while let Some(name) = map.next_key::<Text<'de>>()? {
                    // `null` is no time, version, writer or object.
                    match &*name.0 {
                        "t" => node.t = Some(map.next_value()?),
                        "v" => node.v = Some(map.next_value()?),
                        "w" => node.w = Some(map.next_value()?),
                        "c" => node.c = map.next_value()?,
                        unknown => return Err(A::Error::unknown_field(unknown, &[])),
                    }
                }
                Ok(node)
            }
        }
        deserializer.deserialize_map(NodeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn stamps() -> impl Strategy<Value = (Timestamp, Version, Writer)> {
        let writers = prop_oneof![
            Just(Writer::Device),
            Just(Writer::Operator("o \"quoted\" \u{e9}".to_owned())),
            Just(Writer::Policy {
                id: "p".to_owned(),
                revision: 3,
            }),
        ];
        // Few values, so that nodes inherit some.
        (0..3_i64, 1..3_u64, writers).prop_map(|(second, version, by)| {
            let at = Timestamp::new(1_700_000_000 + second, 1_234_567).expect("a time");
            (at, Version::new(version).expect("a version"), by)
        })
    }

    fn trees() -> impl Strategy<Value = NodeMeta> {
        let leaf = stamps().prop_map(|(updated_at, version, by)| NodeMeta {
            updated_at,
            version,
            by,
            children: BTreeMap::new(),
        });
        leaf.prop_recursive(4, 30, 5, |below| {
            let keys = "[a-z\"\\\\\u{e9}\n ]{1,3}";
            let children = proptest::collection::btree_map(keys, below, 0..5);
            (stamps(), children).prop_map(|((updated_at, version, by), children)| NodeMeta {
                updated_at,
                version,
                by,
                children,
            })
        })
    }

    proptest! {
        #[test]
        fn it_says_the_same_as_the_tree(tree in trees()) {
            let stored = tree.to_json().to_string();
            for kind in [SectionKind::Desired, SectionKind::Reported] {
                let quick = quickly(&stored, kind);
                prop_assert!(quick.is_some(), "{stored}");
                let public: Value = serde_json::from_str(&quick.unwrap_or_default()).expect("JSON");
                prop_assert_eq!(public, Value::Object(tree.to_public_json(kind)));
            }
        }
    }

    #[test]
    fn what_is_damaged_is_refused_with_the_place() {
        let root = r#""t":"2026-01-01T00:00:00Z","v":1,"w":"device""#;
        let desired = SectionKind::Desired;
        let good = public_text(&format!("{{{root}}}"), desired).expect("good");
        let good: Value = serde_json::from_str(&good).expect("JSON");
        assert_eq!(
            good,
            json!({"$lastUpdated": "2026-01-01T00:00:00.0000000Z", "$lastUpdatedVersion": 1})
        );
        for (damage, said) in [
            (r#","c":{"a":{"v":0}}"#, "at /a: `v` is not a version"),
            (r#","c":{"a":{"t":null}}"#, "at /a: `t` is not a time"),
            (r#","c":{"a":{"w":"nobody"}}"#, "at /a:"),
            (r#","c":{"a":[]}"#, "at /a: the node is not an object"),
            (r#","x":1"#, "unknown field \"x\""),
            (",", "it is no JSON"),
        ] {
            let stored = format!("{{{root}{damage}}}");
            let error = public_text(&stored, desired)
                .expect_err(&stored)
                .to_string();
            assert!(error.contains(said), "{stored}: {error}");
        }
        assert!(public_text("{}", desired).is_err());
    }
}
