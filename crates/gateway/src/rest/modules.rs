//! Modules of a device (spec iot-hub-twins §7.2).

use serde_json::Value;
use twin::{DeviceId, IdentityKey};
use wire::registry::v1::{
    CreateModuleRequest, DeleteModuleRequest, GetModuleRequest, IdentityView, ListModulesRequest,
    Module, UpdateModuleRequest,
};

use super::{Answer, Call, devices};
use crate::bodies::{self, identity::IdentityBody};
use crate::error::ApiError;
use crate::hub::Session;

/// The name of a module's resource; of a device's, if it is none.
pub(super) fn name(key: &IdentityKey) -> String {
    match &key.module {
        Some(module) => format!("{}/modules/{module}", devices::name(&key.device)),
        None => devices::name(&key.device),
    }
}

pub(super) async fn list(call: &Call<'_>, device: &DeviceId) -> Result<Answer, ApiError> {
    let request = ListModulesRequest {
        parent: devices::name(device),
        view: call.session.view().into(),
        read_mask: None,
        ..Default::default()
    };
    let mut registry = call.session.registry();
    let modules = registry.list_modules(call.session.request(request)).await?;
    let modules = modules.into_inner().modules;
    let bodies: Vec<Value> = modules.iter().map(bodies::identity::module).collect();
    Ok(Answer::ok(bodies.into()))
}

pub(super) async fn get(call: &Call<'_>, key: &IdentityKey) -> Result<Answer, ApiError> {
    let module = read_named(call.session, name(key)).await?;
    Ok(tagged(&module))
}

/// Without `If-Match` it creates, with it it updates (spec §3.4).
pub(super) async fn put(call: &Call<'_>, key: &IdentityKey) -> Result<Answer, ApiError> {
    let body: IdentityBody = bodies::read_object(call.body)?;
    let module = key.module.as_ref().map(twin::ModuleId::as_str);
    body.check_ids(key.device.as_str(), module)?;
    let module = match &call.if_match {
        None => create(call.session, key, &body).await?,
        Some(_) => update(call.session, key, &body, call.etag()).await?,
    };
    Ok(tagged(&module))
}

pub(super) async fn create(
    session: &Session,
    key: &IdentityKey,
    body: &IdentityBody,
) -> Result<Module, ApiError> {
    let proof = body.proof()?;
    let request = CreateModuleRequest {
        parent: devices::name(&key.device),
        module_id: key
            .module
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        keys: proof.keys,
        authentication_type: proof.kind.into(),
        thumbprints: proof.thumbprints,
        managed_by: body.managed_by.clone().unwrap_or_default(),
        ..CreateModuleRequest::default()
    };
    let mut registry = session.registry();
    let module = registry.create_module(session.request(request)).await?;
    Ok(module.into_inner())
}

pub(super) async fn update(
    session: &Session,
    key: &IdentityKey,
    body: &IdentityBody,
    etag: String,
) -> Result<Module, ApiError> {
    let proof = body.proof()?;
    let request = UpdateModuleRequest {
        name: name(key),
        authentication_type: proof.kind.into(),
        keys: proof.keys,
        thumbprints: proof.thumbprints,
        managed_by: Some(body.managed_by.clone().unwrap_or_default()),
        etag,
        ..UpdateModuleRequest::default()
    };
    let mut registry = session.registry();
    let updated = registry.update_module(session.request(request)).await?;
    let updated = updated.into_inner();
    let keys = match session.view() {
        IdentityView::Full => read_named(session, name(key)).await?.keys,
        IdentityView::Basic | IdentityView::Unspecified => None,
    };
    Ok(Module { keys, ..updated })
}

pub(super) async fn delete(call: &Call<'_>, key: &IdentityKey) -> Result<Answer, ApiError> {
    remove(call.session, key, call.etag()).await?;
    Ok(Answer::no_content())
}

pub(super) async fn remove(
    session: &Session,
    key: &IdentityKey,
    etag: String,
) -> Result<(), ApiError> {
    let request = DeleteModuleRequest {
        name: name(key),
        etag,
        ..DeleteModuleRequest::default()
    };
    let mut registry = session.registry();
    registry.delete_module(session.request(request)).await?;
    Ok(())
}

async fn read_named(session: &Session, name: String) -> Result<Module, ApiError> {
    let request = GetModuleRequest {
        name,
        view: session.view().into(),
        read_mask: None,
    };
    let mut registry = session.registry();
    let module = registry.get_module(session.request(request)).await?;
    Ok(module.into_inner())
}

fn tagged(module: &Module) -> Answer {
    Answer::tagged(bodies::identity::module(module), &module.etag)
}
