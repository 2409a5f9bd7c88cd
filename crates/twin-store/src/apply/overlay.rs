//! Records as decisions see and leave them.
//!
//! A record is copied when it is first changed, and its original is kept: the history and the
//! index are made of the difference. Revisions are numbered here, so that a decision can answer
//! the number that its write gets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use twin::{DeviceId, IdentityKey, Partition, PartitionCount, Revision, partition_of};

use super::{AuditEvent, Cause, Change, ChangeKind, Left, Outcome, Room, Step, Touch, Weight};
use crate::error::Error;
use crate::record::{Damaged, Record};
use crate::store::{
    EnrollmentState, Loaded, OperationId, OperationRow, ProvisioningKey, ProvisioningRow,
    RequestAnswer, RequestId, Selection, TokenHash,
};

mod inherit;
mod small;

/// Numbers the changes of each partition.
#[derive(Debug)]
pub struct Numbers {
    count: PartitionCount,
    heads: BTreeMap<Partition, Revision>,
}

impl Numbers {
    /// Numbers that go on after these revisions; a partition that is not named begins at 1.
    pub fn new(count: PartitionCount, heads: BTreeMap<Partition, Revision>) -> Numbers {
        Numbers { count, heads }
    }

    fn next(&mut self, device: &DeviceId) -> Revision {
        let partition = partition_of(device, self.count);
        let head = self.heads.entry(partition).or_default();
        // The last number of all is given again and again then; the store refuses the second.
        *head = head.next().unwrap_or(*head);
        *head
    }
}

/// One identity as it was loaded and as it is now.
#[derive(Debug, Default)]
struct Slot {
    original: Option<Arc<Record>>,
    present: Option<Arc<Record>>,
    done: Vec<Step>,
    open: Option<Open>,
}

/// The step that is being made of an identity.
#[derive(Debug)]
struct Open {
    before: Option<Arc<Record>>,
    touch: Touch,
    revision: Revision,
    decision: u64,
}

/// Records as decisions see and leave them.
#[derive(Debug)]
pub struct Overlay {
    slots: BTreeMap<IdentityKey, Slot>,
    damaged: BTreeMap<IdentityKey, Damaged>,
    /// Devices of which, with their modules, nothing can be read.
    unreachable: BTreeMap<DeviceId, Damaged>,
    tokens: BTreeMap<(TokenHash, DeviceId), EnrollmentState>,
    requests: BTreeMap<RequestId, Result<RequestAnswer, Damaged>>,
    operations: BTreeMap<OperationId, Result<OperationRow, Damaged>>,
    provisioning: BTreeMap<ProvisioningKey, Result<ProvisioningRow, Damaged>>,
    /// Devices whose tags may have been written.
    tagged: BTreeSet<DeviceId>,
    left: Left,
    numbers: Numbers,
    pub(super) room: Room,
    now: Timestamp,
    decision: u64,
}

impl Overlay {
    /// Starts from what is stored.
    pub fn new(loaded: Vec<Loaded>, numbers: Numbers, now: Timestamp) -> Overlay {
        let mut overlay = Overlay {
            slots: BTreeMap::new(),
            damaged: BTreeMap::new(),
            unreachable: BTreeMap::new(),
            tokens: BTreeMap::new(),
            requests: BTreeMap::new(),
            operations: BTreeMap::new(),
            provisioning: BTreeMap::new(),
            tagged: BTreeSet::new(),
            left: Left::default(),
            numbers,
            room: Room::unlimited(),
            now,
            decision: 0,
        };
        for item in loaded {
            match item {
                Loaded::Whole(record) => {
                    let record = Arc::from(record);
                    let record: Arc<Record> = record;
                    let key = record.key.clone();
                    overlay.slots.insert(key, Slot::of(record));
                }
                Loaded::Damaged(selection, damaged) => overlay.note(selection, damaged),
                Loaded::Token(device, state) => {
                    overlay.tokens.insert((state.token.hash, device), state);
                }
                Loaded::Request(answer) => {
                    overlay.requests.insert(answer.id.clone(), Ok(answer));
                }
                Loaded::Operation(row) => {
                    overlay.operations.insert(row.id.clone(), Ok(row));
                }
                Loaded::Provisioning(row) => {
                    overlay.provisioning.insert(row.key.clone(), Ok(row));
                }
            }
        }
        overlay
    }

