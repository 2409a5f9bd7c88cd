//! The checksums of small rows: tokens, answers, operations. A row without one was written before
//! there were any, and is taken as it is.

use super::Sum;

/// Of an answer to a request.
pub(crate) fn request(id: &str, fingerprint: &[u8], answer: &[u8], at: i64) -> u32 {
    let mut sum = Sum::empty();
    sum.text(id);
    sum.bytes(fingerprint);
    sum.bytes(answer);
    sum.number(at.cast_unsigned());
    sum.finish()
}

/// Of an enrolment token; `device` is empty if it lets any in.
pub(crate) fn token(hash: &[u8], device: &str, expires_at: i64, uses_max: i64) -> u32 {
    let mut sum = Sum::empty();
    sum.bytes(hash);
    sum.text(device);
    sum.number(expires_at.cast_unsigned());
    sum.number(uses_max.cast_unsigned());
    sum.finish()
}

/// Of the use of a token.
pub(crate) fn enrollment(hash: &[u8], device: &str, nonce: &str) -> u32 {
    let mut sum = Sum::empty();
    sum.bytes(hash);
    sum.text(device);
    sum.text(nonce);
    sum.finish()
}

/// Of an operation.
pub(crate) fn operation(id: &str, ended: bool, at: i64, body: &str) -> u32 {
    let mut sum = Sum::empty();
    sum.text(id);
    sum.number(u64::from(ended));
    sum.number(at.cast_unsigned());
    sum.text(body);
    sum.finish()
}

/// Of the result of an operation.
pub(crate) fn result(operation: &str, device: &str, module: &str, body: &str) -> u32 {
    let mut sum = Sum::empty();
    for text in [operation, device, module, body] {
        sum.text(text);
    }
    sum.finish()
}

/// Of a row of provisioning.
pub(crate) fn provisioning(kind: &str, id: &str, body: &str) -> u32 {
    let mut sum = Sum::empty();
    for text in [kind, id, body] {
        sum.text(text);
    }
    sum.finish()
}

/// Compares what is stored with what should be.
pub(crate) fn check(stored: Option<i64>, sum: u32) -> Result<(), &'static str> {
    match stored {
        Some(stored) if stored != i64::from(sum) => Err("its checksum does not match"),
        Some(_) | None => Ok(()),
    }
}
