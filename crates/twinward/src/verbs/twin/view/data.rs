//! A twin as programs get it: IoT Hub's shape, and beside it what we add.

use serde::Serialize;
use serde_json::Value;
use wire::twin::v1 as api;

use super::{AsOf, TwinView};
use crate::output::time;
use crate::verbs::twin::get::Field;

/// A twin in IoT Hub's shape. What was not asked for is left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TwinData<'a> {
    name: &'a str,
    device_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    module_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<&'a AsOf>,
    #[serde(flatten)]
    status: Option<StatusData<'a>>,
    #[serde(flatten)]
    connection: Option<ConnectionData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x509_thumbprint: Option<ThumbprintData<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_id: Option<&'a str>,
    etag: &'a str,
    version: u64,
    revision: u64,
    update_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Properties>,
    #[serde(skip_serializing_if = "Option::is_none")]
    posture: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    posture_version: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusData<'a> {
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_update_time: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionData {
    connection_state: &'static str,
    last_activity_time: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ThumbprintData<'a> {
    primary_thumbprint: &'a str,
    secondary_thumbprint: &'a str,
}

#[derive(Serialize)]
struct Properties {
    #[serde(skip_serializing_if = "Option::is_none")]
    desired: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reported: Option<Value>,
}

fn section(document: &Value, metadata: &Value, version: u64) -> Value {
    let mut document = document.clone();
    if let Value::Object(members) = &mut document {
        members.insert("$metadata".to_owned(), metadata.clone());
        members.insert("$version".to_owned(), version.into());
    }
    document
}

impl TwinView {
    /// The twin as programs see it.
    pub(crate) fn document(&self) -> TwinData<'_> {
        let twin = &self.twin;
        let authentication = self.has(Field::Authentication);
        let filled = |text: &'_ str| !text.is_empty();
        TwinData {
            name: &twin.name,
            device_id: &twin.device_id,
            module_id: Some(twin.module_id.as_str()).filter(|id| filled(id)),
            as_of: self.as_of.as_ref(),
            status: self.has(Field::Status).then(|| StatusData {
                status: &twin.status,
                status_reason: Some(twin.status_reason.as_str()).filter(|text| filled(text)),
                status_update_time: time::precise(twin.status_update_time),
            }),
            connection: self.has(Field::Connection).then(|| ConnectionData {
                connection_state: connection_state(twin),
                last_activity_time: time::precise(twin.last_activity_time),
            }),
            authentication_type: Some(twin.authentication_type.as_str())
                .filter(|text| authentication && filled(text)),
            x509_thumbprint: (authentication && filled(&twin.primary_thumbprint)).then(|| {
                ThumbprintData {
                    primary_thumbprint: &twin.primary_thumbprint,
                    secondary_thumbprint: &twin.secondary_thumbprint,
                }
            }),
            model_id: Some(twin.model_id.as_str()).filter(|id| filled(id)),
            etag: &twin.etag,
            version: twin.version,
            revision: twin.revision,
            update_time: time::precise(twin.update_time),
            tags: self.has(Field::Tags).then_some(&self.tags),
            properties: self.properties(),
            posture: self.has(Field::Posture).then_some(&self.posture),
            posture_version: self.has(Field::Posture).then_some(twin.posture_version),
        }
    }

    fn properties(&self) -> Option<Properties> {
        let twin = &self.twin;
        let desired = self
            .has(Field::Desired)
            .then(|| section(&self.desired, &self.desired_metadata, twin.desired_version));
        let reported = self.has(Field::Reported).then(|| {
            section(
                &self.reported,
                &self.reported_metadata,
                twin.reported_version,
            )
        });
        (desired.is_some() || reported.is_some()).then_some(Properties { desired, reported })
    }
}

fn connection_state(twin: &api::Twin) -> &'static str {
    if twin.connected {
        "connected"
    } else {
        "disconnected"
    }
}
