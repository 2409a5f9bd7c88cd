//! Why a call is refused. What the caller reads says what is missing, and never a secret.

use std::time::Duration;

use crate::auth::oidc::TokenProblem;
use crate::auth::vouching::VoucherProblem;
use crate::auth::{Permission, Principal, Role};
use crate::error::{Classified, Kind};

/// When to try again where too many calls are unfinished: good ones end within milliseconds.
const CROWDED_FOR: Duration = Duration::from_secs(1);

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The call carries nothing that says who makes it.
    #[error("this API needs to know who calls: {wanted}")]
    Missing {
        /// What would be accepted.
        wanted: String,
    },
    /// The call carries a token that is none of ours.
    #[error("the token is not valid here")]
    WrongToken,
    /// The call carries a token that claims to be the OIDC provider's.
    #[error(transparent)]
    Token(TokenProblem),
    /// The certificate that the connection began with is past its time.
    #[error("the client certificate has expired since it was shown; connect again with another")]
    CertificateExpired,
    /// A replica has passed the call on and is not believed.
    #[error("the call is not taken over: {0}")]
    Voucher(VoucherProblem),
    /// Whether the token is good cannot be told, because the provider does not answer.
    #[error("the token cannot be checked: the OIDC provider does not answer")]
    ProviderAway,
    /// The caller is known and may not do this.
    #[error(
        "{} ({}) may not {action}: the permission {permission} is missing; {}",
        principal.name,
        held(principal),
        holders(*permission)
    )]
    PermissionMissing {
        /// Who calls.
        principal: Principal,
        /// What it is not allowed.
        permission: Permission,
        /// What it wanted: `call package.Service/Method`.
        action: String,
    },
    /// So many calls of its network that need no proof have not come to their end.
    #[error("too many unfinished calls of this network, or of all; try again later")]
    TooManyCalls,
    /// What the call brings did not come to its end in time.
    #[error("the call did not come to its end within {} s", .within.as_secs())]
    Unfinished {
        /// So long was waited.
        within: Duration,
    },
    /// The method does not exist here, or nobody has said who may call it.
    #[error("this server does not serve {method}")]
    NotServed {
        /// `package.Service/Method`.
        method: String,
    },
}

fn held(principal: &Principal) -> String {
    if principal.roles.is_empty() {
        return "no roles".to_owned();
    }
    format!("roles: {}", principal.role_names())
}

fn holders(permission: Permission) -> String {
    let roles: Vec<_> = permission.roles().map(Role::name).collect();
    match roles.as_slice() {
        [one] => format!("the role {one} has it"),
        many => format!("the roles {} have it", many.join(", ")),
    }
}

impl Classified for Refusal {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. }
            | Self::WrongToken
            | Self::Token(_)
            | Self::CertificateExpired
            | Self::Voucher(_) => Kind::Unauthenticated,
            Self::ProviderAway => Kind::Unavailable,
            Self::PermissionMissing { .. } => Kind::PermissionDenied,
            Self::TooManyCalls => Kind::ResourceExhausted,
            Self::Unfinished { .. } => Kind::DeadlineExceeded,
            Self::NotServed { .. } => Kind::Unimplemented,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "TOKEN_MISSING",
            Self::WrongToken => "TOKEN_WRONG",
            Self::Token(problem) => problem.reason(),
            Self::CertificateExpired => "CERTIFICATE_EXPIRED",
            Self::Voucher(_) => "REPLICA_NOT_BELIEVED",
            Self::ProviderAway => "OIDC_PROVIDER_UNAVAILABLE",
            Self::PermissionMissing { .. } => "PERMISSION_MISSING",
            Self::TooManyCalls => "TOO_MANY_CALLS",
            Self::Unfinished { .. } => "CALL_UNFINISHED",
            Self::NotServed { .. } => "METHOD_NOT_SERVED",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::PermissionMissing {
                principal,
                permission,
                ..
            } => vec![
                ("permission", permission.name().to_owned()),
                ("roles", principal.role_names()),
                ("principal", principal.name.clone()),
            ],
            Self::Missing { .. }
            | Self::WrongToken
            | Self::Token(_)
            | Self::CertificateExpired
            | Self::Voucher(_)
            | Self::ProviderAway
            | Self::TooManyCalls
            | Self::Unfinished { .. }
            | Self::NotServed { .. } => Vec::new(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::TooManyCalls).then_some(CROWDED_FOR)
    }
}
