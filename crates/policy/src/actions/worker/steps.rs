//! What each thing that happens makes of the places, and of what goes out. It waits for nothing.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tracing::debug;
use twin::{IdentityKey, Writer};
use wire::device::v1::InvokeMethodRequest;
use wire::names::identity_name;

use super::super::book::{ActionKey, Book, Change, Found};
use super::super::call::Invoked;
use super::super::look;
use super::super::place::{Ended, State, Terms};
use super::{Event, Going, Turn, Unread, Worker, is_paused};
use crate::store::{ActionOutcome, ActionResult};
use crate::twin_document::TwinDocument;

/// Bytes of an answer that are kept, as of jobs.
const PAYLOAD_KEPT_MAX: usize = 8 * 1024;

/// Before a device that is not connected is asked for again without anybody having seen it.
const OFFLINE: SignedDuration = SignedDuration::from_mins(5);
/// Before a device is called again that its twin calls connected and that is not there.
const NOT_THERE: SignedDuration = SignedDuration::from_secs(30);
/// Before a call is made again of which nobody knows, and one that twin-store had no room for.
const AGAIN: SignedDuration = SignedDuration::from_secs(10);
/// Before a twin is looked at again to which the policy does not apply for now.
const NOT_NOW: SignedDuration = SignedDuration::from_mins(1);
/// Before a twin is read again that was older than what is known.
const OLDER: SignedDuration = SignedDuration::from_secs(1);

impl Worker {
    pub(super) fn take(&mut self, book: &mut Book, turn: &mut Turn, event: Event, now: Timestamp) {
        match event {
            Event::Read(key, Ok(twin)) => self.prepare(book, turn, (&key, twin), now),
            Event::Read(key, Err(unread)) => {
                self.parts.limits.release(&key.id.policy);
                match unread {
                    Unread::Gone => self.forget(book, turn, &key.twin),
                    Unread::Failed => book.hold(&key, after(now, AGAIN), false),
                }
            }
            Event::Called(going, invoked) => self.called(book, turn, (&going, invoked), now),
            Event::Rechecked(twin, read) => {
                self.rechecking -= 1;
                match read {
                    Ok((document, age)) => self.look(book, turn, (&document, age), now),
                    Err(Unread::Gone) => self.forget(book, turn, &twin),
                    // The next sweep comes upon it again.
                    Err(Unread::Failed) => {}
                }
            }
        }
    }

    fn forget(&mut self, book: &mut Book, turn: &mut Turn, twin: &IdentityKey) {
        for change in book.forget_twin(twin, u64::MAX) {
            self.put(book, turn, change);
        }
    }

    /// Takes a change in, to be kept with the others of the turn.
    pub(super) fn put(&self, book: &mut Book, turn: &mut Turn, (key, place): Change) {
        if book.put(&key, place.clone()) {
            turn.changes.insert(key, place);
        } else {
            self.parts.metrics.actions_refused.inc();
            debug!(twin = %key.twin, policy_id = %key.id.policy, "no room for an action");
        }
    }

    pub(super) fn look(
        &self,
        book: &mut Book,
        turn: &mut Turn,
        (twin, age): (&TwinDocument, u64),
        now: Timestamp,
    ) {
        book.saw(twin.key(), age, twin.is_connected());
        let found = look::found(&self.set, twin, book);
        for change in book.look(twin.key(), age, &found, now) {
            self.put(book, turn, change);
        }
    }

    /// What time brings.
    pub(super) fn tick(&self, book: &mut Book, turn: &mut Turn, now: Timestamp) {
        for key in book.timers_until(now) {
            let Some(place) = book.get(&key).cloned() else {
                continue;
            };
            let Some(next) = place.tick(self.terms(&key), now) else {
                continue;
            };
            if place.has_expired(now) {
                turn.results.push(ActionResult {
                    outcome: ActionOutcome::Expired,
                    error: "it was due for as long as it may be, and was not called".to_owned(),
                    ..ended(&key, (place.revision, place.cause), now)
                });
            }
            self.put(book, turn, (key, Some(next)));
        }
    }

    fn terms(&self, key: &ActionKey) -> Option<Terms> {
        let action = look::newest(&self.set, &key.id.policy, &key.id.action);
        action.map(Terms::of)
    }

