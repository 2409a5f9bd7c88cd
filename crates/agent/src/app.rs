//! Builds the agent and runs it until it is told to stop. The binary's `main` calls [`main`] and nothing
//! else; tests and tools may call [`run`].
//!
//! Order: data directory and its lock, identity (enrolling if there is none), last good configuration,
//! spool, then collectors, link and engine as tasks. Nothing needs the network but enrolment.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use iot_hub::connection_string::ConnectionString;
use service_kit::backoff::Policy;
use service_kit::client::ClientConfig;
use service_kit::clock::SystemClock;
use service_kit::error::chain;
use service_kit::exit;
use service_kit::shutdown::{self, ShutdownToken};
use service_kit::tasks::{OnFailure, Tasks};
use service_kit::telemetry::{self, TelemetryConfig};
use tokio::sync::mpsc;

use crate::args::{
    Arguments, Command, ConnectionArguments, EnrollArguments, EnrollmentArguments, LogArguments,
    LogFormat, OutputFormat, RunArguments, StatusArguments,
};
use crate::collectors::Machine;
use crate::collectors::set::{CollectorSet, Surroundings};
use crate::configuration::Store;
use crate::engine::{Engine, State};
use crate::link::Link;
use crate::spool::{self, Spool};
use crate::{configuration, data_dir, enroll, identity, status};

mod error;

pub use self::error::Error;

/// Reports that may wait for the engine; a collector then waits, which is what should happen.
const REPORTS_MAX: usize = 256;

/// Messages of the service that may wait for the engine; the connection then waits.
const LINK_EVENTS_MAX: usize = 32;

/// How long the agent may take to make durable what it holds when it is told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Where the kernel names this start of the machine.
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";

/// Two threads: one that may wait for a file, and one for everything else. The agent must be light.
const WORKER_THREADS: usize = 2;

