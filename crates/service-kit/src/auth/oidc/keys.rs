//! The keys a provider publishes (a JSON Web Key Set, RFC 7517), and which of them a token names.
//! Pure.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

/// What a token may be signed with: never with a shared secret, which everybody would know who
/// knows the published key, and never with nothing.
pub(super) const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// Most keys of a set that are looked at; providers publish a handful.
const KEYS_MAX: usize = 100;

/// The keys that can verify tokens.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<PublishedKey>);

#[derive(Debug)]
struct PublishedKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Why a text is no set of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("it is no JSON Web Key Set: an object with a list `keys` is wanted")]
    Form,
    #[error("none of its keys can verify tokens; wanted are RSA, P-256, P-384 or Ed25519 keys")]
    NoUsableKey,
}

impl KeySet {
    /// Reads a set, leaving out keys that are not for signatures or of kinds we do not know: a
    /// provider may publish those for others.
    pub(super) fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        let set: Value = serde_json::from_slice(text).map_err(|_| KeySetError::Form)?;
        let listed = set["keys"].as_array().ok_or(KeySetError::Form)?;
        let keys: Vec<_> = listed.iter().take(KEYS_MAX).filter_map(published).collect();
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey);
        }
        Ok(Self(keys))
    }

    /// The key that a token's header names. A header that names none means the only key that fits
    /// its algorithm, if there is only one.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        let mut fitting = self.0.iter().filter(|published| {
            published.algorithms.contains(&algorithm)
                && (id.is_none() || published.id.as_deref() == id)
        });
        let found = fitting.next()?;
        if id.is_none() && fitting.next().is_some() {
            return None;
        }
        Some(found.key.clone())
    }
}

fn published(key: &Value) -> Option<PublishedKey> {
    let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
    match jwk.common.public_key_use {
        None | Some(PublicKeyUse::Signature) => {}
        Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_)) => return None,
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(pair) => match pair.curve {
            EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
            _ => return None,
        },
        // Shared secrets, and kinds that nobody has thought of yet.
        _ => return None,
    };
    if let Some(only) = jwk.common.key_algorithm {
        let only = Algorithm::try_from(only).ok()?;
        algorithms.retain(|algorithm| *algorithm == only);
    }
    if algorithms.is_empty() {
        return None;
    }
    Some(PublishedKey {
        key: DecodingKey::from_jwk(&jwk).ok()?,
        id: jwk.common.key_id,
        algorithms,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ed(id: &str) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    }

    fn parse(keys: &[Value]) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn a_key_is_found_by_its_name_and_only_for_its_algorithm() {
        let set = parse(&[ed("a"), ed("b")]).expect("keys");
        assert!(set.find(Some("b"), Algorithm::EdDSA).is_some());
        assert!(set.find(Some("c"), Algorithm::EdDSA).is_none());
        assert!(set.find(Some("a"), Algorithm::RS256).is_none());
        assert!(set.find(None, Algorithm::EdDSA).is_none(), "which of them?");
        let one = parse(&[ed("a")]).expect("keys");
        assert!(one.find(None, Algorithm::EdDSA).is_some());
    }

    #[test]
    fn keys_that_are_not_for_signatures_are_left_out() {
        let mut encrypts = ed("a");
        encrypts["use"] = "enc".into();
        let secret = json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ"});
        let unknown = json!({"kty": "XYZ", "kid": "x"});
        let misfit = {
            let mut key = ed("m");
            key["alg"] = "RS256".into();
            key
        };
        let hmac = {
            let mut key = ed("h");
            key["alg"] = "HS256".into();
            key
        };
        let odd = [
            encrypts,
            secret,
            unknown,
            misfit,
            hmac,
            json!("text"),
            json!(null),
        ];
        assert_eq!(parse(&odd).expect_err("none"), KeySetError::NoUsableKey);
        let mut some = odd.to_vec();
        some.push(ed("good"));
        let set = parse(&some).expect("one of them");
        assert!(set.find(Some("good"), Algorithm::EdDSA).is_some());
        assert!(set.find(Some("s"), Algorithm::HS256).is_none());
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        for text in ["", "[]", "{}", r#"{"keys": 1}"#, "<html>"] {
            let error = KeySet::parse(text.as_bytes()).expect_err(text);
            assert_eq!(error, KeySetError::Form);
        }
    }
}
