//! Direct actions: methods of devices that policies call when they begin to hold for a twin.
//!
//! Whoever looks at a twin (the consumers, the sweep) says so here, and goes on when what follows from
//! it is durable. One worker owns where each action stands (`place`, pure; `book`, all of them): it keeps
//! that a call begins before it goes out and what came of it after, so each cause is called once at most,
//! whatever happens to events and to this service. A call is made of the twin as it is then, and only if
//! the policy still applies to it, so nobody is called for what was true yesterday.
//!
//! It changes no twin and knows no connection: twin-store brings calls to devices, and writes each into
//! the audit log before it goes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use service_kit::clock::SharedClock;
use tokio::sync::{Mutex, mpsc, oneshot};
use twin::IdentityKey;

use crate::evaluate::Interest;
use crate::metrics::Metrics;
use crate::policies::Policies;
use crate::policy_doc::{Action, PolicyId};
use crate::store::{self, ActionOutcome, ActionResult, Store};
use crate::twin_document::{TwinDocument, scope_of};

mod book;
mod call;
mod limits;
mod look;
mod place;
mod worker;

pub(crate) use book::{ActionId, ActionKey, Change};
pub(crate) use place::{Due, Place, State};
pub(crate) use worker::Worker;

use book::Book;
use place::Ended;

/// Looks that wait for the worker; whoever brings more waits.
const INBOX_MAX: usize = 256;

/// What the worker is told.
#[derive(Debug)]
enum Message {
    /// A twin, as it was in this revision, changes where an action stands.
    Look(Box<TwinDocument>, u64, oneshot::Sender<()>),
    /// A twin was removed in this revision.
    Gone(IdentityKey, u64, oneshot::Sender<()>),
    /// Every twin that a sweep finds was looked at.
    Swept(u64),
}

/// The handle. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Actions {
    policies: Policies,
    book: Arc<Mutex<Book>>,
    inbox: mpsc::Sender<Message>,
    clock: SharedClock,
}

impl Actions {
    /// Takes over what the store holds, and makes the worker. What was under way when the service ended is
    /// noted as unknown before anything else happens.
    pub(crate) async fn open(
        store: Store,
        policies: Policies,
        clock: SharedClock,
        metrics: Metrics,
    ) -> Result<(Actions, worker::Parts), store::Error> {
        let now = clock.now();
        let (mut changes, mut results) = (Vec::new(), Vec::new());
        let mut places = BTreeMap::new();
        let kept = store.action_places().await?;
        policies.note_damage(&kept.problems);
        for (key, place) in kept.found {
            let State::Calling {
                revision, begun, ..
            } = place.state
            else {
                places.insert(key, place);
                continue;
            };
            let set = policies.set();
            let action = look::newest(&set, &key.id.policy, &key.id.action);
            let after = place.end(Ended::Unknown, action.map(place::Terms::of), now);
            changes.push((key.clone(), Some(after.clone())));
            results.push(ActionResult {
                key: key.clone(),
                revision,
                cause: place.cause,
                outcome: ActionOutcome::Unknown,
                status: 0,
                payload: String::new(),
                error: "the service ended while it waited for the answer; whether the device \
                        carried the call out is not known"
                    .to_owned(),
                begun: Some(begun),
                ended: now,
            });
            metrics.action_ended(&key.id.policy, ActionOutcome::Unknown);
            places.insert(key, after);
        }
        if !results.is_empty() {
            store.write_actions(changes, results).await?;
        }
        let limits = limits::Limits::load(&store, now).await?;
        let book = Arc::new(Mutex::new(Book::new(places)));
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let actions = Actions {
            policies: policies.clone(),
            book: Arc::clone(&book),
            inbox: sender,
            clock: clock.clone(),
        };
        let parts = worker::Parts {
            policies,
            store,
            clock,
            metrics,
            book,
            inbox,
            limits,
        };
        Ok((actions, parts))
    }

    /// Somebody looks at a twin, of which this has changed (none: nobody knows). Returns when what follows is
    /// durable; false if the service stopped before.
    pub(crate) async fn observe(
        &self,
        twin: &wire::twin::v1::Twin,
        changed: Option<Interest>,
    ) -> bool {
        // What cannot be read is told by whoever decides on it.
        let Ok(key) = wire::names::identity_from_ids(&twin.device_id, &twin.module_id) else {
            return true;
        };
        let set = self.policies.set();
        let scope = scope_of(&key);
        let concerns = changed.is_none_or(|changed: Interest| {
            let mut concerned = set.concerned(scope, changed);
            changed.created || concerned.any(|active| look::acts(active))
        });
        // Where no policy has actions any more, the worker ends what they had begun by itself (`swept`).
        if !set.in_scope(scope).any(|active| look::acts(active)) {
            return true;
        }
        if !concerns && !self.book.lock().await.knows(&key) {
            return true;
        }
        let Ok(document) = TwinDocument::from_wire(twin) else {
            return true;
        };
        let is_news = {
            let mut book = self.book.lock().await;
            if book.is_closed() {
                return false;
            }
            let woken = book.saw(&key, twin.revision, document.is_connected());
            let found = look::found(&set, &document, &book);
            let news = book.look(&key, twin.revision, &found, self.clock.now());
            woken || !news.is_empty()
        };
        if !is_news {
            return true;
        }
        let (done, kept) = oneshot::channel();
        self.tell(Message::Look(Box::new(document), twin.revision, done), kept)
            .await
    }

    /// A twin was removed, in this revision. False if the service stopped before that was noted.
    pub(crate) async fn gone(&self, twin: &IdentityKey, age: u64) -> bool {
        if !self.book.lock().await.knows(twin) {
            return true;
        }
        let (done, kept) = oneshot::channel();
        self.tell(Message::Gone(twin.clone(), age, done), kept)
            .await
    }

    async fn tell(&self, message: Message, kept: oneshot::Receiver<()>) -> bool {
        self.inbox.send(message).await.is_ok() && kept.await.is_ok()
    }

    /// A sweep begins; answers its number.
    pub(crate) async fn sweep_begins(&self) -> u64 {
        self.book.lock().await.begin_round()
    }

    /// A sweep has looked at every twin that it found. Where a policy is said to hold and nobody looked, it
    /// is looked at now: a sweep does not find a twin that a policy has left without having set anything.
    pub(crate) async fn swept(&self, round: u64) {
        // A worker that is gone leaves nothing to be looked at.
        let _ = self.inbox.send(Message::Swept(round)).await;
    }

    /// Whether a draft of a policy would call this action of a twin to which it applies.
    pub(crate) async fn would_call(
        &self,
        twin: &IdentityKey,
        policy: (&PolicyId, u64),
        action: &Action,
    ) -> bool {
        look::would_call(&*self.book.lock().await, twin, policy, action)
    }

    /// What is due or under way of a policy, of one device or (empty) of all, at most so many, and how many
    /// there are in all.
    pub(crate) async fn pending(
        &self,
        policy: &PolicyId,
        device: &str,
        limit: usize,
    ) -> (Vec<(ActionKey, Place)>, usize) {
        let book = self.book.lock().await;
        let mut all = 0;
        let mut found = Vec::new();
        for (twin, id, place) in book.iter() {
            let is_pending = matches!(place.state, State::Due(_) | State::Calling { .. });
            let is_asked = device.is_empty() || twin.device.as_str() == device;
            if is_pending && is_asked && id.policy == *policy {
                all += 1;
                if found.len() < limit {
                    let (twin, id) = (twin.clone(), id.clone());
                    found.push((ActionKey { twin, id }, place.clone()));
                }
            }
        }
        (found, all)
    }
}
