//! Callers whom another replica of the same service has authenticated.
//!
//! A replica that passes a call on cannot show its caller's certificate, and need not hand on its
//! token: it says who calls, and proves with a key that only replicas have that it may say so.
//! The key is made of a secret that replicas share anyway, so that there is nothing to configure
//! and nothing to forget. What is said holds for a short time, for whoever reads it on the way.
//!
//! Nothing here decides what a caller may do: its roles are passed on, and the table of
//! [`crate::auth::permission`] is asked as for every other caller.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::auth::{Principal, Role, Via};
use crate::clock::SharedClock;

/// The header that says who calls.
pub(super) const CALLER: HeaderName = HeaderName::from_static("x-twinward-caller");
/// What the header begins with, so that another form can be told apart one day.
const FORM: &str = "v1";
/// What the first bytes that are signed say, so that no other signature can be taken for one.
const DOMAIN: &[u8] = b"twinward caller 1\0";
/// For how long it is believed, and how far the clocks of replicas may be apart: a call is passed
/// on within seconds, and machines without a time service drift by about a second a day.
const HOLDS_FOR: SignedDuration = SignedDuration::from_secs(120);
/// Keys that are heeded: the present one and former ones. More signatures are not looked at.
const KEYS_MAX: usize = 8;

/// Vouches for callers, and knows who may. Clones share the keys.
#[derive(Clone)]
pub struct Vouching {
    /// The first is the present one. All of them sign, so that replicas believe each other also
    /// while the secret is being changed from one to the other.
    keys: Arc<[hmac::Key]>,
    clock: SharedClock,
}

impl fmt::Debug for Vouching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vouching").finish_non_exhaustive()
    }
}

/// Why it is not believed who calls. Its reader is the operator of the replicas.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VoucherProblem {
    #[error(
        "it was passed on in a form that this replica does not know; \
         run the same version of Twinward everywhere"
    )]
    Form,
    #[error(
        "it was passed on by somebody who does not have this replica's secret; \
         give all replicas the same master key"
    )]
    Key,
    #[error(
        "it was passed on by a replica whose clock is {seconds} s away from this one's; \
         at most {} s are allowed: let a time service set both",
        HOLDS_FOR.as_secs()
    )]
    Clock {
        /// How far they are apart.
        seconds: i64,
    },
}

/// What is said of a caller.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    name: String,
    roles: Vec<Role>,
    via: String,
    /// When the caller's proof ends, in seconds since 1970; absent: it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
    /// When it was said.
    at: i64,
}

impl Vouching {
    /// Among all who have one of these secrets; the present one first, then former ones.
    pub fn new(secrets: impl IntoIterator<Item = [u8; 32]>, clock: SharedClock) -> Self {
        let keys = secrets
            .into_iter()
            .take(KEYS_MAX)
            .map(|secret| hmac::Key::new(hmac::HMAC_SHA256, &secret))
            .collect();
        Self { keys, clock }
    }

    /// Says in the headers of a call that is passed on who its caller is. The caller's own proof
    /// is taken out: the replica that gets the call needs it no more than others on the way.
    pub fn vouch(&self, principal: &Principal, headers: &mut HeaderMap) {
        headers.remove(AUTHORIZATION);
        headers.remove(CALLER);
        let claims = Claims {
            name: principal.name.clone(),
            roles: principal.roles.iter().copied().collect(),
            via: principal.via.name().to_owned(),
            until: principal.until.map(Timestamp::as_second),
            at: self.clock.now().as_second(),
        };
        let claims = serde_json::to_vec(&claims).unwrap_or_default();
        let mut text = format!("{FORM}.{}", BASE64.encode(&claims));
        for key in self.keys.iter() {
            text.push('.');
            text.push_str(&BASE64.encode(sign(key, &claims)));
        }
        // Base64 and dots make a header.
        if let Ok(mut value) = HeaderValue::try_from(text) {
            value.set_sensitive(true);
            headers.insert(CALLER, value);
        }
    }

