//! One part of a condition's `AND`, and what can serve it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use twin::query::ast::{Attribute, CompareOp, Expr, Function, Literal, MemberOp, Path, Root, Set};

use super::condition::{self, Scope};
use super::fragment::{Builder, Dialect, Residual};
use super::operand;
use super::span::{Found, Span};
use crate::index;

/// A part of a condition.
#[derive(Debug, Clone)]
pub(super) struct Conjunct<'s> {
    pub(super) expr: &'s Expr,
    pub(super) serving: Serving,
    /// What `NOW()` stands for.
    now: Timestamp,
    /// SQL decides it as it stands.
    compiles: bool,
}

/// What decides a conjunct, or finds candidates for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Serving {
    /// The device is one of these.
    Devices(BTreeSet<String>),
    /// The device's id begins so.
    Prefix(String),
    /// The table of searched values.
    Index(Probes),
    /// Nothing: rows are looked into.
    Rows,
}

/// Values in the index, any of which may be there.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Probes {
    /// Values by their paths.
    pub(super) values: BTreeMap<String, BTreeSet<String>>,
    /// Ranges of values by their paths.
    pub(super) spans: BTreeMap<String, Vec<Span>>,
    /// Whether an entry means that the conjunct holds, and not only that it may.
    pub(super) exact: bool,
}

