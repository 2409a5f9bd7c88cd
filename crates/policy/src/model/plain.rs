//! The plain model: conditions, policies and what they make of a twin, as simply as it can be said.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use twin::Map;

use crate::policy_doc::{PolicySpec, Scope};
use crate::rollout::{StrategySpec, WaveSpec};
use crate::schedule::{ScheduleSpec, WindowSpec};

/// Keys from the root of a section.
pub(super) type Path = Vec<String>;

/// What a condition looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Tag(usize),
    Reported(usize),
    Posture(usize),
    /// A desired key that only policies of lower layers and operators set.
    Desired(usize),
    Enabled,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cond {
    Always,
    Is(Place, i64),
    Above(Place, i64),
    There(Place),
    Missing(Place),
    Both(Box<Cond>, Box<Cond>),
    Either(Box<Cond>, Box<Cond>),
}

/// What the model knows of a twin beside desired.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub tags: [Option<i64>; 2],
    pub reported: [Option<i64>; 2],
    pub posture: [Option<i64>; 2],
    pub disabled: bool,
}

impl Place {
    fn text(self) -> String {
        match self {
            Place::Tag(n) => format!("tags.t{n}"),
            Place::Reported(n) => format!("reported.r{n}"),
            Place::Posture(n) => format!("posture.p{n}"),
            Place::Desired(n) => format!("desired.k{n}"),
            Place::Enabled => "status".to_owned(),
        }
    }

    fn read(self, facts: &Facts, desired: &Tree) -> Option<i64> {
        match self {
            Place::Tag(n) => facts.tags[n],
            Place::Reported(n) => facts.reported[n],
            Place::Posture(n) => facts.posture[n],
            Place::Desired(n) => match desired.get(&[format!("k{n}")][..]) {
                Some(Node::Leaf(value, _)) => value.as_i64(),
                Some(Node::Object(_)) | None => None,
            },
            Place::Enabled => None,
        }
    }

    /// Whether anything is there, an object too.
    fn is_there(self, facts: &Facts, desired: &Tree) -> bool {
        match self {
            Place::Desired(n) => desired.contains_key(&[format!("k{n}")][..]),
            Place::Enabled => true,
            Place::Tag(_) | Place::Reported(_) | Place::Posture(_) => {
                self.read(facts, desired).is_some()
            }
        }
    }
}

impl Cond {
    /// In the query language.
    pub(super) fn text(&self) -> String {
        match self {
            Cond::Always => "(1 = 1)".to_owned(),
            Cond::Is(Place::Enabled, n) => format!("status = '{}'", status(*n != 0)),
            Cond::Is(place, n) => format!("{} = {n}", place.text()),
            Cond::Above(place, n) => format!("{} > {n}", place.text()),
            Cond::There(place) => format!("IS_DEFINED({})", place.text()),
            Cond::Missing(place) => format!("NOT IS_DEFINED({})", place.text()),
            Cond::Both(a, b) => format!("({} AND {})", a.text(), b.text()),
            Cond::Either(a, b) => format!("({} OR {})", a.text(), b.text()),
        }
    }

    pub(super) fn holds(&self, facts: &Facts, desired: &Tree) -> bool {
        match self {
            Cond::Always => true,
            Cond::Is(Place::Enabled, n) => facts.disabled == (*n != 0),
            Cond::Is(place, n) => place.read(facts, desired) == Some(*n),
            Cond::Above(place, n) => place.read(facts, desired).is_some_and(|found| found > *n),
            Cond::There(place) => place.is_there(facts, desired),
            Cond::Missing(place) => !place.is_there(facts, desired),
            Cond::Both(a, b) => a.holds(facts, desired) && b.holds(facts, desired),
            Cond::Either(a, b) => a.holds(facts, desired) || b.holds(facts, desired),
        }
    }
}

/// How a disabled or enabled identity's status is written.
pub(super) fn status(disabled: bool) -> &'static str {
    if disabled { "disabled" } else { "enabled" }
}

