//! Instants for people: the second is enough, and how long ago matters more.

use jiff::{SignedDuration, Timestamp};
use prost_types::Timestamp as WireTimestamp;

/// Prints an instant for programs, RFC 3339 with milliseconds.
pub(crate) fn precise(wire: Option<WireTimestamp>) -> Option<String> {
    Some(format!("{:.3}", read(wire)?))
}

/// Prints an instant for people, to the second.
pub(crate) fn short(wire: Option<WireTimestamp>) -> String {
    read(wire).map(|at| format!("{at:.0}")).unwrap_or_default()
}

/// Prints how long ago an instant is, in its largest unit.
pub(crate) fn age(now: Timestamp, wire: Option<WireTimestamp>) -> String {
    read(wire)
        .map(|at| span(now.duration_since(at)))
        .unwrap_or_default()
}

/// Prints a length of time in its largest unit; negative ones (clocks differ) as zero.
pub(crate) fn span(length: SignedDuration) -> String {
    let seconds = length.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A service never sends an instant out of range; if one does, it is left out.
fn read(wire: Option<WireTimestamp>) -> Option<Timestamp> {
    wire::time::optional("time", wire).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_print_in_the_unit_that_says_most() {
        for (seconds, text) in [
            (-3, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7_200, "2h"),
            (400_000, "4d"),
        ] {
            assert_eq!(span(SignedDuration::from_secs(seconds)), text);
        }
    }
}
