//! Twins as IoT Hub shows and takes them.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use twin::Writer;
use wire::twin::v1::{ConfigurationStatus, Twin};

use super::{object, present, time};
use crate::error::ApiError;

/// What a PATCH or PUT of a twin may hold. Everything else of a twin is read and ignored, also
/// `properties.reported`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct TwinBody<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    pub tags: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "object::optional")]
    pub properties: Option<Properties<'a>>,
}

/// The sections of a twin's properties that a service writes.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Properties<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    pub desired: Option<&'a RawValue>,
}

/// What a write asks of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section<'a> {
    /// It is not spoken of.
    Absent,
    /// `null`: it becomes empty.
    Emptied,
    /// This text, which twin-store judges.
    Given(&'a str),
}

impl<'a> Section<'a> {
    fn of(raw: Option<&'a RawValue>) -> Self {
        match raw.map(RawValue::get) {
            None => Self::Absent,
            Some("null") => Self::Emptied,
            Some(text) => Self::Given(text),
        }
    }
}

impl<'a> TwinBody<'a> {
    /// Whether it asks for nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.tags() == Section::Absent && self.desired() == Section::Absent
    }

    pub(crate) fn tags(&self) -> Section<'a> {
        Section::of(self.tags)
    }

    pub(crate) fn desired(&self) -> Section<'a> {
        let properties = self.properties.as_ref();
        Section::of(properties.and_then(|properties| properties.desired))
    }
}

/// A twin as `GET /twins/{id}` answers it (spec §1.1).
pub(crate) fn twin(twin: &Twin) -> Result<Value, ApiError> {
    let mut body = Map::new();
    body.insert("deviceId".into(), twin.device_id.clone().into());
    if !twin.module_id.is_empty() {
        body.insert("moduleId".into(), twin.module_id.clone().into());
    }
    body.insert("modelId".into(), twin.model_id.clone().into());
    body.insert("etag".into(), twin.etag.clone().into());
    body.insert("version".into(), twin.version.into());
    body.insert("deviceEtag".into(), twin.device_etag.clone().into());
    body.insert("status".into(), twin.status.clone().into());
    if !twin.status_reason.is_empty() {
        body.insert("statusReason".into(), twin.status_reason.clone().into());
    }
    body.insert(
        "statusUpdateTime".into(),
        time(twin.status_update_time.as_ref()),
    );
    let connection = if twin.connected {
        "Connected"
    } else {
        "Disconnected"
    };
    body.insert("connectionState".into(), connection.into());
    body.insert(
        "lastActivityTime".into(),
        time(twin.last_activity_time.as_ref()),
    );
    body.insert("cloudToDeviceMessageCount".into(), 0.into());
    body.insert(
        "authenticationType".into(),
        twin.authentication_type.clone().into(),
    );
    let thumbprints = (&*twin.primary_thumbprint, &*twin.secondary_thumbprint);
    body.insert("x509Thumbprint".into(), thumbprint_pair(thumbprints));
    let tags = object("tags", &twin.tags_json)?;
    if !tags.is_empty() {
        body.insert("tags".into(), tags.into());
    }
    let desired = section(
        "desired",
        &twin.desired_json,
        &twin.desired_metadata_json,
        twin.desired_version,
    )?;
    let reported = section(
        "reported",
        &twin.reported_json,
        &twin.reported_metadata_json,
        twin.reported_version,
    )?;
    let properties = json!({"desired": desired, "reported": reported});
    body.insert("properties".into(), properties);
    if !twin.configurations.is_empty() {
        let states = twin.configurations.iter();
        let states: Map<_, _> = states
            .map(|one| (one.id.clone(), json!({ "status": status(one.status()) })))
            .collect();
        body.insert("configurations".into(), states.into());
    }
    body.insert("capabilities".into(), json!({"iotEdge": twin.iot_edge}));
    Ok(body.into())
}

fn status(status: ConfigurationStatus) -> &'static str {
    match status {
        ConfigurationStatus::Applied => "Applied",
        ConfigurationStatus::Targeted | ConfigurationStatus::Unspecified => "Targeted",
    }
}

/// Names configurations as IoT Hub does, by their bare ids. Other writers have no name there.
fn name_configurations(metadata: &mut Map<String, Value>) {
    for (key, value) in metadata {
        match value {
            Value::Object(below) => name_configurations(below),
            Value::String(writer) if key == "$lastUpdatedBy" => {
                if let Some(id) = writer.strip_prefix(Writer::CONFIGURATION) {
                    *writer = id.to_owned();
                }
            }
            _ => {}
        }
    }
}

/// The pair of thumbprints, `null` where there is none.
pub(crate) fn thumbprint_pair((primary, secondary): (&str, &str)) -> Value {
    let or_null = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({"primaryThumbprint": or_null(primary), "secondaryThumbprint": or_null(secondary)})
}

