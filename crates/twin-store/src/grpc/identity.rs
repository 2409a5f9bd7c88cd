//! Identities as messages: their keys made, sealed and opened, and who gets to see them.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use iot_hub::SymmetricKey;
use service_kit::auth::{Permission, require};
use tonic::{Request, Status};
use twin::IdentityKey;
use wire::InvalidField;
use wire::names::identity_name;
use wire::registry::v1 as proto;
use wire::time::to_wire;
use zeroize::Zeroizing;

use super::{Api, refuse};
use crate::apply::devices::NewIdentity;
use crate::encode;
use crate::error::Error;
use crate::record::{Authentication, Record, Status as RecordStatus};
use crate::secrets::Sealed;

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
        match &record.identity.authentication {
            Authentication::Sas { primary, secondary } => Ok(proto::SymmetricKeys {
                primary: open(primary)?,
                secondary: open(secondary)?,
            }),
            Authentication::SelfSigned { .. }
            | Authentication::CertificateAuthority
            | Authentication::None => Ok(proto::SymmetricKeys::default()),
        }
    }

    pub(super) fn device_message(
        &self,
        record: &Record,
        view: View,
    ) -> Result<proto::Device, Error> {
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
            ..proto::Device::default()
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
            ..proto::Module::default()
        })
    }

    fn keys_for(&self, record: &Record, view: View) -> Result<Option<proto::SymmetricKeys>, Error> {
        match view {
            View::Basic => Ok(None),
            View::Full => self.keys(record).map(Some),
        }
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
    /// What a call asks for, if its caller may see it.
    pub(super) fn permitted<T>(request: &Request<T>, view: i32) -> Result<View, Status> {
        let view = View::read(view).map_err(refuse)?;
        if view == View::Full {
            let keys = Permission::RegistryKeysRead;
            require(request, keys, "read the keys of an identity")?;
        }
        Ok(view)
    }

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
fn owner(key: &IdentityKey, generation_id: &str) -> String {
    format!("{key}#{generation_id}")
}

fn given_key(field: &str, text: &str) -> Result<Zeroizing<String>, Error> {
    SymmetricKey::parse(text).map_err(|error| InvalidField::new(field, error))?;
    Ok(Zeroizing::new(text.to_owned()))
}
