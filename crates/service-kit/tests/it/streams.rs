//! Answers that go on until their caller may no longer read them.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use serde_json::json;
use service_kit::auth::{AuthConfig, Permission};
use service_kit::client::{self, ClientConfig};
use service_kit::error::Classified as _;
use service_kit::health::Health;
use service_kit::secret::Secret;
use service_kit::server::{GrpcConfig, GrpcServer};
use service_kit::status::RemoteError;
use service_kit::tasks::Tasks;
use service_kit::units::Duration;
use testkit::oidc::{AUDIENCE, now};
use testkit::{OidcProvider, SigningKey};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Status, Streaming};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::support::{PATIENCE, within};

const FLOWS: &str = "/test.River/Flows";

/// Answers each call with a stream that has no end and says nothing.
#[derive(Clone, Default)]
struct River {
    /// As many as there are streams, and one.
    flowing: Arc<()>,
}

impl NamedService for River {
    const NAME: &'static str = "test.River";
}

impl Service<http::Request<Body>> for River {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let flows = Arc::clone(&self.flowing);
        let silence = futures::stream::unfold(flows, async |flows| {
            std::future::pending::<()>().await;
            let never: Result<_, Status> = Err(Status::cancelled("it has no end"));
            Some((never, flows))
        });
        let body = Body::new(http_body_util::StreamBody::new(silence));
        let response = http::Response::builder().header("content-type", "application/grpc");
        ready(Ok(response.body(body).expect("a response")))
    }
}

struct Running {
    tasks: Tasks,
    url: String,
    flowing: Arc<()>,
}

impl Running {
    async fn start(config: &GrpcConfig) -> Self {
        let tasks = Tasks::default();
        let server = GrpcServer::bind(config).await.expect("a free port");
        let url = format!("http://{}", server.local_addr());
        let river = River::default();
        let flowing = Arc::clone(&river.flowing);
        server
            .rules(&[(FLOWS, Permission::TwinsRead)])
            .add_service(river)
            .serve(&tasks, &Health::new());
        Self {
            tasks,
            url,
            flowing,
        }
    }

    async fn open(&self, token: &str) -> Result<Streaming<HealthCheckResponse>, Status> {
        let mut config = ClientConfig::to(&self.url);
        config.token = Some(Secret::new(token));
        let channel = client::connect(&config).expect("a usable configuration");
        let mut client = tonic::client::Grpc::new(channel);
        within("a connection", client.ready())
            .await
            .expect("a connection");
        let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let request = tonic::Request::new(HealthCheckRequest::default());
        let path = PathAndQuery::from_static(FLOWS);
        let answer = client.server_streaming(request, path, codec);
        Ok(within("an answer", answer).await?.into_inner())
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_token_of_its_caller() {
    let key = SigningKey::p256("k");
    let provider = OidcProvider::start(&[&key]).await;
    let server = Running::start(&GrpcConfig {
        auth: AuthConfig {
            oidc_issuer: Some(provider.issuer().to_owned()),
            oidc_audience: vec![AUDIENCE.to_owned()],
            oidc_clock_skew: Duration::secs(0),
            ..AuthConfig::default()
        },
        ..GrpcConfig::default()
    })
    .await;
    let mut claims = provider.claims("alice", &["reader"]);
    let ends = now() + 2;
    claims["exp"] = json!(ends);
    let token = key.token(&claims);
    let mut stream = server.open(&token).await.expect("the token is good");
    let mut lasting = server
        .open(&key.token(&provider.claims("bob", &["reader"])))
        .await
        .expect("the token is good");

    let ended = within("the end of the stream", stream.message()).await;
    let error = RemoteError::from(ended.expect_err("it does not end well"));
    assert!(now() >= ends, "it ended before the token");
    assert_eq!(error.reason(), "TOKEN_EXPIRED", "{error}");
    assert_eq!(error.fact("iot_hub_code"), Some("401002"));
    let refused = server.open(&token).await.expect_err("nor does it begin");
    assert_eq!(RemoteError::from(refused).reason(), "TOKEN_EXPIRED");
    // Whose token lasts reads on.
    assert!(futures::FutureExt::now_or_never(lasting.message()).is_none());
    drop(lasting);
    within("the end", server.tasks.drain(PATIENCE))
        .await
        .expect("everything ends");
}

#[tokio::test]
async fn a_stream_that_does_not_end_by_itself_is_cut_when_its_time_is_up() {
    let server = Running::start(&GrpcConfig {
        drain: Duration::secs(0),
        ..GrpcConfig::default()
    })
    .await;
    let stream = server
        .open("a-token-that-nobody-asks-for")
        .await
        .expect("anybody may call");
    within("the end", server.tasks.drain(PATIENCE))
        .await
        .expect("the tasks end");
    // What a handler holds (a store, say) is let go, though the client has not gone.
    let cut = testkit::wait_for("the stream to be gone", PATIENCE, async || {
        (Arc::strong_count(&server.flowing) == 1).then_some(())
    });
    cut.await;
    drop(stream);
}
