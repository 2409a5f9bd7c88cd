//! Devices and modules as IoT Hub shows and takes them (spec §7.1, §7.2).

use serde::Deserialize;
use serde_json::{Map, Value, json};
use wire::registry::v1::{AuthenticationType, Device, Module, Status, SymmetricKeys, Thumbprints};

use super::twin::thumbprint_pair;
use super::{object, time};
use crate::error::ApiError;

/// What a PUT of a device or module may hold; everything else is read and ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IdentityBody {
    pub device_id: Option<String>,
    pub module_id: Option<String>,
    pub status: Option<String>,
    pub status_reason: Option<String>,
    #[serde(deserialize_with = "object::optional")]
    pub authentication: Option<Authentication>,
    #[serde(deserialize_with = "object::optional")]
    pub capabilities: Option<Capabilities>,
    pub managed_by: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Authentication {
    r#type: Option<String>,
    #[serde(deserialize_with = "object::optional")]
    symmetric_key: Option<KeyPair>,
    #[serde(deserialize_with = "object::optional")]
    x509_thumbprint: Option<ThumbprintPair>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct KeyPair {
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ThumbprintPair {
    primary_thumbprint: Option<String>,
    secondary_thumbprint: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Capabilities {
    #[serde(rename = "iotEdge")]
    iot_edge: Option<bool>,
}

/// How an identity is to prove itself, as twin-store takes it.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Proof {
    pub kind: AuthenticationType,
    pub keys: Option<SymmetricKeys>,
    pub thumbprints: Option<Thumbprints>,
}

impl IdentityBody {
    /// Refuses a body whose ids are not those of the path.
    pub(crate) fn check_ids(&self, device: &str, module: Option<&str>) -> Result<(), ApiError> {
        for (field, found, wanted) in [
            ("deviceId", &self.device_id, Some(device)),
            ("moduleId", &self.module_id, module),
        ] {
            if let (Some(found), Some(wanted)) = (found, wanted)
                && found != wanted
            {
                return Err(ApiError::argument(format!(
                    "{field} of the body is `{found}` and of the path `{wanted}`; they must be equal"
                )));
            }
        }
        Ok(())
    }

    /// The status; `None` if the body does not speak of it.
    pub(crate) fn status(&self) -> Result<Option<Status>, ApiError> {
        match self.status.as_deref() {
            None => Ok(None),
            Some(text) if text.eq_ignore_ascii_case("enabled") => Ok(Some(Status::Enabled)),
            Some(text) if text.eq_ignore_ascii_case("disabled") => Ok(Some(Status::Disabled)),
            Some(text) => Err(ApiError::argument(format!(
                "status is `{text}`; want `enabled` or `disabled`"
            ))),
        }
    }

    /// Whether it is an IoT Edge device; `None` if the body does not speak of it.
    pub(crate) fn iot_edge(&self) -> Option<bool> {
        self.capabilities.as_ref()?.iot_edge
    }

    /// The reason of the status, if there is one.
    pub(crate) fn status_reason(&self) -> String {
        self.status_reason.clone().unwrap_or_default()
    }

    /// How it is to prove itself. Without a type, thumbprints alone mean self-signed, and all else
    /// symmetric keys.
    pub(crate) fn proof(&self) -> Result<Proof, ApiError> {
        let Some(authentication) = &self.authentication else {
            return Ok(Proof::default());
        };
        let keys = authentication.keys()?;
        let thumbprints = authentication.thumbprints();
        let kind = match authentication.r#type.as_deref() {
            None if keys.is_none() && thumbprints.is_some() => AuthenticationType::SelfSigned,
            None if keys.is_none() => AuthenticationType::Unspecified,
            None => AuthenticationType::Sas,
            Some(text) => kind(text)?,
        };
        // SDKs send both members, the one that does not count with nulls or old values.
        Ok(Proof {
            keys: keys.filter(|_| kind == AuthenticationType::Sas),
            thumbprints: thumbprints.filter(|_| kind == AuthenticationType::SelfSigned),
            kind,
        })
    }
}

impl Authentication {
    fn keys(&self) -> Result<Option<SymmetricKeys>, ApiError> {
        let given = self.symmetric_key.as_ref();
        let primary = given.and_then(|keys| keys.primary_key.clone());
        let secondary = given.and_then(|keys| keys.secondary_key.clone());
        let said = |key: &Option<String>| key.as_ref().is_some_and(|key| !key.is_empty());
        match (said(&primary), said(&secondary)) {
            (false, false) => Ok(None),
            (true, true) => Ok(Some(SymmetricKeys {
                primary: primary.unwrap_or_default(),
                secondary: secondary.unwrap_or_default(),
            })),
            (true, false) | (false, true) => Err(ApiError::argument(
                "authentication.symmetricKey has one key; want both primaryKey and secondaryKey, \
                 or neither for keys that are made here",
            )),
        }
    }

    fn thumbprints(&self) -> Option<Thumbprints> {
        let given = self.x509_thumbprint.as_ref()?;
        let text = |thumbprint: &Option<String>| thumbprint.clone().unwrap_or_default();
        let (primary, secondary) = (
            text(&given.primary_thumbprint),
            text(&given.secondary_thumbprint),
        );
        (!primary.is_empty() || !secondary.is_empty()).then_some(Thumbprints { primary, secondary })
    }
}

fn kind(text: &str) -> Result<AuthenticationType, ApiError> {
    // Python's generated models and hand-written ones differ in case.
    let known = [
        ("sas", AuthenticationType::Sas),
        ("selfSigned", AuthenticationType::SelfSigned),
        (
            "certificateAuthority",
            AuthenticationType::CertificateAuthority,
        ),
        ("none", AuthenticationType::None),
    ];
    known
        .into_iter()
        .find_map(|(name, kind)| name.eq_ignore_ascii_case(text).then_some(kind))
        .ok_or_else(|| {
            ApiError::argument(format!(
                "authentication.type is `{text}`; want sas, selfSigned, certificateAuthority or none"
            ))
        })
}

fn kind_name(kind: AuthenticationType) -> &'static str {
    match kind {
        AuthenticationType::Unspecified | AuthenticationType::Sas => "sas",
        AuthenticationType::SelfSigned => "selfSigned",
        AuthenticationType::CertificateAuthority => "certificateAuthority",
        AuthenticationType::None => "none",
    }
}

