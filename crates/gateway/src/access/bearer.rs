//! What twin-store says of the bearer tokens that callers show. It is asked before anything else of
//! a request is looked at, so that a made-up token costs no more than the question, and what it
//! answered counts for some seconds. Tokens are not kept, their hashes are.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ring::digest::{self, SHA256_OUTPUT_LEN};
use service_kit::auth::Permission;
use wire::registry::v1::{Caller, GetCallerRequest};
use wire::time::optional;

use crate::error::ApiError;
use crate::hub::Session;

/// How long an answer counts: a token that is taken back opens calls for so long, and those it may
/// not make are refused by twin-store all the same.
const KEPT: Duration = Duration::from_secs(10);

/// Tokens that are remembered. Over it those that are out of date are forgotten, and if none is,
/// all: only good ones come here, so it takes that many callers.
const TOKENS_MAX: usize = 4096;

/// How often the log says that tokens say nothing here.
const TOLD_EVERY: Duration = Duration::from_mins(1);

type Hash = [u8; SHA256_OUTPUT_LEN];

/// Somebody whom twin-store knows by a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bearer {
    /// Whether keys of identities are shown to it.
    pub(crate) reads_keys: bool,
}

/// What was answered of tokens lately.
#[derive(Debug, Default)]
pub(crate) struct Bearers {
    known: Mutex<HashMap<Hash, (Bearer, Instant)>>,
    told_at: Mutex<Option<Instant>>,
}

impl Bearers {
    /// Has twin-store judge the token of a session. `now` is the time on the wall, `second` that of
    /// the process.
    pub(crate) async fn judge(
        &self,
        token: &str,
        session: &Session,
        now: Timestamp,
        second: Instant,
    ) -> Result<Bearer, ApiError> {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        if let Some((bearer, until)) = lock(&self.known).get(&hash).copied()
            && second < until
        {
            return Ok(bearer);
        }
        let mut access = session.access();
        let asked = access.get_caller(session.request(GetCallerRequest {}));
        let caller = asked.await?.into_inner();
        let (bearer, counts_for) = read(&caller, now).inspect_err(|_| self.tell(second))?;
        let mut known = lock(&self.known);
        if known.len() >= TOKENS_MAX {
            known.retain(|_, (_, until)| second < *until);
            if known.len() >= TOKENS_MAX {
                known.clear();
            }
        }
        known.insert(hash, (bearer, second + counts_for));
        Ok(bearer)
    }

    /// An operator has to know why nobody comes in.
    fn tell(&self, second: Instant) {
        let mut told_at = lock(&self.told_at);
        if told_at.is_some_and(|told| second.saturating_duration_since(told) < TOLD_EVERY) {
            return;
        }
        *told_at = Some(second);
        tracing::warn!(
            "bearer tokens are refused: authorisation is off at twin-store, so a token proves \
             nothing; give twin-store an admin token, OIDC or client certificates"
        );
    }
}

/// Who it is, and for how long that counts.
fn read(caller: &Caller, now: Timestamp) -> Result<(Bearer, Duration), ApiError> {
    if !caller.proven {
        return Err(ApiError::unauthorized(
            "bearer tokens are not judged by this hub, because its authorisation is off; want a \
             SharedAccessSignature",
        ));
    }
    // A time that cannot be read is over.
    let ends = optional("expire_time", caller.expire_time).unwrap_or(Some(now));
    let left = ends.map_or(KEPT, |ends| {
        Duration::try_from(ends.duration_since(now)).unwrap_or_default()
    });
    let reads_keys = Permission::RegistryKeysRead.name();
    let reads_keys = caller.permissions.iter().any(|name| name == reads_keys);
    Ok((Bearer { reads_keys }, left.min(KEPT)))
}

/// The guarded values are changed in one step each.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use wire::time::to_wire;

    use super::*;

    #[test]
    fn an_answer_counts_for_as_long_as_its_proof_and_some_seconds_at_most() {
        let now = Timestamp::UNIX_EPOCH;
        let caller = |proven, left: Option<i64>, permissions: &[&str]| Caller {
            proven,
            permissions: permissions.iter().map(ToString::to_string).collect(),
            expire_time: left.map(|left| to_wire(Timestamp::from_second(left).unwrap())),
            ..Caller::default()
        };
        let all = ["registry.read", "registry.keys.read"];
        for (left, permissions, reads_keys, counts_for) in [
            (None, &all[..], true, KEPT),
            (Some(3), &all[..1], false, Duration::from_secs(3)),
            (Some(3600), &[], false, KEPT),
            (Some(-1), &[], false, Duration::ZERO),
        ] {
            let known = read(&caller(true, left, permissions), now).unwrap();
            assert_eq!(known, (Bearer { reads_keys }, counts_for));
        }
        let off = read(&caller(false, None, &all), now).unwrap_err();
        assert_eq!(off.status(), http::StatusCode::UNAUTHORIZED);
    }
}
