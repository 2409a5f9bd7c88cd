//! Messages from the cloud to a device: the limits of a message and of a queue, and how a message is
//! spelled in the topic that carries it.

use std::time::Duration;

use crate::mqtt::PropertyBag;

/// Messages that may wait for one device.
pub const QUEUE_MAX: u16 = 50;

/// Largest message: payload and properties.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Largest properties of a message. They travel in a topic, which has 64 KiB at most and may need
/// three characters for each of theirs.
pub const PROPERTIES_BYTES_MAX: usize = 16 << 10;

/// How long a message waits when nobody says.
pub const TIME_TO_LIVE_DEFAULT: Duration = Duration::from_hours(1);
/// The shortest time that a message may be told to wait.
pub const TIME_TO_LIVE_MIN: Duration = Duration::from_secs(1);
/// The longest.
pub const TIME_TO_LIVE_MAX: Duration = Duration::from_hours(48);

/// How often a message goes to a device that does not acknowledge it.
pub const DELIVERIES_MAX: u32 = 10;

/// Longest id of a message.
const ID_BYTES_MAX: usize = 128;

/// What an id may have beside letters and digits.
const ID_SIGNS: &[u8] = b"-:.+%_#*?!(),=@;$'";

/// Why a message cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A text that is no id.
    #[error(
        "is no id of a message: allowed are 1 to {ID_BYTES_MAX} letters and digits of ASCII and \
         -:.+%_#*?!(),=@;$'"
    )]
    Id,
    /// A name that a property of an application must not have.
    #[error(
        "{0:?} is no name of a property: it must not be empty and not begin with `$` or `iothub-`"
    )]
    PropertyName(String),
}

/// Refuses a text that is no id of a message.
pub fn check_id(text: &str) -> Result<(), MessageError> {
    let fits = (1..=ID_BYTES_MAX).contains(&text.len());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || ID_SIGNS.contains(&byte);
    if fits && text.bytes().all(plain) {
        return Ok(());
    }
    Err(MessageError::Id)
}

/// Refuses what would be taken for a property of the system.
pub fn check_property_name(name: &str) -> Result<(), MessageError> {
    let head = name.get(..7).unwrap_or_default();
    if name.is_empty() || name.starts_with('$') || head.eq_ignore_ascii_case("iothub-") {
        return Err(MessageError::PropertyName(name.to_owned()));
    }
    Ok(())
}

/// What a message says of itself; empty is not said.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemProperties<'a> {
    /// Its id.
    pub message_id: &'a str,
    /// What it belongs to.
    pub correlation_id: &'a str,
    /// For whom at the device, or from whom.
    pub user_id: &'a str,
    /// What the payload is.
    pub content_type: &'a str,
    /// How the payload is encoded.
    pub content_encoding: &'a str,
    /// When it ends, ISO 8601.
    pub expiry: &'a str,
}

/// The properties of a message in the topic that carries it to a device. Nothing acknowledges it to
/// its sender, so `iothub-ack` is `none`.
pub fn bag<'a>(
    device: &str,
    system: SystemProperties<'_>,
    properties: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> PropertyBag {
    let mut bag = PropertyBag::default();
    for (name, value) in [
        ("$.mid", system.message_id),
        ("$.cid", system.correlation_id),
        ("$.uid", system.user_id),
        ("$.exp", system.expiry),
        ("$.ct", system.content_type),
        ("$.ce", system.content_encoding),
    ] {
        if !value.is_empty() {
            bag.push(name, value);
        }
    }
    bag.push("$.to", format!("/devices/{device}/messages/deviceBound"));
    bag.push("iothub-ack", "none");
    for (name, value) in properties {
        bag.push(name, value);
    }
    bag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_characters_of_iot_hub() {
        for good in ["1", "a-b:c.d+e%f_g#h*i?j!k(l),=@;$'", &"x".repeat(128)] {
            assert_eq!(check_id(good), Ok(()), "{good}");
        }
        for bad in ["", " ", "a b", "a/b", "é", "a\"", &"x".repeat(129)] {
            assert_eq!(check_id(bad), Err(MessageError::Id), "{bad}");
        }
    }

    #[test]
    fn no_property_passes_for_one_of_the_system() {
        for good in ["a", "color", "iothub", "a$", "ünü", "io"] {
            assert_eq!(check_property_name(good), Ok(()), "{good}");
        }
        for bad in ["", "$.mid", "iothub-ack", "IoTHub-x"] {
            assert!(check_property_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_message_is_spelled_as_sdks_read_it() {
        let system = SystemProperties {
            message_id: "m 1",
            content_type: "application/json",
            ..SystemProperties::default()
        };
        let bag = bag("d", system, [("a&b", "1=2")]);
        assert_eq!(
            bag.to_string(),
            "%24.mid=m%201&%24.ct=application%2Fjson\
             &%24.to=%2Fdevices%2Fd%2Fmessages%2FdeviceBound&iothub-ack=none&a%26b=1%3D2"
        );
    }
}
