//! twin-store as the service needs it: each call is tried again as long as that makes sense, except
//! those for a caller who waits.
//!
//! It decides nothing about twins. What a refusal means is said here once, in [`Failure`].

use std::time::Duration;

use service_kit::backoff::{Backoff, Policy};
use service_kit::client::{self, ClientConfig, ClientError, Connection};
use service_kit::error::Kind;
use service_kit::health::Component;
use service_kit::shutdown::ShutdownToken;
use thiserror::Error;
use tonic::{Code, Status};
use tracing::{debug, warn};
use wire::device::v1::device_command_service_client::DeviceCommandServiceClient;
use wire::registry::v1::RecordAuditEntryRequest;
use wire::registry::v1::audit_service_client::AuditServiceClient;
use wire::twin::v1::policy_twin_service_client::PolicyTwinServiceClient;
use wire::twin::v1::twin_history_service_client::TwinHistoryServiceClient;
use wire::twin::v1::twin_query_service_client::TwinQueryServiceClient;
use wire::twin::v1::twin_service_client::TwinServiceClient;
use wire::twin::v1::{
    ApplyPolicySettingsRequest, ApplyPolicySettingsResponse, Change, GetTwinRequest,
    ListTwinRevisionsRequest, ListTwinsRequest, ListTwinsResponse, Twin,
};

mod count;

/// A page of twins: a hundred of the largest that may be.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Revisions of a twin in which the writers of a path are looked for.
const REVISIONS_LATELY: i32 = 30;

/// While twin-store is away, however long: seldom enough not to bury it when it returns, often
/// enough that nobody waits for a policy longer than it takes to look at a log.
const AWAY: Policy = Policy {
    first: Duration::from_millis(50),
    cap: Duration::from_secs(2),
    budget: None,
};

/// For failures that may be of one twin alone, or of a connection that just broke: about ten
/// seconds, which outlasts a restart.
const BROKEN: Policy = Policy {
    first: Duration::from_millis(100),
    cap: Duration::from_secs(3),
    budget: Some(7),
};

/// Why a call was given up.
#[derive(Debug, Clone, Error)]
pub(crate) enum Failure {
    /// The twin changed since it was read.
    #[error("the twin changed in between")]
    Conflict,
    /// There is no such twin any more.
    #[error("the twin is gone")]
    Gone,
    /// The request can never succeed as it is.
    #[error("twin-store refuses: {0}")]
    Refused(String),
    /// It failed again and again, and may succeed at some other time.
    #[error("twin-store failed: {0}")]
    Unfinished(String),
    /// The service stops.
    #[error("the service stops")]
    Stopped,
}

/// What a failed attempt means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Final(FinalVerdict),
    /// Nobody can be served now; try until it changes.
    Away,
    /// Perhaps this call alone fails; try for a while.
    Broken,
}

#[derive(Debug, PartialEq, Eq)]
enum FinalVerdict {
    Conflict,
    Gone,
    Refused,
}

fn judge(code: Code) -> Verdict {
    // The client's own timeout comes as CANCELLED; it says nothing about other twins.
    if code == Code::Cancelled {
        return Verdict::Broken;
    }
    match Kind::from_code(code) {
        Kind::Aborted => Verdict::Final(FinalVerdict::Conflict),
        Kind::NotFound => Verdict::Final(FinalVerdict::Gone),
        Kind::InvalidArgument
        | Kind::OutOfRange
        | Kind::FailedPrecondition
        | Kind::AlreadyExists => Verdict::Final(FinalVerdict::Refused),
        // A wrong token is mended by an operator, and no change may be lost until then.
        Kind::Unavailable
        | Kind::ResourceExhausted
        | Kind::Unauthenticated
        | Kind::PermissionDenied
        | Kind::Unimplemented => Verdict::Away,
        Kind::DeadlineExceeded | Kind::Internal | Kind::DataLoss => Verdict::Broken,
    }
}

