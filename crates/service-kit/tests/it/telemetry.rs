//! Logs on stderr and traces at a collector. Telemetry is set up once per process, so this test
//! runs itself as a child, and plays the collector.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use service_kit::auth::Permission;
use service_kit::health::Health;
use service_kit::server::{GrpcConfig, GrpcServer};
use service_kit::tasks::{OnFailure, Tasks};
use service_kit::telemetry::{self, LogFormat, TelemetryConfig};
use service_kit::tls::{ClientTls, ServerTls};
use service_kit::{config, trace};
use testkit::TestCerts;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use crate::support::{PATIENCE, within};

const ENDPOINT: &str = "TWINWARD_TEST_OTLP_ENDPOINT";
const AUTHORITY: &str = "TWINWARD_TEST_OTLP_CA";
/// What the collector serves; whoever calls may, because authorisation is off.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Not a test of its own: the child's part, which runs only when asked for by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child's part of the test below"]
async fn child() {
    let config = TelemetryConfig {
        log_format: LogFormat::Json,
        log_filter: "warn,it=info".to_owned(),
        otlp_endpoint: config::env_var(ENDPOINT),
        otlp_tls: ClientTls {
            ca_file: config::env_var(AUTHORITY).map(Into::into),
            ..ClientTls::default()
        },
        ..TelemetryConfig::default()
    };
    let guard = telemetry::init(&config, "demo").expect("telemetry");
    assert!(telemetry::init(&config, "demo").is_err(), "only once");
    {
        // A span below the log's level in a target that is not logged is traced all the same.
        let span = tracing::info_span!(target: "elsewhere", "quiet work");
        trace::set_parent(&span, PARENT);
        let _entered = span.entered();
        tracing::info!(answer = 42, "hello");
        tracing::info!(target: "elsewhere", "not logged");
    }
    let tasks = Tasks::default();
    let answer = std::hint::black_box(41);
    tasks.spawn("doomed", OnFailure::StopService, async move {
        assert_eq!(answer, 42, "out of luck");
    });
    tasks.shutdown_token().triggered().await;
    within("the last export", guard.shutdown()).await;
}

struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0
            .send(request.into_inner())
            .await
            .expect("the test listens");
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector, and what was exported to it.
async fn collector(
    tasks: &Tasks,
    tls: Option<ServerTls>,
) -> (String, mpsc::Receiver<ExportTraceServiceRequest>) {
    let (sender, exports) = mpsc::channel(16);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let config = GrpcConfig {
        tls,
        ..GrpcConfig::default()
    };
    let server = GrpcServer::bind(&config).await.expect("a free port");
    let endpoint = format!("{scheme}://{}", server.local_addr());
    server
        .add_service(TraceServiceServer::new(Collector(sender)))
        .rules(&[(EXPORT, Permission::TwinsRead)])
        .serve(tasks, &Health::new());
    (endpoint, exports)
}

/// Runs the child's part; answers what it wrote to stderr.
async fn run_child(endpoint: String, authority: Option<PathBuf>) -> String {
    let itself = std::env::current_exe().expect("this binary");
    let run = tokio::task::spawn_blocking(move || {
        Command::new(itself)
            .args(["--exact", "telemetry::child", "--ignored", "--nocapture"])
            .env(ENDPOINT, endpoint)
            .env(AUTHORITY, authority.unwrap_or_default())
            .stdout(Stdio::piped())
            .output()
            .expect("a child")
    });
    let output = within("the child's end", run).await.expect("no panic");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{stderr}");
    stderr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traces_leave_over_tls_to_a_collector_that_is_believed() {
    let certs = TestCerts::new();
    let tasks = Tasks::default();
    let tls = ServerTls::new(certs.server_certificate(), certs.server_key());
    let (endpoint, mut exports) = collector(&tasks, Some(tls)).await;
    run_child(endpoint.clone(), Some(certs.ca())).await;
    let export = within("an export", exports.recv())
        .await
        .expect("an export");
    assert!(!export.resource_spans.is_empty());

    let strangers = TestCerts::new();
    run_child(endpoint, Some(strangers.ca())).await;
    assert!(exports.try_recv().is_err(), "a stranger gets no traces");
    tasks.drain(PATIENCE).await.expect("everything ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_go_to_stderr_and_traces_to_the_collector() {
    let tasks = Tasks::default();
    let (endpoint, mut exports) = collector(&tasks, None).await;
    let stderr = run_child(endpoint, None).await;

    let lines: Vec<serde_json::Value> = stderr
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let with = |message: &str| lines.iter().find(|line| line["message"] == message);
    let hello = with("hello").unwrap_or_else(|| panic!("no hello in {stderr}"));
    assert_eq!(
        (&hello["answer"], &hello["level"]),
        (&42.into(), &"INFO".into())
    );
    assert!(with("not logged").is_none(), "{stderr}");
    assert!(
        stderr.contains("out of luck"),
        "the panic is logged: {stderr}"
    );
    let failed = with("task failed; the service stops").expect("the failure is logged");
    assert_eq!(failed["task"], "doomed");

    let export = within("an export", exports.recv())
        .await
        .expect("an export");
    let resource = export.resource_spans.first().expect("spans");
    let attributes = &resource.resource.as_ref().expect("a resource").attributes;
    for key in ["service.name", "service.instance.id"] {
        assert!(
            attributes.iter().any(|pair| pair.key == key),
            "{key} is missing"
        );
    }
    let mut spans = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
    let span = spans
        .find(|span| span.name == "quiet work")
        .expect("the span");
    let trace_id = u128::from_str_radix(&PARENT[3..35], 16).expect("hexadecimal");
    assert_eq!(
        span.trace_id,
        trace_id.to_be_bytes(),
        "it continues the trace"
    );
    tasks.drain(PATIENCE).await.expect("everything ends");
}
