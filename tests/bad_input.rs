//! Bad input at every door: a clear error that says what and where, and everything goes on.

use std::time::Duration;

use testkit::{ProcessBuilder, workspace_binary};
use tonic::Code;
use tonic_types::StatusExt as _;
use wire::agent::v1 as proto;
use wire::agent::v1::open_session_request::Message as Up;
use wire::agent::v1::open_session_response::Message as Down;
use wire::policy::v1::Policy;
use wire::twin::v1::PatchTwinRequest;

use crate::support::SOON;
use crate::support::agent::{Agent, Session, failed_login, hello, open, sas};
use crate::support::api::{Device, unexpected_listener};
use crate::support::hub::Hub;

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_door_refuses_who_it_does_not_know_and_goes_on() {
    let mut hub = Hub::start().await;
    hub.ingestion.allow("");
    let api = hub.api();
    let device = api.device("cam-1").await;
    let url = hub.agent_url();

    let unknown = Device {
        device_id: "nobody".to_owned(),
        ..device.clone()
    };
    let refused = open(&url, &sas(&unknown, HOUR), hello(0)).await;
    assert!(matches!(
        code(refused).await,
        Code::NotFound | Code::Unauthenticated
    ));
    let other_key = api.device("cam-2").await.key;
    let wrong = Device {
        key: other_key,
        ..device.clone()
    };
    let refused = open(&url, &sas(&wrong, HOUR), hello(0)).await;
    assert_eq!(code(refused).await, Code::Unauthenticated);
    let refused = open(&url, "SharedAccessSignature sr=x", hello(0)).await;
    assert_eq!(code(refused).await, Code::Unauthenticated);

    // The door is still open for who belongs here.
    let mut agent = Agent::new(url, device.clone());
    agent.observe(failed_login());
    agent.deliver(1, async |_| {}).await;
    api.twin_until(&device.twin, "the event", |twin| {
        twin.count("/eventCount") == 1
    })
    .await;
    hub.stop().await;
}