/// The handle to twin-store. Clones share the connection.
#[derive(Debug, Clone)]
pub(crate) struct TwinStore {
    policy: PolicyTwinServiceClient<Connection>,
    twins: TwinServiceClient<Connection>,
    audit: AuditServiceClient<Connection>,
    queries: TwinQueryServiceClient<Connection>,
    history: TwinHistoryServiceClient<Connection>,
    commands: DeviceCommandServiceClient<Connection>,
    health: Component,
    shutdown: ShutdownToken,
}

impl TwinStore {
    /// Makes the connection; nothing is sent before the first call.
    pub(crate) fn connect(
        config: &ClientConfig,
        health: Component,
        shutdown: ShutdownToken,
    ) -> Result<TwinStore, ClientError> {
        let connection = client::connect(config)?;
        Ok(TwinStore {
            policy: PolicyTwinServiceClient::new(connection.clone()),
            audit: AuditServiceClient::new(connection.clone()),
            queries: TwinQueryServiceClient::new(connection.clone()),
            history: TwinHistoryServiceClient::new(connection.clone()),
            commands: DeviceCommandServiceClient::new(connection.clone()),
            twins: TwinServiceClient::new(connection).max_decoding_message_size(MESSAGE_BYTES_MAX),
            health,
            shutdown,
        })
    }

    /// A client for whoever follows twins, over the same connection.
    pub(crate) fn to_watch(&self) -> TwinServiceClient<Connection> {
        self.twins.clone()
    }

    /// A client for whoever calls devices, over the same connection: such a call is made once, whatever
    /// comes of it.
    pub(crate) fn to_command(&self) -> DeviceCommandServiceClient<Connection> {
        self.commands.clone()
    }

    /// Makes the first call, so that health knows how it is before there is work. Returns when
    /// twin-store has answered, or the service stops.
    pub(crate) async fn greet(&self) {
        let request = ListTwinsRequest {
            page_size: 1,
            ..ListTwinsRequest::default()
        };
        if let Err(failure) = self.list(&request).await {
            debug!(error = %failure, "twin-store was not reached");
        }
    }

    /// Makes a twin hold exactly these settings of policies, as long as that `is_wanted`: twin-store may be
    /// away for hours, and what was decided before them is nothing to be written then. What is not wanted
    /// any more is a conflict.
    pub(crate) async fn apply(
        &self,
        request: &ApplyPolicySettingsRequest,
        is_wanted: impl Fn() -> bool,
    ) -> Result<ApplyPolicySettingsResponse, Failure> {
        let attempt = || {
            let (mut client, request) = (self.policy.clone(), request.clone());
            async move { client.apply_policy_settings(request).await }
        };
        self.call_while("apply settings", is_wanted, attempt).await
    }

    /// Reads a twin.
    pub(crate) async fn get(&self, name: &str) -> Result<Twin, Failure> {
        self.call("read a twin", || {
            let (mut client, name) = (self.twins.clone(), name.to_owned());
            async move {
                client
                    .get_twin(GetTwinRequest {
                        name,
                        read_mask: None,
                    })
                    .await
            }
        })
        .await
    }

    /// Reads a twin for a caller who waits: one attempt, and the answer as it is.
    pub(crate) async fn get_now(&self, name: &str) -> Result<Twin, Status> {
        let request = GetTwinRequest {
            name: name.to_owned(),
            read_mask: None,
        };
        let answer = self.twins.clone().get_twin(request).await?;
        Ok(answer.into_inner())
    }

    /// Reads a page of twins for a caller who waits: one attempt, and the answer as it is.
    pub(crate) async fn list_now(
        &self,
        request: &ListTwinsRequest,
    ) -> Result<ListTwinsResponse, Status> {
        let answer = self.twins.clone().list_twins(request.clone()).await?;
        Ok(answer.into_inner())
    }

