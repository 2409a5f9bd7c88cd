//! Enrolment tokens and their uses in the shared store.

use deadpool_postgres::{Client, Transaction};
use jiff::Timestamp;
use twin::DeviceId;

use super::{engine, execute, query, query_in, text};
use crate::record::Damaged;
use crate::store::quarantine::name_of;
use crate::store::row::sums;
use crate::store::{EnrollmentState, EnrollmentToken, EnrollmentUse, Error, Selection, TokenHash};

/// Writes new tokens, and who used which.
pub(super) async fn write(
    transaction: &Transaction<'_>,
    tokens: &[EnrollmentToken],
    uses: &[EnrollmentUse],
) -> Result<(), Error> {
    for token in tokens {
        let device = token.device.as_ref().map_or("", twin::DeviceId::as_str);
        let (expires_at, uses_max) = (token.expires_at.as_second(), i64::from(token.uses_max));
        execute(
            transaction,
            "keep an enrolment token",
            "INSERT INTO enrollment_tokens (hash, device_id, expires_at, uses_max, checksum)
             VALUES ($1, $2, $3, $4, $5)",
            &[
                &&token.hash[..],
                &device,
                &expires_at,
                &uses_max,
                &i64::from(sums::token(&token.hash, device, expires_at, uses_max)),
            ],
        )
        .await?;
    }
    use_tokens(transaction, uses).await
}

/// Notes who used which token. Devices of several partitions may use one at the same time, at replicas
/// that do not know of each other; so it is locked, and counted once more.
async fn use_tokens(transaction: &Transaction<'_>, uses: &[EnrollmentUse]) -> Result<(), Error> {
    if uses.is_empty() {
        return Ok(());
    }
    let action = "use an enrolment token";
    let hashes: Vec<&[u8]> = uses.iter().map(|use_of| &use_of.hash[..]).collect();
    execute(
        transaction,
        action,
        "SELECT FROM enrollment_tokens WHERE hash = ANY($1) ORDER BY hash FOR UPDATE",
        &[&hashes],
    )
    .await?;
    for use_of in uses {
        let device = use_of.device.as_str();
        execute(
            transaction,
            action,
            "INSERT INTO enrollments (hash, device_id, nonce, checksum) VALUES ($1, $2, $3, $4)
             ON CONFLICT (hash, device_id) DO NOTHING",
            &[
                &&use_of.hash[..],
                &device,
                &text::pack(&use_of.nonce),
                &i64::from(sums::enrollment(&use_of.hash, device, &use_of.nonce)),
            ],
        )
        .await?;
    }
    let overused = query_in(
        transaction,
        action,
        "SELECT FROM enrollment_tokens t WHERE t.hash = ANY($1)
             AND (SELECT count(*) FROM enrollments e WHERE e.hash = t.hash) > t.uses_max",
        &[&hashes],
    )
    .await?;
    if overused.is_empty() {
        return Ok(());
    }
    Err(Error::TokenUsedUp)
}

/// Reads a token as a device finds it.
pub(super) async fn enrollment_token(
    client: &Client,
    hash: TokenHash,
    device: &DeviceId,
) -> Result<Option<EnrollmentState>, Error> {
    let action = "read an enrolment token";
    let rows = query(
        client,
        action,
        "SELECT t.device_id, t.expires_at, t.uses_max, t.checksum,
             (SELECT count(*) FROM enrollments e WHERE e.hash = t.hash), e.nonce, e.checksum
         FROM enrollment_tokens t
         LEFT JOIN enrollments e ON e.hash = t.hash AND e.device_id = $2
         WHERE t.hash = $1",
        &[&&hash[..], &device.as_str()],
    )
    .await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let read = || -> Result<_, tokio_postgres::Error> {
        let (only_device, expires_at): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
        let (uses_max, stored): (i64, Option<i64>) = (row.try_get(2)?, row.try_get(3)?);
        let sum = sums::token(&hash, only_device, expires_at, uses_max);
        let nonce: Option<&str> = row.try_get(5)?;
        let nonce = nonce.map(text::unpack);
        let enrolled = nonce.as_deref().map_or(Ok(()), |nonce| {
            let sum = sums::enrollment(&hash, device.as_str(), nonce);
            sums::check(row.try_get(6).unwrap_or_default(), sum)
        });
        let uses: i64 = row.try_get(4)?;
        let token = sums::check(stored, sum)
            .and(enrolled)
            .and_then(|()| parse_token(hash, only_device, expires_at, uses_max));
        Ok(token.map(|token| EnrollmentState {
            token,
            uses: u32::try_from(uses).unwrap_or(u32::MAX),
            nonce,
        }))
    };
    let state = read().map_err(engine(action))?;
    let state = state.map_err(|problem| Damaged {
        key: name_of(&Selection::Token(hash, device.clone())).0,
        part: "row",
        problem: problem.to_owned(),
    });
    Ok(Some(state?))
}

fn parse_token(
    hash: TokenHash,
    only_device: &str,
    expires_at: i64,
    uses_max: i64,
) -> Result<EnrollmentToken, &'static str> {
    let device = match only_device {
        "" => None,
        id => Some(DeviceId::parse(id).map_err(|_| "its device is no id")?),
    };
    Ok(EnrollmentToken {
        hash,
        device,
        expires_at: Timestamp::from_second(expires_at).map_err(|_| "its end is no time")?,
        uses_max: u32::try_from(uses_max).map_err(|_| "its uses are no number")?,
    })
}
