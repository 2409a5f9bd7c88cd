//! The counters of a twin, each a type of its own, because mixing them up loses writes.

use std::fmt;

/// The largest number that IoT Hub's wire models (signed 64 bit) can carry.
const WIRE_MAX: u64 = i64::MAX.unsigned_abs();

/// How often a section (`$version`) or a twin (`version`) was written. Starts at 1, only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// The version of something just created.
    pub const FIRST: Version = Version(1);

    /// Accepts what a version can be on the wire: 1 to 2^63 − 1.
    pub fn new(number: u64) -> Result<Version, VersionError> {
        if (1..=WIRE_MAX).contains(&number) {
            return Ok(Version(number));
        }
        Err(VersionError { number })
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The version after this one; nothing after the last that fits the wire.
    pub fn next(self) -> Option<Version> {
        Version::new(self.0 + 1).ok()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number that is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version is a number from 1 to {WIRE_MAX}, not {number}")]
pub struct VersionError {
    /// What was given.
    pub number: u64,
}

/// Position of a change in its partition's log, assigned by the store inside the transaction.
/// 0 stands before the first change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(u64);

impl Revision {
    /// Before any change.
    pub const ZERO: Revision = Revision(0);

    /// Wraps a stored number.
    pub fn new(number: u64) -> Revision {
        Revision(number)
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The revision after this one; nothing after the last that fits a stored signed number.
    pub fn next(self) -> Option<Revision> {
        (self.0 < WIRE_MAX).then(|| Revision(self.0 + 1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Guards the service's part of a twin (tags and desired) against lost updates.
///
/// A counter inside; as text the base64 of its eight bytes, big end first, as IoT Hub writes it
/// (spec 1.3): counter 1 is `AAAAAAAAAAE=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Etag(u64);

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Eight bytes are ten full groups of six bits and one of four; then one sign of padding.
const ETAG_CHARS: usize = 12;

impl Etag {
    /// The etag of a twin just created.
    pub const FIRST: Etag = Etag(1);

    /// Wraps a stored counter.
    pub fn from_counter(counter: u64) -> Etag {
        Etag(counter)
    }

    /// The counter inside, for storing.
    pub fn counter(self) -> u64 {
        self.0
    }

    /// The etag after the next write. It wraps: an etag is compared for equality only.
    #[must_use]
    pub fn next(self) -> Etag {
        Etag(self.0.wrapping_add(1))
    }

    /// Reads the text form, without quotes. A text that we never wrote cannot be an etag of ours;
    /// the caller treats it as one that does not match.
    pub fn parse(text: &str) -> Result<Etag, EtagError> {
        let error = || EtagError {
            text: crate::validate::quote(text),
        };
        let bytes = text.as_bytes();
        if bytes.len() != ETAG_CHARS || bytes[ETAG_CHARS - 1] != b'=' {
            return Err(error());
        }
        let mut bits: u128 = 0;
        for byte in &bytes[..ETAG_CHARS - 1] {
            let six = ALPHABET.iter().position(|c| c == byte).ok_or_else(error)?;
            bits = (bits << 6) | six as u128;
        }
        // 11 signs carry 66 bits; the last two must be the zero filling of the last group.
        if bits & 0b11 != 0 {
            return Err(error());
        }
        u64::try_from(bits >> 2).map(Etag).map_err(|_| error())
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from(self.0) << 2;
        for group in (0..ETAG_CHARS - 1).rev() {
            let six = (bits >> (6 * group)) & 0b11_1111;
            let index = usize::try_from(six).expect("six bits fit a usize");
            write!(f, "{}", char::from(ALPHABET[index]))?;
        }
        f.write_str("=")
    }
}

/// A text that is no twin etag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} is not a twin etag: twelve base64 characters such as AAAAAAAAAAE= are")]
pub struct EtagError {
    /// What was given, shortened.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn etags_read_as_the_hub_writes_them() {
        assert_eq!(Etag::FIRST.to_string(), "AAAAAAAAAAE=");
        assert_eq!(Etag::FIRST.next().to_string(), "AAAAAAAAAAI=");
        assert_eq!(Etag::from_counter(u64::MAX).to_string(), "//////////8=");
    }

    #[test]
    fn a_foreign_text_is_no_etag() {
        for text in [
            "",
            "abc",
            "*",
            "AAAAAAAAAAF=",
            "AAAAAAAAAAE",
            "AAAAAAAAAAE==",
            "AAAA-AAAAAE=",
        ] {
            assert!(Etag::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn versions_start_at_one_and_end_with_the_wire() {
        assert!(Version::new(0).is_err());
        assert_eq!(Version::FIRST.next(), Some(Version(2)));
        assert_eq!(Version(WIRE_MAX).next(), None);
        assert!(Version::new(u64::MAX).is_err());
        assert_eq!(Revision::ZERO.next(), Some(Revision(1)));
        assert_eq!(Revision(u64::MAX).next(), None);
    }

    proptest! {
        #[test]
        fn an_etag_survives_its_text(counter: u64) {
            let etag = Etag::from_counter(counter);
            prop_assert_eq!(Etag::parse(&etag.to_string()), Ok(etag));
        }
    }
}
