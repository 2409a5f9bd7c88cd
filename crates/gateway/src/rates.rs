//! How often each caller may call: IoT Hub's throttle, for each caller and not for the hub as a whole,
//! so that a program that runs wild stops itself and no other.
//!
//! Pure: the time is an argument. A caller who has proven itself is its access policy or its token,
//! wherever it comes from; whoever has not is its address, and only what it fails to prove counts
//! there. An address that has failed too often costs those that prove themselves nothing: the others
//! are looked at one after another (`Meter::overdrawn`).

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::digest;
use serde::{Deserialize, Serialize};
use service_kit::accounts::{make_room, network_of};
use service_kit::config::{Problems, Validate};
use service_kit::metrics::{Counter, EncodeLabelSet, Family};

use crate::access::Caller;
use crate::error::ApiError;

/// So much of what it may do a caller may do at once.
const BURST: Duration = Duration::from_secs(5);
/// The same for what is not proven.
const UNPROVEN_BURST: Duration = Duration::from_mins(1);
/// How often it is logged that a caller is throttled.
const TOLD_EVERY: Duration = Duration::from_mins(1);
/// Callers that are remembered. Over it those that may do as much as they like again are forgotten,
/// and if there is none, those that have done the least: an attacker with that many addresses must not
/// fill our memory.
const CALLERS_MAX: usize = 16_384;

/// How often may be called. 0 lifts a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rates {
    /// Requests per second of one shared access policy, or of one bearer token, over five seconds;
    /// over it 429 with `Retry-After`. Default 1000: more than one small machine answers, and ten
    /// times what IoT Hub grants a unit of S1.
    pub requests_per_second: u32,
    /// Requests per minute of one address that prove nothing: without good credentials. Over it they get
    /// 429 instead of 401, and bearer tokens that are not known yet wait for their turn to be looked
    /// at; good ones are let in all the same. Default 600.
    pub unproven_per_minute: u32,
    /// `WebSockets` per minute that one address may begin and that are not let in by ingestion; over it
    /// 429 with `Retry-After`. Default 12000, as for the MQTT listener (`limits.address_connects_per_minute` of ingestion): a large site may
    /// come back at the same time.
    pub websockets_per_minute: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            requests_per_second: 1000,
            unproven_per_minute: 600,
            websockets_per_minute: 12_000,
        }
    }
}

impl Validate for Rates {
    /// Every number makes sense.
    fn validate(&self, _problems: &mut Problems) {}
}

/// Who is throttled, of four kinds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ThrottledLabels {
    /// `policy`, `token`, `address` or `websocket`.
    pub caller: &'static str,
}

/// Requests that were refused because there were too many, by kind of caller.
pub(crate) type Throttled = Family<ThrottledLabels, Counter>;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Policy(String),
    /// The token's hash: tokens are not kept.
    Token([u8; digest::SHA256_OUTPUT_LEN]),
    Address(IpAddr),
    /// An address again, as the beginning of `WebSockets`.
    WebSockets(IpAddr),
}

