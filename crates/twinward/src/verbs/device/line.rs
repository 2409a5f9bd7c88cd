//! A line of an import or export: one identity with its tags and desired section, as a JSON object
//! with the names that IoT Hub's own export uses, so that such a file can be imported.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use twin::{DeviceId, IdentityKey, ModuleId};
use wire::registry::v1 as api;

/// One identity.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Line {
    #[serde(alias = "id")]
    pub(super) device_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) module_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) authentication: Option<Authentication>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) capabilities: Option<Capabilities>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) managed_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tags: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) properties: Option<Properties>,
    // What an export of IoT Hub has beside, and a new identity gets anew or does not have here.
    #[serde(default, alias = "etag", rename = "eTag", skip_serializing)]
    pub(super) ignored_etag: IgnoredAny,
    #[serde(default, rename = "twinETag", skip_serializing)]
    pub(super) ignored_twin_etag: IgnoredAny,
    #[serde(default, rename = "generationId", skip_serializing)]
    pub(super) ignored_generation: IgnoredAny,
    #[serde(default, rename = "deviceScope", skip_serializing)]
    pub(super) ignored_scope: IgnoredAny,
    #[serde(default, rename = "parentScopes", skip_serializing)]
    pub(super) ignored_parents: IgnoredAny,
}

/// Whether it may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Status {
    Enabled,
    Disabled,
}

/// How it proves itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Authentication {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) symmetric_key: Option<Keys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) x509_thumbprint: Option<Thumbprints>,
}

/// The ways to prove itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    Sas,
    SelfSigned,
    CertificateAuthority,
    None,
}

/// Two symmetric keys, base64.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Keys {
    pub(super) primary_key: Option<String>,
    pub(super) secondary_key: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// Accepted certificates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Thumbprints {
    pub(super) primary_thumbprint: Option<String>,
    pub(super) secondary_thumbprint: Option<String>,
}

/// What it is beside a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Capabilities {
    pub(super) iot_edge: bool,
}

/// The sections of the twin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Properties {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) desired: Option<Map<String, Value>>,
    /// Only the device writes it; read, so that an export can be imported, and left out.
    #[serde(default, skip_serializing)]
    reported: IgnoredAny,
}

impl Properties {
    /// With this desired section.
    pub(super) fn desired(desired: Map<String, Value>) -> Self {
        Self {
            desired: Some(desired),
            reported: IgnoredAny,
        }
    }
}

/// A line that was read and makes sense by itself.
#[derive(Debug)]
pub(super) struct Item {
    /// Counted from 1.
    pub(super) number: u64,
    pub(super) key: IdentityKey,
    pub(super) line: Line,
}

/// Reads a line; the error says what is wrong and where in it.
pub(super) fn parse(number: u64, text: &str) -> Result<Item, String> {
    // serde would read an array into a line, too, field by field.
    if text.trim_start().starts_with('[') {
        return Err("column 1: it is an array; a line is an object".to_owned());
    }
    let mut line: Line = serde_json::from_str(text).map_err(|error| {
        let words = error.to_string();
        // It is always line 1 of what was parsed, which is not the line of the file.
        match words.rsplit_once(" at line ") {
            Some((what, _)) => format!("column {}: {what}", error.column()),
            None => words,
        }
    })?;
    // Of the two values serde would keep one without a word.
    if let Some(path) = twin::duplicate_key(text) {
        return Err(format!("{path}: the key is there a second time"));
    }
    let device = DeviceId::parse(&line.device_id).map_err(|error| format!("deviceId: {error}"))?;
    let key = match line.module_id.as_deref() {
        None | Some("") => IdentityKey::new_device(device),
        Some(module) => {
            let module = ModuleId::parse(module).map_err(|error| format!("moduleId: {error}"))?;
            IdentityKey::new_module(device, module)
        }
    };
    if key.module.is_some() {
        for (name, given) in [
            ("status", line.status.is_some()),
            ("statusReason", line.status_reason.is_some()),
            ("capabilities", line.capabilities.is_some()),
        ] {
            if given {
                return Err(format!("{name}: a module has none; its device does"));
            }
        }
    } else if line.managed_by.as_deref().is_some_and(|by| !by.is_empty()) {
        return Err("managedBy: only a module has it".to_owned());
    }
    line.drop_system_keys();
    Ok(Item { number, key, line })
}

