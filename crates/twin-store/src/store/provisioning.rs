//! What provisioning keeps: the hub's id scope, and enrolments of single devices and of groups.
//!
//! Rows are told apart by kind and id; what is in them is for `provisioning` to know. They belong to
//! no partition. Whoever changes them owns the hub's first one; whoever reads them needs none.

use std::fmt;

/// Most enrolment groups of a hub (as in Azure's provisioning service): a device does not say which
/// one it belongs to, so each may have to be tried.
pub const GROUPS_MAX: usize = 100;

/// What a row of provisioning is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProvisioningKind {
    /// The id scope; its id is empty.
    Scope,
    /// The enrolment of one device.
    Individual,
    /// The enrolment of a group.
    Group,
}

impl ProvisioningKind {
    /// As the rows have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProvisioningKind::Scope => "scope",
            ProvisioningKind::Individual => "individual",
            ProvisioningKind::Group => "group",
        }
    }

    /// Reads what [`ProvisioningKind::as_str`] wrote.
    pub fn parse(text: &str) -> Option<ProvisioningKind> {
        let all = [
            ProvisioningKind::Scope,
            ProvisioningKind::Individual,
            ProvisioningKind::Group,
        ];
        all.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Before the first enrolment of a group.
pub(crate) const GROUPS: ProvisioningKey = ProvisioningKey {
    kind: ProvisioningKind::Group,
    id: String::new(),
};

/// Names a row of provisioning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProvisioningKey {
    /// What it is.
    pub kind: ProvisioningKind,
    /// Its id among its kind.
    pub id: String,
}

impl ProvisioningKey {
    /// Of the id scope.
    pub fn scope() -> ProvisioningKey {
        ProvisioningKey {
            kind: ProvisioningKind::Scope,
            id: String::new(),
        }
    }
}

impl fmt::Display for ProvisioningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "provisioning/{}/{}", self.kind.as_str(), self.id)
    }
}

/// A row of provisioning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvisioningRow {
    /// Which.
    pub key: ProvisioningKey,
    /// JSON; `provisioning` knows its form.
    pub body: String,
}

/// What a commit does to a row of provisioning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProvisioningWrite {
    /// It is written.
    Put(ProvisioningRow),
    /// It is removed.
    Remove(ProvisioningKey),
}

impl ProvisioningWrite {
    /// Which row.
    pub fn key(&self) -> &ProvisioningKey {
        match self {
            ProvisioningWrite::Put(row) => &row.key,
            ProvisioningWrite::Remove(key) => key,
        }
    }
}
