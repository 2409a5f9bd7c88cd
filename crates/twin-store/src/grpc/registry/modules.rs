//! Modules: create, list, change.

use twin::{IdentityKey, ModuleId, TwinPatch};
use wire::InvalidField;
use wire::names::identity_name;
use wire::registry::v1 as proto;

use super::super::authentication::Wanted;
use super::super::caller::Caller;
use super::super::identity::{Show, View, module_message, new_identity};
use super::super::repeatable::Repeatable;
use super::super::{Api, device, etag, identity, module, object, report_damaged};
use super::devices::Delete;
use super::only_if;
use crate::apply::Mode;
use crate::apply::devices::{self, ModuleUpdate};
use crate::error::Error;
use crate::record::Status;
use crate::store::{self, Loaded, Selection};

/// Longest word on who manages a module; it is shown in lists.
const MANAGED_BY_MAX: usize = 128;

impl Api {
    pub(super) async fn add_module(
        &self,
        caller: &Caller,
        request: proto::CreateModuleRequest,
    ) -> Result<proto::Module, Error> {
        let parent = identity("parent", &request.parent)?;
        if parent.module.is_some() {
            return Err(Error::ModuleOfModule {
                parent: request.parent,
            });
        }
        let parent = parent.device;
        let id = ModuleId::parse(&request.module_id)
            .map_err(|error| InvalidField::new("module_id", error))?;
        let key = IdentityKey::new_module(parent.clone(), id);
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
        let cause = caller.cause(&request.request_id);
        let sealer = self.sealer.clone();
        let repeatable = repeatable.filter(|_| mode == Mode::Write);
        self.decide_once(
            repeatable,
            Selection::Family(parent),
            move |overlay, now| {
                let record = devices::create_module(overlay, &key, new, mode, now, &cause)?;
                let view = match mode {
                    Mode::Write => View::Full,
                    Mode::Validate => View::Basic,
                };
                module_message(&sealer, &record, view)
            },
        )
        .await
    }

    pub(super) async fn change_module(
        &self,
        caller: &Caller,
        request: proto::UpdateModuleRequest,
    ) -> Result<proto::Module, Error> {
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
        let update = ModuleUpdate {
            authentication: self.authenticate(wanted),
            managed_by,
        };
        let condition = only_if(&request.only_if)?;
        let (expected, cause) = (etag(&request.etag), caller.cause(&request.request_id));
        let sealer = self.sealer.clone();
        let repeatable = repeatable.filter(|_| mode == Mode::Write);
        self.decide_once(
            repeatable,
            Selection::One(key.clone()),
            move |overlay, now| {
                condition.check(overlay, &key, now)?;
                let expected = expected.as_deref();
                let record =
                    devices::update_module(overlay, &key, update, expected, mode, now, &cause)?;
                module_message(&sealer, &record, View::Basic)
            },
        )
        .await
    }

    pub(super) async fn modules_of(
        &self,
        request: proto::ListModulesRequest,
        show: Show<proto::Module>,
    ) -> Result<proto::ListModulesResponse, Error> {
        let device = device("parent", &request.parent)?;
        // Also for a device whose own record is damaged, hence no `?` on anything but its absence.
        match self.read(IdentityKey::new_device(device.clone())).await {
            Ok(_) | Err(Error::Store(store::Error::Damaged(_))) => {}
            Err(error) => return Err(error),
        }
        let loaded = self.store.load(vec![Selection::Family(device)]).await?;
        let mut answer = proto::ListModulesResponse::default();
        for item in loaded {
            match item {
                Loaded::Whole(record) if record.key.module.is_some() => {
                    let unreadable = &mut answer.unreadable_keys;
                    let module = show.listed(&self.sealer, &record, unreadable)?;
                    answer.modules.push(module);
                }
                Loaded::Damaged(selection, damaged) => {
                    report_damaged(&[damaged]);
                    if let Selection::One(key) = selection
                        && key.module.is_some()
                    {
                        answer.damaged.push(identity_name(&key));
                    }
                }
                Loaded::Whole(_)
                | Loaded::Token(..)
                | Loaded::Request(_)
                | Loaded::Operation(_)
                | Loaded::Provisioning(_) => {}
            }
        }
        Ok(answer)
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
