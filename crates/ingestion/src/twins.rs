//! The way to twin-store: identities' credentials and devices' own twins, over gRPC.
//!
//! Every call has a deadline and carries the current span's trace context. It retries nothing: an
//! agent that waits for an answer repeats by itself, and what is level-triggered comes again.

use std::time::Duration;

use jiff::Timestamp;
use service_kit::client::Connection;
use service_kit::status::RemoteError;
use tonic::{Request, Response, Status};
use twin::IdentityKey;
use wire::agent::v1 as agent;
use wire::agent::v1::acknowledge_desired::Outcome;
use wire::names::identity_name;
use wire::registry::v1 as registry;
use wire::registry::v1::credential_service_client::CredentialServiceClient;
use wire::registry::v1::provisioning_service_client::ProvisioningServiceClient;
use wire::twin::v1 as twins;
use wire::twin::v1::device_twin_service_client::DeviceTwinServiceClient;

/// How long a call may take. Twin-store answers in milliseconds; past this it is better to tell the
/// agent "later" than to hold its session.
const DEADLINE: Duration = Duration::from_secs(5);

/// What twin-store said instead of an answer; boxed, because it carries every detail of its status.
pub(crate) type Refused = Box<RemoteError>;

/// A client of twin-store. Clones share the connection.
#[derive(Debug, Clone)]
pub(crate) struct TwinStore {
    credentials: CredentialServiceClient<Connection>,
    provisioning: ProvisioningServiceClient<Connection>,
    twins: DeviceTwinServiceClient<Connection>,
}

impl TwinStore {
    /// Uses a connection, which may not be up yet.
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            credentials: CredentialServiceClient::new(connection.clone()),
            provisioning: ProvisioningServiceClient::new(connection.clone()),
            twins: DeviceTwinServiceClient::new(connection),
        }
    }

    /// The keys and the standing of an identity.
    pub(crate) async fn credentials(
        &self,
        identity: &IdentityKey,
    ) -> Result<registry::Credentials, Refused> {
        let request = registry::GetCredentialsRequest {
            name: identity_name(identity),
        };
        answer(
            self.credentials
                .clone()
                .get_credentials(bounded(request))
                .await,
        )
    }

    /// Exchanges an enrolment token for a module with its keys.
    pub(crate) async fn redeem(
        &self,
        request: registry::RedeemEnrollmentTokenRequest,
    ) -> Result<registry::Module, Refused> {
        answer(
            self.credentials
                .clone()
                .redeem_enrollment_token(bounded(request))
                .await,
        )
    }

    /// Whether a device may register by an enrolment.
    pub(crate) async fn check_registration(
        &self,
        claim: registry::RegistrationClaim,
    ) -> Result<(), Refused> {
        let request = registry::CheckRegistrationRequest { claim: Some(claim) };
        let mut door = self.provisioning.clone();
        answer(door.check_registration(bounded(request)).await).map(drop)
    }

    /// Makes or finds the device that registers.
    pub(crate) async fn register_device(
        &self,
        claim: registry::RegistrationClaim,
    ) -> Result<registry::Registration, Refused> {
        let request = registry::RegisterDeviceRequest { claim: Some(claim) };
        let mut door = self.provisioning.clone();
        answer(door.register_device(bounded(request)).await)
    }

    /// How a device registered last.
    pub(crate) async fn registration(
        &self,
        claim: registry::RegistrationClaim,
        operation_id: String,
    ) -> Result<registry::Registration, Refused> {
        let request = registry::GetRegistrationRequest {
            claim: Some(claim),
            operation_id,
        };
        let mut door = self.provisioning.clone();
        answer(door.get_registration(bounded(request)).await)
    }

    /// The desired section.
    pub(crate) async fn desired(
        &self,
        identity: &IdentityKey,
    ) -> Result<twins::DesiredSection, Refused> {
        self.sections(identity, false, 0).await
    }

    /// Both sections that a device sees.
    pub(crate) async fn twin(
        &self,
        identity: &IdentityKey,
    ) -> Result<twins::DesiredSection, Refused> {
        self.sections(identity, true, 0).await
    }

    /// What changed in the desired section since a version, which is not 0.
    pub(crate) async fn desired_since(
        &self,
        identity: &IdentityKey,
        version: u64,
    ) -> Result<twins::DesiredSection, Refused> {
        self.sections(identity, false, version).await
    }

    /// Merges into the reported section and answers its new version. The version that it must have
    /// before may be 0: whatever it has. `told`: the newest desired version that a device was told of
    /// that does not acknowledge by itself; 0: none.
    pub(crate) async fn patch_reported(
        &self,
        identity: &IdentityKey,
        patch_json: String,
        expected_version: u64,
        told: u64,
    ) -> Result<u64, Refused> {
        let request = twins::PatchReportedRequest {
            name: identity_name(identity),
            patch_json,
            expected_version,
            told_desired_version: told,
            ..Default::default()
        };
        let answered = self.twins.clone().patch_reported(bounded(request)).await;
        Ok(answer(answered)?.version)
    }

    /// Records how the agent decided on a desired version.
    pub(crate) async fn acknowledge(
        &self,
        identity: &IdentityKey,
        acknowledge: agent::AcknowledgeDesired,
        push_time: Option<Timestamp>,
    ) -> Result<(), Refused> {
        let request = twins::AcknowledgeDesiredRequest {
            name: identity_name(identity),
            version: acknowledge.version,
            applied: acknowledge.outcome() == Outcome::Applied,
            reverted: acknowledge.outcome() == Outcome::Reverted,
            running_version: acknowledge.running_version,
            reason: acknowledge.reason,
            invalid_fields: acknowledge.invalid_fields,
            push_time: push_time.map(wire::time::to_wire),
            apply_time: acknowledge.apply_time,
        };
        answer(
            self.twins
                .clone()
                .acknowledge_desired(bounded(request))
                .await,
        )?;
        Ok(())
    }

    async fn sections(
        &self,
        identity: &IdentityKey,
        include_reported: bool,
        changes_after_version: u64,
    ) -> Result<twins::DesiredSection, Refused> {
        let request = twins::GetDesiredRequest {
            name: identity_name(identity),
            include_reported,
            changes_after_version,
        };
        answer(self.twins.clone().get_desired(bounded(request)).await)
    }
}

fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

fn answer<T>(answered: Result<Response<T>, Status>) -> Result<T, Refused> {
    match answered {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(Box::new(RemoteError::from(status))),
    }
}