/// The code with which a session is refused, at once or with its first answer.
async fn code(outcome: Result<Session, tonic::Status>) -> Code {
    match outcome {
        Err(status) => status.code(),
        Ok(mut session) => match session.down.message().await {
            Err(status) => status.code(),
            Ok(message) => panic!("it was let in: {message:?}"),
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_event_is_rejected_with_its_reason_and_the_rest_of_its_batch_counts() {
    let mut hub = Hub::start().await;
    hub.ingestion.allow("");
    let api = hub.api();
    let device = api.device("cam-1").await;
    let mut session = open(&hub.agent_url(), &sas(&device, HOUR), hello(0))
        .await
        .expect("a session");
    let event = |sequence, payload| proto::SecurityEvent {
        sequence,
        observe_time: Some(wire::time::to_wire(jiff::Timestamp::now())),
        payload,
    };
    let huge = proto::security_event::Payload::File(proto::FileActivity {
        kind: proto::file_activity::Kind::Created.into(),
        path: "x".repeat(100_000),
        hit_count: 1,
    });
    let events = vec![
        event(1, Some(failed_login())),
        event(2, Some(huge)),
        event(3, None),
        event(4, Some(failed_login())),
    ];
    let batch = proto::EventBatch {
        lane: proto::Lane::High.into(),
        epoch: uuid::Uuid::new_v4().to_string(),
        events,
        dropped_total: 0,
        settled_through: 0,
        trace_parent: String::new(),
    };
    send(&session, Up::Events(batch.clone())).await;
    let Down::EventsAck(ack) =
        answer(&mut session, |down| matches!(down, Down::EventsAck(_))).await
    else {
        panic!("an acknowledgement was asked for");
    };
    assert_eq!(ack.through_sequence, 4);
    let rejected: Vec<u64> = ack.rejected.iter().map(|event| event.sequence).collect();
    assert_eq!(rejected, [2, 3], "{ack:?}");
    assert!(
        ack.rejected
            .iter()
            .all(|event| !event.reason.is_empty() && !event.message.is_empty())
    );

    // A batch that makes no sense is answered, and the session goes on.
    send(
        &session,
        Up::Events(proto::EventBatch { lane: 99, ..batch }),
    )
    .await;
    let Down::Error(error) = answer(&mut session, |down| matches!(down, Down::Error(_))).await
    else {
        panic!("an error was asked for");
    };
    assert!(error.message.contains("lane"), "{error:?}");
    let patch = proto::PatchReported {
        request_id: "r1".to_owned(),
        patch_json: r#"{"a.b": 1}"#.to_owned(),
    };
    send(&session, Up::PatchReported(patch)).await;
    let Down::Error(error) = answer(&mut session, |down| matches!(down, Down::Error(_))).await
    else {
        panic!("an error was asked for");
    };
    assert_eq!(error.request_id, "r1");
    assert!(error.message.contains("a.b"), "{error:?}");
    let good = proto::PatchReported {
        request_id: "r2".to_owned(),
        patch_json: r#"{"a":1}"#.to_owned(),
    };
    send(&session, Up::PatchReported(good)).await;
    answer(&mut session, |down| {
        matches!(down, Down::ReportedPatched(_))
    })
    .await;

    let twin = api
        .twin_until(&device.twin, "the good events", |twin| {
            twin.count("/eventCount") == 2
        })
        .await;
    assert_eq!(twin.count("/delivery/high/rejected"), 2);
    assert_eq!(twin.count("/delivery/high/missing"), 0);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_protobuf_ends_its_stream_and_nothing_else() {
    let mut hub = Hub::start().await;
    hub.ingestion.allow("");
    let api = hub.api();
    let device = api.device("cam-1").await;
    let refused = raw_call(&hub.agent_url(), &sas(&device, HOUR), &[0xff; 32]).await;
    assert_ne!(refused.code(), Code::Ok, "{refused:?}");
    let mut agent = Agent::new(hub.agent_url(), device.clone());
    agent.observe(failed_login());
    agent.deliver(1, async |_| {}).await;
    api.twin_until(&device.twin, "the event", |twin| {
        twin.count("/eventCount") == 1
    })
    .await;
    hub.stop().await;
}

/// Opens a session whose first message is these bytes.
async fn raw_call(url: &str, token: &str, message: &[u8]) -> tonic::Status {
    use tonic::codegen::http;
    let channel = tonic::transport::Endpoint::from_shared(url.to_owned())
        .expect("a URL")
        .connect()
        .await;
    let mut grpc = tonic::client::Grpc::new(channel.expect("a connection"));
    grpc.ready().await.expect("it is ready");
    let mut request = tonic::Request::new(tokio_stream::once(message.to_vec()));
    request
        .metadata_mut()
        .insert("authorization", token.parse().expect("ASCII"));
    let path = http::uri::PathAndQuery::from_static("/twinward.agent.v1.AgentService/OpenSession");
    match grpc
        .streaming(request, path, crate::support::raw::RawCodec)
        .await
    {
        Err(status) => status,
        Ok(answer) => match answer.into_inner().message().await {
            Err(status) => status,
            Ok(_) => tonic::Status::ok("the bytes were taken"),
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_apis_name_the_field_and_what_is_allowed() {
    let hub = Hub::start().await;
    let api = hub.api();
    let device = api.device("cam-1").await;
    let before = api.twin(&device.twin).await.expect("a twin");

    let request = PatchTwinRequest {
        name: device.twin.clone(),
        desired_patch_json: r#"{"fine": 1, "not.fine": {"deep": "x"}, "big": 9007199254740993}"#
            .to_owned(),
        ..Default::default()
    };
    let refused = api.patch(request).await.expect_err("two keys are wrong");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_error_details();
    let fields: Vec<String> = details
        .bad_request()
        .expect("a BadRequest")
        .field_violations
        .iter()
        .map(|violation| violation.field.clone())
        .collect();
    assert!(
        fields.iter().any(|field| field.contains("not.fine")),
        "{fields:?}"
    );
    assert!(
        fields.iter().any(|field| field.contains("big")),
        "{fields:?}"
    );
    assert_eq!(
        details.error_info().expect("an ErrorInfo").domain,
        "twinward"
    );
    let request = PatchTwinRequest {
        name: device.twin.clone(),
        desired_patch_json: "{\"a\":1}".to_owned(),
        etag: "AAAAAAAAAP8=".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        api.patch(request).await.expect_err("stale").code(),
        Code::Aborted
    );
    let after = api.twin(&device.twin).await.expect("a twin");
    assert_eq!(
        before.0.desired_version, after.0.desired_version,
        "nothing was written"
    );

    let bad = Policy {
        policy_id: "Bad Id".to_owned(),
        target: "tags.site = ".to_owned(),
        settings_json: "{".to_owned(),
        ..unexpected_listener()
    };
    let refused = api.apply(bad).await.expect_err("three fields are wrong");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_error_details();
    let count = details
        .bad_request()
        .expect("a BadRequest")
        .field_violations
        .len();
    assert!(count >= 3, "all problems at once: {details:?}");
    let missing = api.twin("devices/nobody").await.expect_err("nobody");
    assert_eq!(missing.code(), Code::NotFound);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_policy_file_is_refused_by_the_command_line_with_line_and_key() {
    let hub = Hub::start().await;
    let file = hub.folder().join("bad.yaml");
    std::fs::write(
        &file,
        "kind: Policy\nname: x\ntargets: \"*\"\nsettings:\n  a: 1\n",
    )
    .expect("a file");
    let mut cli = ProcessBuilder::new("cli", workspace_binary("twinward"))
        .args(["policy", "apply", "-f"])
        .arg(&file)
        .allow("")
        .spawn();
    let status = cli.wait_exit(SOON).await;
    let lines = cli.lines().join("\n");
    assert!(!status.success(), "{lines}");
    assert!(
        lines.contains("targets") && lines.contains("target"),
        "{lines}"
    );
    hub.stop().await;
}

async fn send(session: &Session, message: Up) {
    let message = proto::OpenSessionRequest {
        message: Some(message),
    };
    session.up.send(message).await.expect("the session is open");
}

/// The next answer of a kind; others are passed over.
async fn answer(session: &mut Session, wanted: impl Fn(&Down) -> bool) -> Down {
    let next = async {
        loop {
            let message = session.down.message().await.expect("the session goes on");
            let message = message
                .and_then(|response| response.message)
                .expect("a message");
            if wanted(&message) {
                return message;
            }
        }
    };
    tokio::time::timeout(SOON, next)
        .await
        .expect("an answer in time")
}
