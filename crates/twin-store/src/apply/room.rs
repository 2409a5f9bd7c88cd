//! How many identities a hub may have, and whether there is room for another.

use twin::IdentityKey;

use super::Overlay;
use crate::error::Error;
use crate::store::Population;

/// How many identities a hub may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The setting `devices_max`.
    pub devices_max: u64,
    /// The setting `modules_max`.
    pub modules_max: u64,
}

impl Limits {
    /// No limit at all.
    pub const NONE: Limits = Limits {
        devices_max: u64::MAX,
        modules_max: u64::MAX,
    };
}

/// What is left of the limits while decisions are made.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    limits: Limits,
    present: Population,
    /// By what is decided and not committed.
    added: Population,
}

impl Room {
    /// In a hub that has so many identities.
    pub fn new(limits: Limits, present: Population) -> Room {
        Room {
            limits,
            present,
            added: Population::default(),
        }
    }

    /// Without any limit.
    pub(super) fn unlimited() -> Room {
        Room::new(Limits::NONE, Population::default())
    }

    /// Whether one more identity may be made.
    ///
    /// # Errors
    /// There are as many as the setting allows.
    pub(super) fn admit(&self, key: &IdentityKey) -> Result<(), Error> {
        let mut all = self.present;
        all += self.added;
        let (what, count, allowed, setting) = match key.module {
            None => (
                "devices",
                all.devices,
                self.limits.devices_max,
                "devices_max",
            ),
            Some(_) => (
                "modules",
                all.modules,
                self.limits.modules_max,
                "modules_max",
            ),
        };
        if u64::try_from(count).unwrap_or(0) < allowed {
            return Ok(());
        }
        Err(Error::HubFull {
            what,
            allowed,
            setting,
        })
    }

    /// Counts an identity that is made.
    pub(super) fn made(&mut self, key: &IdentityKey) {
        self.added += Population::one(key);
    }

    /// Counts an identity that is removed.
    pub(super) fn removed(&mut self, key: &IdentityKey) {
        self.added -= Population::one(key);
    }

    /// By how many identities the decisions changed the hub.
    pub(super) fn added(&self) -> Population {
        self.added
    }
}

impl Overlay {
    /// The same in a hub with this much room for more identities.
    #[must_use]
    pub fn within(mut self, room: Room) -> Overlay {
        self.room = room;
        self
    }

    /// Whether the hub may have one more identity.
    ///
    /// # Errors
    /// It has as many as it may.
    pub fn admit(&self, key: &IdentityKey) -> Result<(), Error> {
        self.room.admit(key)
    }
}
