//! Settings on twins of which the store knows nothing: of a policy that it has no row of, or of a
//! revision that it never gave. A policy that was deleted keeps its row, so this can only mean that
//! `policy.db` was lost or is older than the twins. Nobody has said then that these settings are to go: they
//! stay, and it is told, until the policy is applied anew (under a higher number) or deleted by its id.
//!
//! Pure but for [`Strays`], which remembers the twins. In memory alone: the store keeps which policies they are,
//! and has all twins looked at anew after a start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use twin::{IdentityKey, NodeMeta, Section, Writer};

use crate::configuration_doc::ConfigurationId;
use crate::policy_doc::PolicyId;

/// Twins that are remembered for each policy. With more of them the number is no longer what matters.
const TWINS_MAX: usize = 1000;
/// Policies that are remembered: four times as many as a hub can have.
const POLICIES_MAX: usize = 400;

/// Which revisions the store has given, by the id of the policy; of configurations, that it knows of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Given(BTreeMap<PolicyId, OfPolicy>);

#[derive(Debug, Clone, Default, PartialEq)]
struct OfPolicy {
    revisions: BTreeSet<u64>,
    /// Up to here the policy was deleted, whoever gave the revisions.
    deleted: u64,
}

impl Given {
    /// Notes a revision that was given.
    pub(crate) fn give(&mut self, id: &PolicyId, revision: u64) {
        self.of(id).revisions.insert(revision);
    }

    /// Notes that a policy was deleted at this revision.
    pub(crate) fn delete(&mut self, id: &PolicyId, revision: u64) {
        let one = self.of(id);
        one.deleted = one.deleted.max(revision);
    }

    /// Notes that there is, or was, a policy or configuration.
    pub(crate) fn meet(&mut self, id: &PolicyId) {
        self.of(id);
    }

    /// The newest revision that was given of a policy, or with which it was deleted.
    pub(crate) fn newest(&self, id: &PolicyId) -> u64 {
        let of = self.0.get(id);
        of.map_or(0, |of| {
            of.deleted.max(of.revisions.last().copied().unwrap_or(0))
        })
    }

    /// Whether nothing is known of this revision yet, nor of a newer one.
    pub(crate) fn is_behind(&self, id: &PolicyId, revision: u64) -> bool {
        let is_known = self.0.contains_key(id);
        !is_known || (!id.is_of_configuration() && self.newest(id) < revision)
    }

    /// The policies of whose settings in a section it knows nothing, each with the newest such revision; of a
    /// configuration that is 0.
    pub(crate) fn strays(&self, section: &Section) -> BTreeMap<PolicyId, u64> {
        let mut found = BTreeMap::new();
        self.look(section.metadata(), &mut found);
        found
    }

    fn look(&self, node: &NodeMeta, found: &mut BTreeMap<PolicyId, u64>) {
        for child in node.children.values() {
            if child.children.is_empty() {
                self.leaf(&child.by, found);
            } else {
                self.look(child, found);
            }
        }
    }

    fn leaf(&self, by: &Writer, found: &mut BTreeMap<PolicyId, u64>) {
        let (id, revision) = match by {
            Writer::Policy { id, revision } => (PolicyId::parse(id).map_err(|_| ()), *revision),
            Writer::Configuration(id) => {
                let id = ConfigurationId::parse(id);
                (
                    id.map(|id| PolicyId::of_configuration(&id)).map_err(|_| ()),
                    0,
                )
            }
            Writer::Operator(_) | Writer::Device | Writer::System => return,
        };
        // An id that no policy can have is nobody's; an empty object whose maker is not told is one.
        let Ok(id) = id else {
            return;
        };
        let is_known = self.0.get(&id).is_some_and(|of| {
            revision == 0 || revision <= of.deleted || of.revisions.contains(&revision)
        });
        if !is_known {
            let newest = found.entry(id).or_insert(revision);
            *newest = revision.max(*newest);
        }
    }

    fn of(&mut self, id: &PolicyId) -> &mut OfPolicy {
        self.0.entry(id.clone()).or_default()
    }
}

/// The twins on which such settings were seen. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Strays(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Nearly always nothing ever was, and then nobody waits for the lock.
    any: AtomicBool,
    twins: Mutex<BTreeMap<PolicyId, BTreeSet<IdentityKey>>>,
    changed: Notify,
}

impl Strays {
    /// Notes what is on a twin now; of all other policies it is forgotten.
    pub(crate) fn note(&self, twin: &IdentityKey, strays: &BTreeMap<PolicyId, u64>) {
        if strays.is_empty() && !self.0.any.load(Ordering::Relaxed) {
            return;
        }
        let mut all = self.0.twins.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for (id, twins) in all.iter_mut() {
            changed |= !strays.contains_key(id) && twins.remove(twin);
        }
        for id in strays.keys() {
            let is_room = all.len() < POLICIES_MAX || all.contains_key(id);
            if !is_room {
                continue;
            }
            let twins = all.entry(id.clone()).or_default();
            changed |= twins.len() < TWINS_MAX && twins.insert(twin.clone());
        }
        self.0.any.store(!all.is_empty(), Ordering::Relaxed);
        drop(all);
        if changed {
            self.0.changed.notify_one();
        }
    }

    /// On how many twins such settings of a policy are, in words.
    pub(crate) fn count(&self, id: &PolicyId) -> String {
        let all = self.0.twins.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(id).map_or(0, BTreeSet::len) {
            1 => "1 twin".to_owned(),
            TWINS_MAX => format!("{TWINS_MAX} twins or more"),
            count => format!("{count} twins"),
        }
    }

    /// Waits until there may be something else to tell. May be dropped at any time; for one who waits.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }
}