    fn note(&mut self, selection: Selection, damaged: Damaged) {
        match selection {
            Selection::One(key) => {
                self.damaged.insert(key, damaged);
            }
            Selection::Family(device) => {
                self.unreachable.insert(device, damaged);
            }
            // A token opens nothing, as one that is not there; of what goes on, the rest is there.
            Selection::Token(..) | Selection::Running | Selection::Groups => {}
            Selection::Request(id) => {
                self.requests.insert(id, Err(damaged));
            }
            Selection::Operation(id) => {
                self.operations.insert(id, Err(damaged));
            }
            Selection::Provisioning(key) => {
                self.provisioning.insert(key, Err(damaged));
            }
        }
    }

    /// Tells that the next decision begins: what it does to an identity becomes a revision of its
    /// own, unless the one before only folded events.
    pub fn begin(&mut self) {
        self.decision += 1;
    }

    /// The record of an identity, if there is one.
    ///
    /// # Errors
    /// It is there but cannot be read.
    pub fn find(&self, key: &IdentityKey) -> Result<Option<&Record>, Error> {
        if let Some(slot) = self.slots.get(key) {
            return Ok(slot.present.as_deref());
        }
        let device = self.unreachable.get(&key.device);
        let damaged = self.damaged.get(key).or(device);
        damaged.map_or(Ok(None), |damaged| Err(damaged.clone().into()))
    }

