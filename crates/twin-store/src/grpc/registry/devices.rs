//! Devices: create, read, list, change, delete.

use prost_types::FieldMask;
use service_kit::auth::Permission;
use twin::{DeviceId, IdentityKey, ModuleId, TwinPatch};
use wire::InvalidField;
use wire::registry::v1 as proto;

use super::super::authentication::{Wanted, fresh_key, open_keys};
use super::super::caller::Caller;
use super::super::identity::{Show, View, new_identity, plain_identity};
use super::super::repeatable::Repeatable;
use super::super::{Api, device, device_id, etag, identity, object};
use super::{given_status, only_if, status_reason};
use crate::apply::credentials::{self, Rotate, Rotation};
use crate::apply::devices::{self, DeviceUpdate, NewDevice};
use crate::apply::twins::OnlyIf;
use crate::apply::{Cause, Mode, Overlay};
use crate::error::Error;
use crate::record::Status;
use crate::store::Selection;

/// A condition on the content of a twin, under which its identity is changed.
pub(super) struct Condition(pub(super) Option<OnlyIf>);

impl Condition {
    /// Refuses the change of an identity of whose twin the condition does not hold.
    pub(super) fn check(
        &self,
        overlay: &Overlay,
        key: &IdentityKey,
        now: jiff::Timestamp,
    ) -> Result<(), Error> {
        match &self.0 {
            Some(only_if) => only_if.check(overlay.get(key)?, now),
            None => Ok(()),
        }
    }
}

/// A checked request to make a device.
pub(super) struct CreateDevice {
    pub(super) new: NewDevice,
    pub(super) show: Show<proto::Device>,
    pub(super) mode: Mode,
    pub(super) cause: Cause,
    pub(super) repeatable: Option<Repeatable>,
}

/// A checked request to change a device.
pub(super) struct UpdateDevice {
    pub(super) device: DeviceId,
    pub(super) update: DeviceUpdate,
    pub(super) show: Show<proto::Device>,
    pub(super) etag: Option<String>,
    pub(super) only_if: Condition,
    pub(super) mode: Mode,
    pub(super) cause: Cause,
    pub(super) repeatable: Option<Repeatable>,
}

/// A checked request to remove an identity.
pub(super) struct Delete {
    pub(super) key: IdentityKey,
    pub(super) etag: Option<String>,
    pub(super) only_if: Condition,
    pub(super) mode: Mode,
    pub(super) cause: Cause,
    pub(super) repeatable: Option<Repeatable>,
}

impl Api {
    pub(super) fn read_create(
        &self,
        caller: &Caller,
        request: proto::CreateDeviceRequest,
    ) -> Result<CreateDevice, Error> {
        let device = device_id(&request.device_id)?;
        let key = IdentityKey::new_device(device.clone());
        let repeatable = Repeatable::read("CreateDevice", caller, &request.request_id, &request)?;
        let mode = Mode::new(request.validate_only);
        let show = Show::new(view_of_new(mode), request.read_mask.as_ref())?;
        let status = given_status(request.status)?.unwrap_or(Status::Enabled);
        let wanted = Wanted::read(
            request.authentication_type,
            request.keys,
            request.thumbprints.as_ref(),
        )?;
        let mut identity = new_identity(&self.sealer, &key, wanted, status)?;
        identity.status_reason = status_reason(request.status_reason)?;
        identity.iot_edge = request.iot_edge;
        identity.sections = TwinPatch {
            tags: object("tags_json", &request.tags_json)?,
            desired: object("desired_json", &request.desired_json)?,
        };
        let security_module = if request.create_security_module || self.security_module_on_create {
            let key = IdentityKey::new_module(device.clone(), ModuleId::security());
            Some(plain_identity(&self.sealer, &key)?)
        } else {
            None
        };
        Ok(CreateDevice {
            new: NewDevice {
                device,
                identity,
                security_module,
            },
            show,
            mode,
            cause: caller.cause(&request.request_id),
            repeatable: repeatable.filter(|_| mode == Mode::Write),
        })
    }

