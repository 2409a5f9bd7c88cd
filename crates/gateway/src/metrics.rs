//! The numbers of the gateway. Labels have few values; never an id.

use service_kit::metrics::{Counter, EncodeLabelSet, Family, Gauge, HistogramFamily, Scope};

use crate::rates::Throttled;

/// A call and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    /// As [`crate::route::Route::label`] prints, or `unknown`.
    pub call: &'static str,
    /// The HTTP status.
    pub status: u16,
}

/// An error that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ErrorLabels {
    /// IoT Hub's number, such as 404001.
    pub code: u32,
}

/// Handles to all of them. Clones share the numbers.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// How long requests took until their answer began.
    pub requests: HistogramFamily<RequestLabels>,
    /// Errors answered, by IoT Hub's number.
    pub errors: Family<ErrorLabels, Counter>,
    /// Devices that were not registered over HTTPS, by the same number.
    pub registrations_refused: Family<ErrorLabels, Counter>,
    /// Requests refused because there were too many.
    pub throttled: Throttled,
    /// Devices connected by WebSocket.
    pub websockets: Gauge,
    /// Connections by WebSocket that ended, by reason.
    websocket_ends: Family<EndLabels, Counter>,
}

/// Why a WebSocket ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    /// The stable code.
    reason: &'static str,
}

impl Metrics {
    /// Registers everything; once per process.
    pub(crate) fn register(scope: &Scope) -> Metrics {
        Metrics {
            requests: scope.latencies("request_seconds", "Time to answer a REST call"),
            errors: scope.counters("errors", "Errors answered, by IoT Hub's number"),
            registrations_refused: scope.counters(
                "registrations_refused",
                "Requests to register over HTTPS that were refused, by IoT Hub's number",
            ),
            throttled: scope.counters(
                "throttled",
                "Requests refused because there were too many of one caller, by kind of caller",
            ),
            websockets: scope.gauge("websockets", "Devices connected by WebSocket"),
            websocket_ends: scope.counters("websocket_ends", "WebSockets that ended, by reason"),
        }
    }

    /// A WebSocket ended.
    pub(crate) fn websocket_ended(&self, reason: &'static str) {
        self.websocket_ends
            .get_or_create(&EndLabels { reason })
            .inc();
    }
}
