//! Enrolment: a token for credentials.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use iot_hub::ConnectionString;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::Service as _;
use wire::agent::v1 as wire_agent;

use crate::hub::{HOST, Hub, SOON};
use crate::mqtt_log::Log;

async fn enroll(hub: &Hub, token: &str, device: &str, nonce: &str) -> Result<String, Status> {
    let request = wire_agent::EnrollRequest {
        token: token.to_owned(),
        device_id: device.to_owned(),
        nonce: nonce.to_owned(),
    };
    let answer = hub.client().await.enroll(request).await?;
    Ok(answer.into_inner().connection_string)
}

const NONCE: &str = "0123456789abcdef";

#[tokio::test]
async fn a_good_token_brings_a_connection_string_for_this_hub() {
    let hub = Hub::start().await;
    let text = enroll(&hub, "good-token", "d", NONCE).await.unwrap();
    assert!(
        text.starts_with(&format!("HostName={HOST};DeviceId=d;ModuleId=")),
        "{text}"
    );
    assert!(ConnectionString::parse(&text).is_ok());
    let redeemed = hub.store.state().redeemed.clone();
    assert_eq!((redeemed.len(), redeemed[0].nonce.as_str()), (1, NONCE));
    hub.stop().await;
}

#[tokio::test]
async fn a_bad_request_names_every_field_and_a_bad_token_its_reason() {
    let hub = Hub::start_with(|config| config.limits.enroll_failures_per_minute = 2).await;
    let status = enroll(&hub, "", "not an id", "short").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let fields: Vec<_> = details
        .bad_request()
        .unwrap()
        .field_violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(fields, ["token", "device_id", "nonce"]);
    assert!(hub.store.state().redeemed.is_empty());

    let status = enroll(&hub, "bad-token", "d", NONCE).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(
        status.get_error_details().error_info().unwrap().reason,
        "TOKEN_UNKNOWN"
    );

    for _ in 0..5 {
        let status = enroll(&hub, "bad-token", "d", NONCE).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "TOO_MANY_FAILURES");
    }
    // Others are behind that address.
    assert!(enroll(&hub, "good-token", "d", NONCE).await.is_ok());
    hub.stop().await;
}

#[tokio::test]
async fn refused_enrolments_without_end_have_so_many_lines_of_the_log() {
    let log = Log::default();
    let _guard = log.follow();
    let hub = Hub::start_with(|config| config.limits.enroll_failures_per_minute = 1000).await;
    let mut client = hub.client().await;
    for _ in 0..80 {
        let request = wire_agent::EnrollRequest {
            token: "bad-token".to_owned(),
            device_id: "d".to_owned(),
            nonce: NONCE.to_owned(),
        };
        let status = client.enroll(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    assert_eq!(log.lines(&["agent was not enrolled"]), 60);
    // Others have their lines.
    enroll(&hub, "", "d", NONCE).await.unwrap_err();
    assert_eq!(log.lines(&["agent was not enrolled", "INVALID_FIELD"]), 1);
    hub.stop().await;
}

/// What somebody sends who does not go on.
struct Unfinished(Option<Bytes>);

impl http_body::Body for Unfinished {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Poll::Pending,
        }
    }
}

async fn channel(hub: &Hub) -> Channel {
    let url = format!("http://{}", hub.addresses.grpc);
    Endpoint::from_shared(url).unwrap().connect().await.unwrap()
}

/// Begins a message that says how long it will be, and sends ten bytes of it. The answer; `None`: the
/// connection ended.
async fn begin(channel: Channel, length: u32) -> Option<Status> {
    begin_call(channel, "twinward.agent.v1.AgentService/Enroll", length).await
}

/// The same of any call.
async fn begin_call(mut channel: Channel, path: &str, length: u32) -> Option<Status> {
    let mut bytes = vec![0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([b'x'; 10]);
    let request = http::Request::post(format!("http://hub/{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Unfinished(Some(bytes.into()))))
        .unwrap();
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .unwrap();
    let answering = tokio::time::timeout(SOON, channel.call(request));
    let response = answering.await.expect("an answer, or the end").ok()?;
    Status::from_header_map(response.headers())
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().expect("a reason").reason.clone()
}

#[tokio::test]
async fn a_large_message_of_somebody_unproven_is_refused_before_it_has_come() {
    let hub = Hub::start().await;
    let status = begin(channel(&hub).await, 900 << 10).await;
    let status = status.expect("an answer");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(reason(&status), "MESSAGE_TOO_LARGE");
    assert!(enroll(&hub, "good-token", "d", NONCE).await.is_ok());
    hub.stop().await;
}

#[tokio::test]
async fn a_message_that_does_not_go_on_keeps_no_connection() {
    let hub = Hub::start_with(|config| {
        config.connections.prove_within = service_kit::units::Duration::millis(300);
    })
    .await;
    assert!(begin(channel(&hub).await, 100).await.is_none());
    hub.stop().await;
}

#[tokio::test]
async fn unfinished_messages_of_one_network_are_so_many() {
    let hub = Hub::start_with(|config| {
        config.connections.prove_within = service_kit::units::Duration::secs(600);
    })
    .await;
    let mut begun = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let channel = channel(&hub).await;
        for _ in 0..10 {
            begun.spawn(begin(channel.clone(), 100));
        }
    }
    // The others wait; so many of them as are too many are told so.
    let mut told = 0;
    while told < 30 {
        let next = tokio::time::timeout(Duration::from_secs(10), begun.join_next());
        let status = next.await.expect("they are told at once");
        let status = status.expect("one of them").unwrap().expect("an answer");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert_eq!(reason(&status), "TOO_MANY_CALLS");
        assert!(status.get_details_retry_info().is_some());
        told += 1;
    }
    let page = hub.metrics().await;
    let line = "auth_decisions_total{decision=\"too_many\",permission=\"none\",via=\"nothing\"} ";
    let counted = page.split_once(line).expect("it is counted").1;
    let counted = counted.lines().next().unwrap().parse::<u64>();
    assert!(counted.unwrap() >= 30);
    drop(begun);
    testkit::wait_for("room", SOON, async || {
        enroll(&hub, "good-token", "d", NONCE).await.ok()
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn quiet_calls_of_health_and_reflection_take_nothing_from_those_who_enrol() {
    let hub = Hub::start_with(|config| {
        config.connections.prove_within = service_kit::units::Duration::secs(600);
    })
    .await;
    for path in [
        "grpc.health.v1.Health/Check",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        let mut begun = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let channel = channel(&hub).await;
            for _ in 0..30 {
                begun.spawn(begin_call(channel.clone(), path, 100));
            }
        }
        // Some are too many, or nobody serves them; all others are there and wait.
        let next = tokio::time::timeout(Duration::from_secs(10), begun.join_next());
        let status = next.await.expect("it is told").expect("one of them");
        let code = status.unwrap().expect("an answer").code();
        assert!([Code::ResourceExhausted, Code::Unimplemented].contains(&code));
        let enrolled = enroll(&hub, "good-token", "d", NONCE).await;
        assert!(enrolled.is_ok(), "{path}: {enrolled:?}");
    }
    hub.stop().await;
}
