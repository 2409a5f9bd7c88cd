//! Opaque tokens: a version, a kind, a content, a checksum.
//!
//! They are not secret and prove nothing: whoever makes one up gets nothing that he could not ask
//! for. The checksum tells a token that was cut or mistyped from one that is too old.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest token that is looked at: more than a watch of all 256 partitions needs.
const LENGTH_MAX: usize = 16 * 1024;
/// Form of the content. Another form gets another number, and old tokens are refused.
const VERSION: u8 = 1;
/// Bytes of the checksum at the end.
const CHECKSUM: usize = 4;

/// What a token is for; one kind is never taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Goes on with a watch.
    Watch,
    /// Goes on with a list.
    Page,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Kind::Watch => 1,
            Kind::Page => 2,
        }
    }
}

/// Makes a token.
pub(super) fn seal(kind: Kind, content: &impl Serialize) -> String {
    let mut bytes = vec![VERSION, kind.number()];
    // What is sealed here holds nothing that JSON cannot say.
    bytes.extend(serde_json::to_vec(content).unwrap_or_default());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a token; none if it is not one of ours, or of another kind or version.
pub(super) fn open<T: DeserializeOwned>(kind: Kind, token: &str) -> Option<T> {
    if token.len() > LENGTH_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (sealed, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    if crc32fast::hash(sealed).to_be_bytes() != checksum {
        return None;
    }
    let content = sealed.strip_prefix(&[VERSION, kind.number()])?;
    serde_json::from_slice(content).ok()
}

/// A short fingerprint of what a token may be used with.
pub(super) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part.as_bytes());
    }
    let digest = context.finish();
    let (short, _) = digest.as_ref().split_at(12);
    URL_SAFE_NO_PAD.encode(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_no_flipped_character_goes_unnoticed() {
        let token = seal(Kind::Watch, &("here", 7_u64));
        assert_eq!(open(Kind::Watch, &token), Some(("here".to_owned(), 7_u64)));
        assert_eq!(open::<(String, u64)>(Kind::Page, &token), None);
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).expect("ASCII");
            assert_eq!(open::<(String, u64)>(Kind::Watch, &other), None, "{at}");
        }
        for bad in ["", "x", "====", &token[1..], &token[..token.len() - 1]] {
            assert_eq!(open::<(String, u64)>(Kind::Watch, bad), None, "{bad:?}");
        }
    }

    #[test]
    fn fingerprints_tell_where_one_part_ends() {
        assert_ne!(fingerprint(["ab", "c"]), fingerprint(["a", "bc"]));
        assert_eq!(fingerprint(["ab", "c"]), fingerprint(["ab", "c"]));
    }
}
