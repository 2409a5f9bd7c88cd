//! Bad input at every door: a clear error that says what and where, and everything goes on.

use std::time::Duration;

use testkit::{ProcessBuilder, workspace_binary};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use wire::agent::v1 as proto;
use wire::agent::v1::open_session_request::Message as Up;
use wire::agent::v1::open_session_response::Message as Down;
use wire::policy::v1::Policy;
use wire::twin::v1::PatchTwinRequest;

use crate::support::SOON;
use crate::support::agent::{Agent, Session, failed_login, hello, open, sas};
use crate::support::api::{Device, unexpected_listener};
use crate::support::hub::{Hub, Part, TOKEN};
use crate::support::raw::RawCodec;

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
    let refused = refusal(open(&url, &sas(&unknown, HOUR), hello(0)).await).await;
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    assert_eq!(reason(&refused), "IDENTITY_NOT_FOUND");
    assert!(refused.message().contains("nobody"), "{refused:?}");
    let other_key = api.device("cam-2").await.key;
    let wrong = Device {
        key: other_key,
        ..device.clone()
    };
    let refused = refusal(open(&url, &sas(&wrong, HOUR), hello(0)).await).await;
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    assert_eq!(reason(&refused), "WRONG_KEY");
    assert!(
        refused
            .message()
            .contains("signature was not made with a key of this identity"),
        "{refused:?}"
    );
    assert!(!refused.message().contains(&wrong.key), "no secret in it");
    let refused = refusal(open(&url, "SharedAccessSignature sr=x", hello(0)).await).await;
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    assert_eq!(reason(&refused), "TOKEN_MALFORMED");
    assert!(refused.message().contains("has no field"), "{refused:?}");

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

/// The status with which a session is refused, at once or with its first answer.
async fn refusal(outcome: Result<Session, Status>) -> Status {
    match outcome {
        Err(status) => status,
        Ok(mut session) => match session.down.message().await {
            Err(status) => status,
            Ok(message) => panic!("it was let in: {message:?}"),
        },
    }
}

/// The stable code of a failure.
fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info();
    info.map(|info| info.reason.clone()).unwrap_or_default()
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
    for bytes in garbage() {
        let refused = raw_session(&hub.agent_url(), &sas(&device, HOUR), bytes).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    let mut agent = Agent::new(hub.agent_url(), device.clone());
    agent.observe(failed_login());
    agent.deliver(1, async |_| {}).await;
    api.twin_until(&device.twin, "the event", |twin| {
        twin.count("/eventCount") == 1
    })
    .await;
    hub.stop().await;
}

/// Bytes that are no message: an impossible field, a field longer than its message, and a group
/// that is never closed.
fn garbage() -> [Vec<u8>; 3] {
    [vec![0xff; 32], vec![0x12, 0x7f, 0x01], vec![0x0b]]
}

async fn raw_client(url: &str) -> tonic::client::Grpc<tonic::transport::Channel> {
    let channel = tonic::transport::Endpoint::from_shared(url.to_owned())
        .expect("a URL")
        .connect()
        .await;
    let mut grpc = tonic::client::Grpc::new(channel.expect("a connection"));
    grpc.ready().await.expect("it is ready");
    grpc
}

fn authorized<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let token = token.parse().expect("ASCII");
    request.metadata_mut().insert("authorization", token);
    request
}

/// Opens a session whose first message is these bytes.
async fn raw_session(url: &str, token: &str, message: Vec<u8>) -> Status {
    let request = authorized(tokio_stream::once(message), token);
    let path = PathAndQuery::from_static("/twinward.agent.v1.AgentService/OpenSession");
    let mut grpc = raw_client(url).await;
    match grpc.streaming(request, path, RawCodec).await {
        Err(status) => status,
        Ok(answer) => match answer.into_inner().message().await {
            Err(status) => status,
            Ok(_) => Status::ok("the bytes were taken"),
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_protobuf_at_the_apis_is_refused_and_they_go_on() {
    let hub = Hub::start().await;
    let api = hub.api();
    let device = api.device("cam-1").await;
    let bearer = format!("Bearer {TOKEN}");
    for (part, path) in [
        (Part::TwinStore, "/twinward.twin.v1.TwinService/GetTwin"),
        (Part::TwinStore, "/twinward.twin.v1.TwinService/PatchTwin"),
        (Part::Policy, "/twinward.policy.v1.PolicyService/GetPolicy"),
        (
            Part::Policy,
            "/twinward.policy.v1.PolicyService/ApplyPolicy",
        ),
    ] {
        for bytes in garbage() {
            let mut grpc = raw_client(&hub.url(part)).await;
            let request = authorized(bytes, &bearer);
            let answer = grpc
                .unary(request, PathAndQuery::from_static(path), RawCodec)
                .await;
            let refused = answer.expect_err("these bytes are no message");
            assert_eq!(refused.code(), Code::InvalidArgument, "{path}: {refused:?}");
            assert_eq!(reason(&refused), "MALFORMED_MESSAGE", "{path}");
            assert!(
                refused
                    .message()
                    .contains("failed to decode Protobuf message"),
                "{path}: {refused:?}"
            );
        }
    }
    api.twin(&device.twin).await.expect("twin-store goes on");
    api.apply(unexpected_listener())
        .await
        .expect("policy goes on");
    hub.stop().await;
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
    assert_eq!(status.code(), Some(5), "bad input: {lines}");
    assert!(
        lines.contains("line 3, column 1: unknown key `targets`"),
        "{lines}"
    );
    assert!(lines.contains("`target` is missing"), "{lines}");
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
