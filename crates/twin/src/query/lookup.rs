//! Where a query finds the values that its paths name.
//!
//! A query asks for a part of a twin only when it comes to a path into it, so that a store can keep
//! sections as text and parse only those that are looked at: [`LazyTwin`] does.

use std::cell::{Cell, OnceCell};
use std::fmt;

use serde_json::Value;

use super::TwinView;
use super::ast::Attribute;
use super::datum::Datum;
use crate::Map;
use crate::metadata::NodeMeta;
use crate::section::SectionKind;

/// A twin as a query sees it.
pub trait Lookup {
    /// An attribute beside the sections; undefined if this twin has none.
    fn attribute(&self, attribute: Attribute) -> Datum<'_>;

    /// The document of a section, without `$metadata` and `$version`.
    fn section(&self, kind: SectionKind) -> Option<&Map>;

    /// The `$version` of a section. Of tags nothing shows it.
    fn section_version(&self, kind: SectionKind) -> Option<u64>;

    /// The `$metadata` of a section; none if this view does not hold it.
    fn section_metadata(&self, kind: SectionKind) -> Option<&NodeMeta>;

    /// `posture`; none or `null` before the first event.
    fn posture(&self) -> Option<&Value>;

    /// On a module's twin the tags of its device; none on a device's own.
    fn device_tags(&self) -> Option<&Map>;

    /// Told that a condition is undecided, because judging this twin took too many steps. Nothing
    /// needs to be done about it: the condition does not hold then.
    fn give_up(&self) {}
}

impl Lookup for TwinView<'_> {
    fn attribute(&self, attribute: Attribute) -> Datum<'_> {
        match attribute {
            Attribute::DeviceId => Datum::text(self.device_id),
            Attribute::ModuleId => Datum::optional_text(self.module_id),
            Attribute::Status => Datum::text(self.status),
            // What changes of a twin do not carry, and conditions over them may not name.
            Attribute::Etag
            | Attribute::Version
            | Attribute::DeviceEtag
            | Attribute::StatusReason
            | Attribute::StatusUpdateTime
            | Attribute::ConnectionState
            | Attribute::LastActivityTime
            | Attribute::CloudToDeviceMessageCount
            | Attribute::AuthenticationType
            | Attribute::X509Thumbprint
            | Attribute::ModelId
            | Attribute::DeviceScope
            | Attribute::ParentScopes
            | Attribute::Capabilities
            | Attribute::Configurations
            | Attribute::GenerationId
            | Attribute::CreateTime
            | Attribute::UpdateTime => Datum::Undefined,
        }
    }

    fn section(&self, kind: SectionKind) -> Option<&Map> {
        Some(match kind {
            SectionKind::Tags => self.tags,
            SectionKind::Desired => self.desired,
            SectionKind::Reported => self.reported,
        })
    }

    fn section_version(&self, kind: SectionKind) -> Option<u64> {
        match kind {
            SectionKind::Tags => None,
            SectionKind::Desired => Some(self.desired_version),
            SectionKind::Reported => Some(self.reported_version),
        }
    }

    fn section_metadata(&self, _kind: SectionKind) -> Option<&NodeMeta> {
        None
    }

    fn posture(&self) -> Option<&Value> {
        Some(self.posture)
    }

    fn device_tags(&self) -> Option<&Map> {
        self.device_tags
    }
}

/// A stored section: texts that are parsed when they are first asked for.
pub struct LazySection<'a> {
    document: Lazy<'a, Map>,
    metadata: Lazy<'a, NodeMeta>,
    version: u64,
}

impl<'a> LazySection<'a> {
    /// A section as a store keeps it: its document, its metadata in the compact form of
    /// [`NodeMeta::to_json`], and its version.
    pub fn new(document: &'a str, metadata: &'a str, version: u64) -> LazySection<'a> {
        LazySection {
            document: Lazy::new(document),
            metadata: Lazy::new(metadata),
            version,
        }
    }
}

/// A stored twin. Nothing is parsed before a query asks for it, and then once.
///
/// A text that cannot be parsed is undefined to the query, and noted: ask [`LazyTwin::damage`]
/// after evaluating, because a damaged twin has to be reported and not to be passed over. The same
/// goes for a condition that took too many steps ([`LazyTwin::is_undecided`]).
pub struct LazyTwin<'a, A> {
    /// Gives the attributes.
    pub attributes: A,
    /// `tags`; its version is never shown.
    pub tags: LazySection<'a>,
    /// `properties.desired`
    pub desired: LazySection<'a>,
    /// `properties.reported`
    pub reported: LazySection<'a>,
    /// `posture`
    pub posture: LazyPosture<'a>,
    /// The document of `device.tags`; none on a device's own twin.
    pub device_tags: Option<LazyTags<'a>>,
    /// Whether judging it took too many steps; false at first.
    pub undecided: Cell<bool>,
}

/// The tags of a module's device, as text.
pub struct LazyTags<'a>(Lazy<'a, Map>);

