//! What is written with a decision, and whether it still stands by then: between the two may lie hours, in which
//! twin-store was away and somebody stopped, changed or took back what had been decided.

use std::sync::Arc;

use posture::FrozenPath;
use wire::time::to_wire;
use wire::twin::v1::FrozenSetting;

use super::Writer;
use crate::evaluate::{Decided, PolicySet, decide};
use crate::twin_document::TwinDocument;

/// A decision, and what it was made with.
pub(super) type Made = (Decided, Arc<PolicySet>);

impl Writer {
    /// Whether the same would be decided on the twin by what is in force now. Most often that is the very
    /// same set, and nothing has to be decided anew.
    pub(super) fn is_still_wanted(
        &self,
        twin: &TwinDocument,
        (decided, set): (&Decided, &Arc<PolicySet>),
    ) -> bool {
        let now = self.policies.set();
        if Arc::ptr_eq(set, &now) {
            return true;
        }
        let again = decide(&now, twin, self.clock.now());
        again.decision == decided.decision
            && again.push_again == decided.push_again
            && again.configurations == decided.configurations
            && now.frozen().told(twin.key()) == set.frozen().told(twin.key())
    }
}

/// The paths that are left alone, for the twin to tell of.
pub(super) fn frozen(set: &PolicySet, twin: &TwinDocument) -> Vec<FrozenSetting> {
    let told = set.frozen().told(twin.key()).into_iter();
    let setting = |one: FrozenPath| FrozenSetting {
        path: one.path,
        writers: one.writers,
        freeze_time: Some(to_wire(one.at)),
    };
    told.map(setting).collect()
}