/// A policy's content.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Content {
    pub modules: bool,
    pub priority: i32,
    pub target: Cond,
    pub when: Option<Cond>,
    pub settings: Map,
    /// Waves, if it is rolled out.
    pub waves: Option<Vec<Wave>>,
    /// When it may change twins.
    pub hours: Option<Hours>,
    /// What has no effect on twins.
    pub words: u8,
}

/// The hours of a policy, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hours {
    /// From one hour of each day to another, perhaps of the next.
    Window(u32, u32),
    /// It ends with this day of January 2026.
    Expires(i8),
}

/// What the times of a policy come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    Open,
    /// What it has set stays, and nothing is added.
    Closed,
    /// It is as if there were none.
    Over,
}

impl Hours {
    fn spec(self) -> ScheduleSpec {
        match self {
            Hours::Window(from, to) => ScheduleSpec {
                windows: vec![WindowSpec {
                    from: format!("{from:02}:00"),
                    to: format!("{to:02}:00"),
                    ..WindowSpec::default()
                }],
                ..ScheduleSpec::default()
            },
            Hours::Expires(day) => ScheduleSpec {
                expires: format!("2026-01-{day:02}"),
                ..ScheduleSpec::default()
            },
        }
    }

    /// At so many hours after the beginning of January 2026.
    pub(super) fn at(self, hours: u32) -> Times {
        match self {
            Hours::Window(from, to) => {
                let hour = hours % 24;
                let is_in = if from < to {
                    from <= hour && hour < to
                } else {
                    from <= hour || hour < to
                };
                if is_in { Times::Open } else { Times::Closed }
            }
            Hours::Expires(day) if i64::from(hours / 24) >= i64::from(day) => Times::Over,
            Hours::Expires(_) => Times::Open,
        }
    }
}

/// A wave of a strategy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wave {
    Count(u64),
    Where(Cond),
}

impl Content {
    pub(super) fn spec(&self, id: &str) -> PolicySpec {
        let mut last = 0;
        let waves = self.waves.as_ref().map(|waves| {
            let waves = waves.iter().map(|wave| match wave {
                // Each counts the waves before it.
                Wave::Count(more) => {
                    last += more;
                    WaveSpec::Count(last)
                }
                Wave::Where(condition) => WaveSpec::Where(condition.text()),
            });
            waves.collect()
        });
        PolicySpec {
            id: id.to_owned(),
            description: "x".repeat(usize::from(self.words)),
            scope: if self.modules {
                Scope::Modules
            } else {
                Scope::Devices
            },
            target: self.target.text(),
            when: self.when.as_ref().map(Cond::text).unwrap_or_default(),
            priority: self.priority,
            settings: self.settings.clone(),
            rollout: waves.map(|waves| StrategySpec {
                waves,
                soak: service_kit::units::Duration::secs(0),
                ..StrategySpec::default()
            }),
            schedule: self.hours.map(Hours::spec),
            ..PolicySpec::default()
        }
    }

    /// Whether its conditions hold.
    fn is_for(&self, facts: &Facts, desired: &Tree) -> bool {
        let when = self.when.as_ref();
        self.target.holds(facts, desired) && when.is_none_or(|when| when.holds(facts, desired))
    }

    /// Whether it gives a twin its settings: its conditions hold, and there is all that templates name.
    pub(super) fn gives(&self, facts: &Facts, desired: &Tree) -> bool {
        self.is_for(facts, desired) && fill(&self.settings, facts).is_some()
    }

    /// Whether both do the same to twins.
    pub(super) fn acts_as(&self, other: &Content) -> bool {
        let worded = Content {
            words: other.words,
            waves: other.waves.clone(),
            hours: other.hours,
            ..self.clone()
        };
        worded == *other
    }
}

/// What stands at a path of desired.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// A value, and who wrote it.
    Leaf(Value, String),
    /// An object, and who made it.
    Object(String),
}

/// A desired section: every path that there is.
pub(super) type Tree = BTreeMap<Path, Node>;

/// One revision that applies or does not: what the model needs of it.
pub(super) struct InForce<'a> {
    pub writer: String,
    pub content: &'a Content,
    /// Its place: priority, then the order of creation.
    pub rank: (i32, u64),
}

