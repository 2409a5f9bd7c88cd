//! Enrolment: exchanging a token for the key of this machine's security module.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use iot_hub::connection_string::{ConnectionString, ConnectionStringError};
use service_kit::backoff::{Attempt, Policy, RetryError, retry};
use service_kit::client::{self, ClientConfig, ClientError};
use service_kit::secret::Secret;
use service_kit::shutdown::ShutdownToken;
use tokio::time::timeout;
use tonic::{Code, Status};
use uuid::Uuid;
use wire::agent::v1::EnrollRequest;
use wire::agent::v1::agent_service_client::AgentServiceClient;

use crate::files::{self, Readers};

/// Recognises a repeated call, so that a lost answer costs nothing. Kept until the key is.
const NONCE_FILE: &str = "enrollment_nonce";

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the agent could not enrol.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection cannot be prepared.
    #[error("cannot prepare the connection to {url}")]
    Channel {
        /// The service's URL.
        url: String,
        /// What is wrong with it.
        source: Box<ClientError>,
    },
    /// The nonce cannot be kept.
    #[error("cannot keep {}", path.display())]
    Nonce {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The service said no, or could not be reached.
    #[error("cannot enrol device `{device_id}`: {} ({:?})", status.message(), status.code())]
    Refused {
        /// The device id that was asked for.
        device_id: String,
        /// The service's answer.
        status: Box<Status>,
    },
    /// The agent was told to stop.
    #[error("enrolment was given up because the agent stops")]
    Stopped,
    /// The answer is no connection string.
    #[error("the service answered with a connection string that cannot be used")]
    Answer(#[source] ConnectionStringError),
}

/// Enrols as a device and answers the connection string of its security module.
pub async fn enroll(
    config: &ClientConfig,
    data_dir: &Path,
    token: &Secret,
    device_id: &str,
    (policy, shutdown): (Policy, &ShutdownToken),
) -> Result<ConnectionString, Error> {
    let channel = client::connect(config).map_err(|source| Error::Channel {
        url: config.url.clone(),
        source: Box::new(source),
    })?;
    let nonce = nonce(&data_dir.join(NONCE_FILE))?;
    let answer = retry("enroll", policy, shutdown, || {
        let mut client = AgentServiceClient::new(channel.clone());
        let request = EnrollRequest {
            token: token.expose().to_owned(),
            device_id: device_id.to_owned(),
            nonce: nonce.clone(),
        };
        async move {
            match timeout(CALL_TIMEOUT, client.enroll(request)).await {
                Ok(Ok(answer)) => Ok(answer.into_inner()),
                Ok(Err(status)) => Err(attempt(status)),
                Err(_elapsed) => Err(Attempt::Again(Status::deadline_exceeded(
                    "the service did not answer",
                ))),
            }
        }
    })
    .await;
    let answer = answer.map_err(|error| match error {
        RetryError::Failed { source, .. } => Error::Refused {
            device_id: device_id.to_owned(),
            status: Box::new(source),
        },
        RetryError::Stopped { .. } => Error::Stopped,
    })?;
    let text = Secret::new(answer.connection_string);
    ConnectionString::parse(text.expose()).map_err(Error::Answer)
}

/// The nonce is of no use once the key is kept.
pub fn forget_nonce(data_dir: &Path) {
    // Left behind it costs nothing: the next enrolment merely repeats itself with it.
    let _ = std::fs::remove_file(data_dir.join(NONCE_FILE));
}

fn attempt(status: Status) -> Attempt<Status> {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Unknown => {
            Attempt::Again(status)
        }
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Attempt::GiveUp(status),
    }
}

fn nonce(path: &Path) -> Result<String, Error> {
    let error = |source| Error::Nonce {
        path: path.to_owned(),
        source,
    };
    let kept = files::read_if_present(path).map_err(error)?;
    if let Some(nonce) = kept.and_then(|bytes| Uuid::try_parse_ascii(bytes.trim_ascii()).ok()) {
        return Ok(nonce.to_string());
    }
    let nonce = Uuid::new_v4().to_string();
    files::replace(path, nonce.as_bytes(), Readers::Owner).map_err(error)?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nonce_is_chosen_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NONCE_FILE);
        let first = nonce(&path).unwrap();
        assert_eq!(first.len(), 36);
        assert_eq!(nonce(&path).unwrap(), first);
        forget_nonce(dir.path());
        assert_ne!(nonce(&path).unwrap(), first);
    }
}
