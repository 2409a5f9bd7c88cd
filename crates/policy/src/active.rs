//! One policy in force: whether it applies to a twin, what it wants there, and what it has set already.
//!
//! Pure. How several of them come together is `evaluate`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use twin::query::Judgement;
use twin::{Map, PolicyWrite, Section, Writer};

use crate::configured::known_state;
use crate::explain::leaves_of;
use crate::policy_doc::{Incomplete, Policy, PolicyId};
use crate::rollout::Course;
use crate::schedule::Gate;
use crate::twin_document::TwinDocument;

/// A policy in force.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ActivePolicy {
    /// What it says.
    pub policy: Policy,
    /// Which of its revisions.
    pub revision: u64,
    /// Its place in the order of creation: of two with the same priority the later one wins.
    pub created_order: u64,
    /// If it is being rolled out: which twins it is for.
    pub(crate) stage: Option<Stage>,
    /// Whether it may change twins now.
    pub(crate) gate: Gate,
}

/// The part of a revision in a rollout. While it runs two revisions of one policy are in force, each
/// on its own twins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stage {
    /// How far the rollout is.
    pub course: Arc<Course>,
    /// Which of the two it is.
    pub side: Side,
}

/// Which revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The new one: on the twins of the waves that have begun.
    New,
    /// The one before: on all others.
    Before,
}

impl Stage {
    /// Whether the revision is for this twin.
    pub(crate) fn takes(&self, twin: &TwinDocument) -> bool {
        self.course.has_released(twin) == (self.side == Side::New)
    }

    /// Why the revision is not for this twin, for people.
    pub(crate) fn why_not(&self, twin: &TwinDocument) -> String {
        let course = &self.course;
        let (revision, all) = (course.revision(), course.waves());
        let wave = course.wave_of(twin).map(|wave| wave + 1);
        match (self.side, wave) {
            (Side::Before, Some(wave)) => {
                format!("it has revision {revision} instead, since wave {wave} of {all}")
            }
            (Side::Before, None) => format!("it has revision {revision} instead"),
            (Side::New, Some(wave)) if course.released() > 0 => format!(
                "its turn is wave {wave} of {all}; {} of them have begun",
                course.released()
            ),
            (Side::New, Some(wave)) => format!(
                "its turn is wave {wave} of {all}; none has revision {revision}, which waits or was taken back"
            ),
            (Side::New, None) => "its waves are not planned yet".to_owned(),
        }
    }
}

/// Whether a policy applies to a twin, and if not, why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It does.
    Applies,
    /// It looks at twins of another kind.
    OtherScope,
    /// Its target does not take the twin.
    NotTargeted,
    /// Its target takes the twin, but `when` does not hold.
    NotWhen,
    /// Judging this condition took more steps than a twin may take, and the other one does not rule
    /// the twin out. Nobody knows whether the policy applies: what it has set stays as it is, and
    /// nothing is added.
    Undecided(Part),
    /// All of that holds, but the twin lacks what a template of the settings names.
    Incomplete,
    /// It may not change twins now (`schedule`). What it has set stays as it is, and nothing is added.
    Closed,
    /// It has ended, and applies to no twin any more.
    Expired,
    /// All of that may hold, but by a rollout the twin has another revision of the policy.
    HeldBack,
}

/// A condition of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// `target`
    Target,
    /// `when`
    When,
}

impl Part {
    /// As the policy's file has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Part::Target => "target",
            Part::When => "when",
        }
    }
}

impl ActivePolicy {
    /// Whether it applies to a twin.
    pub(crate) fn verdict(&self, twin: &TwinDocument) -> Verdict {
        if self.policy.scope() != twin.scope() {
            return Verdict::OtherScope;
        }
        match &self.gate {
            Gate::Open => self.verdict_when_open(twin),
            Gate::Expired(_) => Verdict::Expired,
            Gate::Closed(_) if self.takes_back(twin) => self.verdict_when_open(twin),
            Gate::Closed(_) => match self.verdict_when_open(twin) {
                // Nothing is there that could change.
                other @ (Verdict::NotTargeted | Verdict::NotWhen | Verdict::HeldBack)
                    if !self.has_set(twin, |_| true) && known_state(self, twin).is_none() =>
                {
                    other
                }
                _ => Verdict::Closed,
            },
        }
    }

