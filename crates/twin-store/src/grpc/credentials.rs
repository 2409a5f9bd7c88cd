//! `CredentialService`: what ingestion needs to prove who connects.

use tonic::{Request, Response};
use twin::IdentityKey;
use wire::names::identity_name;
use wire::registry::v1 as proto;
use wire::registry::v1::credential_service_server::CredentialService;

use super::authentication::open_keys;
use super::caller::Caller;
use super::{Api, identity, refuse};
use crate::encode;
use crate::error::Error;
use crate::record::{Record, Status};

impl Api {
    async fn credentials(
        &self,
        request: proto::GetCredentialsRequest,
    ) -> Result<proto::Credentials, Error> {
        let key = identity("name", &request.name)?;
        let record = self
            .store
            .get(key.clone())
            .await?
            .ok_or_else(|| Error::NotFound(key.clone()))?;
        Ok(proto::Credentials {
            name: identity_name(&key),
            generation_id: record.identity.generation_id.clone(),
            etag: record.identity.etag.to_string(),
            status: encode::status(self.standing(&record).await?).into(),
            keys: open_keys(&self.sealer, &record)?,
            authentication_type: encode::authentication_type(&record.identity.authentication)
                .into(),
            thumbprints: encode::thumbprints(&record.identity.authentication),
        })
    }

    /// Whether an identity may connect, which its device says.
    async fn standing(&self, record: &Record) -> Result<Status, Error> {
        if record.key.module.is_none() {
            return Ok(record.identity.status);
        }
        let device = IdentityKey::new_device(record.key.device.clone());
        let device = self.store.get(device.clone()).await?;
        // A module whose device has gone goes with it.
        Ok(device.map_or(Status::Disabled, |device| device.identity.status))
    }
}

#[tonic::async_trait]
impl CredentialService for Api {
    async fn get_credentials(
        &self,
        request: Request<proto::GetCredentialsRequest>,
    ) -> Result<Response<proto::Credentials>, tonic::Status> {
        self.credentials(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn redeem_enrollment_token(
        &self,
        request: Request<proto::RedeemEnrollmentTokenRequest>,
    ) -> Result<Response<proto::Module>, tonic::Status> {
        let caller = Caller::of(&request);
        self.redeem(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }
}
