//! One value for each of the three lanes that events travel in.

use std::ops::{Index, IndexMut};

use posture::Lane;

/// Every lane, least urgent first: the order in which events are given up.
pub const LOWEST_FIRST: [Lane; 3] = [Lane::Low, Lane::Medium, Lane::High];

/// One value for each lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PerLane<T> {
    /// Of [`Lane::High`].
    pub high: T,
    /// Of [`Lane::Medium`].
    pub medium: T,
    /// Of [`Lane::Low`].
    pub low: T,
}

impl<T> Index<Lane> for PerLane<T> {
    type Output = T;

    fn index(&self, lane: Lane) -> &T {
        match lane {
            Lane::High => &self.high,
            Lane::Medium => &self.medium,
            Lane::Low => &self.low,
        }
    }
}

impl<T> IndexMut<Lane> for PerLane<T> {
    fn index_mut(&mut self, lane: Lane) -> &mut T {
        match lane {
            Lane::High => &mut self.high,
            Lane::Medium => &mut self.medium,
            Lane::Low => &mut self.low,
        }
    }
}
