//! Devices that register themselves over HTTPS, as with the Device Provisioning Service:
//! `PUT /{idScope}/registrations/{id}/register`, `GET …/operations/{operation}`,
//! `POST /{idScope}/registrations/{id}`.
//!
//! What a device proves is twin-store's to judge. Errors have the provisioning service's form, which is
//! another than the hub's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use iot_hub::RegistrationId;
use iot_hub::provisioning::{Assigned, assigning, refusal, registration_of};
use jiff::Timestamp;
use serde_json::Value;
use service_kit::accounts::{make_room, network_of};
use service_kit::server::web::Visitor;
use service_kit::suspects::Crowded;
use service_kit::trace;
use wire::InvalidField;
use wire::registry::v1 as registry;
use wire::registry::v1::registration_claim::Proof;
use wire::time::optional;

use crate::error::ApiError;
use crate::headers::{self, JSON};
use crate::metrics::ErrorLabels;
use crate::rest::Api;

/// First segments of the hub's own calls: no id scope is called so.
const OF_THE_HUB: [&str; 6] = [
    "devices",
    "twins",
    "configurations",
    "statistics",
    "jobs",
    "messages",
];
/// Largest body: a registration id, and a payload that is passed over.
const BODY_MAX: usize = 64 * 1024;
/// After how many seconds a device is to ask what became of it; it is done by then.
const RETRY_AFTER: u64 = 1;
/// Failures of one address in a minute. Nobody can guess a key; this keeps a broken or hostile device
/// from spending twin-store's time.
const FAILURES_PER_MINUTE: u32 = 60;
/// What each of them weighs beside its time.
const FAILURE: Duration = Duration::from_mins(1);
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 16 * 1024;

/// What a device asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Register,
    Operation(String),
    State,
}

/// A call of a device that registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    id_scope: String,
    registration: String,
    what: What,
}

impl Call {
    /// Reads a path; none if it is none of these calls.
    pub(crate) fn parse(method: &Method, path: &str) -> Option<Call> {
        let segments = path.trim_matches('/').split('/');
        let segments: Option<Vec<String>> = segments.map(iot_hub::percent::decode).collect();
        let segments = segments?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (what, scope, id) = match (method.as_str(), &segments[..]) {
            ("PUT", [scope, "registrations", id, "register"]) => (What::Register, scope, id),
            ("GET", [scope, "registrations", id, "operations", operation]) => {
                (What::Operation((*operation).to_owned()), scope, id)
            }
            ("POST", [scope, "registrations", id]) => (What::State, scope, id),
            _ => return None,
        };
        (!OF_THE_HUB.contains(scope)).then(|| Call {
            id_scope: (*scope).to_owned(),
            registration: (*id).to_owned(),
            what,
        })
    }
}

/// Who failed how often lately.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl Failures {
    /// How long an address has to wait, if it has failed too often.
    fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = known.get(&network_of(address))?;
        let left = Duration::from_mins(1).checked_sub(now.saturating_duration_since(*since))?;
        (*count >= FAILURES_PER_MINUTE).then_some(left)
    }

    fn note(&self, address: IpAddr, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (address, minute) = (network_of(address), Duration::from_mins(1));
        if !known.contains_key(&address) {
            // An attacker with that many addresses must not fill our memory. Those go that have
            // failed the least.
            let even_at = |(since, count): &(Instant, u32)| {
                let over = *since + minute;
                if over > now {
                    over + FAILURE * *count
                } else {
                    *since
                }
            };
            make_room(&mut known, ADDRESSES_MAX, now, even_at);
        }
        let entry = known.entry(address).or_insert((now, 0));
        if now.saturating_duration_since(entry.0) >= minute {
            *entry = (now, 0);
        }
        entry.1 = entry.1.saturating_add(1);
    }
}

/// What a device is told.
struct Told {
    status: StatusCode,
    body: Value,
    /// Where to ask again, after [`RETRY_AFTER`].
    location: Option<String>,
}

