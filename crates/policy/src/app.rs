//! Builds the service (listeners bound, store open, bus reached) and runs it until it is told to
//! stop.

use std::net::SocketAddr;
use std::time::Duration;

use bus::{Bus, LinkState, StreamSpec};
use service_kit::admin::{AdminConfig, AdminServer};
use service_kit::clock::SharedClock;
use service_kit::config::{Problems, Validate};
use service_kit::health::{Component, Health};
use service_kit::metrics::Registry;
use service_kit::server::GrpcServer;
use service_kit::shutdown::{ShutdownToken, run_until_shutdown};
use service_kit::tasks::{OnFailure, Tasks};
use tracing::debug;
use twin::PartitionCount;
use wire::policy::v1::action_service_server::ActionServiceServer;
use wire::policy::v1::configuration_service_server::ConfigurationServiceServer;
use wire::policy::v1::freeze_service_server::FreezeServiceServer;
use wire::policy::v1::guard_service_server::GuardServiceServer;
use wire::policy::v1::operation_service_server::OperationServiceServer;
use wire::policy::v1::policy_service_server::PolicyServiceServer;
use wire::policy::v1::reevaluation_service_server::ReevaluationServiceServer;
use wire::policy::v1::rollout_service_server::RolloutServiceServer;
use wire::registry::v1::access_service_server::AccessServiceServer;
use wire::subjects::{REJECTS_STREAM, REJECTS_SUBJECTS};

use crate::actions::{self, Actions};
use crate::audit;
use crate::batches::Batches;
use crate::busy::Busy;
use crate::config::Config;
use crate::consumer::{Consumer, Parts};
use crate::counts::Counts;
use crate::edges::Edges;
use crate::error::Error;
use crate::grpc::{
    AccessApi, ActionApi, ConfigurationApi, Explainer, FreezeApi, GuardApi, OperationApi,
    PolicyApi, ReevaluationApi, RolloutApi,
};
use crate::guard::Guard;
use crate::look::Looker;
use crate::metrics::Metrics;
use crate::permissions::RULES;
use crate::policies::{self, Policies};
use crate::positions::Positions;
use crate::progress::Progress;
use crate::reevaluation::{Reevaluations, Walker};
use crate::rejects::Rejects;
use crate::rollouts::Rollouts;
use crate::standstill::{Plans, Standstill};
use crate::store::{Contents, Store};
use crate::sweep::Sweeper;
use crate::touch::Touch;
use crate::twin_store::TwinStore;
use crate::undecided::Undecided;
use crate::writer::Writer;

/// Name in metrics and reports.
const SERVICE: &str = "policy";

/// Where the service really listens; differs from the configuration when that says port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The policy API (gRPC).
    pub grpc: SocketAddr,
    /// Health and metrics (HTTP).
    pub admin: SocketAddr,
}

/// The policy service, listening and ready to run.
#[derive(Debug)]
pub struct App {
    config: Config,
    clock: SharedClock,
    partitions: PartitionCount,
    grpc: GrpcServer,
    admin: AdminServer,
    store: Store,
    contents: Contents,
    bus: Bus,
    health: Health,
    registry: Registry,
}

impl App {
    /// Checks the configuration, binds the listeners, opens the store and connects to NATS.
    /// twin-store need not be up yet: changes wait until it is.
    pub async fn build(config: Config, clock: SharedClock) -> Result<App, Error> {
        let mut problems = Problems::default();
        config.validate(&mut problems);
        let partitions = PartitionCount::new(config.partitions);
        let (Ok(partitions), []) = (partitions, problems.found()) else {
            return Err(Error::Config {
                problems: problems.found().to_vec(),
            });
        };
        let grpc = GrpcServer::bind(&config.grpc()).await?;
        let admin = AdminServer::bind(&AdminConfig {
            listen: config.admin_listen,
        })
        .await?;
        debug!("listeners bound");
        let store = Store::open(&config.data_dir).await?;
        let contents = store.load(clock.now()).await?;
        debug!(policies = contents.policies.len(), "store opened");
        let bus = Bus::connect(config.bus()).await?;
        let rejects = StreamSpec::rejects(
            REJECTS_STREAM,
            REJECTS_SUBJECTS,
            config.rejects_stream_bytes.get(),
        );
        bus.ensure_streams(&[rejects]).await?;
        debug!("bus reached");
        Ok(App {
            config,
            clock,
            partitions,
            grpc,
            admin,
            store,
            contents,
            bus,
            health: Health::new(),
            registry: Registry::new(),
        })
    }

