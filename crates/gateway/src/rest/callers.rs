//! Lets callers in: finds out who makes a call and whether it may, before anything of its body is
//! looked at, and says who pays for a refusal. Whoever has proven who it is pays for itself; only what
//! fails to prove anything counts against its address, and never shuts out what proves itself from
//! there.

use std::net::IpAddr;
use std::time::Instant;

use http::StatusCode;
use http::request::Parts;
use service_kit::secret::Secret;
use service_kit::server::web::Visitor;
use service_kit::suspects::Crowded;

use super::Api;
use crate::access::{self, Bearer, Caller, Shown};
use crate::error::ApiError;
use crate::hub::{Service, Session};
use crate::rates::too_many;
use crate::route::Route;

/// Somebody who may make a call.
pub(super) struct Admitted {
    pub(super) route: Route,
    pub(super) session: Session,
    /// What it has shown, if twin-store judged it.
    token: Option<Secret>,
}

impl Admitted {
    /// A service has refused a call. One that no longer believes the caller is asked again by the next.
    pub(super) fn note(&self, api: &Api, error: &ApiError) {
        if let Some(token) = &self.token
            && proves_nothing(error)
        {
            api.bearers.forget(token.expose());
        }
    }
}

/// Whether a refusal says that the caller is nobody, and not that it may not do this.
fn proves_nothing(error: &ApiError) -> bool {
    error.status() == StatusCode::UNAUTHORIZED && error.number() != ApiError::FORBIDDEN
}

/// Lets the caller of a request in, or says why not.
pub(super) async fn admit(
    api: &Api,
    parts: &Parts,
    route: Result<Route, ApiError>,
) -> Result<Admitted, ApiError> {
    let visitor = parts.extensions.get::<Visitor>();
    let door = Door {
        api,
        address: visitor.map(|visitor| visitor.address().ip()),
        second: api.clock.monotonic(),
    };
    let policies = api.policies.current();
    let shown = access::shown(&policies, &parts.headers, parts.uri.path(), api.clock.now());
    let admitted = match shown {
        // What is no call is told as that, whoever asks.
        Err(error) => return Err(door.charge(route.err().unwrap_or(error))),
        Ok(Shown::Policy(policy)) => {
            let caller = Caller::Policy(policy.name().to_owned());
            let_in(visitor);
            door.counted(&caller, &route)?;
            let route = route?;
            access::allow(policy, &route)?;
            Admitted {
                route,
                session: api.hub.of(caller)?,
                token: None,
            }
        }
        Ok(Shown::Bearer(token)) => {
            let caller = Caller::Bearer(token.clone());
            let session = api.hub.of(caller.clone());
            let session = session.map_err(|error| door.charge(error))?;
            let bearer = match &route {
                Ok(_) => door.judged(&token, &session).await,
                // Nobody is asked about a token for what is no call.
                Err(error) => door
                    .remembered(&token)
                    .ok_or_else(|| door.charge(error.clone())),
            };
            let bearer = match bearer {
                Err(error) if error.number() == ApiError::FORBIDDEN => {
                    // It is somebody, who may do nothing here.
                    door.counted(&caller, &route)?;
                    return Err(error);
                }
                bearer => bearer?,
            };
            let_in(visitor);
            door.counted(&caller, &route)?;
            let route = route?;
            if route.is_of_policy() {
                door.known_to_policy(&token, &session).await?;
            }
            Admitted {
                route,
                session: session.reading_keys(bearer.reads_keys),
                token: Some(token),
            }
        }
    };
    Ok(admitted)
}

/// The connection no longer makes room for others.
fn let_in(visitor: Option<&Visitor>) {
    if let Some(visitor) = visitor {
        visitor.let_in();
    }
}

/// Where and when a caller stands.
struct Door<'a> {
    api: &'a Api,
    address: Option<IpAddr>,
    second: Instant,
}

impl Door<'_> {
    /// Somebody has proven nothing, and is to be told `error`.
    fn charge(&self, error: ApiError) -> ApiError {
        self.api.meter.unproven(error, self.address, self.second)
    }

    /// Somebody has proven who it is, and calls once more.
    fn counted(&self, caller: &Caller, route: &Result<Route, ApiError>) -> Result<(), ApiError> {
        let counted = self.api.meter.calls(caller, self.second);
        counted.map_err(|error| match route {
            Ok(Route::InvokeMethod(_)) => error.of_method(),
            Ok(_) | Err(_) => error,
        })
    }

    fn remembered(&self, token: &Secret) -> Option<Bearer> {
        let (api, token) = (self.api, token.expose());
        api.bearers.known(Service::TwinStore, token, self.second)
    }

    /// What twin-store says of a token. Tokens can be made up, and each costs it a look: those of an
    /// address that has failed too often are looked at one after another, so that a good one among them
    /// is let in.
    async fn judged(&self, token: &Secret, session: &Session) -> Result<Bearer, ApiError> {
        if let Some(bearer) = self.remembered(token) {
            return Ok(bearer);
        }
        let times = (self.api.clock.now(), self.second);
        let bearers = &self.api.bearers;
        let asking = bearers.ask(Service::TwinStore, token.expose(), session, times);
        let meter = &self.api.meter;
        let overdrawn = |address| meter.overdrawn(address, self.second);
        let judged = match self.address.and_then(overdrawn) {
            None => asking.await,
            Some(wait) => match self.api.suspects.look(self.address, asking).await {
                Ok(judged) => judged,
                Err(Crowded) => return Err(too_many(wait)),
            },
        };
        judged.map_err(|error| {
            if proves_nothing(&error) {
                self.charge(error)
            } else {
                error
            }
        })
    }

    /// Whether the policy service knows who a caller is whom twin-store knows. One without
    /// authorisation would take everybody for an administrator; and that it knows nobody by tokens is
    /// no fault of the caller's.
    async fn known_to_policy(&self, token: &Secret, session: &Session) -> Result<(), ApiError> {
        let (bearers, token) = (&self.api.bearers, token.expose());
        if bearers.known(Service::Policy, token, self.second).is_some() {
            return Ok(());
        }
        let times = (self.api.clock.now(), self.second);
        let asked = bearers.ask(Service::Policy, token, session, times);
        asked.await.map(drop)
    }
}
