//! A device's tags on the records of its modules: handed down with every write of them, in the same
//! commit, so that whoever looks at a module (searches, watches, policies) sees what its device has.
//!
//! The one place that does so. The device's own record is what counts; what a module carries is a copy.

use twin::{DeviceId, IdentityKey};

use super::{Overlay, Slot};
use crate::apply::{Cause, ChangeKind, Weight};
use crate::error::Error;
use crate::record::Record;
use crate::store::{Loaded, Selection};

impl Overlay {
    /// What has to be loaded before tags can be handed down: the modules of devices whose tags decisions
    /// have written; none if they wrote none. A device that was not there before has no modules that are
    /// stored.
    pub(crate) fn heirs(&self) -> Option<Vec<Selection>> {
        let mut devices = self.written().peekable();
        devices.peek()?;
        let devices = devices.filter(|(_, slot)| slot.original.is_some());
        let families = devices.map(|(key, _)| Selection::Family(key.device.clone()));
        Some(families.collect())
    }

    /// How many devices there are whose tags decisions have written, and which may have modules that are stored.
    pub(crate) fn givers(&self) -> usize {
        self.tagged.len()
    }

    /// Notes that a decision writes the tags of a device, if it does.
    pub(super) fn may_give(&mut self, record: &Record) {
        let slot = self.slots.get(&record.key);
        let before = slot.and_then(|slot| slot.original.as_ref());
        let tags = &record.twin.tags.document;
        let gives = before.is_some_and(|before| before.twin.tags.document != *tags);
        if record.key.module.is_none() && gives {
            self.tagged.insert(record.key.device.clone());
        }
    }

    /// The devices whose tags decisions have written.
    fn written(&self) -> impl Iterator<Item = (&IdentityKey, &Slot)> {
        let devices = self.slots.iter();
        devices.filter(|(key, slot)| key.module.is_none() && slot.wrote_tags())
    }

    /// Hands down what tags decisions have written, to the modules that are here and to those loaded.
    pub(crate) fn hand_down(&mut self, loaded: Vec<Loaded>) {
        for item in loaded {
            // What is damaged cannot be written; whoever mends it makes it anew.
            if let Loaded::Whole(record) = item {
                self.slots
                    .entry(record.key.clone())
                    .or_insert_with(|| Slot::of(record.into()));
            }
        }
        self.begin();
        let devices = self.written();
        let devices: Vec<_> = devices
            .map(|(key, slot)| (key.clone(), slot.why()))
            .collect();
        for (device, cause) in devices {
            self.hand_down_of(&device, &cause);
        }
    }

    /// Hands a device's tags down to its modules that do not have them; answers how many those were. Its
    /// family must be loaded.
    ///
    /// # Errors
    /// The device is not there, or cannot be read.
    pub(crate) fn hand_down_again(&mut self, device: &DeviceId) -> Result<usize, Error> {
        let key = IdentityKey::new_device(device.clone());
        self.get(&key)?;
        Ok(self.hand_down_of(&key, &Cause::default()))
    }

    fn hand_down_of(&mut self, device: &IdentityKey, cause: &Cause) -> usize {
        let Some(tags) = self.tags_of(device) else {
            return 0;
        };
        let family = self.slots.range(device..);
        let family = family.take_while(|(key, _)| key.device == device.device);
        let modules = family.filter(|(key, _)| key.module.is_some());
        let behind = modules.filter_map(|(_, slot)| {
            let present = slot.present.as_ref();
            present.filter(|record| record.device_tags.as_ref() != Some(&tags))
        });
        let behind: Vec<Record> = behind.map(|record| Record::clone(record)).collect();
        let count = behind.len();
        for module in behind {
            let module = Record {
                device_tags: Some(tags.clone()),
                ..module
            };
            self.put(module, &[ChangeKind::DeviceTags], Weight::Fact, cause);
        }
        count
    }

    /// The tags of a device, if it can be read.
    pub(super) fn tags_of(&self, device: &IdentityKey) -> Option<String> {
        let record = self.find(device).ok().flatten()?;
        Some(record.twin.tags.document.clone())
    }
}

impl Slot {
    /// Whether the device has other tags than are stored.
    fn wrote_tags(&self) -> bool {
        let is_touched = self.open.is_some() || !self.done.is_empty();
        let before = self.original.as_ref();
        is_touched
            && self.present.as_ref().is_some_and(|after| {
                let tags = &after.twin.tags.document;
                before.is_none_or(|before| before.twin.tags.document != *tags)
            })
    }

    /// Why it was changed last.
    fn why(&self) -> Cause {
        let open = self.open.as_ref().map(|open| &open.touch);
        let touch = open.or_else(|| self.done.last().map(|step| &step.touch));
        touch.map(|touch| touch.cause.clone()).unwrap_or_default()
    }
}
