//! Enrolment tokens and their uses, as a commit writes them.

use deadpool_postgres::Transaction;

use super::{execute, query_in, text};
use crate::store::row::sums;
use crate::store::{EnrollmentToken, EnrollmentUse, Error};

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
