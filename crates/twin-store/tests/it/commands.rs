//! What back ends ask of devices, with a test in the place of ingestion.

use std::time::Duration;

use bus::{Bus, Question, Questions};
use futures::StreamExt as _;
use prost::Message as _;
use service_kit::error::{Classified as _, Kind};
use service_kit::status::RemoteError;
use testkit::NatsServer;
use tonic::Status;
use wire::bus::v1 as bus_proto;
use wire::bus::v1::MethodFailure;
use wire::bus::v1::method_outcome::Outcome;
use wire::device::v1 as proto;
use wire::registry::v1 as registry;
use wire::subjects;

use crate::service::{SOON, Service, connect};

/// Stands for one run of ingestion.
struct Ingestion {
    bus: Bus,
    subject: String,
    searches: Questions,
    calls: Questions,
}

impl Ingestion {
    async fn start(nats: &NatsServer, run: &str) -> Self {
        let bus = connect(nats).await;
        let subject = subjects::methods_subject(run);
        Self {
            searches: bus
                .take_questions(subjects::FIND_SESSION_SUBJECT)
                .await
                .expect("it listens"),
            calls: bus.take_questions(&subject).await.expect("it listens"),
            bus,
            subject,
        }
    }

    /// Whom the next search is for, and where the answer goes.
    async fn search(&mut self) -> (bus_proto::FindSession, Question) {
        let question = next(&mut self.searches).await;
        let asked = bus_proto::FindSession::decode(&*question.payload).expect("a message");
        (asked, question)
    }

    /// Says that the session is here.
    async fn here(&self, question: Question) {
        self.tell(question, true).await;
    }

    async fn tell(&self, question: Question, has_session: bool) {
        let place = bus_proto::SessionPlace {
            subject: self.subject.clone(),
            has_session,
        };
        let answer = place.encode_to_vec();
        self.bus
            .answer(question.reply_to, answer)
            .await
            .expect("sent");
    }

    /// Takes the next call, and lets this come of it.
    async fn call(&mut self, outcome: Outcome) -> bus_proto::MethodCall {
        let question = next(&mut self.calls).await;
        let outcome = bus_proto::MethodOutcome {
            outcome: Some(outcome),
        };
        let answer = outcome.encode_to_vec();
        self.bus
            .answer(question.reply_to, answer)
            .await
            .expect("sent");
        bus_proto::MethodCall::decode(&*question.payload).expect("a message")
    }

    /// A search and a call of which this comes.
    async fn whole(&mut self, outcome: Outcome) -> bus_proto::MethodCall {
        let (_, question) = self.search().await;
        self.here(question).await;
        self.call(outcome).await
    }
}

async fn next(questions: &mut Questions) -> Question {
    let next = tokio::time::timeout(SOON, questions.next()).await;
    next.expect("somebody asks").expect("the bus is there")
}

fn answer(status: i32, payload: &[u8]) -> Outcome {
    Outcome::Answer(bus_proto::MethodAnswer {
        status,
        payload: payload.to_vec(),
    })
}

fn failure(failure: MethodFailure) -> Outcome {
    Outcome::Failure(failure.into())
}

fn request(name: &str) -> proto::InvokeMethodRequest {
    proto::InvokeMethodRequest {
        name: name.to_owned(),
        method_name: "reboot".to_owned(),
        ..Default::default()
    }
}

async fn invoke(
    service: &Service,
    request: proto::InvokeMethodRequest,
) -> Result<proto::InvokeMethodResponse, Status> {
    let answers = service.commands().invoke_method(request).await?;
    let mut answers = answers.into_inner();
    let answer = answers.message().await?.expect("one answer");
    assert_eq!(answers.message().await?, None, "and no other");
    Ok(answer)
}

