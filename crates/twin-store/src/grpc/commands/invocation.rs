//! One call of a direct method: finds the device's session, gives it the call, reads the answer.
//!
//! Searching changes nothing, so it is repeated for as long as the caller waits for the device. The
//! call itself goes out once: when no answer comes, the device may have carried it out.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::{AskError, Bus, Outgoing};
use iot_hub::MethodName;
use iot_hub::method::PAYLOAD_BYTES_MAX;
use prost::Message as _;
use serde::de::IgnoredAny;
use service_kit::trace;
use tokio::time::Instant;
use twin::IdentityKey;
use wire::bus::v1 as bus_wire;
use wire::bus::v1::MethodFailure;
use wire::bus::v1::method_outcome::Outcome;
use wire::device::v1::InvokeMethodResponse;
use wire::subjects;

use super::roster::Roster;
use crate::error::{CommandError, Error};

/// How long instances of ingestion have to say whether they hold a session. It takes them a
/// millisecond, and a search ends when all have answered; a device that is called offline because
/// one was busy is called again.
const FIND_WITHIN: Duration = Duration::from_secs(1);

/// Between two searches for a device that somebody waits for.
const PAUSE: Duration = Duration::from_millis(250);

/// What ingestion's own answer may take beyond the device's.
const MARGIN: Duration = Duration::from_secs(2);

/// The way to devices. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) bus: Bus,
    /// Who may hold a device's session.
    pub(crate) roster: Roster,
}

/// A call that was checked.
#[derive(Debug)]
pub(super) struct Invocation {
    pub(super) key: IdentityKey,
    pub(super) method: MethodName,
    /// JSON.
    pub(super) payload: String,
    pub(super) response_within: Duration,
    pub(super) connect_within: Duration,
}

impl Invocation {
    /// What the device answers.
    pub(super) async fn run(self, way: &Way) -> Result<InvokeMethodResponse, Error> {
        let until = Instant::now() + self.connect_within;
        loop {
            if let Some(answer) = self.attempt(way).await? {
                return self.read(answer);
            }
            if Instant::now() + PAUSE > until {
                return Err(CommandError::NotOnline(self.key).into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Finds the device and calls it; none: it is not there.
    async fn attempt(&self, way: &Way) -> Result<Option<bus_wire::MethodAnswer>, Error> {
        let Some(subject) = self.find(way).await? else {
            return Ok(None);
        };
        let call = bus_wire::MethodCall {
            device_id: self.key.device.to_string(),
            module_id: self.module(),
            method_name: self.method.to_string(),
            payload: self.payload.clone().into_bytes(),
            response_within_ms: u32::try_from(self.response_within.as_millis()).unwrap_or(u32::MAX),
        };
        let within = self.response_within + MARGIN;
        let outcome = match way.bus.ask(question(subject, &call), within).await {
            Ok(outcome) => outcome,
            // That run of the instance has ended before it got the call.
            Err(AskError::Nobody { .. }) => return Ok(None),
            Err(AskError::Silent { .. }) => return Err(self.not_answered()),
            Err(error @ AskError::Send { .. }) => return Err(CommandError::Bus(error).into()),
        };
        // Bytes that are no outcome come from a version that we do not know; what it did we do not
        // know either.
        let outcome = bus_wire::MethodOutcome::decode(outcome).ok();
        match outcome.and_then(|it| it.outcome) {
            Some(Outcome::Answer(answer)) => Ok(Some(answer)),
            Some(Outcome::Failure(failure)) => match MethodFailure::try_from(failure) {
                Ok(MethodFailure::NotOnline) => Ok(None),
                Ok(MethodFailure::Busy) => Err(CommandError::Busy(self.key.clone()).into()),
                Ok(MethodFailure::NotAnswered | MethodFailure::Unspecified) | Err(_) => {
                    Err(self.not_answered())
                }
            },
            None => Err(self.not_answered()),
        }
    }

    /// Where the instance that holds the device's session takes calls.
    async fn find(&self, way: &Way) -> Result<Option<String>, Error> {
        let asked = bus_wire::FindSession {
            device_id: self.key.device.to_string(),
            module_id: self.module(),
        };
        let unheard = |error| Error::from(CommandError::Bus(error));
        let subject = subjects::FIND_SESSION_SUBJECT.to_owned();
        let asked = way.bus.ask_all(question(subject.clone(), &asked)).await;
        let mut answers = asked.map_err(unheard)?;
        let until = Instant::now() + FIND_WITHIN;
        let mut elsewhere = BTreeSet::new();
        loop {
            let silence = match tokio::time::timeout_at(until, answers.next()).await {
                Ok(Some(Ok(place))) => {
                    // Bytes that are no place come from a version that we do not know.
                    let Ok(place) = bus_wire::SessionPlace::decode(place) else {
                        continue;
                    };
                    if place.has_session {
                        return Ok(Some(place.subject));
                    }
                    elsewhere.insert(place.subject);
                    if way.roster.is_whole(&elsewhere, Instant::now()) {
                        return Ok(None);
                    }
                    continue;
                }
                Ok(Some(Err(nobody))) => nobody,
                Ok(None) | Err(_) => AskError::Silent {
                    subject,
                    within: FIND_WITHIN,
                },
            };
            // Silence says that nobody has it, unless it is we who are cut off.
            return if way.bus.is_up() {
                Ok(None)
            } else {
                Err(unheard(silence))
            };
        }
    }

    fn read(self, answer: bus_wire::MethodAnswer) -> Result<InvokeMethodResponse, Error> {
        let bytes = answer.payload.len();
        let unusable = |problem: String| CommandError::BadAnswer {
            key: self.key.clone(),
            status: answer.status,
            problem,
        };
        if bytes > PAYLOAD_BYTES_MAX {
            let problem = format!("has {bytes} bytes; at most {PAYLOAD_BYTES_MAX} are allowed");
            return Err(unusable(problem).into());
        }
        let payload_json = String::from_utf8(answer.payload)
            .map_err(|_| unusable("is no UTF-8; it must be JSON, or empty".to_owned()))?;
        if payload_json.trim().is_empty() {
            return Ok(InvokeMethodResponse {
                status: answer.status,
                payload_json: "null".to_owned(),
            });
        }
        if let Err(error) = serde_json::from_str::<IgnoredAny>(&payload_json) {
            return Err(unusable(format!("is no JSON: {error}")).into());
        }
        Ok(InvokeMethodResponse {
            status: answer.status,
            payload_json,
        })
    }

    fn not_answered(&self) -> Error {
        CommandError::NotAnswered {
            key: self.key.clone(),
            seconds: self.response_within.as_secs(),
        }
        .into()
    }

    fn module(&self) -> String {
        let module = self.key.module.as_ref();
        module.map(ToString::to_string).unwrap_or_default()
    }
}

fn question(subject: String, asked: &impl prost::Message) -> Outgoing {
    let question = Outgoing::new(subject, asked.encode_to_vec());
    match trace::current_traceparent() {
        Some(parent) => question.header(bus::Headers::TRACEPARENT, parent),
        None => question,
    }
}
