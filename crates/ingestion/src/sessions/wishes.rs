//! What all sessions are to do: noted here, and passed on some at a time by `looking`.

use std::sync::atomic::Ordering;

use twin::IdentityKey;

use super::{Sessions, lock};
use crate::looking::Wish;

impl Sessions {
    /// Says that hints may have been lost: everybody looks again, and says again that it is here, for
    /// another instance may hold a session of the same identity by now.
    pub(crate) fn look_again(&self) {
        self.wish(Wish {
            looks: true,
            announces: true,
        });
    }

    /// The same where everybody's saying so would have hints dropped once more: each session says from
    /// time to time that it is here.
    pub(crate) fn look_quietly(&self) {
        self.wish(Wish {
            looks: true,
            announces: false,
        });
    }

    /// Says that the hub's shared access policies have changed: those prove themselves again for whom one
    /// has vouched, all at once. Few do, and a key that was taken away opens nothing from now on.
    pub(crate) fn policies_changed(&self) {
        self.tell_some(None, usize::MAX, |mailbox| {
            if mailbox.is_by_policy.load(Ordering::Relaxed) {
                mailbox.put(|mail| mail.identity_changed = true);
            }
        });
    }

    /// All sessions are to do something, which `looking` has them do some at a time.
    fn wish(&self, wish: Wish) {
        let mut wished = lock(&self.shared.wish);
        *wished = wished.and(wish);
        self.shared.wished.notify_one();
    }

    /// Waits until all sessions are to do something. Safe to cancel; for one task alone.
    pub(crate) async fn wished(&self) -> Wish {
        loop {
            let wish = std::mem::take(&mut *lock(&self.shared.wish));
            if wish != Wish::default() {
                return wish;
            }
            self.shared.wished.notified().await;
        }
    }

    /// Has so many of the sessions behind `last` do what is wished; answers behind whom the others are.
    pub(crate) fn pass_on(
        &self,
        wish: Wish,
        last: Option<&IdentityKey>,
        many: usize,
    ) -> Option<IdentityKey> {
        self.tell_some(last, many, |mailbox| {
            mailbox.put(|mail| {
                if wish.looks {
                    mail.desired = Some(0);
                    mail.messages = true;
                }
                mail.announce |= wish.announces;
            });
        })
    }
}
