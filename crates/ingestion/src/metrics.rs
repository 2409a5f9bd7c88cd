//! The numbers of ingestion, named in one place. Labels have few values; never a device id.

use std::time::Duration;

use service_kit::error::Kind;
use service_kit::metrics::{Counter, EncodeLabelSet, Family, Gauge, Histogram, Scope};

/// Why something was refused; the values are the stable codes of our own contracts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// IoT Hub's number of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NumberLabel {
    code: u32,
}

/// A lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabel {
    lane: &'static str,
}

/// A partition; there are at most 256.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabel {
    partition: u16,
}

/// By what identities are proven.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProofLabel {
    by: &'static str,
}

/// All metrics of the service. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    sessions: Gauge,
    session_ends: Family<ReasonLabel, Counter>,
    sessions_proven: Family<ProofLabel, Counter>,
    auth_failures: Family<ReasonLabel, Counter>,
    enrolments: Family<ReasonLabel, Counter>,
    batches: Family<LaneLabel, Counter>,
    events_admitted: Family<LaneLabel, Counter>,
    events_rejected: Family<ReasonLabel, Counter>,
    rejects_not_kept: Counter,
    messages_refused: Family<ReasonLabel, Counter>,
    publish_seconds: Histogram,
    publish_failures: Counter,
    waiting_bytes: Gauge,
    backlog_bytes: Family<PartitionLabel, Gauge>,
    inlets_closed: Counter,
    pushes: Counter,
    twin_requests_failed: Family<ReasonLabel, Counter>,
    mqtt_connections: Gauge,
    mqtt_ends: Family<ReasonLabel, Counter>,
    mqtt_messages: Counter,
    device_messages: Family<ReasonLabel, Counter>,
    mqtt_not_accepted: Counter,
    registrations_refused: Family<NumberLabel, Counter>,
    application_dropped: Counter,
    mqtt_sessions_bytes: Gauge,
    method_calls: Family<ReasonLabel, Counter>,
    ends_untold: Counter,
    security_messages: Counter,
    security_events: Counter,
}

impl Metrics {
    /// Registers them with the process's registry.
    pub(crate) fn register(scope: &Scope) -> Self {
        Self {
            sessions: scope.gauge("sessions", "Open sessions of agents"),
            session_ends: scope.counters("session_ends", "Sessions that ended, by reason"),
            sessions_proven: scope.counters(
                "sessions_proven",
                "Sessions begun at either door, by what proved their identity",
            ),
            auth_failures: scope.counters("auth_failures", "Agents not let in, by reason"),
            enrolments: scope.counters("enrolments", "Enrolments, by outcome"),
            batches: scope.counters("batches", "Batches made durable"),
            events_admitted: scope.counters("events_admitted", "Events made durable"),
            events_rejected: scope.counters("events_rejected", "Events not admitted, by reason"),
            rejects_not_kept: scope.counter(
                "rejects_not_kept",
                "Rejected events over the budget of REJECTS",
            ),
            messages_refused: scope.counters("messages_refused", "Unusable messages, by reason"),
            publish_seconds: scope.latency(
                "publish_seconds",
                "Time from a batch's arrival to its durable publish",
            ),
            publish_failures: scope.counter("publish_failures", "Batches that were not published"),
            waiting_bytes: scope.gauge("waiting_bytes", "Bytes waiting for their publish"),
            backlog_bytes: scope.gauges(
                "backlog_bytes",
                "Bytes in a partition's stream, not yet folded",
            ),
            inlets_closed: scope.counter(
                "inlets_closed",
                "Times that agents were not read because of a backlog",
            ),
            pushes: scope.counter("pushes", "Desired sections given to agents"),
            twin_requests_failed: scope.counters(
                "twin_requests_failed",
                "Requests twin-store refused, by reason",
            ),
            mqtt_connections: scope.gauge("mqtt_connections", "Devices connected by MQTT"),
            mqtt_ends: scope.counters("mqtt_ends", "MQTT connections that ended, by reason"),
            mqtt_messages: scope.counter("mqtt_messages", "Messages for applications made durable"),
            security_messages: scope.counter(
                "security_messages",
                "Security messages of devices made durable",
            ),
            security_events: scope.counter(
                "security_events",
                "Events in security messages made durable",
            ),
            application_dropped: scope.counter(
                "application_packs_dropped",
                "Packs of messages that APPLICATION let go to make room, read or not",
            ),
            mqtt_sessions_bytes: scope.gauge(
                "mqtt_sessions_bytes",
                "Bytes of what MQTT devices have subscribed to",
            ),
            mqtt_not_accepted: scope.counter(
                "mqtt_not_accepted",
                "MQTT connections closed at once because there were too many",
            ),
            registrations_refused: scope.counters(
                "registrations_refused",
                "Requests to register over MQTT that were refused, by IoT Hub's number",
            ),
            device_messages: scope.counters(
                "device_messages",
                "Messages that left the queues of devices, by what became of them",
            ),
            ends_untold: scope.counter(
                "session_ends_untold",
                "Ends of sessions that twins are told of only when this instance ends",
            ),
            method_calls: scope.counters("method_calls", "Calls of direct methods, by outcome"),
        }
    }

