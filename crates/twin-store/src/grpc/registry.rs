//! `RegistryService`: devices, modules, enrolment tokens.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use iot_hub::SymmetricKey;
use jiff::SignedDuration;
use ring::digest;
use tonic::{Request, Response, Status};
use twin::{DeviceId, IdentityKey, ModuleId};
use wire::InvalidField;
use wire::names::identity_name;
use wire::registry::v1 as proto;
use wire::registry::v1::registry_service_server::RegistryService;
use wire::time::to_wire;
use zeroize::Zeroizing;

use super::{
    Api, cause, device, etag, module, page_size, page_start, page_token, refuse, report_damaged,
};
use crate::apply::devices::{self, NewIdentity};
use crate::encode;
use crate::error::Error;
use crate::record::{Record, Status as RecordStatus};
use crate::secrets::Sealed;
use crate::store::{self, EnrollmentToken, Listing, Loaded, Selection, TokenHash};

/// Of a status reason (spec iot-hub-twins §1.1).
const STATUS_REASON_MAX: usize = 128;
/// Lifetime of an enrolment token when the caller does not say.
const TOKEN_TTL_DEFAULT: Duration = Duration::from_hours(1);
/// Longest lifetime: a token found later in a script must be dead.
const TOKEN_TTL_MAX: Duration = Duration::from_hours(30 * 24);
/// Most devices of one token: one production batch.
const TOKEN_USES_MAX: u32 = 1_000_000;
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// So that a token is recognised for what it is when found in a file.
const TOKEN_PREFIX: &str = "twe_";
/// Random bytes of a key, as IoT Hub makes them.
const KEY_BYTES: usize = 32;

impl Api {
    /// Makes what a new identity needs: a generation and two sealed keys.
    pub(super) fn new_identity(
        &self,
        key: &IdentityKey,
        keys: Option<proto::SymmetricKeys>,
        status: RecordStatus,
        status_reason: String,
    ) -> Result<NewIdentity, Error> {
        let (primary, secondary) = match keys {
            None => (self.new_key()?, self.new_key()?),
            Some(keys) => (
                given_key("keys.primary", &keys.primary)?,
                given_key("keys.secondary", &keys.secondary)?,
            ),
        };
        let generation_id = uuid::Uuid::new_v4().to_string();
        let owner = owner(key, &generation_id);
        Ok(NewIdentity {
            primary_key: self.sealer.seal(&owner, &primary)?,
            secondary_key: self.sealer.seal(&owner, &secondary)?,
            generation_id,
            status,
            status_reason,
        })
    }

    fn new_key(&self) -> Result<Zeroizing<String>, Error> {
        let bytes = self.sealer.random::<KEY_BYTES>()?;
        Ok(Zeroizing::new(BASE64_STANDARD.encode(bytes.as_slice())))
    }

    /// The keys of a record, open.
    pub(super) fn keys(&self, record: &Record) -> Result<proto::SymmetricKeys, Error> {
        let owner = owner(&record.key, &record.identity.generation_id);
        let open = |sealed: &Sealed| -> Result<String, Error> {
            Ok(self.sealer.open_sealed(&owner, sealed)?.to_string())
        };
        Ok(proto::SymmetricKeys {
            primary: open(&record.identity.primary_key)?,
            secondary: open(&record.identity.secondary_key)?,
        })
    }

    fn device_message(&self, record: &Record, view: View) -> Result<proto::Device, Error> {
        let identity = &record.identity;
        Ok(proto::Device {
            name: identity_name(&record.key),
            device_id: record.key.device.to_string(),
            generation_id: identity.generation_id.clone(),
            etag: identity.etag.to_string(),
            status: encode::status(identity.status).into(),
            status_reason: identity.status_reason.clone(),
            keys: self.keys_for(record, view)?,
            create_time: Some(to_wire(identity.created_at)),
            update_time: Some(to_wire(identity.updated_at)),
        })
    }

