//! Why somebody is not let in, and what that means to a caller.

use std::time::Duration;

use iot_hub::SasError;
use iot_hub::mqtt::ConnectError;
use jiff::Timestamp;
use service_kit::error::{Classified, IotHubCode, Kind};
use twin::IdentityKey;

use crate::twins::Refused;

/// When to try again where too many wait: thousands are looked up in a second.
pub(crate) const CROWDED_FOR: Duration = Duration::from_secs(1);

/// Why somebody is not let in. The texts go to the peer: they tell what to mend, never a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    /// There is no token.
    #[error(
        "the call has no `authorization` metadata; a SAS token of the device or module is needed"
    )]
    Missing,
    /// The token cannot be read, has expired, is for another host, or was made with another key.
    #[error(transparent)]
    Token(#[from] SasError),
    /// The token is for something that is neither device nor module.
    #[error(
        "the SAS token is for {resource}; needed is {{host}}/devices/{{device}} or \
         {{host}}/devices/{{device}}/modules/{{module}}"
    )]
    NoIdentity {
        /// What it is for.
        resource: String,
    },
    /// A device shows neither a token nor a certificate.
    #[error(
        "there is neither a password nor a client certificate; a SAS token of the identity or its \
         certificate is needed"
    )]
    NothingShown,
    /// The names of a CONNECT cannot be read.
    #[error(transparent)]
    Name(#[from] ConnectError),
    /// The user name is for another hub.
    #[error("the user name is for the hub `{found}`, this is `{host}`")]
    WrongHost {
        /// As the device has it.
        found: String,
        /// Ours.
        host: String,
    },
    /// The token is of another identity than the one that connects.
    #[error("{identity} connects with a SAS token of another identity")]
    AnotherIdentity {
        /// Who connects.
        identity: IdentityKey,
    },
    /// The token is of a shared access policy, and nobody knows which there are.
    #[error(
        "tokens of access policies cannot be judged: their file is not there yet (access_policies_file)"
    )]
    NoPolicies,
    /// The certificate is not one that is registered for the identity.
    #[error("the client certificate (SHA-256 {thumbprint}) is not registered for {identity}")]
    WrongCertificate {
        /// Who connects.
        identity: IdentityKey,
        /// Of the certificate.
        thumbprint: String,
    },
    /// Its certificates are to be signed by an authority, and none is trusted here.
    #[error("{identity} proves itself by an authority, and none is trusted here (device_ca_file)")]
    NoAuthorities {
        /// Who connects.
        identity: IdentityKey,
    },
    /// No authority that is trusted here has signed the certificate.
    #[error("the client certificate shown for {identity} is not to be trusted: {problem}")]
    NotSigned {
        /// Who connects.
        identity: IdentityKey,
        /// What is wrong with it.
        problem: String,
    },
    /// The certificate has ended.
    #[error("the client certificate of {identity} ended at {ended_at}")]
    CertificateExpired {
        /// Who connects, or is connected.
        identity: IdentityKey,
        /// When it ended.
        ended_at: Timestamp,
    },
    /// The certificate is somebody else's.
    #[error(
        "the common name of the client certificate is {}, it must be `{identity}`",
        found.as_ref().map_or("missing, or there are several".to_owned(), |name| format!("`{name}`"))
    )]
    WrongCommonName {
        /// Who connects.
        identity: IdentityKey,
        /// Its name, if it has one.
        found: Option<String>,
    },
    /// It does not prove itself by an authority any more.
    #[error("{identity} does not prove itself by an authority any more")]
    NotByAuthority {
        /// Who is connected.
        identity: IdentityKey,
    },
    /// There is no such identity (any more).
    #[error("{identity} is not registered here, or was deleted")]
    Unknown {
        /// Which one.
        identity: IdentityKey,
    },
    /// The identity was deleted and created again since the session began.
    #[error("{identity} was created again; its keys have changed")]
    CreatedAgain {
        /// Which one.
        identity: IdentityKey,
    },
    /// An operator disabled it.
    #[error("{identity} is disabled")]
    Disabled {
        /// Which one.
        identity: IdentityKey,
    },
    /// The peer failed too often.
    #[error("too many failures from this address; try again in {} s", .wait.as_secs() + 1)]
    TooManyFailures {
        /// How long it must wait.
        wait: Duration,
    },
    /// So many wait to be looked up.
    #[error("too many wait to be let in at this address, or at all; try again later")]
    TooManyWaiting,
    /// A device that wants to be provisioned is refused by twin-store, in its own words.
    #[error(transparent)]
    NotRegistered(Refused),
    /// Twin-store did not answer, so nobody can be proven.
    #[error("credentials cannot be checked at the moment")]
    Unavailable(#[source] Refused),
}

impl AuthError {
    /// Whether an operator has taken its right from an identity that had one; a proof that ends by
    /// itself takes nothing.
    pub(crate) fn says_it_may_not_send(&self) -> bool {
        !matches!(
            self,
            Self::Token(SasError::Expired { .. }) | Self::CertificateExpired { .. }
        )
    }

