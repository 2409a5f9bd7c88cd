//! Where configurations stand on a twin: a list outside, `twin::ConfigurationStates` inside.

use twin::{ConfigurationStates, ConfigurationStatus};

use crate::InvalidField;
use crate::twin::v1 as proto;

/// Most configurations of a twin: as many as a hub may have (spec iot-hub-twins §2.6).
const CONFIGURATIONS_MAX: usize = 100;
/// Longest id of a configuration (spec iot-hub-twins §2.6).
const ID_MAX: usize = 128;

/// Prints them for the wire, in the order of their ids.
pub fn to_wire(states: &ConfigurationStates) -> Vec<proto::ConfigurationState> {
    let print = |(id, at): (&String, &ConfigurationStatus)| proto::ConfigurationState {
        id: id.clone(),
        status: match at {
            ConfigurationStatus::Targeted => proto::ConfigurationStatus::Targeted,
            ConfigurationStatus::Applied => proto::ConfigurationStatus::Applied,
        }
        .into(),
    };
    states.iter().map(print).collect()
}

/// Reads them.
///
/// # Errors
/// Names what of `field` is wrong: there are too many, or one has no id or no status, or is there a
/// second time.
pub fn from_wire(
    field: &str,
    wire: &[proto::ConfigurationState],
) -> Result<ConfigurationStates, InvalidField> {
    if wire.len() > CONFIGURATIONS_MAX {
        let problem = format!(
            "has {} configurations; at most {CONFIGURATIONS_MAX} are allowed",
            wire.len()
        );
        return Err(InvalidField::new(field, problem));
    }
    let mut found = ConfigurationStates::new();
    for (index, one) in wire.iter().enumerate() {
        let wrong = |name: &str, problem: String| {
            InvalidField::new(format!("{field}[{index}].{name}"), problem)
        };
        let bytes = one.id.len();
        if !(1..=ID_MAX).contains(&bytes) {
            let problem = format!("has {bytes} bytes; allowed are 1 to {ID_MAX}");
            return Err(wrong("id", problem));
        }
        let status = match one.status() {
            proto::ConfigurationStatus::Targeted => ConfigurationStatus::Targeted,
            proto::ConfigurationStatus::Applied => ConfigurationStatus::Applied,
            proto::ConfigurationStatus::Unspecified => {
                return Err(wrong("status", "must be TARGETED or APPLIED".to_owned()));
            }
        };
        if found.insert(one.id.clone(), status).is_some() {
            return Err(wrong("id", format!("{:?} is there a second time", one.id)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_printed_is_read_and_anything_else_is_named() {
        let states = ConfigurationStates::from([
            ("a".to_owned(), ConfigurationStatus::Applied),
            ("b".to_owned(), ConfigurationStatus::Targeted),
        ]);
        let wire = to_wire(&states);
        assert_eq!(from_wire("f", &wire), Ok(states));
        let field = |change: fn(&mut Vec<proto::ConfigurationState>)| {
            let mut wrong = wire.clone();
            change(&mut wrong);
            from_wire("f", &wrong).expect_err("wrong").field
        };
        assert_eq!(field(|wire| wire[1].id = "a".to_owned()), "f[1].id");
        assert_eq!(field(|wire| wire[0].id.clear()), "f[0].id");
        assert_eq!(field(|wire| wire[1].status = 7), "f[1].status");
        let many = |wire: &mut Vec<proto::ConfigurationState>| wire.resize(101, wire[0].clone());
        assert_eq!(field(many), "f");
    }
}
