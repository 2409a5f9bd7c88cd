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
use super::segment::{self, Item, Reader};
use super::{Error, ReadLimits, Sequence, SpooledEvent};
use crate::files;

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
    /// Opens the lane in `dir`, creating it with the given epoch when it is new.
    pub(super) fn open(dir: &Path, fresh: Uuid, segment_bytes_max: u64) -> Result<Self, Error> {
        let at = |source| Error::Open { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(at)?;
        match Self::recover(dir, fresh, segment_bytes_max) {
            Ok(log) => Ok(log),
            // Without its epoch or position a lane cannot say what was sent, so its events cannot
            // be sent without doubling some. They are counted as dropped under a new epoch.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let dropped = abandon(dir).map_err(at)?;
                tracing::error!(dir = %dir.display(), %error, dropped, "spool lane was damaged and begins anew");
                fs::create_dir_all(dir).map_err(at)?;
                let begin = Position { dropped, ..Position::default() };
                position::store_position(dir, begin).map_err(at)?;
                Self::recover(dir, fresh, segment_bytes_max).map_err(at)
            }
            Err(error) => Err(at(error)),
        }
    }

    fn recover(dir: &Path, fresh: Uuid, segment_bytes_max: u64) -> io::Result<Self> {
        let mut position = position::load_position(dir)?;
        let mut firsts = segment_firsts(dir)?;
        let epoch = match position::load_epoch(dir)? {
            Some(epoch) => epoch,
            None if firsts.is_empty() => {
                position::store_epoch(dir, fresh)?;
                fresh
            }
            None => return Err(io::Error::new(io::ErrorKind::InvalidData, "epoch file is missing")),
        };
        if firsts.is_empty() {
            firsts.push(position.floor.next());
            create_segment(dir, position.floor.next())?;
        }

        let mut segments = VecDeque::new();
        let mut last = position.floor;
        let (mut live_bytes, mut live_count, mut holes) = (0, 0, 0);
        let mut head: Option<Cursor> = None;
        for (index, first) in firsts.iter().copied().enumerate() {
            let path = segment_path(dir, first);
            let found = segment::scan(&path, first, position.floor, position.holes_counted_through)?;
            // Records missing at the end of an inner segment show only at the next one's name.
            if index > 0 {
                let expected = last.max(position.holes_counted_through).max(position.floor).next();
                holes += first.0.saturating_sub(expected.0);
            }
            holes += found.holes;
            live_bytes += found.live_bytes;
            live_count += found.live_count;
            last = last.max(found.last.unwrap_or(last)).max(Sequence(first.0 - 1));
            if head.is_none() && found.live_count > 0 {
                let offset = found.first_live_offset;
                head = Some(Cursor { segment: first, offset, after: position.floor });
            }
            segments.push_back(Segment { first, bytes: found.valid_bytes });
        }
        // `segments` has one entry per name, and there is at least one name.
        let tail = segments.back().copied().unwrap_or(Segment { first: Sequence(1), bytes: 0 });
        let active = OpenOptions::new().write(true).open(segment_path(dir, tail.first))?;
        active.set_len(tail.bytes)?;
        active.sync_all()?;

        position.dropped += holes;
        position.holes_counted_through = position.holes_counted_through.max(last);
        let mut log = Self {
            dir: dir.to_owned(),
            epoch,
            segment_bytes_max,
            segments,
            active,
            pending: Vec::new(),
            written: last,
            durable: last,
            next: last.next(),
            head: head.unwrap_or(Cursor {
                segment: tail.first,
                offset: tail.bytes,
                after: position.floor,
            }),
            read: Cursor { segment: Sequence(0), offset: 0, after: Sequence(0) },
            live_bytes,
            live_count,
            position,
            position_dirty: holes > 0,
            obsolete: Vec::new(),
        };
        log.read = log.head;
        log.retire_segments_before_head();
        Ok(log)
    }

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
        record::encode(sequence, payload, &mut self.pending)
            .ok_or(Error::EventTooLarge { bytes: payload.len() })?;
        self.next = sequence.next();
        self.live_bytes += record_bytes(payload.len());
        self.live_count += 1;
        Ok(sequence)
    }

    /// Makes everything appended so far durable, then the position, then removes what it frees.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.write_pending()?;
        if self.durable != self.written {
            self.active.sync_data()?;
            self.durable = self.written;
        }
        if self.position_dirty {
            // What damage took is counted at open; later holes are none of this run's making.
            self.position.holes_counted_through = self.durable.max(self.position.floor);
            position::store_position(&self.dir, self.position)?;
            self.position_dirty = false;
        }
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
                cursor = Cursor { segment: segment.first, offset: 0, after: cursor.after };
            }
            let path = segment_path(&self.dir, segment.first);
            let mut reader = Reader::open(&path, cursor.offset, segment.bytes)?;
            loop {
                match reader.next()? {
                    Item::Record { sequence, payload, next_offset } => {
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

    /// Drops the oldest live event and counts it. Says whether there was one.
    pub(super) fn drop_oldest(&mut self) -> io::Result<bool> {
        if self.live_count == 0 {
            return Ok(false);
        }
        let mut passed = self.advance_head(only_the_first())?;
        if passed.is_none() {
            // Everything live is still in memory.
            self.write_pending()?;
            passed = self.advance_head(only_the_first())?;
        }
        self.position_dirty = true;
        let Some(sequence) = passed else {
            // Damaged since it was opened: nothing readable is left of what was counted as live.
            self.position.dropped += self.live_count;
            self.live_count = 0;
            self.live_bytes = 0;
            return Ok(true);
        };
        self.position.floor = self.position.floor.max(sequence);
        self.position.dropped += 1;
        Ok(true)
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
                    Item::Record { sequence, next_offset, .. } => {
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
            self.head = Cursor { segment: following.first, offset: 0, after: self.head.after };
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
        self.segments.iter().find(|segment| segment.first >= first).copied()
    }
}

/// Wants one record and no more.
fn only_the_first() -> impl FnMut(Sequence) -> bool {
    let mut seen = false;
    move |_| !std::mem::replace(&mut seen, true)
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

/// The first sequences of all segments, ascending.
fn segment_firsts(dir: &Path) -> io::Result<Vec<Sequence>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let first = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        if let Some(first) = first.and_then(|digits| digits.parse().ok()).filter(|first| *first > 0)
        {
            firsts.push(Sequence(first));
        }
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// Removes a lane that cannot be used and says how many events were in it.
fn abandon(dir: &Path) -> io::Result<u64> {
    let mut lost = 0;
    for first in segment_firsts(dir)? {
        let nothing = Sequence(0);
        lost += segment::scan(&segment_path(dir, first), first, nothing, nothing)?.live_count;
    }
    fs::remove_dir_all(dir)?;
    Ok(lost)
}
