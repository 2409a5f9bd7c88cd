//! Builds the service (listeners bound, store open, bus reached) and runs it until it is told to
//! stop.

mod bus;
mod open;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ::bus::Bus;
use service_kit::admin::{AdminConfig, AdminError, AdminServer};
use service_kit::auth::Vouching;
use service_kit::clock::SharedClock;
use service_kit::health::Health;
use service_kit::metrics::Registry;
use service_kit::server::{GrpcServer, ServerError};
use service_kit::shutdown::{RunError, ShutdownToken, run_until_shutdown};
use service_kit::tasks::{OnFailure, Tasks};
use tower::Layer as _;
use tracing::info;
use twin::{PartitionCount, partition::PartitionError};
use wire::device::v1::device_command_service_server::DeviceCommandServiceServer;
use wire::registry::v1::access_service_server::AccessServiceServer;
use wire::registry::v1::audit_service_server::AuditServiceServer;
use wire::registry::v1::credential_service_server::CredentialServiceServer;
use wire::registry::v1::enrollment_service_server::EnrollmentServiceServer;
use wire::registry::v1::provisioning_service_server::ProvisioningServiceServer;
use wire::registry::v1::registry_service_server::RegistryServiceServer;
use wire::twin::v1::device_twin_service_server::DeviceTwinServiceServer;
use wire::twin::v1::policy_twin_service_server::PolicyTwinServiceServer;
use wire::twin::v1::twin_bulk_service_server::TwinBulkServiceServer;
use wire::twin::v1::twin_history_service_server::TwinHistoryServiceServer;
use wire::twin::v1::twin_query_service_server::TwinQueryServiceServer;
use wire::twin::v1::twin_service_server::TwinServiceServer;

use crate::config::{Config, StoreKind};
use crate::engine::{self, Control, Engine, OutboxEnd, Writer};
use crate::follow_up::FollowUp;
use crate::forward::{ForwardLayer, Owners};
use crate::grpc::enrollments::individuals::Individuals;
use crate::grpc::{Api, commands, watch};
use crate::handed_down::HandedDown;
use crate::metrics::Metrics;
use crate::operations::runner::Runner;
use crate::outbox;
use crate::partitions::{Ownership, Parts};
use crate::permissions;
use crate::presence::{Ending, Presence};
use crate::secrets::{Sealer, SecretError};
use crate::store::{self, PartitionState, Replica, ReplicaId, Store};
use crate::upkeep::Upkeep;

/// Name of the service in health, metrics and on the bus.
const NAME: &str = "twin-store";

/// Where the service really listens; differs from the configuration when that says port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The gRPC API.
    pub grpc: SocketAddr,
    /// Health and metrics (HTTP).
    pub admin: SocketAddr,
}

