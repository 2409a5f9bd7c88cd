//! Text with a zero character, which TEXT cannot hold, as text without.
//!
//! JSON needs none of this, because it has no zero character outside its escapes.

use std::borrow::Cow;

use tokio_postgres::types::{FromSql, Type};

/// Stands before what stands for a zero character or for itself.
const ESCAPE: char = '\u{1}';

/// Packs a text. Two texts are equal, and one begins with the other, if and only if they are and do
/// when packed; so what is packed can be searched.
pub(super) fn pack(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let mut packed = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\0' => packed.extend([ESCAPE, '0']),
            ESCAPE => packed.extend([ESCAPE, '1']),
            other => packed.push(other),
        }
    }
    Cow::Owned(packed)
}

/// Reads what [`pack`] wrote.
pub(super) fn unpack(packed: &str) -> String {
    let mut text = String::with_capacity(packed.len());
    let mut characters = packed.chars();
    while let Some(character) = characters.next() {
        if character != ESCAPE {
            text.push(character);
            continue;
        }
        // Only a damaged text ends here; whoever has a checksum notices.
        match characters.next() {
            Some('0') => text.push('\0'),
            Some('1') | None => text.push(ESCAPE),
            Some(other) => text.extend([ESCAPE, other]),
        }
    }
    text
}

/// The bytes of a text, whatever they are.
pub(super) struct Raw<'r>(pub(super) &'r [u8]);

impl<'r> FromSql<'r> for Raw<'r> {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw))
    }

    fn accepts(kind: &Type) -> bool {
        <&str as FromSql>::accepts(kind)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_text_comes_back_and_prefixes_stay_prefixes(
            text in "[\\x00\\x01a0-2]{0,12}", other in "[\\x00\\x01a0-2]{0,4}",
        ) {
            let packed = pack(&text);
            prop_assert!(!packed.contains('\0'));
            prop_assert_eq!(unpack(&packed), text.clone());
            prop_assert_eq!(packed == pack(&other), text == other);
            let starts = packed.starts_with(pack(&other).as_ref());
            prop_assert_eq!(starts, text.starts_with(&other));
        }
    }
}
