//! Direct methods: takes calls from the bus, hands each to the session that it is for, and gives
//! the device's answer back.
//!
//! Whoever calls asks all instances first who holds the device's session (`find-session`), which
//! changes nothing and may be repeated; then it asks that one. So a device that is away is never
//! called later, and a call is given to a device once at most. The hop before is twin-store, the
//! hop after the session of `crate::mqtt`. It keeps no call that has not gone out, and decides
//! nothing about who may call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{Bus, HintError, Question, Questions};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use prost::Message as _;
use service_kit::shutdown::ShutdownToken;
use tokio::sync::oneshot;
use twin::{DeviceId, IdentityKey, ModuleId};
use wire::bus::v1 as bus_wire;
use wire::bus::v1::MethodFailure;
use wire::bus::v1::method_outcome::Outcome;
use wire::subjects;

use crate::metrics::Metrics;
use crate::sessions::Sessions;

/// Calls of one device that may wait for their answers. SDKs answer one after the other; each may
/// be as large as a payload, so it is a bound on memory, too.
const OF_DEVICE_MAX: usize = 16;

/// Calls that may wait on one instance: with the largest payloads 128 MiB on their way out.
const CALLS_MAX: usize = 1024;

/// The longest that a call waits here whatever it asks for, as IoT Hub has it.
const WITHIN_MAX: Duration = iot_hub::method::RESPONSE_TIMEOUT_MAX;

/// A call on its way to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MethodCall {
    /// By which the device's answer names it.
    pub(crate) rid: String,
    /// Which method.
    pub(crate) name: String,
    /// JSON, as the device gets it.
    pub(crate) payload: Bytes,
}

/// The calls that wait for an answer. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    by_rid: HashMap<String, Call>,
    of_device: HashMap<IdentityKey, usize>,
}

#[derive(Debug)]
struct Call {
    identity: IdentityKey,
    /// Taken by the first answer.
    outcome: Option<oneshot::Sender<Outcome>>,
}

/// A place among the waiting calls; given back when dropped.
#[derive(Debug)]
struct Place {
    calls: Calls,
    rid: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.calls.lock();
        let Some(call) = waiting.by_rid.remove(&self.rid) else {
            return;
        };
        if let Some(count) = waiting.of_device.get_mut(&call.identity) {
            *count -= 1;
            if *count == 0 {
                waiting.of_device.remove(&call.identity);
            }
        }
    }
}

impl Calls {
    /// A place for a call; `None`: too many wait already.
    fn begin(&self, identity: &IdentityKey) -> Option<(Place, oneshot::Receiver<Outcome>)> {
        let mut waiting = self.lock();
        let of_device = waiting.of_device.get(identity).copied().unwrap_or(0);
        if waiting.by_rid.len() >= CALLS_MAX || of_device >= OF_DEVICE_MAX {
            return None;
        }
        // Not to be guessed: an answer that comes after a reconnect is believed by it alone.
        let rid = uuid::Uuid::new_v4().simple().to_string();
        let (outcome, answered) = oneshot::channel();
        let call = Call {
            identity: identity.clone(),
            outcome: Some(outcome),
        };
        waiting.by_rid.insert(rid.clone(), call);
        waiting.of_device.insert(identity.clone(), of_device + 1);
        let calls = self.clone();
        Some((Place { calls, rid }, answered))
    }

    /// A device has answered. An answer to a call of another device, to one that nobody waits for
    /// any more, or a second one, is none.
    pub(crate) fn answered(&self, identity: &IdentityKey, rid: &str, status: i32, payload: &Bytes) {
        self.end(identity, rid, || {
            Outcome::Answer(bus_wire::MethodAnswer {
                status,
                payload: payload.to_vec(),
            })
        });
    }

    /// The session cannot take the call; nothing was sent.
    pub(crate) fn declined(&self, identity: &IdentityKey, rid: &str) {
        self.end(identity, rid, || failure(MethodFailure::NotOnline));
    }

    fn end(&self, identity: &IdentityKey, rid: &str, outcome: impl FnOnce() -> Outcome) {
        let mut waiting = self.lock();
        let call = waiting.by_rid.get_mut(rid);
        let call = call.filter(|call| call.identity == *identity);
        if let Some(sender) = call.and_then(|call| call.outcome.take()) {
            // Whoever waited may have given up at this moment.
            let _ = sender.send(outcome());
        }
    }

    /// The guarded maps are changed in steps that cannot panic in between.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(failure: MethodFailure) -> Outcome {
    Outcome::Failure(failure.into())
}

/// The subscriptions, and where this run of the instance is asked.
pub(crate) struct Listening {
    subject: String,
    searches: Questions,
    calls: Questions,
}

impl Listening {
    /// Subscribes. The subject is of this run alone, so that a call to one that has ended finds
    /// nobody.
    pub(crate) async fn begin(bus: &Bus, run: &str) -> Result<Self, HintError> {
        let subject = subjects::methods_subject(run);
        Ok(Self {
            searches: bus.take_questions(subjects::FIND_SESSION_SUBJECT).await?,
            calls: bus.take_questions(&subject).await?,
            subject,
        })
    }

