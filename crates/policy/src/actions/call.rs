//! One call of a method, and what its end means. It decides nothing else.

use std::time::Duration;

use service_kit::client::Connection;
use service_kit::error::{Classified as _, Kind};
use service_kit::status::RemoteError;
use tonic::Status;
use wire::device::v1::InvokeMethodRequest;
use wire::device::v1::device_command_service_client::DeviceCommandServiceClient;

/// What twin-store may take beyond the device's own time.
const MARGIN: Duration = Duration::from_secs(15);

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Invoked {
    /// The device answered.
    Answered {
        /// With this status.
        status: i32,
        /// JSON.
        payload: String,
    },
    /// Nothing was sent: the device is not there, or takes no methods.
    NotOnline,
    /// Nothing was sent: as much is under way as may be.
    Busy,
    /// It can never be answered as it is.
    Refused(String),
    /// It was sent, and the device did not answer in time.
    Unanswered(String),
    /// Nobody knows whether it was sent.
    Unknown(String),
}

/// Calls a method once.
pub(super) async fn invoke(
    mut client: DeviceCommandServiceClient<Connection>,
    request: InvokeMethodRequest,
    within: Duration,
) -> Invoked {
    let answer = async {
        let mut answers = client.invoke_method(request).await?.into_inner();
        answers.message().await
    };
    match tokio::time::timeout(within + MARGIN, answer).await {
        Ok(Ok(Some(answer))) => Invoked::Answered {
            status: answer.status,
            payload: answer.payload_json,
        },
        Ok(Ok(None)) => Invoked::Unknown("twin-store ended the call without an answer".to_owned()),
        Ok(Err(status)) => judge(status),
        Err(_) => Invoked::Unknown("twin-store does not answer".to_owned()),
    }
}

fn judge(status: Status) -> Invoked {
    let text = status.message().to_owned();
    let error = RemoteError::from(status);
    match error.reason() {
        "DEVICE_NOT_ONLINE" => return Invoked::NotOnline,
        "METHOD_NOT_ANSWERED" => return Invoked::Unanswered(text),
        _ => {}
    }
    match error.kind() {
        Kind::ResourceExhausted => Invoked::Busy,
        Kind::InvalidArgument
        | Kind::OutOfRange
        | Kind::NotFound
        | Kind::AlreadyExists
        | Kind::FailedPrecondition
        | Kind::Unauthenticated
        | Kind::PermissionDenied
        | Kind::Unimplemented => Invoked::Refused(text),
        Kind::Unavailable
        | Kind::DeadlineExceeded
        | Kind::Aborted
        | Kind::Internal
        | Kind::DataLoss => Invoked::Unknown(text),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn only_what_surely_went_nowhere_is_called_again() {
        let judged = |code| judge(Status::new(code, "why"));
        assert_eq!(judged(Code::ResourceExhausted), Invoked::Busy);
        for code in [
            Code::NotFound,
            Code::InvalidArgument,
            Code::PermissionDenied,
        ] {
            assert_eq!(judged(code), Invoked::Refused("why".to_owned()), "{code:?}");
        }
        for code in [
            Code::Unavailable,
            Code::Cancelled,
            Code::Internal,
            Code::DeadlineExceeded,
            Code::Unknown,
        ] {
            assert_eq!(judged(code), Invoked::Unknown("why".to_owned()), "{code:?}");
        }
    }
}
