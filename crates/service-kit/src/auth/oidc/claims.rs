//! What a token must say, and who its bearer is then. Pure: the time comes as an argument.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use crate::auth::certificate::mapping;
use crate::auth::config::AuthConfig;
use crate::auth::{AuthError, Principal, Role, Via};

/// Longest name of a principal; it stands in history and audit.
const NAME_LEN_MAX: usize = 256;

/// What is wrong with a token. It says nothing that its bearer could not read in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenProblem {
    #[error("the token is no JSON Web Token that we understand")]
    Malformed,
    #[error("the token is signed with an algorithm that is not accepted")]
    Algorithm,
    #[error("the token names a key that the provider does not publish")]
    UnknownKey,
    #[error("the signature of the token does not fit")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is from another issuer")]
    Issuer,
    #[error("the token is meant for another audience")]
    Audience,
    #[error("the token's claim `{0}` is missing or not of the right form")]
    Claim(String),
}

impl TokenProblem {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "TOKEN_MALFORMED",
            Self::Algorithm => "TOKEN_ALGORITHM_REFUSED",
            Self::UnknownKey => "TOKEN_KEY_UNKNOWN",
            Self::Signature => "TOKEN_SIGNATURE_WRONG",
            Self::Expired => "TOKEN_EXPIRED",
            Self::NotYetValid => "TOKEN_NOT_YET_VALID",
            Self::Issuer => "TOKEN_ISSUER_WRONG",
            Self::Audience => "TOKEN_AUDIENCE_WRONG",
            Self::Claim(_) => "TOKEN_CLAIM_MISSING",
        }
    }
}

/// Which roles the values of a claim mean.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoleMap(BTreeMap<String, BTreeSet<Role>>);

impl RoleMap {
    /// Reads lines `VALUE=ROLE+ROLE`.
    pub(crate) fn read(lines: &[String]) -> Result<Self, String> {
        let read = lines.iter().map(|line| mapping(line));
        let map = read.collect::<Result<_, _>>();
        map.map(Self).map_err(|error| error.to_string())
    }

    /// Without lines, the names of roles mean themselves.
    fn roles(&self, value: &str) -> BTreeSet<Role> {
        if self.0.is_empty() {
            return value.parse().into_iter().collect();
        }
        self.0.get(value).cloned().unwrap_or_default()
    }
}

/// What is wanted of a token.
#[derive(Debug)]
pub(super) struct ClaimRules {
    issuer: String,
    audiences: Vec<String>,
    roles_claim: String,
    name_claim: String,
    roles: RoleMap,
    skew: SignedDuration,
}

impl ClaimRules {
    /// `None` if there is no provider.
    pub(super) fn read(config: &AuthConfig) -> Result<Option<Self>, AuthError> {
        let Some(issuer) = config.oidc_issuer.clone() else {
            return Ok(None);
        };
        let setting = |key, problem| AuthError::Setting { key, problem };
        if config.oidc_audience.is_empty() {
            let problem = "is needed together with oidc_issuer".to_owned();
            return Err(setting("oidc_audience", problem));
        }
        let roles =
            RoleMap::read(&config.oidc_roles).map_err(|problem| setting("oidc_roles", problem))?;
        let skew = SignedDuration::try_from(config.oidc_clock_skew.get())
            .map_err(|error| setting("oidc_clock_skew", error.to_string()))?;
        Ok(Some(Self {
            issuer,
            audiences: config.oidc_audience.clone(),
            roles_claim: config.oidc_roles_claim.clone(),
            name_claim: config.oidc_name_claim.clone(),
            roles,
            skew,
        }))
    }

    /// Who bears a token with these claims.
    pub(super) fn principal(
        &self,
        claims: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<Principal, TokenProblem> {
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(TokenProblem::Issuer);
        }
        let meant = texts(claims.get("aud"));
        if !meant
            .iter()
            .any(|it| self.audiences.iter().any(|our| our == it))
        {
            return Err(TokenProblem::Audience);
        }
        let until = self.check_time(claims, now)?;
        let name = at(claims, &self.name_claim)
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty() && name.len() <= NAME_LEN_MAX)
            .filter(|name| !name.chars().any(char::is_control))
            .ok_or_else(|| TokenProblem::Claim(self.name_claim.clone()))?;
        let values = words(at(claims, &self.roles_claim));
        let roles = values.iter().flat_map(|value| self.roles.roles(value));
        Ok(Principal {
            until: Some(until),
            ..Principal::new(name, roles, Via::Oidc)
        })
    }

    /// When the token ends, if its time has come.
    fn check_time(
        &self,
        claims: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<Timestamp, TokenProblem> {
        let malformed = |claim: &str| TokenProblem::Claim(claim.to_owned());
        let expires = claims
            .get("exp")
            .and_then(instant)
            .ok_or_else(|| malformed("exp"))?;
        let until = expires.saturating_add(self.skew).unwrap_or(Timestamp::MAX);
        if until <= now {
            return Err(TokenProblem::Expired);
        }
        if let Some(begins) = claims.get("nbf") {
            let begins = instant(begins).ok_or_else(|| malformed("nbf"))?;
            if begins.saturating_sub(self.skew).unwrap_or(Timestamp::MIN) > now {
                return Err(TokenProblem::NotYetValid);
            }
        }
        Ok(until)
    }
}

