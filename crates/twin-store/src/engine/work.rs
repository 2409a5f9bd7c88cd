//! What the writer knows of a piece of work before it is decided.

use super::Work;
use crate::apply::devices::MODULES_PER_DEVICE_MAX;
use crate::store::{GROUPS_MAX, Selection};

/// Records of a device with all the modules that it may have.
const FAMILY_RECORDS: usize = 1 + MODULES_PER_DEVICE_MAX;

impl Work {
    /// How many records it may load.
    pub(super) fn records_max(&self) -> usize {
        let selections = self.selections.iter();
        let records = selections.map(|selection| match selection {
            Selection::Family(_) => FAMILY_RECORDS,
            Selection::One(_)
            | Selection::Token(..)
            | Selection::Request(_)
            | Selection::Operation(_)
            | Selection::Running
            | Selection::Provisioning(_) => 1,
            Selection::Groups => GROUPS_MAX,
        });
        records.sum()
    }

    /// Whether it is decided on what other replicas may change at the same moment, although its
    /// partition is ours: enrolment tokens belong to no partition.
    pub(super) fn is_contended(&self) -> bool {
        let mut selections = self.selections.iter();
        selections.any(|selection| matches!(selection, Selection::Token(..)))
    }
}
