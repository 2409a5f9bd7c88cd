//! Reads what a call leaves of its body, and drops it.
//!
//! A connection is closed whose request was answered before it had come as a whole. A client that still sends then
//! sees a broken connection in place of the answer (RFC 9112 section 9.6), and SDKs try again what was refused.
//! Of whoever has proven nothing less is read, and its connection is closed afterwards: it costs us bytes to
//! decrypt, and there is nothing to keep it for.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderValue, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, SizeHint};
use service_kit::server::web::Visitor;
use tokio::time::timeout;

/// How much is read and dropped, and for how long.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// The same of whoever has proven nothing.
const UNPROVEN_BYTES_MAX: usize = 1024 * 1024;
const WITHIN: Duration = Duration::from_secs(5);

/// Answers when the body has come as a whole, or enough of it.
pub(super) async fn read_on(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    // Who waits to be told to go on has sent nothing.
    if body.is_end_stream() || parts.headers.contains_key(header::EXPECT) {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let visitor = parts.extensions.get::<Visitor>().cloned();
    let body = Shared::new(body);
    let request = Request::from_parts(parts, Body::new(body.clone()));
    let mut response = next.run(request).await;
    if body.is_end_stream() {
        return response;
    }
    if visitor.is_some_and(|visitor| visitor.is_let_in()) {
        drop_rest(body, BYTES_MAX).await;
    } else {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        drop_rest(body, UNPROVEN_BYTES_MAX).await;
    }
    response
}

async fn drop_rest(mut body: Shared, bytes_max: usize) {
    let mut left = bytes_max;
    let reading = async {
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            // An empty one costs something, too.
            left = left.saturating_sub(bytes.max(1));
        }
    };
    // Whoever takes longer finds its connection closed.
    let _ = timeout(WITHIN, reading).await;
}

/// A body that is read by the call, and afterwards by us.
#[derive(Clone)]
struct Shared(Arc<Mutex<Read>>);

struct Read {
    body: Body,
    /// Its end was read. Not every body knows that of itself.
    ended: bool,
}

impl Shared {
    fn new(body: Body) -> Self {
        let read = Read { body, ended: false };
        Self(Arc::new(Mutex::new(read)))
    }

    fn lock(&self) -> MutexGuard<'_, Read> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl hyper::body::Body for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut read = self.lock();
        let polled = Pin::new(&mut read.body).poll_frame(context);
        read.ended |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        let read = self.lock();
        read.ended || read.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::middleware::from_fn;
    use futures::{StreamExt as _, stream};
    use http::StatusCode;
    use tower::ServiceExt as _;

    use super::*;

    const PART: usize = 64 * 1024;

    /// Sends so many parts to calls that read none, all or some of them; answers how many were read.
    async fn sent(parts: usize, expects: bool, reads: usize) -> usize {
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read);
        let body = stream::iter(0..parts).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(vec![0_u8; PART])
        });
        let call = async move |request: Request| {
            let mut body = request.into_body();
            for _ in 0..reads {
                body.frame().await;
            }
            StatusCode::UNAUTHORIZED
        };
        let app = Router::new().fallback(call).layer(from_fn(read_on));
        let mut request = Request::new(Body::from_stream(body));
        if expects {
            let expected = http::HeaderValue::from_static("100-continue");
            request.headers_mut().insert(header::EXPECT, expected);
        }
        let response = app.oneshot(request).await.expect("it never fails");
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let closes = response.headers().get(header::CONNECTION).is_some();
        // A body without a length has ended when its end was read.
        assert_eq!(closes, !expects && reads <= parts);
        read.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn whatever_the_call_leaves_is_read_up_to_a_bound() {
        for reads in [0, 1, 16, 17] {
            assert_eq!(sent(16, false, reads).await, 16, "{reads}");
        }
        assert_eq!(sent(100_000, false, 0).await, UNPROVEN_BYTES_MAX / PART);
        assert_eq!(sent(16, true, 0).await, 0, "it waits to be told");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_answered_all_the_same() {
        let app = Router::new().fallback(async || StatusCode::NOT_FOUND);
        let app = app.layer(from_fn(read_on));
        let body = stream::pending::<Result<Vec<u8>, std::io::Error>>();
        let request = Request::new(Body::from_stream(body));
        let response = app.oneshot(request).await.expect("it never fails");
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn more_is_read_of_whoever_was_let_in() {
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read);
        let body = stream::iter(0..100_000).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(vec![0_u8; PART])
        });
        let body = Shared::new(Body::from_stream(body));
        drop_rest(body, BYTES_MAX).await;
        assert_eq!(read.load(Ordering::Relaxed), BYTES_MAX / PART);
    }
}