    /// Where this run is asked.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// Serves calls until told to stop; then those under way are given up.
    pub(crate) async fn run(mut self, parts: Parts, shutdown: ShutdownToken) {
        let answer = |has_session| {
            let place = bus_wire::SessionPlace {
                subject: self.subject.clone(),
                has_session,
            };
            Bytes::from(place.encode_to_vec())
        };
        let (here, elsewhere) = (answer(true), answer(false));
        let mut under_way = FuturesUnordered::new();
        let mut stop = Box::pin(shutdown.triggered());
        loop {
            let room = under_way.len() < CALLS_MAX;
            tokio::select! {
                () = &mut stop => break,
                search = self.searches.next() => match search {
                    Some(search) => {
                        let place = if parts.has(&search) { &here } else { &elsewhere };
                        parts.answer(search.reply_to, place.clone()).await;
                    }
                    None => return,
                },
                call = self.calls.next(), if room => match call {
                    Some(call) => under_way.push(parts.call(call, &shutdown)),
                    None => return,
                },
                Some(()) = under_way.next() => {}
            }
        }
        while under_way.next().await.is_some() {}
    }
}

/// What calls need.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) bus: Bus,
    pub(crate) sessions: Sessions,
    pub(crate) calls: Calls,
    pub(crate) metrics: Metrics,
}

impl Parts {
    /// Whether the session that is asked for is here.
    fn has(&self, question: &Question) -> bool {
        let asked = bus_wire::FindSession::decode(&*question.payload).ok();
        let identity = asked.and_then(|asked| identity(&asked.device_id, &asked.module_id));
        identity.is_some_and(|identity| self.sessions.takes_methods(&identity))
    }

    async fn call(&self, question: Question, shutdown: &ShutdownToken) {
        let outcome = match bus_wire::MethodCall::decode(&*question.payload) {
            Ok(call) => self.outcome(call, shutdown).await,
            Err(error) => {
                tracing::warn!(%error, "a call of a method cannot be read");
                return;
            }
        };
        self.metrics.method_called(label(&outcome));
        let outcome = bus_wire::MethodOutcome {
            outcome: Some(outcome),
        };
        self.answer(question.reply_to, outcome.encode_to_vec())
            .await;
    }

    async fn outcome(&self, call: bus_wire::MethodCall, shutdown: &ShutdownToken) -> Outcome {
        let Some(identity) = identity(&call.device_id, &call.module_id) else {
            return failure(MethodFailure::NotOnline);
        };
        let Some((place, answered)) = self.calls.begin(&identity) else {
            return failure(MethodFailure::Busy);
        };
        let given = MethodCall {
            rid: place.rid.clone(),
            name: call.method_name,
            payload: call.payload.into(),
        };
        if !self.sessions.call(&identity, given) {
            return failure(MethodFailure::NotOnline);
        }
        let within = Duration::from_millis(call.response_within_ms.into()).min(WITHIN_MAX);
        let answered = shutdown.run_until(tokio::time::timeout(within, answered));
        match answered.await {
            Some(Ok(Ok(outcome))) => outcome,
            // Stopping, or too late: the device may have carried it out.
            Some(Ok(Err(_)) | Err(_)) | None => failure(MethodFailure::NotAnswered),
        }
    }

    async fn answer(&self, reply_to: String, answer: impl Into<Bytes>) {
        if let Err(error) = self.bus.answer(reply_to, answer).await {
            tracing::debug!(%error, "an answer about a method was not sent");
        }
    }
}

fn label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Answer(_) => "ANSWERED",
        Outcome::Failure(failure) => match MethodFailure::try_from(*failure) {
            Ok(MethodFailure::NotOnline) => "NOT_ONLINE",
            Ok(MethodFailure::Busy) => "BUSY",
            Ok(MethodFailure::NotAnswered) => "NOT_ANSWERED",
            Ok(MethodFailure::Unspecified) | Err(_) => "UNKNOWN",
        },
    }
}

fn identity(device: &str, module: &str) -> Option<IdentityKey> {
    let device = DeviceId::parse(device).ok()?;
    let module = match module {
        "" => None,
        module => Some(ModuleId::parse(module).ok()?),
    };
    Some(IdentityKey { device, module })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> IdentityKey {
        IdentityKey::parse_path(path).unwrap()
    }

    #[test]
    fn the_first_answer_of_the_device_itself_counts() {
        let calls = Calls::default();
        let (place, mut answered) = calls.begin(&key("d")).unwrap();
        let body = Bytes::from_static(b"1");
        calls.answered(&key("e"), &place.rid, 200, &body);
        calls.answered(&key("d/m"), &place.rid, 200, &body);
        calls.answered(&key("d"), "another", 200, &body);
        assert!(answered.try_recv().is_err(), "none of these is its answer");
        calls.answered(&key("d"), &place.rid, 201, &body);
        calls.answered(&key("d"), &place.rid, 500, &body);
        let wanted = bus_wire::MethodAnswer {
            status: 201,
            payload: b"1".to_vec(),
        };
        assert_eq!(answered.try_recv(), Ok(Outcome::Answer(wanted)));
        let rid = place.rid.clone();
        drop(place);
        calls.answered(&key("d"), &rid, 200, &body);
        let waiting = calls.lock();
        assert!(waiting.by_rid.is_empty() && waiting.of_device.is_empty());
    }

    #[test]
    fn a_device_has_so_many_calls_only_and_leaves_room_for_others() {
        let calls = Calls::default();
        let mut held: Vec<_> = (0..OF_DEVICE_MAX)
            .map(|_| calls.begin(&key("d")).unwrap())
            .collect();
        assert!(calls.begin(&key("d")).is_none());
        assert!(calls.begin(&key("e")).is_some());
        held.pop();
        assert!(calls.begin(&key("d")).is_some());
    }

    #[test]
    fn all_devices_together_have_so_many_calls_only() {
        let calls = Calls::default();
        let held: Vec<_> = (0..CALLS_MAX)
            .map(|number| calls.begin(&key(&format!("d{number}"))).unwrap())
            .collect();
        assert!(calls.begin(&key("one-more")).is_none());
        drop(held);
        assert!(calls.begin(&key("one-more")).is_some());
    }
}
