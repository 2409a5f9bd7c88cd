//! Bytes as people and programs write them: lower-case hex.

use std::fmt::Write as _;

/// Two digits for each byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_byte_has_two_digits() {
        assert_eq!(super::text(&[0, 10, 255]), "000aff");
    }
}
