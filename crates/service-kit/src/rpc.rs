//! One span and one measurement per gRPC call served, continuing the caller's trace.
//!
//! The span lasts until the last message of the answer has gone out, so a stream's span is as long
//! as the stream. A refused call is no error of ours, so nothing is logged above debug.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, Span, field};

use crate::metrics::{EncodeLabelSet, HistogramFamily, Scope};
use crate::trace;

/// The labels of a call: few values, all from our own contracts. (A call to a path that does not
/// exist is counted under `unknown`, so that a scanner cannot fill the registry.)
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    service: String,
    method: String,
    code: &'static str,
}

/// How long the calls took that a server has answered, by method and code.
#[derive(Debug, Clone)]
pub struct RpcMetrics {
    seconds: HistogramFamily<CallLabels>,
}

impl RpcMetrics {
    /// Registers the metric `rpc_seconds` with a service.
    #[must_use]
    pub fn register(scope: &Scope) -> Self {
        Self {
            seconds: scope.latencies("rpc_seconds", "Time to answer a gRPC call"),
        }
    }
}

/// Wraps every call of a gRPC server in a span.
#[derive(Debug, Clone, Default)]
pub struct TraceLayer {
    metrics: Option<RpcMetrics>,
}

impl TraceLayer {
    /// Measures the calls too.
    #[must_use]
    pub fn measured(metrics: RpcMetrics) -> Self {
        Self {
            metrics: Some(metrics),
        }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = TraceService<S>;

    fn layer(&self, inner: S) -> TraceService<S> {
        TraceService {
            inner,
            metrics: self.metrics.clone(),
        }
    }
}

/// A gRPC service behind a [`TraceLayer`].
#[derive(Debug, Clone)]
pub struct TraceService<S> {
    inner: S,
    metrics: Option<RpcMetrics>,
}

impl<S> Service<Request<Body>> for TraceService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut call = Call::begin(&request, self.metrics.clone());
        let response = call.span.in_scope(|| self.inner.call(request));
        let response = response.instrument(call.span.clone());
        Box::pin(async move {
            let response = response.await?;
            // An answer without messages carries its status in the headers.
            if let Some(status) = Status::from_header_map(response.headers()) {
                call.end(status.code());
                return Ok(response);
            }
            Ok(response.map(|inner| Body::new(Answer { inner, call })))
        })
    }
}

/// A call being answered.
struct Call {
    span: Span,
    started: Instant,
    service: String,
    method: String,
    metrics: Option<RpcMetrics>,
    ended: bool,
}

impl Call {
    fn begin(request: &Request<Body>, metrics: Option<RpcMetrics>) -> Self {
        let path = request.uri().path().trim_start_matches('/');
        let (service, method) = path.split_once('/').unwrap_or((path, ""));
        let span = tracing::info_span!(
            "rpc",
            otel.name = path,
            otel.kind = "server",
            otel.status_code = field::Empty,
            rpc.system = "grpc",
            rpc.service = service,
            rpc.method = method,
            rpc.status = field::Empty,
            trace_id = field::Empty,
        );
        if let Some(traceparent) = trace::extract_headers(request.headers()) {
            trace::set_parent(&span, traceparent);
        }
        if let Some(id) = trace::trace_id(&span) {
            span.record("trace_id", id);
        }
        let (service, method) = (service.to_owned(), method.to_owned());
        Self {
            span,
            started: Instant::now(),
            service,
            method,
            metrics,
            ended: false,
        }
    }

    fn end(&mut self, code: Code) {
        if self.ended {
            return;
        }
        self.ended = true;
        let name = name(code);
        self.span.record("rpc.status", name);
        if is_fault(code) {
            self.span.record("otel.status_code", "ERROR");
        }
        let elapsed = self.started.elapsed();
        self.span.in_scope(|| {
            tracing::debug!(
                code = name,
                elapsed_us = elapsed.as_micros(),
                "call answered"
            );
        });
        if let Some(metrics) = &self.metrics {
            let known = code != Code::Unimplemented;
            let label = |text: &str| {
                if known {
                    text.to_owned()
                } else {
                    "unknown".to_owned()
                }
            };
            let labels = CallLabels {
                service: label(&self.service),
                method: label(&self.method),
                code: name,
            };
            metrics
                .seconds
                .get_or_create(&labels)
                .observe(elapsed.as_secs_f64());
        }
    }
}

impl Drop for Call {
    /// A call dropped before its status has gone out was given up by the caller.
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The body of an answer, which ends with the status in its trailers.
struct Answer {
    inner: Body,
    call: Call,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let polled = {
            let _entered = this.call.span.enter();
            Pin::new(&mut this.inner).poll_frame(cx)
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.call.end(code_of(trailers));
                }
            }
            Poll::Ready(Some(Err(status))) => this.call.end(status.code()),
            Poll::Ready(None) => this.call.end(Code::Ok),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn code_of(trailers: &HeaderMap) -> Code {
    Status::from_header_map(trailers).map_or(Code::Unknown, |status| status.code())
}

/// True if the server is to blame.
fn is_fault(code: Code) -> bool {
    match code {
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unauthenticated => false,
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
