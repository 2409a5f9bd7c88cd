//! Modules: create, change, delete.

use jiff::Timestamp;
use twin::{IdentityKey, ModuleId, TwinPatch};
use wire::InvalidField;
use wire::registry::v1 as proto;

use super::super::authentication::Wanted;
use super::super::caller::Caller;
use super::super::identity::{Show, new_identity};
use super::super::repeatable::Repeatable;
use super::super::{Api, etag, identity, module, object};
use super::devices::{Condition, Delete, changed_view, view_of_new};
use super::only_if;
use crate::apply::devices::{self, ModuleUpdate, NewIdentity};
use crate::apply::{Cause, Mode, Overlay};
use crate::error::Error;
use crate::record::Status;
use crate::secrets::Sealer;
use crate::store::Selection;

/// Longest word on who manages a module; it is shown in lists.
const MANAGED_BY_MAX: usize = 128;

/// A checked request to make a module.
pub(super) struct CreateModule {
    pub(super) key: IdentityKey,
    new: NewIdentity,
    show: Show<proto::Module>,
    mode: Mode,
    cause: Cause,
    pub(super) repeatable: Option<Repeatable>,
}

/// A checked request to change a module.
pub(super) struct UpdateModule {
    pub(super) key: IdentityKey,
    update: ModuleUpdate,
    show: Show<proto::Module>,
    etag: Option<String>,
    only_if: Condition,
    mode: Mode,
    cause: Cause,
    pub(super) repeatable: Option<Repeatable>,
}

/// The module that a request is to make.
pub(super) fn new_module(request: &proto::CreateModuleRequest) -> Result<IdentityKey, Error> {
    let parent = identity("parent", &request.parent)?;
    if parent.module.is_some() {
        return Err(Error::ModuleOfModule {
            parent: request.parent.clone(),
        });
    }
    let id = ModuleId::parse(&request.module_id)
        .map_err(|error| InvalidField::new("module_id", error))?;
    Ok(IdentityKey::new_module(parent.device, id))
}

impl Api {
    pub(super) fn read_create_module(
        &self,
        caller: &Caller,
        request: proto::CreateModuleRequest,
    ) -> Result<CreateModule, Error> {
        let key = new_module(&request)?;
        let repeatable = Repeatable::read("CreateModule", caller, &request.request_id, &request)?;
        let mode = Mode::new(request.validate_only);
        let wanted = Wanted::read(
            request.authentication_type,
            request.keys,
            request.thumbprints.as_ref(),
        )?;
        let mut new = new_identity(&self.sealer, &key, wanted, Status::Enabled)?;
        new.managed_by = managed_by(request.managed_by)?;
        new.sections = TwinPatch {
            tags: object("tags_json", &request.tags_json)?,
            desired: object("desired_json", &request.desired_json)?,
        };
        Ok(CreateModule {
            key,
            new,
            show: Show::new(view_of_new(mode), request.read_mask.as_ref())?,
            mode,
            cause: caller.cause(&request.request_id),
            repeatable: repeatable.filter(|_| mode == Mode::Write),
        })
    }

    pub(super) async fn add_module(
        &self,
        caller: &Caller,
        request: proto::CreateModuleRequest,
    ) -> Result<proto::Module, Error> {
        let asked = self.read_create_module(caller, request)?;
        let sealer = self.sealer.clone();
        let selection = Selection::Family(asked.key.device.clone());
        self.decide_once(asked.repeatable.clone(), selection, move |overlay, now| {
            asked.decide(&sealer, overlay, now)
        })
        .await
    }

    pub(super) fn read_update_module(
        &self,
        caller: &Caller,
        request: proto::UpdateModuleRequest,
    ) -> Result<UpdateModule, Error> {
        let key = module("name", &request.name)?;
        let repeatable = Repeatable::read("UpdateModule", caller, &request.request_id, &request)?;
        let mode = Mode::new(request.validate_only);
        let wanted = Wanted::read(
            request.authentication_type,
            request.keys,
            request.thumbprints.as_ref(),
        )?;
        let managed_by = request.managed_by.map(managed_by).transpose()?;
        if wanted.is_empty() && managed_by.is_none() {
            let problem = "nothing to change; give authentication_type, keys, thumbprints or \
                           managed_by";
            return Err(InvalidField::new("authentication_type", problem).into());
        }
        Ok(UpdateModule {
            key,
            update: ModuleUpdate {
                authentication: self.authenticate(wanted),
                managed_by,
            },
            show: Show::new(
                changed_view(caller, request.view, mode)?,
                request.read_mask.as_ref(),
            )?,
            etag: etag(&request.etag),
            only_if: only_if(&request.only_if)?,
            mode,
            cause: caller.cause(&request.request_id),
            repeatable: repeatable.filter(|_| mode == Mode::Write),
        })
    }

    pub(super) async fn change_module(
        &self,
        caller: &Caller,
        request: proto::UpdateModuleRequest,
    ) -> Result<proto::Module, Error> {
        let asked = self.read_update_module(caller, request)?;
        let sealer = self.sealer.clone();
        let selection = Selection::One(asked.key.clone());
        self.decide_once(asked.repeatable.clone(), selection, move |overlay, now| {
            asked.decide(&sealer, overlay, now)
        })
        .await
    }
}

impl CreateModule {
    /// Makes the module, and answers it with its keys.
    pub(super) fn decide(
        self,
        sealer: &Sealer,
        overlay: &mut Overlay,
        now: Timestamp,
    ) -> Result<proto::Module, Error> {
        let (key, mode) = (&self.key, self.mode);
        let record = devices::create_module(overlay, key, self.new, mode, now, &self.cause)?;
        self.show.one(sealer, &record)
    }
}

impl UpdateModule {
    /// Changes the module, and answers it as its caller may see it.
    pub(super) fn decide(
        self,
        sealer: &Sealer,
        overlay: &mut Overlay,
        now: Timestamp,
    ) -> Result<proto::Module, Error> {
        self.only_if.check(overlay, &self.key, now)?;
        let (key, etag, cause) = (&self.key, self.etag.as_deref(), &self.cause);
        let update = self.update;
        let record = devices::update_module(overlay, key, update, etag, self.mode, now, cause)?;
        self.show.one(sealer, &record)
    }
}

/// Reads a request to remove a module.
pub(super) fn read_delete(
    caller: &Caller,
    request: &proto::DeleteModuleRequest,
) -> Result<Delete, Error> {
    let key = module("name", &request.name)?;
    let repeatable = Repeatable::read("DeleteModule", caller, &request.request_id, request)?;
    let mode = Mode::new(request.validate_only);
    Ok(Delete {
        key,
        etag: etag(&request.etag),
        only_if: only_if(&request.only_if)?,
        mode,
        cause: caller.cause(&request.request_id),
        repeatable: repeatable.filter(|_| mode == Mode::Write),
    })
}

fn managed_by(text: String) -> Result<String, Error> {
    let count = text.chars().count();
    if count > MANAGED_BY_MAX {
        let problem = format!("has {count} characters; at most {MANAGED_BY_MAX} are allowed");
        return Err(InvalidField::new("managed_by", problem).into());
    }
    Ok(text)
}
