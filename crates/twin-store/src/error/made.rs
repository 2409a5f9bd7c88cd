//! How errors of other crates become ours.

use twin::{IdentityKey, TwinError};
use wire::InvalidField;

use super::Error;
use crate::record::Damaged;

impl From<InvalidField> for Error {
    fn from(field: InvalidField) -> Error {
        Error::Field(field)
    }
}

impl From<Damaged> for Error {
    fn from(damaged: Damaged) -> Error {
        if damaged.is_undecided() {
            return Error::Undecided(damaged);
        }
        Error::Damaged(damaged)
    }
}

impl Error {
    /// Wraps what `twin` says about the query or condition in a field.
    pub(crate) fn query(field: &'static str, source: twin::QueryError) -> Error {
        Error::Query {
            field,
            source: Box::new(source),
        }
    }

    /// Wraps what `twin` says about a write.
    pub(crate) fn twin(key: &IdentityKey, source: TwinError) -> Error {
        Error::Twin {
            key: key.clone(),
            source,
        }
    }
}
