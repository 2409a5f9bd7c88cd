//! The counts of one policy, and the entry of one twin in them.

use std::sync::Arc;

use service_kit::metrics::{Family, Gauge};

use crate::metrics::StandingLabel;
use crate::policy_doc::PolicyId;
use crate::standing::Standing;

/// The counts of one policy; they are its metrics.
#[derive(Debug)]
pub(super) struct Tally {
    /// Twins that it applies to, or, while it is closed, in which it has set something.
    pub(super) targeted: Gauge,
    /// Devices have applied it.
    pub(super) applied: Gauge,
    /// Devices have not answered yet.
    pub(super) pending: Gauge,
    /// It cannot be there, or devices refused it.
    pub(super) rejected: Gauge,
    /// Devices were there and have not answered in time.
    pub(super) timed_out: Gauge,
    /// Devices had applied it, and went back.
    pub(super) reverted: Gauge,
    /// Twins that say that the configuration is applied; none of a policy. Not among the metrics: what
    /// devices answered is.
    pub(super) noted: Gauge,
}

impl Tally {
    /// What is counted beside `targeted`.
    const STANDINGS: [Standing; 5] = [
        Standing::Applied,
        Standing::Pending,
        Standing::Rejected,
        Standing::TimedOut,
        Standing::Reverted,
    ];
    const TARGETED: &str = "targeted";

    /// The tally of a policy, which is in the metrics from here on.
    pub(super) fn new(twins: &Family<StandingLabel, Gauge>, id: &PolicyId) -> Tally {
        let gauge = |standing| twins.get_or_create_owned(&label(id, standing));
        let [applied, pending, rejected, timed_out, reverted] =
            Tally::STANDINGS.map(Standing::as_str).map(gauge);
        Tally {
            targeted: gauge(Tally::TARGETED),
            applied,
            pending,
            rejected,
            timed_out,
            reverted,
            noted: Gauge::default(),
        }
    }

    /// Takes the policy out of the metrics.
    pub(super) fn forget(twins: &Family<StandingLabel, Gauge>, id: &PolicyId) {
        twins.remove(&label(id, Tally::TARGETED));
        for standing in Tally::STANDINGS {
            twins.remove(&label(id, standing.as_str()));
        }
    }

    fn of(&self, standing: Standing) -> Option<&Gauge> {
        match standing {
            Standing::Applied => Some(&self.applied),
            Standing::Pending => Some(&self.pending),
            Standing::Rejected => Some(&self.rejected),
            Standing::TimedOut => Some(&self.timed_out),
            Standing::Reverted => Some(&self.reverted),
            Standing::Overruled => None,
        }
    }
}

fn label(id: &PolicyId, standing: &'static str) -> StandingLabel {
    StandingLabel {
        policy: id.to_string(),
        standing,
    }
}

/// One twin in the tally of one policy, for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted {
    tally: Arc<Tally>,
    standing: Standing,
    /// The twin says that the configuration is applied.
    is_noted: bool,
}

impl Counted {
    /// Enters a twin.
    pub(super) fn new(tally: &Arc<Tally>, standing: Standing) -> Counted {
        tally.targeted.inc();
        if let Some(gauge) = tally.of(standing) {
            gauge.inc();
        }
        Counted {
            tally: tally.clone(),
            standing,
            is_noted: false,
        }
    }

    /// The twin says that the configuration is applied.
    pub(super) fn noted(mut self) -> Counted {
        self.is_noted = true;
        self.tally.noted.inc();
        self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tally.targeted.dec();
        if self.is_noted {
            self.tally.noted.dec();
        }
        if let Some(gauge) = self.tally.of(self.standing) {
            gauge.dec();
        }
    }
}