/// Answers a call.
pub(crate) async fn answer(api: &Api, call: Call, request: Request) -> Response {
    let visitor = request.extensions().get::<Visitor>().cloned();
    let address = visitor.as_ref().map(|visitor| visitor.address().ip());
    let (parts, body) = request.into_parts();
    let told = match api.bodies.take(body, BODY_MAX).await {
        Ok(body) => judged(api, &call, &parts, &body.bytes, address).await,
        Err(error) => Err(error),
    };
    match told {
        Ok(told) => {
            if let Some(visitor) = visitor {
                visitor.let_in();
            }
            told.into_response()
        }
        Err(error) => {
            let code = error.number();
            // It was not judged yet, and may be anything.
            let registration: String = call.registration.chars().take(128).collect();
            let label = ErrorLabels { code };
            api.metrics
                .registrations_refused
                .get_or_create(&label)
                .inc();
            let peer = address.map(tracing::field::display);
            let tells = api.log.tells("REGISTRATION_REFUSED", api.clock.monotonic());
            if let Some(untold) = tells {
                tracing::info!(registration, peer, code, %error, untold, "a registration was refused");
            } else {
                tracing::debug!(registration, peer, code, %error, "a registration was refused");
            }
            refuse(&error, api.clock.now())
        }
    }
}

/// Whoever proves itself is served, however often others at its address have failed.
async fn judged(
    api: &Api,
    call: &Call,
    parts: &Parts,
    body: &[u8],
    address: Option<IpAddr>,
) -> Result<Told, ApiError> {
    let now = api.clock.monotonic();
    let telling = tell(api, call, parts, body);
    let Some(wait) = address.and_then(|address| api.failures.wait(address, now)) else {
        let told = telling.await;
        if let (Some(address), Err(error)) = (address, &told)
            && is_its_fault(error)
        {
            api.failures.note(address, now);
        }
        return told;
    };
    match api.suspects.look(address, telling).await {
        Ok(Err(error)) if !is_its_fault(&error) => Err(error),
        Ok(Ok(told)) => Ok(told),
        Ok(Err(_)) | Err(Crowded) => {
            let problem = "too many failures from this address";
            Err(ApiError::new(429_001, "ThrottlingException", problem).after(wait))
        }
    }
}

fn is_its_fault(error: &ApiError) -> bool {
    matches!(error.number() / 1000, 400..=403)
}

async fn tell(api: &Api, call: &Call, parts: &Parts, body: &[u8]) -> Result<Told, ApiError> {
    headers::check_version(&parts.uri)?;
    let registration = RegistrationId::parse(&call.registration)
        .map_err(|error| ApiError::argument(format!("`{}` {error}", call.registration)))?;
    let visitor = parts.extensions.get::<Visitor>();
    let certificates = visitor.map(Visitor::certificates).unwrap_or_default();
    let claim = registry::RegistrationClaim {
        id_scope: call.id_scope.clone(),
        registration_id: registration.to_string(),
        proof: Some(proof(&parts.headers, certificates)?),
    };
    let session = api.hub.own();
    let mut door = session.provisioning();
    let known = match &call.what {
        What::Register => {
            registration_of(body, &registration).map_err(ApiError::argument)?;
            let request = session.request(registry::RegisterDeviceRequest { claim: Some(claim) });
            let made = door.register_device(request).await?.into_inner();
            let operation = &made.operation_id;
            return Ok(Told {
                status: StatusCode::ACCEPTED,
                location: Some(format!(
                    "https://{}/{}/registrations/{registration}/operations/{operation}",
                    api.host, call.id_scope
                )),
                body: assigning(operation),
            });
        }
        What::Operation(operation) => {
            let request = session.request(registry::GetRegistrationRequest {
                claim: Some(claim),
                operation_id: operation.clone(),
            });
            door.get_registration(request).await?.into_inner()
        }
        What::State => {
            let request = session.request(registry::GetRegistrationRequest {
                claim: Some(claim),
                operation_id: String::new(),
            });
            door.get_registration(request).await?.into_inner()
        }
    };
    let now = api.clock.now();
    // A time that cannot be read is no reason to keep a device out.
    let time = |at: Result<Option<Timestamp>, InvalidField>| at.ok().flatten().unwrap_or(now);
    let assigned = Assigned {
        registration_id: known.registration_id,
        device_id: known.device_id,
        hub: api.host.clone(),
        substatus: known.substatus,
        created_at: time(optional("create_time", known.create_time)),
        updated_at: time(optional("update_time", known.update_time)),
        etag: known.etag,
    };
    Ok(Told {
        status: StatusCode::OK,
        body: match call.what {
            What::State => assigned.state(),
            What::Operation(_) | What::Register => assigned.operation(&known.operation_id),
        },
        location: None,
    })
}