impl Line {
    /// `$metadata` and `$version` of an exported section are not part of what is written.
    fn drop_system_keys(&mut self) {
        if let Some(desired) = self.properties.as_mut().and_then(|p| p.desired.as_mut()) {
            desired.remove("$metadata");
            desired.remove("$version");
        }
    }

    /// The desired section that it asks for.
    pub(super) fn desired(&self) -> Option<&Map<String, Value>> {
        self.properties.as_ref()?.desired.as_ref()
    }

    /// The tags that it asks for, as messages have them; empty when it asks for none.
    pub(super) fn tags_json(&self) -> String {
        print(self.tags.as_ref())
    }

    /// The desired section that it asks for, as messages have it; empty when it asks for none.
    pub(super) fn desired_json(&self) -> String {
        print(self.desired())
    }

    /// Whether it holds keys.
    pub(super) fn has_keys(&self) -> bool {
        let keys = self
            .authentication
            .as_ref()
            .and_then(|a| a.symmetric_key.as_ref());
        keys.is_some_and(|keys| keys.primary_key.is_some() || keys.secondary_key.is_some())
    }

    /// Its keys, as messages have them.
    pub(super) fn keys(&self) -> Option<api::SymmetricKeys> {
        let keys = self.authentication.as_ref()?.symmetric_key.as_ref()?;
        if !self.has_keys() {
            return None;
        }
        Some(api::SymmetricKeys {
            primary: keys.primary_key.clone().unwrap_or_default(),
            secondary: keys.secondary_key.clone().unwrap_or_default(),
        })
    }

    /// Its thumbprints, as messages have them.
    pub(super) fn thumbprints(&self) -> Option<api::Thumbprints> {
        let given = self.authentication.as_ref()?.x509_thumbprint.as_ref()?;
        let primary = given.primary_thumbprint.clone().unwrap_or_default();
        let secondary = given.secondary_thumbprint.clone().unwrap_or_default();
        // IoT Hub writes nulls for those who have none.
        (!primary.is_empty() || !secondary.is_empty())
            .then_some(api::Thumbprints { primary, secondary })
    }

    /// How it proves itself, as messages have it.
    pub(super) fn authentication_type(&self) -> api::AuthenticationType {
        match self.authentication.as_ref().and_then(|given| given.kind) {
            None => api::AuthenticationType::Unspecified,
            Some(Kind::Sas) => api::AuthenticationType::Sas,
            Some(Kind::SelfSigned) => api::AuthenticationType::SelfSigned,
            Some(Kind::CertificateAuthority) => api::AuthenticationType::CertificateAuthority,
            Some(Kind::None) => api::AuthenticationType::None,
        }
    }

    /// Its status, as messages have it.
    pub(super) fn status(&self) -> api::Status {
        match self.status {
            None => api::Status::Unspecified,
            Some(Status::Enabled) => api::Status::Enabled,
            Some(Status::Disabled) => api::Status::Disabled,
        }
    }
}

fn print(object: Option<&Map<String, Value>>) -> String {
    object
        .map(|object| Value::Object(object.clone()).to_string())
        .unwrap_or_default()
}

