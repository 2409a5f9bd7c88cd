//! A service of a few lines: welcomes, records, acknowledges, and pushes what a test wants.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use service_kit::shutdown::ShutdownToken;
use tempfile::TempDir;
use testkit::{Process, ProcessBuilder};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use wire::agent::v1::agent_service_server::{AgentService, AgentServiceServer};
use wire::agent::v1::open_session_request::Message as FromAgent;
use wire::agent::v1::open_session_response::Message as ToAgent;
use wire::agent::v1::{
    DesiredConfiguration, EnrollRequest, EnrollResponse, EventBatch, EventsAck, MessageError,
    MethodRequest, OpenSessionRequest, OpenSessionResponse, ReportedPatched, TwinDocument, Welcome,
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const CONNECTION_STRING: &str = "HostName=hub.example;DeviceId=d1;ModuleId=DefenderIotMicroAgent;SharedAccessKey=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// What the door was told, in order, over all sessions.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<FromAgent>>>);

impl Record {
    pub(crate) fn messages(&self) -> Vec<FromAgent> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn batches(&self) -> Vec<EventBatch> {
        let batch = |message| match message {
            FromAgent::Events(batch) => Some(batch),
            _ => None,
        };
        self.messages().into_iter().filter_map(batch).collect()
    }

    /// Waits until the messages so far satisfy a condition.
    pub(crate) async fn wait<T>(&self, what: &str, look: impl Fn(&[FromAgent]) -> Option<T>) -> T {
        testkit::wait_for(what, DEADLINE, async || look(&self.messages())).await
    }
}

/// How the service behind the door is at the moment.
#[derive(Default)]
pub(crate) struct Mood {
    /// The generation of the identity that it knows.
    pub(crate) generation_id: String,
    /// So many acknowledgements it cannot pass on to the twin.
    pub(crate) acknowledgements_refused: usize,
    /// It takes the call and says nothing.
    pub(crate) silent: bool,
}

/// The door's servant.
struct Servant {
    record: Record,
    mood: Arc<Mutex<Mood>>,
    pushes: broadcast::Sender<ToAgent>,
    stop: ShutdownToken,
}

/// A door that stands open until it is dropped.
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    pushes: broadcast::Sender<ToAgent>,
    stop: ShutdownToken,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

impl Door {
    /// Opens a door; port 0 for any.
    #[expect(
        clippy::disallowed_methods,
        reason = "the test's own server, dropped with the test"
    )]
    pub(crate) async fn open(port: u16, record: Record) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (pushes, _) = broadcast::channel(8);
        let stop = ShutdownToken::new();
        let mood = Arc::<Mutex<Mood>>::default();
        let servant = Servant {
            record,
            mood: Arc::clone(&mood),
            pushes: pushes.clone(),
            stop: stop.clone(),
        };
        let server = Server::builder()
            .add_service(AgentServiceServer::new(servant))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.triggered_owned());
        tokio::spawn(async move { server.await.unwrap() });
        Self {
            address,
            mood,
            pushes,
            stop,
        }
    }

    pub(crate) fn mood(&self) -> MutexGuard<'_, Mood> {
        self.mood.lock().unwrap()
    }

    pub(crate) fn push(&self, version: u64, document: &serde_json::Value) {
        let desired = DesiredConfiguration {
            version,
            document_json: document.to_string(),
            trace_parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
        };
        self.say(ToAgent::Desired(desired));
    }

    /// Calls a method.
    pub(crate) fn call(&self, call_id: &str, method: &str) {
        self.say(ToAgent::Method(MethodRequest {
            call_id: call_id.to_owned(),
            method_name: method.to_owned(),
            payload_json: "null".to_owned(),
        }));
    }

    fn say(&self, message: ToAgent) {
        self.pushes.send(message).expect("an open session");
    }
}

