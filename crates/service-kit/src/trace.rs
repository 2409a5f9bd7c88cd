//! W3C trace context across process borders: gRPC metadata, NATS headers, envelopes.
//!
//! It works whether or not traces are exported: [`crate::telemetry`] keeps a tracer either way, so
//! that ids exist. Nothing here starts spans.

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::MetadataMap;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The name of the header, in HTTP, gRPC and NATS alike.
pub const TRACEPARENT: &str = "traceparent";

/// The `traceparent` by which somebody else continues the current span. `None` outside of any
/// span, and where telemetry has not been set up.
pub fn current_traceparent() -> Option<String> {
    traceparent_of(&Span::current())
}

/// The `traceparent` by which somebody else continues this span.
pub fn traceparent_of(span: &Span) -> Option<String> {
    let context = span.context();
    let context = context.span();
    let context = context.span_context();
    context.is_valid().then(|| {
        let flags = context.trace_flags().to_u8();
        format!(
            "00-{}-{}-{flags:02x}",
            context.trace_id(),
            context.span_id()
        )
    })
}

/// Lets a span continue what a `traceparent` from outside names. To be called before the span is
/// entered or read. A text that is no traceparent is ignored (a trace is a convenience; nothing
/// may fail for it) and answered with false.
pub fn set_parent(span: &Span, traceparent: &str) -> bool {
    let context = TraceContextPropagator::new().extract(&OneHeader(traceparent));
    context.span().span_context().is_valid() && span.set_parent(context).is_ok()
}

/// Notes that a span works on what a `traceparent` names without being its child: the span of a
/// batch links to the traces of its messages.
pub fn add_link(span: &Span, traceparent: &str) {
    span.add_link(parse(traceparent));
}

/// The trace id of a span, 32 hexadecimal digits.
pub fn trace_id(span: &Span) -> Option<String> {
    let context = span.context();
    let context = context.span();
    let context = context.span_context();
    context.is_valid().then(|| context.trace_id().to_string())
}

/// An id to quote to the operator: the current trace's if there is one, otherwise a fresh one.
pub fn correlation_id() -> String {
    trace_id(&Span::current()).unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string())
}

/// Puts the current span's `traceparent` into gRPC metadata.
pub fn inject_metadata(metadata: &mut MetadataMap) {
    if let Some(value) = current_traceparent().and_then(|text| text.parse().ok()) {
        metadata.insert(TRACEPARENT, value);
    }
}

/// The `traceparent` in gRPC metadata.
pub fn extract_metadata(metadata: &MetadataMap) -> Option<&str> {
    metadata.get(TRACEPARENT)?.to_str().ok()
}

/// Puts the current span's `traceparent` into HTTP headers.
pub fn inject_headers(headers: &mut http::HeaderMap) {
    if let Some(value) = current_traceparent().and_then(|text| text.parse().ok()) {
        headers.insert(TRACEPARENT, value);
    }
}

/// The `traceparent` in HTTP headers.
pub fn extract_headers(headers: &http::HeaderMap) -> Option<&str> {
    headers.get(TRACEPARENT)?.to_str().ok()
}

fn parse(traceparent: &str) -> SpanContext {
    let context = TraceContextPropagator::new().extract(&OneHeader(traceparent));
    context.span().span_context().clone()
}

/// A carrier that has a traceparent and nothing else.
struct OneHeader<'a>(&'a str);

impl Extractor for OneHeader<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_span_continues_a_trace_without_any_exporter() {
        crate::telemetry::ids_for_tests();
        let span = tracing::info_span!("work");
        assert!(set_parent(&span, GIVEN));
        let ours = traceparent_of(&span).expect("a traceparent");
        assert_eq!(&ours[..36], &GIVEN[..36], "the same trace");
        assert_ne!(&ours[36..52], &GIVEN[36..52], "a span of its own");
        assert!(ours.ends_with("-01"), "still sampled");
    }

    #[test]
    fn a_span_without_parent_starts_a_trace() {
        crate::telemetry::ids_for_tests();
        let _entered = tracing::info_span!("work").entered();
        let ours = current_traceparent().expect("a traceparent");
        assert_eq!(ours.len(), GIVEN.len());
        assert!(parse(&ours).is_valid());
    }

    #[test]
    fn nonsense_is_ignored() {
        crate::telemetry::ids_for_tests();
        let span = tracing::info_span!("work");
        for text in [
            "",
            "nonsense",
            "00-0-0-00",
            "00-00000000000000000000000000000000-0-01",
        ] {
            assert!(!set_parent(&span, text), "{text}");
        }
        assert!(traceparent_of(&span).is_some());
    }

    #[test]
    fn there_is_no_traceparent_outside_of_a_span() {
        assert_eq!(current_traceparent(), None);
        assert_eq!(correlation_id().len(), 32);
    }
}
