//! Decides what each message of an agent leads to. One value per open stream.
//!
//! Pure: messages and answers in, effects out, in the order in which they must be performed. The
//! loop in `grpc::open_session` performs them and decides nothing. Reading the stream is a decision
//! too ([`Session::may_read`]): whoever sends faster than its batches become durable is not read,
//! and HTTP/2's flow control does the rest.

use std::collections::VecDeque;

use jiff::Timestamp;
use service_kit::error::IotHubCode;
use wire::InvalidField;
use wire::agent::v1 as agent;
use wire::agent::v1::open_session_request::Message;
use wire::agent::v1::open_session_response::Message as Response;

use crate::admit::{BatchLimits, admit};
use crate::methods::MethodCall;
use crate::push::{Fetch, Pusher};

mod check;
mod effect;

use check::{
    REQUEST_ID_BYTES_MAX, check_acknowledge, check_hello, check_request_id, cut_to_limits,
};
pub(crate) use effect::{Effect, Opened, Request};

/// Requests to twin-store that one session may have waiting. They are answered one after the other,
/// because a second patch must not overtake the first.
const REQUESTS_MAX: usize = 8;

/// Answers that may wait for a slow reader before its stream is not read any more.
const RESPONSES_MAX: usize = 16;

/// What bounds a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionLimits {
    /// Of each batch.
    pub(crate) batch: BatchLimits,
    /// Batches that may wait for their publish.
    pub(crate) batches_max: usize,
}

/// The state of one session.
#[derive(Debug)]
pub(crate) struct Session {
    limits: SessionLimits,
    /// Generation of the identity, whose versions the agent's are compared with.
    generation_id: String,
    opened: bool,
    /// Whether the agent takes calls of direct methods.
    takes_methods: bool,
    /// Batches whose publish has not been answered.
    batches: usize,
    /// Requests that wait; the one on its way is not among them.
    requests: VecDeque<Request>,
    /// A request is on its way.
    asking: bool,
    /// Answers that wait for the stream to take them.
    responses: VecDeque<Response>,
    /// The delivery of the desired section.
    pusher: Pusher,
}

impl Session {
    /// A session of one generation of an identity, that waits for its `hello`.
    pub(crate) fn new(limits: SessionLimits, generation_id: impl Into<String>) -> Self {
        Self {
            limits,
            generation_id: generation_id.into(),
            opened: false,
            takes_methods: false,
            batches: 0,
            requests: VecDeque::new(),
            asking: false,
            responses: VecDeque::new(),
            pusher: Pusher::default(),
        }
    }

    /// Whether `hello` was accepted.
    pub(crate) fn is_open(&self) -> bool {
        self.opened
    }

    /// Whether another message may be read from the stream.
    pub(crate) fn may_read(&self) -> bool {
        self.batches < self.limits.batches_max
            && self.requests.len() < REQUESTS_MAX
            && self.responses.len() < RESPONSES_MAX
    }

    /// A message of the agent.
    pub(crate) fn on_message(&mut self, request: agent::OpenSessionRequest) -> Vec<Effect> {
        let Some(message) = request.message else {
            return self.refuse(
                "",
                "UNEXPECTED_MESSAGE",
                "the message is of a kind unknown here",
            );
        };
        match message {
            Message::Hello(hello) => self.on_hello(hello),
            Message::Events(_)
            | Message::PatchReported(_)
            | Message::AcknowledgeDesired(_)
            | Message::GetTwin(_)
            | Message::MethodResponse(_)
                if !self.opened =>
            {
                let words = "the first message of a session must be hello";
                self.refuse(request_id(&message), "UNEXPECTED_MESSAGE", words)
            }
            Message::Events(batch) => self.on_batch(batch),
            Message::PatchReported(patch) => self.on_patch(patch),
            Message::AcknowledgeDesired(acknowledge) => self.on_acknowledge(acknowledge),
            Message::GetTwin(get) => match check_request_id(&get.request_id) {
                Ok(()) => self.ask(Request::GetTwin(get)),
                Err(problem) => self.refuse_field("", &problem),
            },
            Message::MethodResponse(response) => self.on_method_response(response),
        }
    }

