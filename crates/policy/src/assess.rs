//! What policies make of twins without a service around them, for measurements: the very calls that
//! sweeps and re-evaluations make of each twin. It writes nothing and remembers nothing.

use jiff::Timestamp;
use twin::{ConfigurationStates, PolicyWrite};
use wire::InvalidField;
use wire::twin::v1::Twin;

use crate::evaluate::{ActivePolicy, Decision, PolicySet, decide};
use crate::policy_doc::Policy;
use crate::schedule::Gate;
use crate::twin_document::TwinDocument;

/// Policies in force.
#[derive(Debug, Clone)]
pub struct Assessor {
    set: PolicySet,
}

/// What came of a twin.
#[derive(Debug, Clone)]
pub enum Assessment {
    /// Nothing is to be done, which was seen without parsing all of it.
    Settled,
    /// Nothing is to be done.
    Holds,
    /// This is to be there.
    Write {
        /// The settings, in the order of precedence; none: they hold.
        writes: Option<Vec<PolicyWrite>>,
        /// Where policies are to be said to stand.
        configurations: ConfigurationStates,
    },
    /// The settings would break a limit of the twin.
    Breaks,
}

impl Assessor {
    /// Puts these in force, each at its first revision, the first of them created first.
    pub fn new(policies: impl IntoIterator<Item = Policy>) -> Assessor {
        let active = policies.into_iter().zip(1..);
        let active = active.map(|(policy, created_order)| ActivePolicy {
            policy,
            revision: 1,
            created_order,
            stage: None,
            gate: Gate::Open,
        });
        Assessor {
            set: PolicySet::new(active),
        }
    }

    /// Looks at one twin, as twin-store sends it.
    ///
    /// # Errors
    /// Names the field that cannot be read.
    pub fn assess(&self, twin: &Twin, at: Timestamp) -> Result<Assessment, InvalidField> {
        if self.set.glance_whole(twin).settled {
            return Ok(Assessment::Settled);
        }
        let document = TwinDocument::from_wire(twin)?;
        let decided = decide(&self.set, &document, at);
        let noted = decided.configurations == *document.configurations();
        Ok(match decided.decision {
            Decision::Breaks(_) => Assessment::Breaks,
            Decision::Holds if noted => Assessment::Holds,
            Decision::Holds => Assessment::Write {
                writes: None,
                configurations: decided.configurations,
            },
            Decision::Write(writes) => Assessment::Write {
                writes: Some(writes),
                configurations: decided.configurations,
            },
        })
    }
}
