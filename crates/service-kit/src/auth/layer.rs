//! Stands before a gRPC server's services and lets a call through, or answers it.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::auth::authenticator::{Authenticator, Credentials};
use crate::auth::behalf;
use crate::auth::refusal::Refusal;
use crate::auth::vouching::{CALLER, Vouching};
use crate::auth::{AuthError, Insecure, Permission, Principal, Via};
use crate::clock::SharedClock;
use crate::error::{Classified, Kind};
use crate::health::Health;
use crate::metrics::{Counter, EncodeLabelSet, Family, Scope};
use crate::server::{Peer, PeerHandle};
use crate::shutdown::ShutdownToken;
use crate::status::to_status;

mod log;
mod strangers;
mod stream;

use log::Log;
use strangers::{Brings, Strangers};
use stream::Standing;

/// The labels of a decision: few values, all from our own code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    decision: &'static str,
    permission: &'static str,
    via: &'static str,
}

/// Checks who makes each call to a gRPC server, and whether it may.
#[derive(Debug, Clone)]
pub struct AuthLayer {
    authenticator: Arc<Authenticator>,
    /// Who may say for whom a call is passed on.
    vouching: Option<Vouching>,
    clock: SharedClock,
    rules: HashMap<&'static str, Permission>,
    /// What authenticates its callers itself.
    open: Vec<String>,
    /// Of that, what reads a whole message first.
    reads_first: Vec<&'static str>,
    strangers: Strangers,
    decisions: Option<Family<DecisionLabels, Counter>>,
    log: Arc<Log>,
}

impl AuthLayer {
    /// Knows callers as the configuration says. Until there are rules, nothing is let through but
    /// what is open.
    pub(crate) fn new(credentials: Credentials<'_>, clock: SharedClock) -> Result<Self, AuthError> {
        Ok(Self {
            authenticator: Arc::new(Authenticator::new(credentials, clock.clone())?),
            vouching: None,
            clock,
            rules: HashMap::new(),
            open: Vec::new(),
            reads_first: Vec::new(),
            strangers: Strangers::default(),
            decisions: None,
            log: Arc::default(),
        })
    }

    /// The rule for a listener: with authorisation off it serves this machine only (with a
    /// warning), unless the operator insists.
    pub(crate) fn for_listener(
        credentials: Credentials<'_>,
        clock: SharedClock,
        address: SocketAddr,
    ) -> Result<Self, AuthError> {
        let insecure = credentials.insecure;
        let layer = Self::new(credentials, clock)?;
        if layer.authenticator.is_off() {
            if !address.ip().is_loopback() && insecure == Insecure::Refused {
                return Err(AuthError::OpenToOthers { address });
            }
            tracing::warn!(
                %address,
                "authorisation is off: whoever reaches this API may do everything"
            );
        }
        Ok(layer)
    }

    /// What must run beside the server, if anything.
    pub(crate) fn upkeep(
        &self,
        shutdown: ShutdownToken,
        health: &Health,
    ) -> Option<impl Future<Output = ()> + use<>> {
        self.authenticator.upkeep(shutdown, health)
    }

