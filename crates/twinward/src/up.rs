//! `twinward up`: every service in one process, and a NATS server of our own beside it.
//!
//! The services still talk gRPC and NATS to each other, so what holds here holds across machines.
//! Stopping goes against the stream of work: first the door for agents, then who decides, then who
//! keeps, and NATS last; all within one deadline.

#![allow(
    clippy::doc_markdown,
    reason = "comments on arguments are help texts, which show backticks as they are"
)]

mod data_dir;
mod devices;
pub(crate) mod guard;
mod nats;
mod plan;
mod services;
mod summary;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use service_kit::secret::Secret;
use service_kit::shutdown::{self, ShutdownToken};
use service_kit::telemetry::{self, TelemetryConfig};
use service_kit::units::Duration;

use crate::args::Global;
use crate::environment::Environment;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::{connection, env_file, serve};

use data_dir::DataDir;
use nats::Nats;
use plan::Plan;

/// Arguments of `up`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct UpArgs {
    /// Where agents connect [default: 127.0.0.1:8420]
    #[arg(
        long,
        value_name = "ADDR",
        help_heading = "Addresses (port 0: any that is free)"
    )]
    ingestion_listen: Option<SocketAddr>,
    /// Where devices connect by MQTT over TLS [default: 127.0.0.1:8883 if it is free, else any port]
    #[arg(
        long,
        value_name = "ADDR",
        help_heading = "Addresses (port 0: any that is free)"
    )]
    mqtt_listen: Option<SocketAddr>,
    /// Where back-end programs reach IoT Hub's REST API by HTTPS [default: 127.0.0.1:443 if it is
    /// free and allowed, else 8450 or any port]
    #[arg(
        long,
        value_name = "ADDR",
        help_heading = "Addresses (port 0: any that is free)"
    )]
    gateway_listen: Option<SocketAddr>,
    /// Where twin-store serves gRPC [default: 127.0.0.1:8430]
    #[arg(
        long,
        value_name = "ADDR",
        help_heading = "Addresses (port 0: any that is free)"
    )]
    twin_store_listen: Option<SocketAddr>,
    /// Where policy serves gRPC [default: 127.0.0.1:8440]
    #[arg(
        long,
        value_name = "ADDR",
        help_heading = "Addresses (port 0: any that is free)"
    )]
    policy_listen: Option<SocketAddr>,
    /// Health and metrics of ingestion [default: 127.0.0.1:8421]
    #[arg(
        long,
        value_name = "ADDR",
        help_heading = "Addresses (port 0: any that is free)"
    )]
    ingestion_admin_listen: Option<SocketAddr>,
    /// Health and metrics of twin-store [default: 127.0.0.1:8431]
    #[arg(
        long,
        value_name = "ADDR",
        help_heading = "Addresses (port 0: any that is free)"
    )]
    twin_store_admin_listen: Option<SocketAddr>,
    /// Health and metrics of policy [default: 127.0.0.1:8441]
    #[arg(
        long,
        value_name = "ADDR",
        help_heading = "Addresses (port 0: any that is free)"
    )]
    policy_admin_listen: Option<SocketAddr>,
    /// Health and metrics of the gateway [default: 127.0.0.1:8451]
    #[arg(
        long,
        value_name = "ADDR",
        help_heading = "Addresses (port 0: any that is free)"
    )]
    gateway_admin_listen: Option<SocketAddr>,
    /// Take a free port for every address that is not given
    #[arg(long, help_heading = "Addresses (port 0: any that is free)")]
    any_port: bool,
    /// Name by which agents and devices reach this machine; it stands in connection strings and in
    /// the certificate that devices see [default: localhost]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Use this NATS server with JetStream instead of starting one, nats://[TOKEN@]host:port
    #[arg(
        long,
        value_name = "URL",
        conflicts_with = "nats_server",
        help_heading = "NATS"
    )]
    nats_url: Option<String>,
    /// The nats-server program, 2.12 or later [env: TWINWARD_NATS_SERVER] [default: the first in
    /// PATH, else where `cargo xtask tools` puts it]
    #[arg(long, value_name = "PATH", help_heading = "NATS")]
    nats_server: Option<PathBuf>,
    /// TOML file with a table per service and one for telemetry, for what has no option here
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long stopping may take
    #[arg(long, value_name = "TIME", default_value = "20s")]
    drain_within: Duration,
}

const HELP: &str = "\
When everything is ready to serve, addresses and the admin token are written as shell variables to
twinward.env in the data directory, and to the file of --env-file; both go away with `up`.

SIGTERM and Ctrl-C stop it: agents are sent away, what was taken in is finished, NATS goes last. A
second signal leaves at once; nothing that was acknowledged is lost either way.

Examples:
  twinward up
  twinward up --data-dir /var/lib/twinward --ingestion-listen 0.0.0.0:8420 --host hub.example.net
  twinward up --any-port --env-file hub.env & until [ -e hub.env ]; do sleep 0.1; done; . ./hub.env";

/// What is logged unless the configuration says otherwise. The first start makes dozens of streams;
/// a person at a terminal need not read about each.
const LOG_FILTER: &str = "info,bus::streams=warn";