/// What operators and these revisions make of a desired section, from scratch. Conditions look at the
/// result, so it is computed until it stays; they look at lower layers only, so that it does.
pub(super) fn desired(operators: &Tree, facts: &Facts, mut revisions: Vec<InForce<'_>>) -> Tree {
    revisions.sort_by_key(|one| std::cmp::Reverse(one.rank));
    let mut present = operators.clone();
    for _ in 0..10 {
        let mut next = operators.clone();
        for one in &revisions {
            let content = one.content;
            if content.is_for(facts, &present)
                && let Some(settings) = fill(&content.settings, facts)
            {
                claim(&mut next, &settings, &one.writer);
            }
        }
        if next == present {
            return present;
        }
        present = next;
    }
    panic!("the model's conditions look at each other");
}

/// The settings of a twin: templates filled in; none if it lacks what one names.
fn fill(settings: &Map, facts: &Facts) -> Option<Map> {
    let filled = settings
        .iter()
        .map(|(key, value)| Some((key.clone(), fill_value(value, facts)?)));
    filled.collect()
}

fn fill_value(value: &Value, facts: &Facts) -> Option<Value> {
    match value {
        Value::Object(inner) => fill(inner, facts).map(Value::Object),
        Value::String(text) => {
            let named = [
                ("{{tags.t0}}", facts.tags[0]),
                ("{{tags.t1}}", facts.tags[1]),
                ("{{reported.r0}}", facts.reported[0]),
                ("{{reported.r1}}", facts.reported[1]),
            ];
            let mut filled = text.clone();
            for (name, found) in named {
                if text == name {
                    return found.map(Value::from);
                }
                if text.contains(name) {
                    filled = filled.replace(name, &found?.to_string());
                }
            }
            Some(filled.into())
        }
        // Templates of the model stand in no list.
        _ => Some(value.clone()),
    }
}

fn claim(tree: &mut Tree, settings: &Map, writer: &str) {
    for (path, value) in leaves(settings) {
        let above = (1..path.len()).map(|length| &path[..length]);
        let blocked = above
            .clone()
            .any(|path| matches!(tree.get(path), Some(Node::Leaf(..))));
        if blocked || tree.contains_key(&path) {
            continue;
        }
        for path in above {
            let object = || Node::Object(writer.to_owned());
            tree.entry(path.to_vec()).or_insert_with(object);
        }
        let node = if value.is_object() {
            Node::Object(writer.to_owned())
        } else {
            Node::Leaf(value, writer.to_owned())
        };
        tree.insert(path, node);
    }
}

/// The values of an object and its empty objects, by path.
pub(super) fn leaves(object: &Map) -> Vec<(Path, Value)> {
    let mut found = Vec::new();
    for (key, value) in object {
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                for (mut path, value) in leaves(inner) {
                    path.insert(0, key.clone());
                    found.push((path, value));
                }
            }
            _ => found.push((vec![key.clone()], value.clone())),
        }
    }
    found
}

/// The document of a tree.
pub(super) fn document(tree: &Tree) -> Value {
    let mut root = json!({});
    for (path, node) in tree {
        let place = path[..path.len() - 1]
            .iter()
            .fold(&mut root, |object, key| &mut object[key]);
        place[&path[path.len() - 1]] = match node {
            Node::Leaf(value, _) => value.clone(),
            Node::Object(_) => json!({}),
        };
    }
    root
}

/// What of a tree is said in public: who wrote each leaf and each empty object.
pub(super) fn writers(tree: &Tree) -> BTreeSet<(Path, String)> {
    let is_empty = |path: &Path| {
        !tree
            .keys()
            .any(|other| other.len() > path.len() && other.starts_with(path))
    };
    let said = tree.iter().filter_map(|(path, node)| match node {
        Node::Leaf(_, writer) => Some((path.clone(), writer.clone())),
        Node::Object(writer) => is_empty(path).then(|| (path.clone(), writer.clone())),
    });
    said.collect()
}
