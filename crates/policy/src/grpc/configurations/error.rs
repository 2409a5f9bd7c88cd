//! Why a call of the configurations' API is refused.

use std::sync::Arc;

use service_kit::error::{Classified, IotHubCode, Kind, Violation};
use wire::InvalidField;

use crate::configuration_doc::{ConfigurationId, Part, Problem};
use crate::store::ConfigurationError;

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The configuration is wrong. Never empty.
    #[error("the configuration is not valid: {}", list(.0))]
    Configuration(Vec<Problem>),
    /// Another field of the request is wrong.
    #[error(transparent)]
    Field(#[from] InvalidField),
    /// The etag is none that was ever given.
    #[error("the etag that the request names is none that the configuration {0} ever had")]
    Etag(ConfigurationId),
    /// A freeze holds.
    #[error(
        "the configuration {id} is {why}; a deletion would take its settings out of every device"
    )]
    Frozen {
        /// Which one.
        id: ConfigurationId,
        /// Who froze it, and until when.
        why: Arc<str>,
    },
    /// It would change too many twins at once.
    #[error(
        "the configuration {id} would change many twins at once: {why}; narrow its target condition and \
         widen it step by step, or use a policy, which spreads in waves"
    )]
    MassChange {
        /// Which one.
        id: ConfigurationId,
        /// How many.
        why: String,
    },
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] ConfigurationError),
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Configuration(_) | Error::Field(_) => Kind::InvalidArgument,
            Error::Etag(_) => Kind::Aborted,
            Error::Frozen { .. } | Error::MassChange { .. } => Kind::FailedPrecondition,
            Error::Store(error) => error.kind(),
        }
    }

    fn reason(&self) -> &str {
        match self {
            Error::Configuration(_) => "INVALID_CONFIGURATION",
            Error::Field(_) => "INVALID_FIELD",
            Error::Etag(_) => "ETAG_MISMATCH",
            Error::Frozen { .. } => "POLICY_CLOSED",
            Error::MassChange { .. } => "MASS_CHANGE",
            Error::Store(error) => error.reason(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Error::Field(field) => vec![Violation::new(&field.field, &field.problem)],
            // The message names every part already.
            Error::Configuration(_)
            | Error::Etag(_)
            | Error::Frozen { .. }
            | Error::MassChange { .. }
            | Error::Store(_) => Vec::new(),
        }
    }

    fn iot_hub(&self) -> IotHubCode {
        match self {
            Error::Configuration(problems) => match problems.first().map(|it| it.part) {
                Some(Part::TargetCondition) => {
                    IotHubCode::new(400_401, "InvalidConfigurationTargetCondition")
                }
                Some(Part::Content) => IotHubCode::new(400_402, "InvalidConfigurationContent"),
                Some(Part::Metrics) => {
                    IotHubCode::new(400_404, "InvalidConfigurationCustomMetricsQuery")
                }
                Some(Part::SchemaVersion) => IotHubCode::new(400_010, "InvalidSchemaVersion"),
                Some(Part::Labels | Part::ContentType | Part::Priority) | None => {
                    IotHubCode::ARGUMENT_INVALID
                }
            },
            Error::Field(_) | Error::Etag(_) | Error::Frozen { .. } | Error::MassChange { .. } => {
                self.kind().iot_hub()
            }
            Error::Store(error) => error.iot_hub(),
        }
    }
}
