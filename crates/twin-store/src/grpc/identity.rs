//! Identities as messages, and who gets to see their keys.

use service_kit::auth::{Permission, require};
use tonic::{Request, Status};
use twin::{IdentityKey, TwinPatch};
use wire::InvalidField;
use wire::names::identity_name;
use wire::registry::v1 as proto;
use wire::time::to_wire;

use super::authentication::{Wanted, open_keys};
use super::refuse;
use crate::apply::devices::NewIdentity;
use crate::encode;
use crate::error::Error;
use crate::record::{IdentityEtag, Record, Status as RecordStatus};
use crate::secrets::Sealer;

mod show;

pub(super) use show::Show;

/// What a new identity gets when nothing else is asked for: fresh keys and an empty twin.
pub(super) fn plain_identity(sealer: &Sealer, key: &IdentityKey) -> Result<NewIdentity, Error> {
    new_identity(sealer, key, Wanted::fresh_keys(), RecordStatus::Enabled)
}

/// What a new identity gets: a generation, and its credentials sealed for it.
pub(super) fn new_identity(
    sealer: &Sealer,
    key: &IdentityKey,
    wanted: Wanted,
    status: RecordStatus,
) -> Result<NewIdentity, Error> {
    let generation_id = uuid::Uuid::new_v4().to_string();
    Ok(NewIdentity {
        etag: IdentityEtag::begin(*sealer.random()?),
        authentication: wanted.for_new(sealer, key, &generation_id)?,
        generation_id,
        status,
        status_reason: String::new(),
        iot_edge: false,
        managed_by: String::new(),
        sections: TwinPatch::default(),
    })
}

/// A device as a message.
pub(super) fn device_message(
    sealer: &Sealer,
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
        keys: keys_for(sealer, record, view)?,
        create_time: Some(to_wire(identity.created_at)),
        update_time: Some(to_wire(identity.updated_at)),
        authentication_type: encode::authentication_type(&identity.authentication).into(),
        thumbprints: encode::thumbprints(&identity.authentication),
        status_update_time: identity.status_updated_at.map(to_wire),
        iot_edge: identity.iot_edge,
        connected: record.posture.agent.connected,
        connection_update_time: encode::connection_changed(record).map(to_wire),
        last_activity_time: encode::last_activity(record).map(to_wire),
    })
}

/// A module as a message.
pub(super) fn module_message(
    sealer: &Sealer,
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
        keys: keys_for(sealer, record, view)?,
        create_time: Some(to_wire(identity.created_at)),
        update_time: Some(to_wire(identity.updated_at)),
        authentication_type: encode::authentication_type(&identity.authentication).into(),
        thumbprints: encode::thumbprints(&identity.authentication),
        managed_by: identity.managed_by.clone(),
        connected: record.posture.agent.connected,
        connection_update_time: encode::connection_changed(record).map(to_wire),
        last_activity_time: encode::last_activity(record).map(to_wire),
    })
}

fn keys_for(
    sealer: &Sealer,
    record: &Record,
    view: View,
) -> Result<Option<proto::SymmetricKeys>, Error> {
    match view {
        View::Basic => Ok(None),
        View::Full => open_keys(sealer, record),
    }
}

/// How much of an identity a caller gets.
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

    pub(super) fn read(view: i32) -> Result<View, Error> {
        match proto::IdentityView::try_from(view) {
            Ok(proto::IdentityView::Unspecified | proto::IdentityView::Basic) => Ok(View::Basic),
            Ok(proto::IdentityView::Full) => Ok(View::Full),
            Err(_) => {
                Err(InvalidField::new("view", format!("{view} is none that is known")).into())
            }
        }
    }
}
