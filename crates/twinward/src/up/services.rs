//! The services of `up`: configured to find each other, started in the order of who needs whom,
//! stopped in the opposite one.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use service_kit::clock::SystemClock;
use service_kit::config::Loader;
use service_kit::secret::Secret;
use service_kit::shutdown::ShutdownToken;
use tokio::time::{Instant, timeout_at};

use super::data_dir::DataDir;
use super::summary::Summary;
use super::{Bus, EnvFiles, UpArgs, devices};
use crate::args::Global;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::service::{self, Addresses, Service};
use crate::{output, probe};

/// A store that has much to read back may take a while; longer is worth an error.
const READY_WITHIN: Duration = Duration::from_mins(2);
const ASK_EVERY: Duration = Duration::from_millis(50);
/// A page of health is answered at once.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Everything the services must be told to find each other.
pub(super) struct Plan {
    config: Option<PathBuf>,
    data_dir: PathBuf,
    data_dir_option: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    token: Secret,
    nats_url: String,
    nats_token: Option<Secret>,
    nats_about: String,
    host: Option<String>,
    drain_within: Duration,
    ingestion: Listen,
    mqtt: SocketAddr,
    twin_store: Listen,
    policy: Listen,
}

/// Ingestion's configuration, and an authority of ours.
type Ingestion = (ingestion::Config, Option<PathBuf>);

/// Where a service shall listen; none leaves it to its configuration.
#[derive(Clone, Copy)]
struct Listen {
    grpc: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Plan {
    /// Puts together what options, data directory and bus say.
    pub(super) fn new(
        args: &UpArgs,
        global: &Global,
        data_dir: &DataDir,
        bus: &Bus,
    ) -> Result<Self, Failure> {
        let any = args
            .any_port
            .then_some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listen = |grpc: Option<SocketAddr>, admin: Option<SocketAddr>| Listen {
            grpc: grpc.or(any),
            admin: admin.or(any),
        };
        Ok(Self {
            config: args.config.clone(),
            data_dir: data_dir.path().to_owned(),
            data_dir_option: global.data_dir.clone(),
            ca_file: global.ca_file.clone(),
            token: data_dir.secret("admin.token")?,
            nats_url: bus.url(),
            nats_token: bus.token().cloned(),
            nats_about: bus.describe(),
            host: args.host.clone(),
            drain_within: args.drain_within.get(),
            mqtt: devices::listen(args.mqtt_listen, args.any_port),
            ingestion: listen(args.ingestion_listen, args.ingestion_admin_listen),
            twin_store: listen(args.twin_store_listen, args.twin_store_admin_listen),
            policy: listen(args.policy_listen, args.policy_admin_listen),
        })
    }

    /// What every service is told: its own table of the file, and the bus.
    fn loader<S: Service>(&self) -> Loader {
        let mut loader = Loader::new(S::NAME)
            .file(self.config.as_ref())
            .section(S::NAME)
            .set("nats_url", &self.nats_url);
        if let Some(token) = &self.nats_token {
            loader = loader.set("nats_token", token.expose());
        }
        loader
    }

    fn ca(&self) -> Option<String> {
        self.ca_file
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned())
    }

    fn twin_store(&self) -> Result<twin_store::Config, Failure> {
        let mut loader = self
            .loader::<twin_store::App>()
            .set(
                "data_dir",
                self.data_dir.join("twin-store").to_string_lossy(),
            )
            .set("token", self.token.expose());
        loader = set(loader, "listen", self.twin_store.grpc);
        loader = set(loader, "admin_listen", self.twin_store.admin);
        load::<twin_store::App>(&loader)
    }

    /// Also answers the authority that devices must believe, if it is ours.
    fn ingestion(&self, twin_store: &Door) -> Result<Ingestion, Failure> {
        let mut loader = self
            .loader::<ingestion::App>()
            .set("twin_store_url", twin_store.url())
            .set("twin_store_token", self.token.expose());
        // When twin-store has a certificate, who must be believed is what the operator named.
        loader = set(loader, "twin_store_ca_file", self.ca());
        loader = set(loader, "listen", self.ingestion.grpc);
        loader = set(loader, "admin_listen", self.ingestion.admin);
        loader = set(loader, "public_host", self.host.as_ref());
        let config = load::<ingestion::App>(&loader)?;
        let listen = config.mqtt_listen.unwrap_or(self.mqtt);
        loader = loader.set("mqtt_listen", listen.to_string());
        if config.mqtt_cert_file.is_some() || config.tls.cert_file.is_some() {
            return Ok((load::<ingestion::App>(&loader)?, None));
        }
        let own = devices::certificates(&self.data_dir, &config.public_host, listen)?;
        let loader = loader
            .set("mqtt_cert_file", own.cert.to_string_lossy())
            .set("mqtt_key_file", own.key.to_string_lossy());
        Ok((load::<ingestion::App>(&loader)?, Some(own.ca)))
    }

