//! How provisioning looks in MQTT: the user name of a CONNECT, the two topics that a device publishes
//! to, the one on which it is answered.

use super::RegistrationId;
use crate::mqtt::topic::RID_BYTES_MAX;
use crate::percent;

/// What stands before everything that a device publishes.
const ROOT: &str = "$dps/registrations/";
/// What a device subscribes to.
const ANSWERS: &str = "$dps/registrations/res/#";
/// Longest name of an operation that is looked at.
const OPERATION_BYTES_MAX: usize = 256;

/// What a CONNECT says of a device that wants to be provisioned. It proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvisioningName {
    /// The id scope, as the device has it.
    pub id_scope: String,
    /// Who.
    pub registration: RegistrationId,
}

impl ProvisioningName {
    /// Whether a user name is one of a device that wants to be provisioned, well-formed or not:
    /// `{idScope}/registrations/..`. No user name of a device of the hub is: a `/` is in no id.
    pub fn is_meant(user_name: &str, client_id: &str) -> bool {
        let rest = user_name.split_once('/').map(|(_, rest)| rest);
        // A device may be called "registrations"; its client id says so.
        rest.is_some_and(|rest| {
            rest.starts_with("registrations/")
                && client_id.split('/').next() != Some("registrations")
        })
    }

    /// Reads `{idScope}/registrations/{registration id}/api-version=..`, with a `?` or without. None
    /// if it has another form, or the client id is not the registration id.
    pub fn parse(client_id: &str, user_name: &str) -> Option<Self> {
        let mut parts = user_name.splitn(4, '/');
        let (scope, word, id) = (parts.next()?, parts.next()?, parts.next()?);
        if scope.is_empty() || word != "registrations" {
            return None;
        }
        let registration = RegistrationId::parse(&percent::decode(id)?).ok()?;
        (registration.as_str() == client_id).then(|| Self {
            id_scope: scope.to_owned(),
            registration,
        })
    }
}

/// What a device publishes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProvisioningTopic {
    /// It wants to be registered.
    Register {
        /// The request's id.
        rid: String,
    },
    /// It asks what became of it.
    Operation {
        /// The request's id.
        rid: String,
        /// The operation, as it was told.
        operation: String,
    },
}

impl ProvisioningTopic {
    /// Reads a topic; none if it is no topic of provisioning.
    pub fn parse(topic: &str) -> Option<Self> {
        let (method, query) = topic.strip_prefix(ROOT)?.split_once("/?")?;
        let pairs = || query.split('&').filter_map(|pair| pair.split_once('='));
        let value = |name: &str, max: usize| {
            let is_named = |found: &str| found == name || found.replace("%24", "$") == name;
            let (_, value) = pairs().find(|(found, _)| is_named(found))?;
            (!value.is_empty() && value.len() <= max).then(|| value.to_owned())
        };
        let rid = value("$rid", RID_BYTES_MAX)?;
        match method {
            "PUT/iotdps-register" => Some(Self::Register { rid }),
            "GET/iotdps-get-operationstatus" => Some(Self::Operation {
                rid,
                operation: value("operationId", OPERATION_BYTES_MAX)?,
            }),
            _ => None,
        }
    }

    /// Whether a device may subscribe to this.
    pub fn is_answers(filter: &str) -> bool {
        filter == ANSWERS
    }
}

/// Where a request is answered. Clients take it apart literally: the id first, and just two `$`.
pub fn answer_topic(status: u16, rid: &str, retry_after: Option<u32>) -> String {
    let retry = retry_after.map(|seconds| format!("&retry-after={seconds}"));
    let retry = retry.unwrap_or_default();
    format!("{ROOT}res/{status}/?$rid={rid}{retry}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn user_names_of_every_sdk_are_read() {
        let python = "0ne00AB/registrations/sn-1/api-version=2019-03-31&ClientVersion=azure-iot-device%2F2.14.0%20(x)";
        let documented = "0ne00AB/registrations/sn-1/api-version=2019-03-31";
        for name in [
            python,
            documented,
            "0ne00AB/registrations/sn-1/?api-version=1",
        ] {
            assert!(ProvisioningName::is_meant(name, "sn-1"));
            let read = ProvisioningName::parse("sn-1", name).unwrap();
            assert_eq!(read.id_scope, "0ne00AB");
            assert_eq!(read.registration.as_str(), "sn-1");
        }
        for (client, name) in [
            ("sn-2", documented),
            ("", documented),
            ("sn-1", "/registrations/sn-1/api-version=1"),
            ("a b", "0ne/registrations/a b/"),
        ] {
            assert!(ProvisioningName::is_meant(name, client), "{name}");
            assert_eq!(ProvisioningName::parse(client, name), None, "{name}");
        }
        for (client, hub) in [
            ("d", "hub.net/d/?api-version=1"),
            ("registrations", "hub.net/registrations/?api-version=1"),
            ("registrations/m", "hub.net/registrations/m/?api-version=1"),
            ("d", "registrations"),
        ] {
            assert!(!ProvisioningName::is_meant(hub, client), "{hub}");
        }
    }

    #[test]
    fn topics_are_read_and_answered() {
        let register = ProvisioningTopic::parse("$dps/registrations/PUT/iotdps-register/?$rid=7-a");
        let rid = "7-a".to_owned();
        assert_eq!(
            register,
            Some(ProvisioningTopic::Register { rid: rid.clone() })
        );
        let poll = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=7-a&operationId=4.x.y";
        let operation = "4.x.y".to_owned();
        let wanted = ProvisioningTopic::Operation { rid, operation };
        assert_eq!(ProvisioningTopic::parse(poll), Some(wanted));
        for other in [
            "$dps/registrations/PUT/iotdps-register/",
            "$dps/registrations/PUT/iotdps-register/?$rid=",
            "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1",
            "$dps/registrations/DELETE/iotdps-register/?$rid=1",
            "$iothub/twin/GET/?$rid=1",
            "devices/d/messages/events/",
        ] {
            assert_eq!(ProvisioningTopic::parse(other), None, "{other}");
        }
        assert_eq!(
            answer_topic(202, "7-a", Some(3)),
            "$dps/registrations/res/202/?$rid=7-a&retry-after=3"
        );
        assert_eq!(
            answer_topic(200, "1", None),
            "$dps/registrations/res/200/?$rid=1"
        );
        assert!(ProvisioningTopic::is_answers("$dps/registrations/res/#"));
        assert!(!ProvisioningTopic::is_answers("$dps/#"));
    }

    proptest! {
        #[test]
        fn reading_never_panics(client in ".{0,20}", name in any::<String>()) {
            let _ = ProvisioningName::parse(&client, &name);
            let _ = ProvisioningName::parse(&client, &format!("s/registrations/{name}"));
            let _ = ProvisioningTopic::parse(&format!("{ROOT}{name}"));
        }
    }
}
