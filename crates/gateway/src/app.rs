//! Builds the service (listeners bound, access policies read) and runs it until it is told to stop.

use std::net::SocketAddr;
use std::sync::Arc;

use access_policies::{AccessError, AccessPolicies, Followed};
use service_kit::admin::{AdminConfig, AdminError, AdminServer};
use service_kit::client::ServiceAddress;
use service_kit::clock::SharedClock;
use service_kit::config::{Problem, Problems, Validate as _};
use service_kit::health::{Component, Health};
use service_kit::metrics::Registry;
use service_kit::server::ServerError;
use service_kit::server::web::WebServer;
use service_kit::shutdown::{RunError, ShutdownToken, run_until_shutdown};
use service_kit::tasks::{OnFailure, Tasks};
use tracing::info;
use wire::registry::v1::GetRegistryStatisticsRequest;

use crate::config::Config;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::rates::Meter;
use crate::rest::{self, Api};
use crate::websocket::{self, Devices};

/// Name in metrics and reports.
const SERVICE: &str = "gateway";
/// How often twin-store is asked whether it is there.
const GREET_EVERY: std::time::Duration = std::time::Duration::from_secs(2);

/// Where the service really listens; differs from the configuration when that says port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The REST API.
    pub rest: SocketAddr,
    /// Health and metrics (HTTP).
    pub admin: SocketAddr,
}

/// Why the service cannot start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration is wrong; every problem is listed.
    #[error("the configuration of the gateway is wrong: {}", list(problems))]
    Config {
        /// Key, what was found and what is allowed.
        problems: Vec<Problem>,
    },
    /// The access policies cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The REST API cannot be served.
    #[error("cannot serve the REST API")]
    Server(#[from] ServerError),
    /// Health and metrics cannot be served.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The address of another service cannot be used.
    #[error("cannot make a connection to another service")]
    Connection(#[from] service_kit::client::ClientError),
    /// The service did not end well.
    #[error(transparent)]
    Run(#[from] RunError),
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// The gateway, listening and ready to run.
#[derive(Debug)]
pub struct App {
    config: Config,
    clock: SharedClock,
    web: WebServer,
    admin: AdminServer,
    policies: Followed,
    health: Health,
    registry: Registry,
}

impl App {
    /// Checks the configuration, binds the listeners and reads the access policies, which are made
    /// if there are none. twin-store need not be up yet.
    pub async fn build(config: Config, clock: SharedClock) -> Result<App, AppError> {
        let mut problems = Problems::default();
        config.validate(&mut problems);
        if !problems.found().is_empty() {
            return Err(AppError::Config {
                problems: problems.found().to_vec(),
            });
        }
        let web = WebServer::bind(&config.web()).await?;
        let admin = AdminServer::bind(&AdminConfig {
            listen: config.admin_listen,
        })
        .await?;
        let policies = Followed::open(config.access_policies_file.clone()).await?;
        Ok(App {
            config,
            clock,
            web,
            admin,
            policies,
            health: Health::new(),
            registry: Registry::new(),
        })
    }

    /// Where the service listens.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            rest: self.web.local_addr(),
            admin: self.admin.local_addr(),
        }
    }

    /// The access policies in force, for whoever prints connection strings.
    pub fn policies(&self) -> Arc<AccessPolicies> {
        self.policies.current()
    }

    /// The state of its parts, for whoever runs several services in one process.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Serves until `shutdown` is triggered, then finishes the answers under way.
    ///
    /// # Errors
    /// A part that the service cannot do without failed, or it did not end in time.
    pub async fn run(self, shutdown: ShutdownToken) -> Result<(), AppError> {
        let tasks = Tasks::new(shutdown.child());
        let scope = self.registry.scope(SERVICE);
        let hub = Hub::connect(
            &self.config.twin_store.client(),
            &self.config.policy.client(),
        )?;
        let metrics = Metrics::register(&scope);
        let ingestion = self.config.ingestion().map(ServiceAddress::client);
        let stop = tasks.shutdown_token();
        let meter = Meter::new(self.config.rates.clone(), metrics.throttled.clone());
        let meter = Arc::new(meter);
        let (devices, beginnings) =
            Devices::new(ingestion, metrics.clone(), Arc::clone(&meter), stop.clone());
        let carrying = websocket::run(beginnings, stop);
        tasks.spawn("websockets", OnFailure::StopService, carrying);
        let following = self.policies.clone();
        let every = self.config.tls.reload_every.get();
        let following = following.follow(every, tasks.shutdown_token(), || {});
        tasks.spawn("access policies", OnFailure::Log, following);
        let api = Api {
            hub: hub.clone(),
            policies: self.policies,
            bearers: Arc::default(),
            suspects: Arc::default(),
            log: Arc::default(),
            bodies: rest::Bodies::default(),
            clock: self.clock,
            metrics,
            devices,
            host: self.config.public_host.clone(),
            failures: Arc::default(),
            meter,
        };
        let twin_store = self.health.component("twin-store");
        let greeting = greet(hub, twin_store, tasks.shutdown_token());
        tasks.spawn("twin-store's health", OnFailure::Log, greeting);
        let addresses = (self.web.local_addr(), self.admin.local_addr());
        self.web.metrics(&scope).serve(&tasks, rest::router(api));
        self.admin
            .serve(&tasks, self.health.clone(), self.registry.clone());
        info!(rest = %addresses.0, admin = %addresses.1, "gateway serves");
        let within = self.config.drain_within.get();
        run_until_shutdown(&tasks, &self.health, within, || async {}).await?;
        info!("gateway has stopped");
        Ok(())
    }
}

/// Shows in the service's health whether twin-store answers.
async fn greet(hub: Hub, health: Component, shutdown: ShutdownToken) {
    loop {
        let asked = async {
            let session = hub.own();
            let request = session.request(GetRegistryStatisticsRequest {});
            let mut registry = session.registry();
            let answered = registry.get_registry_statistics(request).await;
            answered.map_err(|status| status.message().to_owned())
        };
        match shutdown.run_until(asked).await {
            None => return,
            Some(Ok(_)) => health.serving(),
            Some(Err(problem)) => health.failed(format!("twin-store does not answer: {problem}")),
        }
        if shutdown
            .run_until(tokio::time::sleep(GREET_EVERY))
            .await
            .is_none()
        {
            return;
        }
    }
}
