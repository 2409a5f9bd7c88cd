//! Names of streams and subjects on NATS: built and parsed nowhere else.
//!
//! | what | stream | subject |
//! |---|---|---|
//! | admitted telemetry of partition 7 | `TELEMETRY_7` | `telemetry.7` |
//! | changes of twins of partition 7 | `TWINS_7` | `twins.7` |
//! | what could not be used | `REJECTS` | `rejects.{service}` |
//! | messages of devices for applications | `APPLICATION` | `application.{partition}` |
//! | MQTT sessions that outlive their connection | `MQTT_SESSIONS` | `mqtt-session.{token}` |
//! | how often messages went to a device in vain | `MQTT_SESSIONS` | `mqtt-session.{token}.deliveries` |
//! | messages from the cloud for a device | `DEVICE_MESSAGES` | `device-message.{token}.{generation}` |
//! | desired changed, for ingestion | – | `push.{token}` |
//! | identity changed, for ingestion | – | `identity.{token}` |
//! | a message waits for a device, for ingestion | – | `message.{token}` |
//! | hints were left out, for ingestion: all sessions look again | – | `hints-lost` |
//! | session opened, for the other instances of ingestion | – | `session.{token}` |
//! | who holds the session of a device? | – | `find-session` |
//! | an instance of ingestion is there | – | `ingestion-instance` |
//! | one run of ingestion is to say again which sessions it has | – | `roll-call.{run}` |
//! | calls for the sessions of one instance of ingestion | – | `method.{instance}` |
//!
//! A token is the identity in URL-safe base64, because device ids may hold characters that mean
//! something in a subject (`.`, `*`, `>`); so is a generation. Each generation of a device has a queue
//! of its own, so that none ever gets what was meant for an older one.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use twin::{IdentityKey, Partition};

/// Stream of what could not be used.
pub const REJECTS_STREAM: &str = "REJECTS";
/// All subjects of [`REJECTS_STREAM`].
pub const REJECTS_SUBJECTS: &str = "rejects.>";

/// Stream of what devices send for applications, of all partitions.
pub const APPLICATION_STREAM: &str = "APPLICATION";
/// All subjects of [`APPLICATION_STREAM`].
pub const APPLICATION_SUBJECTS: &str = "application.*";

/// Stream of MQTT sessions: of each identity the newest.
pub const MQTT_SESSIONS_STREAM: &str = "MQTT_SESSIONS";
/// All subjects of [`MQTT_SESSIONS_STREAM`].
pub const MQTT_SESSIONS_SUBJECTS: &str = "mqtt-session.>";

/// Stream of the queues of messages for devices.
pub const DEVICE_MESSAGES_STREAM: &str = "DEVICE_MESSAGES";
/// All subjects of [`DEVICE_MESSAGES_STREAM`].
pub const DEVICE_MESSAGES_SUBJECTS: &str = "device-message.*.*";

/// Push hints for any identity.
pub const PUSH_SUBJECTS: &str = "push.*";
/// Identity hints for any identity.
pub const IDENTITY_SUBJECTS: &str = "identity.*";
/// Hints of messages for any identity.
pub const MESSAGE_SUBJECTS: &str = "message.*";
/// Session notices for any identity.
pub const SESSION_SUBJECTS: &str = "session.*";

/// Where twin-store says that it left out hints, it knows not which.
pub const HINTS_LOST_SUBJECT: &str = "hints-lost";

/// Where instances of ingestion are asked who holds a session.
pub const FIND_SESSION_SUBJECT: &str = "find-session";

/// Where instances of ingestion say that they are there.
pub const INSTANCES_SUBJECT: &str = "ingestion-instance";

/// Where a replica of twin-store hears itself, to know that the bus works; `own` is one token.
pub fn echo_subject(own: &str) -> String {
    format!("twin-store-echo.{own}")
}

/// Where one run of an instance of ingestion is asked to say again which sessions are open; `run` is
/// one token.
pub fn roll_call_subject(run: &str) -> String {
    format!("roll-call.{run}")
}

/// Where one run of an instance of ingestion takes calls of direct methods; `run` is one token.
pub fn methods_subject(run: &str) -> String {
    format!("method.{run}")
}

/// Stream of admitted telemetry of a partition.
pub fn telemetry_stream(partition: Partition) -> String {
    format!("TELEMETRY_{partition}")
}