#[tonic::async_trait]
impl AgentService for Servant {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        if request.get_ref().token != "good" {
            return Err(Status::unauthenticated("the token is unknown"));
        }
        Ok(Response::new(EnrollResponse {
            connection_string: CONNECTION_STRING.to_owned(),
        }))
    }

    type OpenSessionStream =
        Pin<Box<dyn Stream<Item = Result<OpenSessionResponse, Status>> + Send>>;

    #[expect(clippy::disallowed_methods, reason = "ends with its session")]
    async fn open_session(
        &self,
        request: Request<Streaming<OpenSessionRequest>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        let authorization = request.metadata().get("authorization").cloned();
        if !authorization.is_some_and(|value| {
            value
                .to_str()
                .is_ok_and(|text| text.starts_with("SharedAccessSignature sr="))
        }) {
            return Err(Status::unauthenticated("no token"));
        }
        let mut requests = request.into_inner();
        let (answers, receiver) = mpsc::channel(64);
        let mut pushes = self.pushes.subscribe();
        let record = self.record.clone();
        let mood = Arc::clone(&self.mood);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            loop {
                let answer = tokio::select! {
                    message = requests.message() => match message {
                        Ok(Some(OpenSessionRequest { message: Some(message) })) => {
                            let answer = answer(&message, &mut mood.lock().unwrap());
                            record.0.lock().unwrap().push(message);
                            answer
                        }
                        _ => return,
                    },
                    () = stop.triggered() => return,
                    Ok(message) = pushes.recv() => Some(message),
                };
                if let Some(message) = answer {
                    let response = OpenSessionResponse {
                        message: Some(message),
                    };
                    if answers.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn answer(message: &FromAgent, mood: &mut Mood) -> Option<ToAgent> {
    match message {
        FromAgent::Hello(_) if mood.silent => None,
        FromAgent::Hello(_) => Some(ToAgent::Welcome(Welcome {
            device_id: "d1".to_owned(),
            module_id: "DefenderIotMicroAgent".to_owned(),
            generation_id: mood.generation_id.clone(),
            ..Welcome::default()
        })),
        FromAgent::Events(batch) => Some(ToAgent::EventsAck(EventsAck {
            lane: batch.lane,
            epoch: batch.epoch.clone(),
            through_sequence: batch.events.last().map_or(0, |event| event.sequence),
            rejected: Vec::new(),
        })),
        FromAgent::PatchReported(patch) => Some(ToAgent::ReportedPatched(ReportedPatched {
            request_id: patch.request_id.clone(),
            version: 1,
        })),
        FromAgent::AcknowledgeDesired(_) if mood.acknowledgements_refused > 0 => {
            mood.acknowledgements_refused -= 1;
            Some(ToAgent::Error(MessageError {
                reason: "TWIN_STORE_UNAVAILABLE".to_owned(),
                retryable: true,
                ..MessageError::default()
            }))
        }
        FromAgent::GetTwin(get) => Some(ToAgent::Twin(TwinDocument {
            request_id: get.request_id.clone(),
            ..TwinDocument::default()
        })),
        FromAgent::AcknowledgeDesired(_) | FromAgent::MethodResponse(_) => None,
    }
}

/// An agent on a data directory, and a machine of its own whose files the test writes.
pub(crate) struct Agent {
    pub(crate) process: Process,
}

pub(crate) fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

impl Agent {
    pub(crate) fn start(data_dir: &TempDir, door: SocketAddr, more: &[&str]) -> Self {
        let process = ProcessBuilder::new("twinward-agent", env!("CARGO_BIN_EXE_twinward-agent"))
            .args(["run", "--data-dir"])
            .arg(data_dir.path())
            .args(["--server", &format!("http://{door}")])
            .args(["--log-filter", "info,agent=debug"])
            .args(more.iter().copied())
            // What this machine does not offer (rights, login records) is said, not failed.
            .allow("no session with the service")
            .spawn();
        Self { process }
    }
}
