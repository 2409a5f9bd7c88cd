//! Devices that have no identity yet and register by an enrolment: twin-store judges their proof, and
//! a peer that fails again and again must wait.

use std::net::IpAddr;

use service_kit::error::{Classified as _, Kind};
use wire::registry::v1 as registry;

use super::{AuthError, Authenticator};
use crate::admissions::Admissions;
use crate::twins::Refused;

impl Authenticator {
    /// The hub's host name, which a registered device connects to.
    pub(crate) fn host(&self) -> &str {
        &self.shared.host
    }

    /// Whether a device may register.
    pub(crate) async fn check_registration(
        &self,
        claim: registry::RegistrationClaim,
        peer: IpAddr,
        admissions: &Admissions,
    ) -> Result<(), AuthError> {
        let checking = async {
            let checked = self.shared.store.check_registration(claim).await;
            checked.map_err(refused)
        };
        self.limited(Some(peer), admissions, checking).await
    }

    /// Registers a device, or refuses in twin-store's words.
    pub(crate) async fn register(
        &self,
        claim: registry::RegistrationClaim,
        peer: IpAddr,
        admissions: &Admissions,
    ) -> Result<registry::Registration, AuthError> {
        let registering = async {
            let registered = self.shared.store.register_device(claim).await;
            registered.map_err(refused)
        };
        self.limited(Some(peer), admissions, registering).await
    }

    /// How a device registered last.
    pub(crate) async fn registration(
        &self,
        claim: registry::RegistrationClaim,
        operation_id: String,
        peer: IpAddr,
        admissions: &Admissions,
    ) -> Result<registry::Registration, AuthError> {
        let asking = async {
            let known = self.shared.store.registration(claim, operation_id).await;
            known.map_err(refused)
        };
        self.limited(Some(peer), admissions, asking).await
    }
}

fn refused(error: Refused) -> AuthError {
    match error.kind() {
        Kind::Unavailable | Kind::DeadlineExceeded => AuthError::Unavailable(error),
        _ => AuthError::NotRegistered(error),
    }
}
