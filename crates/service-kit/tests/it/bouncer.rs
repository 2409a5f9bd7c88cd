//! A server with one method for each permission, which answers who called, and calls to it.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use service_kit::auth::{Permission, Principal};
use service_kit::client::{self, ClientConfig, Connection};
use service_kit::error::Classified as _;
use service_kit::health::Health;
use service_kit::metrics::Registry;
use service_kit::secret::Secret;
use service_kit::server::{GrpcConfig, GrpcServer};
use service_kit::status::RemoteError;
use service_kit::tasks::Tasks;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::support::{PATIENCE, within};

/// A method for each permission, by its name.
pub(crate) const RULES: [(&str, Permission); 15] = [
    ("/test.Club/twins.read", Permission::TwinsRead),
    ("/test.Club/twins.write", Permission::TwinsWrite),
    ("/test.Club/twins.write_as", Permission::TwinsWriteAs),
    ("/test.Club/registry.read", Permission::RegistryRead),
    ("/test.Club/registry.write", Permission::RegistryWrite),
    (
        "/test.Club/registry.keys.read",
        Permission::RegistryKeysRead,
    ),
    ("/test.Club/policies.read", Permission::PoliciesRead),
    ("/test.Club/policies.write", Permission::PoliciesWrite),
    ("/test.Club/operations.read", Permission::OperationsRead),
    ("/test.Club/operations.cancel", Permission::OperationsCancel),
    ("/test.Club/audit.read", Permission::AuditRead),
    ("/test.Club/audit.record", Permission::AuditRecord),
    ("/test.Club/store.admin", Permission::StoreAdmin),
    ("/test.Club/devices.act", Permission::DevicesAct),
    ("/test.Club/policies.apply", Permission::PoliciesApply),
];
/// What everybody with any role may.
pub(crate) const READ: &str = "/test.Club/twins.read";

/// Answers `ALREADY_EXISTS` with who called, which nothing else in these tests answers.
#[derive(Clone)]
struct Club;

impl NamedService for Club {
    const NAME: &'static str = "test.Club";
}

impl Service<http::Request<Body>> for Club {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let principal = request.extensions().get::<Principal>();
        let principal = principal.expect("whoever comes in is known");
        let text = format!("{} [{}]", principal.name, principal.role_names());
        ready(Ok(tonic::Status::already_exists(text).into_http()))
    }
}

/// A running club.
pub(crate) struct Bouncer {
    pub(crate) tasks: Tasks,
    pub(crate) address: SocketAddr,
    pub(crate) registry: Registry,
    pub(crate) health: Health,
}

impl Bouncer {
    pub(crate) async fn start(config: &GrpcConfig) -> Self {
        let tasks = Tasks::default();
        let registry = Registry::new();
        let server = GrpcServer::bind(config).await.expect("a free port");
        let address = server.local_addr();
        let health = Health::new();
        health.component("club").serving();
        server
            .rules(&RULES)
            .metrics(&registry.scope("club"))
            .add_service(Club)
            .serve(&tasks, &health);
        Self {
            tasks,
            address,
            registry,
            health,
        }
    }

    /// A channel that sends this token.
    pub(crate) fn with_token(&self, token: Option<&str>) -> Connection {
        let mut config = ClientConfig::to(format!("http://{}", self.address));
        config.token = token.map(Secret::new);
        client::connect(&config).expect("a usable configuration")
    }

    pub(crate) async fn stop(self) {
        within("the end", self.tasks.drain(PATIENCE))
            .await
            .expect("everything ends");
    }
}

/// Makes a call: who the server says we are, or why it refuses.
pub(crate) async fn call(channel: &Connection, path: &'static str) -> Result<String, RemoteError> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    let path = PathAndQuery::from_static(path);
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let exchange = async {
        client.ready().await.map_err(|error| {
            RemoteError::from(tonic::Status::unavailable(service_kit::error::chain(
                &error,
            )))
        })?;
        let request = tonic::Request::new(HealthCheckRequest::default());
        let answer = client.unary(request, path, codec).await;
        let status = answer.expect_err("the club never answers well");
        match status.code() {
            tonic::Code::AlreadyExists => Ok(status.message().to_owned()),
            _ => Err(RemoteError::from(status)),
        }
    };
    within("an answer", exchange).await
}

/// The reason of a refusal; empty if the call was let in.
pub(crate) async fn refusal(channel: &Connection, path: &'static str) -> String {
    match call(channel, path).await {
        Ok(_) => String::new(),
        Err(error) => error.reason().to_owned(),
    }
}
