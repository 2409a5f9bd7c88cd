//! Enroll: exchanges an enrolment token for a connection string.
//!
//! The token is twin-store's to judge; repeating a call with the same nonce is harmless there. Here
//! the form is checked, and of a peer that fails again and again only what is good is taken.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use iot_hub::connection_string::ConnectionStringError;
use iot_hub::{ConnectionString, KeyError, SymmetricKey};
use service_kit::accounts::network_of;
use service_kit::clock::SharedClock;
use service_kit::error::{Classified, IotHubCode, Kind, Violation};
use service_kit::log_budget::LogBudget;
use service_kit::suspects::{Crowded, Suspects};
use twin::DeviceId;
use wire::InvalidField;
use wire::agent::v1 as agent;
use wire::registry::v1 as registry;

use crate::admissions::Admissions;
use crate::auth::CROWDED_FOR;
use crate::auth::limiter::Limiter;
use crate::metrics::Metrics;
use crate::twins::{Refused, TwinStore};

/// Longest token that is passed on: ours have 43 characters.
const TOKEN_BYTES_MAX: usize = 256;
/// Shortest and longest nonce, as the contract says.
const NONCE_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// Why an agent got no credentials. The texts go to the agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrollError {
    /// The peer failed too often.
    #[error("too many failures from this address; try again in {} s", .wait.as_secs() + 1)]
    TooManyFailures {
        /// How long it must wait.
        wait: Duration,
    },
    /// So many wait to be looked up.
    #[error("too many wait to be let in at this address, or at all; try again later")]
    TooManyWaiting,
    /// A field has no valid form.
    #[error("the request has a malformed field")]
    Malformed(Vec<InvalidField>),
    /// Twin-store refused, in its own words.
    #[error(transparent)]
    Refused(Refused),
    /// Twin-store answered with something that is no module.
    #[error("twin-store answered an unusable module")]
    Answer(#[source] InvalidField),
    /// Twin-store answered with something that is no key.
    #[error("twin-store answered an unusable key")]
    Key(#[source] KeyError),
    /// The configured host and the identity make no connection string.
    #[error("a connection string cannot be made")]
    ConnectionString(#[source] ConnectionStringError),
}

impl Classified for EnrollError {
    fn kind(&self) -> Kind {
        match self {
            Self::TooManyFailures { .. } | Self::TooManyWaiting => Kind::ResourceExhausted,
            Self::Malformed(_) => Kind::InvalidArgument,
            // An answer without a cause of its own: twin-store is not there.
            Self::Refused(error) => error.kind(),
            Self::Answer(_) | Self::Key(_) | Self::ConnectionString(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::TooManyFailures { .. } => "TOO_MANY_FAILURES",
            Self::TooManyWaiting => "TOO_MANY_WAITING",
            Self::Malformed(_) => "INVALID_FIELD",
            Self::Refused(error) => error.reason(),
            Self::Answer(_) | Self::Key(_) | Self::ConnectionString(_) => "INTERNAL",
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::Malformed(fields) => fields
                .iter()
                .map(|field| Violation::new(&field.field, &field.problem))
                .collect(),
            Self::Refused(error) => error.violations(),
            Self::TooManyFailures { .. }
            | Self::TooManyWaiting
            | Self::Answer(_)
            | Self::Key(_)
            | Self::ConnectionString(_) => Vec::new(),
        }
    }

    fn iot_hub(&self) -> IotHubCode {
        match self {
            Self::Refused(error) => error.iot_hub(),
            Self::TooManyFailures { .. }
            | Self::TooManyWaiting
            | Self::Malformed(_)
            | Self::Answer(_)
            | Self::Key(_)
            | Self::ConnectionString(_) => self.kind().iot_hub(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyFailures { wait } => Some(*wait),
            Self::TooManyWaiting => Some(CROWDED_FOR),
            Self::Refused(error) => error.retry_after(),
            Self::Malformed(_) | Self::Answer(_) | Self::Key(_) | Self::ConnectionString(_) => None,
        }
    }
}

/// Enrols agents.
pub(crate) struct Enroller {
    host: String,
    store: TwinStore,
    limiter: Mutex<Limiter<Option<IpAddr>>>,
    suspects: Suspects,
    /// Lines of the log that refusals may have.
    lines: LogBudget,
    clock: SharedClock,
    metrics: Metrics,
}

impl Enroller {
    /// Makes connection strings for the hub's host name.
    pub(crate) fn new(
        host: String,
        failures_per_minute: u32,
        store: TwinStore,
        clock: SharedClock,
        metrics: Metrics,
    ) -> Self {
        let limiter = Mutex::new(Limiter::new(failures_per_minute));
        Self {
            host,
            store,
            limiter,
            suspects: Suspects::default(),
            lines: LogBudget::default(),
            clock,
            metrics,
        }
    }

    /// Answers one call with a connection string.
    pub(crate) async fn enroll(
        &self,
        request: agent::EnrollRequest,
        peer: Option<IpAddr>,
        admissions: &Admissions,
    ) -> Result<String, EnrollError> {
        let peer = peer.map(network_of);
        let (wait, outcome) = self.judge(request, peer, admissions).await;
        let error = match outcome {
            Ok(string) => {
                self.metrics.enrolment("OK");
                return Ok(string);
            }
            Err(error) => error,
        };
        let faulty = matches!(
            error.kind(),
            Kind::Unauthenticated | Kind::PermissionDenied | Kind::InvalidArgument
        );
        let mut told = error;
        if faulty {
            self.limited(|limiter, now| limiter.failed(peer, now));
            if let Some(wait) = wait {
                told = EnrollError::TooManyFailures { wait };
            }
        }
        // Twin-store's reasons are its own; the label must have few values whatever it answers.
        self.metrics
            .enrolment(if faulty { "REFUSED" } else { "FAILED" });
        self.tell(&told, peer);
        Err(told)
    }

    /// What comes of a call, and how long the peer would have to wait if it failed, if it has failed too
    /// often. Many come at once and have failed by the time that it is their turn, so that is asked again.
    async fn judge(
        &self,
        request: agent::EnrollRequest,
        peer: Option<IpAddr>,
        admissions: &Admissions,
    ) -> (Option<Duration>, Result<String, EnrollError>) {
        let wait = || self.limited(|limiter, now| limiter.check(&peer, now)).err();
        let problems = check(&request);
        if !problems.is_empty() {
            // Nobody has to be asked, and nothing large waits for its turn.
            return (wait(), Err(EnrollError::Malformed(problems)));
        }
        let (mut waits, mut place) = (wait(), None);
        if waits.is_none() {
            match admissions.of_call(peer).await {
                Ok(taken) => place = Some(taken),
                Err(Crowded) => return (None, Err(EnrollError::TooManyWaiting)),
            }
            waits = wait();
        }
        // A good token is taken however often others behind the address have failed.
        let outcome = match waits {
            Some(wait) => {
                drop(place.take());
                match self.suspects.look(peer, self.redeem(request)).await {
                    Ok(outcome) => outcome,
                    Err(Crowded) => Err(EnrollError::TooManyFailures { wait }),
                }
            }
            None => self.redeem(request).await,
        };
        drop(place);
        (waits, outcome)
    }

    /// Whoever fails without end is not to fill the log. Twin-store's reasons are its own, so they
    /// share what lines there are.
    fn tell(&self, error: &EnrollError, peer: Option<IpAddr>) {
        let kind = match error {
            EnrollError::TooManyFailures { .. } => "TOO_MANY_FAILURES",
            EnrollError::TooManyWaiting => "TOO_MANY_WAITING",
            EnrollError::Malformed(_) => "INVALID_FIELD",
            EnrollError::Refused(_) => "REFUSED",
            EnrollError::Answer(_) | EnrollError::Key(_) | EnrollError::ConnectionString(_) => {
                "INTERNAL"
            }
        };
        let (peer, reason) = (peer.map(tracing::field::display), error.reason());
        let error = service_kit::error::chain(error);
        if let Some(untold) = self.lines.tells(kind, self.clock.monotonic()) {
            tracing::info!(peer, reason, error, untold, "agent was not enrolled");
        } else {
            tracing::debug!(peer, reason, error, "agent was not enrolled");
        }
    }

    async fn redeem(&self, request: agent::EnrollRequest) -> Result<String, EnrollError> {
        let agent::EnrollRequest {
            token,
            device_id,
            nonce,
        } = request;
        let request = registry::RedeemEnrollmentTokenRequest {
            token,
            device_id,
            nonce,
        };
        let module = self
            .store
            .redeem(request)
            .await
            .map_err(EnrollError::Refused)?;
        self.connection_string(&module)
    }

    fn connection_string(&self, module: &registry::Module) -> Result<String, EnrollError> {
        let identity = wire::names::identity_from_ids(&module.device_id, &module.module_id)
            .map_err(EnrollError::Answer)?;
        let keys = module
            .keys
            .as_ref()
            .ok_or_else(|| EnrollError::Answer(InvalidField::new("keys", "is absent")))?;
        let key = SymmetricKey::parse(&keys.primary).map_err(EnrollError::Key)?;
        let string = ConnectionString::new(&self.host, identity.clone(), key)
            .map_err(EnrollError::ConnectionString)?;
        tracing::info!(%identity, "agent enrolled");
        Ok(string.to_secret_string().to_string())
    }

    fn limited<T>(
        &self,
        act: impl FnOnce(&mut Limiter<Option<IpAddr>>, std::time::Instant) -> T,
    ) -> T {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut limiter, self.clock.monotonic())
    }
}

fn check(request: &agent::EnrollRequest) -> Vec<InvalidField> {
    let mut problems = Vec::new();
    if request.token.is_empty() || request.token.len() > TOKEN_BYTES_MAX {
        let problem = format!("must have 1 to {TOKEN_BYTES_MAX} characters");
        problems.push(InvalidField::new("token", problem));
    }
    if let Err(error) = DeviceId::parse(&request.device_id) {
        problems.push(InvalidField::new("device_id", error));
    }
    if !NONCE_BYTES.contains(&request.nonce.len()) {
        let (min, max) = (NONCE_BYTES.start(), NONCE_BYTES.end());
        let problem = format!(
            "has {} characters; allowed are {min} to {max}",
            request.nonce.len()
        );
        problems.push(InvalidField::new("nonce", problem));
    }
    problems
}
