//! What went wrong, in IoT Hub's words: the status, the numeric code with its name, and the body
//! that its SDKs parse (spec iot-hub-twins §6.2).

use std::fmt;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use service_kit::error::{Classified as _, Kind};
use service_kit::status::RemoteError;
use service_kit::trace;
use tonic::Status;

/// The header that carries the code's name.
const ERROR_CODE: HeaderName = HeaderName::from_static("iothub-errorcode");

/// An answer to a request that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    number: u32,
    name: String,
    message: String,
    /// Seconds after which trying again makes sense.
    retry_after: Option<u64>,
    /// When it happened, for the tracking id.
    at: Option<Timestamp>,
    form: Form,
}

/// How the body is written (spec iot-hub-twins §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A line of text with the code's name.
    A,
    /// JSON in text, with the code's number, as calls of methods have it.
    B,
}

impl ApiError {
    /// The number of a caller who is known and may not do this.
    pub(crate) const FORBIDDEN: u32 = 401_003;

    pub(crate) fn new(number: u32, name: &str, message: impl Into<String>) -> Self {
        Self {
            number,
            name: name.to_owned(),
            message: message.into(),
            retry_after: None,
            at: None,
            form: Form::A,
        }
    }

    /// The same in the form that calls of methods are refused in.
    #[must_use]
    pub(crate) fn of_method(mut self) -> Self {
        self.form = Form::B;
        self
    }

    /// The request cannot succeed as it is.
    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self::new(400_004, "ArgumentInvalid", message)
    }

    /// The body is no JSON, or not of the form that the call takes.
    pub(crate) fn format(message: impl Into<String>) -> Self {
        Self::new(400_006, "IotHubFormatError", message)
    }

    /// The body has more bytes than the call takes.
    pub(crate) fn too_large(max: usize) -> Self {
        let message = format!("the body has more than the {max} bytes that this call takes");
        Self::new(413_001, "MessageTooLarge", message)
    }

    /// The body did not come in time.
    pub(crate) fn slow(message: impl Into<String>) -> Self {
        Self::new(408_000, "RequestTimeout", message)
    }

    pub(crate) fn no_such_call(method: &Method, path: &str) -> Self {
        let message = format!("{method} {path} is no call of this API");
        Self::new(404_000, "NotFound", message)
    }

    /// The caller has not proven who it is.
    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(401_002, "IotHubUnauthorizedAccess", message)
    }

    /// The caller is known, and may not make this call.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Self::FORBIDDEN, "IotHubUnauthorized", message)
    }

    /// Another error in the form of this one.
    pub(crate) fn told_as(self, other: ApiError) -> Self {
        Self {
            form: self.form,
            ..other
        }
    }

    /// Says when trying again makes sense.
    pub(crate) fn after(mut self, wait: std::time::Duration) -> Self {
        self.retry_after = Some(wait.as_secs() + 1);
        self
    }

    /// Seconds after which trying again makes sense.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// Notes when it happened.
    pub(crate) fn at(mut self, now: Timestamp) -> Self {
        self.at = Some(now);
        self
    }

    /// The HTTP status that the number begins with.
    pub(crate) fn status(&self) -> StatusCode {
        u16::try_from(self.number / 1000)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The numeric code, such as 404001.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// The code's name, such as `DeviceNotFound`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl From<Status> for ApiError {
    /// A refusal of twin-store. It says IoT Hub's number and name itself; the kind stands in where
    /// it does not (a broken connection has no details).
    fn from(status: Status) -> Self {
        let error = RemoteError::from(status);
        let number = error.fact("iot_hub_code").and_then(|it| it.parse().ok());
        let name = error.fact("iot_hub_name");
        let (number, name) = number.zip(name).unwrap_or_else(|| of_kind(error.kind()));
        let mut message = error.to_string();
        // Most messages tell what is wrong with each place already; what they leave out is added.
        let told = message.clone();
        let mut between = ": ";
        for violation in error.violations() {
            let (place, what) = (violation.subject, violation.description);
            let line = format!("{place}: ");
            let is_told = told.starts_with(&line) || told.contains(&format!(" {line}"));
            if !is_told {
                message.extend([between, &line, &what]);
                between = "; ";
            }
        }
        Self {
            retry_after: error.retry_after().map(|delay| delay.as_secs().max(1)),
            ..Self::new(number, name, message)
        }
    }
}

