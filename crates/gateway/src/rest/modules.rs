//! Modules of a device (spec iot-hub-twins §7.2).

use serde_json::Value;
use twin::{DeviceId, IdentityKey};
use wire::registry::v1::{
    AuthenticationType, CreateModuleRequest, DeleteModuleRequest, GetModuleRequest,
    ListModulesRequest, Module, UpdateModuleRequest,
};

use super::{Answer, Call, devices};
use crate::bodies::{self, identity::IdentityBody};
use crate::error::ApiError;
use crate::headers::IfMatch;
use crate::hub::Session;

/// IoT Hub's number of a module that is not there.
const NOT_FOUND: u32 = 404_010;

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
    let module = if call.if_match.is_none() {
        create(call.session, key, &body).await?
    } else {
        // SDKs send the whole module; one that nobody manages has none.
        let managed_by = Some(body.managed_by.clone().unwrap_or_default());
        update(call.session, key, &body, managed_by, call.etag()).await?
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

/// As [`devices::update`]; `managed_by` stays as it is without one.
pub(super) async fn update(
    session: &Session,
    key: &IdentityKey,
    body: &IdentityBody,
    managed_by: Option<String>,
    etag: String,
) -> Result<Module, ApiError> {
    let proof = body.proof()?;
    if managed_by.is_none() && proof.kind == AuthenticationType::Unspecified {
        let present = read_named(session, name(key)).await?;
        IfMatch::check("the module", &etag, &present.etag)?;
        return Ok(present);
    }
    let request = UpdateModuleRequest {
        name: name(key),
        authentication_type: proof.kind.into(),
        keys: proof.keys,
        thumbprints: proof.thumbprints,
        managed_by,
        etag,
        view: session.view().into(),
        ..UpdateModuleRequest::default()
    };
    let mut registry = session.registry();
    let updated = registry.update_module(session.request(request)).await?;
    Ok(updated.into_inner())
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

/// The refusal of a call about a module: one that is not there because its device is not, is told as
/// that (spec §7.2), by whose name Node's SDK knows it.
pub(super) async fn or_its_device(
    session: &Session,
    key: &IdentityKey,
    error: ApiError,
) -> ApiError {
    if key.module.is_none() || error.number() != NOT_FOUND {
        return error;
    }
    match devices::read(session, &key.device).await {
        Err(device) if device.name() == "DeviceNotFound" => error.told_as(device),
        // Whatever else it says, the module is not there.
        Ok(_) | Err(_) => error,
    }
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
