//! Devices (spec iot-hub-twins §7.1).

use serde_json::Value;
use twin::DeviceId;
use wire::registry::v1::{
    AuthenticationType, CreateDeviceRequest, DeleteDeviceRequest, Device, GetDeviceRequest,
    ListDevicesRequest, UpdateDeviceRequest,
};

use super::{Answer, Call};
use crate::bodies::{self, identity::IdentityBody};
use crate::error::ApiError;
use crate::headers::{self, IfMatch};
use crate::hub::Session;

/// Most devices of a list, and how many there are if nobody says (spec §7.1).
const TOP_MAX: i32 = 1000;

pub(super) fn name(id: &DeviceId) -> String {
    format!("devices/{id}")
}

pub(super) async fn list(call: &Call<'_>, top: Option<&str>) -> Result<Answer, ApiError> {
    let top = match top {
        Some(text) => headers::number("the query parameter top", text, 1, TOP_MAX)?,
        None => TOP_MAX,
    };
    let wanted = usize::try_from(top).unwrap_or_default();
    let mut devices: Vec<Value> = Vec::new();
    let mut page_token = String::new();
    while devices.len() < wanted {
        let request = ListDevicesRequest {
            page_size: top,
            page_token,
            view: call.session.view().into(),
            ..ListDevicesRequest::default()
        };
        let mut registry = call.session.registry();
        let page = registry.list_devices(call.session.request(request)).await?;
        let page = page.into_inner();
        devices.extend(page.devices.iter().map(bodies::identity::device));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    devices.truncate(wanted);
    Ok(Answer::ok(devices.into()))
}

pub(super) async fn get(call: &Call<'_>, id: &DeviceId) -> Result<Answer, ApiError> {
    let device = read(call.session, id).await?;
    Ok(tagged(&device))
}

/// Without `If-Match` it creates, with it it updates (spec §3.4).
pub(super) async fn put(call: &Call<'_>, id: &DeviceId) -> Result<Answer, ApiError> {
    let body: IdentityBody = bodies::read_object(call.body)?;
    body.check_ids(id.as_str(), None)?;
    let device = match &call.if_match {
        None => create(call.session, id, &body).await?,
        Some(_) => update(call.session, id, &body, call.etag()).await?,
    };
    Ok(tagged(&device))
}

pub(super) async fn create(
    session: &Session,
    id: &DeviceId,
    body: &IdentityBody,
) -> Result<Device, ApiError> {
    let proof = body.proof()?;
    let request = CreateDeviceRequest {
        device_id: id.to_string(),
        status: body.status()?.unwrap_or_default().into(),
        status_reason: body.status_reason(),
        keys: proof.keys,
        authentication_type: proof.kind.into(),
        thumbprints: proof.thumbprints,
        iot_edge: body.iot_edge().unwrap_or_default(),
        ..CreateDeviceRequest::default()
    };
    let mut registry = session.registry();
    let device = registry.create_device(session.request(request)).await?;
    Ok(device.into_inner())
}

/// What a body leaves out stays as it is, above all a device that is disabled. One that names nothing
/// of the identity, as tags of a bulk call, writes none: neither its etag nor the audit log moves.
pub(super) async fn update(
    session: &Session,
    id: &DeviceId,
    body: &IdentityBody,
    etag: String,
) -> Result<Device, ApiError> {
    let (proof, status) = (body.proof()?, body.status()?);
    let (status_reason, iot_edge) = (body.status_reason(), body.iot_edge());
    if status.is_none()
        && status_reason.is_empty()
        && iot_edge.is_none()
        && proof.kind == AuthenticationType::Unspecified
    {
        let present = read(session, id).await?;
        IfMatch::check("the device", &etag, &present.etag)?;
        return Ok(present);
    }
    let request = UpdateDeviceRequest {
        name: name(id),
        status: status.unwrap_or_default().into(),
        status_reason,
        etag,
        authentication_type: proof.kind.into(),
        keys: proof.keys,
        thumbprints: proof.thumbprints,
        iot_edge,
        // The keys as this write left them, and not as somebody may have changed them since.
        view: session.view().into(),
        ..UpdateDeviceRequest::default()
    };
    let mut registry = session.registry();
    let updated = registry.update_device(session.request(request)).await?;
    Ok(updated.into_inner())
}

pub(super) async fn delete(call: &Call<'_>, id: &DeviceId) -> Result<Answer, ApiError> {
    remove(call.session, id, call.etag()).await?;
    Ok(Answer::no_content())
}

pub(super) async fn remove(session: &Session, id: &DeviceId, etag: String) -> Result<(), ApiError> {
    let request = DeleteDeviceRequest {
        name: name(id),
        etag,
        ..DeleteDeviceRequest::default()
    };
    let mut registry = session.registry();
    registry.delete_device(session.request(request)).await?;
    Ok(())
}

/// Content for one IoT Edge device. Nothing here runs Edge modules, so it is refused, as IoT Hub
/// refuses content that a device cannot take (400402).
pub(super) async fn apply_content(call: &Call<'_>, id: &DeviceId) -> Result<Answer, ApiError> {
    read(call.session, id).await?;
    Err(ApiError::new(
        400_402,
        "InvalidConfigurationContent",
        format!("the device `{id}` takes no configuration content: IoT Edge is not served here"),
    ))
}

pub(super) async fn read(session: &Session, id: &DeviceId) -> Result<Device, ApiError> {
    let request = GetDeviceRequest {
        name: name(id),
        view: session.view().into(),
        read_mask: None,
    };
    let mut registry = session.registry();
    let device = registry.get_device(session.request(request)).await?;
    Ok(device.into_inner())
}

fn tagged(device: &Device) -> Answer {
    Answer::tagged(bodies::identity::device(device), &device.etag)
}
