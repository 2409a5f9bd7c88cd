//! Why the service could not start or had to end.

/// A failure of the service itself, as opposed to one of a call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service is being written.
    #[error("ingestion is not finished")]
    Unfinished,
}
