//! One lane of the spool: an append-only log of segments, a floor below which nothing is needed,
//! and a reader that never shows what is not yet durable. Knows nothing of other lanes or bounds.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::position::{self, Position};
use super::record::{self, record_bytes};
use super::segment::{Item, Reader};
use super::{Error, ReadLimits, Sequence, SpooledEvent};
use crate::files;

mod give_up;
mod open;

pub(super) use self::open::inspect;

/// One file of the log.
#[derive(Debug, Clone, Copy)]
struct Segment {
    first: Sequence,
    /// Bytes of whole records in the file.
    bytes: u64,
}

/// A place in the log: the next record to look at lies here or later.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    segment: Sequence,
    offset: u64,
    /// Everything at or below lies before this place.
    after: Sequence,
}

/// One lane.
#[derive(Debug)]
pub(super) struct LaneLog {
    dir: PathBuf,
    epoch: Uuid,
    segment_bytes_max: u64,
    /// Oldest first; the last one is written to. Never empty.
    segments: VecDeque<Segment>,
    active: File,
    /// Encoded records that are not in a file yet.
    pending: Vec<u8>,
    /// Sequence of the last record in a file, and of the last one that is durable there.
    written: Sequence,
    durable: Sequence,
    next: Sequence,
    /// Where the first live record lies; always in the first segment.
    head: Cursor,
    /// Where the last read ended.
    read: Cursor,
    live_bytes: u64,
    live_count: u64,
    position: Position,
    position_dirty: bool,
    /// Segments with nothing live, to be removed once the position that says so is durable.
    obsolete: Vec<Sequence>,
}

impl LaneLog {
    pub(super) fn epoch(&self) -> Uuid {
        self.epoch
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(super) fn live_count(&self) -> u64 {
        self.live_count
    }

    pub(super) fn dropped(&self) -> u64 {
        self.position.dropped
    }

    pub(super) fn floor(&self) -> Sequence {
        self.position.floor
    }

    /// The last sequence that a reader may see.
    pub(super) fn durable_through(&self) -> Sequence {
        self.durable
    }

    /// Takes an event; it is durable after the next [`Self::sync`].
    pub(super) fn append(&mut self, payload: &[u8]) -> Result<Sequence, Error> {
        let sequence = self.next;
        record::encode(sequence, payload, &mut self.pending).ok_or(Error::EventTooLarge {
            bytes: payload.len(),
        })?;
        self.next = sequence.next();
        self.live_bytes += record_bytes(payload.len());
        self.live_count += 1;
        Ok(sequence)
    }

    /// Makes everything appended so far durable, then the position, then removes what it frees. The
    /// last two do not depend on the first: on a full disk they are what makes room.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let kept = self.keep();
        self.forget()?;
        kept
    }

    fn keep(&mut self) -> io::Result<()> {
        self.write_pending()?;
        if self.durable != self.written {
            self.active.sync_data()?;
            self.durable = self.written;
        }
        Ok(())
    }

    fn forget(&mut self) -> io::Result<()> {
        if self.position_dirty {
            // What damage took is counted at open; later holes are none of this run's making.
            self.position.holes_counted_through = self.durable.max(self.position.floor);
            match position::store_position(&self.dir, self.position) {
                // The position itself may find no room. A segment without its position costs, if the
                // agent is killed just now, a repetition or the count of its drops.
                Err(error) if is_out_of_room(&error) && !self.obsolete.is_empty() => {
                    self.remove_obsolete()?;
                    position::store_position(&self.dir, self.position)?;
                }
                stored => stored?,
            }
            self.position_dirty = false;
        }
        self.remove_obsolete()
    }

    fn remove_obsolete(&mut self) -> io::Result<()> {
        while let Some(first) = self.obsolete.last() {
            match fs::remove_file(segment_path(&self.dir, *first)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => self.obsolete.pop(),
            };
        }
        Ok(())
    }