fn authentication(
    kind: AuthenticationType,
    keys: Option<&SymmetricKeys>,
    thumbprints: Option<&Thumbprints>,
) -> Value {
    let (primary, secondary) = match keys {
        Some(keys) => (json!(keys.primary), json!(keys.secondary)),
        None => (Value::Null, Value::Null),
    };
    let thumbprints = thumbprints.map_or(("", ""), |pair| (&*pair.primary, &*pair.secondary));
    json!({
        "type": kind_name(kind),
        "symmetricKey": {"primaryKey": primary, "secondaryKey": secondary},
        "x509Thumbprint": thumbprint_pair(thumbprints),
    })
}

fn connection(connected: bool) -> Value {
    let state = if connected {
        "Connected"
    } else {
        "Disconnected"
    };
    state.into()
}

/// A device as `GET /devices/{id}` answers it.
pub(crate) fn device(device: &Device) -> Value {
    let status = match device.status() {
        Status::Disabled => "disabled",
        Status::Enabled | Status::Unspecified => "enabled",
    };
    let mut body = Map::new();
    body.insert("deviceId".into(), device.device_id.clone().into());
    body.insert("generationId".into(), device.generation_id.clone().into());
    body.insert("etag".into(), device.etag.clone().into());
    body.insert("connectionState".into(), connection(device.connected));
    body.insert("status".into(), status.into());
    let reason = Some(&device.status_reason).filter(|reason| !reason.is_empty());
    body.insert("statusReason".into(), json!(reason));
    body.insert(
        "connectionStateUpdatedTime".into(),
        time(device.connection_update_time.as_ref()),
    );
    body.insert(
        "statusUpdatedTime".into(),
        time(device.status_update_time.as_ref()),
    );
    body.insert(
        "lastActivityTime".into(),
        time(device.last_activity_time.as_ref()),
    );
    body.insert("cloudToDeviceMessageCount".into(), 0.into());
    body.insert(
        "authentication".into(),
        authentication(
            device.authentication_type(),
            device.keys.as_ref(),
            device.thumbprints.as_ref(),
        ),
    );
    body.insert("capabilities".into(), json!({"iotEdge": device.iot_edge}));
    body.into()
}