    /// Whether the twin has a revision that was taken back: it goes also while the policy is closed,
    /// since whoever aborts a rollout means now.
    fn takes_back(&self, twin: &TwinDocument) -> bool {
        let stage = self.stage.as_ref();
        stage.is_some_and(|stage| self.has_set(twin, |revision| stage.course.takes_back(revision)))
    }

    /// Whether nothing of it may be pushed again to a device that did not stay with it: because the policy may
    /// change nothing now, or because the revision is on its way and that device speaks against it.
    pub(crate) fn holds_pushes(&self, twin: &TwinDocument) -> bool {
        if matches!(self.gate, Gate::Closed(_)) {
            return self.has_set(twin, |_| true);
        }
        let course = self.stage.as_ref().map(|stage| &stage.course);
        course.is_some_and(|course| self.has_set(twin, |revision| revision == course.revision()))
    }

    /// Whether the twin has a leaf of the policy in such a revision; one of a configuration tells of none.
    fn has_set(&self, twin: &TwinDocument, which: impl Fn(u64) -> bool) -> bool {
        let ours = self.policy.id().as_str();
        let leaves = leaves_of(twin.desired());
        leaves
            .iter()
            .any(|leaf| leaf.writer.is_of(ours) && which(revision_of(&leaf.writer)))
    }

    fn verdict_when_open(&self, twin: &TwinDocument) -> Verdict {
        self.judged(twin, self.stage.as_ref())
    }

    /// Whether it would apply to a twin of its kind if it were everywhere, at any time.
    pub(crate) fn verdict_everywhere(&self, twin: &TwinDocument) -> Verdict {
        if self.policy.scope() != twin.scope() {
            return Verdict::OtherScope;
        }
        self.judged(twin, None)
    }

    fn judged(&self, twin: &TwinDocument, stage: Option<&Stage>) -> Verdict {
        let view = twin.view();
        let target = self.policy.target().judge(&view);
        if target == Judgement::HoldsNot {
            return Verdict::NotTargeted;
        }
        let when = self.policy.when().map(|when| when.judge(&view));
        match (target, when.unwrap_or(Judgement::Holds)) {
            (_, Judgement::HoldsNot) => Verdict::NotWhen,
            _ if stage.is_some_and(|stage| !stage.takes(twin)) => Verdict::HeldBack,
            (Judgement::Undecided, _) => Verdict::Undecided(Part::Target),
            (_, Judgement::Undecided) => Verdict::Undecided(Part::When),
            (_, Judgement::Holds) if self.policy.settings_for(&view).is_err() => {
                Verdict::Incomplete
            }
            (_, Judgement::Holds) => Verdict::Applies,
        }
    }

    /// What it wants on a twin that it applies to; none where the twin lacks what a template names.
    pub(crate) fn write(&self, twin: &TwinDocument) -> Option<PolicyWrite> {
        Some(PolicyWrite {
            policy: self.policy.id().to_string(),
            revision: self.revision,
            settings: self.policy.settings_for(&twin.view()).ok()?,
        })
    }

    /// Why its settings cannot be filled in for a twin.
    pub(crate) fn incomplete(&self, twin: &TwinDocument) -> Option<Incomplete> {
        self.policy.settings_for(&twin.view()).err()
    }
}

/// What a policy has set in a section, as the writes that would set it again: one for each of the
/// revisions that its leaves carry.
pub(crate) fn kept(id: &PolicyId, section: &Section) -> Vec<PolicyWrite> {
    let mut by_revision: BTreeMap<u64, Map> = BTreeMap::new();
    for leaf in leaves_of(section) {
        if !leaf.writer.is_of(id.as_str()) {
            continue;
        }
        let settings = by_revision.entry(revision_of(&leaf.writer)).or_default();
        put(settings, &leaf.path, leaf.value);
    }
    let writes = by_revision.into_iter();
    writes
        .map(|(revision, settings)| PolicyWrite {
            policy: id.to_string(),
            revision,
            settings,
        })
        .collect()
}

/// Which revision of a policy wrote; 0 for whoever has none.
fn revision_of(writer: &Writer) -> u64 {
    match writer {
        Writer::Policy { revision, .. } => *revision,
        Writer::Configuration(_) | Writer::Operator(_) | Writer::Device | Writer::System => 0,
    }
}

/// Puts a leaf into its place. Leaves of one section never lie within each other.
pub(crate) fn put(object: &mut Map, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => {
            object.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            let inner = object
                .entry(key.clone())
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}
