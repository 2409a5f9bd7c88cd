//! The form of one record in a segment file.
//!
//! Layout, little endian: `u32` payload length, `u32` CRC-32 over length, sequence and payload,
//! `u64` sequence, payload. The checksum covers the length, so that a damaged length is not
//! followed blindly. Knows bytes only, never files.

use super::Sequence;

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 16;

/// Largest payload. A batch may hold 200 KB, and a batch must be able to hold any event.
pub const EVENT_BYTES_MAX: usize = 128 * 1024;

/// The header of a record, not yet proven by its checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) payload_bytes: usize,
    checksum: u32,
    pub(super) sequence: Sequence,
}

impl Header {
    /// Reads a header; `None` when the length cannot be one that we wrote.
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let length = u32::from_le_bytes(bytes[0..4].try_into().ok()?);
        let payload_bytes = usize::try_from(length).ok()?;
        if payload_bytes > EVENT_BYTES_MAX {
            return None;
        }
        Some(Self {
            payload_bytes,
            checksum: u32::from_le_bytes(bytes[4..8].try_into().ok()?),
            sequence: Sequence(u64::from_le_bytes(bytes[8..16].try_into().ok()?)),
        })
    }

    /// Whether the payload is the one that was written under this header.
    pub(super) fn proves(&self, payload: &[u8]) -> bool {
        self.sequence.0 > 0 && checksum(self.sequence, payload) == Some(self.checksum)
    }
}

/// The header of the record that begins at `offset` of records that are whole.
pub(super) fn header_at(records: &[u8], offset: usize) -> Option<Header> {
    Header::parse(records.get(offset..)?.first_chunk()?)
}

/// Appends one record to `out`. `None` when the payload is over [`EVENT_BYTES_MAX`].
pub(super) fn encode(sequence: Sequence, payload: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if payload.len() > EVENT_BYTES_MAX {
        return None;
    }
    let length = u32::try_from(payload.len()).ok()?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(sequence, payload)?.to_le_bytes());
    out.extend_from_slice(&sequence.0.to_le_bytes());
    out.extend_from_slice(payload);
    Some(())
}

/// The bytes that a payload takes in a segment.
pub(super) fn record_bytes(payload_bytes: usize) -> u64 {
    // A usize always fits in a u64 on the machines we build for; saturation is never reached.
    u64::try_from(payload_bytes + HEADER_BYTES).unwrap_or(u64::MAX)
}

fn checksum(sequence: Sequence, payload: &[u8]) -> Option<u32> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&u32::try_from(payload.len()).ok()?.to_le_bytes());
    hasher.update(&sequence.0.to_le_bytes());
    hasher.update(payload);
    Some(hasher.finalize())
}
