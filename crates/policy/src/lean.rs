//! The short way to "nothing to do": a change of a twin costs the policies that look at what changed,
//! and parsing it costs the parts that those look at.
//!
//! Pure. It says so only where it is sure; in every other case the whole decision (`evaluate`) is made,
//! so it can save work and never change what comes of it. It goes by what a twin carries already: a
//! policy that does not apply and has no leaf there, or that applies and has all of its leaves, changes
//! nothing, whatever the others want. That holds for twins that were decided on before; so of a new twin, and
//! of one whose desired section changed, all policies are judged, and no leaf of any policy may be there.

use twin::query::{Attribute, Datum, Judgement, LazyPosture, LazySection, LazyTags, LazyTwin};
use twin::{NodeMeta, Writer};

use crate::active::{ActivePolicy, Verdict};
use crate::evaluate::{Interest, PolicySet};
use crate::twin_document::{TwinDocument, may_ask_for_push, scope_of};

/// What came of a short look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Glance {
    /// Whether nothing has to be done for sure.
    pub settled: bool,
    /// How many policies were judged for that.
    pub judged: usize,
}

impl Glance {
    fn after(judged: usize, settled: bool) -> Glance {
        Glance { settled, judged }
    }
}

impl PolicySet {
    /// Looks at a twin as it came, of which this has changed: settled if no policy that looks at it
    /// applies or has a leaf there. Only what is looked at is parsed.
    pub(crate) fn glance(&self, twin: &wire::twin::v1::Twin, changed: Interest) -> Glance {
        let Ok(key) = wire::names::identity_from_ids(&twin.device_id, &twin.module_id) else {
            return Glance::after(0, false);
        };
        // What a twin tells of frozen paths may have to be put right.
        let may_tell = twin.posture_json.contains("\"frozen\"");
        if may_tell || may_ask_for_push(twin) || !self.frozen().of(&key).is_empty() {
            return Glance::after(0, false);
        }
        let module = (!twin.module_id.is_empty()).then_some(twin.module_id.as_str());
        let attributes = |attribute| match attribute {
            Attribute::DeviceId => Datum::text(&twin.device_id),
            Attribute::ModuleId => Datum::optional_text(module),
            Attribute::Status => Datum::text(&twin.status),
            // Conditions of policies may name no other.
            _ => Datum::Undefined,
        };
        let section = |document, version| LazySection::new(document, "", version);
        let view = LazyTwin {
            attributes,
            tags: section(text(&twin.tags_json, "{}"), 0),
            desired: section(text(&twin.desired_json, "{}"), twin.desired_version),
            reported: section(text(&twin.reported_json, "{}"), twin.reported_version),
            posture: LazyPosture::from_text(text(&twin.posture_json, "null")),
            device_tags: Some(&*twin.device_tags_json)
                .filter(|tags| !tags.is_empty())
                .map(LazyTags::new),
            undecided: std::cell::Cell::new(false),
        };
        let is_new = changed.created || changed.desired;
        let is_marked = |writer| twin.desired_metadata_json.contains(writer);
        if is_new
            && ["policy:", Writer::CONFIGURATION]
                .into_iter()
                .any(is_marked)
        {
            return Glance::after(0, false);
        }
        let looked_at = if is_new { Interest::ALL } else { changed };
        let everywhere = is_new.then(|| self.indifferent(scope_of(&key))).into_iter();
        let concerned = self.concerned(scope_of(&key), looked_at);
        let mut judged = 0;
        for active in everywhere.flatten().chain(concerned) {
            judged += 1;
            let policy = &active.policy;
            let ruled_out = policy.target().judge(&view) == Judgement::HoldsNot
                || policy
                    .when()
                    .is_some_and(|when| when.judge(&view) == Judgement::HoldsNot);
            if !ruled_out || wrote(active, &twin.desired_metadata_json) {
                return Glance::after(judged, false);
            }
        }
        Glance::after(judged, view.damage().is_none())
    }

