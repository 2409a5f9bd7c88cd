//! How instants stand in the posture document: RFC 3339 in UTC with milliseconds or better.
//!
//! Used through `#[serde(with = ..)]`, so that the fields stay plain [`jiff::Timestamp`]s. Nothing is
//! rounded: a posture that went through JSON folds on exactly as one that did not.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serializer, de};

/// An instant as the posture document shows it, for whoever makes parts of one.
///
/// Formats with as few fractional digits as are exact, but never fewer than three.
pub fn format(instant: Timestamp) -> String {
    let nanos = instant.subsec_nanosecond();
    if nanos % 1_000_000 == 0 {
        format!("{instant:.3}")
    } else if nanos % 1_000 == 0 {
        format!("{instant:.6}")
    } else {
        format!("{instant:.9}")
    }
}

pub(crate) fn serialize<S: Serializer>(
    instant: &Timestamp,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*instant))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

/// The same for an optional instant; absent in the document when `None`.
pub(crate) mod option {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[allow(clippy::ref_option)] // the signature is serde's
    pub(crate) fn serialize<S: Serializer>(
        instant: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match instant {
            Some(instant) => super::serialize(instant, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_keep_all_digits_and_show_at_least_milliseconds() {
        for (text, expected) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z"),
            ("2026-01-02T03:04:05.25Z", "2026-01-02T03:04:05.250Z"),
            ("2026-01-02T03:04:05.000001Z", "2026-01-02T03:04:05.000001Z"),
            (
                "2026-01-02T03:04:05.123456789Z",
                "2026-01-02T03:04:05.123456789Z",
            ),
        ] {
            let instant: Timestamp = text.parse().unwrap();
            assert_eq!(format(instant), expected);
            assert_eq!(expected.parse::<Timestamp>().unwrap(), instant);
        }
    }
}
