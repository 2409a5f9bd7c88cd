//! Timestamps: `google.protobuf.Timestamp` outside, `jiff::Timestamp` inside.

use jiff::Timestamp;
use prost_types::Timestamp as WireTimestamp;

use crate::InvalidField;

/// Prints an instant for the wire.
pub fn to_wire(instant: Timestamp) -> WireTimestamp {
    let mut seconds = instant.as_second();
    let mut nanos = instant.subsec_nanosecond();
    // Protobuf counts nanoseconds forward from the second, also before 1970.
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    WireTimestamp { seconds, nanos }
}

/// Reads an instant that must be there.
///
/// # Errors
/// Names `field` when it is absent or outside the years that can be represented.
pub fn required(field: &str, wire: Option<WireTimestamp>) -> Result<Timestamp, InvalidField> {
    optional(field, wire)?.ok_or_else(|| InvalidField::new(field, "is required"))
}

/// Reads an instant that may be absent.
///
/// # Errors
/// Names `field` when it is outside the years that can be represented.
pub fn optional(
    field: &str,
    wire: Option<WireTimestamp>,
) -> Result<Option<Timestamp>, InvalidField> {
    let Some(wire) = wire else { return Ok(None) };
    if !(0..1_000_000_000).contains(&wire.nanos) {
        return Err(InvalidField::new(
            field,
            format!("nanos is {}; allowed are 0 to 999999999", wire.nanos),
        ));
    }
    Timestamp::new(wire.seconds, wire.nanos)
        .map(Some)
        .map_err(|error| InvalidField::new(field, error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn instants_come_back_as_they_went(seconds in -62_000_000_000_i64..253_000_000_000, nanos in 0..1_000_000_000_i32) {
            let instant = Timestamp::new(seconds, nanos).unwrap();
            let wire = to_wire(instant);
            prop_assert!((0..1_000_000_000).contains(&wire.nanos));
            prop_assert_eq!(optional("at", Some(wire)).unwrap(), Some(instant));
        }
    }

    #[test]
    fn a_wrong_instant_names_its_field() {
        let error = required("receive_time", None).unwrap_err();
        assert_eq!(error.to_string(), "receive_time: is required");
        let wire = WireTimestamp {
            seconds: i64::MAX,
            nanos: 0,
        };
        assert_eq!(optional("at", Some(wire)).unwrap_err().field, "at");
        let wire = WireTimestamp {
            seconds: 0,
            nanos: -1,
        };
        assert!(
            optional("at", Some(wire))
                .unwrap_err()
                .problem
                .contains("999999999")
        );
    }
}
