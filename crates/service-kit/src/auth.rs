//! Bearer-token authentication of gRPC APIs that serve operators and other services.
//!
//! One token per service protects everything but health and reflection, which are for probes and
//! say nothing secret, and what the service declares open because it authenticates callers itself
//! (the agents' door). There are no users or roles here.

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::error::{Classified, Kind};
use crate::secret::Secret;
use crate::status::to_status;

const SCHEME: &str = "Bearer ";
/// Below this a token could be guessed; 16 random base64 characters hold 96 bits.
const TOKEN_MIN_LEN: usize = 16;
/// What probes and tools may call without a token.
const ALWAYS_OPEN: [&str; 2] = ["/grpc.health.v1.Health/", "/grpc.reflection."];

/// A token that opens a gRPC API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminToken(Secret);

impl AdminToken {
    /// Takes a token over if it is long enough to be one and can travel in a header.
    pub fn new(token: Secret) -> Result<Self, AuthError> {
        let text = token.expose();
        if text.len() < TOKEN_MIN_LEN {
            return Err(AuthError::TooShort);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AuthError::NotPrintable);
        }
        Ok(Self(token))
    }

    /// The value of the `authorization` header that carries this token.
    pub(crate) fn header(&self) -> Secret {
        Secret::new(format!("{SCHEME}{}", self.0.expose()))
    }
}

/// Why a call is refused, or a token or listener cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The call carries no token.
    #[error("this API needs a token: send the header `authorization: Bearer <token>`")]
    Missing,
    /// The call carries another token.
    #[error("the token is not valid here")]
    Wrong,
    /// The configured token is too short.
    #[error("a token must have at least {TOKEN_MIN_LEN} characters")]
    TooShort,
    /// The configured token cannot be sent.
    #[error("a token must consist of printable ASCII characters without spaces")]
    NotPrintable,
    /// An API without a token would be reachable from other machines.
    #[error(
        "refusing to serve {address} without a token, because other machines can reach it; set \
         a token, listen on 127.0.0.1, or set allow_insecure = true"
    )]
    OpenToOthers {
        /// The configured address.
        address: SocketAddr,
    },
}

impl Classified for AuthError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing | Self::Wrong => Kind::Unauthenticated,
            Self::TooShort | Self::NotPrintable | Self::OpenToOthers { .. } => {
                Kind::InvalidArgument
            }
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "TOKEN_MISSING",
            Self::Wrong => "TOKEN_WRONG",
            Self::TooShort => "TOKEN_TOO_SHORT",
            Self::NotPrintable => "TOKEN_NOT_PRINTABLE",
            Self::OpenToOthers { .. } => "TOKEN_NOT_CONFIGURED",
        }
    }
}

/// Checks the token of every call to a gRPC server.
#[derive(Debug, Clone)]
pub struct AuthLayer(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    token: Option<AdminToken>,
    open: Vec<String>,
}

impl AuthLayer {
    /// Lets calls pass that carry the token; all calls, if there is none.
    #[must_use]
    pub fn new(token: Option<AdminToken>) -> Self {
        let open = ALWAYS_OPEN.map(str::to_owned).to_vec();
        Self(Arc::new(Rules { token, open }))
    }

    /// The rule for a listener: without a token it serves this machine only (with a warning),
    /// unless the operator insists.
    pub fn for_listener(
        token: Option<AdminToken>,
        address: SocketAddr,
        insecure: Insecure,
    ) -> Result<Self, AuthError> {
        if token.is_none() {
            if !address.ip().is_loopback() && insecure == Insecure::Refused {
                return Err(AuthError::OpenToOthers { address });
            }
            tracing::warn!(%address, "no token is configured: whoever reaches this API may use it");
        }
        Ok(Self::new(token))
    }

