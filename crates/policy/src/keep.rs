//! What stays on a twin as it is: paths that are frozen because they went back and forth. Pure.
//!
//! A frozen path is left to nobody: no policy's settings touch it, and what policies have there stays
//! under the name that it has. Operators write to it as ever.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use posture::FrozenPath;
use serde_json::Value;
use twin::{IdentityKey, Map, PolicyWrite, Section, Writer};
use xxhash_rust::xxh3::xxh3_64;

use crate::active::put;
use crate::explain::leaves_of;
use crate::twin_document::TwinDocument;

/// Bytes of a path, and paths of a twin, that the twin tells of: as many as twin-store takes.
const TOLD_BYTES_MAX: usize = 512;
const TOLD_MAX: usize = 64;

/// A path of a twin that policies leave alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frozen {
    /// Keys from the root of desired.
    pub path: Vec<String>,
    /// Who wrote there in turns.
    pub writers: Vec<String>,
    /// Since when.
    pub at: Timestamp,
}

impl Frozen {
    /// Its path and its writers, for people.
    pub(crate) fn words(&self) -> (String, String) {
        (self.path.join("."), self.writers.join(", "))
    }

    /// As the twin tells of it: a path that is longer is told cut.
    fn told(&self) -> FrozenPath {
        let path = self.path.join(".");
        let end = path.floor_char_boundary(TOLD_BYTES_MAX.min(path.len()));
        FrozenPath {
            path: path[..end].to_owned(),
            writers: self.writers.clone(),
            at: self.at,
        }
    }

    /// Whether a policy or a configuration of this name (as `Writer::is_of` has it) is among the writers.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        let writers = self
            .writers
            .iter()
            .filter_map(|text| Writer::parse(text).ok());
        writers.into_iter().any(|writer| writer.is_of(name))
    }
}

/// Parts of the set, of which a further path copies one.
const PARTS: usize = 32;

/// The frozen paths of all twins. It never changes; a further one makes a new set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FrozenSet {
    parts: [Arc<BTreeMap<IdentityKey, Vec<Frozen>>>; PARTS],
    count: usize,
}

impl FrozenSet {
    /// All of these.
    pub(crate) fn new(frozen: impl IntoIterator<Item = (IdentityKey, Frozen)>) -> FrozenSet {
        let mut set = FrozenSet::default();
        for (twin, one) in frozen {
            set.add(&twin, one);
        }
        set
    }

    /// With these of a twin, too.
    #[must_use]
    pub(crate) fn with(mut self, twin: &IdentityKey, frozen: Vec<Frozen>) -> FrozenSet {
        for one in frozen {
            self.add(twin, one);
        }
        self
    }

    fn add(&mut self, twin: &IdentityKey, one: Frozen) {
        let Some(part) = self.parts.get_mut(part_of(twin)) else {
            return;
        };
        let of_twin = Arc::make_mut(part).entry(twin.clone()).or_default();
        match of_twin.binary_search_by(|known| known.path.cmp(&one.path)) {
            Ok(known) => of_twin[known] = one,
            Err(place) => {
                of_twin.insert(place, one);
                self.count += 1;
            }
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Those of a twin, in the order of their paths.
    pub(crate) fn of(&self, twin: &IdentityKey) -> &[Frozen] {
        let part = self.parts.get(part_of(twin));
        let of_twin = part.and_then(|part| part.get(twin));
        of_twin.map_or(&[], Vec::as_slice)
    }

    /// Those of a twin as it tells of them.
    pub(crate) fn told(&self, twin: &IdentityKey) -> Vec<FrozenPath> {
        let frozen = self.of(twin).iter().take(TOLD_MAX);
        frozen.map(Frozen::told).collect()
    }

    /// Whether a twin says which of its paths are frozen.
    pub(crate) fn is_told(&self, twin: &TwinDocument) -> bool {
        if !twin.tells_of_frozen() {
            return self.of(twin.key()).is_empty();
        }
        twin.configuration().frozen == self.told(twin.key())
    }

    /// All of them, in the order of the twins.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&IdentityKey, &Frozen)> {
        let mut twins: Vec<_> = self.parts.iter().flat_map(|part| part.iter()).collect();
        twins.sort_unstable_by_key(|(twin, _)| *twin);
        let twins = twins.into_iter();
        twins.flat_map(|(twin, frozen)| frozen.iter().map(move |one| (twin, one)))
    }

    /// Without those to which a policy or configuration of this name has written: it is another one now.
    pub(crate) fn without(&self, name: &str) -> FrozenSet {
        let others = self.iter();
        let others = others.filter(|(_, one)| !one.is_of(name));
        FrozenSet::new(others.map(|(twin, one)| (twin.clone(), one.clone())))
    }

    /// Takes the frozen paths of a twin out of what policies want, and lets what they have there stay; but for
    /// what is of a policy that does not exist any more.
    pub(crate) fn hold(
        &self,
        twin: &IdentityKey,
        desired: &Section,
        exists: impl Fn(&str) -> bool,
        writes: &mut Vec<PolicyWrite>,
    ) {
        let frozen = self.of(twin);
        if frozen.is_empty() {
            return;
        }
        for write in writes.iter_mut() {
            for one in frozen {
                take_out(&mut write.settings, &one.path);
            }
        }
        writes.retain(|write| !write.settings.is_empty());
        for leaf in leaves_of(desired) {
            let meets =
                |one: &Frozen| one.path.starts_with(&leaf.path) || leaf.path.starts_with(&one.path);
            let (policy, revision) = match &leaf.writer {
                Writer::Policy { id, revision } => (id.clone(), *revision),
                Writer::Configuration(_) => (leaf.writer.to_string(), 0),
                Writer::Operator(_) | Writer::Device | Writer::System => continue,
            };
            if !frozen.iter().any(meets) || !exists(&policy) {
                continue;
            }
            let own = |write: &&mut PolicyWrite| write.writer() == leaf.writer;
            if let Some(write) = writes.iter_mut().find(own) {
                put(&mut write.settings, &leaf.path, leaf.value);
                continue;
            }
            let mut settings = Map::new();
            put(&mut settings, &leaf.path, leaf.value);
            writes.push(PolicyWrite {
                policy,
                revision,
                settings,
            });
        }
    }
}

fn part_of(twin: &IdentityKey) -> usize {
    let hash = xxh3_64(twin.device.as_str().as_bytes());
    usize::try_from(hash % PARTS as u64).unwrap_or_default()
}

/// Takes out what is at a path, above it as a value, or below it; and the objects that are empty then.
fn take_out(settings: &mut Map, path: &[String]) {
    let Some((key, rest)) = path.split_first() else {
        return;
    };
    let is_left = match settings.get_mut(key) {
        None => return,
        Some(Value::Object(inner)) if !rest.is_empty() && !inner.is_empty() => {
            take_out(inner, rest);
            !inner.is_empty()
        }
        Some(_) => false,
    };
    if !is_left {
        settings.remove(key);
    }
}

#[cfg(test)]
mod tests;
