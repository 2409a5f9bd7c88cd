//! Direct methods: what a name may be, and the limits of a call.

use std::fmt;
use std::time::Duration;

/// Longest name of a method; the documentation gives none, ids have as much.
pub const NAME_BYTES_MAX: usize = 128;

/// Largest payload, each way.
pub const PAYLOAD_BYTES_MAX: usize = 128 << 10;

/// How long a device may take at least and at most.
pub const RESPONSE_TIMEOUT_MIN: Duration = Duration::from_secs(5);
/// How long a device may take at most.
pub const RESPONSE_TIMEOUT_MAX: Duration = Duration::from_mins(5);
/// How long a device may take when nobody says.
pub const RESPONSE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// How long a caller may wait for a device to connect.
pub const CONNECT_TIMEOUT_MAX: Duration = Duration::from_mins(5);

/// Printable ASCII that a name may not have: it is a segment of a topic and a header-like value.
const FORBIDDEN: &[u8] = b"$()<>@,;:\\\"/[]?={}";

/// The name of a direct method.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MethodName(String);

/// A text that is no name of a method.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no name of a method: allowed are 1 to {NAME_BYTES_MAX} printable ASCII characters without \
     blanks and $()<>@,;:\\\"/[]?={{}}"
)]
pub struct MethodNameError;

impl MethodName {
    /// Reads a name.
    pub fn parse(text: &str) -> Result<Self, MethodNameError> {
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
        let plain = |byte: u8| byte.is_ascii_graphic() && !FORBIDDEN.contains(&byte);
        if fits && text.bytes().all(plain) {
            return Ok(Self(text.to_owned()));
        }
        Err(MethodNameError)
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_what_a_topic_and_a_header_can_hold() {
        for good in [
            "reboot",
            "a",
            "get-log_2.txt",
            "100%",
            "a+b#c*!",
            &"x".repeat(128),
        ] {
            assert!(MethodName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            " ",
            "a b",
            "a/b",
            "$a",
            "{a}",
            "a\\tb",
            "é",
            "a=b",
            &"x".repeat(129),
        ] {
            assert_eq!(MethodName::parse(bad), Err(MethodNameError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in any::<String>()) {
            let _ = MethodName::parse(&text);
        }
    }
}
