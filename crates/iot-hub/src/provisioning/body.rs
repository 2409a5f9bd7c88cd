//! The bodies of provisioning, the same in MQTT and HTTPS.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::RegistrationId;

/// A device that was registered, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Its registration id.
    pub registration_id: String,
    /// Its device id in the hub.
    pub device_id: String,
    /// The host name of the hub.
    pub hub: String,
    /// What became of it: `initialAssignment`, `deviceDataReset`.
    pub substatus: String,
    /// When it first registered.
    pub created_at: Timestamp,
    /// When it last registered.
    pub updated_at: Timestamp,
    /// Changes with each registration.
    pub etag: String,
}

impl Assigned {
    /// The state alone, as a look-up answers it.
    pub fn state(&self) -> Value {
        json!({
            "registrationId": self.registration_id,
            "createdDateTimeUtc": time(self.created_at),
            "assignedHub": self.hub,
            "deviceId": self.device_id,
            "status": "assigned",
            "substatus": self.substatus,
            "lastUpdatedDateTimeUtc": time(self.updated_at),
            "etag": self.etag,
        })
    }

    /// The answer to the question for an operation.
    pub fn operation(&self, operation_id: &str) -> Value {
        json!({
            "operationId": operation_id,
            "status": "assigned",
            "registrationState": self.state(),
        })
    }
}

/// The answer to a device that wants to be registered: it is to ask again.
pub fn assigning(operation_id: &str) -> Value {
    json!({ "operationId": operation_id, "status": "assigning" })
}

/// The body of a refusal. Unlike the hub's, its tracking id is a UUID and nothing else.
pub fn refusal(error_code: u32, tracking_id: &str, message: &str, at: Timestamp) -> Value {
    json!({
        "errorCode": error_code,
        "trackingId": tracking_id,
        "message": message,
        "timestampUtc": time(at),
    })
}

/// Seven digits, as .NET prints and parses them.
fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.7fZ").to_string()
}

/// Checks the body of a request to register: empty, or a JSON object whose `registrationId`, if it has
/// one, is this. A `payload` is for allocation by a function, which there is not, and is passed over.
///
/// # Errors
/// What is wrong with it.
pub fn registration_of(body: &[u8], registration: &RegistrationId) -> Result<(), &'static str> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let value: Value = serde_json::from_slice(body).map_err(|_| "the body is no JSON")?;
    let Value::Object(members) = value else {
        return Err("the body is no JSON object");
    };
    match members.get("registrationId") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(id)) if id.eq_ignore_ascii_case(registration.as_str()) => Ok(()),
        Some(_) => Err("registrationId in the body is not that of this connection or path"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_has_the_members_that_sdks_read() {
        let assigned = Assigned {
            registration_id: "sn-1".to_owned(),
            device_id: "cam-1".to_owned(),
            hub: "hub.example".to_owned(),
            substatus: "initialAssignment".to_owned(),
            created_at: "2026-01-02T03:04:05.6Z".parse().unwrap(),
            updated_at: "2026-01-03T03:04:05Z".parse().unwrap(),
            etag: "MQ==".to_owned(),
        };
        let wanted = json!({
            "operationId": "4.a.b",
            "status": "assigned",
            "registrationState": {
                "registrationId": "sn-1",
                "createdDateTimeUtc": "2026-01-02T03:04:05.6000000Z",
                "assignedHub": "hub.example",
                "deviceId": "cam-1",
                "status": "assigned",
                "substatus": "initialAssignment",
                "lastUpdatedDateTimeUtc": "2026-01-03T03:04:05.0000000Z",
                "etag": "MQ==",
            },
        });
        assert_eq!(assigned.operation("4.a.b"), wanted);
        assert_eq!(
            assigning("x"),
            json!({"operationId": "x", "status": "assigning"})
        );
    }

    #[test]
    fn a_body_is_of_its_registration() {
        let id = RegistrationId::parse("SN-1").unwrap();
        for good in [
            "",
            " ",
            "{}",
            r#"{"registrationId":"sn-1","payload":{"a":[1]}}"#,
        ] {
            assert_eq!(registration_of(good.as_bytes(), &id), Ok(()), "{good}");
        }
        for bad in [
            "{",
            "[]",
            "\"sn-1\"",
            r#"{"registrationId":"sn-2"}"#,
            r#"{"registrationId":1}"#,
        ] {
            assert!(registration_of(bad.as_bytes(), &id).is_err(), "{bad}");
        }
    }
}