    pub(crate) fn session_began(&self) {
        self.sessions.inc();
    }

    pub(crate) fn session_proven(&self, by: &'static str) {
        let label = ProofLabel { by };
        self.sessions_proven.get_or_create(&label).inc();
    }

    pub(crate) fn session_ended(&self, reason: &'static str) {
        self.sessions.dec();
        self.session_ends
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    pub(crate) fn auth_failure(&self, reason: &'static str) {
        self.auth_failures
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    pub(crate) fn enrolment(&self, reason: &'static str) {
        self.enrolments.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn batch_stored(&self, lane: &'static str, events: usize, took: Duration) {
        let lane = LaneLabel { lane };
        self.batches.get_or_create(&lane).inc();
        self.events_admitted
            .get_or_create(&lane)
            .inc_by(u64::try_from(events).unwrap_or(u64::MAX));
        self.publish_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn batch_failed(&self) {
        self.publish_failures.inc();
    }

    pub(crate) fn event_rejected(&self, reason: &'static str) {
        self.events_rejected
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    pub(crate) fn reject_not_kept(&self) {
        self.rejects_not_kept.inc();
    }

    pub(crate) fn message_refused(&self, reason: &'static str) {
        self.messages_refused
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    pub(crate) fn waiting_bytes(&self, bytes: usize) {
        self.waiting_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn backlog(&self, partition: u16, bytes: u64) {
        let gauge = self
            .backlog_bytes
            .get_or_create_owned(&PartitionLabel { partition });
        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn inlet_closed(&self) {
        self.inlets_closed.inc();
    }

    pub(crate) fn pushed(&self) {
        self.pushes.inc();
    }

    pub(crate) fn twin_request_failed(&self, kind: Kind) {
        let reason = kind_label(kind);
        self.twin_requests_failed
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }
}

impl Metrics {
    pub(crate) fn mqtt_connected(&self) {
        self.mqtt_connections.inc();
    }

    pub(crate) fn mqtt_disconnected(&self) {
        self.mqtt_connections.dec();
    }

    /// Of connections that never got in, too.
    pub(crate) fn mqtt_ended(&self, reason: &'static str) {
        self.mqtt_ends.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn end_untold(&self) {
        self.ends_untold.inc();
    }

    pub(crate) fn mqtt_message_stored(&self) {
        self.mqtt_messages.inc();
    }

    pub(crate) fn method_called(&self, reason: &'static str) {
        self.method_calls
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    pub(crate) fn security_message_stored(&self, events: usize) {
        self.security_messages.inc();
        self.security_events
            .inc_by(u64::try_from(events).unwrap_or(u64::MAX));
    }

    pub(crate) fn device_message(&self, reason: &'static str) {
        self.device_messages
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    pub(crate) fn application_dropped(&self, packs: u64) {
        self.application_dropped.inc_by(packs);
    }

    /// What `MQTT_SESSIONS` holds at present.
    pub(crate) fn mqtt_sessions_bytes(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.mqtt_sessions_bytes.set(bytes);
    }

    /// A device that was let in to register was refused.
    pub(crate) fn registration_refused(&self, code: u32) {
        let label = NumberLabel { code };
        self.registrations_refused.get_or_create(&label).inc();
    }

    pub(crate) fn mqtt_not_accepted(&self) {
        self.mqtt_not_accepted.inc();
    }
}

/// A kind as a metric's label.
fn kind_label(kind: Kind) -> &'static str {
    match kind {
        Kind::InvalidArgument => "INVALID_ARGUMENT",
        Kind::NotFound => "NOT_FOUND",
        Kind::AlreadyExists => "ALREADY_EXISTS",
        Kind::FailedPrecondition => "FAILED_PRECONDITION",
        Kind::OutOfRange => "OUT_OF_RANGE",
        Kind::Aborted => "ABORTED",
        Kind::PermissionDenied => "PERMISSION_DENIED",
        Kind::Unauthenticated => "UNAUTHENTICATED",
        Kind::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Kind::Unavailable => "UNAVAILABLE",
        Kind::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Kind::Unimplemented => "UNIMPLEMENTED",
        Kind::Internal => "INTERNAL",
        Kind::DataLoss => "DATA_LOSS",
    }
}
