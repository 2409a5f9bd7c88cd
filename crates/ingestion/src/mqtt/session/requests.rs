//! The requests of one device to twin-store: one after the other, because a second patch must not
//! overtake the first.
//!
//! Pure. It never knows what a request is about, but for its bytes, which somebody has to keep.

use std::collections::VecDeque;

use super::{Effect, Request};

/// Requests that one device may have waiting.
const REQUESTS_MAX: usize = 8;

/// Those that wait, and the one on its way.
#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: VecDeque<Request>,
    /// Of the one on its way: its bytes.
    asking: Option<usize>,
}

impl Requests {
    /// Whether another may come.
    pub(super) fn have_room(&self) -> bool {
        self.waiting.len() < REQUESTS_MAX
    }

    /// What they take, with the one on its way.
    pub(super) fn bytes(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(Request::bytes).sum();
        waiting + self.asking.unwrap_or(0)
    }

    /// Whether one is on its way; only then others can wait.
    pub(super) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// One more.
    #[must_use]
    pub(super) fn ask(&mut self, request: Request) -> Option<Effect> {
        self.waiting.push_back(request);
        self.next()
    }

    /// The one on its way was answered.
    #[must_use]
    pub(super) fn answered(&mut self) -> Option<Effect> {
        debug_assert!(self.asking.is_some(), "only what was asked is answered");
        self.asking = None;
        self.next()
    }

    /// Forgets those that wait.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }

    /// Forgets those that wait and are no patches.
    pub(super) fn keep_patches(&mut self) {
        self.waiting
            .retain(|request| matches!(request, Request::PatchReported { .. }));
    }

    fn next(&mut self) -> Option<Effect> {
        if self.asking.is_some() {
            return None;
        }
        let request = self.waiting.pop_front()?;
        self.asking = Some(request.bytes());
        Some(Effect::Ask(request))
    }
}