    pub(super) async fn create(
        &self,
        caller: &Caller,
        request: proto::CreateDeviceRequest,
    ) -> Result<proto::Device, Error> {
        let asked = self.read_create(caller, request)?;
        let sealer = self.sealer.clone();
        let selection = Selection::Family(asked.new.device.clone());
        self.decide_once(asked.repeatable.clone(), selection, move |overlay, now| {
            asked.decide(&sealer, overlay, now)
        })
        .await
    }

    pub(super) fn read_update(
        &self,
        caller: &Caller,
        request: proto::UpdateDeviceRequest,
    ) -> Result<UpdateDevice, Error> {
        let device = device("name", &request.name)?;
        let repeatable = Repeatable::read("UpdateDevice", caller, &request.request_id, &request)?;
        let wanted = Wanted::read(
            request.authentication_type,
            request.keys,
            request.thumbprints.as_ref(),
        )?;
        let reason = status_reason(request.status_reason)?;
        let status = given_status(request.status)?.map(|status| (status, reason.clone()));
        let status_reason = Some(reason).filter(|reason| status.is_none() && !reason.is_empty());
        if status.is_none()
            && status_reason.is_none()
            && wanted.is_empty()
            && request.iot_edge.is_none()
        {
            let problem = "must be STATUS_ENABLED or STATUS_DISABLED when no other change is \
                           asked for";
            return Err(InvalidField::new("status", problem).into());
        }
        let mode = Mode::new(request.validate_only);
        Ok(UpdateDevice {
            device,
            show: Show::new(
                changed_view(caller, request.view, mode)?,
                request.read_mask.as_ref(),
            )?,
            update: DeviceUpdate {
                status,
                status_reason,
                authentication: self.authenticate(wanted),
                iot_edge: request.iot_edge,
            },
            etag: etag(&request.etag),
            only_if: only_if(&request.only_if)?,
            mode,
            cause: caller.cause(&request.request_id),
            repeatable: repeatable.filter(|_| mode == Mode::Write),
        })
    }

    /// How a record's new credentials are made, if there are to be new ones.
    pub(super) fn authenticate(&self, wanted: Wanted) -> Option<devices::Authenticate> {
        if wanted.is_empty() {
            return None;
        }
        let sealer = self.sealer.clone();
        Some(Box::new(move |record| wanted.for_record(&sealer, record)))
    }

    pub(super) async fn update(
        &self,
        caller: &Caller,
        request: proto::UpdateDeviceRequest,
    ) -> Result<proto::Device, Error> {
        let asked = self.read_update(caller, request)?;
        let sealer = self.sealer.clone();
        let selection = Selection::Family(asked.device.clone());
        self.decide_once(asked.repeatable.clone(), selection, move |overlay, now| {
            asked.decide(&sealer, overlay, now)
        })
        .await
    }

    pub(super) async fn delete(&self, asked: Delete) -> Result<(), Error> {
        let selection = Selection::Family(asked.key.device.clone());
        self.decide_once(asked.repeatable.clone(), selection, move |overlay, now| {
            asked.decide(overlay, now)
        })
        .await
    }

