//! A running gRPC server with health as the service under test, and a way to wait.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use service_kit::client::{self, ClientConfig, Connection};
use service_kit::health::Health;
use service_kit::server::{GrpcConfig, GrpcServer};
use service_kit::shutdown::ShutdownToken;
use service_kit::tasks::Tasks;
use tonic_health::pb::health_client::HealthClient;

/// Longer than anything here may take, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must happen.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let Ok(output) = tokio::time::timeout(PATIENCE, future).await else {
        panic!("{what} did not happen within {PATIENCE:?}")
    };
    output
}

/// A server with nothing but health and reflection.
pub(crate) struct Running {
    pub(crate) tasks: Tasks,
    pub(crate) health: Health,
    pub(crate) address: SocketAddr,
}

impl Running {
    pub(crate) async fn start(config: &GrpcConfig) -> Self {
        let tasks = Tasks::new(ShutdownToken::new());
        let health = Health::new();
        let server = GrpcServer::bind(config).await.expect("a free port");
        let address = server.local_addr();
        server
            .reflection(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .expect("descriptors")
            .serve(&tasks, &health);
        Self {
            tasks,
            health,
            address,
        }
    }

    pub(crate) fn client(&self) -> HealthClient<Connection> {
        health_client(&ClientConfig::to(format!("http://{}", self.address)))
    }

    pub(crate) async fn stop(&self) {
        within("the end", self.tasks.drain(PATIENCE))
            .await
            .expect("everything ends");
    }
}

pub(crate) fn health_client(config: &ClientConfig) -> HealthClient<Connection> {
    HealthClient::new(client::connect(config).expect("a usable configuration"))
}
