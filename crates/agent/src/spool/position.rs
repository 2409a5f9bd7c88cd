//! The two small files of a lane: `epoch` (who counts) and `position` (what is no longer needed).
//!
//! Both are replaced as a whole: written beside, synced, renamed, and the directory synced. A crash
//! leaves the old or the new one, and at most a `.new` file that the next replacement overwrites.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Sequence;
use crate::files::{self, Readers};

const EPOCH_FILE: &str = "epoch";
const POSITION_FILE: &str = "position";

/// What a lane no longer needs and how much it lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Everything at or below is acknowledged or dropped.
    pub(super) floor: Sequence,
    /// Events that were dropped since the epoch began. Never goes down.
    pub(super) dropped: u64,
    /// Holes made by damage are counted in `dropped` up to here.
    pub(super) holes_counted_through: Sequence,
}

/// The form on disk. Fields are only added.
#[derive(Serialize, Deserialize)]
struct PositionFile {
    floor: u64,
    dropped: u64,
    #[serde(default)]
    holes_counted_through: u64,
}

/// Reads the position; a missing file is the beginning, a damaged one is an error of kind
/// `InvalidData`.
pub(super) fn load_position(dir: &Path) -> io::Result<Position> {
    let Some(text) = files::read_if_present(&dir.join(POSITION_FILE))? else {
        return Ok(Position::default());
    };
    let file: PositionFile = serde_json::from_slice(&text)?;
    Ok(Position {
        floor: Sequence(file.floor),
        dropped: file.dropped,
        holes_counted_through: Sequence(file.holes_counted_through),
    })
}

/// Replaces the position.
pub(super) fn store_position(dir: &Path, position: Position) -> io::Result<()> {
    let file = PositionFile {
        floor: position.floor.0,
        dropped: position.dropped,
        holes_counted_through: position.holes_counted_through.0,
    };
    files::replace(
        &dir.join(POSITION_FILE),
        &serde_json::to_vec(&file)?,
        Readers::Everyone,
    )
}

/// Reads the epoch; `None` when the lane has none yet.
pub(super) fn load_epoch(dir: &Path) -> io::Result<Option<Uuid>> {
    let Some(text) = files::read_if_present(&dir.join(EPOCH_FILE))? else {
        return Ok(None);
    };
    let epoch = Uuid::try_parse_ascii(text.trim_ascii())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some(epoch))
}

/// Writes the epoch of a new lane.
pub(super) fn store_epoch(dir: &Path, epoch: Uuid) -> io::Result<()> {
    files::replace(
        &dir.join(EPOCH_FILE),
        epoch.to_string().as_bytes(),
        Readers::Everyone,
    )
}
