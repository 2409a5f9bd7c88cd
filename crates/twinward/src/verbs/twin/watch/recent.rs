//! What was told since the last bookmark: a watch that resumes there hears it again.

use std::collections::HashMap;

use client::Event;

/// Whether an event tells something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// It was told before the connection broke.
    Known,
    /// It was not.
    New,
}

/// Revisions by twin. Bookmarks come every ten seconds, so that this stays small.
#[derive(Debug, Default)]
pub(super) struct Recent(HashMap<String, u64>);

impl Recent {
    /// Takes an event in.
    pub(super) fn take(&mut self, event: &Event) -> News {
        match event {
            Event::Twin { twin, changes, .. } => {
                // The present state has no changes, and is never a repetition.
                let known = self.0.get(&twin.name).copied().unwrap_or(0);
                if !changes.is_empty() && twin.revision != 0 && twin.revision <= known {
                    return News::Known;
                }
                self.0.insert(twin.name.clone(), twin.revision);
            }
            Event::Begins(_) | Event::Synced(_) | Event::Bookmark => self.0.clear(),
            Event::Deleted(_) | Event::Unmatched(_) | Event::Interrupted { .. } => {}
        }
        News::New
    }
}

#[cfg(test)]
mod tests {
    use client::Begin;
    use wire::twin::v1 as api;

    use super::*;

    fn changed(name: &str, revision: u64) -> Event {
        Event::Twin {
            twin: Box::new(api::Twin {
                name: name.to_owned(),
                revision,
                ..Default::default()
            }),
            changes: vec![api::Change::Tags],
            trace_parent: String::new(),
        }
    }

    #[test]
    fn what_was_told_since_the_bookmark_is_not_told_again() {
        let mut recent = Recent::default();
        recent.take(&Event::Bookmark);
        assert_eq!(recent.take(&changed("a", 5)), News::New);
        assert_eq!(recent.take(&changed("b", 4)), News::New);
        let why = String::new();
        let pause = std::time::Duration::ZERO;
        recent.take(&Event::Interrupted { why, pause });
        assert_eq!(recent.take(&changed("a", 5)), News::Known);
        assert_eq!(recent.take(&changed("b", 6)), News::New);
    }

    #[test]
    fn beginning_anew_tells_everything_again() {
        let mut recent = Recent::default();
        recent.take(&changed("a", 5));
        recent.take(&Event::Begins(Begin::TokenTooOld));
        assert_eq!(recent.take(&changed("a", 5)), News::New);
    }
}
