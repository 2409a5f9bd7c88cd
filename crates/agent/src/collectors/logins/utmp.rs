//! One record of `wtmp` and `btmp`: glibc's `struct utmp`, 384 bytes on every Linux we run on.
//!
//! Layout (native byte order): type i16 at 0, pid i32 at 4, line 32 bytes at 8, id 4 at 40, user 32
//! at 44, host 256 at 76, exit status 4 at 332, session i32 at 336, time in seconds i32 at 340 and
//! microseconds i32 at 344, address 16 at 348. Texts end at the first zero byte, if there is one.

use jiff::Timestamp;

/// Bytes of one record.
pub(super) const RECORD_BYTES: usize = 384;

/// Types of records that say something about logins; others (boot, run level, …) do not.
pub(super) const LOGIN_PROCESS: i16 = 6;
pub(super) const USER_PROCESS: i16 = 7;
pub(super) const DEAD_PROCESS: i16 = 8;

/// What we read of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: i16,
    pub(super) pid: i32,
    pub(super) line: String,
    pub(super) user: String,
    pub(super) host: String,
    pub(super) at: Option<Timestamp>,
}

impl Record {
    /// Reads one record.
    pub(super) fn parse(bytes: &[u8; RECORD_BYTES]) -> Self {
        // Seconds are unsigned in newer glibc headers, which moves their end from 2038 to 2106.
        let seconds = u32::from_ne_bytes(four(bytes, 340));
        let micros = i32::from_ne_bytes(four(bytes, 344));
        let at = micros
            .checked_mul(1000)
            .and_then(|nanos| Timestamp::new(i64::from(seconds), nanos).ok());
        Self {
            kind: i16::from_ne_bytes([bytes[0], bytes[1]]),
            pid: i32::from_ne_bytes(four(bytes, 4)),
            line: text(&bytes[8..40]),
            user: text(&bytes[44..76]),
            host: text(&bytes[76..332]),
            at: at.filter(|at| *at > Timestamp::UNIX_EPOCH),
        }
    }
}

fn four(bytes: &[u8; RECORD_BYTES], at: usize) -> [u8; 4] {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Makes a record, for tests.
#[cfg(test)]
pub(super) fn record(kind: i16, pid: i32, line: &str, user: &str, host: &str, at: u32) -> Vec<u8> {
    let mut bytes = vec![0; RECORD_BYTES];
    bytes[0..2].copy_from_slice(&kind.to_ne_bytes());
    bytes[4..8].copy_from_slice(&pid.to_ne_bytes());
    for (start, text) in [(8, line), (44, user), (76, host)] {
        bytes[start..start + text.len()].copy_from_slice(text.as_bytes());
    }
    bytes[340..344].copy_from_slice(&at.to_ne_bytes());
    bytes[344..348].copy_from_slice(&250_000_i32.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_read_field_by_field() {
        let bytes = record(USER_PROCESS, 42, "pts/0", "bob", "192.0.2.7", 1_700_000_000);
        let parsed = Record::parse(bytes.as_slice().try_into().unwrap());
        assert_eq!(
            parsed,
            Record {
                kind: USER_PROCESS,
                pid: 42,
                line: "pts/0".to_owned(),
                user: "bob".to_owned(),
                host: "192.0.2.7".to_owned(),
                at: Some("2023-11-14T22:13:20.25Z".parse().unwrap()),
            }
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), RECORD_BYTES)) {
            let parsed = Record::parse(bytes.as_slice().try_into().unwrap());
            prop_assert!(parsed.user.len() <= 32 * 3);
        }
    }
}
