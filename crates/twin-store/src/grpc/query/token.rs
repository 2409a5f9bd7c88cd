//! Page tokens of queries: where the next page begins, for one query and no other.
//!
//! A token is opaque to callers. It carries its version, a digest of the query, the time that `NOW()`
//! stands for on every page, how many rows were given, and the place; a checksum finds what was cut
//! or typed. It protects nothing: whoever may query may see what it holds.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use twin::IdentityKey;
use twin::query::{GroupPosition, Position, Statement};

/// Rises when the form changes.
const VERSION: u64 = 1;
/// Hexadecimal digits of the digest: it tells queries apart and defends nothing.
const DIGEST_DIGITS: usize = 16;
/// Longest token read: the values of four keys of an order and of eight of groups, of 4 KiB each, in
/// which each byte may be an escape of seven.
const BYTES_MAX: usize = 512 * 1024;

/// A token, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    /// What `NOW()` stands for.
    pub(super) now: Timestamp,
    /// Rows of all pages so far.
    pub(super) given: u64,
    /// Where the page begins.
    pub(super) place: Place,
    digest: String,
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    /// At the first row.
    Start,
    /// Behind a key.
    Key(IdentityKey),
    /// Behind a position of an order.
    Position(Position),
    /// Behind a group of an aggregated answer.
    Group(GroupPosition),
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    /// It is no token, or not a whole one.
    #[error("is not one that this service gave; begin again without one")]
    Unreadable,
    /// It was given for another query.
    #[error("belongs to another query; repeat the query that it was given for, or begin again")]
    OtherQuery,
}

impl Token {
    /// Of the first page.
    pub(super) fn first(statement: &Statement, now: Timestamp) -> Token {
        Token {
            now,
            given: 0,
            place: Place::Start,
            digest: digest_of(statement),
        }
    }

    /// Of a page behind this one.
    pub(super) fn next(&self, place: Place, given: u64) -> Token {
        Token {
            given,
            place,
            ..self.clone()
        }
    }

    /// The token's text.
    pub(super) fn print(&self) -> String {
        let place = match &self.place {
            Place::Start => Value::Null,
            Place::Key(key) => json!({ "key": key.to_string() }),
            Place::Position(position) => json!({ "position": position.encode() }),
            Place::Group(position) => json!({ "group": position.encode() }),
        };
        let now = self.now.to_string();
        let content = json!([VERSION, self.digest, now, self.given, place]).to_string();
        let mut bytes = crc32fast::hash(content.as_bytes()).to_le_bytes().to_vec();
        bytes.extend(content.into_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a token that was given for this query.
    pub(super) fn parse(text: &str, statement: &Statement) -> Result<Token, TokenError> {
        let (digest, rest) = split(text).ok_or(TokenError::Unreadable)?;
        if digest != digest_of(statement) {
            return Err(TokenError::OtherQuery);
        }
        let [now, given, place] = rest;
        let read = || {
            Some(Token {
                now: now.as_str()?.parse().ok()?,
                given: given.as_u64()?,
                place: place_of(&place, statement)?,
                digest,
            })
        };
        read().ok_or(TokenError::Unreadable)
    }
}

/// The digest of the query, and the rest.
fn split(text: &str) -> Option<(String, [Value; 3])> {
    if text.len() > BYTES_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (checksum, content) = bytes.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*checksum) != crc32fast::hash(content) {
        return None;
    }
    let Ok(Value::Array(parts)) = serde_json::from_slice(content) else {
        return None;
    };
    let [version, digest, now, given, place] = <[Value; 5]>::try_from(parts).ok()?;
    if version.as_u64() != Some(VERSION) {
        return None;
    }
    Some((digest.as_str()?.to_owned(), [now, given, place]))
}

fn place_of(place: &Value, statement: &Statement) -> Option<Place> {
    if let Some(key) = place.get("key") {
        return Some(Place::Key(IdentityKey::parse_path(key.as_str()?).ok()?));
    }
    if let Some(position) = place.get("position") {
        let position = Position::decode(position.as_str()?, &statement.directions()).ok()?;
        return Some(Place::Position(position));
    }
    let group = place.get("group")?.as_str()?;
    let position = GroupPosition::decode(group, statement).ok()?;
    Some(Place::Group(position))
}

/// Of the canonical text: blanks and the case of keywords do not make another query.
fn digest_of(statement: &Statement) -> String {
    let hash = digest(&SHA256, statement.to_string().as_bytes());
    let digits = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
    let mut digits: String = digits.collect();
    digits.truncate(DIGEST_DIGITS);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(text: &str) -> Statement {
        Statement::parse(text).expect("it is well-formed")
    }

    fn now() -> Timestamp {
        "2026-03-04T05:06:07.5Z".parse().expect("an instant")
    }

    #[test]
    fn a_token_comes_back_for_its_query_alone() {
        let query = statement("SELECT deviceId FROM devices ORDER BY tags.site DESC");
        let key = IdentityKey::parse_path("d/m").unwrap();
        let position = Position::new(
            vec![(
                twin::query::SortValue::Text("ü".into()),
                twin::query::Direction::Descending,
            )],
            key.clone(),
        );
        for place in [Place::Key(key), Place::Position(position)] {
            let token = Token::first(&query, now()).next(place, 12);
            let text = token.print();
            assert_eq!(Token::parse(&text, &query), Ok(token));
            let same = statement("select  deviceid FROM devices ORDER BY tags.site DESC");
            assert!(Token::parse(&text, &same).is_ok());
            let other = statement("SELECT deviceId FROM devices ORDER BY tags.other DESC");
            assert_eq!(Token::parse(&text, &other), Err(TokenError::OtherQuery));
        }
    }

    #[test]
    fn a_token_of_groups_comes_back_for_as_many_keys() {
        let groups = |by: &str| statement(&format!("SELECT COUNT() FROM devices GROUP BY {by}"));
        let query = groups("tags.a, tags.b");
        let place = GroupPosition::decode(r#"[[],[[true,null],[["a"],"[1]"]]]"#, &query).unwrap();
        let token = Token::first(&query, now()).next(Place::Group(place.clone()), 3);
        assert_eq!(Token::parse(&token.print(), &query), Ok(token));
        assert!(GroupPosition::decode(&place.encode(), &groups("tags.a")).is_err());
    }

    #[test]
    fn what_is_cut_or_changed_is_no_token() {
        let query = statement("SELECT * FROM devices");
        let key = IdentityKey::parse_path("d").unwrap();
        let text = Token::first(&query, now()).next(Place::Key(key), 1).print();
        for cut in 0..text.len() {
            assert_eq!(
                Token::parse(&text[..cut], &query),
                Err(TokenError::Unreadable),
                "{cut}"
            );
            let mut changed = text.clone().into_bytes();
            changed[cut] = if changed[cut] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last digit has bits that mean nothing; they are refused, too.
            assert_eq!(
                Token::parse(&changed, &query),
                Err(TokenError::Unreadable),
                "{changed}"
            );
        }
        assert_eq!(Token::parse("ä", &query), Err(TokenError::Unreadable));
    }
}