    /// Whether calls of direct methods may be given to the agent.
    pub(crate) fn takes_methods(&self) -> bool {
        self.takes_methods
    }

    /// Somebody calls a direct method. One for an agent that takes none, or does not take what it is
    /// sent, has not gone out.
    pub(crate) fn on_call(&mut self, call: MethodCall) -> Vec<Effect> {
        let room = self.responses.len() < RESPONSES_MAX;
        match String::from_utf8(call.payload.to_vec()) {
            Ok(payload_json) if self.takes_methods && room => {
                let request = agent::MethodRequest {
                    call_id: call.rid,
                    method_name: call.name,
                    payload_json,
                };
                self.responses.push_back(Response::Method(request));
                Vec::new()
            }
            Ok(_) | Err(_) => vec![Effect::Decline { rid: call.rid }],
        }
    }

    /// The admission that [`Effect::Publish`] asked for is durable.
    pub(crate) fn on_stored(&mut self, ack: agent::EventsAck) {
        debug_assert!(self.batches > 0, "only what was asked for is stored");
        self.batches = self.batches.saturating_sub(1);
        self.responses.push_back(Response::EventsAck(ack));
    }

    /// Twin-store answered, or refused, the request that [`Effect::Ask`] asked for.
    pub(crate) fn on_answered(&mut self, response: Option<Response>) -> Vec<Effect> {
        debug_assert!(self.asking, "only what was asked is answered");
        self.asking = false;
        self.responses.extend(response);
        self.next_request()
    }

    /// Somebody says that the desired section has this version; 0 when it is not known.
    pub(crate) fn on_hint(&mut self, version: u64) -> Vec<Effect> {
        fetch(self.pusher.on_hint(version))
    }

    /// It is time to look at the desired section again.
    pub(crate) fn on_tick(&mut self) -> Vec<Effect> {
        fetch(self.pusher.on_tick())
    }

    /// The section that [`Effect::FetchDesired`] asked for.
    pub(crate) fn on_section(&mut self, section: agent::DesiredConfiguration) -> Vec<Effect> {
        fetch(self.pusher.on_section(section))
    }

    /// The section could not be read.
    pub(crate) fn on_no_section(&mut self) {
        self.pusher.on_failure();
    }

    /// Whether the stream has something to take.
    pub(crate) fn has_response(&self) -> bool {
        !self.responses.is_empty() || self.pusher.has_waiting()
    }

    /// What the stream takes next. Answers go before pushes: an agent waits for them.
    pub(crate) fn next_response(&mut self, now: Timestamp) -> Option<agent::OpenSessionResponse> {
        let message = match self.responses.pop_front() {
            Some(response) => response,
            None => Response::Desired(self.pusher.take(now)?),
        };
        Some(agent::OpenSessionResponse {
            message: Some(message),
        })
    }

    /// The welcome, as the first answer.
    pub(crate) fn welcome(&mut self, welcome: agent::Welcome) {
        self.responses.push_front(Response::Welcome(welcome));
    }

    fn on_hello(&mut self, hello: agent::Hello) -> Vec<Effect> {
        if self.opened {
            return self.refuse("", "UNEXPECTED_MESSAGE", "hello was said already");
        }
        if let Err(problem) = check_hello(&hello) {
            return self.refuse_field("", &problem);
        }
        self.opened = true;
        self.takes_methods = hello.takes_methods;
        let agent::Hello {
            agent_version,
            session_id,
            applied_desired_version,
            generation_id,
            takes_methods: _,
        } = hello;
        // A version of an identity that was deleted since says nothing about the one of today.
        let decided_on = if generation_id.is_empty() || generation_id == self.generation_id {
            applied_desired_version
        } else {
            0
        };
        let mut effects = vec![Effect::Open(Opened {
            session_id,
            agent_version,
            model_id: None,
        })];
        effects.extend(fetch(self.pusher.on_hello(decided_on)));
        effects
    }

