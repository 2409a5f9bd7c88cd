//! Who calls a gRPC API, and whether it may.
//!
//! A caller proves itself with a token from the configuration, a token of an OIDC provider or a
//! client certificate, and is then a [`Principal`] with roles; or another replica of the service
//! vouches for it ([`Vouching`]). Answers that last are ended when the proof is. Each method needs one [`Permission`], given by the service when it is built; [`Role`] is
//! the one table that says who has which. Health and reflection are open, for probes; so is what a
//! service declares open because it authenticates its callers itself (the agents' door).
//!
//! With nothing configured authorisation is off, which only loopback accepts.
//! Nothing here knows what a method does; what it may show to whom (keys) the handler decides with
//! [`principal`].

mod authenticator;
mod behalf;
mod certificate;
mod config;
pub mod coverage;
mod layer;
mod oidc;
mod permission;
mod refusal;
mod token;
mod vouching;

use std::net::SocketAddr;

pub(crate) use authenticator::Credentials;
pub use behalf::ON_BEHALF_OF;
pub(crate) use certificate::Shown;
pub(crate) use certificate::common_name;
pub use config::AuthConfig;
pub use layer::{AuthLayer, AuthService};
pub use permission::{Permission, Principal, Role, UnknownRole, Via};
pub use token::AdminToken;
pub use vouching::Vouching;

use crate::error::{Classified, Kind};
use crate::status::to_status;
use refusal::Refusal;
use token::TOKEN_MIN_LEN;

/// Who makes this call, for handlers that record it or show more to some. A caller whom no
/// [`AuthLayer`] has looked at is nobody, and may do nothing.
pub fn principal<T>(request: &tonic::Request<T>) -> Principal {
    request
        .extensions()
        .get::<Principal>()
        .cloned()
        .unwrap_or_else(Principal::nobody)
}

/// Refuses a call whose caller lacks a permission that only some calls of its method need: reading
/// a device may be allowed, and reading its keys not. The action completes "may not …".
pub fn require<T>(
    request: &tonic::Request<T>,
    permission: Permission,
    action: &str,
) -> Result<(), tonic::Status> {
    check(&principal(request), permission, action).map_err(|denied| to_status(&denied))
}

/// As [`require`], for a caller who is known already.
pub fn check(principal: &Principal, permission: Permission, action: &str) -> Result<(), Denied> {
    if principal.may(permission) {
        return Ok(());
    }
    let denied = Denied(Box::new(Refusal::PermissionMissing {
        principal: principal.clone(),
        permission,
        action: action.to_owned(),
    }));
    tracing::info!(error = %denied, "call refused");
    Err(denied)
}

/// The caller lacks a permission, which the text and the details name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Denied(Box<Refusal>);

impl Classified for Denied {
    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn reason(&self) -> &str {
        self.0.reason()
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        self.0.metadata()
    }
}

/// Why a token or a listener cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The configured token is too short.
    #[error("a token must have at least {TOKEN_MIN_LEN} characters")]
    TooShort,
    /// The configured token cannot be sent.
    #[error("a token must consist of printable ASCII characters without spaces")]
    NotPrintable,
    /// A setting of `[auth]` cannot be used.
    #[error("auth.{key}: {problem}")]
    Setting {
        /// Which one.
        key: &'static str,
        /// What is wrong and what is wanted.
        problem: String,
    },
    /// An API without authorisation would be reachable from other machines.
    #[error(
        "refusing to serve {address} without authorisation, because other machines can reach it; \
         set a token, an OIDC issuer or client certificates, listen on 127.0.0.1, or set allow_insecure = true"
    )]
    OpenToOthers {
        /// The configured address.
        address: SocketAddr,
    },
}

impl Classified for AuthError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TooShort => "TOKEN_TOO_SHORT",
            Self::NotPrintable => "TOKEN_NOT_PRINTABLE",
            Self::Setting { .. } => "AUTH_SETTING_INVALID",
            Self::OpenToOthers { .. } => "TOKEN_NOT_CONFIGURED",
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

#[cfg(test)]
mod tests {
    use tonic::{Code, Request};

    use super::*;

    #[test]
    fn a_handler_may_ask_for_more_than_the_method_needs() {
        let action = "read the keys of devices";
        let keys = |request: &Request<()>| require(request, Permission::RegistryKeysRead, action);
        let mut request = Request::new(());
        let status = keys(&request).expect_err("nobody may");
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(
            status
                .message()
                .contains("unknown (no roles) may not read the keys")
        );
        request
            .extensions_mut()
            .insert(Principal::new("root", [Role::Admin], Via::Token));
        assert!(keys(&request).is_ok());
        assert_eq!(principal(&request).name, "root");
    }
}
