//! An agent in a test: says what it is told, and waits for what should come.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use wire::agent::v1 as agent;
use wire::agent::v1::agent_service_client::AgentServiceClient;
use wire::agent::v1::open_session_request::Message;
use wire::agent::v1::open_session_response::Message as Answer;
use wire::agent::v1::security_event::Payload;

use crate::hub::SOON;

pub(crate) const EPOCH: &str = "6f6b0c5e-27a5-4c9c-9c41-5a4b7a2f0001";
pub(crate) const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

pub(crate) struct Agent {
    requests: mpsc::Sender<agent::OpenSessionRequest>,
    answers: Streaming<agent::OpenSessionResponse>,
}

impl Agent {
    pub(crate) async fn connect(
        mut client: AgentServiceClient<Channel>,
        token: &str,
    ) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        if !token.is_empty() {
            request
                .metadata_mut()
                .insert("authorization", token.parse().unwrap());
        }
        let answers = client.open_session(request).await?.into_inner();
        Ok(Self { requests, answers })
    }

    pub(crate) async fn send(&mut self, message: Message) {
        let request = agent::OpenSessionRequest {
            message: Some(message),
        };
        self.requests
            .send(request)
            .await
            .expect("the stream is open");
    }

    /// The next answer, or the status with which the session ended.
    pub(crate) async fn next(&mut self) -> Result<Answer, Status> {
        let answer = tokio::time::timeout(SOON, self.answers.message()).await;
        let answer = answer
            .expect("an answer in time")?
            .expect("the session goes on");
        Ok(answer.message.expect("a message"))
    }

    /// Asserts that nothing comes for a while.
    pub(crate) async fn hears_nothing(&mut self, wait: Duration) {
        let answer = tokio::time::timeout(wait, self.answers.message()).await;
        assert!(answer.is_err(), "{answer:?}");
    }

    /// Says hello and waits for the welcome.
    pub(crate) async fn hello(&mut self, applied_desired_version: u64) -> agent::Welcome {
        self.say(hello(applied_desired_version)).await
    }

    /// Says a hello and waits for the welcome.
    pub(crate) async fn say(&mut self, hello: Message) -> agent::Welcome {
        self.send(hello).await;
        match self.next().await {
            Ok(Answer::Welcome(welcome)) => welcome,
            other => panic!("no welcome: {other:?}"),
        }
    }

    pub(crate) async fn ack(&mut self) -> agent::EventsAck {
        match self.next().await {
            Ok(Answer::EventsAck(ack)) => ack,
            other => panic!("no acknowledgement: {other:?}"),
        }
    }

    pub(crate) async fn desired(&mut self) -> agent::DesiredConfiguration {
        match self.next().await {
            Ok(Answer::Desired(section)) => section,
            other => panic!("no desired section: {other:?}"),
        }
    }

    pub(crate) async fn error(&mut self) -> agent::MessageError {
        match self.next().await {
            Ok(Answer::Error(error)) => error,
            other => panic!("no error: {other:?}"),
        }
    }

    /// Waits for the end of the session, past what comes before it.
    pub(crate) async fn ends_with(&mut self, code: Code) -> Status {
        loop {
            match self.next().await {
                Ok(_) => {}
                Err(status) => {
                    assert_eq!(status.code(), code, "{status:?}");
                    return status;
                }
            }
        }
    }

    /// Says that nothing more is coming, and waits for the service to agree.
    pub(crate) async fn leave(self) {
        let Self {
            requests,
            mut answers,
        } = self;
        drop(requests);
        let ended = async { while let Ok(Some(_)) = answers.message().await {} };
        tokio::time::timeout(SOON, ended)
            .await
            .expect("the session ends");
    }
}

pub(crate) fn hello(applied_desired_version: u64) -> Message {
    hello_of(applied_desired_version, "")
}

/// A hello of an agent that remembers the generation of its version.
pub(crate) fn hello_of(applied_desired_version: u64, generation_id: &str) -> Message {
    Message::Hello(agent::Hello {
        agent_version: "1.2.3".to_owned(),
        session_id: "0d4b4a1e-93a0-4f3c-9a3f-000000000001".to_owned(),
        applied_desired_version,
        generation_id: generation_id.to_owned(),
        takes_methods: false,
    })
}

pub(crate) fn heartbeat(sequence: u64) -> agent::SecurityEvent {
    event(sequence, Payload::Heartbeat(agent::Heartbeat {}))
}

/// An event of about `bytes` bytes; legal up to 8 KiB.
pub(crate) fn process(sequence: u64, bytes: usize) -> agent::SecurityEvent {
    let process = agent::ProcessActivity {
        kind: agent::process_activity::Kind::Exec.into(),
        process_id: 1,
        executable: "x".repeat(bytes / 2),
        command_line: "y".repeat(bytes / 2),
        ..agent::ProcessActivity::default()
    };
    event(sequence, Payload::Process(process))
}

fn event(sequence: u64, payload: Payload) -> agent::SecurityEvent {
    agent::SecurityEvent {
        sequence,
        observe_time: Some(prost_types::Timestamp {
            seconds: 1_800_000_000,
            nanos: 0,
        }),
        payload: Some(payload),
    }
}

pub(crate) fn batch(events: Vec<agent::SecurityEvent>) -> Message {
    Message::Events(agent::EventBatch {
        lane: agent::Lane::High.into(),
        epoch: EPOCH.to_owned(),
        events,
        dropped_total: 3,
        settled_through: 0,
        trace_parent: TRACE.to_owned(),
    })
}
