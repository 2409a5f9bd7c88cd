//! Reads members of a JSON object, and says where one is that cannot be used.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value};

use super::{Problem, Reason};

/// A JSON object and where it stands.
pub(super) struct Item<'v> {
    path: &'v str,
    members: &'v Map<String, Value>,
}

impl<'v> Item<'v> {
    /// An object at this place; an empty path is the body itself.
    pub(super) fn of(path: &'v str, value: &'v Value) -> Result<Self, Problem> {
        let Value::Object(members) = value else {
            let what = if path.is_empty() { "the body" } else { path };
            return Err((Reason::InvalidField, format!("{what} is no JSON object")));
        };
        Ok(Self { path, members })
    }

    /// What is wrong with a member.
    pub(super) fn wrong(&self, name: &str, problem: &str) -> Problem {
        let dot = if self.path.is_empty() { "" } else { "." };
        let problem = format!("{}{dot}{name} {problem}", self.path);
        (Reason::InvalidField, problem)
    }

    fn get(&self, name: &str) -> Option<&'v Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    /// A text that must be there.
    pub(super) fn text(&self, name: &str) -> Result<&'v str, Problem> {
        match self.get(name) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(self.wrong(name, "is no text")),
            None => Err(self.wrong(name, "is absent; it is a text")),
        }
    }

    /// A text that may be absent; an empty one says as little.
    pub(super) fn text_if(&self, name: &str) -> Result<Option<&'v str>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(&**text).filter(|text| !text.is_empty())),
            Some(_) => Err(self.wrong(name, "is no text")),
        }
    }

    /// The same, owned.
    pub(super) fn owned_if(&self, name: &str) -> Result<Option<String>, Problem> {
        Ok(self.text_if(name)?.map(str::to_owned))
    }

    /// A number that may be absent, as a number or as its digits: agents do not agree.
    pub(super) fn number_if<N: TryFrom<u64>>(&self, name: &str) -> Result<Option<N>, Problem> {
        let number = match self.get(name) {
            None => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => text.parse::<u64>().ok(),
            Some(value) => value.as_u64(),
        };
        let fitting = number.and_then(|number| N::try_from(number).ok());
        let max = u128::MAX >> (128 - 8 * size_of::<N>());
        fitting.map(Some).ok_or_else(|| {
            let problem = format!("is {}; allowed are 0 to {max}", short(self.get(name)));
            self.wrong(name, &problem)
        })
    }

    /// A number that must be there.
    pub(super) fn number<N: TryFrom<u64>>(&self, name: &str) -> Result<N, Problem> {
        self.number_if(name)?
            .ok_or_else(|| self.wrong(name, "is absent; it is a number"))
    }

    /// An address that may be absent. Agents write `*` and `0.0.0.0` for every one.
    pub(super) fn address_if(&self, name: &str) -> Result<Option<IpAddr>, Problem> {
        let Some(text) = self.text_if(name)? else {
            return Ok(None);
        };
        if text == "*" {
            return Ok(Some(Ipv4Addr::UNSPECIFIED.into()));
        }
        text.parse().map(Some).map_err(|_| {
            let problem = format!("is {}; want an IP address", short(self.get(name)));
            self.wrong(name, &problem)
        })
    }

    /// One of the further details, as an object; `None` if there are none.
    pub(super) fn details(&self) -> Result<Option<Item<'v>>, Problem> {
        match self.get("ExtraDetails") {
            None => Ok(None),
            Some(Value::Object(members)) => Ok(Some(Item {
                path: self.path,
                members,
            })),
            Some(_) => Err(self.wrong("ExtraDetails", "is no JSON object")),
        }
    }

    /// How many equal observations this stands for.
    pub(super) fn hits(&self) -> Result<u32, Problem> {
        let Some(details) = self.details()? else {
            return Ok(1);
        };
        Ok(details.number_if("HitCount")?.unwrap_or(1).max(1))
    }
}

/// What a device wrote, for a message.
pub(super) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    format!("{short:?}")
}

/// A value for a message: whole ones may be as large as a body.
fn short(value: Option<&Value>) -> String {
    let text = value.map(Value::to_string).unwrap_or_default();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
