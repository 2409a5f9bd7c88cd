//! The one who owns where actions stand: takes in what was seen, keeps it, and then calls.
//!
//! What happens at once is kept at once, in one transaction. Nothing goes out before it is kept that it
//! goes out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tokio::sync::{Mutex, mpsc, oneshot};
use tonic::Code;
use tracing::{debug, warn};
use twin::IdentityKey;
use wire::device::v1::InvokeMethodRequest;
use wire::names::identity_name;

use super::Message;
use super::book::{ActionKey, Book};
use super::call::{Invoked, invoke};
use super::limits::{Limits, Room};
use super::place::Place;
use crate::evaluate::PolicySet;
use crate::metrics::Metrics;
use crate::policies::Policies;
use crate::policy_doc::{Actions, ActionsSpec, PolicyId};
use crate::rollout::Phase;
use crate::store::{ActionResult, Store, StoredPolicy};
use crate::twin_document::TwinDocument;
use crate::twin_store::{Failure, TwinStore};

mod steps;

/// Messages that are kept together.
const TOGETHER_MAX: usize = 256;

/// Twins that are looked at anew at a time.
const RECHECKS_MAX: usize = 8;

/// How long calls may still take when the service stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Before the store is tried again.
const KEEP_AGAIN: Duration = Duration::from_secs(1);

/// What the worker is made of.
pub(crate) struct Parts {
    pub(super) policies: Policies,
    pub(super) store: Store,
    pub(super) clock: SharedClock,
    pub(super) metrics: Metrics,
    pub(super) book: Arc<Mutex<Book>>,
    pub(super) inbox: mpsc::Receiver<Message>,
    pub(super) limits: Limits,
}

/// The worker.
pub(crate) struct Worker {
    parts: Parts,
    twins: TwinStore,
    shutdown: ShutdownToken,
    set: Arc<PolicySet>,
    /// What it waits for: twins that are read, calls that are under way.
    io: FuturesUnordered<BoxFuture<'static, Event>>,
    calling: usize,
    rechecks: VecDeque<IdentityKey>,
    rechecking: usize,
}

/// A call that goes out.
#[derive(Debug, Clone)]
struct Going {
    key: ActionKey,
    revision: u64,
    cause: u64,
    begun: Timestamp,
    request: InvokeMethodRequest,
    within: Duration,
}

/// What it waited for.
enum Event {
    /// A twin was read, of which something is due.
    Read(ActionKey, Result<(TwinDocument, u64), Unread>),
    /// A call has ended.
    Called(Going, Invoked),
    /// A twin was read at which no sweep looked.
    Rechecked(IdentityKey, Result<(TwinDocument, u64), Unread>),
}

enum Unread {
    Gone,
    Failed,
}

/// What is to be kept, and done then.
#[derive(Default)]
struct Turn {
    changes: BTreeMap<ActionKey, Option<Place>>,
    results: Vec<ActionResult>,
    going: Vec<Going>,
    acks: Vec<oneshot::Sender<()>>,
}

impl Worker {
    /// Calls over this twin-store.
    pub(crate) fn new(parts: Parts, twins: TwinStore, shutdown: ShutdownToken) -> Worker {
        Worker {
            set: parts.policies.set(),
            parts,
            twins,
            shutdown,
            io: FuturesUnordered::new(),
            calling: 0,
            rechecks: VecDeque::new(),
            rechecking: 0,
        }
    }