impl Who {
    fn kind(&self) -> &'static str {
        match self {
            Self::Policy(_) => "policy",
            Self::Token(_) => "token",
            Self::Address(_) => "address",
            Self::WebSockets(_) => "websocket",
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(name) => write!(f, "access policy {name}"),
            Self::Token(hash) => {
                write!(f, "bearer token with hash {:02x}{:02x}…", hash[0], hash[1])
            }
            Self::Address(address) => write!(f, "address {address}"),
            Self::WebSockets(address) => write!(f, "address {address}, by WebSocket"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Account {
    /// When it will be even: every request moves it on by a share.
    even_at: Instant,
    told_at: Option<Instant>,
}

/// Counts everybody's requests.
#[derive(Debug)]
pub(crate) struct Meter {
    rates: Rates,
    accounts: Mutex<HashMap<Who, Account>>,
    throttled: Throttled,
}

impl Meter {
    /// Nobody has called yet.
    pub(crate) fn new(rates: Rates, throttled: Throttled) -> Self {
        Self {
            rates,
            accounts: Mutex::default(),
            throttled,
        }
    }

    /// Somebody calls who has proven who it is.
    pub(crate) fn calls(&self, caller: &Caller, now: Instant) -> Result<(), ApiError> {
        let who = match caller {
            Caller::Policy(name) => Who::Policy(name.clone()),
            Caller::Bearer(token) => {
                let mut hash = [0; digest::SHA256_OUTPUT_LEN];
                hash.copy_from_slice(
                    digest::digest(&digest::SHA256, token.expose().as_bytes()).as_ref(),
                );
                Who::Token(hash)
            }
        };
        let share = share(Duration::from_secs(1), self.rates.requests_per_second);
        self.charge(&who, share, BURST, now)
    }

    /// Somebody has proven nothing, and is to be told `error`.
    pub(crate) fn unproven(
        &self,
        error: ApiError,
        address: Option<IpAddr>,
        now: Instant,
    ) -> ApiError {
        let Some(address) = address else {
            return error;
        };
        let who = Who::Address(network_of(address));
        self.charge(&who, self.unproven_share(), UNPROVEN_BURST, now)
            .err()
            .unwrap_or(error)
    }

    /// A device wants a WebSocket. Who that is, ingestion finds out.
    pub(crate) fn begins(&self, address: Option<IpAddr>, now: Instant) -> Result<(), ApiError> {
        let Some(address) = address else {
            return Ok(());
        };
        let minute = Duration::from_mins(1);
        let share = share(minute, self.rates.websockets_per_minute);
        self.charge(&Who::WebSockets(network_of(address)), share, minute, now)
    }

    /// It was let in: it counts no more.
    pub(crate) fn came_in(&self, address: IpAddr) {
        let minute = Duration::from_mins(1);
        let Some(share) = share(minute, self.rates.websockets_per_minute) else {
            return;
        };
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let who = Who::WebSockets(network_of(address));
        if let Some(account) = accounts.get_mut(&who)
            && let Some(earlier) = account.even_at.checked_sub(share)
        {
            account.even_at = earlier;
        }
    }

    fn unproven_share(&self) -> Option<Duration> {
        share(Duration::from_mins(1), self.rates.unproven_per_minute)
    }

    /// How long an address would have to wait until what it fails to prove is answered 401 again; none
    /// if it need not.
    pub(crate) fn overdrawn(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let share = self.unproven_share()?;
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.get(&Who::Address(network_of(address)))?;
        let ahead = account.even_at.saturating_duration_since(now) + share;
        ahead
            .checked_sub(UNPROVEN_BURST)
            .filter(|wait| !wait.is_zero())
    }

    fn charge(
        &self,
        who: &Who,
        share: Option<Duration>,
        burst: Duration,
        now: Instant,
    ) -> Result<(), ApiError> {
        let Some(share) = share else {
            return Ok(());
        };
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if !accounts.contains_key(who) {
            make_room(&mut accounts, CALLERS_MAX, now, |account| account.even_at);
        }
        let kind = who.kind();
        let account = accounts.entry(who.clone()).or_insert(Account {
            even_at: now,
            told_at: None,
        });
        let even_at = account.even_at.max(now) + share;
        let Some(wait) = even_at
            .saturating_duration_since(now)
            .checked_sub(burst)
            .filter(|wait| !wait.is_zero())
        else {
            account.even_at = even_at;
            return Ok(());
        };
        let told = account.told_at;
        let is_news = told.is_none_or(|at| now.saturating_duration_since(at) >= TOLD_EVERY);
        if is_news {
            account.told_at = Some(now);
        }
        drop(accounts);
        self.throttled
            .get_or_create(&ThrottledLabels { caller: kind })
            .inc();
        if is_news {
            tracing::warn!(caller = %who, "requests are refused (429): there are too many of this caller");
        }
        Err(too_many(wait))
    }
}

/// What one of so many in a period takes of it; none without a limit.
fn share(period: Duration, many: u32) -> Option<Duration> {
    period.checked_div(many)
}

/// The answer to whoever calls too often.
pub(crate) fn too_many(wait: Duration) -> ApiError {
    let message = "too many requests of this caller; see Retry-After";
    ApiError::new(429_001, "ThrottlingException", message).after(wait)
}

#[cfg(test)]
mod tests {
    use service_kit::secret::Secret;

    use super::*;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    fn meter(requests_per_second: u32, unproven_per_minute: u32) -> Meter {
        let rates = Rates {
            requests_per_second,
            unproven_per_minute,
            websockets_per_minute: unproven_per_minute,
        };
        Meter::new(rates, Throttled::default())
    }

    fn policy(name: &str) -> Caller {
        Caller::Policy(name.to_owned())
    }

    fn bearer(token: &str) -> Caller {
        Caller::Bearer(Secret::new(token))
    }

    fn refused(meter: &Meter, kind: &'static str) -> u64 {
        let labels = ThrottledLabels { caller: kind };
        meter.throttled.get_or_create(&labels).get()
    }

    #[test]
    fn a_caller_may_call_so_often_and_others_are_not_concerned() {
        let meter = meter(2, 0);
        let start = Instant::now();
        for _ in 0..10 {
            meter.calls(&policy("a"), start).expect("a burst");
        }
        let error = meter.calls(&policy("a"), start).unwrap_err();
        assert_eq!((error.number(), error.status().as_u16()), (429_001, 429));
        assert_eq!(error.retry_after(), Some(1));
        meter.calls(&policy("b"), start).expect("another");
        meter.calls(&bearer("a"), start).expect("another");
        let later = start + Duration::from_millis(500);
        meter.calls(&policy("a"), later).expect("its share");
        assert!(meter.calls(&policy("a"), later).is_err());
        assert_eq!(
            (refused(&meter, "policy"), refused(&meter, "token")),
            (2, 0)
        );
    }

    #[test]
    fn who_proves_nothing_is_counted_by_address_and_shuts_out_no_good_key() {
        let meter = meter(100, 3);
        let now = Instant::now();
        let no = || ApiError::unauthorized("no");
        for _ in 0..3 {
            assert_eq!(meter.unproven(no(), HERE, now).number(), 401_002);
        }
        assert_eq!(meter.unproven(no(), HERE, now).number(), 429_001);
        assert!(meter.calls(&policy("a"), now).is_ok());
        assert!(meter.calls(&bearer("a"), now).is_ok());
        assert_eq!(refused(&meter, "address"), 1);
        // Whoever is not known yet is looked at in its turn.
        let here = HERE.expect("an address");
        assert_eq!(
            meter.overdrawn(here, now),
            Some(Duration::from_secs(20)),
            "one of three in a minute"
        );
        assert_eq!(meter.overdrawn(IpAddr::from([10, 0, 0, 1]), now), None);
        let later = now + Duration::from_secs(20);
        assert_eq!(meter.overdrawn(here, later), None);
    }

    #[test]
    fn an_address_begins_so_many_websockets_in_a_minute() {
        let meter = meter(1, 3);
        let now = Instant::now();
        let of = |text: &str| Some(text.parse().expect("an address"));
        for end in ["1", "2", "3"] {
            let address = of(&format!("2001:db8::{end}"));
            meter.begins(address, now).expect("its share");
        }
        let error = meter.begins(of("2001:db8::4"), now).expect_err("one more");
        assert_eq!(error.number(), 429_001);
        assert_eq!(refused(&meter, "websocket"), 1);
        meter
            .begins(of("2001:db8:0:1::1"), now)
            .expect("another network");
        // Who is let in does not count.
        meter.came_in("2001:db8::1".parse().expect("an address"));
        meter.begins(of("2001:db8::4"), now).expect("one is free");
        meter.begins(of("2001:db8::4"), now).expect_err("one alone");
        // What is not proven is counted apart.
        let told = meter.unproven(ApiError::unauthorized("no"), of("2001:db8::1"), now);
        assert_eq!(told.number(), 401_002);
        let later = now + Duration::from_secs(20);
        meter.begins(of("2001:db8::4"), later).expect("again");
    }

    #[test]
    fn nothing_is_limited_by_0() {
        let meter = meter(0, 0);
        let now = Instant::now();
        for _ in 0..10_000 {
            assert!(meter.calls(&policy("a"), now).is_ok());
            let error = meter.unproven(ApiError::unauthorized("no"), HERE, now);
            assert_eq!(error.number(), 401_002);
            assert!(meter.begins(HERE, now).is_ok());
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let meter = meter(1, 1);
        let now = Instant::now();
        for index in 0..u32::try_from(2 * CALLERS_MAX).expect("a small number") {
            let address = Some(IpAddr::from(index.to_be_bytes()));
            let _ = meter.unproven(ApiError::unauthorized("no"), address, now);
        }
        assert!(meter.accounts.lock().expect("no panic").len() <= CALLERS_MAX);
    }

    #[test]
    fn a_log_line_is_written_once_in_a_while() {
        let meter = meter(1, 0);
        let start = Instant::now();
        let told = |now| {
            let _ = meter.calls(&policy("a"), now);
            let accounts = meter.accounts.lock().expect("no panic");
            accounts[&Who::Policy("a".to_owned())].told_at
        };
        for _ in 0..5 {
            assert_eq!(told(start), None);
        }
        assert_eq!(told(start), Some(start));
        assert_eq!(told(start + Duration::from_millis(1)), Some(start));
    }
}