    fn policy(&self, twin_store: &Door) -> Result<policy::Config, Failure> {
        let mut loader = self
            .loader::<policy::App>()
            .set("data_dir", self.data_dir.join("policy").to_string_lossy())
            .set("twin_store_url", twin_store.url())
            .set("twin_store_token", self.token.expose())
            .set("token", self.token.expose());
        loader = set(loader, "twin_store_ca_file", self.ca());
        loader = set(loader, "listen", self.policy.grpc);
        loader = set(loader, "admin_listen", self.policy.admin);
        load::<policy::App>(&loader)
    }
}

fn set<T: ToString>(loader: Loader, key: &str, value: Option<T>) -> Loader {
    match value {
        Some(value) => loader.set(key, value.to_string()),
        None => loader,
    }
}

fn load<S: Service>(loader: &Loader) -> Result<S::Config, Failure> {
    loader
        .load()
        .map_err(|error| service::unusable(S::NAME, &error))
}

/// A service's listeners as others reach them.
pub(super) struct Door {
    addresses: Addresses,
    tls: bool,
}

impl Door {
    /// The address of its gRPC API.
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", reachable(self.addresses.grpc))
    }

    /// The address of its health and metrics.
    pub(super) fn metrics_url(&self) -> String {
        format!("http://{}", reachable(self.addresses.admin))
    }
}

/// A listener on all addresses is reached from here by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match (address.ip().is_unspecified(), address.is_ipv4()) {
        (true, true) => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
        (true, false) => SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())),
        (false, _) => address,
    }
}

/// The services, built and not yet running.
struct Built {
    ingestion: ingestion::App,
    twin_store: twin_store::App,
    policy: policy::App,
    summary: Summary,
}

/// Builds everything, runs it until told to stop or until a service ends, and stops the rest.
pub(super) async fn run(
    plan: &Plan,
    env_files: &EnvFiles,
    shutdown: &ShutdownToken,
) -> Result<(), Failure> {
    // Building waits for NATS; whoever stops us then need not wait with it.
    let Some(built) = shutdown.run_until(Box::pin(build(plan))).await else {
        return Ok(());
    };
    let Built {
        ingestion,
        twin_store,
        policy,
        summary,
    } = built?;
    let (first, second, third) = (Stage::default(), Stage::default(), Stage::default());
    let work = async {
        let (ingestion, policy, twin_store, announced) = tokio::join!(
            first.run(ingestion, shutdown),
            second.run(policy, shutdown),
            third.run(twin_store, shutdown),
            async {
                let announced = announce(&summary, env_files, shutdown).await;
                if announced.is_err() {
                    shutdown.trigger();
                }
                shutdown.triggered().await;
                env_files.remove();
                // Against the stream of work: the door for agents, who decides, who keeps.
                for stage in [&first, &second, &third] {
                    stage.stop.trigger();
                    stage.ended.triggered().await;
                }
                announced
            },
        );
        announced.and(ingestion).and(policy).and(twin_store)
    };
    let overdue = async {
        shutdown.triggered().await;
        tokio::time::sleep(plan.drain_within).await;
    };
    tokio::select! {
        result = work => result,
        () = overdue => {
            let names = [("ingestion", &first), ("policy", &second), ("twin-store", &third)];
            let waiting: Vec<_> = names
                .into_iter()
                .filter(|(_, stage)| !stage.ended.is_triggered())
                .map(|(name, _)| name)
                .collect();
            Err(Failure::new(Kind::Failed, "stopping took too long and was cut short")
                .because(format!(
                    "{} had not ended after {} s",
                    waiting.join(", "),
                    plan.drain_within.as_secs()
                ))
                .advise("nothing that was acknowledged is lost; --drain-within allows more"))
        }
    }
}