    /// Says what each method needs: `/package.Service/Method` and its permission. A method that is
    /// named nowhere is not served.
    #[must_use]
    pub fn rules(mut self, rules: impl IntoIterator<Item = (&'static str, Permission)>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// Lets calls to paths with this prefix (`/twinward.agent.v1.AgentService/`) through, because
    /// the service authenticates them itself.
    #[must_use]
    pub fn open(mut self, prefix: impl Into<String>) -> Self {
        self.open.push(prefix.into());
        self
    }

    /// Says which calls that are open (`/package.Service/Method`) read a whole message before they know
    /// who calls, so that it has to be a small one.
    #[must_use]
    pub fn reads_first(mut self, paths: &[&'static str]) -> Self {
        self.reads_first.extend(paths);
        self
    }

    /// Believes other replicas that say for whom they pass a call on.
    #[must_use]
    pub fn vouching(mut self, vouching: Vouching) -> Self {
        self.vouching = Some(vouching);
        self
    }

    /// Counts the decisions under the service's name.
    #[must_use]
    pub fn metrics(mut self, scope: &Scope) -> Self {
        self.decisions = Some(scope.counters(
            "auth_decisions",
            "Decisions about who may call, by outcome, permission and how callers proved themselves",
        ));
        self
    }

    /// Decides about a call that is not open.
    async fn decide(
        &self,
        path: &str,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<Principal, Refusal> {
        let permission = self.rules.get(path).copied();
        let decided = match self.identify(headers, peer).await {
            Ok(principal) => {
                if let Some(peer) = peer {
                    peer.proven();
                }
                permit(principal, permission, path)
            }
            Err(refusal) => Err(refusal),
        };
        self.count(&decided, permission);
        if let Err(refusal) = &decided {
            self.report(refusal, path, peer);
        }
        decided
    }

    /// Who makes a call. What a replica says goes before everything else: the connection is the
    /// replica's, and not the caller's.
    async fn identify(
        &self,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<Principal, Refusal> {
        if let (Some(vouching), Some(said)) = (&self.vouching, headers.get(CALLER)) {
            return vouching.principal(said).map_err(Refusal::Voucher);
        }
        let shown = peer.and_then(Peer::certificate);
        let principal = self.authenticator.authenticate(headers, shown).await?;
        behalf::principal(principal, headers)
    }

    fn count(&self, decided: &Result<Principal, Refusal>, permission: Option<Permission>) {
        let Some(decisions) = &self.decisions else {
            return;
        };
        let (decision, via) = match decided {
            Ok(principal) => ("allowed", principal.via),
            Err(Refusal::PermissionMissing { principal, .. }) => ("denied", principal.via),
            Err(refusal) if refusal.kind() == Kind::Unimplemented => ("not_served", Via::Nothing),
            Err(Refusal::TooManyCalls) => ("too_many", Via::Nothing),
            Err(_) => ("unauthenticated", Via::Nothing),
        };
        let labels = DecisionLabels {
            decision,
            permission: permission.map_or("none", Permission::name),
            via: via.name(),
        };
        decisions.get_or_create(&labels).inc();
    }

    /// Refuses a call of somebody of whom nothing is known.
    fn refuse(&self, refusal: Refusal, path: &str, peer: Option<&Peer>) -> Status {
        self.report(&refusal, path, peer);
        let status = to_status(&refusal);
        self.count(&Err(refusal), None);
        status
    }

    fn report(&self, refusal: &Refusal, path: &str, peer: Option<&Peer>) {
        let Some(suppressed) = self.log.tells(refusal) else {
            return;
        };
        tracing::info!(
            path,
            peer = peer.map(|it| tracing::field::display(it.address())),
            reason = refusal.reason(),
            error = %refusal,
            suppressed,
            "call refused"
        );
    }
}

fn permit(
    principal: Principal,
    permission: Option<Permission>,
    path: &str,
) -> Result<Principal, Refusal> {
    let method = || path.trim_start_matches('/').to_owned();
    match permission {
        None => Err(Refusal::NotServed { method: method() }),
        Some(permission) if principal.may(permission) => Ok(principal),
        Some(permission) => Err(Refusal::PermissionMissing {
            principal,
            permission,
            action: format!("call {}", method()),
        }),
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService {
            inner,
            auth: Arc::new(self.clone()),
        }
    }
}

/// A gRPC service behind an [`AuthLayer`].
#[derive(Debug, Clone)]
pub struct AuthService<S> {
    inner: S,
    auth: Arc<AuthLayer>,
}

impl<S> Service<Request<Body>> for AuthService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let peer = request
            .extensions()
            .get::<PeerHandle>()
            .map(|PeerHandle(peer)| Arc::clone(peer));
        if let Some(peer) = &peer {
            // Where `tonic::Request::remote_addr` looks.
            request.extensions_mut().insert(TcpConnectInfo {
                local_addr: None,
                remote_addr: Some(peer.address()),
            });
        }
        let path = request.uri().path();
        let anybodys = Brings::of_anybody(path);
        let reads_first = self.auth.reads_first.contains(&path);
        let brings = anybodys.or_else(|| reads_first.then_some(Brings::Proof));
        let asking = peer.as_ref().map(|peer| Arc::new(peer.asks()));
        if let Some(brings) = brings {
            let body = std::mem::take(request.body_mut());
            let bound = self
                .auth
                .strangers
                .bound(brings, body, peer.as_ref(), asking.as_ref());
            match bound {
                Ok(body) => *request.body_mut() = body,
                Err(refusal) => {
                    let path = request.uri().path();
                    let status = self.auth.refuse(refusal, path, peer.as_deref());
                    return Box::pin(ready(Ok(status.into_http())));
                }
            }
        }
        if anybodys.is_some() {
            let answered = self.inner.call(request);
            return Box::pin(async move {
                let response = answered.await;
                drop(asking);
                response
            });
        }
        let path = request.uri().path();
        if self.auth.open.iter().any(|prefix| path.starts_with(prefix)) {
            let answered = self.inner.call(request);
            return Box::pin(async move {
                let response = answered.await?;
                drop(asking);
                if let Some(peer) = peer
                    && is_let_in(&response)
                {
                    peer.proven();
                }
                Ok(response)
            });
        }
        // The one that is ready is called; the copy is for the next call.
        let copy = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, copy);
        let auth = Arc::clone(&self.auth);
        Box::pin(async move {
            let _asking = asking;
            let (path, headers) = (request.uri().path(), request.headers());
            match auth.decide(path, headers, peer.as_deref()).await {
                Ok(principal) => {
                    let call = Standing::new(&principal, &request, peer.as_ref());
                    request.extensions_mut().insert(principal);
                    let response = inner.call(request).await?;
                    Ok(auth.guard(response, call))
                }
                Err(refusal) => Ok(to_status(&refusal).into_http()),
            }
        })
    }
}

/// True if a service that authenticates its callers itself did not refuse this one. A stream that
/// begins has no status yet; what it comes to is not the connection's fault.
fn is_let_in(response: &Response<Body>) -> bool {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return true;
    };
    status.code() == Code::Ok
}

#[cfg(test)]
mod tests;
