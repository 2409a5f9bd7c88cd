//! Builds the service (all listeners bound, everything it needs reached) and runs it until it is
//! told to stop.
//!
//! The way out: the door takes no new calls; sessions acknowledge what is being published, say
//! UNAVAILABLE and end; when all have, the packers and the rejects publish what they hold; then the
//! bus is closed. One deadline covers all of it.

use std::net::SocketAddr;
use std::sync::Arc;

use access_policies::{Followed, Right};
use bus::Bus;
use service_kit::admin::{AdminConfig, AdminServer};
use service_kit::client;
use service_kit::clock::SharedClock;
use service_kit::config::{Problems, Validate};
use service_kit::health::Health;
use service_kit::log_budget::LogBudget;
use service_kit::metrics::Registry;
use service_kit::server::GrpcServer;
use service_kit::shutdown::{ShutdownToken, run_until_shutdown};
use service_kit::tasks::{OnFailure, Tasks};
use service_kit::units::Duration;
use tokio_util::sync::CancellationToken;
use twin::PartitionCount;
use wire::agent::v1::agent_service_server::AgentServiceServer;
use wire::link::v1::device_link_service_server::DeviceLinkServiceServer;
use wire::subjects;

use self::settings::{DECODE_FACTOR, bus_config, grpc_config, streams};
use crate::admissions::Admissions;
use crate::admit::BatchLimits;
use crate::alive::{Beats, Instance};
use crate::auth::{Authenticator, Trusted};
use crate::backlog::{self, Watched};
use crate::config::{Config, Limits};
use crate::error::Error;
use crate::farewells::Farewells;
use crate::grpc::enroll::Enroller;
use crate::grpc::link::Link;
use crate::grpc::{Door, Parts};
use crate::hints::Listening;
use crate::inlet::Inlets;
use crate::methods::Calls;
use crate::metrics::Metrics;
use crate::mqtt::Listener;
use crate::nursery::{Beginnings, Nursery};
use crate::outbox::{Outbox, Worker};
use crate::permissions::RULES;
use crate::rejects::Rejects;
use crate::session::SessionLimits;
use crate::sessions::Sessions;
use crate::twins::TwinStore;
use crate::{alive, farewells, hints, looking, methods, nursery, rejects};

mod settings;

/// What is answered before anybody has proven anything: its message brings what proves.
const ENROLL: &str = "/twinward.agent.v1.AgentService/Enroll";

/// Where the service really listens; differs from the configuration when that says port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The agents' door (gRPC).
    pub grpc: SocketAddr,
    /// The devices' door (MQTT over TLS), if it is to be open.
    pub mqtt: Option<SocketAddr>,
    /// Health and metrics (HTTP).
    pub admin: SocketAddr,
}

/// Ingestion, ready to run.
pub struct App {
    drain_within: Duration,
    server: GrpcServer,
    mqtt: Option<Listener>,
    admin: AdminServer,
    health: Health,
    registry: Registry,
    shutdown: ShutdownToken,
    watched: Watched,
    door: Door,
    listening: Listening,
    methods: methods::Listening,
    beats: Beats,
    untold: farewells::Waiting,
    beginnings: Beginnings,
    workers: Vec<Worker>,
    /// The authorities of devices, and how often their file is looked at.
    trusted: Option<(Trusted, Duration)>,
    /// The hub's shared access policies, likewise.
    followed: Option<(Followed, Duration)>,
    rejected: tokio::sync::mpsc::Receiver<bus::Reject>,
}

