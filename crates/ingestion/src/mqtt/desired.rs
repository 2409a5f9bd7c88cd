//! Decides when a session looks at the desired section, and which notifications follow.
//!
//! Pure, and level-triggered as for agents (`push`): a hint, a slow tick and a lost link ask the same
//! question, "what changed since the version that this device was told of?". A device that comes
//! back is not told what it missed; it reads its twin, as devices of IoT Hub do.

use wire::twin::v1::DesiredChange;

/// What a session knows of the delivery of its desired section.
#[derive(Debug, Default)]
pub(super) struct Desired {
    /// The version that the device was told of or could read when it subscribed; `None` while it is
    /// not subscribed.
    known: Option<u64>,
    /// A look is under way.
    looking: bool,
    /// Something happened since that look began, so its answer may be old.
    again: bool,
}

/// Look at what changed since this version.
pub(super) type Look = Option<u64>;

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
    pub(super) fn on_hint(&mut self, version: u64) -> Look {
        if version != 0 && self.known.is_some_and(|known| version <= known) {
            return None;
        }
        self.look()
    }

    /// It is time to look, whatever was said.
    pub(super) fn on_tick(&mut self) -> Look {
        self.look()
    }

    /// The look failed; the next tick looks again.
    pub(super) fn on_failure(&mut self) {
        self.looking = false;
        self.again = false;
    }

    /// What the look found: what to notify the device of, oldest first, and whether to look again.
    pub(super) fn on_changes(&mut self, changes: Vec<DesiredChange>) -> (Vec<DesiredChange>, Look) {
        self.looking = false;
        let mut news = Vec::new();
        if let Some(known) = &mut self.known {
            for change in changes {
                if change.version > *known {
                    *known = change.version;
                    news.push(change);
                }
            }
        }
        let look = if std::mem::take(&mut self.again) {
            self.look()
        } else {
            None
        };
        (news, look)
    }

    fn look(&mut self) -> Look {
        let known = self.known?;
        if self.looking {
            self.again = true;
            return None;
        }
        self.looking = true;
        Some(known)
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
        assert_eq!((desired.on_hint(4), desired.on_tick()), (None, None));
        desired.subscribed(3);
        assert_eq!(desired.on_hint(4), Some(3));
        desired.unsubscribed();
        assert_eq!(desired.on_changes(vec![change(4)]), (vec![], None));
        assert!(!desired.is_subscribed());
    }

    #[test]
    fn each_version_is_told_once_and_in_order() {
        let mut desired = Desired::default();
        desired.subscribed(3);
        desired.subscribed(9);
        assert_eq!(desired.on_hint(3), None, "it is known");
        assert_eq!(desired.on_hint(5), Some(3));
        let found = vec![change(3), change(4), change(5)];
        let told = vec![change(4), change(5)];
        assert_eq!(desired.on_changes(found), (told, None));
        assert_eq!(desired.on_hint(5), None);
        assert_eq!(desired.on_hint(0), Some(5), "it may be newer");
        assert_eq!(desired.on_changes(vec![]), (vec![], None));
    }

    #[test]
    fn what_happens_during_a_look_leads_to_another() {
        let mut desired = Desired::default();
        desired.subscribed(1);
        assert_eq!(desired.on_hint(2), Some(1));
        assert_eq!(desired.on_hint(3), None);
        let news = vec![change(2)];
        assert_eq!(desired.on_changes(news.clone()), (news, Some(2)));
        desired.on_failure();
        assert_eq!(desired.on_tick(), Some(2));
    }
}
