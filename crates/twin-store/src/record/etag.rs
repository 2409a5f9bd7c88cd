//! The etag of an identity in the registry, which is another than that of its twin.

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine as _};

/// Changes with every change of an identity, not of its twin. Its text is the base64 of a number in
/// decimal (spec iot-hub-twins §1.3). The number starts at random with each generation, so that an
/// etag of a device that was deleted does not match the one that has its id now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdentityEtag(u64);

impl IdentityEtag {
    /// Of a new generation, made of random bytes.
    pub fn begin(random: [u8; 4]) -> IdentityEtag {
        IdentityEtag(u64::from(u32::from_be_bytes(random)).max(1))
    }

    /// The etag with this number, as it was stored.
    pub const fn from_number(number: u64) -> IdentityEtag {
        IdentityEtag(number)
    }

    /// The number, for storing.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The etag after the next change. It wraps: an etag is compared for equality only.
    #[must_use]
    pub const fn next(self) -> IdentityEtag {
        IdentityEtag(self.0.wrapping_add(1))
    }
}

impl fmt::Display for IdentityEtag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_one_that_the_hub_writes() {
        let etag = IdentityEtag::from_number(129_284_589);
        assert_eq!(etag.to_string(), "MTI5Mjg0NTg5");
        assert_eq!(etag.next().number(), 129_284_590);
        assert_eq!(IdentityEtag::from_number(1).to_string(), "MQ==");
    }

    #[test]
    fn a_generation_begins_with_a_number_of_its_own_and_never_with_none() {
        assert_eq!(IdentityEtag::begin([0; 4]).number(), 1);
        assert_eq!(IdentityEtag::begin([1, 0, 0, 2]).number(), 0x0100_0002);
        assert_ne!(
            IdentityEtag::begin([7, 7, 7, 7]),
            IdentityEtag::begin([7, 7, 7, 8])
        );
    }
}