impl App {
    /// Checks the configuration, binds the listeners, connects to the bus and makes sure of the
    /// streams. Twin-store need not be up yet: agents are answered UNAVAILABLE until it is.
    pub async fn build(config: Config, clock: SharedClock) -> Result<Self, Error> {
        let partitions = check(&config)?;
        let server = GrpcServer::bind(&grpc_config(&config)).await?;
        let authorities = match config.device_ca_file.clone() {
            Some(path) => Some(Trusted::read(path).await?),
            None => None,
        };
        let policies = match config.access_policies_file.clone() {
            Some(path) => Some(Followed::only(path, Right::DeviceConnect).await?),
            None => None,
        };
        let followed = policies.clone().zip(Some(config.tls.reload_every));
        let trusted = authorities.clone().zip(Some(config.tls.reload_every));
        let mqtt = match (config.mqtt_listen, config.mqtt_tls()) {
            (Some(address), Some(tls)) => Some(
                Listener::bind(address, &tls, &config.connections, &config.limits)?
                    .behind(config.mqtt_proxy_protocol_from.clone()),
            ),
            (None, _) | (_, None) => None,
        };
        let admin = AdminServer::bind(&AdminConfig {
            listen: config.admin_listen,
        })
        .await?;
        let registry = Registry::new();
        let scope = registry.scope("ingestion");
        let metrics = Metrics::register(&scope);

        let bus = Bus::connect(bus_config(&config)).await?;
        bus.ensure_streams(&streams(&config, partitions)).await?;
        let listening = Listening::begin(&bus).await?;
        let instance = Instance::new(config.instance.clone());
        let methods = methods::Listening::begin(&bus, &instance.run).await?;
        // Before the doors open, so that no device is here of which nobody knows where that is.
        let beats = Beats::begin(&bus, &instance.run, methods.subject()).await?;
        let store = TwinStore::new(client::connect(&config.twin_store.client())?);

        let limits = config.limits.clone();
        let inlets = Inlets::new(
            partitions,
            limits.backlog_bytes_max.get(),
            limits.waiting_bytes_max.as_len(),
            metrics.clone(),
        );
        let telemetry = subjects::telemetry_subject;
        let (outbox, mut workers) = Outbox::new(&bus, partitions, telemetry, inlets.clone());
        let messages = subjects::application_subject;
        let (application, more) = Outbox::new(&bus, partitions, messages, inlets.clone());
        workers.extend(more);
        let (farewells, untold) = Farewells::new(metrics.clone());
        let (rejects, rejected) = Rejects::new(metrics.clone());
        let (nursery, beginnings) = Nursery::new();
        let shutdown = ShutdownToken::new();
        let watched = Watched {
            partitions,
            inlets: inlets.clone(),
            application_bytes: config.application_stream_bytes.get(),
            sessions_bytes: config.mqtt_sessions_stream_bytes.get(),
            metrics: metrics.clone(),
            clock: clock.clone(),
        };
        let parts = Parts {
            session_limits: session_limits(&limits),
            connect_within: config.connections.prove_within.get(),
            auth: Authenticator::new(
                config.public_host.clone(),
                (authorities, policies),
                &limits,
                store.clone(),
                clock.clone(),
                metrics.clone(),
            ),
            enroller: Enroller::new(
                config.public_host.clone(),
                limits.enroll_failures_per_minute,
                store.clone(),
                clock.clone(),
                metrics.clone(),
            ),
            sessions: Sessions::new(as_len(limits.sessions_max), instance.name.clone()),
            admitting: Admissions::default(),
            calls: Calls::default(),
            instance,
            limits,
            bus,
            nursery,
            inlets,
            outbox,
            farewells,
            application,
            rejects,
            ends: LogBudget::default(),
            store,
            clock,
            metrics,
            shutdown: shutdown.clone(),
        };
        let door = Door {
            parts: Arc::new(parts),
        };
        let decode_max = config.limits.batch_bytes_max.as_len() * as_len(DECODE_FACTOR);
        let service = AgentServiceServer::new(door.clone()).max_decoding_message_size(decode_max);
        // No reflection: strangers come here, and its streams have no end of their own.
        let server = server
            .add_open_service(service)
            .for_strangers(&[ENROLL])
            .add_service(DeviceLinkServiceServer::new(Link::new(door.clone())))
            .rules(RULES)
            .metrics(&scope);
        Ok(Self {
            drain_within: config.drain_within,
            server,
            mqtt,
            admin,
            health: Health::new(),
            registry,
            shutdown,
            watched,
            door,
            listening,
            methods,
            beats,
            untold,
            beginnings,
            workers,
            trusted,
            followed,
            rejected,
        })
    }