    /// The record of an identity.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn get(&self, key: &IdentityKey) -> Result<&Record, Error> {
        self.find(key)?.ok_or_else(|| Error::NotFound(key.clone()))
    }

    /// All modules of a device that are there, readable or not.
    ///
    /// # Errors
    /// Nobody can tell which there are.
    pub fn modules(&self, device: &DeviceId) -> Result<Vec<IdentityKey>, Error> {
        if let Some(damaged) = self.unreachable.get(device) {
            return Err(damaged.clone().into());
        }
        let present = self.slots.iter().filter(|(_, slot)| slot.present.is_some());
        let mut keys: BTreeSet<_> = present.map(|(key, _)| key).collect();
        keys.extend(self.damaged.keys());
        keys.retain(|key| key.module.is_some() && key.device == *device);
        Ok(keys.into_iter().cloned().collect())
    }

    /// Leaves a record to be written, and answers it with the revision it gets.
    pub fn put(
        &mut self,
        mut record: Record,
        changes: &[ChangeKind],
        weight: Weight,
        cause: &Cause,
    ) -> &Record {
        let key = record.key.clone();
        // A new module has its device's tags from the beginning.
        if key.module.is_some() && record.device_tags.is_none() {
            record.device_tags = self.tags_of(&IdentityKey::new_device(key.device.clone()));
        }
        self.may_give(&record);
        self.open(&key, weight);
        let record = self.stamped(Arc::new(record), changes, weight, cause);
        let slot = self.slots.entry(key).or_default();
        if slot.present.is_none() {
            self.room.made(&record.key);
        }
        slot.present.insert(record)
    }

    /// Notes what devices are to be told of the desired section that was just put.
    pub(super) fn notify(&mut self, key: &IdentityKey, notification: String) {
        let slot = self.slots.get_mut(key);
        if let Some(open) = slot.and_then(|slot| slot.open.as_mut()) {
            open.touch.notifications.push(notification);
        }
    }

    /// The record of an identity, to be changed in place by a decision that folds events and
    /// cannot be refused any more; [`Overlay::folded`] must follow.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub(crate) fn fold_mut(&mut self, key: &IdentityKey) -> Result<&mut Record, Error> {
        self.get(key)?;
        self.open(key, Weight::Routine);
        self.slots
            .get_mut(key)
            .and_then(|slot| slot.present.as_mut())
            .map(Arc::make_mut)
            .ok_or_else(|| Error::NotFound(key.clone()))
    }

    /// Notes what folding did to a record.
    pub(crate) fn folded(
        &mut self,
        key: &IdentityKey,
        changes: &[ChangeKind],
        weight: Weight,
        cause: &Cause,
    ) {
        let present = self.slots.get_mut(key).and_then(|slot| slot.present.take());
        let Some(record) = present else { return };
        let record = self.stamped(record, changes, weight, cause);
        self.slots.entry(key.clone()).or_default().present = Some(record);
    }

    /// Leaves an identity to be removed.
    pub fn remove(&mut self, key: &IdentityKey, cause: &Cause) {
        self.open(key, Weight::Fact);
        let slot = self.slots.entry(key.clone()).or_default();
        if let Some(open) = &mut slot.open {
            open.touch.add(&[ChangeKind::Deleted], Weight::Fact, cause);
        }
        let was_present = slot.present.take().is_some();
        let was_damaged = self.damaged.remove(key).is_some();
        if was_present || was_damaged {
            self.room.removed(key);
        }
    }

    /// Leaves an administrative change for the audit log.
    pub fn audit(&mut self, event: AuditEvent) {
        self.left.audit.push(event);
    }

    /// What is left to be written.
    pub fn into_outcome(self) -> Outcome {
        let mut changes = Vec::new();
        for (key, mut slot) in self.slots {
            slot.close();
            let Some(last) = slot.done.last() else {
                continue;
            };
            let mut touch = Touch::default();
            for step in &slot.done {
                // One that was made anew is there; that it was gone between, its steps say.
                let kinds = step.touch.changes.iter().copied();
                let kinds: Vec<_> = kinds.filter(|kind| *kind != ChangeKind::Deleted).collect();
                touch.add(&kinds, step.touch.weight, &step.touch.cause);
                let notifications = step.touch.notifications.iter();
                touch.notifications.extend(notifications.cloned());
            }
            changes.push(Change {
                key,
                revision: last.revision,
                before: slot.original,
                after: slot.present,
                touch,
                steps: slot.done,
            });
        }
        changes.sort_by_key(|change| change.revision);
        Outcome {
            changes,
            left: self.left,
            population: self.room.added(),
        }
    }

    /// Makes sure that a step is open for an identity that is about to be changed. A step that
    /// another decision made of a fact is closed before: it is a revision of its own.
    fn open(&mut self, key: &IdentityKey, weight: Weight) {
        let slot = self.slots.entry(key.clone()).or_default();
        let ends = slot.open.as_ref().is_some_and(|open| {
            let folds = weight < Weight::Fact && open.touch.only_folds();
            open.touch.weight == Weight::Fact && open.decision != self.decision && !folds
        });
        if ends {
            slot.close();
        }
        if slot.open.is_none() {
            slot.open = Some(Open {
                before: slot.present.clone(),
                touch: Touch::default(),
                revision: self.numbers.next(&key.device),
                decision: self.decision,
            });
        }
    }

    /// Notes what happened to a record with an open step, and stamps the record.
    fn stamped(
        &mut self,
        mut record: Arc<Record>,
        changes: &[ChangeKind],
        weight: Weight,
        cause: &Cause,
    ) -> Arc<Record> {
        let slot = self.slots.entry(record.key.clone()).or_default();
        let Some(open) = &mut slot.open else {
            debug_assert!(false, "a change is opened before it is stamped");
            return record;
        };
        open.touch.add(changes, weight, cause);
        let stamped = Arc::make_mut(&mut record);
        stamped.revision = open.revision;
        stamped.updated_at = self.now;
        record
    }
}

impl Slot {
    /// One that is as it is stored.
    fn of(record: Arc<Record>) -> Slot {
        Slot {
            original: Some(Arc::clone(&record)),
            present: Some(record),
            ..Slot::default()
        }
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take()
            && open.touch.weight > Weight::None
        {
            self.done.push(Step {
                before: open.before,
                after: self.present.clone(),
                touch: open.touch,
                revision: open.revision,
            });
        }
    }
}

#[cfg(test)]
mod tests;
