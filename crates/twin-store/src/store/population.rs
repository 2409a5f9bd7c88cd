//! How many identities a store holds. It is counted in the commits that make and remove them, so
//! that nobody has to go through a million rows to know.

use std::ops::{AddAssign, SubAssign};

use twin::IdentityKey;

/// How many identities there are, or by how many they changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Population {
    /// Devices.
    pub devices: i64,
    /// Modules of all devices.
    pub modules: i64,
}

impl Population {
    /// One identity.
    pub fn one(key: &IdentityKey) -> Population {
        let module = i64::from(key.module.is_some());
        Population {
            devices: 1 - module,
            modules: module,
        }
    }

    /// Says that what was counted along the way is not what there is.
    pub(super) fn differs(self, counted: Population) -> Option<String> {
        (self != counted).then(|| {
            format!(
                "there are {} devices and {} modules, but {} and {} were counted along the way",
                self.devices, self.modules, counted.devices, counted.modules
            )
        })
    }
}

impl AddAssign for Population {
    fn add_assign(&mut self, more: Population) {
        self.devices += more.devices;
        self.modules += more.modules;
    }
}

impl SubAssign for Population {
    fn sub_assign(&mut self, less: Population) {
        self.devices -= less.devices;
        self.modules -= less.modules;
    }
}
