//! Ends an answer that goes on for longer than its caller may listen: the token or the certificate
//! it came with has run out, or the provider has withdrawn the key. The last words are the
//! refusal that a new call would get.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use prost::bytes::Bytes;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use super::{AuthLayer, permit};
use crate::auth::oidc::TokenProblem;
use crate::auth::refusal::Refusal;
use crate::auth::vouching::CALLER;
use crate::auth::{Principal, Via};
use crate::server::Peer;
use crate::status::to_status;

/// How often it is looked whether the caller of a stream may still read it. Keys that the provider
/// withdraws are forgotten within `oidc_keys_refresh`, so more often would find nothing new.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// A call that was let in, while it is being answered.
pub(super) struct Standing {
    principal: Principal,
    path: String,
    /// What the caller proved itself with.
    headers: HeaderMap,
    peer: Option<Arc<Peer>>,
}

impl Standing {
    pub(super) fn new(
        principal: &Principal,
        request: &Request<Body>,
        peer: Option<&Arc<Peer>>,
    ) -> Self {
        let mut headers = HeaderMap::new();
        for name in [AUTHORIZATION, CALLER] {
            if let Some(value) = request.headers().get(&name) {
                headers.insert(name, value.clone());
            }
        }
        Self {
            principal: principal.clone(),
            path: request.uri().path().to_owned(),
            headers,
            peer: peer.cloned(),
        }
    }
}

impl AuthLayer {
    /// How long an answer may go on before it is looked again whether its caller may read it;
    /// `None`: for ever, because the proof does not end.
    fn look_again(&self, principal: &Principal) -> Option<Duration> {
        let left = match (principal.via, principal.until) {
            (Via::Off | Via::Token | Via::Nothing, _) => return None,
            (Via::Oidc | Via::Certificate, None) => return Some(LOOK_AGAIN),
            (Via::Oidc | Via::Certificate, Some(until)) => until.duration_since(self.clock.now()),
        };
        Some(Duration::try_from(left).unwrap_or_default().min(LOOK_AGAIN))
    }

    /// Whether the caller of an answer that goes on may still read it, and when to look again.
    async fn may_still(&self, call: &Standing) -> Result<Duration, Refusal> {
        let fresh = match (&self.vouching, call.headers.contains_key(CALLER)) {
            // What a replica says is not believed for as long as an answer may take.
            (Some(_), true) => Ok(call.principal.clone()),
            _ => self.identify(&call.headers, call.peer.as_deref()).await,
        };
        let decided = match fresh {
            Ok(principal) => Ok(principal),
            // Who cannot be asked has not withdrawn anything.
            Err(Refusal::ProviderAway) => Ok(call.principal.clone()),
            Err(refusal) => Err(refusal),
        };
        let decided = decided.and_then(|principal| {
            if principal
                .until
                .is_some_and(|until| until <= self.clock.now())
            {
                return Err(match principal.via {
                    Via::Certificate => Refusal::CertificateExpired,
                    _ => Refusal::Token(TokenProblem::Expired),
                });
            }
            permit(principal, self.rules.get(&*call.path).copied(), &call.path)
        });
        match decided {
            Ok(principal) => Ok(self.look_again(&principal).unwrap_or(LOOK_AGAIN)),
            Err(refusal) => {
                self.report(&refusal, &call.path, call.peer.as_deref());
                Err(refusal)
            }
        }
    }

    /// Has an answer end with the proof of its caller.
    pub(super) fn guard(
        self: Arc<Self>,
        response: Response<Body>,
        call: Standing,
    ) -> Response<Body> {
        // A refusal is over already.
        let over = Status::from_header_map(response.headers()).is_some();
        let Some(first) = self.look_again(&call.principal).filter(|_| !over) else {
            return response;
        };
        let call = Arc::new(call);
        let ask = move || {
            let (auth, call) = (Arc::clone(&self), Arc::clone(&call));
            async move { auth.may_still(&call).await }.boxed()
        };
        response.map(|body| Body::new(Guarded::new(body, first, Box::new(ask))))
    }
}

/// Whether the caller still may, and if so, when to ask again.
type Again = BoxFuture<'static, Result<Duration, Refusal>>;

/// A body that ends when its caller may no longer read it.
struct Guarded {
    inner: Body,
    ask: Box<dyn Fn() -> Again + Send>,
    timer: Pin<Box<Sleep>>,
    asking: Option<Again>,
    ended: bool,
}

impl Guarded {
    /// Asks after `first` for the first time.
    fn new(inner: Body, first: Duration, ask: Box<dyn Fn() -> Again + Send>) -> Self {
        Self {
            inner,
            ask,
            timer: Box::pin(tokio::time::sleep(first)),
            asking: None,
            ended: false,
        }
    }

    /// The refusal, when it has come to that. A stream goes on while it is being found out.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Option<Refusal> {
        loop {
            if let Some(asking) = &mut self.asking {
                match asking.poll_unpin(cx) {
                    Poll::Pending => return None,
                    Poll::Ready(Err(refusal)) => return Some(refusal),
                    Poll::Ready(Ok(next)) => {
                        self.asking = None;
                        self.timer.as_mut().reset(Instant::now() + next);
                    }
                }
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return None;
            }
            self.asking = Some((self.ask)());
        }
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let Some(refusal) = this.poll_refusal(cx) else {
            return Pin::new(&mut this.inner).poll_frame(cx);
        };
        this.ended = true;
        // Whoever makes the stream learns at once that nobody reads it any more.
        this.inner = Body::empty();
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match to_status(&refusal).add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(status) => Err(status),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }
}
