//! The headers and query parameters that IoT Hub's calls share.

use http::{HeaderMap, HeaderValue, Uri, header};

use crate::error::ApiError;

/// What bodies are.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// What an `If-Match` header asks for (spec §3.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// `*`: whatever the present etag is, but there must be something.
    Any,
    /// This etag, bare.
    Etag(String),
}

impl IfMatch {
    /// Reads the header in every form that SDKs send: `*`, `"*"`, `abc`, `"abc"`, `W/"abc"`.
    /// `None` if there is none.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let Some(value) = headers.get(header::IF_MATCH) else {
            return Ok(None);
        };
        let text = value
            .to_str()
            .map_err(|_| ApiError::argument("If-Match: want an etag in printable characters"))?;
        Self::parse("If-Match", text).map(Some)
    }

    /// Reads what a header or the field of a body says in any of these forms.
    pub(crate) fn parse(what: &str, text: &str) -> Result<Self, ApiError> {
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text);
        let bare = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or(text);
        match bare {
            "" => Err(ApiError::new(
                412_001,
                "PreconditionFailed",
                format!("{what} names an empty etag, which nothing has"),
            )),
            "*" => Ok(Self::Any),
            etag => Ok(Self::Etag(etag.to_owned())),
        }
    }

    /// Refuses what is there with another etag than is asked for; `asked` is as twin-store takes it.
    pub(crate) fn check(what: &str, asked: &str, present: &str) -> Result<(), ApiError> {
        if asked.is_empty() || asked == present {
            return Ok(());
        }
        let message = format!("{what} has the etag `{present}`, and `{asked}` was asked for");
        Err(ApiError::new(412_001, "PreconditionFailed", message))
    }

    /// As twin-store wants it: empty for any.
    pub(crate) fn etag(this: Option<&Self>) -> String {
        match this {
            Some(Self::Etag(etag)) => etag.clone(),
            Some(Self::Any) | None => String::new(),
        }
    }
}

/// A query parameter, decoded; the first of that name, whatever its case.
pub(crate) fn parameter(uri: &Uri, name: &str) -> Result<Option<String>, ApiError> {
    for pair in uri.query().unwrap_or_default().split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key.eq_ignore_ascii_case(name) {
            let value = iot_hub::percent::decode(value).ok_or_else(|| {
                ApiError::argument(format!("the query parameter {name} has a broken escape"))
            })?;
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Refuses a request without `api-version=YYYY-MM-DD`. Every version is served alike, because each
/// of them is read leniently (spec §6.1).
pub(crate) fn check_version(uri: &Uri) -> Result<(), ApiError> {
    let version = parameter(uri, "api-version")?.unwrap_or_default();
    let date = version.get(..10).unwrap_or_default();
    if date.parse::<jiff::civil::Date>().is_ok() {
        return Ok(());
    }
    let found = if version.is_empty() {
        "missing".to_owned()
    } else {
        format!("`{version}`")
    };
    let message =
        format!("the query parameter api-version is {found}; want a date such as 2021-04-12");
    Err(ApiError::new(400_001, "InvalidProtocolVersion", message))
}

/// A number in a header or parameter, within bounds.
pub(crate) fn number(what: &str, text: &str, min: i32, max: i32) -> Result<i32, ApiError> {
    match text.trim().parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(ApiError::argument(format!(
            "{what} is `{text}`; want a number from {min} to {max}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_if_match_is_read() {
        let any = Some(IfMatch::Any);
        let abc = Some(IfMatch::Etag("abc=".to_owned()));
        for (value, wanted) in [
            ("*", &any),
            ("\"*\"", &any),
            ("W/\"*\"", &any),
            ("abc=", &abc),
            ("\"abc=\"", &abc),
            ("W/\"abc=\"", &abc),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, value.parse().expect("a header"));
            let read = IfMatch::read(&headers).expect("a readable header");
            assert_eq!(&read, wanted, "{value}");
        }
        assert_eq!(IfMatch::read(&HeaderMap::new()).expect("none"), None);
        let mut empty = HeaderMap::new();
        empty.insert(header::IF_MATCH, HeaderValue::from_static("\"\""));
        let error = IfMatch::read(&empty).expect_err("nothing has an empty etag");
        assert_eq!(error.number(), 412_001);
    }

    #[test]
    fn any_known_date_is_a_version_and_nothing_else_is() {
        for good in ["2021-04-12", "2020-03-13", "2020-05-31-preview"] {
            let uri = format!("/devices?api-version={good}")
                .parse()
                .expect("a uri");
            assert!(check_version(&uri).is_ok(), "{good}");
        }
        for bad in [
            "/devices",
            "/devices?api-version=",
            "/devices?api-version=new",
        ] {
            let error = check_version(&bad.parse().expect("a uri")).expect_err(bad);
            assert_eq!(error.number(), 400_001, "{bad}");
        }
    }
}
