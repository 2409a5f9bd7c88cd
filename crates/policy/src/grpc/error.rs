//! Why a call of the policy API is refused.

use std::sync::Arc;

use service_kit::error::{Classified, IotHubCode, Kind, Violation};
use service_kit::status::RemoteError;
use thiserror::Error;
use twin::Rule;
use wire::InvalidField;

use crate::policy_doc::{Field, PolicyId, Problem, Problems};
use crate::store;

/// Why a call is refused.
#[derive(Debug, Error)]
pub(super) enum Error {
    /// The policy is wrong.
    #[error("the policy is not valid: {0}")]
    Policy(Problems),
    /// Another field of the request is wrong.
    #[error(transparent)]
    Field(#[from] InvalidField),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A deletion would change twins at a time at which that is not to be.
    #[error(
        "policy {id} may not change twins now, and a deletion does: {why}; force it, or delete it then"
    )]
    Closed {
        /// Which one.
        id: PolicyId,
        /// Why, and until when.
        why: Arc<str>,
    },
    /// A deletion would change more twins than may be changed at once.
    #[error("policy {id} is in force on too many twins to take it out at once: {why}; force it")]
    MassChange {
        /// Which one.
        id: PolicyId,
        /// How many.
        why: String,
    },
    /// twin-store did not tell.
    #[error("twin-store: {0}")]
    TwinStore(Box<RemoteError>),
    /// twin-store told what cannot be read.
    #[error("the twin {name} cannot be read")]
    DamagedTwin {
        /// Which one.
        name: String,
        /// What is wrong with it.
        #[source]
        problem: InvalidField,
    },
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Policy(_) | Error::Field(_) => Kind::InvalidArgument,
            Error::Closed { .. } | Error::MassChange { .. } => Kind::FailedPrecondition,
            Error::Store(error) => error.kind(),
            Error::TwinStore(error) => match error.kind() {
                // It is this service that is not let in, not its caller.
                Kind::Unauthenticated | Kind::PermissionDenied => Kind::Unavailable,
                kind => kind,
            },
            Error::DamagedTwin { .. } => Kind::DataLoss,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Error::Policy(_) => "INVALID_POLICY",
            Error::Field(_) => "INVALID_FIELD",
            Error::Closed { .. } => "POLICY_CLOSED",
            Error::MassChange { .. } => "MASS_CHANGE",
            Error::Store(error) => error.reason(),
            Error::TwinStore(error) => error.reason(),
            Error::DamagedTwin { .. } => "TWIN_DAMAGED",
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Error::Policy(problems) => problems.list().iter().map(violation).collect(),
            Error::Field(field) => vec![Violation::new(&field.field, &field.problem)],
            Error::Closed { .. }
            | Error::MassChange { .. }
            | Error::Store(_)
            | Error::TwinStore(_)
            | Error::DamagedTwin { .. } => Vec::new(),
        }
    }

    fn iot_hub(&self) -> IotHubCode {
        match self {
            Error::Policy(problems) => problems.list().first().map_or_else(
                || self.kind().iot_hub(),
                |problem| match problem.field {
                    Field::Id
                    | Field::Description
                    | Field::Labels
                    | Field::Scope
                    | Field::Rollout
                    | Field::Schedule
                    | Field::Actions => IotHubCode::ARGUMENT_INVALID,
                    Field::Target | Field::When => {
                        IotHubCode::new(400_401, "InvalidConfigurationTargetCondition")
                    }
                    // Each rule of a document has its own, if it is none at all.
                    Field::Settings if problem.rule == Rule::Malformed.code() => {
                        IotHubCode::FORMAT_ERROR
                    }
                    Field::Settings => IotHubCode::new(400_402, "InvalidConfigurationContent"),
                },
            ),
            Error::Field(_)
            | Error::Closed { .. }
            | Error::MassChange { .. }
            | Error::DamagedTwin { .. } => self.kind().iot_hub(),
            Error::Store(error) => error.iot_hub(),
            Error::TwinStore(error) => error.iot_hub(),
        }
    }
}

fn violation(problem: &Problem) -> Violation {
    let description = match &problem.position {
        Some(position) => format!("{position}: {}", problem.message),
        None => problem.message.clone(),
    };
    let field = format!("policy.{}", problem.field.wire_field());
    Violation::new(field, description).of_rule(problem.rule)
}
