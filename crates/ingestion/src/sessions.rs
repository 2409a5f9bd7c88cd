//! Which sessions are open on this instance, and how others reach them.
//!
//! One session per identity: opening a second one tells the first to end. What others want of a
//! session goes into its mailbox, which keeps only the newest of each kind, so a flood of hints
//! costs a session nothing and never blocks the sender. Only calls of methods are kept one by one;
//! `methods` bounds them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};
use twin::IdentityKey;

use crate::looking::Wish;
use crate::methods::MethodCall;

mod wishes;

/// What others told a session since it last looked.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // notes that are there or not, each by itself
pub(crate) struct Mail {
    /// A newer session of the same identity is open.
    pub(crate) taken_over: bool,
    /// The identity changed: prove it again.
    pub(crate) identity_changed: bool,
    /// The desired section changed, to the highest version named; 0 when none was.
    pub(crate) desired: Option<u64>,
    /// A message waits in the device's queue.
    pub(crate) messages: bool,
    /// Other instances are to be told again that the session is open.
    pub(crate) announce: bool,
    /// The twin is to be told again that the session is open.
    pub(crate) tell_again: bool,
    /// Methods to be called, in the order in which they came.
    pub(crate) calls: Vec<MethodCall>,
}

/// The mailbox of one session.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    arrived: Notify,
    /// Whether the session takes calls of methods.
    takes_methods: AtomicBool,
    /// Whether a shared access policy has vouched for the identity.
    is_by_policy: AtomicBool,
}

impl Mailbox {
    /// Waits for mail and takes all of it. Safe to cancel.
    pub(crate) async fn take(&self) -> Mail {
        loop {
            let arrived = self.arrived.notified();
            let mail = std::mem::take(&mut *lock(&self.mail));
            if mail != Mail::default() {
                return mail;
            }
            arrived.await;
        }
    }

    /// From now on calls of methods may be put here.
    pub(crate) fn take_methods(&self) {
        self.takes_methods.store(true, Ordering::Relaxed);
    }

    /// From now on none may.
    pub(crate) fn take_no_methods(&self) {
        self.takes_methods.store(false, Ordering::Relaxed);
    }

    /// The session is to be proven again when shared access policies change.
    pub(crate) fn is_by_policy(&self) {
        self.is_by_policy.store(true, Ordering::Relaxed);
    }

    fn put(&self, write: impl FnOnce(&mut Mail)) {
        write(&mut lock(&self.mail));
        // There is one reader; the permit is kept when it is not waiting right now.
        self.arrived.notify_one();
    }
}

/// The open sessions of this instance. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    max: usize,
    instance: String,
    open: Mutex<Open>,
    /// What all sessions are to do, and nobody has passed on yet.
    wish: Mutex<Wish>,
    wished: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_identity: BTreeMap<IdentityKey, Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    opened_at: Timestamp,
    mailbox: Arc<Mailbox>,
    /// Resolves when the session has done what it had read.
    finished: oneshot::Receiver<()>,
}

/// There are as many sessions as this instance may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    /// That many.
    pub(crate) max: usize,
}

/// A place among the open sessions; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    sessions: Sessions,
    identity: IdentityKey,
    number: u64,
    opened_at: Timestamp,
    mailbox: Arc<Mailbox>,
    /// Dropped when the session has done what it had read.
    finished: Option<oneshot::Sender<()>>,
    /// The same of the session that this one took over, if there was one.
    older: Option<oneshot::Receiver<()>>,
}

impl Place {
    /// Resolves when the session that this one took over has done what it had read; none: there was
    /// none, or somebody has asked before.
    pub(crate) fn take_older(&mut self) -> Option<oneshot::Receiver<()>> {
        self.older.take()
    }

    /// Says that this session has done what it had read. Its end says so, too.
    pub(crate) fn finished(&mut self) {
        self.finished = None;
    }

    /// Where others leave word for this session.
    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// When the session was entered: what instances compare to find the newest.
    pub(crate) fn opened_at(&self) -> Timestamp {
        self.opened_at
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.sessions.shared.open);
        // A newer session may have the place by now.
        if open
            .by_identity
            .get(&self.identity)
            .is_some_and(|entry| entry.number == self.number)
        {
            open.by_identity.remove(&self.identity);
        }
    }
}

impl Sessions {
    /// No sessions, and room for `max`.
    pub(crate) fn new(max: usize, instance: impl Into<String>) -> Self {
        let instance = instance.into();
        Self {
            shared: Arc::new(Shared {
                max,
                instance,
                open: Mutex::default(),
                wish: Mutex::default(),
                wished: Notify::new(),
            }),
        }
    }

