//! Enrolment: tokens are made for operators and redeemed by agents.

use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use jiff::SignedDuration;
use ring::digest;
use twin::{DeviceId, IdentityKey, ModuleId, Writer};
use wire::InvalidField;
use wire::registry::v1 as proto;
use wire::time::to_wire;

use super::caller::Caller;
use super::identity::{View, module_message, plain_identity};
use super::repeatable::Repeatable;
use super::{Api, device_id};
use crate::apply::enrollment::{self, Enrollment};
use crate::error::Error;
use crate::store::{EnrollmentToken, Selection, TokenHash};

/// Lifetime of an enrolment token when the caller does not say.
const TOKEN_TTL_DEFAULT: Duration = Duration::from_hours(1);
/// Longest lifetime: a token found later in a script must be dead.
const TOKEN_TTL_MAX: Duration = Duration::from_hours(30 * 24);
/// Most devices of one token: one production batch.
const TOKEN_USES_MAX: u32 = 1_000_000;
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// So that a token is recognised for what it is when found in a file.
const TOKEN_PREFIX: &str = "twe_";
/// Shortest nonce: a counter would make one agent take another's for its own.
const NONCE_MIN: usize = 16;
/// How often a redemption is tried when other replicas use the same token at the same moment: each
/// time one of them has got further.
const REDEEM_TRIES: usize = 8;
/// Longest nonce.
const NONCE_MAX: usize = 64;

impl Api {
    pub(super) async fn new_token(
        &self,
        caller: &Caller,
        request: proto::CreateEnrollmentTokenRequest,
    ) -> Result<proto::CreateEnrollmentTokenResponse, Error> {
        let id = &request.request_id;
        let repeatable = Repeatable::read("CreateEnrollmentToken", caller, id, &request)?;
        let device = match request.device_id.as_str() {
            "" => None,
            id => Some(device_id(id)?),
        };
        let ttl = match request.ttl {
            None => TOKEN_TTL_DEFAULT,
            Some(ttl) => Duration::try_from(ttl).map_err(|_| ttl_problem())?,
        };
        if ttl.is_zero() || ttl > TOKEN_TTL_MAX {
            return Err(ttl_problem().into());
        }
        let uses_max = request.max_uses.max(1);
        if uses_max > TOKEN_USES_MAX {
            let problem = format!("is {uses_max}; allowed are 1 to {TOKEN_USES_MAX}");
            return Err(InvalidField::new("max_uses", problem).into());
        }
        let random = self.sealer.random::<TOKEN_BYTES>()?;
        let token = format!(
            "{TOKEN_PREFIX}{}",
            BASE64_URL_SAFE_NO_PAD.encode(random.as_slice())
        );
        let now = self.clock.now();
        let expires_at = now
            .checked_add(SignedDuration::try_from(ttl).unwrap_or(SignedDuration::ZERO))
            .map_err(|_| ttl_problem())?;
        let token_record = EnrollmentToken {
            hash: token_hash(&token),
            device,
            expires_at,
            uses_max,
        };
        if request.validate_only {
            return Ok(proto::CreateEnrollmentTokenResponse {
                token: String::new(),
                expire_time: Some(to_wire(expires_at)),
            });
        }
        let cause = caller.cause(id);
        // Of a token for any device, any partition will do; its uses are fenced by their devices'.
        let selections: Vec<_> = token_record
            .device
            .iter()
            .map(|device| Selection::One(IdentityKey::new_device(device.clone())))
            .collect();
        self.decide_once(repeatable, selections, move |overlay, _| {
            enrollment::add_token(overlay, token_record, &cause);
            Ok(proto::CreateEnrollmentTokenResponse {
                token,
                expire_time: Some(to_wire(expires_at)),
            })
        })
        .await
    }

    pub(super) async fn redeem(
        &self,
        caller: &Caller,
        request: proto::RedeemEnrollmentTokenRequest,
    ) -> Result<proto::Module, Error> {
        let device = DeviceId::parse(&request.device_id)
            .map_err(|error| InvalidField::new("device_id", error))?;
        if !(NONCE_MIN..=NONCE_MAX).contains(&request.nonce.len()) {
            let problem = format!(
                "has {} bytes; allowed are {NONCE_MIN} to {NONCE_MAX}",
                request.nonce.len()
            );
            return Err(InvalidField::new("nonce", problem).into());
        }
        for _ in 1..REDEEM_TRIES {
            match self.redeem_once(caller, &request, &device).await {
                // Another replica used the token at the same moment: look at it again.
                Err(Error::Overtaken) => {}
                done => return done,
            }
        }
        self.redeem_once(caller, &request, &device).await
    }

    async fn redeem_once(
        &self,
        caller: &Caller,
        request: &proto::RedeemEnrollmentTokenRequest,
        device: &DeviceId,
    ) -> Result<proto::Module, Error> {
        let hash = token_hash(&request.token);
        let fresh = |key: &IdentityKey| plain_identity(&self.sealer, key);
        let enrollment = Enrollment {
            token: hash,
            nonce: request.nonce.clone(),
            new_device: fresh(&IdentityKey::new_device(device.clone()))?,
            new_module: fresh(&IdentityKey::new_module(
                device.clone(),
                ModuleId::security(),
            ))?,
            device: device.clone(),
        };
        let selections = [
            Selection::Token(hash, device.clone()),
            Selection::Family(device.clone()),
        ];
        // It is the device that enrols itself; who made the token is in the audit of the token.
        let cause = caller.cause_as(Writer::Device, "");
        let record = self
            .engine
            .decide(selections, move |overlay, now| {
                enrollment::enroll(overlay, enrollment, now, &cause)
            })
            .await?;
        module_message(&self.sealer, &record, View::Full)
    }
}

/// Only the hash of a token is kept.
fn token_hash(token: &str) -> TokenHash {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    let mut hash = TokenHash::default();
    hash.copy_from_slice(digest.as_ref());
    hash
}

fn ttl_problem() -> InvalidField {
    InvalidField::new("ttl", "must be above zero and at most 30 days")
}
