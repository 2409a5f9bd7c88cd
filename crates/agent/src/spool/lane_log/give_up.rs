//! What a lane gives up, over the bound or after its time, and counts. It never touches what a caller
//! did not ask it to drop.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;

use super::super::Sequence;
use super::super::record::{self, record_bytes};
use super::{LaneLog, segment_path};

impl LaneLog {
    /// Drops the oldest live event and counts it. Says whether there was one.
    pub(in super::super) fn drop_oldest(&mut self) -> io::Result<bool> {
        if self.live_count == 0 {
            return Ok(false);
        }
        let mut passed = self.advance_head(only_the_first())?;
        if passed.is_none() {
            // Everything live is still in memory.
            if self.write_pending().is_err() && !self.pending.is_empty() {
                self.drop_pending();
                return Ok(true);
            }
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

    /// Drops, and counts, the oldest part of what no file takes: memory has the same bound as the
    /// disk. A part and not one, because the rest is moved.
    fn drop_pending(&mut self) {
        let enough = self.pending.len() / 16;
        let mut offset = 0;
        while offset <= enough
            && let Some(header) = record::header_at(&self.pending, offset)
        {
            offset += record::HEADER_BYTES + header.payload_bytes;
            self.live_bytes = self
                .live_bytes
                .saturating_sub(record_bytes(header.payload_bytes));
            self.live_count = self.live_count.saturating_sub(1);
            self.position.floor = self.position.floor.max(header.sequence);
            self.position.dropped += 1;
        }
        self.pending.drain(..offset);
        self.position_dirty = true;
    }

    /// Drops, and counts, the events of segments that were last written to before an instant.
    pub(in super::super) fn expire(&mut self, before: Timestamp) -> io::Result<()> {
        let mut through = Sequence(0);
        for (index, segment) in self.segments.iter().enumerate() {
            let written = fs::metadata(segment_path(&self.dir, segment.first))?.mtime();
            if written >= before.as_second() {
                break;
            }
            let following = self.segments.get(index + 1);
            through = following.map_or(self.written, |next| Sequence(next.first.0 - 1));
        }
        while self.position.floor < through && self.drop_oldest()? {}
        Ok(())
    }
}

/// Wants one record and no more.
fn only_the_first() -> impl FnMut(Sequence) -> bool {
    let mut seen = false;
    move |_| !std::mem::replace(&mut seen, true)
}
