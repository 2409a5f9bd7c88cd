//! Decides when a session looks at the desired section, and which notifications follow.
//!
//! Pure, and level-triggered as for agents (`push`): a hint, a slow tick and a lost link ask the same
//! question, "what changed since the version that this device was told of?". It is asked only while
//! there is room for the answer, so a device that does not read costs a note and no memory, however
//! often its twin changes. A device that comes back is not told what it missed; it reads its twin, as
//! devices of IoT Hub do.

use wire::twin::v1::DesiredChange;

/// What a session knows of the delivery of its desired section.
#[derive(Debug, Default)]
pub(super) struct Desired {
    /// The version that the device was told of or could read when it subscribed; `None` while it is
    /// not subscribed.
    known: Option<u64>,
    /// A look is under way.
    looking: bool,
    /// Something happened since the last look began.
    wanted: bool,
}

impl Desired {
    /// The device is subscribed, and this is the present version.
    pub(super) fn subscribed(&mut self, version: u64) {
        self.known.get_or_insert(version);
    }

    /// Whether the device is subscribed.
    pub(super) fn is_subscribed(&self) -> bool {
        self.known.is_some()
    }

    /// The device is not subscribed any more.
    pub(super) fn unsubscribed(&mut self) {
        self.known = None;
    }

    /// Somebody says that the section has this version; 0 when it is not known.
    pub(super) fn on_hint(&mut self, version: u64) {
        if version == 0 || self.known.is_none_or(|known| version > known) {
            self.wanted = true;
        }
    }

    /// It is time to look, whatever was said.
    pub(super) fn on_tick(&mut self) {
        self.wanted = true;
    }

    /// Since which version to look now, if at all. To be asked while there is room for the answer;
    /// then [`Desired::on_changes`] or [`Desired::on_failure`].
    pub(super) fn look(&mut self) -> Option<u64> {
        let known = self.known?;
        if self.looking || !self.wanted {
            return None;
        }
        (self.looking, self.wanted) = (true, false);
        Some(known)
    }

    /// The look failed; the next tick looks again.
    pub(super) fn on_failure(&mut self) {
        (self.looking, self.wanted) = (false, false);
    }

    /// What the look found, of a section that has the version `present`: what to notify the device
    /// of, oldest first. Not all that changed need be there.
    pub(super) fn on_changes(
        &mut self,
        changes: Vec<DesiredChange>,
        present: u64,
    ) -> Vec<DesiredChange> {
        self.looking = false;
        let Some(known) = &mut self.known else {
            return Vec::new();
        };
        let mut news = Vec::new();
        for change in changes {
            if change.version > *known {
                *known = change.version;
                news.push(change);
            }
        }
        // Without news another look would find none either.
        if !news.is_empty() && *known < present {
            self.wanted = true;
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(version: u64) -> DesiredChange {
        DesiredChange {
            version,
            patch_json: format!("{{\"v\":{version}}}"),
        }
    }

    #[test]
    fn nobody_is_told_who_has_not_subscribed() {
        let mut desired = Desired::default();
        desired.on_tick();
        assert_eq!(desired.look(), None);
        desired.subscribed(3);
        assert_eq!(desired.look(), Some(3));
        desired.unsubscribed();
        assert_eq!(desired.on_changes(vec![change(4)], 4), vec![]);
        desired.on_hint(5);
        assert_eq!(desired.look(), None);
        assert!(!desired.is_subscribed());
    }

    #[test]
    fn each_version_is_told_once_and_in_order() {
        let mut desired = Desired::default();
        desired.subscribed(3);
        desired.subscribed(9);
        desired.on_hint(3);
        assert_eq!(desired.look(), None, "it is known");
        desired.on_hint(5);
        assert_eq!(desired.look(), Some(3));
        let found = vec![change(3), change(4), change(5)];
        assert_eq!(desired.on_changes(found, 5), vec![change(4), change(5)]);
        desired.on_hint(5);
        assert_eq!(desired.look(), None);
        desired.on_hint(0);
        assert_eq!(desired.look(), Some(5), "it may be newer");
        assert_eq!(desired.on_changes(vec![], 5), vec![]);
        assert_eq!(desired.look(), None);
    }

    #[test]
    fn what_happens_during_a_look_leads_to_another() {
        let mut desired = Desired::default();
        desired.subscribed(1);
        desired.on_hint(2);
        assert_eq!(desired.look(), Some(1));
        desired.on_hint(3);
        assert_eq!(desired.look(), None, "one at a time");
        assert_eq!(desired.on_changes(vec![change(2)], 2), vec![change(2)]);
        assert_eq!(desired.look(), Some(2));
        desired.on_failure();
        assert_eq!(desired.look(), None, "not at once");
        desired.on_tick();
        assert_eq!(desired.look(), Some(2));
    }

    #[test]
    fn hints_are_one_look_for_whoever_has_no_room_and_the_rest_is_looked_for_later() {
        let mut desired = Desired::default();
        desired.subscribed(1);
        for version in 2..1000 {
            desired.on_hint(version);
        }
        assert_eq!(desired.look(), Some(1));
        assert_eq!(desired.look(), None);
        let some = vec![change(2), change(3)];
        assert_eq!(desired.on_changes(some.clone(), 999), some);
        assert_eq!(desired.look(), Some(3));
        assert_eq!(desired.on_changes(vec![], 999), vec![]);
        assert_eq!(desired.look(), None, "nothing is found there");
    }
}
