//! Following a cache: which keys changed, with their last values.

use std::sync::Arc;

use futures::Stream;
use twin::IdentityKey;

use super::Shared;
use super::cache::{Subscription, Told};

/// What became of a twin since its follower was last told of it.
#[derive(Debug)]
pub enum Change<T> {
    /// It is kept, and this is what is kept of it.
    Kept(IdentityKey, Arc<T>),
    /// It is not kept any more: deleted, not matching, or nothing is made of it. Also told of a
    /// twin that came and went between two calls.
    Removed(IdentityKey),
}

/// Follows an informer's cache. Many changes of one twin between two calls are one.
#[derive(Debug)]
pub struct Changes<T> {
    subscription: Subscription,
    shared: Arc<Shared<T>>,
}

impl<T> Changes<T> {
    pub(super) fn new(subscription: Subscription, shared: Arc<Shared<T>>) -> Changes<T> {
        Changes {
            subscription,
            shared,
        }
    }

    /// Waits for the next change; none once the informer's runner has ended and everything was
    /// told. May be dropped at any time; nothing is lost.
    pub async fn next(&mut self) -> Option<Change<T>> {
        loop {
            // Kept apart from the match, so that the lock is gone before anything waits.
            let told = self.shared.cache().take(self.subscription.id);
            match told {
                Told::Changed(key, Some(value)) => return Some(Change::Kept(key, value)),
                Told::Changed(key, None) => return Some(Change::Removed(key)),
                Told::Ended => return None,
                // A wake-up between the look and this wait is kept for it.
                Told::Nothing => self.subscription.wake.notified().await,
            }
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Change<T>> {
        futures::stream::unfold(self, |mut changes| async move {
            let change = changes.next().await?;
            Some((change, changes))
        })
    }
}
