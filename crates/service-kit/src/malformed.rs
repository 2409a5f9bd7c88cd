//! One answer to bytes that are no message: `INVALID_ARGUMENT`.
//!
//! Tonic answers `INTERNAL`, which says that we are to blame and makes callers try again, and
//! `OUT_OF_RANGE` to what is too large. It decodes before our code runs, so the answer is changed
//! on its way out. What our own code answers has details ([`crate::status`]) and is left alone.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::error::{Classified, IotHubCode, Kind};
use crate::status::to_status;

/// What tonic answers with when it could not read a request at all.
const UNREADABLE: [&str; 5] = [
    "failed to decode Protobuf message",
    "protocol error:",
    "Unexpected EOF decoding stream.",
    "Missing request message.",
    "Error decompressing:",
];
/// What it answers with when a message is over the limit.
const TOO_LARGE: [&str; 2] = [
    "Error, decoded message length too large",
    "Error decompressing: size limit",
];

/// A request that is no message, or too large a one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes are not what the contract says.
    #[error("the request is no message of this method: {problem}")]
    Unreadable {
        /// What the decoder says.
        problem: String,
    },
    /// The message is over the limit.
    #[error("the request is too large: {problem}")]
    TooLarge {
        /// What the decoder says.
        problem: String,
    },
}

impl Malformed {
    /// What was wrong with a request, if this status is tonic's own about one it could not read.
    /// For streams, where the handler sees it; of a single request it sees nothing.
    pub fn of(status: &Status) -> Option<Self> {
        // Failures of the transport have a cause; what cannot be decoded is its own.
        if std::error::Error::source(status).is_some() || !status.details().is_empty() {
            return None;
        }
        let problem = status.message();
        let starts = |known: &[&str]| known.iter().any(|text| problem.starts_with(text));
        let problem = problem.to_owned();
        match status.code() {
            Code::OutOfRange | Code::ResourceExhausted if starts(&TOO_LARGE) => {
                Some(Self::TooLarge { problem })
            }
            Code::Internal if starts(&UNREADABLE) => Some(Self::Unreadable { problem }),
            _ => None,
        }
    }
}

impl Classified for Malformed {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "MALFORMED_MESSAGE",
            Self::TooLarge { .. } => "MESSAGE_TOO_LARGE",
        }
    }

    fn iot_hub(&self) -> IotHubCode {
        match self {
            Self::Unreadable { .. } => IotHubCode::FORMAT_ERROR,
            Self::TooLarge { .. } => IotHubCode::MESSAGE_TOO_LARGE,
        }
    }
}

/// Gives requests that are no messages the right answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MalformedLayer;

impl<S> Layer<S> for MalformedLayer {
    type Service = MalformedService<S>;

    fn layer(&self, inner: S) -> MalformedService<S> {
        MalformedService { inner }
    }
}

/// A gRPC service behind a [`MalformedLayer`].
#[derive(Debug, Clone)]
pub(crate) struct MalformedService<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for MalformedService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answered = self.inner.call(request);
        Box::pin(async move {
            let response = answered.await?;
            Ok(match malformed(response.headers()) {
                Some(malformed) => to_status(&malformed).into_http(),
                None => response,
            })
        })
    }
}

/// Refusals have no messages, and so their status in the headers.
fn malformed(headers: &HeaderMap) -> Option<Malformed> {
    Malformed::of(&Status::from_header_map(headers)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tonic_says_about_a_request_is_changed() {
        let of = |code, text: &str| Malformed::of(&Status::new(code, text));
        let text = "failed to decode Protobuf message: invalid wire type";
        assert!(matches!(
            of(Code::Internal, text),
            Some(Malformed::Unreadable { .. })
        ));
        let large = "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes";
        assert!(matches!(
            of(Code::OutOfRange, large),
            Some(Malformed::TooLarge { .. })
        ));
        assert_eq!(of(Code::Internal, "something else"), None);
        assert_eq!(of(Code::Unavailable, text), None);
        let ours = to_status(&Malformed::Unreadable {
            problem: String::new(),
        });
        assert_eq!(ours.code(), Code::InvalidArgument);
        let detailed = Status::with_details(Code::Internal, text, "x".into());
        assert_eq!(Malformed::of(&detailed), None, "what has details is ours");
    }
}
