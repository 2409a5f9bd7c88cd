//! Logs to stderr, as text or JSON, and traces by OTLP if an endpoint is configured.
//!
//! Set up once per process. Metrics are apart ([`crate::metrics`]): they are pulled, not pushed.

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, FilterExt};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::client::{self, ClientConfig, ClientError};
use crate::config::{self, Problems, Validate};
use crate::tls::ClientTls;

/// Libraries whose messages below warning are about their own workings.
const QUIETED: &str = "h2=warn,hyper=warn,hyper_util=warn,tower=warn,tonic=warn,rustls=warn,\
                       async_nats=warn,opentelemetry=warn,opentelemetry_sdk=warn,\
                       opentelemetry_otlp=warn";
/// What is always traced, however quiet the log is: a trace that ends where a service logs only
/// warnings would be of no use to the next one.
const TRACED: &str = "info,h2=off,hyper=off,hyper_util=off,tower=off,tonic=off,rustls=off,\
                      opentelemetry=off,opentelemetry_sdk=off,opentelemetry_otlp=off";
/// How long one export to the collector may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last export may take when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Logs and traces of a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// `text` (default) or `json`.
    pub log_format: LogFormat,
    /// What to log, in the form of `RUST_LOG`: `info` (default), `debug`,
    /// `info,twin_store=debug`. Noisy libraries stay at warning unless they are named.
    pub log_filter: String,
    /// The OTLP collector's gRPC endpoint, `http://host:4317`. Unset (default) exports nothing;
    /// trace ids exist and travel all the same. `https` for a collector that is no neighbour on
    /// the same host or in the same pod.
    pub otlp_endpoint: Option<String>,
    /// Whom to believe and as whom to show ourselves, if the endpoint is `https`.
    pub otlp_tls: ClientTls,
    /// The share of traces started here that is recorded, from 0 to 1 (default). A trace started
    /// elsewhere follows the decision made there.
    pub trace_ratio: f64,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Text,
            log_filter: "info".to_owned(),
            otlp_endpoint: None,
            otlp_tls: ClientTls::default(),
            trace_ratio: 1.0,
        }
    }
}

impl Validate for TelemetryConfig {
    fn validate(&self, problems: &mut Problems) {
        if let Err(error) = log_filter(&self.log_filter) {
            problems.add(
                "log_filter",
                format!("{error}; allowed is the form of RUST_LOG"),
            );
        }
        if let Some(endpoint) = &self.otlp_endpoint {
            let schemes = ["http://", "https://"];
            let scheme = schemes.iter().any(|scheme| endpoint.starts_with(scheme));
            problems.require(
                scheme && endpoint.parse::<http::Uri>().is_ok(),
                "otlp_endpoint",
                "must be of the form http://host:4317 or https://host:4317",
            );
            problems.nested("otlp_tls", &self.otlp_tls);
        }
        let ratio = (0.0..=1.0).contains(&self.trace_ratio);
        problems.require(ratio, "trace_ratio", "must be between 0 and 1");
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter cannot be read.
    #[error("cannot read the log filter")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// The exporter cannot be built.
    #[error("cannot build the exporter to `{endpoint}`")]
    Exporter {
        /// The configured endpoint.
        endpoint: String,
        /// What the exporter says.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// The endpoint cannot be used.
    #[error("cannot set up the connection to the collector")]
    Channel(#[from] ClientError),
    /// Telemetry has been set up before in this process.
    #[error("telemetry is set up already in this process")]
    SetUpAlready(#[source] tracing_subscriber::util::TryInitError),
}

/// Sends what is left when the process ends. Keep it until the very end of `main`.
#[derive(Debug)]
#[must_use = "dropping the guard ends the export of traces"]
pub struct TelemetryGuard {
    provider: Option<SdkTracerProvider>,
}

impl TelemetryGuard {
    /// Sends what is left, without holding up the runtime, and ends the export.
    pub async fn shutdown(mut self) {
        if let Some(provider) = self.provider.take() {
            // Nothing is left to do about an error: the process ends.
            let _ = tokio::task::spawn_blocking(move || flush(&provider)).await;
        }
    }
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            flush(&provider);
        }
    }
}

fn flush(provider: &SdkTracerProvider) {
    if let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
        tracing::debug!(%error, "the last traces were not sent");
    }
}

/// Sets up logs and traces for this process, and logs panics. To be called once, inside the
/// runtime, before anything else that may log.
pub fn init(config: &TelemetryConfig, service: &str) -> Result<TelemetryGuard, TelemetryError> {
    let filter = || log_filter(&config.log_filter).map_err(TelemetryError::Filter);
    let provider = tracer_provider(config, service)?;
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    // A span that is logged must be known to the tracer too, or what happens within it would have
    // no trace id; hence the union of both filters.
    let traced = filter()?.or(EnvFilter::new(TRACED));
    tracing_subscriber::registry()
        .with(log_layer(config.log_format).with_filter(filter()?))
        .with(
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("twinward"))
                .with_filter(traced),
        )
        .try_init()
        .map_err(TelemetryError::SetUpAlready)?;
    log_panics();
    Ok(TelemetryGuard {
        provider: Some(provider),
    })
}

/// Gives spans their ids and logs nothing, for tests of trace propagation. For the whole process
/// and not for a thread, because tracing remembers what the first thread to reach a span thought
/// of it. May be called by every test; a subscriber that is set already stays.
pub fn ids_for_tests() {
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOn)
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

fn log_filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    // Later directives for the same target win, so the operator can still make a library talk.
    EnvFilter::builder().parse(format!("{QUIETED},{text}"))
}

fn log_layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let colours = std::io::stderr().is_terminal() && config::env_var("NO_COLOR").is_none();
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => layer.compact().boxed(),
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
    }
}

fn tracer_provider(
    config: &TelemetryConfig,
    service: &str,
) -> Result<SdkTracerProvider, TelemetryError> {
    let instance = uuid::Uuid::new_v4().to_string();
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(KeyValue::new("service.instance.id", instance))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace_ratio)));
    let builder = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(sampler);
    let Some(endpoint) = &config.otlp_endpoint else {
        return Ok(builder.build());
    };
    let collector = ClientConfig {
        tls: config.otlp_tls.clone(),
        ..ClientConfig::to(endpoint)
    };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(client::channel(&collector)?)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|source| TelemetryError::Exporter {
            endpoint: endpoint.clone(),
            source,
        })?;
    Ok(builder.with_batch_exporter(exporter).build())
}

/// A panic is a defect and must reach the log collector as one line, not only stderr as many.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(
            thread = thread.name().unwrap_or("unnamed"),
            location = panic.location().map(tracing::field::display),
            message = panic.payload_as_str().unwrap_or("without a message"),
            %backtrace,
            "panic"
        );
    }));
}
