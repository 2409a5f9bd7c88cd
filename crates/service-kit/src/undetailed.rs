//! Refusals that say what they are, also where tonic refuses by itself: an `ErrorInfo` with a reason and
//! IoT Hub's number on a method that nobody serves, on an answer that cannot be sent, on what the
//! health service does not know, and on a call that took too long.
//!
//! What our own code answers has details ([`crate::status`]) and is left alone. Code and message stay as
//! tonic has them. A call whose own deadline (`grpc-timeout`) is over is ended by tonic outside of
//! this layer, as `CANCELLED`; its caller has hung up by then.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};

use crate::error::{Classified, Kind, iot_hub};
use crate::status::{DOMAIN, to_status};

/// How tonic begins to say that a message is over the limit of what is sent.
const ANSWER_TOO_LARGE: &str = "Error, encoded message length too large";

/// A call took longer than the service lets any.
#[derive(Debug, thiserror::Error)]
#[error("the call took longer than the {} s that this service gives one", .within.as_secs_f64())]
struct TooLong {
    within: Duration,
}

impl Classified for TooLong {
    fn kind(&self) -> Kind {
        Kind::DeadlineExceeded
    }

    fn reason(&self) -> &'static str {
        "CALL_TOO_LONG"
    }
}

/// Gives refusals without details the details that they can have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UndetailedLayer {
    /// How long a call may take until its answer begins.
    pub(crate) within: Duration,
}

impl<S> Layer<S> for UndetailedLayer {
    type Service = UndetailedService<S>;

    fn layer(&self, inner: S) -> UndetailedService<S> {
        UndetailedService {
            inner,
            within: self.within,
        }
    }
}

/// A gRPC service behind an [`UndetailedLayer`].
#[derive(Debug, Clone)]
pub(crate) struct UndetailedService<S> {
    inner: S,
    within: Duration,
}

impl<S> Service<Request<Body>> for UndetailedService<S>
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
        let within = self.within;
        let answered = tokio::time::timeout(within, self.inner.call(request));
        Box::pin(async move {
            let Ok(response) = answered.await else {
                return Ok(to_status(&TooLong { within }).into_http());
            };
            let response = response?;
            if let Some(status) = detailed(response.headers()) {
                return Ok(status.into_http());
            }
            // What fails after the answer has begun, such as encoding it, is told at its end.
            Ok(response.map(|body| {
                Body::new(body.map_frame(|frame| match frame.into_trailers() {
                    Ok(trailers) => http_body::Frame::trailers(with_details(trailers)),
                    Err(data) => data,
                }))
            }))
        })
    }
}

fn with_details(trailers: HeaderMap) -> HeaderMap {
    let Some(status) = detailed(&trailers) else {
        return trailers;
    };
    let mut trailers = status.into_http::<()>().into_parts().0.headers;
    trailers.remove(CONTENT_TYPE);
    trailers
}

/// The refusal of these headers with details; none if it is no refusal or has them already.
fn detailed(headers: &HeaderMap) -> Option<Status> {
    let status = Status::from_header_map(headers)?;
    if status.code() == Code::Ok || !status.details().is_empty() {
        return None;
    }
    let number = Kind::from_code(status.code()).iot_hub();
    let facts = HashMap::from([
        (iot_hub::CODE.to_owned(), number.number().to_string()),
        (iot_hub::NAME.to_owned(), number.name().to_owned()),
    ]);
    let mut details = ErrorDetails::new();
    details.set_error_info(reason(&status), DOMAIN, facts);
    let metadata = status.metadata().clone();
    Some(Status::with_error_details_and_metadata(
        status.code(),
        status.message(),
        details,
        metadata,
    ))
}

/// A stable name: of the code, where nothing more is known.
fn reason(status: &Status) -> &'static str {
    match status.code() {
        Code::OutOfRange if status.message().starts_with(ANSWER_TOO_LARGE) => "ANSWER_TOO_LARGE",
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::ServiceExt as _;

    use super::*;
    use crate::status::RemoteError;

    /// What a caller is told by a service that answers so.
    async fn told<F>(answer: impl FnOnce() -> F + Clone + Send + 'static) -> RemoteError
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let inner = tower::service_fn(move |_: Request<Body>| {
            let answer = answer.clone();
            async move { Ok::<_, Infallible>(answer().await) }
        });
        let layer = UndetailedLayer {
            within: Duration::from_secs(3),
        };
        let served = layer.layer(inner);
        let response = served.oneshot(Request::new(Body::empty())).await;
        let (parts, body) = response.expect("it never fails").into_parts();
        let at_once = Status::from_header_map(&parts.headers);
        let collected = body.collect().await.expect("a body");
        let at_the_end = collected.trailers().and_then(Status::from_header_map);
        RemoteError::from(at_once.or(at_the_end).expect("a refusal"))
    }

    #[tokio::test]
    async fn what_tonic_answers_gets_a_reason_and_a_number_and_keeps_its_words() {
        let error = told(|| async {
            let mut status = Status::unimplemented("no such method");
            let kept = "1".parse().expect("a header");
            status.metadata_mut().insert("x-kept", kept);
            status.into_http()
        });
        let error = error.await;
        assert_eq!(
            (error.reason(), error.kind()),
            ("UNIMPLEMENTED", Kind::Unimplemented)
        );
        assert_eq!(error.to_string(), "no such method");
        assert_eq!(error.fact("iot_hub_code"), Some("400003"));
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_sent_is_told_at_its_end() {
        let error = told(|| async {
            let text = "Error, encoded message length too large: found 9 bytes, the limit is: 8";
            let headers = Status::out_of_range(text).into_http::<()>().into_parts().0;
            let frame = http_body::Frame::trailers(headers.headers);
            let frames = futures::stream::iter([Ok::<_, Infallible>(frame)]);
            Response::new(Body::new(http_body_util::StreamBody::new(frames)))
        });
        let error = error.await;
        assert_eq!(
            (error.reason(), error.kind()),
            ("ANSWER_TOO_LARGE", Kind::OutOfRange)
        );
        assert_eq!(error.fact("iot_hub_name"), Some("ArgumentInvalid"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_too_long_is_told_so() {
        let error = told(std::future::pending).await;
        assert_eq!(
            (error.reason(), error.kind()),
            ("CALL_TOO_LONG", Kind::DeadlineExceeded)
        );
        assert!(error.to_string().contains("3 s"), "{error}");
        assert_eq!(error.fact("iot_hub_code"), Some("504101"));
    }

    #[tokio::test]
    async fn what_has_details_is_left_alone() {
        let ours = || TooLong {
            within: Duration::from_secs(1),
        };
        let error = told(move || async move { to_status(&ours()).into_http() }).await;
        assert_eq!(error.reason(), "CALL_TOO_LONG");
        assert!(error.to_string().contains("1 s"), "{error}");
        let fine = http::HeaderMap::new();
        assert!(detailed(&fine).is_none());
    }
}