/// The token that a device shows.
/// What the device shows: a signature, or else the certificates that its connection began with.
fn proof(headers: &HeaderMap, certificates: &[Vec<u8>]) -> Result<Proof, ApiError> {
    let shown = headers.get(header::AUTHORIZATION);
    if let Some(text) = shown.and_then(|value| value.to_str().ok()) {
        return Ok(Proof::SasToken(text.to_owned()));
    }
    if shown.is_none() && !certificates.is_empty() {
        return Ok(Proof::Chain(registry::CertificateChain {
            certificates: certificates.to_vec(),
        }));
    }
    let problem = "the header Authorization with a shared access signature is needed, or a client \
                   certificate";
    Err(ApiError::new(401_002, "Unauthorized", problem))
}

impl Told {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        if let Some(location) = self.location {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER.into());
            if let Ok(location) = HeaderValue::from_str(&location) {
                headers.insert(header::LOCATION, location);
            }
        }
        response
    }
}

/// A refusal in the provisioning service's form.
fn refuse(error: &ApiError, now: Timestamp) -> Response {
    let tracking_id = trace::correlation_id();
    let body = refusal(error.number(), &tracking_id, &error.to_string(), now);
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert("x-ms-error-code", error.number().into());
    if let Some(seconds) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn parse(method: &Method, path: &str) -> Option<(String, What)> {
        let call = Call::parse(method, path)?;
        assert_eq!(call.id_scope, "0ne00AB");
        Some((call.registration, call.what))
    }

    #[test]
    fn the_three_calls_are_told_from_those_of_the_hub() {
        let register = parse(&Method::PUT, "/0ne00AB/registrations/sn%3A1/register");
        assert_eq!(register, Some(("sn:1".to_owned(), What::Register)));
        let operation = parse(&Method::GET, "/0ne00AB/registrations/a/operations/4.x");
        let wanted = What::Operation("4.x".to_owned());
        assert_eq!(operation, Some(("a".to_owned(), wanted)));
        let state = parse(&Method::POST, "/0ne00AB/registrations/a");
        assert_eq!(state, Some(("a".to_owned(), What::State)));
        for (method, path) in [
            (Method::GET, "/0ne00AB/registrations/a/register"),
            (Method::PUT, "/0ne00AB/registrations/a"),
            (Method::PUT, "/devices/registrations/modules/register"),
            (Method::POST, "/devices/registrations/modules"),
            (Method::PUT, "/devices/a"),
            (Method::PUT, "/0ne00AB/registrations/%zz/register"),
        ] {
            assert_eq!(Call::parse(&method, path), None, "{method} {path}");
        }
    }

    #[test]
    fn who_fails_too_often_waits_and_others_do_not() {
        let failures = Failures::default();
        let (one, other) = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::BROADCAST.into());
        let start = Instant::now();
        for _ in 0..FAILURES_PER_MINUTE {
            assert_eq!(failures.wait(one, start), None);
            failures.note(one, start);
        }
        let later = start + Duration::from_secs(40);
        assert_eq!(failures.wait(one, later), Some(Duration::from_secs(20)));
        assert_eq!(failures.wait(other, later), None);
        let after = start + Duration::from_secs(61);
        assert_eq!(failures.wait(one, after), None);
        for number in 0..u32::try_from(2 * ADDRESSES_MAX).unwrap() {
            failures.note(Ipv4Addr::from(number).into(), start);
        }
        assert!(failures.0.lock().unwrap().len() <= ADDRESSES_MAX);
    }
}