    pub(super) fn module_message(
        &self,
        record: &Record,
        view: View,
    ) -> Result<proto::Module, Error> {
        let identity = &record.identity;
        Ok(proto::Module {
            name: identity_name(&record.key),
            device_id: record.key.device.to_string(),
            module_id: record
                .key
                .module
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            generation_id: identity.generation_id.clone(),
            etag: identity.etag.to_string(),
            keys: self.keys_for(record, view)?,
            create_time: Some(to_wire(identity.created_at)),
            update_time: Some(to_wire(identity.updated_at)),
        })
    }

    fn keys_for(&self, record: &Record, view: View) -> Result<Option<proto::SymmetricKeys>, Error> {
        match view {
            View::Basic => Ok(None),
            View::Full => self.keys(record).map(Some),
        }
    }

    async fn read(&self, key: IdentityKey) -> Result<Record, Error> {
        self.store
            .get(key.clone())
            .await?
            .ok_or(Error::NotFound(key))
    }

    async fn create(&self, request: proto::CreateDeviceRequest) -> Result<proto::Device, Error> {
        let id = device_id(&request.device_id)?;
        let key = IdentityKey::new_device(id.clone());
        let status = match given_status(request.status)? {
            None | Some(RecordStatus::Enabled) => RecordStatus::Enabled,
            Some(RecordStatus::Disabled) => RecordStatus::Disabled,
        };
        let reason = status_reason(request.status_reason)?;
        let identity = self.new_identity(&key, request.keys, status, reason)?;
        let security_module = if request.create_security_module {
            let key = IdentityKey::new_module(id.clone(), ModuleId::security());
            Some(self.new_identity(&key, None, status, String::new())?)
        } else {
            None
        };
        let cause = cause();
        let record = self
            .engine
            .decide(Selection::Family(id.clone()), move |overlay, now| {
                devices::create_device(overlay, &id, identity, security_module, now, &cause)
            })
            .await?;
        self.device_message(&record, View::Full)
    }

    async fn list(
        &self,
        request: proto::ListDevicesRequest,
    ) -> Result<proto::ListDevicesResponse, Error> {
        let size = page_size(request.page_size)?;
        let after = page_start(&request.page_token)?;
        let page = self.store.list(Listing::Devices, after, size).await?;
        report_damaged(&page.damaged);
        let devices = page
            .records
            .iter()
            .map(|record| self.device_message(record, View::Basic))
            .collect::<Result<_, _>>()?;
        Ok(proto::ListDevicesResponse {
            devices,
            next_page_token: page_token(page.next.as_ref()),
        })
    }

    async fn update(&self, request: proto::UpdateDeviceRequest) -> Result<proto::Device, Error> {
        let id = device("name", &request.name)?;
        let status = given_status(request.status)?.ok_or_else(|| {
            InvalidField::new("status", "must be STATUS_ENABLED or STATUS_DISABLED")
        })?;
        let reason = status_reason(request.status_reason)?;
        let (etag, cause) = (etag(&request.etag), cause());
        let record = self
            .engine
            .decide(Selection::Family(id.clone()), move |overlay, now| {
                devices::set_status(overlay, &id, status, &reason, etag.as_deref(), now, &cause)
            })
            .await?;
        self.device_message(&record, View::Basic)
    }

    async fn delete(&self, key: IdentityKey, expected: Option<String>) -> Result<(), Error> {
        let cause = cause();
        self.engine
            .decide(Selection::Family(key.device.clone()), move |overlay, _| {
                devices::delete(overlay, &key, expected.as_deref(), &cause)
            })
            .await
    }

