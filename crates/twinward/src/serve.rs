//! Runs one service alone: `twinward ingestion`, `twinward twin-store`, `twinward policy`,
//! `twinward gateway`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use service_kit::clock::SystemClock;
use service_kit::config::{Loader, Validate, document, effective};
use service_kit::shutdown::{self, ShutdownToken};
use service_kit::system;
use service_kit::telemetry::{self, TelemetryConfig};

use crate::exit::Kind;
use crate::failure::Failure;
use crate::service::{self, Service};
use crate::{files, output};

/// Explains where the configuration comes from.
pub(crate) const HELP: &str = "\
Configuration, later ones win: built-in defaults, the file, variables, --set and --set-file.
A variable is TWINWARD_<SERVICE>__<KEY>, for instance TWINWARD_TWIN_STORE__LISTEN; --print-config
shows all keys. The file is TOML with a table per service, so that one file can serve all:

  [twin-store]
  listen = \"0.0.0.0:8430\"

  [telemetry]
  log_format = \"json\"
  otlp_endpoint = \"http://collector:4317\"";

/// The table of the file, and the middle of the variables, that all services share.
const TELEMETRY: &str = "telemetry";

/// Arguments of a service that runs alone.
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    /// TOML file with a table for this service
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set a key, for instance listen=0.0.0.0:8420; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Set a key to what a file holds, for secrets; may be repeated
    #[arg(long, value_name = "KEY=FILE", value_parser = pair)]
    set_file: Vec<(String, String)>,
    /// Print the configuration in effect, without secrets, and exit
    #[arg(long)]
    print_config: bool,
}

/// Runs the service until it is told to stop.
pub(crate) async fn run<S: Service>(args: ServiceArgs) -> Result<(), Failure> {
    let mut loader = Loader::new(S::NAME)
        .file(args.config.as_ref())
        .section(S::NAME);
    for (key, value) in &args.set {
        loader = loader.set(key, value);
    }
    for (key, file) in &args.set_file {
        let secret = files::read(std::path::Path::new(file))?;
        loader = loader.set(key, secret.trim());
    }
    let config: S::Config = loader
        .load()
        .map_err(|error| service::unusable(S::NAME, &error))?;
    let telemetry_config = telemetry_config(args.config.as_ref())?;
    if args.print_config {
        return print(S::NAME, &config, &telemetry_config);
    }
    let telemetry =
        telemetry::init(&telemetry_config, S::NAME).map_err(|error| cannot_log(&error))?;
    let shutdown = ShutdownToken::new();
    shutdown::on_signals(&shutdown).map_err(|error| cannot_listen_to_signals(&error))?;
    allow_many_connections();
    let result = serve::<S>(config, shutdown).await;
    telemetry.shutdown().await;
    result
}

/// Each connection is a file.
pub(crate) fn allow_many_connections() {
    match system::raise_open_files() {
        Ok(files) => tracing::info!(files, "files that may be open at once"),
        // What there is may be enough.
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}

async fn serve<S: Service>(config: S::Config, shutdown: ShutdownToken) -> Result<(), Failure> {
    // Building waits for NATS; whoever stops the service then need not wait with it.
    let starting = S::build(config, SystemClock::shared());
    let Some(built) = shutdown.run_until(starting).await else {
        return Ok(());
    };
    let app = built.map_err(|error| service::failed(S::NAME, "cannot start", &error))?;
    let addresses = app.addresses();
    tracing::info!(
        service = S::NAME,
        grpc = %addresses.grpc,
        admin = %addresses.admin,
        version = env!("CARGO_PKG_VERSION"),
        "started"
    );
    app.run(shutdown)
        .await
        .map_err(|error| service::failed(S::NAME, "failed", &error))?;
    tracing::info!(service = S::NAME, "stopped");
    Ok(())
}

/// How this process logs and traces.
pub(crate) fn telemetry_config(file: Option<&PathBuf>) -> Result<TelemetryConfig, Failure> {
    Loader::new(TELEMETRY)
        .file(file)
        .section(TELEMETRY)
        .load()
        .map_err(|error| service::unusable(TELEMETRY, &error))
}

/// Logs cannot be set up.
pub(crate) fn cannot_log(error: &telemetry::TelemetryError) -> Failure {
    Failure::new(Kind::Failed, "cannot set up logs and traces")
        .because(service_kit::error::chain(error))
}

/// The system does not let us listen to signals.
pub(crate) fn cannot_listen_to_signals(error: &std::io::Error) -> Failure {
    Failure::new(Kind::Failed, "cannot listen to signals").because(error)
}

fn print<C: Serialize + Validate>(
    name: &str,
    config: &C,
    telemetry: &TelemetryConfig,
) -> Result<(), Failure> {
    let unprintable = |error: &dyn std::error::Error| {
        Failure::new(Kind::Internal, "cannot print it").because(error)
    };
    let parts = std::collections::BTreeMap::from([
        (name, document(config).map_err(|error| unprintable(&error))?),
        (
            TELEMETRY,
            document(telemetry).map_err(|error| unprintable(&error))?,
        ),
    ]);
    let text = effective(&parts).map_err(|error| unprintable(&error))?;
    output::write(&text)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        Some(_) | None => Err("KEY=VALUE is needed".to_owned()),
    }
}
