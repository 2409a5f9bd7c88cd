//! One part of a condition's `AND`, and what can serve it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use twin::query::ast::{Attribute, CompareOp, Expr, Function, Literal, MemberOp, Path, Root, Set};

use super::condition::{self, Scope};
use super::fragment::{Builder, Dialect, Residual};
use super::operand;
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
    /// Whether an entry means that the conjunct holds, and not only that it may.
    pub(super) exact: bool,
}

impl<'s> Conjunct<'s> {
    pub(super) fn new(expr: &'s Expr, dialect: Dialect, now: Timestamp) -> Conjunct<'s> {
        let mut conjunct = Conjunct {
            expr,
            serving: Serving::of(expr),
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

    pub(super) fn probes(&self) -> Option<&Probes> {
        match &self.serving {
            Serving::Index(probes) => Some(probes),
            Serving::Devices(_) | Serving::Prefix(_) | Serving::Rows => None,
        }
    }
}

impl Serving {
    fn of(expr: &Expr) -> Serving {
        if let Some(devices) = devices(expr) {
            return Serving::Devices(devices);
        }
        if let Some(prefix) = prefix(expr) {
            return Serving::Prefix(prefix);
        }
        match probes(expr) {
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

    fn join(mut self, other: Probes) -> Probes {
        for (path, values) in other.values {
            self.values.entry(path).or_default().extend(values);
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

/// `path = scalar`, `path IN [scalars]`, and `OR` of those, on paths that are indexed.
fn probes(expr: &Expr) -> Option<Probes> {
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
                all = all.join(probes(part)?);
            }
            Some(all)
        }
        _ => None,
    }
}

fn probe(path: &Path, wanted: &[serde_json::Value]) -> Option<Probes> {
    let keys = path.keys.iter().map(String::as_str);
    let (name, mut exact) = match (&path.root, path.keys.as_slice()) {
        (Root::Attribute(Attribute::Status), []) => (index::STATUS.to_owned(), true),
        (Root::Posture, [first, second])
            if format!("{}.{first}.{second}", "posture") == index::CONFIGURATION_STATE =>
        {
            (index::CONFIGURATION_STATE.to_owned(), true)
        }
        (Root::Tags, [first, ..]) if !first.starts_with('$') => {
            // No key of a document holds these; a path with one could be taken for another one.
            let plain = path.keys.iter().all(|key| !key.contains(['.', '#', '\0']));
            let name = index::tag_path(keys);
            let whole = name.len() <= index::TEXT_MAX;
            (name, plain && whole)
        }
        (
            Root::Attribute(_)
            | Root::Desired
            | Root::Reported
            | Root::Variable { .. }
            | Root::Posture
            | Root::Tags,
            _,
        ) => return None,
    };
    let mut values = BTreeSet::new();
    for value in wanted {
        exact &= is_whole(value);
        values.insert(index::value(value)?);
    }
    Some(Probes {
        values: BTreeMap::from([(name, values)]),
        exact,
    })
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
