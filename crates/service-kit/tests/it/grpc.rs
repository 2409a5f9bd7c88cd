//! A real server and a real client: traces, tokens, health, and the end.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::mpsc;
use std::task::{Context, Poll};

use service_kit::auth::Permission;
use service_kit::client::ClientConfig;
use service_kit::error::{Classified, Kind};
use service_kit::health::Health;
use service_kit::metrics::Registry;
use service_kit::secret::Secret;
use service_kit::server::{GrpcConfig, GrpcServer};
use service_kit::status::RemoteError;
use service_kit::tasks::Tasks;
use service_kit::{telemetry, trace};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::Service;
use tracing::Instrument;

use crate::support::{PATIENCE, Running, health_client, within};

const TOKEN: &str = "a-token-that-is-long-enough";
/// Who may call the probe.
const RULES: &[(&str, Permission)] = &[("/test.Probe/Probe", Permission::TwinsRead)];

fn overall() -> HealthCheckRequest {
    HealthCheckRequest::default()
}

/// A service that tells the test the traceparent under which it was called, both the one in the
/// request's headers and the one of its own span.
#[derive(Clone)]
struct Probe(mpsc::Sender<(Option<String>, Option<String>)>);

impl NamedService for Probe {
    const NAME: &'static str = "test.Probe";
}

impl Service<http::Request<Body>> for Probe {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let sent = trace::extract_headers(request.headers()).map(str::to_owned);
        self.0
            .send((sent, trace::current_traceparent()))
            .expect("the test listens");
        ready(Ok(tonic::Status::not_found("probed").into_http()))
    }
}

#[tokio::test]
async fn a_trace_continues_through_client_and_server() {
    telemetry::ids_for_tests();
    let (sender, seen) = mpsc::channel();
    let tasks = Tasks::default();
    let registry = Registry::new();
    let config = GrpcConfig::default();
    let server = GrpcServer::bind(&config).await.expect("a free port");
    let address = server.local_addr();
    server
        .add_service(Probe(sender))
        .rules(RULES)
        .metrics(&registry.scope("demo"))
        .serve(&tasks, &Health::new());

    let span = tracing::info_span!("caller");
    let caller = trace::traceparent_of(&span).expect("ids exist without an exporter");
    let channel = service_kit::client::connect(&ClientConfig::to(format!("http://{address}")))
        .expect("a usable configuration");
    let request = async {
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.expect("a connection");
        let path = http::uri::PathAndQuery::from_static("/test.Probe/Probe");
        let codec = tonic_health_codec();
        client
            .unary(tonic::Request::new(overall()), path, codec)
            .await
            .expect_err("not found")
    };
    let status = within("an answer", request.instrument(span)).await;
    assert_eq!(status.code(), tonic::Code::NotFound);

    let (sent, continued) = seen.try_recv().expect("the probe was called");
    let continued = continued.expect("the server has a span");
    assert_eq!(sent.as_deref(), Some(&*caller), "the client sends its span");
    assert_eq!(
        continued[..36],
        caller[..36],
        "the server continues the trace"
    );
    assert_ne!(continued[36..52], caller[36..52], "in a span of its own");

    let page = registry.encode().expect("text");
    let line = "twinward_demo_rpc_seconds_count{service=\"test.Probe\",method=\"Probe\",\
                code=\"NOT_FOUND\"} 1";
    assert!(page.contains(line), "{page}");
    tasks.drain(PATIENCE).await.expect("everything ends");
}

/// The codec of the health service's own messages.
fn tonic_health_codec()
-> tonic_prost::ProstCodec<HealthCheckRequest, tonic_health::pb::HealthCheckResponse> {
    tonic_prost::ProstCodec::default()
}

#[tokio::test]
async fn the_health_service_follows_the_health_of_the_components() {
    let server = Running::start(&GrpcConfig::default()).await;
    let store = server.health.component("store");
    let mut watch = within("an answer", server.client().watch(overall()))
        .await
        .expect("a stream")
        .into_inner();
    let mut wait_for = async |status: ServingStatus| loop {
        let message = within("a message", watch.message())
            .await
            .expect("no error");
        let message = message.expect("the stream goes on");
        if message.status() == status {
            break;
        }
    };
    wait_for(ServingStatus::NotServing).await;
    store.serving();
    wait_for(ServingStatus::Serving).await;
    store.failed("gone");
    wait_for(ServingStatus::NotServing).await;
    server.stop().await;
    // Whatever it still says, it ends; otherwise `within` gives up.
    while let Ok(Some(_)) = within("the end of the stream", watch.message()).await {}
}