/// Why the service cannot start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The number of partitions cannot be.
    #[error(transparent)]
    Partitions(#[from] PartitionError),
    /// The data folder cannot be made.
    #[error("cannot make the data folder {path}")]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The master key cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The bus cannot be reached or used.
    #[error(transparent)]
    Connect(#[from] ::bus::ConnectError),
    /// A stream cannot be made or is another's.
    #[error(transparent)]
    Stream(#[from] ::bus::EnsureError),
    /// The gRPC API cannot be served.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Health and metrics cannot be served.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The service did not end well.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// twin-store, ready to run.
pub struct App {
    config: Config,
    addresses: Addresses,
    grpc: GrpcServer,
    admin: AdminServer,
    bus: Bus,
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    clock: SharedClock,
    registry: Registry,
    metrics: Metrics,
    replica: Replica,
    engine: Engine,
    writer: Writer,
    owned: Owned,
}

/// What the service works on.
enum Owned {
    /// Everything, from the start to the end: the store is its own.
    All(Vec<PartitionState>, Vec<OutboxEnd>),
    /// Its share, which changes.
    Shared(Control),
}

impl App {
    /// Binds the listeners, opens the store, takes its partitions, connects to NATS and makes sure
    /// of the streams. Whoever had the partitions before can commit no more.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn build(config: Config, clock: SharedClock) -> Result<App, AppError> {
        let count = PartitionCount::new(config.partitions)?;
        let registry = Registry::new();
        let scope = registry.scope("twin_store");
        let metrics = Metrics::new(&scope);
        let grpc = GrpcServer::bind(&config.grpc()).await?.metrics(&scope);
        let admin = AdminServer::bind(&AdminConfig {
            listen: config.admin_listen,
        })
        .await?;
        let addresses = Addresses {
            grpc: grpc.local_addr(),
            admin: admin.local_addr(),
        };
        let (store, sealer) = open::store(&config).await?;
        let bus = Bus::connect(bus::config(&config)).await?;
        bus.ensure_streams(&bus::streams(&config, count)).await?;
        let has_tls = config.tls.server().is_some();
        let replica = Replica {
            // Of version 7, so that a new replica is last in the order by which shares are rounded.
            id: ReplicaId(uuid::Uuid::now_v7().to_string()),
            address: config.replica.address(addresses.grpc, has_tls),
            count,
            lease: config.replica.lease.get(),
        };
        let (of_store, of_clock, of_metrics) = (store.clone(), clock.clone(), metrics.clone());
        let (engine, writer, owned) = match config.store {
            StoreKind::Sqlite => {
                let states = store.claim(replica.clone()).await?.owned;
                let (engine, writer, ends) = engine::engine(
                    of_store,
                    of_clock,
                    of_metrics,
                    count,
                    states.clone(),
                    config.keep(),
                );
                (engine, writer, Owned::All(states, ends))
            }
            StoreKind::Postgres => {
                let (engine, writer, control) =
                    engine::shared_engine(of_store, of_clock, of_metrics, count, config.keep());
                (engine, writer, Owned::Shared(control))
            }
        };
        Ok(App {
            config,
            addresses,
            grpc,
            admin,
            bus,
            store,
            sealer,
            clock,
            registry,
            metrics,
            replica,
            engine,
            writer,
            owned,
        })
    }

    /// Where the service listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `shutdown` is triggered, then finishes what it holds: no new calls, the writer
    /// commits what is queued, the outboxes publish it, then the bus is closed.
    ///
    /// # Errors
    /// A part that the service cannot do without failed, or it did not end in time.
    pub async fn run(self, shutdown: ShutdownToken) -> Result<(), AppError> {
        let tasks = Tasks::new(shutdown.clone());
        let health = Health::new();
        let begun = Arc::new(tokio::sync::Notify::new());
        let feed = watch::Feed::new(self.store.clone(), self.engine.count());
        let clock = self.clock.clone();
        let owners = Owners::default();
        let (grpc, forward) = match &self.owned {
            Owned::All(..) => (self.grpc, ForwardLayer::alone()),
            Owned::Shared(_) => {
                let vouching = Vouching::new(self.sealer.replica_secrets(), clock.clone());
                let forward = ForwardLayer::new(
                    owners.clone(),
                    self.config.replica.tls(),
                    vouching.clone(),
                    self.metrics.clone(),
                    self.grpc.max_message(),
                );
                (self.grpc.vouching(vouching), forward)
            }
        };
        let way = commands::Way {
            bus: self.bus.clone(),
            roster: commands::Roster::default(),
        };
        let api = Api {
            engine: self.engine.clone(),
            bus: self.bus.clone(),
            way: way.clone(),
            commands: Arc::new(tokio::sync::Semaphore::new(commands::CALLS_MAX)),
            feed: feed.clone(),
            operations: begun.clone(),
            store: self.store.clone(),
            sealer: self.sealer,
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            shutdown: shutdown.clone(),
            security_module_on_create: self.config.security_module_on_create,
            individuals: Arc::new(Individuals::new(self.config.enrollments_max)),
            device_messages_bytes: self.config.device_messages_stream_bytes.get(),
            peers: forward.peers(),
        };
        service_kit::add_services!(
            through forward,
            grpc,
            RegistryServiceServer::new(api.clone()),
            CredentialServiceServer::new(api.clone()),
            EnrollmentServiceServer::new(api.clone()),
            ProvisioningServiceServer::new(api.clone()),
            TwinServiceServer::new(api.clone()),
            TwinHistoryServiceServer::new(api.clone()),
            TwinBulkServiceServer::new(api.clone()),
            DeviceTwinServiceServer::new(api.clone()),
            TwinQueryServiceServer::new(api.clone()),
            PolicyTwinServiceServer::new(api.clone()),
            DeviceCommandServiceServer::new(api.clone()),
            AccessServiceServer::new(api.clone()),
            AuditServiceServer::new(api),
        )
        .rules(permissions::RULES)
        .reflection(wire::FILE_DESCRIPTOR_SET)?
        .serve(&tasks, &health);
        self.admin.serve(&tasks, health.clone(), self.registry);
        tasks.spawn("writer", OnFailure::StopService, self.writer.run());
        let upkeep = Upkeep::new(
            self.store.clone(),
            self.clock,
            self.metrics.clone(),
            &self.config,
        );
        tasks.spawn("upkeep", OnFailure::Log, upkeep.run(shutdown.clone()));
        let follow_up = FollowUp::new(
            self.store.clone(),
            self.engine.clone(),
            clock.clone(),
            self.config.answer_within.get(),
            self.config.drift_push_after.get(),
        );
        tasks.spawn("follow-up", OnFailure::Log, follow_up.run(shutdown.clone()));
        let handed_down = HandedDown::new(self.store.clone(), self.engine.clone(), clock.clone());
        let handed_down = handed_down.run(shutdown.clone());
        tasks.spawn("handed-down", OnFailure::Log, handed_down);
        let presence = Presence::new(self.config.sessions_lost_after.get());
        let ending = Ending::new(
            presence.clone(),
            self.store.clone(),
            self.engine.clone(),
            clock.clone(),
            self.metrics.clone(),
        );
        tasks.spawn(
            "sessions",
            OnFailure::StopService,
            ending.run(shutdown.clone()),
        );
        let parts = Parts {
            bus: self.bus.clone(),
            store: self.store.clone(),
            engine: self.engine.clone(),
            metrics: self.metrics.clone(),
            presence: presence.clone(),
            tasks: tasks.clone(),
        };
        match self.owned {
            Owned::All(states, ends) => {
                parts.start_all(&states, ends);
                // The writer ends when nobody holds the engine any more, and this would until then.
                drop(parts);
            }
            Owned::Shared(control) => {
                let health = health.component("partitions");
                let ownership = Ownership::new(parts, self.replica, control, owners, health);
                tasks.spawn("ownership", OnFailure::StopService, ownership.run());
            }
        }
        let runner = Runner::new(
            self.store.clone(),
            self.engine.clone(),
            clock,
            Arc::new(commands::Calls::new(way.clone())),
            begun,
            shutdown.clone(),
        );
        tasks.spawn("operations", OnFailure::StopService, runner.run());
        let heads = watch::follow_heads(feed, self.engine.watch(), shutdown.clone());
        tasks.spawn("watch-heads", OnFailure::StopService, heads);
        let queues = outbox::drop_queues(self.bus.clone(), self.store.clone(), self.engine.watch());
        tasks.spawn("queues", OnFailure::StopService, queues);
        let hints = outbox::send_hints(self.bus.clone(), self.engine.watch());
        // Whoever holds an engine keeps the writer from ending.
        drop(self.engine);
        tasks.spawn("hints", OnFailure::StopService, hints);
        let runs = presence.follow(self.bus.clone(), shutdown.clone());
        tasks.spawn("runs", OnFailure::StopService, runs);
        let roster = way.roster.follow(way.bus, shutdown.clone());
        tasks.spawn("instances", OnFailure::StopService, roster);
        tasks.spawn(
            "bus-health",
            OnFailure::Log,
            bus::follow(self.bus.clone(), &health, &shutdown),
        );
        health.component("store").serving();
        info!(grpc = %self.addresses.grpc, admin = %self.addresses.admin, "twin-store serves");
        let bus = self.bus;
        let store = self.store;
        let deadline = self.config.drain_within.get();
        let ended = run_until_shutdown(
            &tasks,
            &health,
            deadline,
            || async move { bus.close().await },
        )
        .await;
        // Also after a bad end: when this returns, no file of the store is open any more.
        store.close().await;
        ended?;
        info!("twin-store has stopped");
        Ok(())
    }
}