    /// Reads durable events after `after` and at or below `through`, in order, within limits.
    pub(super) fn read(
        &mut self,
        after: Sequence,
        through: Sequence,
        limits: ReadLimits,
    ) -> io::Result<Vec<SpooledEvent>> {
        let through = through.min(self.durable);
        if after != self.read.after || self.read.segment < self.head.segment {
            self.read = self.head;
        }
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut cursor = self.read;
        'segments: while let Some(segment) = self.segment_from(cursor.segment) {
            if segment.first != cursor.segment {
                cursor = Cursor {
                    segment: segment.first,
                    offset: 0,
                    after: cursor.after,
                };
            }
            let path = segment_path(&self.dir, segment.first);
            let mut reader = Reader::open(&path, cursor.offset, segment.bytes)?;
            loop {
                match reader.next()? {
                    Item::Record {
                        sequence,
                        payload,
                        next_offset,
                    } => {
                        if sequence > through {
                            break 'segments;
                        }
                        if sequence > after && sequence > self.position.floor {
                            let full = bytes + payload.len() > limits.bytes;
                            if events.len() >= limits.events || (full && !events.is_empty()) {
                                break 'segments;
                            }
                            bytes += payload.len();
                            events.push(SpooledEvent { sequence, payload });
                        }
                        cursor.offset = next_offset;
                        cursor.after = sequence;
                    }
                    Item::Damaged { next_offset } => cursor.offset = next_offset,
                    Item::End => break,
                }
            }
            cursor.segment = segment.first.next();
            if self.segment_from(cursor.segment).is_none() {
                // Stay in the last segment: more will be appended to it.
                cursor.segment = segment.first;
                break;
            }
            cursor.offset = 0;
        }
        cursor.after = cursor.after.max(after);
        self.read = cursor;
        Ok(events)
    }

    /// Forgets everything at or below `through`, which the service has made durable.
    pub(super) fn acknowledge(&mut self, through: Sequence) -> io::Result<()> {
        // More than we ever made durable was never sent; a service that says so is not believed.
        let through = through.min(self.durable);
        if through <= self.position.floor {
            return Ok(());
        }
        self.advance_head(|sequence| sequence <= through)?;
        self.position.floor = self.position.floor.max(through);
        self.position_dirty = true;
        Ok(())
    }

    /// Moves the head over live records in files as long as they are wanted, and over everything
    /// dead. Answers the last one passed.
    fn advance_head(
        &mut self,
        mut wanted: impl FnMut(Sequence) -> bool,
    ) -> io::Result<Option<Sequence>> {
        let mut passed = None;
        while let Some(segment) = self.segments.front().copied() {
            let path = segment_path(&self.dir, segment.first);
            let mut reader = Reader::open(&path, self.head.offset, segment.bytes)?;
            loop {
                let offset = reader.offset();
                match reader.next()? {
                    Item::Record {
                        sequence,
                        next_offset,
                        ..
                    } => {
                        if sequence > self.position.floor {
                            if !wanted(sequence) {
                                return Ok(passed);
                            }
                            self.live_bytes = self.live_bytes.saturating_sub(next_offset - offset);
                            self.live_count = self.live_count.saturating_sub(1);
                            passed = Some(sequence);
                        }
                        self.head.offset = next_offset;
                        self.head.after = sequence;
                    }
                    Item::Damaged { next_offset } => self.head.offset = next_offset,
                    Item::End => break,
                }
            }
            let Some(following) = self.segments.get(1) else {
                return Ok(passed);
            };
            self.head = Cursor {
                segment: following.first,
                offset: 0,
                after: self.head.after,
            };
            self.retire_segments_before_head();
        }
        Ok(passed)
    }

    fn retire_segments_before_head(&mut self) {
        while let Some(segment) = self.segments.front() {
            if segment.first >= self.head.segment || self.segments.len() == 1 {
                break;
            }
            self.obsolete.push(segment.first);
            self.position_dirty = true;
            self.segments.pop_front();
        }
    }

    /// Puts pending records into files, without a sync of the last one. After an error the same
    /// bytes are written again at the same place.
    fn write_pending(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let Some(tail) = self.segments.back().copied() else {
            return Ok(());
        };
        if tail.bytes >= self.segment_bytes_max {
            self.active.sync_data()?;
            self.durable = self.written;
            let first = self.written.next();
            self.active = create_segment(&self.dir, first)?;
            self.segments.push_back(Segment { first, bytes: 0 });
        }
        if let Some(tail) = self.segments.back_mut() {
            self.active.write_all_at(&self.pending, tail.bytes)?;
            tail.bytes += u64::try_from(self.pending.len()).unwrap_or(u64::MAX);
        }
        self.pending.clear();
        self.written = Sequence(self.next.0 - 1);
        Ok(())
    }

    fn segment_from(&self, first: Sequence) -> Option<Segment> {
        self.segments
            .iter()
            .find(|segment| segment.first >= first)
            .copied()
    }
}

fn is_out_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn segment_path(dir: &Path, first: Sequence) -> PathBuf {
    // Twenty digits hold every u64, so names sort like the sequences.
    dir.join(format!("{:020}.seg", first.0))
}

fn create_segment(dir: &Path, first: Sequence) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(segment_path(dir, first))?;
    file.sync_all()?;
    files::sync_dir(dir)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
