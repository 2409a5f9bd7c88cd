//! Reading segment files: a cursor over records that tells damage from the end, and the scan that
//! recovers a file after a crash. Never writes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::Sequence;
use super::record::{HEADER_BYTES, Header, record_bytes};

/// What is at the position of a [`Reader`].
#[derive(Debug)]
pub(super) enum Item {
    /// A record whose checksum holds.
    Record {
        sequence: Sequence,
        payload: Vec<u8>,
        next_offset: u64,
    },
    /// Bytes that are no record, but whose length leads to a place where one may begin.
    Damaged { next_offset: u64 },
    /// Nothing more, or nothing that could be followed.
    End,
}

/// A cursor over one segment file.
pub(super) struct Reader {
    file: BufReader<File>,
    offset: u64,
    end: u64,
}

impl Reader {
    /// Starts at `offset`, which must be the beginning of a record, and sees bytes before `end`.
    pub(super) fn open(path: &Path, offset: u64, end: u64) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(64 * 1024, File::open(path)?);
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file, offset, end })
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the item at the cursor and moves behind it.
    pub(super) fn next(&mut self) -> io::Result<Item> {
        if self.offset + record_bytes(0) > self.end {
            return Ok(Item::End);
        }
        let mut bytes = [0_u8; HEADER_BYTES];
        self.file.read_exact(&mut bytes)?;
        let Some(header) = Header::parse(&bytes) else {
            return Ok(Item::End);
        };
        let next_offset = self.offset + record_bytes(header.payload_bytes);
        if next_offset > self.end {
            return Ok(Item::End);
        }
        let mut payload = vec![0_u8; header.payload_bytes];
        self.file.read_exact(&mut payload)?;
        self.offset = next_offset;
        if !header.proves(&payload) {
            return Ok(Item::Damaged { next_offset });
        }
        Ok(Item::Record {
            sequence: header.sequence,
            payload,
            next_offset,
        })
    }
}

/// What a scan found in a segment.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Scan {
    /// End of the last good record; what follows was never made durable, or is damaged.
    pub(super) valid_bytes: u64,
    /// Sequence of the last good record.
    pub(super) last: Option<Sequence>,
    /// Records above the floor, and their bytes.
    pub(super) live_count: u64,
    pub(super) live_bytes: u64,
    /// Offset of the first record above the floor; `valid_bytes` when there is none.
    pub(super) first_live_offset: u64,
    /// Sequences above `count_holes_above` that are missing between the segment's first and last.
    pub(super) holes: u64,
}

/// Reads a whole segment whose first sequence is `first` and says what is in it. Records at or
/// below `floor` are dead; holes at or below `count_holes_above` were counted before.
pub(super) fn scan(
    path: &Path,
    first: Sequence,
    floor: Sequence,
    count_holes_above: Sequence,
) -> io::Result<Scan> {
    let end = std::fs::metadata(path)?.len();
    let mut reader = Reader::open(path, 0, end)?;
    let mut scan = Scan::default();
    let mut expected = first;
    let mut live_seen = false;
    loop {
        let offset = reader.offset();
        match reader.next()? {
            Item::Record {
                sequence,
                next_offset,
                ..
            } => {
                // Sequences in a file only rise. One that does not was not written here: stop, as
                // for any other bytes that make no sense.
                if sequence < expected {
                    break;
                }
                let from = expected.max(Sequence(count_holes_above.0.saturating_add(1)));
                scan.holes += sequence.0.saturating_sub(from.0);
                scan.valid_bytes = next_offset;
                scan.last = Some(sequence);
                if sequence > floor {
                    scan.live_count += 1;
                    scan.live_bytes += next_offset - offset;
                    if !live_seen {
                        scan.first_live_offset = offset;
                        live_seen = true;
                    }
                }
                expected = sequence.next();
            }
            Item::Damaged { .. } => {}
            Item::End => break,
        }
    }
    if !live_seen {
        scan.first_live_offset = scan.valid_bytes;
    }
    Ok(scan)
}
