//! The body of a request, while which is awaited it is the client that is slow and not we: a
//! connection that has proven nothing must not live on by sending a body in small parts.

use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use crate::server::connections::Asking;

/// A body that says whom its reader waits for.
pub(super) struct Awaited {
    body: Incoming,
    /// Of the call that the body belongs to; gone when that was answered.
    asking: Weak<Asking>,
}

impl Awaited {
    pub(super) fn new(body: Incoming, asking: Weak<Asking>) -> Self {
        Self { body, asking }
    }
}

impl Body for Awaited {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(asking) = self.asking.upgrade() {
            asking.awaits_the_client(polled.is_pending());
        }
        Poll::Ready(ready!(polled))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