    async fn add_module(
        &self,
        request: proto::CreateModuleRequest,
    ) -> Result<proto::Module, Error> {
        let parent = device("parent", &request.parent)?;
        let id = ModuleId::parse(&request.module_id)
            .map_err(|error| InvalidField::new("module_id", error))?;
        let key = IdentityKey::new_module(parent.clone(), id);
        let identity =
            self.new_identity(&key, request.keys, RecordStatus::Enabled, String::new())?;
        let cause = cause();
        let record = self
            .engine
            .decide(Selection::Family(parent), move |overlay, now| {
                devices::create_module(overlay, &key, identity, now, &cause)
            })
            .await?;
        self.module_message(&record, View::Full)
    }

    async fn modules_of(
        &self,
        request: proto::ListModulesRequest,
    ) -> Result<proto::ListModulesResponse, Error> {
        let device = device("parent", &request.parent)?;
        // Also for a device whose own record is damaged, hence no `?` on anything but its absence.
        match self.read(IdentityKey::new_device(device.clone())).await {
            Ok(_) | Err(Error::Store(store::Error::Damaged(_))) => {}
            Err(error) => return Err(error),
        }
        let loaded = self.store.load(vec![Selection::Family(device)]).await?;
        let mut modules = Vec::new();
        for record in loaded {
            match record {
                Loaded::Whole(record) if record.key.module.is_some() => {
                    modules.push(self.module_message(&record, View::Basic)?);
                }
                Loaded::Damaged(_, damaged) => report_damaged(&[damaged]),
                Loaded::Whole(_) | Loaded::Token(..) => {}
            }
        }
        Ok(proto::ListModulesResponse { modules })
    }

    async fn new_token(
        &self,
        request: proto::CreateEnrollmentTokenRequest,
    ) -> Result<proto::CreateEnrollmentTokenResponse, Error> {
        let device = match request.device_id.as_str() {
            "" => None,
            id => Some(device_id(id)?),
        };
        let ttl = match request.ttl {
            None => TOKEN_TTL_DEFAULT,
            Some(ttl) => Duration::try_from(ttl).map_err(|_| ttl_problem())?,
        };
        if ttl.is_zero() || ttl > TOKEN_TTL_MAX {
            return Err(ttl_problem().into());
        }
        let uses_max = request.max_uses.max(1);
        if uses_max > TOKEN_USES_MAX {
            let problem = format!("is {uses_max}; allowed are 1 to {TOKEN_USES_MAX}");
            return Err(InvalidField::new("max_uses", problem).into());
        }
        let random = self.sealer.random::<TOKEN_BYTES>()?;
        let token = format!(
            "{TOKEN_PREFIX}{}",
            BASE64_URL_SAFE_NO_PAD.encode(random.as_slice())
        );
        let now = self.clock.now();
        let expires_at = now
            .checked_add(SignedDuration::try_from(ttl).unwrap_or(SignedDuration::ZERO))
            .map_err(|_| ttl_problem())?;
        let token_record = EnrollmentToken {
            hash: token_hash(&token),
            device,
            expires_at,
            uses_max,
        };
        self.store.add_enrollment_token(token_record, now).await?;
        Ok(proto::CreateEnrollmentTokenResponse {
            token,
            expire_time: Some(to_wire(expires_at)),
        })
    }
}

/// Whether keys are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// Without keys.
    Basic,
    /// With keys.
    Full,
}

impl View {
    fn read(view: i32) -> Result<View, Error> {
        match proto::IdentityView::try_from(view) {
            Ok(proto::IdentityView::Unspecified | proto::IdentityView::Basic) => Ok(View::Basic),
            Ok(proto::IdentityView::Full) => Ok(View::Full),
            Err(_) => {
                Err(InvalidField::new("view", format!("{view} is none that is known")).into())
            }
        }
    }
}

/// What a sealed key is bound to.
pub(super) fn owner(key: &IdentityKey, generation_id: &str) -> String {
    format!("{key}#{generation_id}")
}

/// Only the hash of a token is kept.
pub(super) fn token_hash(token: &str) -> TokenHash {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    let mut hash = TokenHash::default();
    hash.copy_from_slice(digest.as_ref());
    hash
}

