//! What an operator can watch of twin-store. Names are `twinward_twin_store_…`.

use std::time::Duration;

use service_kit::metrics::{Counter, EncodeLabelSet, Family, Gauge, Histogram, Scope};

use crate::apply::telemetry::Folded;

/// Which partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabel {
    partition: u16,
}

/// What happened to a partition: `taken`, `surrendered`, `lost`, …
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OwnershipLabel {
    change: &'static str,
}

/// What became of a call for another replica: `answered`, `unreached`, `in_doubt`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ForwardLabel {
    outcome: &'static str,
}

/// Why a message for a device was refused; the values are the stable codes of our own contracts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

/// The service's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    commits: Counter,
    requests: Counter,
    changes: Counter,
    commit_latency: Histogram,
    events: Counter,
    duplicates: Counter,
    missing: Counter,
    refused: Counter,
    poison: Counter,
    lost: Counter,
    published: Counter,
    unpublishable: Counter,
    loop_latency: Histogram,
    backlog: Family<PartitionLabel, Gauge>,
    damaged: Gauge,
    owned: Gauge,
    ownership: Family<OwnershipLabel, Counter>,
    claim_failures: Counter,
    sessions_lost: Counter,
    messages_refused: Family<ReasonLabel, Counter>,
    forwarded: Family<ForwardLabel, Counter>,
    /// Watches that are open.
    pub watches: Gauge,
}

impl Metrics {
    /// Registers them.
    pub fn new(scope: &Scope) -> Metrics {
        Metrics {
            commits: scope.counter("commits", "group commits"),
            requests: scope.counter("requests_decided", "requests and batches decided"),
            changes: scope.counter("twin_changes", "changes of twins committed"),
            commit_latency: scope.latency(
                "commit_duration_seconds",
                "from taking a group to its being durable",
            ),
            events: scope.counter("events_folded", "security events folded into postures"),
            duplicates: scope.counter("events_duplicate", "events that were folded before"),
            missing: scope.counter(
                "events_missing",
                "events found missing in a lane's sequence",
            ),
            refused: scope.counter("entries_refused", "telemetry entries without a usable twin"),
            poison: scope.counter("messages_poison", "telemetry messages that cannot be read"),
            lost: scope.counter(
                "telemetry_lost_messages",
                "acknowledged telemetry messages that were gone from the stream before their fold",
            ),
            published: scope.counter("changes_published", "changes published to TWINS"),
            unpublishable: scope.counter(
                "changes_unpublishable",
                "changes too large for the bus, left out of TWINS",
            ),
            loop_latency: scope.latency(
                "loop_duration_seconds",
                "from an observation on a device to the applied configuration it caused",
            ),
            backlog: scope.gauges(
                "telemetry_backlog_messages",
                "telemetry messages that wait to be folded",
            ),
            damaged: scope.gauge(
                "twins_damaged",
                "stored twins, and other rows, that could not be read when somebody asked for them",
            ),
            owned: scope.gauge("partitions_owned", "partitions this replica works on"),
            ownership: scope.counters(
                "ownership_changes",
                "partitions that this replica took, surrendered or lost",
            ),
            claim_failures: scope
                .counter("claim_failures", "attempts to claim partitions that failed"),
            messages_refused: scope.counters(
                "device_messages_refused",
                "messages for devices that did not get into their queues, by reason",
            ),
            sessions_lost: scope.counter(
                "sessions_lost",
                "sessions ended because the ingestion that held them is gone",
            ),
            forwarded: scope.counters(
                "calls_forwarded",
                "calls passed on to the replica that owns the partition",
            ),
            watches: scope.gauge("watches", "open watches"),
        }
    }

    /// Says how many stored twins are known to be damaged.
    pub(crate) fn damaged(&self, count: usize) {
        self.damaged.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn committed(&self, requests: usize, changes: usize, took: Duration) {
        self.commits.inc();
        self.requests.inc_by(requests as u64);
        self.changes.inc_by(changes as u64);
        self.commit_latency.observe(took.as_secs_f64());
    }

    pub(crate) fn folded(&self, folded: &Folded) {
        self.events.inc_by(folded.applied);
        self.duplicates.inc_by(folded.duplicates);
        self.missing.inc_by(folded.missing);
        self.refused.inc_by(folded.refused.len() as u64);
    }

    pub(crate) fn backlog(&self, partition: u16, messages: u64) {
        let messages = i64::try_from(messages).unwrap_or(i64::MAX);
        self.backlog
            .get_or_create(&PartitionLabel { partition })
            .set(messages);
    }

    pub(crate) fn owned(&self, partitions: usize) {
        self.owned
            .set(i64::try_from(partitions).unwrap_or(i64::MAX));
    }

    pub(crate) fn ownership(&self, change: &'static str, partitions: usize) {
        self.ownership
            .get_or_create(&OwnershipLabel { change })
            .inc_by(partitions as u64);
    }

    pub(crate) fn claim_failed(&self) {
        self.claim_failures.inc();
    }

    pub(crate) fn message_refused(&self, reason: &str) {
        let reason = reason.to_owned();
        self.messages_refused
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    pub(crate) fn sessions_lost(&self, sessions: usize) {
        self.sessions_lost.inc_by(sessions as u64);
    }

    pub(crate) fn forwarded(&self, outcome: &'static str) {
        self.forwarded
            .get_or_create(&ForwardLabel { outcome })
            .inc();
    }

    pub(crate) fn poison(&self) {
        self.poison.inc();
    }

    pub(crate) fn published(&self, changes: usize) {
        self.published.inc_by(changes as u64);
    }

    pub(crate) fn unpublishable(&self, changes: usize) {
        self.unpublishable.inc_by(changes as u64);
    }

    pub(crate) fn lost(&self, messages: u64) {
        self.lost.inc_by(messages);
    }

    pub(crate) fn loop_closed(&self, took: Duration) {
        self.loop_latency.observe(took.as_secs_f64());
    }
}