    /// Lets calls to paths with this prefix (`/twinward.ingestion.v1.AgentService/`) pass without
    /// a token, because the service authenticates them itself.
    #[must_use]
    pub fn open(self, prefix: impl Into<String>) -> Self {
        let mut open = self.0.open.clone();
        open.push(prefix.into());
        Self(Arc::new(Rules {
            token: self.0.token.clone(),
            open,
        }))
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), AuthError> {
        let Some(token) = &self.0.token else {
            return Ok(());
        };
        if self.0.open.iter().any(|prefix| path.starts_with(prefix)) {
            return Ok(());
        }
        let value = headers
            .get(AUTHORIZATION)
            .ok_or(AuthError::Missing)?
            .as_bytes();
        match value.split_at_checked(SCHEME.len()) {
            // RFC 9110: the name of the scheme is not case-sensitive.
            Some((scheme, given)) if scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) => {
                if token.0.matches(given) {
                    Ok(())
                } else {
                    Err(AuthError::Wrong)
                }
            }
            _ => Err(AuthError::Missing),
        }
    }
}

/// Whether an operator has insisted on serving other machines unprotected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insecure {
    /// The default: refuse to.
    Refused,
    /// `allow_insecure = true`.
    Allowed,
}

impl From<bool> for Insecure {
    fn from(allow_insecure: bool) -> Self {
        if allow_insecure {
            Self::Allowed
        } else {
            Self::Refused
        }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService {
            inner,
            auth: self.clone(),
        }
    }
}

/// A gRPC service behind an [`AuthLayer`].
#[derive(Debug, Clone)]
pub struct AuthService<S> {
    inner: S,
    auth: AuthLayer,
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.auth.check(request.uri().path(), request.headers()) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(error) => {
                tracing::debug!(path = request.uri().path(), %error, "call refused");
                Box::pin(ready(Ok(to_status(&error).into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";
    const PATH: &str = "/twinward.twin.v1.TwinService/GetTwin";

    fn layer() -> AuthLayer {
        AuthLayer::new(Some(
            AdminToken::new(Secret::new(TOKEN)).expect("long enough"),
        ))
    }

    fn check(layer: &AuthLayer, path: &str, header: Option<&str>) -> Result<(), AuthError> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().expect("a header value"));
        }
        layer.check(path, &headers)
    }

    #[test]
    fn only_the_right_token_opens() {
        let right = format!("Bearer {TOKEN}");
        assert_eq!(check(&layer(), PATH, Some(&right)), Ok(()));
        assert_eq!(
            check(&layer(), PATH, Some(&right.replace('B', "b"))),
            Ok(())
        );
        assert_eq!(
            check(&layer(), PATH, Some("Bearer 0123456789abcdeX")),
            Err(AuthError::Wrong)
        );
        assert_eq!(
            check(&layer(), PATH, Some("Bearer ")),
            Err(AuthError::Wrong)
        );
        assert_eq!(
            check(&layer(), PATH, Some("Basic abc")),
            Err(AuthError::Missing)
        );
        assert_eq!(check(&layer(), PATH, None), Err(AuthError::Missing));
    }

    #[test]
    fn probes_and_declared_doors_need_no_token() {
        let layer = layer().open("/twinward.ingestion.v1.AgentService/");
        assert_eq!(check(&layer, "/grpc.health.v1.Health/Check", None), Ok(()));
        assert_eq!(
            check(
                &layer,
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                None
            ),
            Ok(())
        );
        assert_eq!(
            check(&layer, "/twinward.ingestion.v1.AgentService/Connect", None),
            Ok(())
        );
        assert_eq!(check(&layer, PATH, None), Err(AuthError::Missing));
    }

    #[test]
    fn without_a_token_other_machines_are_not_served() {
        let local = "127.0.0.1:1".parse().expect("an address");
        let open: SocketAddr = "0.0.0.0:1".parse().expect("an address");
        assert!(AuthLayer::for_listener(None, local, Insecure::Refused).is_ok());
        assert_eq!(
            AuthLayer::for_listener(None, open, Insecure::Refused).map(|_| ()),
            Err(AuthError::OpenToOthers { address: open })
        );
        assert!(AuthLayer::for_listener(None, open, Insecure::Allowed).is_ok());
    }

    #[test]
    fn a_token_must_be_hard_to_guess_and_fit_a_header() {
        assert_eq!(
            AdminToken::new(Secret::new("short")),
            Err(AuthError::TooShort)
        );
        let spaced = Secret::new("0123456789 abcdef");
        assert_eq!(AdminToken::new(spaced), Err(AuthError::NotPrintable));
    }
}