    /// Enters a session, telling an older one of the identity to end.
    pub(crate) fn open(&self, identity: IdentityKey, opened_at: Timestamp) -> Result<Place, Full> {
        let mut open = lock(&self.shared.open);
        let max = self.shared.max;
        if open.by_identity.len() >= max && !open.by_identity.contains_key(&identity) {
            return Err(Full { max });
        }
        open.next += 1;
        let number = open.next;
        let mailbox = Arc::new(Mailbox::default());
        let (finished, when_finished) = oneshot::channel();
        let entry = Entry {
            number,
            opened_at,
            mailbox: Arc::clone(&mailbox),
            finished: when_finished,
        };
        let older = open.by_identity.insert(identity.clone(), entry);
        let older = older.map(|older| {
            older.mailbox.put(|mail| mail.taken_over = true);
            older.finished
        });
        Ok(Place {
            sessions: self.clone(),
            identity,
            number,
            opened_at,
            mailbox,
            finished: Some(finished),
            older,
        })
    }

    /// Says that the desired section of an identity has changed.
    pub(crate) fn desired_changed(&self, identity: &IdentityKey, version: u64) {
        self.tell(identity, |mail| {
            let known = mail.desired.unwrap_or(0);
            // "Not known" must lead to a look, whatever else was said.
            let both_known = version != 0 && mail.desired != Some(0);
            mail.desired = Some(if both_known { version.max(known) } else { 0 });
        });
    }

    /// Says that a message waits for a device.
    pub(crate) fn message_waits(&self, identity: &IdentityKey) {
        self.tell(identity, |mail| mail.messages = true);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        lock(&self.shared.open).by_identity.len()
    }

    /// Says that this run may be taken for ended, and its sessions with it: each says again that it
    /// is open. So many of those behind `last` are told; answers behind whom the others are.
    pub(crate) fn tell_again(
        &self,
        last: Option<&IdentityKey>,
        many: usize,
    ) -> Option<IdentityKey> {
        self.tell_some(last, many, |mailbox| {
            mailbox.put(|mail| mail.tell_again = true);
        })
    }

    fn tell_some(
        &self,
        last: Option<&IdentityKey>,
        many: usize,
        tell: impl Fn(&Mailbox),
    ) -> Option<IdentityKey> {
        let open = lock(&self.shared.open);
        let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
        let range = (behind, Bound::Unbounded);
        let entries = open.by_identity.range::<IdentityKey, _>(range);
        let (mut told, mut newest) = (0, None);
        for (identity, entry) in entries.take(many) {
            tell(&entry.mailbox);
            told += 1;
            newest = Some(identity);
        }
        newest.filter(|_| told == many).cloned()
    }

    /// Says that an identity has changed. A device's change concerns its modules too.
    pub(crate) fn identity_changed(&self, identity: &IdentityKey) {
        if identity.module.is_some() {
            self.tell(identity, |mail| mail.identity_changed = true);
            return;
        }
        let open = lock(&self.shared.open);
        // A device sorts directly before its modules.
        let behind = open.by_identity.range(identity..);
        for (_, entry) in behind.take_while(|(key, _)| key.device == identity.device) {
            entry.mailbox.put(|mail| mail.identity_changed = true);
        }
    }

    /// Says that another instance opened a session for an identity at `opened_at`.
    pub(crate) fn opened_elsewhere(
        &self,
        identity: &IdentityKey,
        instance: &str,
        opened_at: Timestamp,
    ) {
        if instance == self.shared.instance {
            return;
        }
        let open = lock(&self.shared.open);
        let Some(entry) = open.by_identity.get(identity) else {
            return;
        };
        // Both instances hear of each other; the same comparison on both leaves exactly one.
        let ours = (entry.opened_at, self.shared.instance.as_str());
        if ours < (opened_at, instance) {
            entry.mailbox.put(|mail| mail.taken_over = true);
        } else {
            // The older one has not heard of ours.
            entry.mailbox.put(|mail| mail.announce = true);
        }
    }

    /// Whether there is a session of an identity that takes calls of methods.
    pub(crate) fn takes_methods(&self, identity: &IdentityKey) -> bool {
        let open = lock(&self.shared.open);
        let entry = open.by_identity.get(identity);
        entry.is_some_and(|entry| entry.mailbox.takes_methods.load(Ordering::Relaxed))
    }

    /// Gives a session a method to call; false: there is none that takes it.
    pub(crate) fn call(&self, identity: &IdentityKey, call: MethodCall) -> bool {
        let open = lock(&self.shared.open);
        let entry = open.by_identity.get(identity);
        let entry = entry.filter(|it| it.mailbox.takes_methods.load(Ordering::Relaxed));
        let Some(entry) = entry else {
            return false;
        };
        entry.mailbox.put(|mail| mail.calls.push(call));
        true
    }

    fn tell(&self, identity: &IdentityKey, write: impl FnOnce(&mut Mail)) {
        if let Some(entry) = lock(&self.shared.open).by_identity.get(identity) {
            entry.mailbox.put(write);
        }
    }
}

