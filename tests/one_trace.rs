//! One trace from the agent's event to the applied push, through gRPC metadata and NATS headers:
//! an OTLP collector gets spans of every process under one trace id.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use testkit::wait_for;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::support::SOON;
use crate::support::api::unexpected_listener;
use crate::support::hub::Hub;
use crate::support::real_agent::RealAgent;

/// Names of spans by trace id and service.
type Traces = BTreeMap<Vec<u8>, BTreeSet<(String, String)>>;

/// A collector that remembers.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Traces>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut traces = self.0.lock().expect("nobody panics with it");
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes);
            let service = attributes
                .unwrap_or_default()
                .into_iter()
                .filter(|attribute| attribute.key == "service.name")
                .find_map(|attribute| match attribute.value?.value? {
                    Value::StringValue(name) => Some(name),
                    _ => None,
                })
                .unwrap_or_default();
            for span in resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans)
            {
                traces
                    .entry(span.trace_id)
                    .or_default()
                    .insert((service.clone(), span.name));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_and_the_push_it_causes_are_one_trace_over_all_processes() {
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(server);

    let hub = Hub::start_with(Some(endpoint.clone())).await;
    let api = hub.api();
    let agent = RealAgent::enroll_with(&api, &hub.agent_url(), "cam-1", hub.folder(), |builder| {
        builder.env("TWINWARD_AGENT__OTLP_ENDPOINT", &endpoint)
    })
    .await;
    let name = "devices/cam-1/modules/DefenderIotMicroAgent";
    api.twin_until(name, "the first snapshot", |twin| {
        twin.posture()["listeningPortsSnapshot"]["observedAt"].is_string()
    })
    .await;
    let open = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = open.local_addr().expect("an address").port();
    let mut policy = unexpected_listener();
    // The policy comes first, so that the event alone starts the loop.
    drop(open);
    policy.when = format!("EXISTS(p IN posture.listeningPorts WHERE p.port = {port})");
    api.twin_until(name, "the port to be closed", |twin| {
        twin.posture()["listeningPorts"]
            .as_array()
            .is_some_and(|ports| !ports.iter().any(|open| open["port"] == port))
    })
    .await;
    api.apply(policy).await.expect("the policy is good");
    let open = TcpListener::bind(("0.0.0.0", port)).expect("the port is still free");
    let twin = api
        .twin_until(name, "the applied push", |twin| {
            twin.desired()["FileSystem_Paths"] == "/etc"
                && twin.text("/configuration/state") == "applied"
                && twin.count("/configuration/appliedVersion") == twin.0.desired_version
        })
        .await;
    let trace_parent = twin.text("/configuration/traceParent");
    let trace_id = trace_parent
        .split('-')
        .nth(1)
        .expect("a trace parent")
        .to_owned();
    drop(open);

    let services = ["ingestion", "policy", "twin-store", "agent"];
    let spans = || -> BTreeSet<(String, String)> {
        let traces = collector.0.lock().expect("nobody panics with it");
        let trace = traces.iter().find(|(id, _)| hex(id) == trace_id);
        trace.map(|(_, spans)| spans.clone()).unwrap_or_default()
    };
    let complete = wait_for(
        "spans of all processes under one trace",
        SOON * 2,
        async || {
            let seen = spans();
            services
                .iter()
                .all(|service| seen.iter().any(|(name, _)| name == service))
                .then_some(())
        },
    );
    assert!(
        tokio::time::timeout(SOON, complete).await.is_ok(),
        "the trace {trace_id} holds only {:#?}",
        spans()
    );
    agent.stop().await;
    hub.stop().await;
    server.abort();
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