    pub(super) async fn rotate(
        &self,
        caller: &Caller,
        request: proto::RotateKeysRequest,
    ) -> Result<proto::RotateKeysResponse, Error> {
        let key = identity("name", &request.name)?;
        let repeatable = Repeatable::read("RotateKeys", caller, &request.request_id, &request)?;
        let rotation = match proto::KeyKind::try_from(request.kind) {
            Ok(proto::KeyKind::Primary) => Rotation::Primary,
            Ok(proto::KeyKind::Secondary) => Rotation::Secondary,
            Ok(proto::KeyKind::Swap) => Rotation::Swap,
            Ok(proto::KeyKind::Unspecified) | Err(_) => {
                let problem = "must be KEY_KIND_PRIMARY, KEY_KIND_SECONDARY or KEY_KIND_SWAP";
                return Err(InvalidField::new("kind", problem).into());
            }
        };
        let mode = Mode::new(request.validate_only);
        let shows_keys = shows_keys(request.read_mask.as_ref())?;
        let condition = only_if(&request.only_if)?;
        let (expected, cause) = (etag(&request.etag), caller.cause(&request.request_id));
        let sealer = self.sealer.clone();
        self.decide_once(
            repeatable.filter(|_| mode == Mode::Write),
            Selection::One(key.clone()),
            move |overlay, now| {
                condition.check(overlay, &key, now)?;
                let asked = Rotate {
                    rotation,
                    expected_etag: expected.as_deref(),
                    mode,
                };
                let make = |record: &_| fresh_key(&sealer, record);
                let record = credentials::rotate(overlay, &key, asked, make, now, &cause)?;
                let keys = match mode {
                    Mode::Write if shows_keys => open_keys(&sealer, &record)?,
                    // Not asked for; or nobody will ever have it, since it is not kept.
                    Mode::Write | Mode::Validate => None,
                };
                Ok(proto::RotateKeysResponse {
                    name: request.name,
                    keys,
                    etag: record.identity.etag.to_string(),
                })
            },
        )
        .await
    }
}

/// Keys are shown once, to who makes them.
pub(super) fn view_of_new(mode: Mode) -> View {
    match mode {
        Mode::Write => View::Full,
        // Nobody will ever have the keys made for an identity that is not.
        Mode::Validate => View::Basic,
    }
}

/// What the answer to a change shows, if its caller may see it.
pub(super) fn changed_view(caller: &Caller, view: i32, mode: Mode) -> Result<View, Error> {
    let view = View::read(view)?;
    if view == View::Full {
        let keys = Permission::RegistryKeysRead;
        caller.check(keys, "read the keys of an identity")?;
    }
    Ok(match mode {
        Mode::Write => view,
        // Nobody will ever have keys that are not kept.
        Mode::Validate => View::Basic,
    })
}

/// Whether the answer to a rotation is to have the keys.
fn shows_keys(mask: Option<&FieldMask>) -> Result<bool, Error> {
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    let known = ["*", "name", "etag", "keys"];
    if let Some(path) = paths.iter().find(|path| !known.contains(&path.as_str())) {
        let problem = format!(
            "{path:?} is no field of the answer; allowed are {}",
            known.join(", ")
        );
        return Err(InvalidField::new("read_mask", problem).into());
    }
    Ok(paths.is_empty() || paths.iter().any(|path| path == "*" || path == "keys"))
}

impl CreateDevice {
    /// Makes the device, and shows its keys once.
    pub(super) fn decide(
        self,
        sealer: &crate::secrets::Sealer,
        overlay: &mut Overlay,
        now: jiff::Timestamp,
    ) -> Result<proto::Device, Error> {
        let record = devices::create_device(overlay, self.new, self.mode, now, &self.cause)?;
        self.show.one(sealer, &record)
    }
}

impl UpdateDevice {
    /// Changes the device.
    pub(super) fn decide(
        self,
        sealer: &crate::secrets::Sealer,
        overlay: &mut Overlay,
        now: jiff::Timestamp,
    ) -> Result<proto::Device, Error> {
        let key = IdentityKey::new_device(self.device.clone());
        self.only_if.check(overlay, &key, now)?;
        let record = devices::update_device(
            overlay,
            &self.device,
            self.update,
            self.etag.as_deref(),
            self.mode,
            now,
            &self.cause,
        )?;
        self.show.one(sealer, &record)
    }
}

impl Delete {
    /// Removes the identity.
    pub(super) fn decide(self, overlay: &mut Overlay, now: jiff::Timestamp) -> Result<(), Error> {
        self.only_if.check(overlay, &self.key, now)?;
        let etag = self.etag.as_deref();
        devices::delete(overlay, &self.key, etag, self.mode, &self.cause)
    }
}
