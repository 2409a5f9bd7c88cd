//! What the services say of the bearer tokens that callers show. twin-store is asked before anything
//! else of a request is looked at, so that a made-up token costs no more than the question; the policy
//! service before a call that goes to it, because one service that knows its callers says nothing of
//! another that does not. What they answered counts for some seconds. Tokens are not kept, their
//! hashes are.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ring::digest::{self, SHA256_OUTPUT_LEN};
use service_kit::auth::Permission;
use wire::registry::v1::{Caller, GetCallerRequest};
use wire::time::optional;

use crate::error::ApiError;
use crate::hub::{Service, Session};

/// How long an answer counts: a token that is taken back opens calls for so long, and those it may
/// not make are refused by twin-store all the same.
const KEPT: Duration = Duration::from_secs(10);

/// Tokens that are remembered. Over it those that are out of date are forgotten, and if none is,
/// all: only good ones come here, so it takes that many callers.
const TOKENS_MAX: usize = 4096;

/// How often the log says that tokens say nothing here.
const TOLD_EVERY: Duration = Duration::from_mins(1);

type Hash = [u8; SHA256_OUTPUT_LEN];

/// Somebody whom a service knows by a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bearer {
    /// Whether keys of identities are shown to it.
    pub(crate) reads_keys: bool,
}

/// What was answered of tokens lately.
#[derive(Debug, Default)]
pub(crate) struct Bearers {
    known: Mutex<HashMap<(Service, Hash), (Bearer, Instant)>>,
    told_at: Mutex<HashMap<Service, Instant>>,
}

impl Bearers {
    /// What a service answered of a token lately.
    pub(crate) fn known(&self, by: Service, token: &str, second: Instant) -> Option<Bearer> {
        let known = lock(&self.known).get(&(by, hash(token))).copied();
        known.and_then(|(bearer, until)| (second < until).then_some(bearer))
    }

    /// Has a service judge the token of a session. `now` is the time on the wall, `second` that of
    /// the process.
    pub(crate) async fn ask(
        &self,
        by: Service,
        token: &str,
        session: &Session,
        (now, second): (Timestamp, Instant),
    ) -> Result<Bearer, ApiError> {
        let mut access = session.access(by);
        let asked = access.get_caller(session.request(GetCallerRequest {}));
        let caller = asked.await?.into_inner();
        let (bearer, counts_for) = read(by, &caller, now).inspect_err(|_| self.tell(by, second))?;
        let mut known = lock(&self.known);
        if known.len() >= TOKENS_MAX {
            known.retain(|_, (_, until)| second < *until);
            if known.len() >= TOKENS_MAX {
                known.clear();
            }
        }
        known.insert((by, hash(token)), (bearer, second + counts_for));
        Ok(bearer)
    }

    /// A service has refused a token that it had called good: it is asked again.
    pub(crate) fn forget(&self, token: &str) {
        let hash = hash(token);
        lock(&self.known).retain(|(_, known), _| *known != hash);
    }

    /// An operator has to know why nobody comes in.
    fn tell(&self, by: Service, second: Instant) {
        let mut told_at = lock(&self.told_at);
        let last = told_at.get(&by).copied();
        if last.is_some_and(|told| second.saturating_duration_since(told) < TOLD_EVERY) {
            return;
        }
        told_at.insert(by, second);
        tracing::warn!(
            service = by.name(),
            "bearer tokens are refused: authorisation is off at this service, so a token proves \
             nothing to it; give it an admin token, OIDC or client certificates"
        );
    }
}

fn hash(token: &str) -> Hash {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}

/// Who it is, and for how long that counts.
fn read(by: Service, caller: &Caller, now: Timestamp) -> Result<(Bearer, Duration), ApiError> {
    if !caller.proven {
        return Err(ApiError::unauthorized(format!(
            "bearer tokens are not judged by this hub, because authorisation is off at {}; want a \
             SharedAccessSignature",
            by.name()
        )));
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
            let known = read(Service::TwinStore, &caller(true, left, permissions), now).unwrap();
            assert_eq!(known, (Bearer { reads_keys }, counts_for));
        }
        let off = read(Service::Policy, &caller(false, None, &all), now).unwrap_err();
        assert_eq!(off.status(), http::StatusCode::UNAUTHORIZED);
        assert!(
            off.to_string().contains("off at the policy service"),
            "{off}"
        );
    }
}
