//! Who connects: the client id and the user name of a CONNECT.
//!
//! `{host}/{client id}/?api-version={v}&DeviceClientType={agent}&model-id={id}`. In the wild the `?`
//! may be missing, the properties too, and an old form splits them by slashes.

use twin::IdentityKey;

use super::model::is_model_id;
use crate::percent;

/// What a CONNECT says of who connects. It proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectName {
    /// The hub's name, as the device has it in its connection string.
    pub host: String,
    /// Who.
    pub identity: IdentityKey,
    /// The version of IoT Hub's interface that the device was written for. Any is served alike.
    pub api_version: Option<String>,
    /// Which SDK, of which version.
    pub client_type: Option<String>,
    /// The DTDL model of the device; what is no id of one is passed over.
    pub model_id: Option<String>,
}

/// Why a CONNECT names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The client id is neither a device's nor a module's.
    #[error("the client id is no {{device}} or {{device}}/{{module}}")]
    ClientId,
    /// There is no user name.
    #[error("there is no user name: want {{host}}/{{client id}}/?api-version=...")]
    NoUserName,
    /// The user name begins otherwise.
    #[error("the user name is not {{host}}/{{client id}}/?api-version=... with the same client id")]
    UserName,
    /// It is a device that wants to be provisioned.
    #[error(
        "the user name is not {{idScope}}/registrations/{{registration id}}/api-version=... with the \
         registration id as the client id"
    )]
    Provisioning,
}

impl ConnectName {
    /// Reads both names.
    pub fn parse(client_id: &str, user_name: Option<&str>) -> Result<Self, ConnectError> {
        let user_name = user_name.ok_or(ConnectError::NoUserName)?;
        let (host, rest) = user_name.split_once('/').ok_or(ConnectError::UserName)?;
        // Ids may hold nearly everything, so the client id says where the name ends, not a search.
        let Some(after) = rest.strip_prefix(client_id) else {
            return Err(if rest.starts_with("registrations/") {
                ConnectError::Provisioning
            } else {
                ConnectError::UserName
            });
        };
        let properties = match after.strip_prefix('/') {
            Some(properties) => properties,
            None if after.is_empty() => "",
            None => return Err(ConnectError::UserName),
        };
        if host.is_empty() || !begins_properties(properties) {
            return Err(ConnectError::UserName);
        }
        let identity = IdentityKey::parse_path(client_id).map_err(|_| ConnectError::ClientId)?;
        let mut name = Self {
            host: host.to_owned(),
            identity,
            api_version: None,
            client_type: None,
            model_id: None,
        };
        name.read(properties);
        name.model_id = name.model_id.filter(|id| is_model_id(id));
        Ok(name)
    }

    /// Reads the properties; the first of a name counts, and others are nobody's business.
    fn read(&mut self, properties: &str) {
        let plain = properties.strip_prefix('?').unwrap_or(properties);
        // The old form; agents print slashes themselves, so it ends at the name that follows.
        let plain = plain.replace("/DeviceClientType=", "&DeviceClientType=");
        for (name, value) in plain.split('&').filter_map(|pair| pair.split_once('=')) {
            let place = match name {
                "api-version" => &mut self.api_version,
                "DeviceClientType" => &mut self.client_type,
                "model-id" => &mut self.model_id,
                _ => continue,
            };
            if place.is_none() && !value.is_empty() {
                *place = Some(percent::decode(value).unwrap_or_else(|| value.to_owned()));
            }
        }
    }

    /// Whether the device means the hub of this name; case and ports do not count.
    pub fn is_for(&self, host: &str) -> bool {
        crate::SasResource::of_host(&self.host) == crate::SasResource::of_host(host)
    }
}

