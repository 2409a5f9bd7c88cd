//! Spans of a session, and how they continue the traces of agents, operators and policies.

use service_kit::trace;
use twin::IdentityKey;
use wire::agent::v1 as agent;

use crate::session::Request;

/// A `traceparent` of version 00 has exactly this many characters.
const TRACE_PARENT_BYTES: usize = 55;

/// Lets the push be a part of the trace of the change that caused it, and the agent's work a part
/// of the push.
pub(super) fn trace_push(identity: &IdentityKey, section: &mut agent::DesiredConfiguration) {
    let span = tracing::info_span!(parent: None, "push", %identity, version = section.version);
    section.trace_parent = continue_trace(&span, std::mem::take(&mut section.trace_parent));
    span.in_scope(|| tracing::debug!("desired section given to the agent"));
}

/// Makes a span continue what `trace_parent` names, and returns how others continue the span. When
/// this process has no tracer, the trace passes through unchanged.
pub(super) fn continue_trace(span: &tracing::Span, trace_parent: String) -> String {
    let known = trace::set_parent(span, &trace_parent);
    match trace::traceparent_of(span) {
        Some(ours) => ours,
        None if known || trace_parent.len() == TRACE_PARENT_BYTES => trace_parent,
        None => String::new(),
    }
}

/// The span of a request; an acknowledgement continues the trace of its push.
pub(super) fn request_span(identity: &IdentityKey, request: Request) -> (tracing::Span, Request) {
    match request {
        Request::Acknowledge {
            mut acknowledge,
            push_time,
        } => {
            let version = acknowledge.version;
            let span = tracing::info_span!(parent: None, "acknowledge", %identity, version);
            trace::set_parent(&span, &std::mem::take(&mut acknowledge.trace_parent));
            (
                span,
                Request::Acknowledge {
                    acknowledge,
                    push_time,
                },
            )
        }
        Request::PatchReported(_) => (
            tracing::info_span!(parent: None, "patch_reported", %identity),
            request,
        ),
        Request::GetTwin(_) => (
            tracing::info_span!(parent: None, "get_twin", %identity),
            request,
        ),
    }
}