async fn build(plan: &Plan) -> Result<Built, Failure> {
    // Every configuration is read before anything is bound; addresses are not known yet.
    let nowhere = Door {
        addresses: Addresses {
            grpc: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        },
        tls: false,
    };
    let config = plan.twin_store()?;
    plan.ingestion(&nowhere)?;
    plan.policy(&nowhere)?;

    let twin_store_tls = config.tls.cert_file.is_some();
    let twin_store: twin_store::App = build_one(config).await?;
    let store_door = Door {
        addresses: Service::addresses(&twin_store),
        tls: twin_store_tls,
    };

    let (config, device_ca) = plan.ingestion(&store_door)?;
    let (agent_tls, host) = (config.tls.cert_file.is_some(), config.public_host.clone());
    let policy_config = plan.policy(&store_door)?;
    let policy_tls = policy_config.tls.cert_file.is_some();
    let (ingestion, policy) = tokio::join!(
        build_one::<ingestion::App>(config),
        build_one::<policy::App>(policy_config)
    );
    let (ingestion, policy) = (ingestion?, policy?);
    // Callers of a service with a certificate must not be sent to an authority that did not sign it.
    let only_devices = !(agent_tls || twin_store_tls || policy_tls);
    let device_ca = device_ca.filter(|_| only_devices);
    let summary = Summary {
        host,
        mqtt: ingestion::App::addresses(&ingestion).mqtt,
        ingestion: Door {
            addresses: Service::addresses(&ingestion),
            tls: agent_tls,
        },
        twin_store: store_door,
        policy: Door {
            addresses: Service::addresses(&policy),
            tls: policy_tls,
        },
        nats_url: plan.nats_url.clone(),
        nats_token: plan.nats_token.clone(),
        nats_about: plan.nats_about.clone(),
        admin_token: plan.token.clone(),
        data_dir: plan.data_dir.clone(),
        data_dir_option: plan.data_dir_option.clone(),
        ca_file: plan.ca_file.clone().or(device_ca),
    };
    Ok(Built {
        ingestion,
        twin_store,
        policy,
        summary,
    })
}

async fn build_one<S: Service>(config: S::Config) -> Result<S, Failure> {
    S::build(config, SystemClock::shared())
        .await
        .map_err(|error| service::failed(S::NAME, "cannot start", &error))
}

/// A service in the order of stopping.
#[derive(Default)]
struct Stage {
    stop: ShutdownToken,
    ended: ShutdownToken,
}

impl Stage {
    /// Runs the service; when it ends for whatever reason, everything stops.
    async fn run<S: Service>(&self, app: S, everything: &ShutdownToken) -> Result<(), Failure> {
        let result = app.run(self.stop.clone()).await;
        self.ended.trigger();
        everything.trigger();
        result.map_err(|error| service::failed(S::NAME, "failed", &error))
    }
}

/// Waits until every service says that it is ready, then tells the world.
async fn announce(
    summary: &Summary,
    env_files: &EnvFiles,
    shutdown: &ShutdownToken,
) -> Result<(), Failure> {
    let doors = [&summary.ingestion, &summary.twin_store, &summary.policy];
    let deadline = Instant::now() + READY_WITHIN;
    for door in doors {
        let url = door.metrics_url();
        match shutdown.run_until(timeout_at(deadline, ready(&url))).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Err(not_ready(door).await),
            None => return Ok(()),
        }
    }
    env_files.write(&summary.variables())?;
    output::write(&summary.text())
}

async fn ready(metrics_url: &str) {
    loop {
        let answer = probe::readiness(metrics_url, ANSWERS_WITHIN).await;
        if answer.is_ok_and(|readiness| readiness.ready) {
            return;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn not_ready(door: &Door) -> Failure {
    let url = door.metrics_url();
    let mut failure = Failure::new(
        Kind::Unavailable,
        format!(
            "not everything was ready within {} s",
            READY_WITHIN.as_secs()
        ),
    )
    .because(format!("{url}/readyz says no"));
    if let Ok(readiness) = probe::readiness(&url, ANSWERS_WITHIN).await {
        for (name, part) in readiness.components {
            failure = failure.detail(format!("{name}: {} {}", part.state, part.reason));
        }
    }
    failure
}