impl<'a> LazyTags<'a> {
    /// Tags kept as JSON text.
    pub fn new(document: &'a str) -> LazyTags<'a> {
        LazyTags(Lazy::new(document))
    }
}

/// A posture: a text, or a value that its owner has at hand.
pub struct LazyPosture<'a>(PostureSource<'a>);

enum PostureSource<'a> {
    Text(Lazy<'a, Value>),
    Made(Box<dyn Fn() -> Value + 'a>, OnceCell<Value>),
}

impl<'a> LazyPosture<'a> {
    /// A posture kept as JSON text.
    pub fn from_text(text: &'a str) -> LazyPosture<'a> {
        LazyPosture(PostureSource::Text(Lazy::new(text)))
    }

    /// A posture kept as something else, and how its JSON is made of it.
    pub fn from_fn(make: impl Fn() -> Value + 'a) -> LazyPosture<'a> {
        LazyPosture(PostureSource::Made(Box::new(make), OnceCell::new()))
    }

    fn get(&self) -> Option<&Value> {
        match &self.0 {
            PostureSource::Text(text) => text.get_parsed(|text| match text {
                // Before the first event a store keeps no text at all.
                "" => Ok(Value::Null),
                _ => serde_json::from_str(text).map_err(|error| error.to_string()),
            }),
            PostureSource::Made(make, kept) => Some(kept.get_or_init(make)),
        }
    }
}

impl<'a, A> LazyTwin<'a, A> {
    /// Whether judging it by a condition took too many steps, so that it may match or not.
    pub fn is_undecided(&self) -> bool {
        self.undecided.get()
    }

    /// The first part that was asked for and could not be parsed, and why.
    pub fn damage(&self) -> Option<Damage> {
        let parts = [
            ("tags", &self.tags),
            ("properties.desired", &self.desired),
            ("properties.reported", &self.reported),
        ];
        for (part, section) in parts {
            if let Some(problem) = section.document.problem() {
                return Some(Damage { part, problem });
            }
            if let Some(problem) = section.metadata.problem() {
                let problem = format!("$metadata: {problem}");
                return Some(Damage { part, problem });
            }
        }
        let device_tags = self.device_tags.as_ref();
        if let Some(problem) = device_tags.and_then(|tags| tags.0.problem()) {
            let part = "device.tags";
            return Some(Damage { part, problem });
        }
        let PostureSource::Text(posture) = &self.posture.0 else {
            return None;
        };
        let part = "posture";
        posture.problem().map(|problem| Damage { part, problem })
    }

    fn part(&self, kind: SectionKind) -> &LazySection<'a> {
        match kind {
            SectionKind::Tags => &self.tags,
            SectionKind::Desired => &self.desired,
            SectionKind::Reported => &self.reported,
        }
    }
}

impl<'a, A> Lookup for LazyTwin<'a, A>
where
    A: Fn(Attribute) -> Datum<'a>,
{
    fn attribute(&self, attribute: Attribute) -> Datum<'_> {
        (self.attributes)(attribute)
    }

    fn section(&self, kind: SectionKind) -> Option<&Map> {
        self.part(kind)
            .document
            .get_parsed(|text| serde_json::from_str(text).map_err(|error| error.to_string()))
    }

    fn section_version(&self, kind: SectionKind) -> Option<u64> {
        match kind {
            SectionKind::Tags => None,
            SectionKind::Desired | SectionKind::Reported => Some(self.part(kind).version),
        }
    }

    fn section_metadata(&self, kind: SectionKind) -> Option<&NodeMeta> {
        self.part(kind)
            .metadata
            .get(|json| NodeMeta::from_json(json).map_err(|error| error.to_string()))
    }

    fn posture(&self) -> Option<&Value> {
        self.posture.get()
    }

    fn device_tags(&self) -> Option<&Map> {
        let tags = self.device_tags.as_ref()?;
        tags.0
            .get_parsed(|text| serde_json::from_str(text).map_err(|error| error.to_string()))
    }

    fn give_up(&self) {
        self.undecided.set(true);
    }
}

/// A stored part that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part} cannot be read: {problem}")]
pub struct Damage {
    /// Which part, by its path from the twin's root.
    pub part: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// A text and, once asked for, what it says.
struct Lazy<'a, T> {
    text: &'a str,
    parsed: OnceCell<Result<T, String>>,
}

impl<'a, T> Lazy<'a, T> {
    fn new(text: &'a str) -> Lazy<'a, T> {
        Lazy {
            text,
            parsed: OnceCell::new(),
        }
    }

    fn get(&self, read: impl FnOnce(&Value) -> Result<T, String>) -> Option<&T> {
        self.get_parsed(|text| {
            let json = serde_json::from_str(text).map_err(|error| error.to_string())?;
            read(&json)
        })
    }

    fn get_parsed(&self, read: impl FnOnce(&str) -> Result<T, String>) -> Option<&T> {
        self.parsed.get_or_init(|| read(self.text)).as_ref().ok()
    }

    fn problem(&self) -> Option<String> {
        self.parsed.get()?.as_ref().err().cloned()
    }
}

impl<T> fmt::Debug for Lazy<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Documents may hold what no log should.
        write!(f, "Lazy({} bytes)", self.text.len())
    }
}