    /// The stable code of the failure.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Missing => "TOKEN_MISSING",
            Self::Token(error) => match error {
                SasError::Expired { .. } => "TOKEN_EXPIRED",
                SasError::WrongResource { .. } => "TOKEN_FOR_ANOTHER_HOST",
                SasError::WrongSignature => "WRONG_KEY",
                SasError::NotASasToken
                | SasError::TooLong { .. }
                | SasError::MissingField { .. }
                | SasError::RepeatedField { .. }
                | SasError::MalformedField { .. } => "TOKEN_MALFORMED",
            },
            Self::NoIdentity { .. } => "TOKEN_WITHOUT_IDENTITY",
            Self::NothingShown => "CREDENTIALS_MISSING",
            Self::Name(ConnectError::Provisioning) => "PROVISIONING_NAME_MALFORMED",
            Self::Name(
                ConnectError::ClientId | ConnectError::NoUserName | ConnectError::UserName,
            ) => "NAME_MALFORMED",
            Self::WrongHost { .. } => "NAME_FOR_ANOTHER_HOST",
            Self::AnotherIdentity { .. } => "TOKEN_FOR_ANOTHER_IDENTITY",
            Self::NoPolicies => "POLICIES_MISSING",
            Self::WrongCertificate { .. } => "WRONG_CERTIFICATE",
            Self::NoAuthorities { .. } => "AUTHORITIES_MISSING",
            Self::NotSigned { .. } => "CERTIFICATE_NOT_SIGNED",
            Self::CertificateExpired { .. } => "CERTIFICATE_EXPIRED",
            Self::WrongCommonName { .. } => "WRONG_COMMON_NAME",
            Self::NotByAuthority { .. } => "NOT_BY_AUTHORITY",
            Self::Unknown { .. } => "IDENTITY_NOT_FOUND",
            Self::CreatedAgain { .. } => "IDENTITY_CREATED_AGAIN",
            Self::Disabled { .. } => "IDENTITY_DISABLED",
            Self::TooManyFailures { .. } => "TOO_MANY_FAILURES",
            Self::TooManyWaiting => "TOO_MANY_WAITING",
            Self::NotRegistered(_) => "REGISTRATION_REFUSED",
            Self::Unavailable(_) => "CREDENTIALS_UNAVAILABLE",
        }
    }

    /// Whether it counts against the peer.
    pub(super) fn is_the_peers_fault(&self) -> bool {
        match self {
            Self::Missing
            | Self::Token(_)
            | Self::NoIdentity { .. }
            | Self::NothingShown
            | Self::Name(_)
            | Self::WrongHost { .. }
            | Self::AnotherIdentity { .. }
            | Self::WrongCertificate { .. }
            | Self::NotSigned { .. }
            | Self::CertificateExpired { .. }
            | Self::WrongCommonName { .. }
            | Self::NotByAuthority { .. }
            | Self::Unknown { .. }
            | Self::CreatedAgain { .. }
            | Self::Disabled { .. } => true,
            Self::NotRegistered(refused) => matches!(
                refused.kind(),
                Kind::Unauthenticated | Kind::PermissionDenied | Kind::InvalidArgument
            ),
            // What nobody has given us is no fault of theirs.
            Self::NoPolicies
            | Self::NoAuthorities { .. }
            | Self::TooManyFailures { .. }
            | Self::TooManyWaiting
            | Self::Unavailable(_) => false,
        }
    }
}

impl Classified for AuthError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing
            | Self::Token(_)
            | Self::NoIdentity { .. }
            | Self::NothingShown
            | Self::WrongHost { .. }
            | Self::AnotherIdentity { .. }
            | Self::WrongCertificate { .. }
            | Self::NoAuthorities { .. }
            | Self::NotSigned { .. }
            | Self::CertificateExpired { .. }
            | Self::WrongCommonName { .. }
            | Self::NotByAuthority { .. }
            | Self::CreatedAgain { .. } => Kind::Unauthenticated,
            Self::Name(_) => Kind::InvalidArgument,
            Self::Unknown { .. } => Kind::NotFound,
            Self::Disabled { .. } => Kind::PermissionDenied,
            Self::TooManyFailures { .. } | Self::TooManyWaiting => Kind::ResourceExhausted,
            Self::NotRegistered(refused) => refused.kind(),
            Self::NoPolicies | Self::Unavailable(_) => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &str {
        self.code()
    }

    fn iot_hub(&self) -> IotHubCode {
        match self {
            Self::Unknown { identity } if identity.module.is_some() => {
                IotHubCode::new(404_010, "ModuleNotFound")
            }
            Self::NotRegistered(refused) => refused.iot_hub(),
            Self::Unknown { .. }
            | Self::Missing
            | Self::Token(_)
            | Self::NoIdentity { .. }
            | Self::NothingShown
            | Self::Name(_)
            | Self::WrongHost { .. }
            | Self::AnotherIdentity { .. }
            | Self::NoPolicies
            | Self::WrongCertificate { .. }
            | Self::NoAuthorities { .. }
            | Self::NotSigned { .. }
            | Self::CertificateExpired { .. }
            | Self::WrongCommonName { .. }
            | Self::NotByAuthority { .. }
            | Self::CreatedAgain { .. }
            | Self::Disabled { .. }
            | Self::TooManyFailures { .. }
            | Self::TooManyWaiting
            | Self::Unavailable(_) => self.kind().iot_hub(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyFailures { wait } => Some(*wait),
            Self::TooManyWaiting => Some(CROWDED_FOR),
            Self::Missing
            | Self::Token(_)
            | Self::NoIdentity { .. }
            | Self::NothingShown
            | Self::Name(_)
            | Self::WrongHost { .. }
            | Self::AnotherIdentity { .. }
            | Self::NoPolicies
            | Self::WrongCertificate { .. }
            | Self::NoAuthorities { .. }
            | Self::NotSigned { .. }
            | Self::CertificateExpired { .. }
            | Self::WrongCommonName { .. }
            | Self::NotByAuthority { .. }
            | Self::Unknown { .. }
            | Self::CreatedAgain { .. }
            | Self::Disabled { .. }
            | Self::NotRegistered(_)
            | Self::Unavailable(_) => None,
        }
    }
}
