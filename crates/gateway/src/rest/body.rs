//! Takes the bodies of requests in: no more than a call takes, within a time, and of all requests
//! together no more than there is room for.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::ApiError;

/// How long a body may take: a caller that stops in the middle of it holds our memory.
const WITHIN: Duration = Duration::from_secs(30);

/// What the bodies of all requests that are under way may take together.
const ALL_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What is counted in.
const UNIT: usize = 1024;

/// The room for bodies. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Bodies {
    room: Arc<Semaphore>,
}

/// A body, and its share of the room for as long as it is kept.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(ALL_BYTES_MAX / UNIT)),
        }
    }
}

impl Bodies {
    /// Reads a body, and no more of it than the call takes.
    pub(crate) async fn take(&self, body: Body, max: usize) -> Result<Taken, ApiError> {
        let taking = timeout(WITHIN, self.read(body, max));
        taking.await.unwrap_or_else(|_| {
            Err(ApiError::slow(format!(
                "the body was not there after {} s, or there was no room for it",
                WITHIN.as_secs()
            )))
        })
    }

    async fn read(&self, body: Body, max: usize) -> Result<Taken, ApiError> {
        let told = body.size_hint().exact();
        let told = told.map_or(max, |told| usize::try_from(told).unwrap_or(usize::MAX));
        if told > max {
            return Err(ApiError::too_large(max));
        }
        let units = u32::try_from(told.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(units).await;
        // It is never closed.
        let room = room.map_err(|error| ApiError::format(error.to_string()))?;
        match Limited::new(body, max).collect().await {
            Ok(whole) => Ok(Taken {
                bytes: whole.to_bytes().to_vec(),
                _room: room,
            }),
            Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(max)),
            Err(error) => Err(ApiError::format(format!(
                "the body did not come to its end: {error}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _, stream};
    use http::StatusCode;

    use super::*;

    /// A body of which this much comes, and then nothing.
    fn stalled(bytes: usize) -> Body {
        let first = stream::iter([Ok::<_, std::io::Error>(vec![0_u8; bytes])]);
        let chunks = first.chain(stream::pending());
        Body::from_stream(chunks)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let refused = Bodies::default().take(stalled(1), 1024).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn all_bodies_together_have_so_much_room() {
        let bodies = Bodies::default();
        let largest = 8 * 1024 * 1024;
        let mut held: Vec<_> = (0..ALL_BYTES_MAX / largest)
            .map(|_| Box::pin(bodies.take(stalled(1), largest)))
            .collect();
        for one in &mut held {
            assert!(one.now_or_never().is_none());
        }
        let mut next = Box::pin(bodies.take(Body::from("{}"), largest));
        assert!((&mut next).now_or_never().is_none(), "there is no room");
        held.pop();
        let taken = next.await.expect("there is room again");
        assert_eq!(taken.bytes, b"{}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_over_its_bound_is_refused_by_what_it_says_or_by_what_it_is() {
        let bodies = Bodies::default();
        for body in [Body::from(vec![0; 11]), stalled(11)] {
            let refused = bodies.take(body, 10).await.unwrap_err();
            assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        }
        let taken = bodies.take(Body::from(vec![7; 10]), 10).await.unwrap();
        assert_eq!(taken.bytes, [7; 10]);
    }
}
