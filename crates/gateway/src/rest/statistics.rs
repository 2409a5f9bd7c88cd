//! Counts of the registry (spec iot-hub-twins §7.8).

use serde_json::{Value, json};
use wire::registry::v1::GetRegistryStatisticsRequest;
use wire::twin::v1::QueryTwinsRequest;

use super::{Answer, Call};
use crate::bodies;
use crate::error::ApiError;

/// Connected devices, as IoT Hub's own users count them.
const CONNECTED: &str =
    "SELECT COUNT() AS connected FROM devices WHERE connectionState = 'Connected'";

pub(super) async fn devices(call: &Call<'_>) -> Result<Answer, ApiError> {
    let mut registry = call.session.registry();
    let request = call.session.request(GetRegistryStatisticsRequest {});
    let counts = registry.get_registry_statistics(request).await?;
    let counts = counts.into_inner();
    Ok(Answer::ok(json!({
        "totalDeviceCount": counts.devices,
        "enabledDeviceCount": counts.enabled_devices,
        "disabledDeviceCount": counts.disabled_devices,
    })))
}

pub(super) async fn service(call: &Call<'_>) -> Result<Answer, ApiError> {
    let request = QueryTwinsRequest {
        query: CONNECTED.to_owned(),
        ..QueryTwinsRequest::default()
    };
    let mut queries = call.session.queries();
    let page = queries.query_twins(call.session.request(request)).await?;
    let row: Value = match page.into_inner().rows_json.first() {
        Some(row) => bodies::read(row.as_bytes())?,
        None => json!({}),
    };
    let connected = row.get("connected").and_then(Value::as_u64);
    Ok(Answer::ok(json!({
        "connectedDeviceCount": connected.unwrap_or_default(),
    })))
}
