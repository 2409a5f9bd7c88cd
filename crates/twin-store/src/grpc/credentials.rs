//! `CredentialService`: what ingestion needs to prove who connects.

use tonic::{Request, Response, Status};
use twin::{DeviceId, IdentityKey, ModuleId};
use wire::InvalidField;
use wire::names::identity_name;
use wire::registry::v1 as proto;
use wire::registry::v1::credential_service_server::CredentialService;

use super::registry::{View, token_hash};
use super::{Api, cause, identity, refuse};
use crate::apply::devices::{self, Enrollment};
use crate::encode;
use crate::error::Error;
use crate::record::Status as RecordStatus;
use crate::store::Selection;

/// Shortest nonce: a counter would make one agent take another's for its own.
const NONCE_MIN: usize = 16;
/// Longest nonce.
const NONCE_MAX: usize = 64;

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
            keys: Some(self.keys(&record)?),
        })
    }

    async fn redeem(
        &self,
        request: proto::RedeemEnrollmentTokenRequest,
    ) -> Result<proto::Module, Error> {
        let device = DeviceId::parse(&request.device_id)
            .map_err(|error| InvalidField::new("device_id", error))?;
        if !(NONCE_MIN..=NONCE_MAX).contains(&request.nonce.len()) {
            let problem = format!(
                "has {} bytes; allowed are {NONCE_MIN} to {NONCE_MAX}",
                request.nonce.len()
            );
            return Err(InvalidField::new("nonce", problem).into());
        }
        let hash = token_hash(&request.token);
        let fresh =
            |key: &IdentityKey| self.new_identity(key, None, RecordStatus::Enabled, String::new());
        let enrollment = Enrollment {
            token: hash,
            nonce: request.nonce,
            new_device: fresh(&IdentityKey::new_device(device.clone()))?,
            new_module: fresh(&IdentityKey::new_module(
                device.clone(),
                ModuleId::security(),
            ))?,
            device: device.clone(),
        };
        let selections = [
            Selection::Token(hash, device.clone()),
            Selection::Family(device),
        ];
        let cause = cause();
        let record = self
            .engine
            .decide(selections, move |overlay, now| {
                devices::enroll(overlay, enrollment, now, &cause)
            })
            .await?;
        self.module_message(&record, View::Full)
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
        self.redeem(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }
}
