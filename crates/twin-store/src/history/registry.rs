//! What a history follows of the registry: how an identity proved itself, and what else was said of
//! it. Of keys nothing gets in, not even their sealed form; that they changed shows in the etag.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::record::{Authentication, Identity};

/// The part of a document that the registry answers for, beside the status. It is there if the
/// revision was kept by a version of ours that follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registry {
    /// How the identity proved itself, as twins show it.
    pub authentication_type: String,
    /// By which certificates, if it was self-signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x509_thumbprint: Option<Thumbprints>,
    /// What kind of device it was.
    pub capabilities: Capabilities,
    /// Who managed the module.
    pub managed_by: String,
    /// DTDL model id.
    pub model_id: String,
    /// Number of the identity's etag.
    pub device_etag: u64,
    /// When the status was last changed; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_update_time: Option<String>,
}

/// The thumbprints of a self-signed identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Thumbprints {
    /// Always there.
    pub primary_thumbprint: String,
    /// May be empty.
    pub secondary_thumbprint: String,
}

/// What kind of device it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Whether it was an IoT Edge device.
    pub iot_edge: bool,
}

/// Members of [`Registry`] in a document; the first is always among them.
const MEMBERS: [&str; 7] = [
    "authenticationType",
    "x509Thumbprint",
    "capabilities",
    "managedBy",
    "modelId",
    "deviceEtag",
    "statusUpdateTime",
];

impl Registry {
    /// The registry's part of a document; none if that revision did not keep it.
    ///
    /// # Errors
    /// What is wrong with it; nothing but a damaged history causes it.
    pub fn read(document: &Value) -> Result<Option<Registry>, String> {
        if document.get(MEMBERS[0]).is_none() {
            return Ok(None);
        }
        let registry = Registry::deserialize(document).map_err(|error| error.to_string())?;
        registry.status_updated_at()?;
        Ok(Some(registry))
    }

    /// When the status was last changed.
    ///
    /// # Errors
    /// It is no time; nothing but a damaged history causes it.
    pub fn status_updated_at(&self) -> Result<Option<Timestamp>, String> {
        let text = self.status_update_time.as_deref();
        text.map(|text| text.parse().map_err(|error: jiff::Error| error.to_string()))
            .transpose()
    }

    fn of(identity: &Identity) -> Registry {
        Registry {
            authentication_type: identity.authentication.as_str().to_owned(),
            x509_thumbprint: match &identity.authentication {
                Authentication::SelfSigned { primary, secondary } => Some(Thumbprints {
                    primary_thumbprint: primary.clone(),
                    secondary_thumbprint: secondary.clone().unwrap_or_default(),
                }),
                Authentication::Sas { .. }
                | Authentication::CertificateAuthority
                | Authentication::None => None,
            },
            capabilities: Capabilities {
                iot_edge: identity.iot_edge,
            },
            managed_by: identity.managed_by.clone(),
            model_id: identity.model_id.clone(),
            device_etag: identity.etag.number(),
            status_update_time: identity.status_updated_at.map(|at| at.to_string()),
        }
    }
}

/// The registry's part of a document that is being made.
pub(super) fn members(identity: &Identity) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_value(serde_json::to_value(Registry::of(identity))?)
}

/// Takes the registry's part out of a document in which it is not that of then.
pub fn forget(document: &mut Value) {
    if let Value::Object(document) = document {
        for member in MEMBERS {
            document.remove(member);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::record;

    #[test]
    fn what_is_made_of_an_identity_reads_back_and_can_be_forgotten() {
        let mut identity = record("d", "g").identity;
        identity.authentication = Authentication::SelfSigned {
            primary: "AB".to_owned(),
            secondary: None,
        };
        identity.iot_edge = true;
        identity.status_updated_at = Some(crate::testing::now());
        let mut document = Value::Object(members(&identity).unwrap());
        let read = Registry::read(&document).unwrap().unwrap();
        assert_eq!(read, Registry::of(&identity));
        assert_eq!(read.status_updated_at(), Ok(identity.status_updated_at));
        document["tags"] = json!({"modelId": 1});
        forget(&mut document);
        assert_eq!(document, json!({"tags": {"modelId": 1}}));
        assert_eq!(Registry::read(&document), Ok(None));
    }

    #[test]
    fn what_is_damaged_says_so() {
        for damaged in [
            json!({"authenticationType": "sas"}),
            json!({"authenticationType": 1}),
        ] {
            assert!(Registry::read(&damaged).is_err(), "{damaged}");
        }
        let mut bad = Value::Object(members(&record("d", "g").identity).unwrap());
        bad["statusUpdateTime"] = json!("tuesday");
        assert!(Registry::read(&bad).is_err());
    }
}
