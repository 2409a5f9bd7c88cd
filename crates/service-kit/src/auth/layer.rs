//! Stands before a gRPC server's services and lets a call through, or answers it.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::auth::authenticator::Authenticator;
use crate::auth::refusal::Refusal;
use crate::auth::{AuthConfig, AuthError, Insecure, Permission, Principal, Via};
use crate::error::{Classified, Kind};
use crate::metrics::{Counter, EncodeLabelSet, Family, Scope};
use crate::secret::Secret;
use crate::status::to_status;

/// What probes and tools may call without saying who they are.
const ALWAYS_OPEN: [&str; 2] = ["/grpc.health.v1.Health/", "/grpc.reflection."];
/// Refusals that are logged within [`LOG_WINDOW`]; whoever guesses tokens must not fill the disk.
const LOG_MAX: u32 = 20;
/// See [`LOG_MAX`].
const LOG_WINDOW: Duration = Duration::from_secs(10);

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
    rules: HashMap<&'static str, Permission>,
    open: Vec<String>,
    decisions: Option<Family<DecisionLabels, Counter>>,
    log: Arc<Mutex<LogBudget>>,
}

impl AuthLayer {
    /// Knows callers as the configuration says; `token` is the service's own. Until there are
    /// rules, nothing is let through but what is open.
    pub fn new(token: Option<&Secret>, config: &AuthConfig) -> Result<Self, AuthError> {
        Ok(Self {
            authenticator: Arc::new(Authenticator::new(token, config)?),
            rules: HashMap::new(),
            open: ALWAYS_OPEN.map(str::to_owned).to_vec(),
            decisions: None,
            log: Arc::new(Mutex::new(LogBudget::default())),
        })
    }

    /// The rule for a listener: with authorisation off it serves this machine only (with a
    /// warning), unless the operator insists.
    pub fn for_listener(
        token: Option<&Secret>,
        config: &AuthConfig,
        address: SocketAddr,
        insecure: Insecure,
    ) -> Result<Self, AuthError> {
        let layer = Self::new(token, config)?;
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

    /// Counts the decisions under the service's name.
    #[must_use]
    pub fn metrics(mut self, scope: &Scope) -> Self {
        self.decisions = Some(scope.counters(
            "auth_decisions",
            "Decisions about who may call, by outcome, permission and how callers proved themselves",
        ));
        self
    }

    fn is_open(&self, path: &str) -> bool {
        self.open.iter().any(|prefix| path.starts_with(prefix))
    }

    /// Decides about a call that is not open.
    fn decide(&self, request: &Request<Body>) -> Result<Principal, Refusal> {
        let path = request.uri().path();
        let permission = self.rules.get(path).copied();
        let decided = self
            .authenticator
            .authenticate(request.headers())
            .and_then(|principal| permit(principal, permission, path));
        self.count(&decided, permission);
        if let Err(refusal) = &decided {
            self.report(refusal, path);
        }
        decided
    }

    fn count(&self, decided: &Result<Principal, Refusal>, permission: Option<Permission>) {
        let Some(decisions) = &self.decisions else {
            return;
        };
        let (decision, via) = match decided {
            Ok(principal) => ("allowed", principal.via),
            Err(Refusal::PermissionMissing { principal, .. }) => ("denied", principal.via),
            Err(refusal) if refusal.kind() == Kind::Unimplemented => ("not_served", Via::Nothing),
            Err(_) => ("unauthenticated", Via::Nothing),
        };
        let labels = DecisionLabels {
            decision,
            permission: permission.map_or("none", Permission::name),
            via: via.name(),
        };
        decisions.get_or_create(&labels).inc();
    }

    fn report(&self, refusal: &Refusal, path: &str) {
        let now = Instant::now();
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(suppressed) = log.take(now) else {
            return;
        };
        drop(log);
        tracing::info!(
            path,
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

/// How much may still be logged.
#[derive(Debug, Default)]
struct LogBudget {
    window: Option<Instant>,
    logged: u32,
    suppressed: u64,
}

impl LogBudget {
    /// Takes a line of the budget, and answers how many were not logged since the last one.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let fresh = self
            .window
            .is_none_or(|began| now.duration_since(began) >= LOG_WINDOW);
        if fresh {
            self.window = Some(now);
            self.logged = 0;
        }
        if self.logged >= LOG_MAX {
            self.suppressed += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.suppressed))
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
    S: Service<Request<Body>, Response = Response<Body>>,
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
        if self.auth.is_open(request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        match self.auth.decide(&request) {
            Ok(principal) => {
                request.extensions_mut().insert(principal);
                Box::pin(self.inner.call(request))
            }
            Err(refusal) => Box::pin(ready(Ok(to_status(&refusal).into_http()))),
        }
    }
}

#[cfg(test)]
mod tests;