fn device_id(text: &str) -> Result<DeviceId, Error> {
    Ok(DeviceId::parse(text).map_err(|error| InvalidField::new("device_id", error))?)
}

fn given_key(field: &str, text: &str) -> Result<Zeroizing<String>, Error> {
    SymmetricKey::parse(text).map_err(|error| InvalidField::new(field, error))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn given_status(status: i32) -> Result<Option<RecordStatus>, Error> {
    match proto::Status::try_from(status) {
        Ok(proto::Status::Unspecified) => Ok(None),
        Ok(proto::Status::Enabled) => Ok(Some(RecordStatus::Enabled)),
        Ok(proto::Status::Disabled) => Ok(Some(RecordStatus::Disabled)),
        Err(_) => {
            Err(InvalidField::new("status", format!("{status} is none that is known")).into())
        }
    }
}

fn status_reason(text: String) -> Result<String, Error> {
    let count = text.chars().count();
    if count > STATUS_REASON_MAX {
        let problem = format!("has {count} characters; at most {STATUS_REASON_MAX} are allowed");
        return Err(InvalidField::new("status_reason", problem).into());
    }
    Ok(text)
}

fn ttl_problem() -> InvalidField {
    InvalidField::new("ttl", "must be above zero and at most 30 days")
}

#[tonic::async_trait]
impl RegistryService for Api {
    async fn create_device(
        &self,
        request: Request<proto::CreateDeviceRequest>,
    ) -> Result<Response<proto::Device>, Status> {
        self.create(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn get_device(
        &self,
        request: Request<proto::GetDeviceRequest>,
    ) -> Result<Response<proto::Device>, Status> {
        let request = request.into_inner();
        let view = View::read(request.view).map_err(refuse)?;
        let id = device("name", &request.name).map_err(refuse)?;
        let record = self
            .read(IdentityKey::new_device(id))
            .await
            .map_err(refuse)?;
        self.device_message(&record, view)
            .map(Response::new)
            .map_err(refuse)
    }

    async fn list_devices(
        &self,
        request: Request<proto::ListDevicesRequest>,
    ) -> Result<Response<proto::ListDevicesResponse>, Status> {
        self.list(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn update_device(
        &self,
        request: Request<proto::UpdateDeviceRequest>,
    ) -> Result<Response<proto::Device>, Status> {
        self.update(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn delete_device(
        &self,
        request: Request<proto::DeleteDeviceRequest>,
    ) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        let id = device("name", &request.name).map_err(refuse)?;
        self.delete(IdentityKey::new_device(id), etag(&request.etag))
            .await
            .map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn create_module(
        &self,
        request: Request<proto::CreateModuleRequest>,
    ) -> Result<Response<proto::Module>, Status> {
        self.add_module(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn get_module(
        &self,
        request: Request<proto::GetModuleRequest>,
    ) -> Result<Response<proto::Module>, Status> {
        let request = request.into_inner();
        let view = View::read(request.view).map_err(refuse)?;
        let key = module("name", &request.name).map_err(refuse)?;
        let record = self.read(key).await.map_err(refuse)?;
        self.module_message(&record, view)
            .map(Response::new)
            .map_err(refuse)
    }

    async fn list_modules(
        &self,
        request: Request<proto::ListModulesRequest>,
    ) -> Result<Response<proto::ListModulesResponse>, Status> {
        self.modules_of(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn delete_module(
        &self,
        request: Request<proto::DeleteModuleRequest>,
    ) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        let key = module("name", &request.name).map_err(refuse)?;
        self.delete(key, etag(&request.etag))
            .await
            .map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn create_enrollment_token(
        &self,
        request: Request<proto::CreateEnrollmentTokenRequest>,
    ) -> Result<Response<proto::CreateEnrollmentTokenResponse>, Status> {
        self.new_token(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }
}
