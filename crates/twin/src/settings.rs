//! What policies make of a desired section.
//!
//! The result depends on two things alone: what operators wrote, and the ordered list of what
//! policies want now. It does not depend on what policies wanted before, so a lost, repeated or
//! late evaluation ends in the same document.
//!
//! Three steps: take out what policies wrote, put in what they want now, and compare with what is
//! there. Only a leaf whose value or author differs is written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::Map;
use crate::metadata::{Mark, NodeMeta};
use crate::section::{Section, SectionKind};
use crate::validate::{Judge, Violations, WriteForm};
use crate::version::Version;
use crate::writer::Writer;

/// What one revision of one policy wants on one twin.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyWrite {
    /// The policy's id; `configuration:<id>` for a configuration of IoT Hub.
    pub policy: String,
    /// The revision of the policy that wants it; of no matter for a configuration.
    pub revision: u64,
    /// The desired leaves, as an object without `null`.
    pub settings: Map,
}

impl PolicyWrite {
    /// The author of the leaves that this write sets.
    pub fn writer(&self) -> Writer {
        if let Some(id) = self.policy.strip_prefix(Writer::CONFIGURATION) {
            return Writer::Configuration(id.to_owned());
        }
        Writer::Policy {
            id: self.policy.clone(),
            revision: self.revision,
        }
    }
}

/// A leaf that a policy wanted and did not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostLeaf {
    /// Keys from the section's root.
    pub path: Vec<String>,
    /// The policy that wanted it.
    pub writer: Writer,
    /// Who holds the place: an operator, or a policy of higher precedence.
    pub winner: Writer,
    /// Whether the place holds what the policy wanted all the same.
    pub same_value: bool,
}

/// What [`apply_policy_settings`] decided.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyOutcome {
    /// What became of the section.
    pub change: PolicyChange,
    /// Leaves that policies did not get, in order of precedence and path.
    pub lost: Vec<LostLeaf>,
}

/// What became of the section.
#[derive(Debug, Clone, PartialEq)]
pub enum PolicyChange {
    /// Everything holds already; nothing must be written.
    Unchanged,
    /// The section must be written.
    Changed {
        /// The new section, one version on.
        section: Box<Section>,
        /// What the device is told: changed leaves, and `null` for what was taken out.
        patch: Map,
    },
}

/// Whether a document can be a policy's settings: the rules of a desired patch, and no `null`.
pub fn validate_settings(settings: &Map) -> Result<(), Violations> {
    let mut judge = Judge::of(settings, SectionKind::Desired, WriteForm::Settings);
    if !judge.too_deep() {
        judge.size(&Map::new(), settings);
    }
    judge.verdict()
}

/// Computes the desired section that `writes`, in order of precedence (the first wins), lead to.
///
/// - What an operator wrote is never overwritten, and no object that an operator named is
///   replaced by a value.
/// - What a policy wrote and no write wants any more is taken out, and with it the objects that
///   only policies needed.
/// - Where one write wants a value and another an object, the first wins as well.
/// - The version rises by one if anything changed, and a leaf that changed carries its own writer.
pub fn apply_policy_settings(
    desired: &Section,
    writes: &[PolicyWrite],
    at: Timestamp,
) -> Result<PolicyOutcome, Violations> {
    for write in writes {
        validate_settings(&write.settings)?;
    }
    let mut wanted = without_policies(desired.document(), desired.metadata());
    let mut lost = Vec::new();
    for write in writes {
        let mut claim = Claim {
            writer: write.writer(),
            path: Vec::new(),
            lost: &mut lost,
        };
        claim.object(&mut wanted, &write.settings);
    }

    let kind = SectionKind::Desired;
    let nothing = Map::new();
    let mut judge = Judge::of(&nothing, kind, WriteForm::Settings);
    let Some(version) = desired.version().next() else {
        judge.write_count();
        return Err(judge.verdict().expect_err("a breach was just noted"));
    };
    let mut build = Build::default();
    build.object(
        &wanted,
        Some((desired.document(), desired.metadata())),
        at,
        version,
    );
    if !build.changed {
        return Ok(PolicyOutcome {
            change: PolicyChange::Unchanged,
            lost,
        });
    }
    judge.size(desired.document(), &build.document);
    judge.verdict()?;
    let metadata = NodeMeta {
        updated_at: at,
        version,
        by: desired.metadata().by.clone(),
        children: build.metadata,
    };
    let section = Box::new(Section::from_mirrored(build.document, metadata, version));
    Ok(PolicyOutcome {
        change: PolicyChange::Changed {
            section,
            patch: build.patch,
        },
        lost,
    })
}

/// The section on its way: each leaf with the writer it shall have.
enum Wanted {
    Leaf {
        value: Value,
        writer: Writer,
    },
    Object {
        maker: Writer,
        members: BTreeMap<String, Wanted>,
    },
}

/// What is left without anything that policies wrote.
fn without_policies(document: &Map, meta: &NodeMeta) -> BTreeMap<String, Wanted> {
    let mut kept = BTreeMap::new();
    for (key, value) in document {
        let Some(node) = meta.children.get(key) else {
            continue;
        };
        let member = match value {
            Value::Object(object) => {
                let members = without_policies(object, node);
                if members.is_empty() && node.by.is_policy() {
                    continue;
                }
                Wanted::Object {
                    maker: node.by.clone(),
                    members,
                }
            }
            _ if node.by.is_policy() => continue,
            _ => Wanted::Leaf {
                value: value.clone(),
                writer: node.by.clone(),
            },
        };
        kept.insert(key.clone(), member);
    }
    kept
}