/// Subject of admitted telemetry of a partition.
pub fn telemetry_subject(partition: Partition) -> String {
    format!("telemetry.{partition}")
}

/// Stream of twin changes of a partition.
pub fn twins_stream(partition: Partition) -> String {
    format!("TWINS_{partition}")
}

/// Subject of twin changes of a partition.
pub fn twins_subject(partition: Partition) -> String {
    format!("twins.{partition}")
}

/// Subject of what a partition's devices send for applications.
pub fn application_subject(partition: Partition) -> String {
    format!("application.{partition}")
}

/// Subject of the MQTT session of one identity.
pub fn mqtt_session_subject(key: &IdentityKey) -> String {
    format!("mqtt-session.{}", token(key))
}

/// Subject of how often messages went to one identity in vain.
pub fn mqtt_deliveries_subject(key: &IdentityKey) -> String {
    format!("mqtt-session.{}.deliveries", token(key))
}

/// Subject of the queue of messages for one generation of a device.
pub fn device_messages_subject(key: &IdentityKey, generation_id: &str) -> String {
    let generation = BASE64_URL_SAFE_NO_PAD.encode(generation_id);
    format!("device-message.{}.{generation}", token(key))
}

/// Subjects of the queues of all generations of a device.
pub fn device_messages_subjects(key: &IdentityKey) -> String {
    format!("device-message.{}.*", token(key))
}

/// Subject of hints of messages for one identity.
pub fn message_subject(key: &IdentityKey) -> String {
    format!("message.{}", token(key))
}

/// Subject of the rejects of a service.
pub fn rejects_subject(service: &str) -> String {
    format!("rejects.{service}")
}

/// Subject of push hints for one identity.
pub fn push_subject(key: &IdentityKey) -> String {
    format!("push.{}", token(key))
}

/// Subject of identity hints for one identity.
pub fn identity_subject(key: &IdentityKey) -> String {
    format!("identity.{}", token(key))
}

/// Subject of session notices for one identity.
pub fn session_subject(key: &IdentityKey) -> String {
    format!("session.{}", token(key))
}

/// The identity whose push, identity, message or session subject this is; `None` for any other subject.
pub fn identity_of_subject(subject: &str) -> Option<IdentityKey> {
    let (kind, token) = subject.split_once('.')?;
    if !matches!(kind, "push" | "identity" | "message" | "session") {
        return None;
    }
    let path = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
    IdentityKey::parse_path(std::str::from_utf8(&path).ok()?).ok()
}

/// URL-safe base64 without padding of `device` or `device/module`.
fn token(key: &IdentityKey) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(key.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_identity_is_one_legal_subject_token() {
        for (path, subject) in [
            ("a", "push.YQ"),
            ("ab", "push.YWI"),
            ("abc", "push.YWJj"),
            ("cam.1*", "push.Y2FtLjEq"),
            ("d/m", "push.ZC9t"),
        ] {
            let key = IdentityKey::parse_path(path).unwrap();
            assert_eq!(push_subject(&key), subject);
            let session = format!("mqtt-session.{}", &subject["push.".len()..]);
            assert_eq!(mqtt_session_subject(&key), session);
            for subject in [
                push_subject(&key),
                identity_subject(&key),
                session_subject(&key),
                message_subject(&key),
            ] {
                assert_eq!(
                    identity_of_subject(&subject),
                    Some(key.clone()),
                    "{subject}"
                );
            }
        }
    }

    #[test]
    fn each_generation_has_a_queue_of_its_own() {
        let key = IdentityKey::parse_path("cam.1*").unwrap();
        let queue = |generation| device_messages_subject(&key, generation);
        assert_eq!(queue("1.2"), "device-message.Y2FtLjEq.MS4y");
        assert_ne!(queue("1"), queue("2"));
        let all = device_messages_subjects(&key);
        assert_eq!(all, "device-message.Y2FtLjEq.*");
        let deliveries = mqtt_deliveries_subject(&key);
        assert_eq!(deliveries, "mqtt-session.Y2FtLjEq.deliveries");
    }

    #[test]
    fn other_subjects_name_no_identity() {
        for subject in [
            "",
            "push",
            "push.",
            "push.!",
            "push.YQ.YQ",
            "twins.YQ",
            "push.Lw",
        ] {
            assert_eq!(identity_of_subject(subject), None, "{subject}");
        }
    }
}