    /// Where the service listens.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            grpc: self.grpc.local_addr(),
            admin: self.admin.local_addr(),
        }
    }

    /// The state of its parts, for whoever runs several services in one process.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Serves until `shutdown` is triggered, then finishes what it holds and stores its positions.
    pub async fn run(self, shutdown: ShutdownToken) -> Result<(), Error> {
        // A child: when a part of this service fails it stops itself, and its owner decides about
        // the others.
        let tasks = Tasks::new(shutdown.child());
        let stop = tasks.shutdown_token();
        let scope = self.registry.scope(SERVICE);
        let metrics = Metrics::register(&scope);
        let twins = TwinStore::connect(
            &self.config.twin_store.client(),
            self.health.component("twin-store"),
            stop.clone(),
        )?;
        let policies = Policies::new(self.store.clone(), self.clock.clone(), &self.contents);
        metrics
            .policies
            .set(i64::try_from(policies.set().len()).unwrap_or(i64::MAX));
        let store_health = self.health.component("policy-store");
        let tell = policies::tell(policies.clone(), store_health, stop.clone());
        tasks.spawn("what cannot be read", OnFailure::Log, tell);
        let progress = Progress::new(self.contents.sweep, self.clock.clone());
        let rejects = Rejects::new(self.bus.clone(), metrics.clone(), stop.clone());
        let positions = Positions::new(self.store.clone());
        let undecided = Undecided::of_conditions();
        let incomplete = Undecided::of_templates();
        let writer = Writer::new(
            policies.clone(),
            twins.clone(),
            rejects.clone(),
            (
                undecided.clone(),
                incomplete.clone(),
                Guard::new(self.config.guard()),
            ),
            self.clock.clone(),
            metrics.clone(),
            stop.clone(),
        );
        let (actions, worker) = Actions::open(
            self.store.clone(),
            policies.clone(),
            self.clock.clone(),
            metrics.clone(),
        )
        .await?;
        let worker = actions::Worker::new(worker, twins.clone(), stop.clone());
        tasks.spawn("actions", OnFailure::StopService, worker.run());
        let writes_in_flight = usize::from(self.config.writes_in_flight);

        let busy = Busy::default();
        let parts = Parts {
            bus: self.bus.clone(),
            batches: Batches {
                policies: policies.clone(),
                writer: writer.clone(),
                actions: actions.clone(),
                rejects: rejects.clone(),
                positions: positions.clone(),
                metrics: metrics.clone(),
                writes_in_flight,
                busy: busy.clone(),
                shutdown: stop.clone(),
            },
            shutdown: stop.clone(),
        };
        let consumers = self.health.component("consumers");
        for partition in self.partitions.partitions() {
            let after = self
                .contents
                .positions
                .get(&partition.get())
                .copied()
                .unwrap_or_default();
            let consumer = Consumer::new(parts.clone(), partition, after, consumers.clone());
            let name = format!("consumer of partition {partition}");
            tasks.spawn(name, OnFailure::StopService, consumer.run());
        }
        let contact = twins.clone();
        tasks.spawn("first contact", OnFailure::Log, async move {
            contact.greet().await;
        });
        let delivery = audit::deliver(
            self.store.clone(),
            (twins.clone(), rejects.clone()),
            policies.noted(),
            stop.clone(),
        );
        tasks.spawn("audit entries", OnFailure::StopService, delivery);
        let (counts, follower) = Counts::new(
            &twins,
            policies.clone(),
            self.config.counted_twins_max,
            self.clock.clone(),
            &scope,
            metrics.clone(),
        );
        tasks.spawn("counts", OnFailure::Log, follower.run(stop.clone()));
        let touch = Touch {
            guard: self.config.mass_change.clone(),
            twins: twins.clone(),
        };
        let explainer = Explainer::new(
            policies.clone(),
            twins.clone(),
            actions.clone(),
            touch.clone(),
            self.clock.clone(),
        );
        let standstill = Standstill {
            policies: policies.clone(),
            counts: counts.clone(),
            progress: progress.clone(),
            plans: Plans::default(),
            clock: self.clock.clone(),
        };
        let rollouts = Rollouts {
            policies: policies.clone(),
            standstill: standstill.clone(),
            twins: twins.clone(),
            touch: touch.clone(),
            metrics: metrics.clone(),
            clock: self.clock.clone(),
            shutdown: stop.clone(),
        };
        let edges = Edges {
            policies: policies.clone(),
            clock: self.clock.clone(),
            shutdown: stop.clone(),
        };
        tasks.spawn("edges", OnFailure::StopService, edges.run());
        let freeze_api =
            FreezeServiceServer::new(FreezeApi::new(policies.clone(), self.clock.clone()));
        tasks.spawn("rollouts", OnFailure::StopService, rollouts.run());
        let rollout_api = RolloutApi::new(
            policies.clone(),
            counts.clone(),
            standstill,
            self.clock.clone(),
        );
        let guard_api = GuardServiceServer::new(GuardApi::new(policies.clone()));
        let looker = Looker {
            policies: policies.clone(),
            writer,
            actions: actions.clone(),
            rejects,
            metrics: metrics.clone(),
        };
        let reevaluations =
            Reevaluations::new(self.store.clone(), self.clock.clone(), policies.noted());
        let walker = Walker {
            jobs: reevaluations.clone(),
            looker: looker.clone(),
            twins: twins.clone(),
            policies: policies.clone(),
            busy,
            clock: self.clock.clone(),
            writes_in_flight,
            shutdown: stop.clone(),
        };
        tasks.spawn("re-evaluations", OnFailure::StopService, walker.run());
        let reevaluation_api = ReevaluationApi::new(policies.clone(), reevaluations);
        let operation_api = OperationApi::new(reevaluation_api.clone(), rollout_api.clone());
        let sweeper = Sweeper {
            policies: policies.clone(),
            twins,
            looker,
            progress: progress.clone(),
            metrics: metrics.clone(),
            writes_in_flight,
            shutdown: stop.clone(),
        };
        tasks.spawn("sweep", OnFailure::StopService, sweeper.run());
        tasks.spawn(
            "positions",
            OnFailure::StopService,
            positions.clone().keep(stop.clone()),
        );
        let link = self.health.component("bus");
        tasks.spawn(
            "bus link",
            OnFailure::Log,
            watch_link(self.bus.clone(), link, stop),
        );

        let action_api = ActionServiceServer::new(ActionApi::new(actions, self.store.clone()));
        let configurations = ConfigurationServiceServer::new(ConfigurationApi::new(
            self.store,
            policies.clone(),
            counts.clone(),
            touch.clone(),
            self.clock,
        ));
        let api = PolicyServiceServer::new(PolicyApi::new(
            policies,
            progress,
            counts,
            (undecided, incomplete),
            (explainer, touch),
            metrics,
        ));
        let grpc = self.grpc.metrics(&scope).rules(RULES);
        let grpc = service_kit::add_services!(
            grpc,
            api,
            configurations,
            RolloutServiceServer::new(rollout_api),
            freeze_api,
            guard_api,
            ReevaluationServiceServer::new(reevaluation_api),
            OperationServiceServer::new(operation_api),
            action_api,
            AccessServiceServer::new(AccessApi)
        );
        grpc.reflection(wire::FILE_DESCRIPTOR_SET)?
            .serve(&tasks, &self.health);
        self.admin
            .serve(&tasks, self.health.clone(), self.registry.clone());

        let within: Duration = self.config.drain_within.get();
        let close = || async move {
            positions.flush().await;
            self.bus.close().await;
        };
        run_until_shutdown(&tasks, &self.health, within, close).await?;
        Ok(())
    }
}

/// Keeps the health of the bus in step with its link.
async fn watch_link(bus: Bus, health: Component, shutdown: ShutdownToken) {
    let mut link = bus.link();
    loop {
        match link.borrow_and_update().state {
            LinkState::Up => health.serving(),
            LinkState::Down => health.failed("NATS does not answer; reconnecting"),
            LinkState::Closed => health.failed("the connection to NATS is closed"),
        }
        match shutdown.run_until(link.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}