#[tokio::test]
async fn a_call_goes_to_whoever_holds_the_session_and_into_the_audit_log() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    // Two instances; only one has the device.
    let mut one = Ingestion::start(&nats, "one").await;
    let mut two = Ingestion::start(&nats, "two").await;
    let asked = proto::InvokeMethodRequest {
        payload_json: r#"{"n": 1.50}"#.to_owned(),
        response_timeout: Some(prost_types::Duration {
            seconds: 7,
            nanos: 0,
        }),
        ..request("devices/d/modules/DefenderIotMicroAgent")
    };
    let ingestion = async {
        let (wanted, _) = one.search().await;
        assert_eq!(wanted.device_id, "d");
        assert_eq!(wanted.module_id, "DefenderIotMicroAgent");
        two.whole(answer(-3, b" [1e400] ")).await
    };
    let (answered, call) = tokio::join!(invoke(&service, asked), ingestion);
    let answered = answered.expect("answered");
    assert_eq!(
        (answered.status, &*answered.payload_json),
        (-3, " [1e400] ")
    );
    assert_eq!(call.method_name, "reboot");
    assert_eq!(call.payload, br#"{"n": 1.50}"#);
    assert_eq!(call.response_within_ms, 7000);
    // Nothing and blanks are null, both ways.
    for payload in [&b""[..], b" "] {
        let both = tokio::join!(
            invoke(&service, request("devices/d")),
            two.whole(answer(200, payload))
        );
        assert_eq!(both.0.expect("answered").payload_json, "null");
        assert_eq!(both.1.payload, b"null");
    }
    let entries = registry::ListAuditEntriesRequest {
        resource: "devices/d".to_owned(),
        ..Default::default()
    };
    let entries = service.audit().list_audit_entries(entries).await.unwrap();
    let entries = entries.into_inner().entries;
    let calls: Vec<_> = entries
        .iter()
        .filter(|entry| entry.action == "method.invoke")
        .collect();
    assert_eq!(calls.len(), 3);
    assert_eq!(calls[0].actor, "operator:admin");
    assert_eq!(calls[0].detail_json, r#"{"method":"reboot"}"#);
    service.stop().await;
}

#[tokio::test]
async fn whoever_is_not_there_is_told_apart_from_whoever_is_silent() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let refusal = |refused: Result<_, Status>| RemoteError::from(refused.expect_err("refused"));
    let code = |refused: &RemoteError| refused.fact("iot_hub_code").map(str::to_owned);

    // No ingestion at all, and one that does not have it.
    let nobody = refusal(invoke(&service, request("devices/d")).await);
    assert_eq!(nobody.reason(), "DEVICE_NOT_ONLINE", "{nobody}");
    let mut ingestion = Ingestion::start(&nats, "one").await;
    let absent = refusal(invoke(&service, request("devices/d")).await);
    assert_eq!(absent.reason(), "DEVICE_NOT_ONLINE", "{absent}");
    assert_eq!(absent.kind(), Kind::FailedPrecondition);
    assert_eq!(code(&absent).as_deref(), Some("404103"));
    ingestion.search().await;

    for (outcome, reason, number) in [
        (
            failure(MethodFailure::NotOnline),
            "DEVICE_NOT_ONLINE",
            "404103",
        ),
        (failure(MethodFailure::Busy), "TOO_MANY_CALLS", "429001"),
        (
            failure(MethodFailure::NotAnswered),
            "METHOD_NOT_ANSWERED",
            "504101",
        ),
        (answer(200, b"{"), "METHOD_ANSWER_UNUSABLE", "400012"),
        (answer(200, b"\"\xff\""), "METHOD_ANSWER_UNUSABLE", "400012"),
        (
            answer(200, format!("\"{}\"", "x".repeat(128 << 10)).as_bytes()),
            "METHOD_ANSWER_UNUSABLE",
            "400012",
        ),
    ] {
        let (refused, _) = tokio::join!(
            invoke(&service, request("devices/d")),
            ingestion.whole(outcome)
        );
        let refused = refusal(refused);
        assert_eq!(refused.reason(), reason, "{refused}");
        assert_eq!(code(&refused).as_deref(), Some(number), "{refused}");
    }
    let unknown = refusal(invoke(&service, request("devices/nobody")).await);
    assert_eq!(unknown.reason(), "DEVICE_NOT_FOUND");
    let unknown = refusal(invoke(&service, request("devices/d/modules/none")).await);
    assert_eq!(unknown.reason(), "MODULE_NOT_FOUND");
    let mut unnamed = request("devices/d");
    unnamed.method_name = "a/b".to_owned();
    let unnamed = refusal(invoke(&service, unnamed).await);
    assert_eq!(unnamed.violations()[0].subject, "method_name");
    service.stop().await;
}

#[tokio::test]
async fn a_search_ends_when_the_device_is_found_and_not_with_the_first_who_has_it_not() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let (mut one, mut two) = (
        Ingestion::start(&nats, "one").await,
        Ingestion::start(&nats, "two").await,
    );
    let (answered, ()) = tokio::join!(invoke(&service, request("devices/d")), async {
        // The other answers only when the first has: its answer comes last in any case.
        let (_, question) = one.search().await;
        one.tell(question, false).await;
        two.whole(answer(200, b"1")).await;
    });
    assert_eq!(answered.expect("answered").payload_json, "1");
    service.stop().await;
}

#[tokio::test]
async fn a_caller_may_wait_for_the_device_and_a_stop_ends_its_waiting() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let patient = || proto::InvokeMethodRequest {
        connect_timeout: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..request("devices/d")
    };
    let mut ingestion = Ingestion::start(&nats, "one").await;
    let (answered, ()) = tokio::join!(invoke(&service, patient()), async {
        // It comes, but has not subscribed yet; then its instance ends; then it is there.
        ingestion.search().await;
        ingestion.whole(failure(MethodFailure::NotOnline)).await;
        let (_, question) = ingestion.search().await;
        let gone = bus_proto::SessionPlace {
            subject: subjects::methods_subject("ended"),
            has_session: true,
        };
        let gone = gone.encode_to_vec();
        ingestion.bus.answer(question.reply_to, gone).await.unwrap();
        ingestion.whole(answer(200, b"1")).await;
    });
    assert_eq!(answered.expect("answered").payload_json, "1");
    let answers = service.commands().invoke_method(patient()).await.unwrap();
    ingestion.search().await;
    let mut answers = answers.into_inner();
    let (ended, ()) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(20), answers.message()),
        service.stop()
    );
    let refused = RemoteError::from(ended.expect("at once").expect_err("refused"));
    assert_eq!(refused.reason(), "STOPPING", "{refused}");
}
