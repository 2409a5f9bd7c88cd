//! `CredentialService`: what ingestion needs to prove who connects.

use tonic::{Request, Response, Status};
use wire::names::identity_name;
use wire::registry::v1 as proto;
use wire::registry::v1::credential_service_server::CredentialService;

use super::authentication::open_keys;
use super::caller::Caller;
use super::{Api, identity, refuse};
use crate::encode;
use crate::error::Error;

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
            status: encode::status(record.identity.status).into(),
            keys: open_keys(&self.sealer, &record)?,
            authentication_type: encode::authentication_type(&record.identity.authentication)
                .into(),
            thumbprints: encode::thumbprints(&record.identity.authentication),
        })
    }
}

#[tonic::async_trait]
impl CredentialService for Api {
    async fn get_credentials(
        &self,
        request: Request<proto::GetCredentialsRequest>,
    ) -> Result<Response<proto::Credentials>, Status> {
        self.credentials(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn redeem_enrollment_token(
        &self,
        request: Request<proto::RedeemEnrollmentTokenRequest>,
    ) -> Result<Response<proto::Module>, Status> {
        let caller = Caller::of(&request);
        self.redeem(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }
}