/// One policy's claim to places that nobody of higher precedence holds.
struct Claim<'a> {
    writer: Writer,
    path: Vec<String>,
    lost: &'a mut Vec<LostLeaf>,
}

impl Claim<'_> {
    fn object(&mut self, members: &mut BTreeMap<String, Wanted>, settings: &Map) {
        for (key, value) in settings {
            self.path.push(key.clone());
            self.member(members, key, value);
            self.path.pop();
        }
    }

    fn member(&mut self, members: &mut BTreeMap<String, Wanted>, key: &str, value: &Value) {
        match (members.get_mut(key), value) {
            (None, Value::Object(object)) => {
                let mut inner = BTreeMap::new();
                self.object(&mut inner, object);
                let maker = self.writer.clone();
                members.insert(
                    key.to_owned(),
                    Wanted::Object {
                        maker,
                        members: inner,
                    },
                );
            }
            (None, leaf) => {
                let writer = self.writer.clone();
                members.insert(
                    key.to_owned(),
                    Wanted::Leaf {
                        value: leaf.clone(),
                        writer,
                    },
                );
            }
            (Some(Wanted::Object { members, .. }), Value::Object(object)) => {
                self.object(members, object);
            }
            (Some(Wanted::Object { maker, .. }), _) => {
                let winner = maker.clone();
                self.lose(value, &winner, None);
            }
            (
                Some(Wanted::Leaf {
                    value: held,
                    writer,
                }),
                _,
            ) => {
                let (held, winner) = (held.clone(), writer.clone());
                self.lose(value, &winner, Some(&held));
            }
        }
    }

    /// Every leaf of `value` is lost.
    fn lose(&mut self, value: &Value, winner: &Writer, held: Option<&Value>) {
        match value {
            Value::Object(object) if !object.is_empty() => {
                for (key, value) in object {
                    self.path.push(key.clone());
                    self.lose(value, winner, None);
                    self.path.pop();
                }
            }
            _ => self.lost.push(LostLeaf {
                path: self.path.clone(),
                writer: self.writer.clone(),
                winner: winner.clone(),
                same_value: held == Some(value),
            }),
        }
    }
}

/// The new object and how it differs from the one that is there.
#[derive(Default)]
struct Build {
    document: Map,
    metadata: BTreeMap<String, NodeMeta>,
    patch: Map,
    changed: bool,
}

impl Build {
    fn object(
        &mut self,
        wanted: &BTreeMap<String, Wanted>,
        old: Option<(&Map, &NodeMeta)>,
        at: Timestamp,
        version: Version,
    ) {
        for (key, member) in wanted {
            let there = old
                .and_then(|(document, meta)| Some((document.get(key)?, meta.children.get(key)?)));
            match member {
                Wanted::Leaf { value, writer } => {
                    let mark = Mark {
                        at,
                        by: writer,
                        version,
                    };
                    self.leaf(key, value, there, &mark);
                }
                Wanted::Object { maker, members } => {
                    let below = match there {
                        Some((Value::Object(object), node)) => Some((object, node)),
                        _ => None,
                    };
                    let mut inner = Build::default();
                    inner.object(members, below, at, version);
                    self.nested(
                        key,
                        inner,
                        below,
                        &Mark {
                            at,
                            by: maker,
                            version,
                        },
                    );
                }
            }
        }
        let gone = old.iter().flat_map(|(document, _)| document.keys());
        for key in gone.filter(|key| !wanted.contains_key(*key)) {
            self.patch.insert(key.clone(), Value::Null);
            self.changed = true;
        }
    }

    fn leaf(
        &mut self,
        key: &str,
        value: &Value,
        there: Option<(&Value, &NodeMeta)>,
        mark: &Mark<'_>,
    ) {
        let node = match there {
            Some((old, node)) if old == value && node.by == *mark.by => node.clone(),
            _ => {
                self.patch.insert(key.to_owned(), value.clone());
                self.changed = true;
                NodeMeta::leaf(mark)
            }
        };
        self.document.insert(key.to_owned(), value.clone());
        self.metadata.insert(key.to_owned(), node);
    }

    /// Puts a finished object in. `below` is the object that is there now.
    fn nested(
        &mut self,
        key: &str,
        inner: Build,
        below: Option<(&Map, &NodeMeta)>,
        mark: &Mark<'_>,
    ) {
        // The maker of an empty object is all there is to it, so it counts as a leaf's writer; the
        // maker of any other matters only for whether a policy made it, which cannot have changed.
        let holds = match below {
            Some((_, node)) => {
                !inner.changed && (!inner.document.is_empty() || node.by == *mark.by)
            }
            None => false,
        };
        let node = match below {
            Some((_, node)) if holds => node.clone(),
            _ => {
                self.patch
                    .insert(key.to_owned(), Value::Object(inner.patch));
                self.changed = true;
                NodeMeta {
                    children: inner.metadata,
                    ..NodeMeta::leaf(mark)
                }
            }
        };
        self.document
            .insert(key.to_owned(), Value::Object(inner.document));
        self.metadata.insert(key.to_owned(), node);
    }
}

#[cfg(test)]
mod tests;
