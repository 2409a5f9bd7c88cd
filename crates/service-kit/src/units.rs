//! Durations and byte sizes as a person writes them in a configuration file: `250ms`, `5s`, `8MiB`.
//!
//! Never bare numbers: `timeout = 5` does not say five of what.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Units of a duration, largest first (printing takes the first that divides without rest).
const DURATIONS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];
const DURATION_FORM: &str = "a whole number with a unit us, ms, s, m, h or d, such as 250ms or 5s";

/// Units of a byte size, largest first.
const SIZES: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];
const SIZE_FORM: &str = "a whole number with a unit B, KiB, MiB or GiB, such as 8MiB";

/// Text that is not a quantity of the expected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {form}")]
pub struct UnitError {
    text: String,
    form: &'static str,
}

/// A length of time in a configuration, `250ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(std::time::Duration);

impl Duration {
    /// This many milliseconds.
    #[must_use]
    pub const fn millis(count: u64) -> Self {
        Self(std::time::Duration::from_millis(count))
    }

    /// This many seconds.
    #[must_use]
    pub const fn secs(count: u64) -> Self {
        Self(std::time::Duration::from_secs(count))
    }

    /// The standard library's form.
    #[must_use]
    pub const fn get(self) -> std::time::Duration {
        self.0
    }

    /// True for a length of nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<Duration> for std::time::Duration {
    fn from(value: Duration) -> Self {
        value.0
    }
}

impl FromStr for Duration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let micros = parse(text, &DURATIONS, DURATION_FORM)?;
        Ok(Self(std::time::Duration::from_micros(micros)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        print(micros, "0s", &DURATIONS, f)
    }
}

/// A number of bytes in a configuration, `8MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    /// This many bytes.
    #[must_use]
    pub const fn bytes(count: u64) -> Self {
        Self(count)
    }

    /// This many times 1024 bytes.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// This many times 1024² bytes.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory; what does not fit can never be reached anyway.
    #[must_use]
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        Ok(Self(parse(text, &SIZES, SIZE_FORM)?))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(self.0, "0B", &SIZES, f)
    }
}

fn parse(text: &str, units: &[(&str, u64)], form: &'static str) -> Result<u64, UnitError> {
    let error = || UnitError {
        text: text.to_owned(),
        form,
    };
    let digits = text
        .trim()
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(error)?;
    let (number, unit) = text.trim().split_at(digits);
    let unit = unit.trim_start();
    let (_, scale) = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(error)?;
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(*scale))
        .ok_or_else(error)
}

fn print(value: u64, zero: &str, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if value == 0 {
        return f.write_str(zero);
    }
    for (name, scale) in units {
        if value.is_multiple_of(*scale) {
            return write!(f, "{}{name}", value / scale);
        }
    }
    Ok(())
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(de::Error::custom)
            }
        }
    };
}

as_text!(Duration);
as_text!(ByteSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_print_as_they_are_read() {
        for text in ["250ms", "5s", "90s", "2h", "7d", "3us"] {
            let parsed: Duration = text.parse().expect(text);
            assert_eq!(parsed.to_string(), text);
        }
        for text in ["1B", "8MiB", "3KiB", "1GiB"] {
            assert_eq!(text.parse::<ByteSize>().expect(text).to_string(), text);
        }
        assert_eq!(
            "120s".parse::<Duration>().expect("two minutes").to_string(),
            "2m"
        );
        assert_eq!(Duration::secs(0).to_string(), "0s");
    }

    #[test]
    fn a_number_without_a_unit_is_refused_and_the_form_is_named() {
        for text in [
            "5",
            "",
            "ms",
            "-5s",
            "5 fortnights",
            "99999999999999999999s",
            "1.5s",
        ] {
            let error = text.parse::<Duration>().expect_err(text);
            assert!(error.to_string().contains("such as 250ms"), "{error}");
        }
        assert!("8MB".parse::<ByteSize>().is_err());
    }
}
