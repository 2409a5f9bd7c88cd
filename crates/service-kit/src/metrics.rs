//! Numbers for operators, in the `OpenMetrics` text form.
//!
//! A service names its metrics in its own `metrics.rs` and registers them through a [`Scope`];
//! labels have few values, and never a device id.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::registry;

pub use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;

/// The first part of every metric's name.
const PREFIX: &str = "twinward";
/// What the text of [`Registry::encode`] is, for an HTTP answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Bounds in seconds, from half a millisecond (a call on the same machine) to 10 s (beyond every
/// timeout we have); p99 of one second, the promise, is a bound.
const LATENCY_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// A histogram by label.
pub type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of a process. Clones share the same metrics.
#[derive(Clone)]
pub struct Registry(Arc<Mutex<registry::Registry>>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// A registry that already holds what every process reports: retries and task failures.
    #[must_use]
    pub fn new() -> Self {
        let registry = Self(Arc::new(Mutex::new(registry::Registry::with_prefix(
            PREFIX,
        ))));
        let kit = registry.scope("process");
        kit.register(
            "retries",
            "Attempts that failed and were made again",
            RETRIES.clone(),
        );
        kit.register(
            "task_failures",
            "Tasks that ended in an error or panic",
            FAILURES.clone(),
        );
        registry
    }

    /// The part of the registry that belongs to a service; its metrics are named
    /// `twinward_<service>_…`.
    #[must_use]
    pub fn scope(&self, service: &'static str) -> Scope {
        Scope {
            registry: self.clone(),
            service,
        }
    }

    /// All metrics as text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(
            &mut page,
            &self.0.lock().unwrap_or_else(PoisonError::into_inner),
        )?;
        Ok(page)
    }
}

/// One service's part of the registry. Register each metric once, when the service is built.
#[derive(Debug, Clone)]
pub struct Scope {
    registry: Registry,
    service: &'static str,
}

impl Scope {
    /// A number that only grows; `_total` is added to its name.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.registered(name, help, Counter::default())
    }

    /// Counters by label.
    #[must_use]
    pub fn counters<L: Label>(&self, name: &str, help: &str) -> Family<L, Counter> {
        self.registered(name, help, Family::default())
    }

    /// A number that goes up and down.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.registered(name, help, Gauge::default())
    }

    /// Gauges by label.
    #[must_use]
    pub fn gauges<L: Label>(&self, name: &str, help: &str) -> Family<L, Gauge> {
        self.registered(name, help, Family::default())
    }

    /// How long something takes, in seconds; the name should end in `_seconds`.
    #[must_use]
    pub fn latency(&self, name: &str, help: &str) -> Histogram {
        self.registered(name, help, latency())
    }

    /// How long something takes, by label.
    #[must_use]
    pub fn latencies<L: Label>(&self, name: &str, help: &str) -> HistogramFamily<L> {
        self.registered(
            name,
            help,
            Family::new_with_constructor(latency as fn() -> Histogram),
        )
    }

    /// How many or how large, with bounds of the caller's choice.
    #[must_use]
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        bounds: impl IntoIterator<Item = f64>,
    ) -> Histogram {
        self.registered(name, help, Histogram::new(bounds))
    }

    /// Registers a metric of any other make.
    pub fn register(&self, name: &str, help: &str, metric: impl registry::Metric) {
        let mut registry = self
            .registry
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        registry
            .sub_registry_with_prefix(self.service)
            .register(name, help, metric);
    }

    fn registered<M: registry::Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.register(name, help, metric.clone());
        metric
    }
}

/// What a set of labels must be able to do; derive `EncodeLabelSet` and the rest.
pub trait Label: EncodeLabelSet + Clone + Hash + Eq + fmt::Debug + Send + Sync + 'static {}

impl<L: EncodeLabelSet + Clone + Hash + Eq + fmt::Debug + Send + Sync + 'static> Label for L {}

fn latency() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabel {
    task: String,
}

// Of the process, not of a registry: back-off and supervision are used in places that have no
// registry at hand, and must be counted all the same.
static RETRIES: LazyLock<Family<OperationLabel, Counter>> = LazyLock::new(Family::default);
static FAILURES: LazyLock<Family<TaskLabel, Counter>> = LazyLock::new(Family::default);

pub(crate) fn count_retry(operation: &'static str) {
    RETRIES
        .get_or_create(&OperationLabel {
            operation: operation.to_owned(),
        })
        .inc();
}

pub(crate) fn count_task_failure(task: &str) {
    FAILURES
        .get_or_create(&TaskLabel {
            task: task.to_owned(),
        })
        .inc();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct Lane {
        lane: &'static str,
    }

    #[test]
    fn metrics_are_named_after_product_and_service() {
        let registry = Registry::new();
        let scope = registry.scope("ingestion");
        scope.counter("events", "Events admitted").inc_by(3);
        scope
            .gauges::<Lane>("queue_events", "Events waiting")
            .get_or_create(&Lane { lane: "high" })
            .set(2);
        scope
            .latency("publish_seconds", "Time to publish")
            .observe(0.002);
        let page = registry.encode().expect("text");
        for line in [
            "twinward_ingestion_events_total 3",
            "twinward_ingestion_queue_events{lane=\"high\"} 2",
            "twinward_ingestion_publish_seconds_bucket{le=\"0.0025\"} 1",
            "# EOF",
        ] {
            assert!(page.contains(line), "{line} is missing in\n{page}");
        }
    }

    #[test]
    fn retries_are_counted_in_every_registry() {
        count_retry("metrics test");
        let page = Registry::new().encode().expect("text");
        assert!(
            page.contains("twinward_process_retries_total{operation=\"metrics test\"} 1"),
            "{page}"
        );
    }
}