/// A `NumericDate`: seconds since 1970, possibly with a fraction, which is not worth keeping.
fn instant(value: &Value) -> Option<Timestamp> {
    let seconds = match (value.as_i64(), value.as_f64()) {
        (Some(seconds), _) => seconds,
        (None, Some(seconds)) => jiff::SignedDuration::try_from_secs_f64(seconds)
            .ok()?
            .as_secs(),
        (None, None) => return None,
    };
    Timestamp::from_second(seconds).ok()
}

/// What is at a path: a name as it is (`https://hub.example/roles`), or else names with dots
/// between them, each inside the one before (`realm_access.roles`).
fn at<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    at(claims.get(first)?.as_object()?, rest)
}

/// A text or a list of texts.
fn texts(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {
            Vec::new()
        }
    }
}

/// A list of texts, or words with spaces between them, as in `scope`.
fn words(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::String(text)) => text.split_whitespace().collect(),
        other => texts(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::units::Duration;

    const NOW: i64 = 1_800_000_000;

    fn rules(roles: &[&str]) -> ClaimRules {
        let config = AuthConfig {
            oidc_issuer: Some("https://id.example".to_owned()),
            oidc_audience: vec!["twinward".to_owned(), "hub".to_owned()],
            oidc_roles_claim: "realm_access.roles".to_owned(),
            oidc_roles: roles.iter().map(|line| (*line).to_owned()).collect(),
            oidc_clock_skew: Duration::secs(30),
            ..AuthConfig::default()
        };
        ClaimRules::read(&config)
            .expect("good settings")
            .expect("a provider")
    }

    fn claims() -> Value {
        json!({
            "iss": "https://id.example", "aud": "twinward", "sub": "alice",
            "exp": NOW + 60, "nbf": NOW - 60,
            "realm_access": {"roles": ["reader", "operator", "unheard-of", 7]},
        })
    }

    fn who(rules: &ClaimRules, claims: &Value) -> Result<String, TokenProblem> {
        let now = Timestamp::from_second(NOW).expect("a time");
        let claims = claims.as_object().expect("an object");
        let principal = rules.principal(claims, now)?;
        Ok(format!("{} {}", principal.name, principal.role_names()))
    }

    /// The claims with one of them changed, or taken out with null.
    fn with(name: &str, value: Value) -> Value {
        let mut changed = claims();
        let all = changed.as_object_mut().expect("an object");
        match value {
            Value::Null => all.remove(name),
            value => all.insert(name.to_owned(), value),
        };
        changed
    }

    #[test]
    fn a_good_token_is_its_subject_with_the_roles_it_names() {
        assert_eq!(
            who(&rules(&[]), &claims()),
            Ok("alice reader,operator".to_owned())
        );
        let many = with("aud", json!(["other", "hub"]));
        assert!(who(&rules(&[]), &many).is_ok());
        let none = with("realm_access", Value::Null);
        assert_eq!(who(&rules(&[]), &none), Ok("alice ".to_owned()));
    }

    #[test]
    fn a_mapping_says_what_the_providers_groups_mean() {
        let rules = rules(&["hub-admins=admin+service", "unheard-of=reader"]);
        assert_eq!(
            who(&rules, &claims()),
            Ok("alice reader".to_owned()),
            "not `operator`"
        );
        let admins = with("realm_access", json!({"roles": "hub-admins x"}));
        assert_eq!(who(&rules, &admins), Ok("alice admin,service".to_owned()));
    }

    #[test]
    fn claims_with_a_dot_in_their_name_are_found_too() {
        let mut rules = rules(&[]);
        rules.roles_claim = "https://hub.example/roles".to_owned();
        let named = with("https://hub.example/roles", json!(["admin"]));
        assert_eq!(who(&rules, &named), Ok("alice admin".to_owned()));
    }

    #[test]
    fn everything_that_is_not_as_it_must_be_is_refused() {
        let claim = |name: &str| TokenProblem::Claim(name.to_owned());
        for (name, value, wanted) in [
            ("iss", Value::Null, TokenProblem::Issuer),
            ("iss", json!("https://evil.example"), TokenProblem::Issuer),
            ("iss", json!(["https://id.example"]), TokenProblem::Issuer),
            ("aud", Value::Null, TokenProblem::Audience),
            ("aud", json!("other"), TokenProblem::Audience),
            ("aud", json!(["twinward2"]), TokenProblem::Audience),
            ("aud", json!({"twinward": true}), TokenProblem::Audience),
            ("exp", Value::Null, claim("exp")),
            ("exp", json!("1900000000"), claim("exp")),
            ("exp", json!(NOW - 30), TokenProblem::Expired),
            ("exp", json!(-1e300), claim("exp")),
            ("nbf", json!(NOW + 31), TokenProblem::NotYetValid),
            ("nbf", json!("soon"), claim("nbf")),
            ("sub", Value::Null, claim("sub")),
            ("sub", json!(""), claim("sub")),
            ("sub", json!("line\nbreak"), claim("sub")),
            ("sub", json!("x".repeat(300)), claim("sub")),
        ] {
            let changed = with(name, value.clone());
            assert_eq!(who(&rules(&[]), &changed), Err(wanted), "{name} {value}");
        }
    }

    #[test]
    fn clocks_may_differ_a_little() {
        for (name, value) in [
            ("exp", json!(NOW - 29)),
            ("exp", json!(1_799_999_971.5)),
            ("nbf", json!(NOW + 30)),
            ("nbf", Value::Null),
        ] {
            assert!(
                who(&rules(&[]), &with(name, value.clone())).is_ok(),
                "{name} {value}"
            );
        }
    }
}
