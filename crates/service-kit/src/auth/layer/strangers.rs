//! Calls that are served before anybody has proven anything: what their messages may hold of our
//! memory, and for how long. Such a message is small, only so many are waited for at a time, and it is
//! the client that is slow while the rest of one does not come, so its connection has no more time to
//! prove itself than one that says nothing, and neither has the call, whoever makes it.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use prost::bytes::Bytes;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use crate::auth::refusal::Refusal;
use crate::error::Classified;
use crate::malformed::Malformed;
use crate::places::{Bounds, Shares};
use crate::server::connections::{Asking, ConnectionLimits, Peer};
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

/// What a call brings that needs no proof. Each kind has shares of its own, so that who probes takes
/// nothing from those who enrol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Brings {
    /// What proves who calls.
    Proof,
    /// A question of health.
    Probe,
    /// Questions of what is served; they come one after the other for as long as there are any.
    Questions,
}

impl Brings {
    /// What a path is for, if anybody may call it.
    pub(super) fn of_anybody(path: &str) -> Option<Self> {
        if path.starts_with("/grpc.health.v1.Health/") {
            Some(Self::Probe)
        } else if path.starts_with("/grpc.reflection.") {
            Some(Self::Questions)
        } else {
            None
        }
    }
}

/// Counts what is waited for.
#[derive(Debug, Clone)]
pub(super) struct Strangers {
    proofs: Shares,
    probes: Shares,
    questions: Shares,
}

impl Default for Strangers {
    fn default() -> Self {
        let shares = || Shares::new(CALLS_MAX);
        Self {
            proofs: shares(),
            probes: shares(),
            questions: shares(),
        }
    }
}

impl Strangers {
    /// Bounds what a call brings. `asking` hears whom the call waits for. A connection that has brought
    /// a whole call that anybody may make has spoken.
    pub(super) fn bound(
        &self,
        brings: Brings,
        body: Body,
        peer: Option<&Arc<Peer>>,
        asking: Option<&Arc<Asking>>,
    ) -> Result<Body, Refusal> {
        let shares = match brings {
            Brings::Proof => &self.proofs,
            Brings::Probe => &self.probes,
            Brings::Questions => &self.questions,
        };
        let share = shares.take(peer.map(|peer| peer.address().ip()));
        let share = share.map_err(|_crowded| Refusal::TooManyCalls)?;
        let within = match peer {
            Some(peer) => peer.prove_within(),
            None => ConnectionLimits::default().prove_within.get(),
        };
        Ok(Body::new(Brought {
            body,
            asking: asking.map(Arc::downgrade),
            speaks: peer.filter(|_| brings != Brings::Proof).cloned(),
            held: Some(Box::new(share)),
            within,
            late: Box::pin(tokio::time::sleep(within)),
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
    /// Whose call it is, if it is one that anybody may make.
    speaks: Option<Arc<Peer>>,
    held: Option<Held>,
    /// How long all of it may take, and the end of that.
    within: Duration,
    late: Pin<Box<Sleep>>,
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

impl Brought {
    /// Nobody reads on.
    fn end(&mut self, why: &(impl Classified + 'static)) -> Status {
        self.body = Body::empty();
        self.speaks = None;
        self.held = None;
        to_status(why)
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
                    return Poll::Ready(Some(Err(self.end(&error))));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(ended @ (None | Some(Err(_)))) => {
                self.held = None;
                if ended.is_none()
                    && let Some(peer) = self.speaks.take()
                {
                    peer.spoke();
                }
                Poll::Ready(ended)
            }
            Poll::Pending => {
                // What has ended gave its share back.
                if self.held.is_none() || self.late.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                let within = self.within;
                Poll::Ready(Some(Err(self.end(&Refusal::Unfinished { within }))))
            }
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
    use std::net::SocketAddr;

    use http_body_util::BodyExt as _;
    use tonic::Code;

    use super::*;
    use crate::server::connections::Connections;
    use crate::units;

    /// Somebody at an address who has so long to prove who it is.
    fn peer(last: u8, prove_within: units::Duration) -> Arc<Peer> {
        let connections = Connections::new(ConnectionLimits {
            prove_within,
            ..ConnectionLimits::default()
        });
        let address = SocketAddr::from(([127, 0, 0, last], 1));
        connections.admit(address).expect("room")
    }

    /// What never goes on.
    fn silent() -> Body {
        let nothing = futures::stream::pending::<Result<Frame<Bytes>, Status>>();
        Body::new(http_body_util::StreamBody::new(nothing))
    }

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
        let mut bound = strangers
            .bound(Brings::Proof, body, None, None)
            .expect("a share");
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
        let long = units::Duration::secs(600);
        let (here, there) = (peer(1, long), peer(2, long));
        let bound = |brings, body, peer| strangers.bound(brings, body, Some(peer), None);
        let mut all = Vec::new();
        for brings in [Brings::Proof, Brings::Probe, Brings::Questions] {
            // Others have theirs for something else.
            let held = std::iter::from_fn(|| bound(brings, silent(), &here).ok());
            let held: Vec<_> = held.collect();
            assert_eq!(held.len(), CALLS_MAX.of_network, "{brings:?}");
            assert!(
                bound(brings, silent(), &there).is_ok(),
                "others have theirs"
            );
            all.push(held);
        }
        let strangers = Strangers::default();
        let whole = async || {
            let body = strangers.bound(Brings::Proof, Body::empty(), Some(&here), None);
            body.expect("a share").collect().await
        };
        for _ in 0..2 * CALLS_MAX.all {
            assert!(whole().await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_does_not_come_to_its_end_is_ended_and_makes_room() {
        let strangers = Strangers::default();
        let here = peer(1, units::Duration::secs(10));
        let bound = |body| strangers.bound(Brings::Questions, body, Some(&here), None);
        let mut held: Vec<_> = std::iter::from_fn(|| bound(silent()).ok()).collect();
        let begin = tokio::time::Instant::now();
        let ended = held[0].frame().await.expect("an end");
        let status = ended.expect_err("it does not go on");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(begin.elapsed(), Duration::from_secs(10));
        assert!(bound(silent()).is_ok(), "there is room again");
        assert!(here.is_silent(), "it has brought nothing");
        drop(held);
        let frame = Ok::<_, Status>(Frame::data(Bytes::from(message(10))));
        let whole = http_body_util::StreamBody::new(futures::stream::iter([frame]));
        let whole = bound(Body::new(whole)).expect("a share");
        assert!(whole.collect().await.is_ok());
        assert!(!here.is_silent());
    }
}