/// Runs everything until it is told to stop.
pub(crate) async fn run(
    args: UpArgs,
    global: &Global,
    environment: &Environment,
) -> Result<(), Failure> {
    let mut telemetry_config = serve::telemetry_config(args.config.as_ref())?;
    if telemetry_config.log_filter == TelemetryConfig::default().log_filter {
        LOG_FILTER.clone_into(&mut telemetry_config.log_filter);
    }
    let data_dir = DataDir::claim(&connection::data_dir(global, environment)?)?;
    let env_files = EnvFiles::clear(&data_dir, global.env_file.as_deref())?;
    let telemetry = telemetry::init(&telemetry_config, "twinward")
        .map_err(|error| serve::cannot_log(&error))?;
    let shutdown = ShutdownToken::new();
    shutdown::on_signals(&shutdown).map_err(|error| serve::cannot_listen_to_signals(&error))?;
    serve::allow_many_connections();

    // On the heap: it holds four services.
    let work = Box::pin(run_all(
        &args,
        global,
        &data_dir,
        &env_files,
        environment,
        &shutdown,
    ));
    let result = work.await;
    env_files.remove();
    telemetry.shutdown().await;
    result
}

async fn run_all(
    args: &UpArgs,
    global: &Global,
    data_dir: &DataDir,
    env_files: &EnvFiles,
    environment: &Environment,
    shutdown: &ShutdownToken,
) -> Result<(), Failure> {
    let start = Bus::start(args, data_dir, environment);
    let Some(bus) = shutdown.run_until(start).await else {
        return Ok(());
    };
    let bus = bus?;
    let plan = Plan::new(args, global, data_dir, &bus)?;
    let stop_bus = ShutdownToken::new();
    // Side by side on this one task, so that the server is always started by the main thread
    // (see `guard`), and watched from the first moment.
    let (bus_end, services_end) = tokio::join!(
        async {
            let end = bus.supervise(stop_bus.clone()).await;
            // Harmless when it stopped because it was told to: the services have stopped then.
            shutdown.trigger();
            end
        },
        async {
            let end = Box::pin(services::run(&plan, env_files, shutdown)).await;
            stop_bus.trigger();
            end
        },
    );
    bus_end?;
    services_end?;
    tracing::info!("stopped");
    Ok(())
}

/// The NATS server that is used.
enum Bus {
    /// Ours.
    Own { nats: Box<Nats>, version: String },
    /// Somebody else's.
    Foreign { url: String, token: Option<Secret> },
}

impl Bus {
    async fn start(
        args: &UpArgs,
        data_dir: &DataDir,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        if let Some(url) = &args.nats_url {
            return Ok(Self::foreign(url));
        }
        let found = nats::find(args.nats_server.as_deref(), environment).await?;
        let version = found.version();
        tracing::debug!(program = %found.path.display(), version, "starting the NATS server");
        let nats = Nats::start(found.path, data_dir).await?;
        let nats = Box::new(nats);
        Ok(Self::Own { nats, version })
    }

    /// Takes the token out of the address, where people write it and logs would print it.
    fn foreign(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        match rest.rsplit_once('@') {
            Some((token, host)) => Self::Foreign {
                url: format!("{scheme}://{host}"),
                token: Some(Secret::new(token)),
            },
            None => Self::Foreign {
                url: format!("{scheme}://{rest}"),
                token: None,
            },
        }
    }

    /// The address, without the token.
    fn url(&self) -> String {
        match self {
            Self::Own { nats, .. } => format!("nats://{}", nats.address()),
            Self::Foreign { url, .. } => url.clone(),
        }
    }

    fn token(&self) -> Option<&Secret> {
        match self {
            Self::Own { nats, .. } => Some(nats.token()),
            Self::Foreign { token, .. } => token.as_ref(),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Own { version, .. } => format!("nats-server {version}, started by us"),
            Self::Foreign { .. } => "not started by us".to_owned(),
        }
    }

    async fn supervise(self, stop: ShutdownToken) -> Result<(), Failure> {
        match self {
            Self::Own { nats, .. } => nats.supervise(stop).await.map_err(|error| {
                Failure::new(Kind::Failed, "everything was stopped").because(error)
            }),
            Self::Foreign { .. } => {
                stop.triggered().await;
                Ok(())
            }
        }
    }
}

/// The files that say where everything is. They are there while, and only while, it serves.
struct EnvFiles(Vec<PathBuf>);

impl EnvFiles {
    /// Takes away what an earlier run has left: whoever waits for the file must not find an old
    /// one.
    fn clear(data_dir: &DataDir, also: Option<&Path>) -> Result<Self, Failure> {
        let mut paths = vec![env_file::path_in(data_dir.path())];
        paths.extend(also.map(Path::to_owned).filter(|path| *path != paths[0]));
        for path in &paths {
            match std::fs::remove_file(path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(Failure::new(
                        Kind::Failed,
                        format!("cannot remove the old {}", path.display()),
                    )
                    .because(error));
                }
            }
        }
        Ok(Self(paths))
    }

    fn write(&self, variables: &[(&str, String)]) -> Result<(), Failure> {
        for path in &self.0 {
            env_file::write(path, variables).map_err(|error| {
                Failure::new(Kind::Failed, format!("cannot write {}", path.display()))
                    .because(error)
            })?;
        }
        Ok(())
    }

    fn remove(&self) {
        for path in &self.0 {
            // What cannot be removed now is replaced by the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}
