//! The numbers of the policy service. Labels have few values; never a device id.

use service_kit::metrics::{Counter, EncodeLabelSet, Family, Gauge, Histogram, Scope};

use crate::policy_doc::PolicyId;
use crate::rollout::Phase;
use crate::store::ActionOutcome;

/// What came of the evaluation of a twin.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabel {
    /// `skipped` (no policy looks at what changed), or how [`crate::writer::Effect`] prints.
    pub result: &'static str,
}

/// Why something was rejected.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    /// A stable code.
    pub reason: &'static str,
}

/// A partition of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PartitionLabel {
    /// Its number.
    pub partition: u16,
}

/// Twins of a policy by what became of its settings there. There are a hundred policies at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StandingLabel {
    /// The policy's id.
    pub policy: String,
    /// `targeted`, or how [`crate::standing::Standing`] prints.
    pub standing: &'static str,
}

/// Calls of a policy's actions by what came of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ActionLabel {
    /// The policy's id.
    pub policy: String,
    /// How [`ActionOutcome`] prints.
    pub outcome: &'static str,
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PhaseLabel {
    /// How [`crate::rollout::Phase`] prints.
    pub phase: &'static str,
}

/// What became of a rollout by itself. There are a hundred policies at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct GateLabel {
    /// The policy's id.
    pub policy: String,
    /// `rolled-back` or `paused`.
    pub outcome: &'static str,
}

/// Handles to all of them. Clones share the numbers.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Messages of `TWINS_{p}` that were read.
    pub messages: Counter,
    /// Twins by what came of their evaluation.
    pub evaluations: Family<ResultLabel, Counter>,
    /// Policies that were judged, over all changes and sweeps.
    pub judged: Counter,
    /// Policies of which it was not known whether they apply, over all evaluations.
    pub undecided: Counter,
    /// Decisions made again because the twin changed in between.
    pub conflicts: Counter,
    /// What was rejected, by reason.
    pub rejects: Family<ReasonLabel, Counter>,
    /// Messages that wait in a partition's stream.
    pub backlog: Family<PartitionLabel, Gauge>,
    /// From the fold of a posture to the decision.
    pub decide_seconds: Histogram,
    /// How long twin-store took to write settings.
    pub write_seconds: Histogram,
    /// Full evaluations that were completed.
    pub sweeps: Counter,
    /// Twins of the running or last full evaluation.
    pub sweep_twins: Gauge,
    /// Policies in force.
    pub policies: Gauge,
    /// Twins of each policy.
    pub policy_twins: Family<StandingLabel, Gauge>,
    /// Calls of actions that have ended, or were due for too long.
    pub action_calls: Family<ActionLabel, Counter>,
    /// Calls that are to be made.
    pub actions_due: Gauge,
    /// Calls that are under way.
    pub actions_calling: Gauge,
    /// Causes for which there was no room.
    pub actions_refused: Counter,
    /// Rollouts of the revisions in force, by where they stand.
    pub rollouts: Family<PhaseLabel, Gauge>,
    /// Gates that failed, by policy and what followed.
    pub gates_failed: Family<GateLabel, Counter>,
}

impl Metrics {
    /// Registers everything; once per process.
    pub(crate) fn register(scope: &Scope) -> Metrics {
        Metrics {
            messages: scope.counter("messages", "Messages of twin changes read"),
            evaluations: scope.counters("evaluations", "Changed twins by what came of them"),
            judged: scope.counter("judged", "Policies judged on twins"),
            undecided: scope.counter(
                "undecided",
                "Conditions of policies that took more steps than a twin may take",
            ),
            conflicts: scope.counter("conflicts", "Decisions made again after a conflict"),
            rejects: scope.counters("rejects", "Changes and twins that could not be used"),
            backlog: scope.gauges(
                "backlog_messages",
                "Messages waiting in a partition's stream",
            ),
            decide_seconds: scope.latency(
                "decide_seconds",
                "From the fold of a posture to the decision",
            ),
            write_seconds: scope.latency("write_seconds", "Time of twin-store to write settings"),
            sweeps: scope.counter("sweeps", "Full evaluations completed"),
            sweep_twins: scope.gauge(
                "sweep_twins",
                "Twins of the running or last full evaluation",
            ),
            policies: scope.gauge("policies", "Policies in force"),
            policy_twins: scope.gauges(
                "policy_twins",
                "Twins that a policy applies to, by what became of its settings",
            ),
            action_calls: scope.counters("action_calls", "Calls of policies' actions that ended"),
            actions_due: scope.gauge("actions_due", "Calls of policies' actions to be made"),
            actions_calling: scope.gauge("actions_calling", "Calls of policies' actions under way"),
            actions_refused: scope.counter(
                "actions_refused",
                "Actions that were not called because too many are kept in mind",
            ),
            rollouts: scope.gauges("rollouts", "Rollouts of the revisions in force by phase"),
            gates_failed: scope.counters(
                "rollout_gates_failed",
                "Gates of rollouts that failed, by policy and what followed",
            ),
        }
    }

    /// Counts what came of a twin.
    pub(crate) fn count(&self, result: &'static str) {
        self.evaluations
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    /// Counts a call that has ended.
    pub(crate) fn action_ended(&self, policy: &PolicyId, outcome: ActionOutcome) {
        let label = ActionLabel {
            policy: policy.to_string(),
            outcome: outcome.as_str(),
        };
        self.action_calls.get_or_create(&label).inc();
    }

    /// Says how many calls are due and under way.
    pub(crate) fn actions_pending(&self, due: usize, calling: usize) {
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.actions_due.set(gauge(due));
        self.actions_calling.set(gauge(calling));
    }

    /// Tells where the rollouts of the revisions in force stand.
    pub(crate) fn show_rollouts(&self, phases: impl Iterator<Item = Phase>) {
        let mut counts = Phase::ALL.map(|phase| (phase, 0));
        for phase in phases {
            for (_, count) in counts.iter_mut().filter(|(known, _)| *known == phase) {
                *count += 1;
            }
        }
        for (phase, count) in counts {
            let phase = phase.as_str();
            self.rollouts
                .get_or_create(&PhaseLabel { phase })
                .set(count);
        }
    }

    /// Counts a gate that failed.
    pub(crate) fn gate_failed(&self, policy: &PolicyId, outcome: Phase) {
        let label = GateLabel {
            policy: policy.to_string(),
            outcome: outcome.as_str(),
        };
        self.gates_failed.get_or_create(&label).inc();
    }

    /// Counts a reject.
    pub(crate) fn reject(&self, reason: &'static str) {
        self.rejects.get_or_create(&ReasonLabel { reason }).inc();
    }
}