    /// Where the service listens.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            grpc: self.server.local_addr(),
            mqtt: self.mqtt.as_ref().map(Listener::local_addr),
            admin: self.admin.local_addr(),
        }
    }

    /// Serves until `shutdown` is triggered, then drains and returns: no new connections, sessions
    /// end with UNAVAILABLE, what was taken in is published, all within `drain_within`.
    pub async fn run(self, shutdown: ShutdownToken) -> Result<(), Error> {
        let tasks = Tasks::new(self.shutdown.clone());
        let stop = self.shutdown.clone();
        tasks.spawn("stop", OnFailure::Log, {
            let stop = stop.clone();
            async move {
                // A failed task triggers `stop` alone; the process's token is not ours to trigger.
                if stop.run_until(shutdown.triggered()).await.is_some() {
                    stop.trigger();
                }
            }
        });
        let sessions_ended = CancellationToken::new();
        let parts = Arc::clone(&self.door.parts);
        let bus = parts.bus.clone();
        for worker in self.workers {
            tasks.spawn(
                "packer",
                OnFailure::StopService,
                worker.run(sessions_ended.clone()),
            );
        }
        let rejects = rejects::run(bus.clone(), self.rejected, sessions_ended.clone());
        tasks.spawn("rejects", OnFailure::StopService, rejects);
        let sessions = nursery::run(self.beginnings, stop.clone(), sessions_ended);
        tasks.spawn("sessions", OnFailure::StopService, sessions);
        let hints = self
            .listening
            .run(parts.sessions.clone(), parts.auth.clone(), stop.clone());
        tasks.spawn("hints", OnFailure::StopService, hints);
        let looking = looking::run(parts.sessions.clone(), stop.clone());
        tasks.spawn("looks", OnFailure::StopService, looking);
        let called = methods::Parts {
            bus: bus.clone(),
            sessions: parts.sessions.clone(),
            calls: parts.calls.clone(),
            metrics: parts.metrics.clone(),
        };
        let methods = self.methods.run(called, stop.clone());
        tasks.spawn("methods", OnFailure::StopService, methods);
        let beats = self.beats;
        let beats = beats.run(bus.clone(), parts.sessions.clone(), stop.clone());
        tasks.spawn("beats", OnFailure::StopService, beats);
        let (farewells, outbox) = (parts.farewells.clone(), parts.outbox.clone());
        let farewells = farewells::run(self.untold, farewells, outbox, stop.clone());
        tasks.spawn("farewells", OnFailure::StopService, farewells);
        let component = self.health.component("bus");
        let followers = (parts.sessions.clone(), parts.auth.clone());
        let link = hints::follow_link(bus.clone(), component, followers, stop.clone());
        tasks.spawn("bus link", OnFailure::StopService, link);
        let backlog = backlog::watch(bus.clone(), self.watched, stop.clone());
        tasks.spawn("backlog", OnFailure::StopService, backlog);

        if let Some((trusted, every)) = self.trusted {
            let following = trusted.follow(every.get(), stop.clone());
            tasks.spawn("authorities of devices", OnFailure::Log, following);
        }
        if let Some((policies, every)) = self.followed {
            let sessions = parts.sessions.clone();
            let changed = move || sessions.policies_changed();
            let following = policies.follow(every.get(), stop.clone(), changed);
            tasks.spawn("access policies", OnFailure::Log, following);
        }
        if let Some(mqtt) = self.mqtt {
            mqtt.serve(&tasks, &self.door, &stop);
        }
        self.server.serve(&tasks, &self.health);
        self.admin.serve(&tasks, self.health.clone(), self.registry);
        tracing::info!(instance = parts.instance.name, "ingestion serves agents");
        let (farewells, last) = (parts.farewells.clone(), alive::ended(&parts.instance.run));
        let close = || async move {
            // Otherwise twin-store looks for what is left.
            if farewells.all_told()
                && let Err(error) = bus.send_hint(last).await
            {
                tracing::debug!(%error, "the end of this instance was not told");
            }
            bus.close().await;
        };
        run_until_shutdown(&tasks, &self.health, self.drain_within.get(), close).await?;
        tracing::info!(instance = parts.instance.name, "ingestion has stopped");
        Ok(())
    }
}

fn check(config: &Config) -> Result<PartitionCount, Error> {
    let mut problems = Problems::default();
    config.validate(&mut problems);
    match PartitionCount::new(config.partitions) {
        Ok(partitions) if problems.found().is_empty() => Ok(partitions),
        Ok(_) | Err(_) => Err(Error::Config {
            problems: problems.found().to_vec(),
        }),
    }
}

fn session_limits(limits: &Limits) -> SessionLimits {
    SessionLimits {
        batch: BatchLimits {
            event_bytes_max: limits.event_bytes_max.as_len(),
            batch_bytes_max: limits.batch_bytes_max.as_len(),
            batch_events_max: as_len(limits.batch_events_max),
        },
        batches_max: as_len(limits.session_batches_max),
    }
}

/// A bound as a length in memory; what does not fit can never be reached anyway.
fn as_len(count: impl TryInto<usize>) -> usize {
    count.try_into().unwrap_or(usize::MAX)
}