    /// Reads a page of twins.
    pub(crate) async fn list(
        &self,
        request: &ListTwinsRequest,
    ) -> Result<ListTwinsResponse, Failure> {
        self.call("list twins", || {
            let (mut client, request) = (self.twins.clone(), request.clone());
            async move { client.list_twins(request).await }
        })
        .await
    }

    /// Who wrote to a path of a twin's desired section lately, the last first.
    pub(crate) async fn writers_lately(
        &self,
        name: &str,
        path: &[String],
    ) -> Result<Vec<String>, Status> {
        let request = ListTwinRevisionsRequest {
            name: name.to_owned(),
            page_size: REVISIONS_LATELY,
            changes: vec![Change::Desired.into()],
            ..ListTwinRevisionsRequest::default()
        };
        let answer = self.history.clone().list_twin_revisions(request).await?;
        let revisions = answer.into_inner().revisions.into_iter();
        let revisions = revisions.filter(|one| crate::writer::touches(&one.patch_json, path));
        Ok(revisions.map(|one| one.actor).collect())
    }

    /// Adds an entry to the audit log, once however often it is tried.
    pub(crate) async fn record(&self, request: &RecordAuditEntryRequest) -> Result<(), Failure> {
        self.call("write the audit log", || {
            let (mut client, request) = (self.audit.clone(), request.clone());
            async move { client.record_audit_entry(request).await }
        })
        .await
        .map(|_| ())
    }

    async fn call<T, F>(
        &self,
        operation: &'static str,
        attempt: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.call_while(operation, || true, attempt).await
    }

    /// A call under way is finished also when the service stops; a pause is not.
    async fn call_while<T, F>(
        &self,
        operation: &'static str,
        is_wanted: impl Fn() -> bool,
        attempt: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let (mut away, mut broken) = (Backoff::new(AWAY), Backoff::new(BROKEN));
        loop {
            if self.shutdown.is_triggered() {
                return Err(Failure::Stopped);
            }
            if !is_wanted() {
                return Err(Failure::Conflict);
            }
            let status = match attempt().await {
                Ok(response) => {
                    self.health.serving();
                    return Ok(response.into_inner());
                }
                Err(status) => status,
            };
            let delay = match judge(status.code()) {
                Verdict::Final(verdict) => {
                    self.health.serving();
                    return Err(match verdict {
                        FinalVerdict::Conflict => Failure::Conflict,
                        FinalVerdict::Gone => Failure::Gone,
                        FinalVerdict::Refused => Failure::Refused(describe(&status)),
                    });
                }
                Verdict::Away => {
                    self.health
                        .degraded(format!("cannot {operation}: {}", describe(&status)));
                    away.next_delay()
                }
                Verdict::Broken => broken.next_delay(),
            };
            let Some(delay) = delay else {
                warn!(
                    operation,
                    error = describe(&status),
                    "twin-store failed again and again"
                );
                return Err(Failure::Unfinished(describe(&status)));
            };
            debug!(
                operation,
                error = describe(&status),
                "twin-store failed; trying again"
            );
            if self
                .shutdown
                .run_until(tokio::time::sleep(delay))
                .await
                .is_none()
            {
                return Err(Failure::Stopped);
            }
        }
    }
}

fn describe(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_that_can_never_succeed_is_refused() {
        for code in [
            Code::InvalidArgument,
            Code::OutOfRange,
            Code::FailedPrecondition,
        ] {
            assert_eq!(
                judge(code),
                Verdict::Final(FinalVerdict::Refused),
                "{code:?}"
            );
        }
        for code in [
            Code::Unavailable,
            Code::Unauthenticated,
            Code::ResourceExhausted,
        ] {
            assert_eq!(judge(code), Verdict::Away, "{code:?}");
        }
        for code in [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Internal,
            Code::Unknown,
        ] {
            assert_eq!(judge(code), Verdict::Broken, "{code:?}");
        }
    }
}