impl<'s> Conjunct<'s> {
    pub(super) fn new(expr: &'s Expr, dialect: Dialect, now: Timestamp) -> Conjunct<'s> {
        let mut conjunct = Conjunct {
            expr,
            serving: Serving::of(expr, now),
            now,
            compiles: false,
        };
        conjunct.compiles = conjunct.truth(&mut Builder::new(dialect)).is_ok();
        conjunct
    }

    /// The conjunct as a condition on a row.
    pub(super) fn truth(&self, sql: &mut Builder) -> Result<String, Residual> {
        let scope = Scope {
            members: &[],
            now: self.now,
        };
        condition::truth(self.expr, &scope, sql)
    }

    /// The probes, if they are of a single range.
    fn span(&mut self) -> Option<&mut Probes> {
        match &mut self.serving {
            Serving::Index(probes) if probes.only().is_some() => Some(probes),
            _ => None,
        }
    }

    /// Whether the store decides it.
    pub(super) fn is_decided(&self) -> bool {
        self.compiles || self.is_served()
    }

    /// Whether a key or an index decides it, without a look into the row.
    pub(super) fn is_served(&self) -> bool {
        match &self.serving {
            Serving::Devices(_) | Serving::Prefix(_) => true,
            Serving::Index(probes) => probes.exact,
            Serving::Rows => false,
        }
    }

    /// Whether the row itself can decide it.
    pub(super) fn compiles(&self) -> bool {
        self.compiles
    }

    pub(super) fn probes(&self) -> Option<&Probes> {
        match &self.serving {
            Serving::Index(probes) => Some(probes),
            Serving::Devices(_) | Serving::Prefix(_) | Serving::Rows => None,
        }
    }
}

/// Gives conjuncts that ask for ranges under one path what lies in all of them: of two bounds each
/// alone may leave nearly everything.
pub(super) fn narrow(conjuncts: &mut [Conjunct<'_>]) {
    for place in 0..conjuncts.len() {
        let (before, rest) = conjuncts.split_at_mut(place);
        let Some(probes) = rest.first_mut().and_then(Conjunct::span) else {
            continue;
        };
        for other in before.iter_mut().filter_map(Conjunct::span) {
            let (Some((path, span)), Some((own, with))) = (other.only(), probes.only()) else {
                continue;
            };
            let met = if path == own { span.meet(with) } else { None };
            if let Some(met) = met {
                let met = Probes {
                    spans: [(path.to_owned(), vec![met])].into(),
                    exact: other.exact && probes.exact,
                    ..Probes::default()
                };
                other.clone_from(&met);
                *probes = met;
            }
        }
    }
}

impl Serving {
    fn of(expr: &Expr, now: Timestamp) -> Serving {
        if let Some(devices) = devices(expr) {
            return Serving::Devices(devices);
        }
        if let Some(prefix) = prefix(expr) {
            return Serving::Prefix(prefix);
        }
        match probes(expr, now) {
            Some(probes) => Serving::Index(probes),
            None => Serving::Rows,
        }
    }
}

impl Probes {
    /// Whether nearly every twin may have such a value, so that going through the rows is as good.
    pub(super) fn is_weak(&self) -> bool {
        let has = |path: &str, value: &str| {
            let values = self.values.get(path);
            values.is_some_and(|values| values.contains(value))
        };
        has(index::STATUS, "s:enabled")
            || has(index::CONFIGURATION_STATE, "s:applied")
            || has(index::CONFIGURATION_STATE, "s:none")
    }

    /// The one range that is asked for.
    fn only(&self) -> Option<(&str, &Span)> {
        let mut spans = self.spans.iter();
        match (spans.next(), spans.next()) {
            (Some((path, spans)), None) if self.values.is_empty() => match spans.as_slice() {
                [span] => Some((path, span)),
                _ => None,
            },
            _ => None,
        }
    }

    fn join(mut self, other: Probes) -> Probes {
        for (path, values) in other.values {
            self.values.entry(path).or_default().extend(values);
        }
        for (path, spans) in other.spans {
            self.spans.entry(path).or_default().extend(spans);
        }
        self.exact &= other.exact;
        self
    }
}

/// `deviceId = …`, `deviceId IN […]`, and `OR` of those.
fn devices(expr: &Expr) -> Option<BTreeSet<String>> {
    let is_id = |expr: &Expr| *expr == Expr::Path(Path::attribute(Attribute::DeviceId));
    match expr {
        Expr::Compare {
            op: CompareOp::Equal,
            left,
            right,
        } => {
            let other = match (is_id(left), is_id(right)) {
                (true, false) => right,
                (false, true) => left,
                (true, true) | (false, false) => return None,
            };
            match &**other {
                Expr::Literal(Literal::Text(id)) => Some(ids([id])),
                _ => None,
            }
        }
        Expr::Member {
            value,
            op: MemberOp::In,
            set: Set::List(values),
        } if is_id(value) => {
            // What is no text is equal to no id.
            let texts = values.iter().filter_map(|value| match value {
                Literal::Text(text) => Some(text),
                Literal::Undefined | Literal::Null | Literal::Bool(_) | Literal::Number(_) => None,
            });
            Some(ids(texts))
        }
        Expr::Any(parts) => {
            let mut all = BTreeSet::new();
            for part in parts {
                all.extend(devices(part)?);
            }
            Some(all)
        }
        _ => None,
    }
}

/// No id holds anything but ASCII, so others need not be looked for.
fn ids<'a>(texts: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    let texts = texts.into_iter();
    texts
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
        .cloned()
        .collect()
}

/// `STARTSWITH(deviceId, …)`
fn prefix(expr: &Expr) -> Option<String> {
    let Expr::Call {
        function: Function::StartsWith,
        args,
    } = expr
    else {
        return None;
    };
    match args.as_slice() {
        [Expr::Path(path), Expr::Literal(Literal::Text(prefix))]
            if *path == Path::attribute(Attribute::DeviceId) && !prefix.contains('\0') =>
        {
            Some(prefix.clone())
        }
        _ => None,
    }
}

/// `path = scalar`, `path IN [scalars]`, ranges, and `OR` of those, on paths that are indexed.
fn probes(expr: &Expr, now: Timestamp) -> Option<Probes> {
    if let Some(Found { path, span, exact }) = Span::of(expr, now) {
        let (name, whole) = indexed(path)?;
        return Some(Probes {
            spans: [(name, vec![span])].into(),
            exact: exact && whole,
            ..Probes::default()
        });
    }
    match expr {
        Expr::Compare {
            op: CompareOp::Equal,
            left,
            right,
        } => match (&**left, &**right) {
            (Expr::Path(path), value) | (value, Expr::Path(path)) => {
                probe(path, &[operand::json(value)?])
            }
            _ => None,
        },
        Expr::Member {
            value,
            op: MemberOp::In,
            set: Set::List(values),
        } => {
            let Expr::Path(path) = &**value else {
                return None;
            };
            let mut wanted = Vec::with_capacity(values.len());
            for value in values {
                match value {
                    Literal::Undefined => {}
                    _ => wanted.push(operand::literal_json(value)?),
                }
            }
            probe(path, &wanted)
        }
        Expr::Any(parts) => {
            let mut all = Probes {
                exact: true,
                ..Probes::default()
            };
            for part in parts {
                all = all.join(probes(part, now)?);
            }
            Some(all)
        }
        _ => None,
    }
}

fn probe(path: &Path, wanted: &[serde_json::Value]) -> Option<Probes> {
    // Hours alone are kept of it.
    if *path == Path::attribute(Attribute::LastActivityTime) {
        return None;
    }
    let (name, mut exact) = indexed(path)?;
    let is_absent = |value: &serde_json::Value| *value == index::DISCONNECTED;
    if name == index::CONNECTION_STATE && wanted.iter().any(is_absent) {
        return None;
    }
    let mut values = BTreeSet::new();
    for value in wanted {
        exact &= is_whole(value);
        values.insert(index::value(value)?);
    }
    Some(Probes {
        values: BTreeMap::from([(name, values)]),
        exact,
        ..Probes::default()
    })
}

/// The name under which values of a path are indexed, and whether no other path has it.
fn indexed(path: &Path) -> Option<(String, bool)> {
    let keys = path.keys.iter().map(String::as_str);
    match (&path.root, path.keys.as_slice()) {
        (Root::Attribute(Attribute::Status), []) => Some((index::STATUS.to_owned(), true)),
        (Root::Attribute(Attribute::ConnectionState), []) => {
            Some((index::CONNECTION_STATE.to_owned(), true))
        }
        (Root::Attribute(Attribute::LastActivityTime), []) => {
            Some((index::LAST_ACTIVITY.to_owned(), true))
        }
        (Root::Posture, [first, second])
            if format!("{}.{first}.{second}", "posture") == index::CONFIGURATION_STATE =>
        {
            Some((index::CONFIGURATION_STATE.to_owned(), true))
        }
        (Root::Tags, [first, ..]) if !first.starts_with('$') => {
            // No key of a document holds these; a path with one could be taken for another one.
            let plain = path.keys.iter().all(|key| !key.contains(['.', '#', '\0']));
            let name = index::tag_path(keys);
            let whole = name.len() <= index::TEXT_MAX;
            Some((name, plain && whole))
        }
        (
            Root::Attribute(_)
            | Root::Desired
            | Root::Reported
            | Root::Variable { .. }
            | Root::Posture
            | Root::DeviceTags
            | Root::Tags,
            _,
        ) => None,
    }
}

/// Whether no other value has the same entry: a text that was cut has a `#` and a hash behind it.
fn is_whole(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => {
            text.len() <= index::TEXT_MAX && !text.contains(['\0', '#'])
        }
        _ => true,
    }
}