/// What an answer says of how an identity proves itself.
pub(super) fn authentication(
    kind: api::AuthenticationType,
    keys: Option<&api::SymmetricKeys>,
    thumbprints: Option<&api::Thumbprints>,
) -> Authentication {
    let filled = |text: &String| (!text.is_empty()).then(|| text.clone());
    Authentication {
        kind: match kind {
            api::AuthenticationType::Unspecified => None,
            api::AuthenticationType::Sas => Some(Kind::Sas),
            api::AuthenticationType::SelfSigned => Some(Kind::SelfSigned),
            api::AuthenticationType::CertificateAuthority => Some(Kind::CertificateAuthority),
            api::AuthenticationType::None => Some(Kind::None),
        },
        symmetric_key: keys.map(|keys| Keys {
            primary_key: filled(&keys.primary),
            secondary_key: filled(&keys.secondary),
        }),
        x509_thumbprint: thumbprints.map(|thumbprints| Thumbprints {
            primary_thumbprint: filled(&thumbprints.primary),
            secondary_thumbprint: filled(&thumbprints.secondary),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_iot_hub_exported_is_read() {
        let text = r#"{"id":"cam-1","eTag":"Mg==","status":"enabled","authentication":
            {"symmetricKey":{"primaryKey":"cA==","secondaryKey":"cw=="},
             "x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"type":"sas"},
            "twinETag":"AAAA","tags":{"site":"x"},"properties":{"desired":
            {"a":1,"$metadata":{"$lastUpdated":"x"},"$version":3},"reported":{"b":2,"$version":1}},
            "capabilities":{"iotEdge":false}}"#;
        let item = parse(7, text).unwrap();
        assert_eq!(item.key.to_string(), "cam-1");
        assert_eq!(
            Value::Object(item.line.desired().unwrap().clone()).to_string(),
            r#"{"a":1}"#
        );
        assert_eq!(item.line.keys().unwrap().primary, "cA==");
        assert_eq!(item.line.thumbprints(), None);
        assert!(
            !format!("{:?}", item.line).contains("cA=="),
            "keys do not print"
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        let line = Line {
            device_id: "cam-1".to_owned(),
            module_id: Some("lens".to_owned()),
            authentication: Some(authentication(
                api::AuthenticationType::SelfSigned,
                None,
                Some(&api::Thumbprints {
                    primary: "AB".repeat(20),
                    secondary: String::new(),
                }),
            )),
            tags: Some(Map::new()),
            properties: Some(Properties::desired(Map::new())),
            ..Line::default()
        };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(parse(1, &text).unwrap().line, line, "{text}");
    }

    #[test]
    fn a_line_that_is_wrong_says_what_and_where() {
        let deep = format!("{{\"deviceId\":\"a\",\"tags\":{}", "{\"a\":".repeat(500));
        for (text, words) in [
            ("", "column 0: EOF"),
            (r#"["a","m","enabled"]"#, "a line is an object"),
            (r#"{"deviceId":"a"} x"#, "column 18: trailing characters"),
            (r#"{"status":"enabled"}"#, "missing field `deviceId`"),
            (r#"{"deviceId":"a b"}"#, "deviceId: "),
            (r#"{"deviceId":"a","moduleId":"x y"}"#, "moduleId: "),
            (
                r#"{"deviceId":"a","moduleId":"m","status":"enabled"}"#,
                "its device does",
            ),
            (r#"{"deviceId":"a","managedBy":"x"}"#, "only a module"),
            (r#"{"deviceId":"a","status":"on"}"#, "unknown variant `on`"),
            (r#"{"deviceId":"a","tag":{}}"#, "unknown field `tag`"),
            (
                r#"{"deviceId":"a","importMode":"delete"}"#,
                "unknown field `importMode`",
            ),
            (r#"{"deviceId":"a","tags":[]}"#, "invalid type: sequence"),
            (r#"{"deviceId":"a","deviceId":"b"}"#, "duplicate field"),
            (
                r#"{"deviceId":"a","properties":{"desired":{"x":[{"y":1,"y":2}]}}}"#,
                "properties.desired.x[0].y: the key is there a second time",
            ),
            (deep.as_str(), "recursion limit"),
        ] {
            let error = parse(1, text).unwrap_err();
            let shown = text.get(..40).unwrap_or(text);
            assert!(error.contains(words), "{shown}: {error}");
        }
    }
}