    /// Whom a call is passed on for, as a replica says.
    pub(super) fn principal(&self, value: &HeaderValue) -> Result<Principal, VoucherProblem> {
        let text = value.to_str().map_err(|_| VoucherProblem::Form)?;
        let mut parts = text.split('.');
        if parts.next() != Some(FORM) {
            return Err(VoucherProblem::Form);
        }
        let claims = parts.next().and_then(|text| BASE64.decode(text).ok());
        let claims = claims.ok_or(VoucherProblem::Form)?;
        let signed = parts.take(KEYS_MAX).any(|text| {
            let signature = BASE64.decode(text).unwrap_or_default();
            self.keys
                .iter()
                .any(|key| hmac::verify(key, &input(&claims), &signature).is_ok())
        });
        if !signed {
            return Err(VoucherProblem::Key);
        }
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| VoucherProblem::Form)?;
        let away = self.clock.now().as_second().saturating_sub(claims.at);
        if away.saturating_abs() > HOLDS_FOR.as_secs() {
            return Err(VoucherProblem::Clock {
                seconds: away.saturating_abs(),
            });
        }
        let via = Via::from_name(&claims.via).ok_or(VoucherProblem::Form)?;
        let until = claims.until.map(Timestamp::from_second).transpose();
        let until = until.map_err(|_| VoucherProblem::Form)?;
        Ok(Principal {
            until,
            ..Principal::new(claims.name, claims.roles, via)
        })
    }
}

fn input(claims: &[u8]) -> Vec<u8> {
    [DOMAIN, claims].concat()
}

fn sign(key: &hmac::Key, claims: &[u8]) -> hmac::Tag {
    hmac::sign(key, &input(claims))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;

    fn clock() -> Arc<ManualClock> {
        ManualClock::at(Timestamp::from_second(1_800_000_000).expect("a time"))
    }

    fn alice() -> Principal {
        Principal {
            until: Timestamp::from_second(1_800_000_060).ok(),
            ..Principal::new("alice \"ä\"", [Role::Reader, Role::Operator], Via::Oidc)
        }
    }

    fn voucher(vouching: &Vouching) -> HeaderValue {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
        vouching.vouch(&alice(), &mut headers);
        assert!(!headers.contains_key(AUTHORIZATION), "{headers:?}");
        headers.remove(CALLER).expect("a voucher")
    }

    #[test]
    fn a_replica_with_the_same_secret_knows_the_caller_as_it_is() {
        let (one, other) = (
            Vouching::new([[1; 32]], clock()),
            Vouching::new([[1; 32]], clock()),
        );
        assert_eq!(other.principal(&voucher(&one)), Ok(alice()));
    }

    #[test]
    fn while_the_secret_is_changed_all_replicas_believe_each_other() {
        let old = Vouching::new([[1; 32]], clock());
        let new = Vouching::new([[2; 32], [1; 32]], clock());
        assert_eq!(old.principal(&voucher(&new)), Ok(alice()));
        assert_eq!(new.principal(&voucher(&old)), Ok(alice()));
    }

    #[test]
    fn nobody_else_is_believed() {
        let (ours, others) = (
            Vouching::new([[1; 32]], clock()),
            Vouching::new([[2; 32]], clock()),
        );
        assert_eq!(ours.principal(&voucher(&others)), Err(VoucherProblem::Key));
        let nobodys = Vouching::new([], clock());
        assert_eq!(nobodys.principal(&voucher(&ours)), Err(VoucherProblem::Key));
        assert_eq!(ours.principal(&voucher(&nobodys)), Err(VoucherProblem::Key));

        // The same signature under other words.
        let value = voucher(&ours);
        let text = value.to_str().expect("text");
        let signature = text.rsplit('.').next().expect("a signature");
        let admin = r#"{"name":"alice","roles":["admin"],"via":"oidc","at":1800000000}"#;
        let forged = format!("v1.{}.{signature}", BASE64.encode(admin));
        let forged = HeaderValue::try_from(forged).expect("a header");
        assert_eq!(ours.principal(&forged), Err(VoucherProblem::Key));
        for text in ["", "v1", "v1.", "v1.!!.!!", "v2.e30.e30", "Bearer x"] {
            let told = ours.principal(&HeaderValue::from_static(text));
            assert!(told.is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_said_is_not_believed_for_long() {
        let clock = clock();
        let (ours, late) = (Vouching::new([[1; 32]], clock.clone()), self::clock());
        let said = voucher(&ours);
        clock.advance(Duration::from_mins(2));
        assert_eq!(ours.principal(&said), Ok(alice()));
        clock.advance(Duration::from_secs(1));
        let problem = ours.principal(&said).expect_err("too old");
        assert_eq!(problem, VoucherProblem::Clock { seconds: 121 });
        // Nor what will be said.
        let late = Vouching::new([[1; 32]], late);
        assert!(late.principal(&voucher(&ours)).is_err());
    }
}