    /// Looks at a twin as it came, of which nothing is known: settled if no policy applies or has anything
    /// there.
    pub(crate) fn glance_whole(&self, twin: &wire::twin::v1::Twin) -> Glance {
        // Where something is said to stand may have to be put right.
        if !twin.configurations.is_empty() {
            return Glance::after(0, false);
        }
        self.glance(twin, Interest::ALL)
    }

    /// Looks at a parsed twin, of which this has changed: settled if each policy that looks at it has
    /// all of its leaves there, or does not apply and has none.
    pub(crate) fn look(&self, twin: &TwinDocument, changed: Interest) -> Glance {
        let is_new = changed.created || changed.desired;
        if is_new
            || twin.asks_for_push()
            || twin.tells_of_frozen()
            || !self.frozen().of(twin.key()).is_empty()
        {
            return Glance::after(0, false);
        }
        let mut judged = 0;
        for active in self.concerned(twin.scope(), changed) {
            judged += 1;
            if active.policy.id().is_of_configuration() {
                return Glance::after(judged, false);
            }
            let settled = match active.verdict(twin) {
                Verdict::Applies => has_all(active, twin),
                Verdict::OtherScope
                | Verdict::NotTargeted
                | Verdict::NotWhen
                | Verdict::Expired => !has_any(active, twin.desired().metadata()),
                // What is kept of them is for the whole decision.
                Verdict::Undecided(_)
                | Verdict::Incomplete
                | Verdict::Closed
                | Verdict::HeldBack => false,
            };
            if !settled {
                return Glance::after(judged, false);
            }
        }
        Glance::after(judged, true)
    }
}

/// A text, or what no text at all stands for.
fn text<'t>(text: &'t str, nothing: &'t str) -> &'t str {
    if text.is_empty() { nothing } else { text }
}

/// Whether a policy may have written anything, by the text of the metadata: it names it if so.
fn wrote(active: &ActivePolicy, metadata: &str) -> bool {
    // Where a configuration stands is noted beside its leaves; that is for the whole decision.
    active.policy.id().is_of_configuration()
        || metadata.contains(&format!("policy:{}@", active.policy.id()))
}

/// Whether all that a policy wants is there, as its own revision has set it.
fn has_all(active: &ActivePolicy, twin: &TwinDocument) -> bool {
    let Some(write) = active.write(twin) else {
        return false;
    };
    let writer = write.writer();
    let desired = twin.desired();
    let mut wanted = 0;
    if !is_there(
        &write.settings,
        desired.document(),
        desired.metadata(),
        &writer,
        &mut wanted,
    ) {
        return false;
    }
    // It may have left more there than it wants now.
    wanted == count(desired.metadata(), active.policy.id().as_str())
}

fn is_there(
    settings: &twin::Map,
    document: &twin::Map,
    meta: &NodeMeta,
    writer: &Writer,
    wanted: &mut usize,
) -> bool {
    settings.iter().all(|(key, value)| {
        let (Some(held), Some(node)) = (document.get(key), meta.children.get(key)) else {
            return false;
        };
        match (value, held) {
            (serde_json::Value::Object(value), serde_json::Value::Object(held))
                if !value.is_empty() =>
            {
                is_there(value, held, node, writer, wanted)
            }
            _ => {
                *wanted += 1;
                value == held && node.by == *writer
            }
        }
    })
}

/// How many leaves carry a policy's name, of whichever revision.
fn count(meta: &NodeMeta, id: &str) -> usize {
    let of_child = |child: &NodeMeta| {
        if !child.children.is_empty() {
            return count(child, id);
        }
        usize::from(matches!(&child.by, Writer::Policy { id: own, .. } if own == id))
    };
    meta.children.values().map(of_child).sum()
}

fn has_any(active: &ActivePolicy, meta: &NodeMeta) -> bool {
    count(meta, active.policy.id().as_str()) > 0
}

#[cfg(test)]
mod tests;