#[tokio::test]
async fn a_call_without_the_token_is_refused_with_a_reason() {
    let (sender, seen) = mpsc::channel();
    let tasks = Tasks::default();
    let health = Health::new();
    let config = GrpcConfig {
        token: Some(Secret::new(TOKEN)),
        ..GrpcConfig::default()
    };
    let server = GrpcServer::bind(&config).await.expect("a free port");
    let url = format!("http://{}", server.local_addr());
    server
        .add_service(Probe(sender))
        .rules(RULES)
        .serve(&tasks, &health);

    for (token, kind, reason) in [
        (None, Kind::Unauthenticated, "TOKEN_MISSING"),
        (
            Some("another-token-of-some-length"),
            Kind::Unauthenticated,
            "TOKEN_WRONG",
        ),
        (Some(TOKEN), Kind::NotFound, "NOT_FOUND"),
    ] {
        let mut config = ClientConfig::to(&url);
        config.token = token.map(Secret::new);
        let channel = service_kit::client::connect(&config).expect("usable");
        let mut client = tonic::client::Grpc::new(channel);
        within("a connection", client.ready())
            .await
            .expect("a connection");
        let path = http::uri::PathAndQuery::from_static("/test.Probe/Probe");
        let call = client.unary(tonic::Request::new(overall()), path, tonic_health_codec());
        let error = RemoteError::from(within("an answer", call).await.expect_err("refused"));
        assert_eq!(
            (error.kind(), error.reason()),
            (kind, reason),
            "{token:?}: {error}"
        );
    }
    assert_eq!(
        seen.try_iter().count(),
        1,
        "only the right token reached the service"
    );

    let mut probe = health_client(&ClientConfig::to(&url));
    within("an answer", probe.check(overall()))
        .await
        .expect("health needs no token");
    tasks.drain(PATIENCE).await.expect("everything ends");
}

#[tokio::test]
async fn a_service_that_authenticates_its_callers_itself_is_open() {
    let (sender, _seen) = mpsc::channel();
    let tasks = Tasks::default();
    let config = GrpcConfig {
        token: Some(Secret::new(TOKEN)),
        ..GrpcConfig::default()
    };
    let server = GrpcServer::bind(&config).await.expect("a free port");
    let url = format!("http://{}", server.local_addr());
    server
        .add_open_service(Probe(sender))
        .serve(&tasks, &Health::new());
    let channel = service_kit::client::connect(&ClientConfig::to(url)).expect("usable");
    let mut client = tonic::client::Grpc::new(channel);
    within("a connection", client.ready())
        .await
        .expect("a connection");
    let path = http::uri::PathAndQuery::from_static("/test.Probe/Probe");
    let call = client.unary(tonic::Request::new(overall()), path, tonic_health_codec());
    let status = within("an answer", call)
        .await
        .expect_err("the probe's answer");
    assert_eq!(status.code(), tonic::Code::NotFound);
    tasks.drain(PATIENCE).await.expect("everything ends");
}

#[tokio::test]
async fn somebody_who_watches_health_does_not_hold_up_the_end() {
    let server = Running::start(&GrpcConfig::default()).await;
    server.health.component("store").serving();
    let mut client: HealthClient<_> = server.client();
    let mut watch = within("an answer", client.watch(overall()))
        .await
        .expect("a stream")
        .into_inner();
    within("a message", watch.message())
        .await
        .expect("no error");
    let before = std::time::Instant::now();
    server.stop().await;
    let grace = GrpcConfig::default().drain.get();
    assert!(
        before.elapsed() < grace,
        "the stream was closed, not cut: {:?}",
        before.elapsed()
    );
}

#[tokio::test]
async fn an_unreachable_service_is_a_transient_failure_of_the_call() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let mut client = health_client(&ClientConfig::to(format!("http://{address}")));
    let status = within("an answer", client.check(overall()))
        .await
        .expect_err("nobody there");
    assert!(RemoteError::from(status).kind().is_transient());
}