    /// A twin of which something is due, as it is now: calls it, or says when to look again.
    fn prepare(
        &mut self,
        book: &mut Book,
        turn: &mut Turn,
        (key, (twin, age)): (&ActionKey, (TwinDocument, u64)),
        now: Timestamp,
    ) {
        let policy = &key.id.policy;
        self.look(book, turn, (&twin, age), now);
        let set = Arc::clone(&self.set);
        let due = book
            .get(key)
            .filter(|place| matches!(place.state, State::Due(_)));
        let Some(place) = due.cloned() else {
            self.parts.limits.release(policy);
            return;
        };
        let found = look::found(&set, &twin, book);
        let action = match found.get(policy) {
            // What an older revision has is not what was due.
            Some(Found::Holds { revision, actions }) if *revision >= place.revision => actions
                .get(&key.id.action)
                .map(|action| (*revision, action)),
            Some(Found::Holds { .. } | Found::HoldsNot | Found::Unsure) | None => None,
        };
        let stored = self.parts.policies.get(policy);
        let paused = stored.as_ref().is_none_or(is_paused);
        let Some((revision, action)) = action.filter(|_| !paused) else {
            self.parts.limits.release(policy);
            book.hold(key, after(now, NOT_NOW), false);
            return;
        };
        if !twin.is_connected() {
            self.parts.limits.release(policy);
            // It may have connected while its twin was read.
            let newer = book.was_connected_after(key, age);
            let pause = if newer { OLDER } else { OFFLINE };
            book.hold(key, after(now, pause), !newer);
            return;
        }
        let Some(calling) = place.begin(revision, now) else {
            self.parts.limits.release(policy);
            return;
        };
        let payload = match action.payload_for(&twin.view()) {
            Ok(payload) => payload,
            Err(incomplete) => {
                self.parts.limits.release(policy);
                turn.results.push(ActionResult {
                    outcome: ActionOutcome::Failed,
                    error: format!("it was not called: {incomplete}"),
                    ..ended(key, (revision, place.cause), now)
                });
                let over = calling.end(Ended::Known, self.terms(key), now);
                self.put(book, turn, (key.clone(), Some(over)));
                return;
            }
        };
        self.parts.limits.begin(policy, now);
        self.put(book, turn, (key.clone(), Some(calling)));
        let writer = Writer::Policy {
            id: policy.to_string(),
            revision,
        };
        turn.going.push(Going {
            key: key.clone(),
            revision,
            cause: place.cause,
            begun: now,
            request: InvokeMethodRequest {
                name: identity_name(&key.twin),
                method_name: action.spec().method.clone(),
                payload_json: payload,
                response_timeout: prost_types::Duration::try_from(action.spec().timeout.get()).ok(),
                connect_timeout: None,
                operator: writer.to_string(),
            },
            within: action.spec().timeout.get(),
        });
    }

    /// A call has ended.
    fn called(
        &mut self,
        book: &mut Book,
        turn: &mut Turn,
        (going, invoked): (&Going, Invoked),
        now: Timestamp,
    ) {
        self.calling -= 1;
        let key = &going.key;
        let was_sent = !matches!(invoked, Invoked::NotOnline | Invoked::Busy);
        self.parts.limits.end(&key.id.policy, was_sent);
        let is_offline = invoked == Invoked::NotOnline;
        let (how, told) = tell(invoked);
        if let Some((outcome, status, payload, error)) = told {
            debug!(
                twin = %key.twin,
                policy_id = %key.id.policy,
                action = key.id.action,
                outcome = outcome.as_str(),
                status,
                "an action was called"
            );
            turn.results.push(ActionResult {
                outcome,
                status,
                payload,
                error,
                begun: Some(going.begun),
                ..ended(key, (going.revision, going.cause), now)
            });
        }
        // The policy or the twin may be gone, or another of its name be there.
        let place = book.get(key).filter(|place| {
            let is_calling = matches!(place.state, State::Calling { .. });
            is_calling && place.cause == going.cause
        });
        let Some(next) = place.map(|place| place.end(how, self.terms(key), now)) else {
            return;
        };
        let is_again = next.cause == going.cause && matches!(next.state, State::Due(_));
        self.put(book, turn, (key.clone(), Some(next)));
        if is_again {
            let pause = if is_offline { NOT_THERE } else { AGAIN };
            book.hold(key, after(now, pause), is_offline);
        }
    }
}

fn after(now: Timestamp, pause: SignedDuration) -> Timestamp {
    now.checked_add(pause).unwrap_or(Timestamp::MAX)
}

fn ended(key: &ActionKey, (revision, cause): (u64, u64), now: Timestamp) -> ActionResult {
    ActionResult {
        key: key.clone(),
        revision,
        cause,
        outcome: ActionOutcome::Unknown,
        status: 0,
        payload: String::new(),
        error: String::new(),
        begun: None,
        ended: now,
    }
}

/// What is kept of an end: outcome, status, payload and error.
type Told = (ActionOutcome, i32, String, String);

fn tell(invoked: Invoked) -> (Ended, Option<Told>) {
    let without = |outcome, error| Some((outcome, 0, String::new(), error));
    match invoked {
        Invoked::NotOnline | Invoked::Busy => (Ended::NotSent, None),
        Invoked::Answered { status, payload } => {
            let outcome = if status < 400 {
                ActionOutcome::Succeeded
            } else {
                ActionOutcome::Failed
            };
            let bytes = payload.len();
            let (payload, error) = if bytes > PAYLOAD_KEPT_MAX {
                let error = format!("the answer has {bytes} bytes; {PAYLOAD_KEPT_MAX} are kept");
                (String::new(), error)
            } else {
                (payload, String::new())
            };
            (Ended::Known, Some((outcome, status, payload, error)))
        }
        Invoked::Refused(why) => (Ended::Known, without(ActionOutcome::Failed, why)),
        Invoked::Unanswered(why) => (Ended::Unknown, without(ActionOutcome::Unanswered, why)),
        Invoked::Unknown(why) => (Ended::Unknown, without(ActionOutcome::Unknown, why)),
    }
}
