//! Page tokens of filtered lists: behind which twin the next page starts, and what `NOW()` is on every
//! page. A token goes on with the list that it was given for, and with no other.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use twin::IdentityKey;
use wire::InvalidField;
use wire::names::{identity_name, parse_identity};

use super::token::{self, Kind};
use crate::error::Error;

/// Where the next page of a list starts.
#[derive(Serialize, Deserialize)]
struct Place {
    /// Of what the list was asked for.
    list: String,
    /// Behind which twin.
    after: String,
    /// What `NOW()` is on every page.
    now: String,
}

/// The token of the next page. `list` is a fingerprint of what was asked for.
pub(super) fn list_token(list: &str, after: &IdentityKey, now: Timestamp) -> String {
    let place = Place {
        list: list.to_owned(),
        after: identity_name(after),
        now: now.to_string(),
    };
    token::seal(Kind::Page, &place)
}

/// Reads the token of a page of this list; none on the first one.
pub(super) fn place(token: &str, list: &str) -> Result<Option<(IdentityKey, Timestamp)>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let place: Place = token::open(Kind::Page, token)
        .ok_or_else(|| InvalidField::new("page_token", "is not one that this service gave"))?;
    if place.list != list {
        let problem = "is of a list with another filter; start again without it";
        return Err(InvalidField::new("page_token", problem).into());
    }
    let after = parse_identity("page_token", &place.after)?;
    let now = place
        .now
        .parse()
        .map_err(|error| InvalidField::new("page_token", error))?;
    Ok(Some((after, now)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{key, now};

    #[test]
    fn a_token_goes_on_with_its_list_alone() {
        let list = token::fingerprint(["ListDevices", "tags.a = 1"]);
        let token = list_token(&list, &key("d/m"), now());
        assert_eq!(
            place(&token, &list).expect("read"),
            Some((key("d/m"), now()))
        );
        assert_eq!(place("", &list).expect("read"), None);
        let other = token::fingerprint(["ListDevices", "tags.a = 2"]);
        let refused = place(&token, &other).expect_err("another list");
        assert!(refused.to_string().contains("another filter"), "{refused}");
        assert!(place("devices/d", &list).is_err());
    }
}