    /// Works until the service stops.
    pub(crate) async fn run(mut self) {
        let mut policies = self.parts.policies.changes();
        let mut messages = Vec::new();
        // What was deleted while nobody was there.
        let mut goes_on = self.work(Vec::new(), Vec::new()).await;
        while goes_on {
            policies.set();
            let wake = self.start().await;
            let pause = async {
                match wake {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            let mut events = Vec::new();
            tokio::select! {
                () = self.shutdown.triggered() => break,
                count = self.parts.inbox.recv_many(&mut messages, TOGETHER_MAX) => {
                    if count == 0 {
                        break;
                    }
                }
                Some(event) = self.io.next() => events.push(event),
                more = policies.changed() => {
                    if !more {
                        break;
                    }
                }
                () = pause => {}
            }
            goes_on = self.work(std::mem::take(&mut messages), events).await;
        }
        self.parts.book.lock().await.close();
        self.parts.inbox.close();
        let drain = async {
            while self.calling > 0
                && let Some(event) = self.io.next().await
            {
                self.work(Vec::new(), vec![event]).await;
            }
        };
        // What is still under way then is unknown at the next start.
        let _ = tokio::time::timeout(DRAIN, drain).await;
    }

    /// Takes in what happened, keeps it and has calls go out; false if the service stopped before.
    async fn work(&mut self, messages: Vec<Message>, events: Vec<Event>) -> bool {
        let now = self.parts.clock.now();
        let shared = Arc::clone(&self.parts.book);
        let mut book = shared.lock().await;
        let mut turn = Turn::default();
        let set = self.parts.policies.set();
        if !Arc::ptr_eq(&set, &self.set) || messages.is_empty() && events.is_empty() {
            let is_there = |id: &PolicyId| set.policies().any(|one| one.policy.id() == id);
            for change in book.forget_policies(is_there) {
                self.put(&mut book, &mut turn, change);
            }
            self.set = Arc::clone(&set);
        }
        for message in messages {
            match message {
                Message::Look(twin, age, done) => {
                    self.look(&mut book, &mut turn, (&twin, age), now);
                    turn.acks.push(done);
                }
                Message::Gone(twin, age, done) => {
                    for change in book.forget_twin(&twin, age) {
                        self.put(&mut book, &mut turn, change);
                    }
                    turn.acks.push(done);
                }
                Message::Swept(round) => self.rechecks.extend(book.unseen_since(round)),
            }
        }
        for event in events {
            self.take(&mut book, &mut turn, event, now);
        }
        self.tick(&mut book, &mut turn, now);
        for key in book.evicted() {
            turn.changes.insert(key, None);
        }
        if !keep(&self.parts.store, &self.shutdown, &turn).await {
            book.close();
            return false;
        }
        for result in &turn.results {
            let policy = &result.key.id.policy;
            self.parts.metrics.action_ended(policy, result.outcome);
        }
        let (due, calling) = book.pending();
        self.parts.metrics.actions_pending(due, calling);
        for done in turn.acks {
            // Whoever asked may have gone meanwhile.
            let _ = done.send(());
        }
        for going in turn.going {
            self.call(going);
        }
        true
    }

    fn call(&mut self, going: Going) {
        self.calling += 1;
        let client = self.twins.to_command();
        self.io.push(Box::pin(async move {
            let invoked = invoke(client, going.request.clone(), going.within).await;
            Event::Called(going, invoked)
        }));
    }

    /// Has twins read of which something is due and may be called; answers how long nothing else is to do.
    async fn start(&mut self) -> Option<Duration> {
        let now = self.parts.clock.now();
        let shared = Arc::clone(&self.parts.book);
        let mut book = shared.lock().await;
        let mut wake = book.next_timer();
        let mut at = |time: Timestamp| wake = Some(wake.map_or(time, |wake| wake.min(time)));
        for policy in book.policies_due() {
            let Some(stored) = self.parts.policies.get(&policy) else {
                continue;
            };
            // Whatever lets it go on is a change of the policies, which wakes us.
            if !self.parts.policies.gate(&stored).is_open() || is_paused(&stored) {
                continue;
            }
            let bounds = bounds(stored.policy.actions());
            while let Some((from, key)) = book.first_due(&policy).cloned() {
                if from > now {
                    at(from);
                    break;
                }
                match self.parts.limits.room(&policy, bounds, now) {
                    Room::Now => {}
                    Room::At(time) => {
                        at(time);
                        break;
                    }
                    Room::WhenOneEnds => break,
                }
                self.parts.limits.prepare(&policy);
                book.hold(&key, Timestamp::MAX, false);
                let read = read(self.twins.clone(), key.twin.clone());
                self.io
                    .push(Box::pin(async move { Event::Read(key, read.await) }));
            }
        }
        while self.rechecking < RECHECKS_MAX
            && let Some(twin) = self.rechecks.pop_front()
        {
            self.rechecking += 1;
            let twins = self.twins.clone();
            self.io.push(Box::pin(async move {
                let read = twins.get(&identity_name(&twin)).await;
                let read = match read {
                    Ok(found) => document(&found),
                    Err(Failure::Gone) => Err(Unread::Gone),
                    Err(_) => Err(Unread::Failed),
                };
                Event::Rechecked(twin, read)
            }));
        }
        let ahead = wake?.duration_since(now);
        // A timer may be a little early: what it is for is not.
        let ahead = Duration::try_from(ahead).unwrap_or_default();
        Some(ahead + Duration::from_millis(1))
    }
}

/// Keeps what changed, however long that takes; false if the service stopped before.
async fn keep(store: &Store, shutdown: &ShutdownToken, turn: &Turn) -> bool {
    if turn.changes.is_empty() && turn.results.is_empty() {
        return true;
    }
    loop {
        let changes = turn.changes.clone().into_iter().collect();
        let kept = store.write_actions(changes, turn.results.clone());
        let Err(error) = kept.await else { return true };
        warn!(
            error = chain(&error),
            "cannot keep where actions stand; trying again"
        );
        let pause = shutdown.run_until(tokio::time::sleep(KEEP_AGAIN));
        if pause.await.is_none() {
            return false;
        }
    }
}

/// Reads a twin, once.
async fn read(twins: TwinStore, twin: IdentityKey) -> Result<(TwinDocument, u64), Unread> {
    match twins.get_now(&identity_name(&twin)).await {
        Ok(found) => document(&found),
        Err(status) if status.code() == Code::NotFound => Err(Unread::Gone),
        Err(status) => {
            debug!(%twin, error = status.message(), "a twin cannot be read before a call");
            Err(Unread::Failed)
        }
    }
}

fn document(twin: &wire::twin::v1::Twin) -> Result<(TwinDocument, u64), Unread> {
    let document = TwinDocument::from_wire(twin).map_err(|_| Unread::Failed)?;
    Ok((document, twin.revision))
}

/// Whether somebody stopped the rollout of the revision that is in force.
fn is_paused(stored: &StoredPolicy) -> bool {
    let rollout = stored.rollout.as_ref();
    rollout.is_some_and(|stored| stored.rollout.phase == Phase::Paused)
}

/// Calls that may begin in a minute and be under way. While an older revision alone has actions, the
/// defaults.
fn bounds(actions: &Actions) -> (usize, usize) {
    if !actions.is_empty() {
        return (actions.per_minute(), actions.in_flight());
    }
    let default = ActionsSpec::default();
    let count = |count| usize::try_from(count).unwrap_or(usize::MAX);
    (count(default.per_minute), count(default.in_flight))
}