/// A module as `GET /devices/{id}/modules/{id}` answers it.
pub(crate) fn module(module: &Module) -> Value {
    json!({
        "deviceId": module.device_id,
        "moduleId": module.module_id,
        "managedBy": Some(&module.managed_by).filter(|by| !by.is_empty()),
        "generationId": module.generation_id,
        "etag": module.etag,
        "connectionState": connection(module.connected),
        "connectionStateUpdatedTime": time(module.connection_update_time.as_ref()),
        "lastActivityTime": time(module.last_activity_time.as_ref()),
        "cloudToDeviceMessageCount": 0,
        "authentication": authentication(
            module.authentication_type(),
            module.keys.as_ref(),
            module.thumbprints.as_ref(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(authentication: &Value) -> Result<Proof, ApiError> {
        let body = json!({ "authentication": authentication }).to_string();
        let body: IdentityBody = crate::bodies::read_object(body.as_bytes()).expect("a body");
        body.proof()
    }

    #[test]
    fn every_form_of_authentication_that_sdks_send_is_understood() {
        let keys = json!({"primaryKey": "p", "secondaryKey": "s"});
        let prints = json!({"primaryThumbprint": "AB", "secondaryThumbprint": null});
        let nothing = json!({"primaryThumbprint": null, "secondaryThumbprint": null});
        for (given, kind, has_keys, has_prints) in [
            (json!(null), AuthenticationType::Unspecified, false, false),
            (json!({}), AuthenticationType::Unspecified, false, false),
            (
                json!({"type": "sas", "symmetricKey": keys, "x509Thumbprint": nothing}),
                AuthenticationType::Sas,
                true,
                false,
            ),
            (
                json!({"symmetricKey": keys}),
                AuthenticationType::Sas,
                true,
                false,
            ),
            (
                json!({"x509Thumbprint": prints}),
                AuthenticationType::SelfSigned,
                false,
                true,
            ),
            (
                json!({"type": "SelfSigned", "symmetricKey": keys, "x509Thumbprint": prints}),
                AuthenticationType::SelfSigned,
                false,
                true,
            ),
            (
                json!({"type": "certificateAuthority"}),
                AuthenticationType::CertificateAuthority,
                false,
                false,
            ),
        ] {
            let proof = proof(&given).expect("understood");
            assert_eq!(proof.kind, kind, "{given}");
            assert_eq!(proof.keys.is_some(), has_keys, "{given}");
            assert_eq!(proof.thumbprints.is_some(), has_prints, "{given}");
        }
    }

    #[test]
    fn half_a_pair_of_keys_and_unknown_words_are_refused() {
        let half = proof(&json!({"symmetricKey": {"primaryKey": "p"}})).expect_err("half");
        assert!(half.to_string().contains("want both"), "{half}");
        let odd = proof(&json!({"type": "password"})).expect_err("odd");
        assert!(odd.to_string().contains("`password`"), "{odd}");
        let body: IdentityBody =
            crate::bodies::read_object(br#"{"status":"off"}"#).expect("a body");
        assert!(body.status().is_err());
        let body: IdentityBody =
            crate::bodies::read_object(br#"{"deviceId":"a"}"#).expect("a body");
        assert!(body.check_ids("a", None).is_ok() && body.check_ids("b", None).is_err());
    }
}