fn of_kind(kind: Kind) -> (u32, &'static str) {
    match kind {
        Kind::InvalidArgument | Kind::OutOfRange | Kind::FailedPrecondition => {
            (400_004, "ArgumentInvalid")
        }
        Kind::NotFound => (404_001, "DeviceNotFound"),
        Kind::AlreadyExists => (409_001, "DeviceAlreadyExists"),
        Kind::Aborted => (412_001, "PreconditionFailed"),
        Kind::PermissionDenied => (ApiError::FORBIDDEN, "IotHubUnauthorized"),
        Kind::Unauthenticated => (401_002, "IotHubUnauthorizedAccess"),
        Kind::ResourceExhausted => (429_001, "ThrottlingException"),
        Kind::Unavailable | Kind::Unimplemented => (503_001, "ServiceUnavailable"),
        Kind::DeadlineExceeded => (504_101, "GatewayTimeout"),
        Kind::Internal | Kind::DataLoss => (500_001, "ServerError"),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let tracking = Tracking {
            id: trace::correlation_id(),
            at: self.at.unwrap_or(Timestamp::UNIX_EPOCH),
        };
        let body = match self.form {
            Form::A => serde_json::json!({
                "Message": format!("ErrorCode:{};{}", self.name, self.message),
                "ExceptionMessage": format!("Tracking ID:{tracking}"),
            }),
            Form::B => {
                let message = serde_json::json!({
                    "errorCode": self.number,
                    "trackingId": tracking.to_string(),
                    "message": self.message,
                    "timestampUtc": tracking.at.strftime("%Y-%m-%dT%H:%M:%S%.7fZ").to_string(),
                });
                serde_json::json!({ "Message": message.to_string(), "ExceptionMessage": "" })
            }
        };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, crate::headers::JSON);
        if let Ok(name) = HeaderValue::from_str(&self.name) {
            headers.insert(ERROR_CODE, name);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// What to quote to the operator: the request's trace, and when it was.
struct Tracking {
    id: String,
    at: Timestamp,
}

impl fmt::Display for Tracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.strftime("%m/%d/%Y %H:%M:%S");
        write!(f, "{}-G:0-TimeStamp:{at}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use service_kit::error::Violation;
    use service_kit::status::to_status;

    use super::*;

    /// A refusal of twin-store.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Refused(&'static str);

    impl service_kit::error::Classified for Refused {
        fn kind(&self) -> Kind {
            Kind::InvalidArgument
        }

        fn reason(&self) -> &'static str {
            "SECTION_INVALID"
        }

        fn violations(&self) -> Vec<Violation> {
            vec![
                Violation::new("tags.a", "is 1; allowed is 2"),
                Violation::new("a", "is 3; allowed is 4"),
            ]
        }
    }

    #[test]
    fn what_is_wrong_with_a_place_is_told_once() {
        for (message, expected) in [
            (
                "2 rules are broken: tags.a: 1 (2); a: 3 (4)",
                "2 rules are broken: tags.a: 1 (2); a: 3 (4)",
            ),
            ("tags.a: 1 (2)", "tags.a: 1 (2): a: is 3; allowed is 4"),
            (
                "it cannot be",
                "it cannot be: tags.a: is 1; allowed is 2; a: is 3; allowed is 4",
            ),
        ] {
            let error = ApiError::from(to_status(&Refused(message)));
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.number(), 400_004);
        }
    }
}