fn section(name: &str, document: &str, metadata: &str, version: u64) -> Result<Value, ApiError> {
    let mut section = object(name, document)?;
    let is_configured = metadata.contains(Writer::CONFIGURATION);
    let mut metadata = object(name, metadata)?;
    if is_configured {
        name_configurations(&mut metadata);
    }
    section.insert("$metadata".into(), metadata.into());
    section.insert("$version".into(), version.into());
    Ok(section.into())
}

/// What twin-store says is a JSON object.
fn object(name: &str, text: &str) -> Result<Map<String, Value>, ApiError> {
    if text.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|error| {
        tracing::error!(section = name, %error, "twin-store answered a section that is no object");
        ApiError::new(500_001, "ServerError", "twin-store's answer cannot be read")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_told_apart_from_absent_and_text_stays_as_it_was() {
        let body = br#"{"tags":null,"properties":{"desired":{"x":1.10,"y":9007199254740993},"reported":7},"etag":null,"version":null}"#;
        let body: TwinBody<'_> = crate::bodies::read_object(body).expect("a body");
        assert_eq!(body.tags(), Section::Emptied);
        let desired = r#"{"x":1.10,"y":9007199254740993}"#;
        assert_eq!(body.desired(), Section::Given(desired));
        let empty: TwinBody<'_> = crate::bodies::read_object(b"{}").expect("a body");
        assert_eq!(empty.tags(), Section::Absent);
        assert_eq!(empty.desired(), Section::Absent);
    }

    #[test]
    fn an_array_is_no_object_whatever_is_in_it() {
        let refused = |body: &'static [u8]| {
            let error =
                crate::bodies::read_object::<TwinBody<'_>>(body).map(|body| format!("{body:?}"));
            error.expect_err("an array").to_string()
        };
        let array = refused(br#"[{"zy":1},[{"dd":1}]]"#);
        assert!(array.contains("expected a JSON object"), "{array}");
        refused(br#"{"properties":[{"dd":1}]}"#);
        let null = crate::bodies::read_object::<TwinBody<'_>>(br#"{"properties":null}"#);
        assert_eq!(null.expect("SDKs send it").desired(), Section::Absent);
        let identity = |body: &'static [u8]| {
            crate::bodies::read_object::<crate::bodies::identity::IdentityBody>(body)
        };
        assert!(identity(br#"["arr2","enabled"]"#).is_err());
        assert!(identity(br#"{"authentication":["sas"]}"#).is_err());
        assert!(identity(br#"{"authentication":null}"#).is_ok());
    }

    #[test]
    fn a_new_twin_has_the_documented_form() {
        let twin = Twin {
            device_id: "d1".into(),
            etag: "AAAAAAAAAAE=".into(),
            version: 2,
            device_etag: "MTI5Mjg0NTg5".into(),
            status: "enabled".into(),
            authentication_type: "sas".into(),
            desired_json: r#"{"rate":{"hz":5}}"#.into(),
            desired_metadata_json: r#"{"$lastUpdated":"2024-05-01T10:00:00.0000000Z"}"#.into(),
            desired_version: 2,
            reported_version: 1,
            ..Twin::default()
        };
        let body = super::twin(&twin).expect("a body");
        let wanted = json!({
            "deviceId": "d1", "modelId": "", "etag": "AAAAAAAAAAE=", "version": 2,
            "deviceEtag": "MTI5Mjg0NTg5", "status": "enabled",
            "statusUpdateTime": "0001-01-01T00:00:00Z", "connectionState": "Disconnected",
            "lastActivityTime": "0001-01-01T00:00:00Z", "cloudToDeviceMessageCount": 0,
            "authenticationType": "sas",
            "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null},
            "properties": {
                "desired": {
                    "rate": {"hz": 5},
                    "$metadata": {"$lastUpdated": "2024-05-01T10:00:00.0000000Z"}, "$version": 2
                },
                "reported": {"$metadata": {}, "$version": 1}
            },
            "capabilities": {"iotEdge": false}
        });
        assert_eq!(body, wanted);
    }

    #[test]
    fn configurations_are_named_by_their_ids_and_other_writers_as_they_are() {
        let state = |id: &str, status: ConfigurationStatus| wire::twin::v1::ConfigurationState {
            id: id.into(),
            status: status.into(),
        };
        let twin = Twin {
            desired_json: r#"{"a":{"b":1},"c":2}"#.into(),
            desired_metadata_json: r#"{"a":{"b":{"$lastUpdatedBy":"configuration:c-1"}},
                "c":{"$lastUpdatedBy":"operator:configuration:x"}}"#
                .into(),
            desired_version: 2,
            configurations: vec![
                state("c-1", ConfigurationStatus::Applied),
                state("c-2", ConfigurationStatus::Targeted),
            ],
            ..Twin::default()
        };
        let body = super::twin(&twin).expect("a body");
        assert_eq!(
            body["configurations"],
            json!({"c-1": {"status": "Applied"}, "c-2": {"status": "Targeted"}})
        );
        let metadata = &body["properties"]["desired"]["$metadata"];
        assert_eq!(metadata["a"]["b"]["$lastUpdatedBy"], "c-1");
        assert_eq!(metadata["c"]["$lastUpdatedBy"], "operator:configuration:x");
    }
}
