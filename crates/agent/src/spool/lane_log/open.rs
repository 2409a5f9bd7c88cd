//! Opening a lane: what a crash left is put right here, and only here.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use uuid::Uuid;

use super::super::position::{self, Position};
use super::super::segment;
use super::super::{Error, LaneStatus, Sequence};
use super::{Cursor, LaneLog, Segment, create_segment, segment_path};

impl LaneLog {
    /// Opens the lane in `dir`, creating it with the given epoch when it is new.
    pub(in super::super) fn open(
        dir: &Path,
        fresh: Uuid,
        segment_bytes_max: u64,
    ) -> Result<Self, Error> {
        let at = |source| Error::Open {
            path: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(at)?;
        match Self::recover(dir, fresh, segment_bytes_max) {
            Ok(log) => Ok(log),
            // Without its epoch or position a lane cannot say what was sent, so its events cannot
            // be sent without doubling some. They are counted as dropped under a new epoch.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let dropped = abandon(dir).map_err(at)?;
                tracing::error!(dir = %dir.display(), %error, dropped, "spool lane was damaged and begins anew");
                fs::create_dir_all(dir).map_err(at)?;
                let begin = Position {
                    dropped,
                    ..Position::default()
                };
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
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "epoch file is missing",
                ));
            }
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
            let found =
                segment::scan(&path, first, position.floor, position.holes_counted_through)?;
            // Records missing at the end of an inner segment show only at the next one's name.
            if index > 0 {
                let expected = last
                    .max(position.holes_counted_through)
                    .max(position.floor)
                    .next();
                holes += first.0.saturating_sub(expected.0);
            }
            holes += found.holes;
            live_bytes += found.live_bytes;
            live_count += found.live_count;
            last = last
                .max(found.last.unwrap_or(last))
                .max(Sequence(first.0 - 1));
            if head.is_none() && found.live_count > 0 {
                let offset = found.first_live_offset;
                head = Some(Cursor {
                    segment: first,
                    offset,
                    after: position.floor,
                });
            }
            segments.push_back(Segment {
                first,
                bytes: found.valid_bytes,
            });
        }
        // `segments` has one entry per name, and there is at least one name.
        let tail = segments.back().copied().unwrap_or(Segment {
            first: Sequence(1),
            bytes: 0,
        });
        let active = OpenOptions::new()
            .write(true)
            .open(segment_path(dir, tail.first))?;
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
            read: Cursor {
                segment: Sequence(0),
                offset: 0,
                after: Sequence(0),
            },
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
}

/// What a lane holds, without changing anything. A segment that its owner removes meanwhile held
/// nothing live.
pub(in super::super) fn inspect(dir: &Path) -> io::Result<Option<LaneStatus>> {
    if !dir.exists() {
        return Ok(None);
    }
    let Some(epoch) = position::load_epoch(dir)? else {
        return Ok(None);
    };
    let position = position::load_position(dir)?;
    let mut status = LaneStatus {
        epoch,
        floor: position.floor,
        durable_through: position.floor,
        waiting_count: 0,
        waiting_bytes: 0,
        dropped_total: position.dropped,
    };
    for first in segment_firsts(dir)? {
        match segment::scan(&segment_path(dir, first), first, position.floor, first) {
            Ok(found) => {
                status.waiting_count += found.live_count;
                status.waiting_bytes += found.live_bytes;
                status.durable_through = status.durable_through.max(found.last.unwrap_or_default());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(status))
}

/// The first sequences of all segments, ascending.
fn segment_firsts(dir: &Path) -> io::Result<Vec<Sequence>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let first = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        if let Some(first) = first
            .and_then(|digits| digits.parse().ok())
            .filter(|first| *first > 0)
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