    fn on_batch(&mut self, mut batch: agent::EventBatch) -> Vec<Effect> {
        let trace_parent = std::mem::take(&mut batch.trace_parent);
        match admit(batch, &self.limits.batch) {
            Ok(admission) => {
                self.batches += 1;
                vec![Effect::Publish {
                    admission,
                    trace_parent,
                }]
            }
            Err(problem) => self.refuse("", problem.reason(), &problem.to_string()),
        }
    }

    fn on_patch(&mut self, patch: agent::PatchReported) -> Vec<Effect> {
        if let Err(problem) = check_request_id(&patch.request_id) {
            return self.refuse_field("", &problem);
        }
        // What a section may hold is twin-store's to say; this only bounds what waits here.
        let max = self.limits.batch.batch_bytes_max;
        if patch.patch_json.len() > max {
            let words = format!(
                "patch_reported.patch_json has {} bytes; at most {max} are allowed",
                patch.patch_json.len()
            );
            return self.refuse(&patch.request_id, "MESSAGE_TOO_LARGE", &words);
        }
        self.ask(Request::PatchReported(patch))
    }

    fn on_method_response(&mut self, response: agent::MethodResponse) -> Vec<Effect> {
        if let Err(problem) = check_request_id(&response.call_id) {
            return self.refuse_field("", &problem);
        }
        // What an answer may be is for whoever called to judge.
        vec![Effect::Answered(response)]
    }

    fn on_acknowledge(&mut self, mut acknowledge: agent::AcknowledgeDesired) -> Vec<Effect> {
        if let Err(problem) = check_acknowledge(&acknowledge) {
            return self.refuse_field("", &problem);
        }
        cut_to_limits(&mut acknowledge);
        let push_time = self.pusher.time_of(acknowledge.version);
        self.ask(Request::Acknowledge {
            acknowledge,
            push_time,
        })
    }

    fn ask(&mut self, request: Request) -> Vec<Effect> {
        self.requests.push_back(request);
        self.next_request()
    }

    fn next_request(&mut self) -> Vec<Effect> {
        if self.asking {
            return Vec::new();
        }
        let Some(request) = self.requests.pop_front() else {
            return Vec::new();
        };
        self.asking = true;
        vec![Effect::Ask(request)]
    }

    fn refuse_field(&mut self, request_id: &str, problem: &InvalidField) -> Vec<Effect> {
        self.refuse(request_id, "INVALID_FIELD", &problem.to_string())
    }

    fn refuse(&mut self, request_id: &str, reason: &'static str, words: &str) -> Vec<Effect> {
        let code = match reason {
            "MESSAGE_TOO_LARGE" => IotHubCode::MESSAGE_TOO_LARGE,
            _ => IotHubCode::ARGUMENT_INVALID,
        };
        self.responses
            .push_back(Response::Error(agent::MessageError {
                request_id: request_id.to_owned(),
                reason: reason.to_owned(),
                message: words.to_owned(),
                retryable: false,
                iot_hub_code: i32::try_from(code.number()).unwrap_or_default(),
                iot_hub_name: code.name().to_owned(),
            }));
        vec![Effect::Refused(reason)]
    }
}

fn fetch(decision: Fetch) -> Vec<Effect> {
    match decision {
        Fetch::Now => vec![Effect::FetchDesired],
        Fetch::No => Vec::new(),
    }
}

fn request_id(message: &Message) -> &str {
    let id = match message {
        Message::PatchReported(patch) => patch.request_id.as_str(),
        Message::GetTwin(get) => get.request_id.as_str(),
        Message::Hello(_)
        | Message::Events(_)
        | Message::AcknowledgeDesired(_)
        | Message::MethodResponse(_) => "",
    };
    if id.len() <= REQUEST_ID_BYTES_MAX {
        id
    } else {
        ""
    }
}

#[cfg(test)]
mod tests;