/// The guarded values are changed in one step each, so a panic elsewhere cannot leave them torn.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn key(path: &str) -> IdentityKey {
        IdentityKey::parse_path(path).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn mail(place: &Place) -> Option<Mail> {
        place.mailbox().take().now_or_never()
    }

    #[test]
    fn a_second_session_ends_the_first_and_keeps_its_place() {
        let sessions = Sessions::new(1, "a");
        let first = sessions.open(key("d/m"), at(1)).unwrap();
        let second = sessions.open(key("d/m"), at(2)).unwrap();
        assert!(mail(&first).unwrap().taken_over);
        assert_eq!(mail(&second), None);
        drop(first);
        let other = || sessions.open(key("e/m"), at(3));
        assert!(other().is_err(), "the place belongs to the second");
        drop(second);
        assert!(other().is_ok());
    }

    #[test]
    fn there_is_room_for_so_many_identities_only() {
        let sessions = Sessions::new(1, "a");
        let first = sessions.open(key("d/m"), at(1)).unwrap();
        assert_eq!(
            sessions.open(key("e/m"), at(1)).err(),
            Some(Full { max: 1 })
        );
        drop(first);
        assert!(sessions.open(key("e/m"), at(1)).is_ok());
    }

    #[test]
    fn hints_are_gathered_and_an_unknown_version_wins() {
        let sessions = Sessions::new(9, "a");
        let place = sessions.open(key("d/m"), at(1)).unwrap();
        for version in [3, 5, 4] {
            sessions.desired_changed(&key("d/m"), version);
        }
        assert_eq!(mail(&place).unwrap().desired, Some(5));
        assert_eq!(mail(&place), None);
        for version in [0, 5] {
            sessions.desired_changed(&key("d/m"), version);
        }
        assert_eq!(mail(&place).unwrap().desired, Some(0));
    }

    #[test]
    fn a_change_of_a_device_reaches_its_modules() {
        let sessions = Sessions::new(9, "a");
        let module = sessions.open(key("d/m"), at(1)).unwrap();
        let other = sessions.open(key("e/m"), at(1)).unwrap();
        sessions.identity_changed(&key("d"));
        assert!(mail(&module).unwrap().identity_changed);
        assert_eq!(mail(&other), None);
    }

    #[test]
    fn methods_go_to_sessions_that_take_them() {
        let sessions = Sessions::new(9, "a");
        let call = |rid: &str| MethodCall {
            rid: rid.to_owned(),
            name: "reboot".to_owned(),
            payload: bytes::Bytes::new(),
        };
        assert!(!sessions.call(&key("d"), call("1")));
        let place = sessions.open(key("d"), at(1)).unwrap();
        assert!(!sessions.takes_methods(&key("d")) && !sessions.call(&key("d"), call("2")));
        place.mailbox().take_methods();
        assert!(sessions.takes_methods(&key("d")) && !sessions.takes_methods(&key("d/m")));
        assert!(sessions.call(&key("d"), call("3")) && sessions.call(&key("d"), call("4")));
        assert_eq!(mail(&place).unwrap().calls, [call("3"), call("4")]);
    }

    #[test]
    fn of_two_instances_exactly_one_keeps_the_session() {
        let (a, b) = (Sessions::new(9, "a"), Sessions::new(9, "b"));
        for (at_a, at_b) in [(1, 2), (2, 1), (1, 1)] {
            let on_a = a.open(key("d/m"), at(at_a)).unwrap();
            let on_b = b.open(key("d/m"), at(at_b)).unwrap();
            a.opened_elsewhere(&key("d/m"), "b", at(at_b));
            b.opened_elsewhere(&key("d/m"), "a", at(at_a));
            a.opened_elsewhere(&key("d/m"), "a", at(99));
            let (to_a, to_b) = (mail(&on_a).unwrap(), mail(&on_b).unwrap());
            assert_ne!(to_a.taken_over, to_b.taken_over, "{at_a} {at_b}");
            // The other says again that it is there, in case the first has not heard of it.
            assert_eq!(to_a.taken_over, to_b.announce, "{at_a} {at_b}");
            assert_eq!(to_b.taken_over, to_a.announce, "{at_a} {at_b}");
        }
    }

    #[test]
    fn sessions_say_again_that_they_are_open_some_at_a_time() {
        let sessions = Sessions::new(9, "a");
        let places: Vec<_> = ["a", "b", "c"]
            .map(|path| sessions.open(key(path), Timestamp::UNIX_EPOCH).unwrap())
            .into();
        let told = || {
            let mail = places.iter().map(|place| place.mailbox().take());
            let told = mail.map(|mail| mail.now_or_never().is_some_and(|mail| mail.tell_again));
            told.collect::<Vec<_>>()
        };
        let last = sessions.tell_again(None, 2);
        assert_eq!(last, Some(key("b")));
        assert_eq!(told(), [true, true, false]);
        assert_eq!(sessions.tell_again(last.as_ref(), 2), None);
        assert_eq!(told(), [false, false, true]);
        let none = Sessions::new(9, "a");
        assert_eq!(none.tell_again(None, 2), None);
    }
}
