//! Taking back what an operation wrote to one twin, path by path. Pure.
//!
//! A path is taken back only if it is as the operation left it: its value has the version of the
//! operation's write, or it is absent because the operation removed it. What somebody has written
//! since stays, and is named.

use serde_json::Value;
use twin::patch::diff_objects;
use twin::{Map, NodeMeta, Section, SectionKind};

use crate::record::{Damaged, Record};

/// How to take back one write.
#[derive(Debug, Clone, PartialEq)]
pub struct Undo {
    /// Of the identity that was written; another one of the same name was not.
    pub generation: String,
    /// Of tags; none if they were not changed.
    pub tags: Option<SectionUndo>,
    /// Of desired; none if it was not changed.
    pub desired: Option<SectionUndo>,
}

/// How to take back a write of one section.
#[derive(Debug, Clone, PartialEq)]
pub struct SectionUndo {
    /// The section's version that the write made.
    pub version: u64,
    /// Merge patch back to what was before.
    pub back: Map,
    /// Merge patch from what was before: it tells what the write removed.
    pub wrote: Map,
}

/// What can be taken back of a twin as it is now.
#[derive(Debug, Default, PartialEq)]
pub struct TakeBack {
    /// To merge into tags; empty: nothing.
    pub tags: Map,
    /// To merge into desired; empty: nothing.
    pub desired: Map,
    /// Paths that stay, and why.
    pub left: Vec<String>,
}

impl Undo {
    /// How to take back the write that made `after` of `before`.
    ///
    /// # Errors
    /// A section cannot be read; nothing but a damaged store causes it.
    pub fn of(before: &Record, after: &Record) -> Result<Undo, Damaged> {
        let (old, new) = (
            before.twin.parse(&before.key)?,
            after.twin.parse(&after.key)?,
        );
        Ok(Undo {
            generation: after.identity.generation_id.clone(),
            tags: section_undo(&old.tags, &new.tags),
            desired: section_undo(&old.desired, &new.desired),
        })
    }

    /// What can be taken back of the twin as it is now.
    ///
    /// # Errors
    /// A section cannot be read; nothing but a damaged store causes it.
    pub fn on(&self, present: &Record) -> Result<TakeBack, Damaged> {
        if present.identity.generation_id != self.generation {
            return Ok(TakeBack {
                left: vec!["the identity was created again since".to_owned()],
                ..TakeBack::default()
            });
        }
        let twin = present.twin.parse(&present.key)?;
        let mut found = TakeBack::default();
        let sections = [
            (SectionKind::Tags, &self.tags, &twin.tags),
            (SectionKind::Desired, &self.desired, &twin.desired),
        ];
        for (kind, undo, section) in sections {
            let Some(undo) = undo else { continue };
            let walk = Walk {
                version: undo.version,
                left: &mut found.left,
            };
            let patch = walk.section(kind.path(), undo, section);
            match kind {
                SectionKind::Tags => found.tags = patch,
                SectionKind::Desired | SectionKind::Reported => found.desired = patch,
            }
        }
        Ok(found)
    }
}

fn section_undo(before: &Section, after: &Section) -> Option<SectionUndo> {
    let back = diff_objects(after.document(), before.document());
    let wrote = diff_objects(before.document(), after.document());
    (!back.is_empty()).then(|| SectionUndo {
        version: after.version().get(),
        back,
        wrote,
    })
}

struct Walk<'l> {
    version: u64,
    left: &'l mut Vec<String>,
}

impl Walk<'_> {
    fn section(mut self, path: &str, undo: &SectionUndo, section: &Section) -> Map {
        self.members(
            path,
            &undo.back,
            Some(&undo.wrote),
            section.document(),
            section.metadata(),
        )
    }

    /// The part of `back` that may be applied to an object that is there.
    fn members(
        &mut self,
        path: &str,
        back: &Map,
        wrote: Option<&Map>,
        present: &Map,
        metadata: &NodeMeta,
    ) -> Map {
        let mut changes = Map::new();
        for (key, back) in back {
            let path = format!("{path}.{key}");
            let wrote = wrote.and_then(|wrote| wrote.get(key));
            let node = metadata.children.get(key);
            let allowed = self.member(&path, back, wrote, present.get(key), node);
            if let Some(value) = allowed {
                changes.insert(key.clone(), value);
            }
        }
        changes
    }

    fn member(
        &mut self,
        path: &str,
        back: &Value,
        wrote: Option<&Value>,
        present: Option<&Value>,
        metadata: Option<&NodeMeta>,
    ) -> Option<Value> {
        match (present, metadata) {
            (None, _) => match (back, wrote) {
                // Added by the write and gone since: nothing is left to be taken back.
                (Value::Null, _) => None,
                (_, Some(Value::Null)) => Some(back.clone()),
                _ => {
                    self.left.push(format!("{path} was removed since"));
                    None
                }
            },
            (Some(Value::Object(members)), Some(node))
                if !members.is_empty() && back.as_object().is_some_and(|back| !back.is_empty()) =>
            {
                let back = back.as_object()?;
                // Where the write removed the whole object, whoever made it anew wrote since.
                let wrote = wrote.and_then(Value::as_object);
                let allowed = self.members(path, back, wrote, members, node);
                (!allowed.is_empty()).then_some(Value::Object(allowed))
            }
            (Some(_), Some(node)) => {
                if let Some((at, by)) = written_since(node, self.version) {
                    let path = if at.is_empty() {
                        path.to_owned()
                    } else {
                        format!("{path}.{at}")
                    };
                    self.left.push(format!("{path} was written since, by {by}"));
                    return None;
                }
                Some(back.clone())
            }
            // The metadata mirror the data; without them nobody knows who wrote it.
            (Some(_), None) => {
                self.left.push(format!("{path} has no metadata"));
                None
            }
        }
    }
}

/// The first leaf at or below a node that does not have the version, and who wrote it.
fn written_since(node: &NodeMeta, version: u64) -> Option<(String, String)> {
    if node.children.is_empty() {
        let same = node.version.get() == version;
        return (!same).then(|| (String::new(), node.by.to_string()));
    }
    node.children.iter().find_map(|(key, child)| {
        let (at, by) = written_since(child, version)?;
        let path = if at.is_empty() {
            key.clone()
        } else {
            format!("{key}.{at}")
        };
        Some((path, by))
    })
}
