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

/// Reads what [`text`] wrote.
pub(crate) fn bytes(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let byte = |pair: &[u8; 2]| {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
    };
    pairs.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_byte_has_two_digits_and_comes_back() {
        assert_eq!(super::text(&[0, 10, 255]), "000aff");
        assert_eq!(super::bytes("000aff"), Some(vec![0, 10, 255]));
        assert_eq!(super::bytes("0"), None);
        assert_eq!(super::bytes("0g"), None);
    }
}