/// Runs a command line from beginning to end.
pub fn main(arguments: Arguments) -> ExitCode {
    let result = match arguments.command {
        Command::Status(arguments) => print_status(&arguments),
        Command::Enroll(arguments) => block_on(enroll_only(arguments)),
        Command::Run(arguments) => block_on(run_until_signal(arguments)),
    };
    match result {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            // Nothing is left to do when even this cannot be written.
            let _ = writeln!(io::stderr(), "twinward-agent: {}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn block_on(future: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("agent")
        .enable_all()
        .build()
        .map_err(|source| Error::SetUp {
            action: "start threads",
            source: source.into(),
        })?
        .block_on(future)
}

async fn run_until_signal(arguments: RunArguments) -> Result<(), Error> {
    let telemetry = start_telemetry(&arguments.log)?;
    let stop = ShutdownToken::new();
    shutdown::on_signals(&stop).map_err(|source| Error::SetUp {
        action: "listen for signals",
        source: source.into(),
    })?;
    let result = run(arguments, stop).await;
    telemetry.shutdown().await;
    result
}

/// Runs the agent until the token is triggered.
pub async fn run(arguments: RunArguments, stop: ShutdownToken) -> Result<(), Error> {
    let data_dir = data_dir::create(arguments.data.data_dir)?;
    let _lock = data_dir::lock(&data_dir)?;
    let sources = identity::Sources {
        connection_string: arguments.connection_string,
        connection_string_file: arguments.connection_string_file,
    };
    let identity = if let Some(identity) = identity::load(&data_dir, &sources)? {
        identity
    } else {
        let waiting = (Policy::FOREVER, &stop);
        enroll_into(
            &data_dir,
            &arguments.connection,
            &arguments.enrollment,
            waiting,
        )
        .await?
    };
    let client = client_config(&arguments.connection, Some(identity.host_name()))?;
    let name = wire::names::identity_name(identity.identity());
    let mut store = Store::open(&data_dir, &name).map_err(boxed(Error::Configuration))?;
    let revert_after = Some(arguments.revert_after.get()).filter(|patience| !patience.is_zero());
    let machine = Machine::at(arguments.machine_root);
    if revert_after.is_some() {
        store.try_out(machine.text(BOOT_ID).unwrap_or_default());
    }
    let options = spool::Options::with_bytes_max(arguments.spool_max_bytes);
    let spool = Spool::open(&data_dir.join("spool"), options)?;
    tracing::info!(identity = name, url = client.url, data_dir = %data_dir.display(),
        version = crate::engine::AGENT_VERSION, "agent starts");

    let tasks = Tasks::new(stop.clone());
    let clock = SystemClock::shared();
    let (reports, reports_receiver) = mpsc::channel(REPORTS_MAX);
    let (link_events, link_receiver) = mpsc::channel(LINK_EVENTS_MAX);
    let link = Link::new(&client, identity, link_events, clock.clone(), stop.clone())
        .map_err(boxed(Error::Link))?;
    let collectors = CollectorSet::new(Surroundings {
        machine,
        data_dir,
        clock: clock.clone(),
        tasks: tasks.clone(),
        reports,
    });
    let engine = Engine {
        spool,
        store,
        collectors,
        clock,
        reports: reports_receiver,
        link: link_receiver,
        revert_after,
        state: State::default(),
    };
    tasks.spawn("engine", OnFailure::StopService, engine.run(stop.clone()));
    tasks.spawn("link", OnFailure::StopService, link.run());

    stop.triggered().await;
    let drained = tasks.drain(STOP_DEADLINE).await;
    if let Some(failure) = tasks.failure() {
        return Err(Error::Ended(failure.into()));
    }
    drained.map_err(boxed(Error::Ended))?;
    tracing::info!("agent stopped");
    Ok(())
}

async fn enroll_only(arguments: EnrollArguments) -> Result<(), Error> {
    let telemetry = start_telemetry(&arguments.log)?;
    let data_dir = data_dir::create(arguments.data.data_dir)?;
    let _lock = data_dir::lock(&data_dir)?;
    let waiting = (Policy::CALL, &ShutdownToken::new());
    let identity = enroll_into(
        &data_dir,
        &arguments.connection,
        &arguments.enrollment,
        waiting,
    )
    .await?;
    telemetry.shutdown().await;
    let name = wire::names::identity_name(identity.identity());
    writeln!(
        io::stdout(),
        "enrolled as {name}; the key is in {}",
        data_dir.display()
    )
    .map_err(Error::Print)
}

/// Enrols and keeps the key.
async fn enroll_into(
    data_dir: &Path,
    connection: &ConnectionArguments,
    enrollment: &EnrollmentArguments,
    waiting: (Policy, &ShutdownToken),
) -> Result<ConnectionString, Error> {
    let token = enrollment
        .enrollment_token
        .as_ref()
        .ok_or(Error::NoIdentity)?;
    let device_id = match &enrollment.device_id {
        Some(device_id) => device_id.clone(),
        None => Machine::this()
            .text("proc/sys/kernel/hostname")
            .ok_or(Error::NoIdentity)?,
    };
    let config = client_config(connection, None)?;
    let identity = enroll::enroll(&config, data_dir, token, &device_id, waiting).await?;
    identity::store(data_dir, &identity)?;
    // A device enrolled anew may have a new twin, whose versions begin again.
    configuration::forget(data_dir).map_err(boxed(Error::Configuration))?;
    enroll::forget_nonce(data_dir);
    tracing::info!(
        identity = wire::names::identity_name(identity.identity()),
        "enrolled"
    );
    Ok(identity)
}

fn print_status(arguments: &StatusArguments) -> Result<(), Error> {
    let dir = data_dir::chosen(arguments.data.data_dir.clone())?;
    let status = status::read(&dir)?;
    let text = match arguments.output {
        OutputFormat::Text => status.to_text(),
        OutputFormat::Json => format!("{:#}\n", status.to_json()),
    };
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(Error::Print)
}

fn start_telemetry(log: &LogArguments) -> Result<telemetry::TelemetryGuard, Error> {
    let config = TelemetryConfig {
        log_format: match log.log_format {
            LogFormat::Text => telemetry::LogFormat::Text,
            LogFormat::Json => telemetry::LogFormat::Json,
        },
        log_filter: log.log_filter.clone(),
        otlp_endpoint: log.otlp_endpoint.clone(),
        ..TelemetryConfig::default()
    };
    telemetry::init(&config, "agent").map_err(|source| Error::SetUp {
        action: "set up logging",
        source: source.into(),
    })
}

/// The URL and trust for the service. Plain text leaves this machine only when somebody insists.
fn client_config(
    connection: &ConnectionArguments,
    host_name: Option<&str>,
) -> Result<ClientConfig, Error> {
    let url = match (&connection.server, host_name) {
        (Some(url), _) => url.clone(),
        (None, Some(host)) => format!("https://{host}"),
        (None, None) => return Err(Error::NoIdentity),
    };
    let bad = |problem| Error::Server {
        url: url.clone(),
        problem,
    };
    let uri: tonic::transport::Uri = url
        .parse()
        .map_err(|_| bad("it must be https://host:port or http://host:port"))?;
    match uri.scheme_str() {
        Some("https") if connection.ca_file.is_none() => {
            return Err(bad(
                "https needs --ca-file: whose signature should be believed?",
            ));
        }
        Some("https") => {}
        Some("http") if connection.allow_insecure || is_loopback(uri.host().unwrap_or("")) => {}
        Some("http") => {
            return Err(bad(
                "without TLS anybody on the way can read and change everything; use https, or \
                 insist with --allow-insecure",
            ));
        }
        Some(_) | None => return Err(bad("it must be https://host:port or http://host:port")),
    }
    let mut config = ClientConfig::to(url);
    config.tls.ca_file.clone_from(&connection.ca_file);
    Ok(config)
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Boxes the errors of private modules.
fn boxed<E: std::error::Error + Send + Sync + 'static>(
    wrap: fn(Box<dyn std::error::Error + Send + Sync>) -> Error,
) -> impl FnOnce(E) -> Error {
    move |error| wrap(Box::new(error))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn connection(server: &str) -> ConnectionArguments {
        ConnectionArguments {
            server: Some(server.to_owned()),
            ca_file: None,
            allow_insecure: false,
        }
    }

    #[test]
    fn plain_text_stays_on_this_machine_unless_somebody_insists() {
        for allowed in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"] {
            assert!(
                client_config(&connection(allowed), None).is_ok(),
                "{allowed}"
            );
        }
        for refused in [
            "http://192.0.2.1:1",
            "http://hub.example",
            "ftp://x",
            "nonsense",
        ] {
            let result = client_config(&connection(refused), None);
            assert!(matches!(result, Err(Error::Server { .. })), "{refused}");
        }
        let insecure = ConnectionArguments {
            allow_insecure: true,
            ..connection("http://192.0.2.1:1")
        };
        assert!(client_config(&insecure, None).is_ok());
    }

    #[test]
    fn the_hub_of_the_connection_string_is_the_server_unless_one_is_given() {
        let none = ConnectionArguments {
            server: None,
            ca_file: Some(PathBuf::from("ca.pem")),
            allow_insecure: false,
        };
        assert_eq!(
            client_config(&none, Some("hub.example")).unwrap().url,
            "https://hub.example"
        );
        assert!(matches!(client_config(&none, None), Err(Error::NoIdentity)));
        assert!(matches!(
            client_config(&connection("https://hub.example"), None),
            Err(Error::Server { .. })
        ));
    }
}
