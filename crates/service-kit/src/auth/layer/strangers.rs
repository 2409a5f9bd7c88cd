//! Calls that are served before anybody has proven anything: what their messages may hold of our
//! memory, and for how long. Such a message is small, only so many are waited for at a time, and it is
//! the client that is slow while the rest of one does not come, so its connection has no more time to
//! prove itself than one that says nothing.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use prost::bytes::Bytes;
use tonic::Status;
use tonic::body::Body;

use crate::auth::refusal::Refusal;
use crate::malformed::Malformed;
use crate::places::{Bounds, Shares};
use crate::server::connections::Asking;
use crate::status::to_status;

/// Bytes that such a call may bring. An enrolment has less than a thousand; those who read what a
/// server serves (reflection) ask a few hundred questions of a hundred bytes.
const BYTES_MAX: usize = 32 << 10;

/// Calls whose messages may be waited for: 16 MiB if all of them are as large as they may be. A probe's
/// is there with its head, so there is room unless somebody holds it.
const CALLS_MAX: Bounds = Bounds {
    all: 512,
    of_network: 64,
};

/// What a message begins with: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Counts what is waited for.
#[derive(Debug, Clone)]
pub(super) struct Strangers {
    calls: Shares,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            calls: Shares::new(CALLS_MAX),
        }
    }
}

impl Strangers {
    /// Bounds what a call brings. `asking` hears whom the call waits for.
    pub(super) fn bound(
        &self,
        body: Body,
        address: Option<IpAddr>,
        asking: Option<&Arc<Asking>>,
    ) -> Result<Body, Refusal> {
        let share = self.calls.take(address);
        let share = share.map_err(|_crowded| Refusal::TooManyCalls)?;
        let asking = asking.map(Arc::downgrade);
        Ok(Body::new(Brought {
            body,
            asking,
            held: Some(Box::new(share)),
            left: BYTES_MAX,
            prefix: Vec::with_capacity(PREFIX),
        }))
    }
}

/// What is given back with the last byte.
type Held = Box<dyn Send>;

/// What a stranger brings.
struct Brought {
    body: Body,
    /// Of the call that it belongs to; gone when that was answered.
    asking: Option<Weak<Asking>>,
    held: Option<Held>,
    left: usize,
    /// As much of the first message's as has come.
    prefix: Vec<u8>,
}

impl Brought {
    /// Whether there is room for some bytes more, and for the message that they begin.
    fn takes(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let too_large = |found: usize| Malformed::TooLarge {
            problem: format!(
                "{found} bytes; of a call that proves nothing at most {BYTES_MAX} are read"
            ),
        };
        if self.prefix.len() < PREFIX {
            let missing = PREFIX - self.prefix.len();
            self.prefix.extend(bytes.iter().take(missing));
            // Room for a message is made with its first bytes.
            if let [_, length @ ..] = &*self.prefix
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                if length > BYTES_MAX - PREFIX {
                    return Err(too_large(length));
                }
            }
        }
        let left = self.left.checked_sub(bytes.len());
        self.left = left.ok_or_else(|| too_large(BYTES_MAX - self.left + bytes.len()))?;
        Ok(())
    }
}

impl http_body::Body for Brought {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(asking) = self.asking.as_ref().and_then(Weak::upgrade) {
            asking.awaits_the_client(polled.is_pending());
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref()
                    && let Err(error) = self.takes(bytes)
                {
                    // Nobody reads on.
                    self.body = Body::empty();
                    self.held = None;
                    return Poll::Ready(Some(Err(to_status(&error))));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(ended @ (None | Some(Err(_)))) => {
                self.held = None;
                Poll::Ready(ended)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tonic::Code;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        bytes.resize(PREFIX + length, b'x');
        bytes
    }

    /// What is read of some pieces, through the bound.
    async fn read(pieces: Vec<Vec<u8>>) -> Result<usize, Code> {
        let pieces = pieces.into_iter().map(|it| Ok(Frame::data(it.into())));
        let pieces = futures::stream::iter(pieces.collect::<Vec<Result<_, Status>>>());
        let body = Body::new(http_body_util::StreamBody::new(pieces));
        let strangers = Strangers::default();
        let mut bound = strangers.bound(body, None, None).expect("a share");
        let mut count = 0;
        while let Some(frame) = bound.frame().await {
            let frame = frame.map_err(|status| status.code())?;
            count += frame.into_data().map_or(0, |data| data.len());
        }
        Ok(count)
    }

    #[tokio::test]
    async fn a_small_message_is_read_and_a_large_one_is_refused_with_its_first_bytes() {
        let small = message(1000);
        assert_eq!(read(vec![small.clone()]).await, Ok(small.len()));
        let in_parts = small.chunks(3).map(<[u8]>::to_vec).collect();
        assert_eq!(read(in_parts).await, Ok(small.len()));
        let most = message(BYTES_MAX - PREFIX);
        assert_eq!(read(vec![most.clone()]).await, Ok(BYTES_MAX));
        let head = message(1 << 20)[..6].to_vec();
        assert_eq!(read(vec![head.clone()]).await, Err(Code::InvalidArgument));
        let in_parts = head.chunks(1).map(<[u8]>::to_vec).collect();
        assert_eq!(read(in_parts).await, Err(Code::InvalidArgument));
        // Of small ones there are not many either.
        let many = vec![message(8 << 10); 5];
        assert_eq!(read(many).await, Err(Code::InvalidArgument));
    }

    #[tokio::test]
    async fn so_many_are_waited_for_and_one_that_has_come_is_not() {
        let strangers = Strangers::default();
        let here = Some(IpAddr::from([127, 0, 0, 1]));
        let silent = || {
            let nothing = futures::stream::pending::<Result<Frame<Bytes>, Status>>();
            Body::new(http_body_util::StreamBody::new(nothing))
        };
        let bound = |body, address| strangers.bound(body, address, None);
        let held: Vec<_> = std::iter::from_fn(|| bound(silent(), here).ok()).collect();
        assert!(held.len() > 16 && held.len() <= CALLS_MAX.of_network);
        let there = Some(IpAddr::from([127, 0, 0, 2]));
        assert!(bound(silent(), there).is_ok(), "others have theirs");
        drop(held);
        let whole = async || bound(Body::empty(), here).expect("a share").collect().await;
        for _ in 0..2 * CALLS_MAX.all {
            assert!(whole().await.is_ok());
        }
    }
}