/// Whether what stands behind the client id can be properties, and not more of another id: the user
/// name of a module does not go with the client id of its device.
fn begins_properties(text: &str) -> bool {
    let known = ["?", "api-version=", "DeviceClientType=", "model-id="];
    if text.is_empty() || known.iter().any(|begin| text.starts_with(begin)) {
        return true;
    }
    // Properties of others may stand before those that are known.
    let ends = ["?", "api-version="]
        .iter()
        .filter_map(|end| text.find(end));
    let before = ends.min().map_or(text, |end| &text[..end]);
    before.contains('=') && !before.contains('/')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(client_id: &str, user_name: &str) -> Result<ConnectName, ConnectError> {
        ConnectName::parse(client_id, Some(user_name))
    }

    #[test]
    fn every_form_that_is_in_use_is_read() {
        let python = "hub.net/d-1/?api-version=2019-10-01&DeviceClientType=azure-iot-device%2F2.14";
        let old = "hub.net/d-1/api-version=2017-06-30/DeviceClientType=Azure.Client/1.5.1-preview";
        for (text, version, client) in [
            (python, Some("2019-10-01"), Some("azure-iot-device/2.14")),
            (old, Some("2017-06-30"), Some("Azure.Client/1.5.1-preview")),
            (
                "hub.net/d-1/api-version=2016-11-14",
                Some("2016-11-14"),
                None,
            ),
            (
                "hub.net/d-1/?api-version=a&api-version=b&x=1&y",
                Some("a"),
                None,
            ),
            ("hub.net/d-1/?api-version=", None, None),
            ("hub.net/d-1/", None, None),
            ("hub.net/d-1", None, None),
        ] {
            let name = parse("d-1", text).unwrap();
            assert_eq!(name.identity.to_string(), "d-1");
            assert_eq!(name.api_version.as_deref(), version, "{text}");
            assert_eq!(name.client_type.as_deref(), client, "{text}");
            assert!(name.is_for("HUB.net:8883") && !name.is_for("hub.org"));
        }
        let model = "h/d/m/?api-version=1&model-id=dtmi%3Acom%3Ax%3B1";
        let module = parse("d/m", model).unwrap();
        assert_eq!(module.identity, IdentityKey::parse_path("d/m").unwrap());
        assert_eq!(module.model_id.as_deref(), Some("dtmi:com:x;1"));
        assert_eq!(parse("d", "h/d/?model-id=mine").unwrap().model_id, None);
    }

    #[test]
    fn a_question_mark_in_an_id_does_not_end_it() {
        let name = parse("d?1", "hub/d?1/?api-version=v").unwrap();
        assert_eq!(name.identity.to_string(), "d?1");
        assert_eq!(name.api_version.as_deref(), Some("v"));
    }

    #[test]
    fn what_names_nobody_says_why() {
        let wanted = |name, error| assert_eq!(parse("d", name), Err(error), "{name}");
        wanted("hub/e/?api-version=1", ConnectError::UserName);
        wanted("hub/dd/?api-version=1", ConnectError::UserName);
        wanted("/d/?api-version=1", ConnectError::UserName);
        wanted("d", ConnectError::UserName);
        wanted(
            "0ne/registrations/d/api-version=1",
            ConnectError::Provisioning,
        );
        // A module's, with the client id of its device.
        wanted("hub/d/m/?api-version=1", ConnectError::UserName);
        wanted("hub/d/m/api-version=1", ConnectError::UserName);
        wanted("hub/d/m=1/?api-version=1", ConnectError::UserName);
        wanted("hub/d/m", ConnectError::UserName);
        wanted("hub/d/m/", ConnectError::UserName);
        for fine in [
            "hub/d/x=1&api-version=1",
            "hub/d/",
            "hub/d",
            "hub/d/x=1",
            "hub/d/?a/b",
        ] {
            assert!(parse("d", fine).is_ok(), "{fine}");
        }
        assert_eq!(parse("a b", "hub/a b/"), Err(ConnectError::ClientId));
        assert_eq!(parse("", "hub//"), Err(ConnectError::ClientId));
        assert_eq!(ConnectName::parse("d", None), Err(ConnectError::NoUserName));
    }

    proptest! {
        #[test]
        fn reading_never_panics(client_id in ".{0,40}", tail in any::<String>()) {
            let _ = ConnectName::parse(&client_id, Some(&tail));
            let _ = ConnectName::parse(&client_id, Some(&format!("h/{client_id}{tail}")));
        }
    }
}
